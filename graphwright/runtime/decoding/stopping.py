"""When a row ends: an end token, a stop sequence, no room; and when the caller has seen enough."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from graphwright.runtime.decoding.history import History

# Called after each step with the newest token of each row; True, or StopIteration, ends the request.
Callback = Callable[[np.ndarray], bool | None]


@dataclass(frozen=True)
class Stops:
    """End tokens, and sequences of tokens that end a row when it has just produced one, wholly behind its prompt.

    Example:
        >>> history = History(np.array([[5, 6, 7]]), np.array([0]), np.array([9]), prompt=1)
        >>> Stops((1,), ((6, 7, 8),)).ends(history, np.array([0, 0, 0]), np.array([8, 1, 7])).tolist()
        [True, True, False]
    """

    ends_at: tuple[int, ...] = ()
    sequences: tuple[tuple[int, ...], ...] = ()

    @property
    def count(self) -> int:
        """How many continuations of one row may end it at once."""
        return len(set(self.ends_at)) + len(self.sequences)

    def ends(self, history: History, parents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Tell which rows would end: row ``parents`` of the history, continued by ``tokens``, both of any one shape."""
        found = np.isin(tokens, self.ends_at)
        continuation = history.continuation
        for *begin, last in self.sequences:
            if len(begin) <= history.new:
                tails = continuation[:, history.new - len(begin) :]
                matched = (tails == np.array(begin, np.int64)).all(axis=1)
                found |= matched[parents] & (tokens == last)
        return found


def is_cancelled(callback: Callback | None, tokens: np.ndarray) -> bool:
    """Tell the caller the newest tokens; return whether it has seen enough."""
    if callback is None:
        return False
    try:
        return bool(callback(tokens))
    except StopIteration:
        return True
