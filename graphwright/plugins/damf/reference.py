"""Attention from the factors of its scores, in NumPy: the standard that graphs and modules are compared with.

``p = [X, 1] u`` and ``n = [Y, 1] v`` are the factors of the scores, ``A = p n^T``. Sizes: S queries, T keys, rank r,
value size D. Three forms of softmax:

* ``exact``: the softmax of A over the valid keys.
* ``maclaurin``: ``exp(x) ~ 1 + x`` for ``x = A / c``, so the weights are ``(c + A_mn) / sum_n (c + A_mn)``; c is an
  upper bound of |A| that needs no A: ``65/64 * max |p_m| * max |n_n|``, at least 1e-30. For rank 1 the product of norms
  is the exact maximum. With c itself, not 65/64 of it, a row of scores that are all -c would divide 0 by 0.
* ``shift``: the same with each A_mn, c (here the exact maximum of |A|, at least 1e-30) and each row's denominator
  rounded to powers of two, so that hardware needs shifts and additions alone. A rounded denominator of 0 gives 0.

Validity: a key that is not valid takes no part. In self attention the same position is no valid query either: its
factor p is taken as zero, so that it leaves the maximum, and its own row, which nobody reads, is the plain mean of the
valid values instead of numbers without bound. (``exact`` has no maximum to leave, and keeps p.) In cross attention all
queries count. Causal: position m sees the keys up to m, and its c is the maximum over queries and keys up to m. A row
that sees no valid key gives 0.

Source: Yang et al., "Hardware Friendly Transformer Optimization with Dynamic Attention Matrix Fusion", eq. 10-17;
    the linear form, the bound and the treatment of signs, masks and causality are not in the paper.
"""

from typing import Literal

import numpy as np

from graphwright.errors import RequestError

Softmax = Literal["exact", "maclaurin", "shift"]
SOFTMAXES: tuple[Softmax, ...] = ("exact", "maclaurin", "shift")

# What c is above the largest |A|: a power of two above one, so that it is exact in every float.
MARGIN = 1 + 1 / 64
# The least c: scores that are all zero give the plain mean.
LEAST = 1e-30


def attention(
    p: np.ndarray,
    n: np.ndarray,
    v: np.ndarray,
    valid: np.ndarray | None = None,
    causal: bool = False,
    softmax: Softmax = "maclaurin",
    cross: bool = False,
) -> np.ndarray:
    """Return the attention by its definition, with a matrix of S x T weights.

    Shapes: p [..., S, r], n [..., T, r], v [..., T, D], valid [..., T]; result [..., S, D]. For heads on the axis
        before S, valid is [B, 1, T].
    Dtypes: float32 or float64; the result like v.

    Raises:
        RequestError: S and T differ in self attention or in a causal one, or softmax is none of the three.

    Example:
        >>> p = n = np.array([[1.0], [-1.0]])
        >>> attention(p, n, np.array([[10.0], [20.0]]), softmax="shift").tolist()
        [[10.0], [20.0]]
    """
    p, allowed = _masked(p, n, valid, causal, softmax, cross)
    scores = p @ np.swapaxes(n, -1, -2)
    if softmax == "exact":
        return exact(scores, v, allowed)
    if softmax == "shift":
        return shift(scores, v, allowed, causal)
    size = bound(p, n if valid is None else np.where(valid[..., None], n, 0), causal)
    weights = np.where(allowed, size + scores, 0)
    return divide(weights @ v, weights.sum(-1, keepdims=True))


def linear_attention(
    p: np.ndarray,
    n: np.ndarray,
    v: np.ndarray,
    valid: np.ndarray | None = None,
    causal: bool = False,
    cross: bool = False,
) -> np.ndarray:
    """Return the same as ``attention(..., softmax="maclaurin")`` without an S x T matrix: sums over keys come first.

    ``sum_n (c + A_mn) v_n = c sum_n v_n + p_m (sum_n n_n v_n)``, and the denominator is the same for values of 1, so
    both are one product of ``[c, p]`` with ``[1, n]^T [v, 1]``; prefix sums over n where it is causal.

    Shapes: as in :func:`attention`.
    Dtypes: float32 or float64; the result like v.

    Raises:
        RequestError: S and T differ in self attention or in a causal one.

    Example:
        >>> p = n = np.array([[1.0], [-1.0]])
        >>> linear_attention(p, n, np.array([[10.0], [20.0]])).round(2).tolist()
        [[10.08], [19.92]]
    """
    p, _ = _masked(p, n, valid, causal, "maclaurin", cross)
    one = np.ones_like(n[..., :1])
    if valid is not None:
        n, one = np.where(valid[..., None], n, 0), np.where(valid[..., None], one, 0)
    left = np.concatenate([np.broadcast_to(bound(p, n, causal), (*p.shape[:-1], 1)), p], axis=-1)
    right = np.concatenate([one, n], axis=-1)
    values = np.concatenate([v, np.ones_like(v[..., :1])], axis=-1)
    if causal:
        sums = np.cumsum(right[..., :, None] * values[..., None, :], axis=-3)
        both = (left[..., None, :] @ sums)[..., 0, :]
    else:
        both = left @ (np.swapaxes(right, -1, -2) @ values)
    return divide(both[..., :-1], both[..., -1:])


def bound(p: np.ndarray, n: np.ndarray, causal: bool = False) -> np.ndarray:
    """Return c, which is above every \\|p_m n_n\\|: one number, or one per position where it is causal.

    Shapes: p [..., S, r], n [..., T, r], zero where not valid; result [..., 1, 1] or [..., S, 1].

    Example:
        >>> bound(np.array([[3.0, 4.0]]), np.array([[1.0, 0.0], [0.0, 2.0]])).tolist()
        [[10.15625]]
    """
    norms = [np.sqrt(np.square(each).sum(-1, keepdims=True)) for each in (p, n)]
    if causal:
        largest = [np.maximum.accumulate(norm, axis=-2) for norm in norms]
    else:
        largest = [norm.max(axis=-2, keepdims=True) for norm in norms]
    dtype = p.dtype.type
    return np.asarray(np.maximum(dtype(MARGIN) * largest[0] * largest[1], dtype(LEAST)))


def exact(scores: np.ndarray, v: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return the softmax of the allowed scores, times v; a row that allows nothing gives 0."""
    largest = np.max(scores, axis=-1, keepdims=True, where=allowed, initial=-np.inf)
    weights = np.exp(np.where(allowed, scores - np.where(np.isinf(largest), 0, largest), -np.inf))
    return divide(weights @ v, weights.sum(-1, keepdims=True))


def shift(scores: np.ndarray, v: np.ndarray, allowed: np.ndarray, causal: bool = False) -> np.ndarray:
    """Return eq. 15-17: the values times powers of two, added, times a power of two per row.

    Shapes: scores and allowed [..., S, T], v [..., T, D]; result [..., S, D].
    """
    sizes = np.where(allowed, np.abs(scores), 0)
    largest = sizes.max(axis=-1, keepdims=True)
    largest = np.maximum.accumulate(largest, axis=-2) if causal else largest.max(axis=-2, keepdims=True)
    size = power_of_two(np.maximum(largest, scores.dtype.type(LEAST)))
    rounded = np.where(allowed, power_of_two(scores), 0)
    count = allowed.astype(v.dtype)
    total = size * (count @ v) + rounded @ v
    rows = power_of_two(size * count.sum(-1, keepdims=True) + rounded.sum(-1, keepdims=True))
    return divide(total, rows)


def power_of_two(x: np.ndarray) -> np.ndarray:
    """Return ``sign(x) * 2^round(log2 |x|)``, and zero for zero; exact for every float, as no logarithm is taken.

    Example:
        >>> power_of_two(np.array([1.4142, 1.4143, -3.0, 0.0])).tolist()
        [1.0, 2.0, -4.0, 0.0]
    """
    fraction, exponent = np.frexp(x)
    # x = fraction * 2^exponent with |fraction| in [0.5, 1): below sqrt(0.5), log2 |x| is nearer to exponent - 1. No
    # float is the root of 0.5, so nothing lies half-way; the float64 next to it is above it: "less", not "at most".
    nearest = exponent - (np.abs(fraction).astype(np.float64) < np.sqrt(0.5))
    return np.asarray(np.where(x == 0, 0, np.ldexp(np.sign(x), nearest)), dtype=x.dtype)


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, and 0 where the denominator is 0."""
    empty = denominator == 0
    return np.asarray(np.where(empty, 0, numerator / np.where(empty, 1, denominator)))


def _masked(
    p: np.ndarray, n: np.ndarray, valid: np.ndarray | None, causal: bool, softmax: str, cross: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return p with zeros for the queries that are not valid, and which key each query may see, [..., S, T]."""
    if softmax not in SOFTMAXES:
        raise RequestError("damf: softmax", repr(softmax), needed=f"one of {', '.join(SOFTMAXES)}")
    queries, keys = p.shape[-2], n.shape[-2]
    if queries != keys and (causal or not cross):
        found = f"{queries} queries and {keys} keys"
        raise RequestError(
            "damf: attention", found, needed="as many, unless it is cross attention without a causal mask"
        )
    allowed = np.tri(queries, keys, dtype=bool) if causal else np.ones((queries, keys), bool)
    if valid is None:
        return p, allowed
    if not cross and softmax != "exact":
        p = np.where(valid[..., None], p, 0)
    return p, allowed & valid[..., None, :]
