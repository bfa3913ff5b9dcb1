"""Sampling of one token a row, with numbers that depend on a seed, a step and a row alone.

What is computed, to the last bit: the package's docstring.
"""

from typing import Any

import numpy as np

from graphwright.plugins.hars.arrays import like
from graphwright.plugins.hars.search import dispatch
from graphwright.plugins.hars.search.requests import check_logits, counters, fraction, whole


def sample(
    logits: Any,
    *,
    seed: Any,
    offset: Any = 0,
    row_numbers: Any = None,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    bias: Any = None,
    temperature: float = 1.0,
    implementation: str = "auto",
    threads: int | None = None,
) -> tuple[Any, Any]:
    """Return a token drawn from each row, and its log-probability under the distribution that it was drawn from.

    In this order, as in transformers: temperature, the ``top_k`` largest (0: all), the fewest of these that hold the
    share ``top_p`` of their probability, and of these all at least ``min_p`` times as probable as the first. Equal
    logits have an order, by token, so that no more are kept than asked for. ``top_k=1`` is the greedy choice.

    ``seed``, ``offset`` (say, the number of the step) and the row's number give the random number; each is one number
    or one a row. So a row's token is the same in any batch, with any implementation and number of threads: to draw a
    row alone, or in another place, give its number in ``row_numbers`` (default: 0, 1, 2, ...).

    A row with NaN, +inf or nothing but -inf has no distribution: the first of NaN, the first +inf or token 0
    comes back, with log-probability NaN, NaN or -inf.

    Shapes: logits [rows, V] or [V], bias broadcastable to them; tokens and log-probabilities [rows] or [].
    Dtypes: logits float32, float16 or bfloat16; tokens int64, log-probabilities float32.

    Raises:
        RequestError: shapes or numbers that do not fit, an unknown implementation.
        MissingDependencyError: an implementation that is not there.

    Source: Holtzman et al. 2020, arXiv:1904.09751 (top-p); Nguyen et al. 2025, arXiv:2407.01082 (min-p).

    Example:
        >>> logits = np.log(np.float32([[1, 2, 5]])).repeat(6, axis=0)
        >>> sample(logits, seed=7)[0].tolist(), sample(logits, seed=7, top_k=2)[0].tolist()
        ([2, 2, 2, 2, 2, 1], [1, 2, 1, 2, 2, 2])
    """
    name = "sample"
    if dispatch.runs_on_gpu(name, implementation, logits):
        from graphwright.plugins.hars import cuda_search

        return cuda_search.sample(
            logits,
            seed=seed,
            offset=offset,
            row_numbers=row_numbers,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            bias=bias,
            temperature=temperature,
        )
    rows = check_logits(name, logits, bias, temperature, ranks=(1, 2))
    count, width = rows.array.shape
    kept = whole(f"{name}: top_k", top_k, 0)
    share = fraction(f"{name}: top_p", top_p, 0.0, 1.0)
    least = fraction(f"{name}: min_p", min_p, 0.0, 1.0)
    given = {"seed": seed, "offset": offset, "row_numbers": np.arange(count) if row_numbers is None else row_numbers}
    numbers = [counters(f"{name}: {key}", value, count) for key, value in given.items()]
    run = dispatch.chosen(name, implementation, threads)
    drawn = run.sample(rows, numbers, top_k=kept if kept < width else 0, top_p=share, min_p=least)
    return like([array.reshape(tuple(np.shape(logits))[:-1]) for array in drawn], logits)
