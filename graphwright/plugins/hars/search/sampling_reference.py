"""Sampling in NumPy: plain, slow, the standard that every kernel is compared with."""

import math
from collections.abc import Sequence

import numpy as np

from graphwright.plugins.hars.reference import adjusted, order
from graphwright.plugins.hars.search.philox import uniform
from graphwright.plugins.hars.search.requests import Logits
from graphwright.plugins.hars.search.weights import IndexOrder, weights


def sample(
    rows: Logits, numbers: Sequence[np.ndarray], *, top_k: int, top_p: float, min_p: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the token of each row and its log-probability under the distribution that it was drawn from.

    Shapes: rows [N, V]; numbers are seeds, offsets and rows [N]; tokens and log-probabilities [N].
    Dtypes: numbers uint64, tokens int64, log-probabilities float32.

    Example:
        >>> rows, number = Logits(np.log(np.float32([[1, 2, 5]]))), np.array([7], np.uint64)
        >>> tokens, logprobs = sample(rows, [number, number, number], top_k=2, top_p=1.0, min_p=0.0)
        >>> tokens.tolist(), np.exp(logprobs).round(3)
        ([1], array([0.286], dtype=float32))
    """
    x = adjusted(rows.array, rows.full_bias, rows.temperature)
    drawn = [_draw(row, float(u), top_k, top_p, min_p) for row, u in zip(x, uniform(*numbers), strict=True)]
    tokens = np.array([token for token, _ in drawn], np.int64)
    return tokens, np.array([logprob for _, logprob in drawn], np.float32)


def _draw(x: np.ndarray, u: float, top_k: int, top_p: float, min_p: float) -> tuple[int, float]:
    ranked = order(x)
    maximum = x[ranked[0]]
    if not np.isfinite(maximum):
        return int(ranked[0]), -math.inf if maximum == -math.inf else math.nan
    is_cut = 0 < top_k < x.size
    if not is_cut and top_p >= 1 and min_p <= 0:
        row = IndexOrder(weights(x, maximum))
        token, total = row.pick(u * row.total), row.total
    else:
        ranked = ranked[:top_k] if is_cut else ranked
        mass = top_p * IndexOrder(weights(x, maximum)).total if top_p < 1 and not is_cut else None
        place, total = _draw_sorted(weights(x[ranked], maximum), u, mass, top_p, min_p)
        token = int(ranked[place])
    return token, (float(x[token]) - float(maximum)) - math.log(total)


def _draw_sorted(ranked: np.ndarray, u: float, mass: float | None, top_p: float, min_p: float) -> tuple[int, float]:
    """Return the place drawn among weights in descending order, and the sum of those that the filters keep.

    ``mass`` is what top-p has to reach; None: ``top_p`` of the sum of all that are given.
    """
    running = np.cumsum(ranked)
    kept = running.size
    if top_p < 1:
        wanted = top_p * running[-1] if mass is None else mass
        kept = min(kept, int(np.searchsorted(running, wanted, side="left")) + 1)
    too_small = np.flatnonzero(ranked < min_p)
    if too_small.size:
        kept = min(kept, max(1, int(too_small[0])))
    total = float(running[kept - 1])
    return int(np.searchsorted(running[:kept], u * total, side="right")), total
