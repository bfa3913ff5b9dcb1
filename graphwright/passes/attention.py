"""What the passes over attention share: guards on sizes, masks, and rows without keys; no rule.

Attention-24 broadcasts its mask to [B, H, S, T]. ONNX Runtime 1.31 does so over B and H only, and fails on a
mask of one axis or whose last size but one is 1. A last size that is short of T is padded with -inf, where
addition would repeat it.

Its CPU kernel gives what ONNX defines for grouped heads, soft caps (before the mask), masks of fewer batches or heads,
rows without keys, and all of these together, with heads apart and side by side (1.31.1, float32, against float64).
"""

import math

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.rewrite import Builder, Reason, require


def require_four_axes(*values: ir.Value) -> None:
    """Refuse values that are not known to be [batch, heads, length, size]."""
    for value in values:
        require(value.shape is not None, Reason.UNKNOWN, f"the rank of {value.name} is not known; needs 4")
        is_four = facts.rank(value) == 4
        require(is_four, Reason.RANK, f"{facts.describe(value)}; needs [batch, heads, length, size]")


def require_same(first: ir.Value, axis: int, second: ir.Value, other: int) -> None:
    """Refuse two sizes that differ (SHAPE) or are not known to be equal (UNKNOWN)."""
    here, there = facts.dim(first, axis), facts.dim(second, other)
    detail = f"axis {axis} of {facts.describe(first)} must equal axis {other} of {facts.describe(second)}"
    differ = isinstance(here, int) and isinstance(there, int) and here != there
    require(not differ, Reason.SHAPE, detail)
    require(facts.same_dim(here, there), Reason.UNKNOWN, detail)


def require_swaps_last_axes(k: ir.Value, flat: ir.Value, swapped: ir.Value) -> None:
    """Refuse unless [B,H,T,D] -> ``flat`` [B*H,D,T] -> ``swapped`` [B,H,D,T] keeps T and D as they are."""
    require_four_axes(swapped)
    for value, axis, other in ((flat, 1, 3), (flat, 2, 2), (swapped, 0, 0), (swapped, 1, 1), (swapped, 2, 3)):
        require_same(value, axis, k, other)


def require_no_new_axes(value: ir.Value) -> None:
    """Refuse a value that would add axes to one of four axes."""
    require((facts.rank(value) or 0) <= 4, Reason.RANK, f"{facts.describe(value)} has more than 4 axes")


def require_mask_as_long_as_keys(mask: ir.Value, k: ir.Value) -> None:
    """Refuse a mask that is not known to have a number for each key."""
    fits = facts.same_dim(facts.dim(mask, -1), facts.dim(k, 2))
    detail = f"the mask {facts.describe(mask)} is not known to be as long as {facts.describe(k)}"
    require(fits, Reason.UNKNOWN, detail)


def require_splits_last_axis(whole: ir.Value, split: ir.Value, axes: tuple[int, ...]) -> None:
    """Refuse unless ``whole`` [B,S,H*D] and ``split``, whose axes are B, S, H, D in this order, hold the same."""
    detail = f"{facts.describe(whole)} is not known to be {facts.describe(split)} with its heads side by side"
    require(whole.shape is not None and split.shape is not None, Reason.UNKNOWN, detail)
    require(facts.rank(whole) == 3 and facts.rank(split) == 4, Reason.RANK, detail)
    batch, length, heads, size = (facts.dim(split, axis) for axis in axes)
    width = facts.static_dim(whole, 2)
    numbers = isinstance(heads, int) and isinstance(size, int) and width is not None
    require(numbers, Reason.UNKNOWN, detail)
    assert isinstance(heads, int) and isinstance(size, int)
    require(heads * size == width, Reason.SHAPE, detail)
    kept = facts.same_dim(facts.dim(whole, 0), batch) and facts.same_dim(facts.dim(whole, 1), length)
    require(kept, Reason.UNKNOWN, detail)


def spread(op: Builder, mask: ir.Value, q: ir.Value, k: ir.Value) -> ir.Value:
    """Return a mask whose last two sizes are the lengths of queries and keys, by Expand unless they are."""
    rows, columns = facts.dim(q, 2), facts.dim(k, 2)
    if facts.same_dim(facts.dim(mask, -2), rows) and facts.same_dim(facts.dim(mask, -1), columns):
        return mask
    leading = list(mask.shape[:-2]) if mask.shape is not None and len(mask.shape) > 2 else []
    lengths = op.Concat(op.Shape(q, start=2, end=3), op.Shape(k, start=2, end=3), axis=0)
    expanded: ir.Value = op.Expand(mask, lengths)
    if mask.shape is not None:
        expanded.shape = ir.Shape([*leading, rows, columns])
    return expanded


def number(op: Builder, like: ir.Value, given: float) -> ir.Value:
    """Return a constant of another value's type."""
    assert like.dtype is not None
    return op.constant(np.asarray(given, like.dtype.numpy()), "number")


def default_scale(q: ir.Value) -> float:
    """Return what Attention multiplies scores by where nothing is said; refuse where it is not known."""
    size = facts.static_dim(q, 3)
    require(size is not None, Reason.UNKNOWN, f"no scale is given and {facts.describe(q)} has no known head size")
    return 1 / math.sqrt(size or 1)


def additive(op: Builder, mask: ir.Value, q: ir.Value) -> ir.Value:
    """Return what a mask adds to the scores: a boolean one becomes 0 and -inf."""
    if mask.dtype != ir.DataType.BOOL:
        require(mask.dtype == q.dtype, Reason.DTYPE, f"{mask.name} is {mask.dtype}, {q.name} is {q.dtype}")
        return mask
    added: ir.Value = op.Where(mask, number(op, q, 0.0), number(op, q, -math.inf))
    return added


def cleared(op: Builder, mask: ir.Value, added: ir.Value, q: ir.Value, result: ir.Value) -> ir.Value:
    """Return the result with rows of 0 where a row attends to no key: Softmax gives NaN for it, Attention gives 0."""
    if ranges.is_finite(mask) and mask.dtype != ir.DataType.BOOL:
        return result
    without_key = op.Equal(op.ReduceMax(added, [-1], keepdims=1), number(op, q, -math.inf))
    kept: ir.Value = op.Where(without_key, number(op, q, 0.0), result)
    return kept
