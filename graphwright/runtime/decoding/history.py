"""The tokens of each row so far, prompt and continuation, whatever the side of the padding."""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class History:
    """Rows of tokens that end at the same place: padding stands in front.

    Shapes: tokens [rows, length] with the pad token before ``starts`` [rows]; room [rows], the number of new tokens
    that each row may have; prompt, the length of the longest prompt.
    Dtypes: int64.

    Example:
        >>> history = History(np.array([[0, 5], [7, 8]]), np.array([1, 0]), np.array([9, 9]), prompt=2)
        >>> longer = history.extended(np.array([1, 1, 0]), np.array([3, 4, 6]))
        >>> longer.real.tolist(), longer.lengths.tolist(), longer.new
        ([[7, 8, 3], [7, 8, 4], [-1, 5, 6]], [3, 3, 2], 1)
    """

    tokens: np.ndarray
    starts: np.ndarray
    room: np.ndarray
    prompt: int

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def new(self) -> int:
        """How many tokens each row has beyond its prompt; all have the same."""
        return int(self.tokens.shape[1]) - self.prompt

    @property
    def lengths(self) -> np.ndarray:
        """How many real tokens each row has [rows]."""
        return np.asarray(self.tokens.shape[1] - self.starts)

    @property
    def real(self) -> np.ndarray:
        """The tokens, -1 in place of padding."""
        places = np.arange(self.tokens.shape[1])
        return np.where(places >= self.starts[:, None], self.tokens, -1)

    @property
    def continuation(self) -> np.ndarray:
        """The tokens behind the prompts [rows, new]."""
        return self.tokens[:, self.prompt :]

    @property
    def is_full(self) -> np.ndarray:
        """Whether each row has as many new tokens as it may have [rows]."""
        return np.asarray(self.new >= self.room)

    def take(self, rows: np.ndarray) -> "History":
        """Return some rows, in the order given."""
        return replace(self, tokens=self.tokens[rows], starts=self.starts[rows], room=self.room[rows])

    def extended(self, parents: np.ndarray, tokens: np.ndarray) -> "History":
        """Return rows ``parents`` with one token more each."""
        taken = self.take(parents)
        return replace(taken, tokens=np.concatenate((taken.tokens, tokens[:, None]), axis=1))


def of_prompts(ids: np.ndarray, mask: np.ndarray, room: np.ndarray, pad: int) -> History:
    """Return the history that prompts [B, S] begin with.

    Example:
        >>> of_prompts(np.array([[5, 0], [7, 8]]), np.array([[1, 0], [1, 1]]), np.array([9, 9]), pad=0).tokens.tolist()
        [[0, 5], [7, 8]]
    """
    # A stable sort moves padding to the front and keeps the order of the rest.
    order = np.argsort(mask != 0, axis=1, kind="stable")
    is_real = np.take_along_axis(mask, order, axis=1) != 0
    tokens = np.where(is_real, np.take_along_axis(ids, order, axis=1), pad)
    return History(tokens.astype(np.int64), (~is_real).sum(axis=1), room, prompt=ids.shape[1])
