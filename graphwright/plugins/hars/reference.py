"""The HARS operators in NumPy: plain, slow, the standard that every kernel is compared with.

float64 scores are computed in float64, all others in float32; sums always in float64.
"""

import math

import numpy as np

from graphwright.plugins.hars.body_text import SMALLEST_SUM


def order(x: np.ndarray) -> np.ndarray:
    """Return the indices that sort the last axis: NaN first, then by value descending, equals by lowest index.

    Example:
        >>> order(np.array([1.0, np.inf, -0.0, np.nan, 1.0, 0.0])).tolist()
        [3, 1, 0, 4, 2, 5]
    """
    # argsort puts NaN last, and -x has equal zeros; a stable sort keeps the lowest index first.
    descending = np.argsort(-x, axis=-1, kind="stable")
    is_nan = np.isnan(np.take_along_axis(x, descending, axis=-1))
    nan_first = np.argsort(~is_nan, axis=-1, kind="stable")
    return np.asarray(np.take_along_axis(descending, nan_first, axis=-1))


def softmax_topk(
    logits: np.ndarray,
    k: int,
    *,
    mode: str = "logprob",
    bias: np.ndarray | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    stats: bool = False,
) -> tuple[np.ndarray, ...]:
    """Return values and indices of the ``k`` largest, with ``stats`` also maximum and log_sum.

    Shapes: logits [..., V, ...]; values and indices with k in place of V; maximum and log_sum without that axis.
    Dtypes: values, maximum and log_sum are float64 for float64 logits, else float32; indices int64.

    Example:
        >>> values, indices = softmax_topk(np.log([[1.0, 3.0, 4.0]]), 2, mode="prob")
        >>> values.round(3).tolist(), indices.tolist()
        ([[0.5, 0.375]], [[2, 1]])
    """
    x = np.moveaxis(adjusted(logits, bias, temperature), axis, -1)
    indices = order(x)[..., :k]
    selected = np.take_along_axis(x, indices, axis=-1)
    maximum = selected[..., :1]
    is_empty = np.isneginf(maximum)
    base = np.where(is_empty, x.dtype.type(0), maximum)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        total = np.sum(np.exp((x - base).astype(np.float64)), axis=-1, keepdims=True)
        log_sum = np.log(total).astype(x.dtype)
        powers = np.exp((selected - base).astype(np.float64))
        values = _values(mode, selected, base, log_sum, powers, total, is_empty).astype(x.dtype)
    results = [np.moveaxis(values, -1, axis), np.moveaxis(indices, -1, axis)]
    if stats:
        results += [maximum[..., 0], log_sum[..., 0]]
    return tuple(results)


def adjusted(logits: np.ndarray, bias: np.ndarray | None, temperature: float) -> np.ndarray:
    """Return ``(logits + bias) / temperature`` as the operator rounds it: what is ranked.

    Example:
        >>> adjusted(np.array([2.0], np.float16), np.array([1.0], np.float32), 2.0)
        array([1.5], dtype=float32)
    """
    dtype = np.dtype(np.float64 if logits.dtype == np.float64 else np.float32)
    x = logits.astype(dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        if bias is not None:
            x = x + bias.astype(dtype)
        if temperature != 1.0:
            x = x * np.reciprocal(np.asarray(temperature, dtype))
    return x


def _values(
    mode: str,
    selected: np.ndarray,
    base: np.ndarray,
    log_sum: np.ndarray,
    powers: np.ndarray,
    total: np.ndarray,
    is_empty: np.ndarray,
) -> np.ndarray:
    if mode == "logit":
        return selected
    if mode == "logprob":
        return np.where(is_empty, -math.inf, (selected - base) - log_sum)
    shares = powers / (total if mode == "prob" else np.sum(powers, axis=-1, keepdims=True))
    return np.where(is_empty, 0.0, shares)


def router_topk(
    scores: np.ndarray,
    k: int,
    *,
    bias: np.ndarray | None = None,
    scoring: str = "softmax",
    renormalize: bool = False,
    scale: float = 1.0,
    zero_experts: int = 0,
    scale_zero_experts: bool = True,
    groups: int = 1,
    top_groups: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weights and numbers of the ``k`` experts of each token, and the weight of its identity experts.

    Shapes: scores [..., E], bias [E]; weights and experts [..., k], identity_weight [...].
    Dtypes: weights are float64 for float64 scores, else float32; experts int64.

    Example:
        >>> weights, experts, identity = router_topk(np.log([[1.0, 2.0, 5.0]]), 2, zero_experts=1)
        >>> weights.round(3).tolist(), experts.tolist(), identity.round(3).tolist()
        ([[0.0, 0.25]], [[-1, 1]], [0.625])
    """
    x = adjusted(scores, None, 1.0)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        shares = _softmax(x) if scoring == "softmax" else _sigmoid(x)
        key = shares if groups > 1 or bias is not None else x
        key = key if bias is None else key + bias.astype(x.dtype)
        if groups > 1:
            key = _open_groups(key, groups, top_groups)
        chosen = order(key)[..., :k]
        weights = np.take_along_axis(shares, chosen, axis=-1)
        if renormalize:
            weights = weights / (np.sum(weights, axis=-1, keepdims=True) + x.dtype.type(SMALLEST_SUM))
        is_identity = chosen >= x.shape[-1] - zero_experts
        scaled = weights * x.dtype.type(scale)
        weights = scaled if scale_zero_experts else np.where(is_identity, weights, scaled)
    weights = np.where(np.isnan(weights), x.dtype.type(0), weights)
    identity_weight = np.sum(np.where(is_identity, weights, x.dtype.type(0)), axis=-1)
    return np.where(is_identity, x.dtype.type(0), weights), np.where(is_identity, -1, chosen), identity_weight


def _softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp((x - np.max(x, axis=-1, keepdims=True)).astype(np.float64))
    return np.asarray((powers / np.sum(powers, axis=-1, keepdims=True)).astype(x.dtype))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray((1 / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype))


def _open_groups(key: np.ndarray, groups: int, top_groups: int) -> np.ndarray:
    """Return the keys with -inf outside the groups whose two largest keys add up to the most."""
    split = key.reshape(*key.shape[:-1], groups, -1)
    pair = np.take_along_axis(split, order(split)[..., :2], axis=-1)
    best = order(pair.sum(axis=-1))[..., :top_groups]
    is_open = np.zeros(split.shape[:-1], np.bool_)
    np.put_along_axis(is_open, best, values=True, axis=-1)
    return np.where(is_open[..., None], split, key.dtype.type(-math.inf)).reshape(key.shape)
