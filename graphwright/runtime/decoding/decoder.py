"""What the search asks of a model: scores for the next token of each row, and a cache that follows the search.

A decoder is told how many tokens a row the search can use. One that ranks on its own device (``hars.softmax_topk`` with
``mode="logit", stats=True``) sends these alone, [rows, k] in place of [rows, V]; any other sends whole rows. The search
reads whole rows only if somebody needs them: a user's processor, a processor that may raise a score, or sampling
without ``top_k``.
"""

from typing import NamedTuple, Protocol

import numpy as np

from graphwright.errors import RequestError
from graphwright.plugins import hars


class Best(NamedTuple):
    """The largest logits of each row, in the order of ``hars.softmax_topk``, and what makes them log-probabilities.

    Shapes: values and tokens [rows, k], maximum and log_sum [rows].
    Dtypes: tokens int64, the others float32. A token's log-probability is ``(value - maximum) - log_sum``.
    """

    values: np.ndarray
    tokens: np.ndarray
    maximum: np.ndarray
    log_sum: np.ndarray


# Whole rows of logits [rows, V], or the best of each.
Output = np.ndarray | Best


class Decoder(Protocol):
    """A model with its cache, one request at a time.

    ``best`` is the number of tokens a row that the search can use; None: it needs whole rows. A decoder may send more
    than ``best`` tokens, or whole rows, whatever was asked for.
    """

    @property
    def vocabulary(self) -> int:
        """The number of tokens that have a logit, V."""

    def prefill(self, ids: np.ndarray, mask: np.ndarray, best: int | None) -> Output:
        """Start a request; return what each prompt's last real token predicts.

        Shapes: ids and mask [B, S], padded left or right, as the user gave them; mask is 1 at real tokens. B rows.
        Dtypes: ids and mask int64; float32, float16 or bfloat16 logits.
        """

    def step(self, tokens: np.ndarray, parents: np.ndarray, best: int | None) -> Output:
        """Add one token to each row; return what it predicts.

        Row r continues row ``parents[r]`` of the call before: its cache is a copy of that row's. Rows become more
        after the prefill (beams, several sequences a prompt) and fewer as they end; most often nothing moves, and
        ``parents`` is 0, 1, 2, ...

        Shapes: tokens and parents [rows].
        Dtypes: int64.
        """


def best_of(output: Output, k: int, where: str) -> Best:
    """Return at least the ``k`` best of each row, by the decoder's ranking or, of whole rows, by HARS.

    Raises:
        RequestError: the decoder sent fewer than ``k``, or NaN.

    Example:
        >>> best_of(np.float32([[1, 3, 2]]), 2, "doctest").tokens.tolist()
        [[1, 2]]
    """
    best = output if isinstance(output, Best) else Best(*hars.softmax_topk(output, k, mode="logit", stats=True))
    if best.values.shape[1] < k:
        raise RequestError(where, f"{best.values.shape[1]} tokens a row from the decoder", needed=f"{k} or more")
    check_numbers(best.values, where)
    return best


def whole_rows(output: Output, vocabulary: int, where: str) -> np.ndarray:
    """Return a float32 copy of whole rows.

    Raises:
        RequestError: the decoder sent the best tokens alone, or rows of another length.
    """
    if isinstance(output, Best):
        needed = "whole rows, which were asked for with best=None"
        raise RequestError(where, f"{output.values.shape[1]} tokens a row from the decoder", needed=needed)
    if output.shape[1:] != (vocabulary,):
        raise RequestError(where, f"logits {list(output.shape)}", needed=f"[rows, {vocabulary}]")
    return np.array(output, np.float32)


def check_numbers(ranked: np.ndarray, where: str) -> None:
    """Raise if a row's largest value, its first, is NaN."""
    bad = np.flatnonzero(np.isnan(ranked[:, 0]))
    if bad.size:
        hint = "verify the model; float16 may overflow where float32 does not"
        raise RequestError(f"{where}, row {bad[0]}", "NaN among the scores", needed="numbers", hint=hint)


def rows_of(output: Output, rows: np.ndarray) -> Output:
    """Return some rows of an output, in the order given."""
    return Best(*(array[rows] for array in output)) if isinstance(output, Best) else output[rows]
