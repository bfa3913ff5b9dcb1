"""What may stand between the product of queries and keys and the softmax: scales, masks, a soft cap; no rule.

    q k^T -- * a -- Tanh -- * c -- + bias -- Reshape -- Where(keep, ., lowest) -- Reshape -- Softmax

Exporters string these steps together in any order and number. A pattern matches the string as a whole
(``steps_from``), and ``fold_steps`` goes through it from the product on and adds up what Attention takes:

    (a s) c          -> scale a c                 tanh(a s) c         -> soft cap c of the scale a c
    (s + m) c        -> scale c, mask c m         (s + m) + n         -> mask m + n
    s * c[.., S, 1]  -> queries times c           Where(keep, s + m, low)  -> mask Where(keep, m, low)

A Reshape of the leading axes keeps the rows, and with them the softmax: the mask is repeated and reshaped instead.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.pattern import AnyOf, Pattern, PatternOps
from graphwright.engine.rewrite import Builder, Reason, require
from graphwright.passes.attention import require_same
from graphwright.passes.attention_axes import Axes, moved

FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT}

# A masking number this low swallows any score that is added to it, in every type but float16.
SWALLOWS = -1e30
# The lowest number times this is still as far below any score, in every type.
RAISED = 0.99
# What is added to the lowest number of float32 or bfloat16 changes it only above 1e31: half a unit in its last place.
SMALL = 1e30
# Constants above this size are not read.
LARGEST_READ = 1 << 22
# The longest string of the families known is 7: scale, bias, Reshape, two masks, Reshape, and one to spare.
MOST_STEPS = 8


class Step(IntEnum):
    """What the tags ``step_0`` (next to the softmax), ``step_1``... of a match say."""

    FACTOR = 0
    DIVISOR = 1
    CHOSEN_SUMMAND = 2
    SUMMAND = 3
    KEPT_WHERE = 4
    REPLACED_WHERE = 5
    TANH = 6
    RESHAPE = 7
    PRODUCT = 8


@dataclass(frozen=True)
class Scores:
    """What has been folded so far: ``queries`` and ``scale`` before a soft cap, ``cap`` after it, then the mask.

    ``axes`` are those of the scores at this point. ``is_raised``: no element of the mask is the lowest number.
    """

    queries: ir.Value
    axes: Axes
    scale: float = 1.0
    cap: float | None = None
    mask: ir.Value | None = None
    is_raised: bool = True

    @property
    def factor(self) -> float:
        """The attribute ``scale``: tanh(a s) c is c tanh((a c) s / c)."""
        return self.scale * (1.0 if self.cap is None else self.cap)


def steps_from(op: PatternOps, product: Pattern) -> AnyOf:
    """Match a product, or at most ``MOST_STEPS`` steps that begin at it."""
    found: Pattern = product
    for level in reversed(range(MOST_STEPS)):
        found = _step(op, found, product, level)
    assert isinstance(found, AnyOf)
    return found


def _step(op: PatternOps, inner: Pattern, product: Pattern, level: int) -> AnyOf:
    by, below = op.var(f"by_{level}"), op.var(f"below_{level}")
    number = op.check(below, f"a constant of at most {SWALLOWS}", _swallows)
    lowest = op.check(below, "the lowest number of its type", is_lowest)
    choice = op.keep(op.Where(by, op.var(f"kept_{level}"), lowest))
    seen = f"seen_{level}"
    return op.any_of(
        op.Mul(inner, by),
        op.Div(inner, by),
        op.named(seen, op.Add(inner, choice)),
        op.named(seen, op.Add(inner, by)),
        op.named(seen, op.Where(by, inner, number)),
        op.named(seen, op.Where(by, number, inner)),
        op.Tanh(inner),
        op.named(seen, op.Reshape(inner, op.var(f"_shape_{level}"))),
        product,
        tag=f"step_{level}",
    )


def _swallows(value: ir.Value) -> bool:
    number = facts.scalar(value)
    return number is not None and number <= SWALLOWS


def is_lowest(value: ir.Value) -> bool:
    """Tell whether a value is a constant of the lowest finite number of its type."""
    return value.dtype in FLOATS and facts.scalar(value) == float(value.dtype.min)


def fold_steps(op: Builder, scores: Scores, bound: Mapping[str, Any], *, is_closed: bool) -> Scores:
    """Fold the steps of a match, the one next to the product first.

    ``is_closed``: keys and values are known to be of one length, so that no mask can have repeated the keys.
    """
    levels = [level for level in range(MOST_STEPS) if bound.get(f"step_{level}") is not None]
    for level in reversed(levels):
        kind, by, seen = bound[f"step_{level}"], bound.get(f"by_{level}"), bound.get(f"seen_{level}")
        if kind in (Step.FACTOR, Step.DIVISOR):
            assert by is not None
            scores = _times(op, scores, by, is_divisor=kind == Step.DIVISOR)
        elif kind == Step.TANH:
            require(scores.mask is None and scores.cap is None, Reason.CONSTANT, "a Tanh of masked or of capped scores")
            scores = replace(scores, cap=1.0)
        elif kind == Step.RESHAPE:
            assert seen is not None
            scores = moved_to(op, scores, scores.axes.seen_as(seen))
        elif kind != Step.PRODUCT:
            assert by is not None and seen is not None
            _require_not_larger(by, seen, scores.axes, is_closed)
            below, kept = bound.get(f"below_{level}"), bound.get(f"kept_{level}")
            if kept is not None and kind == Step.CHOSEN_SUMMAND:
                _require_not_larger(kept, seen, scores.axes, is_closed)
            scores = _masked(op, scores, kind, by, kept, below)
    return scores


def moved_to(op: Builder, scores: Scores, axes: Axes) -> Scores:
    """See scores with other leading axes: the mask is moved there."""
    mask = scores.mask
    if mask is not None and not axes.leads_as(scores.axes):
        mask = moved(op, mask, scores.axes, axes)
    return replace(scores, axes=axes, mask=mask)


def _times(op: Builder, scores: Scores, by: ir.Value, *, is_divisor: bool) -> Scores:
    number = facts.scalar(by)
    if number is None:
        return _times_value(op, scores, by, is_divisor=is_divisor)
    require_few_axes(by, scores.axes)
    fits = 0 < number < math.inf
    require(fits, Reason.CONSTANT, f"the scale {by.name} is {number}; needs a finite one above zero")
    factor = 1 / number if is_divisor else number
    mask, is_raised = scores.mask, scores.is_raised
    if mask is not None:
        mask, is_raised = (op.Div if is_divisor else op.Mul)(mask, by), False
    if scores.cap is None:
        scale = scores.scale / number if is_divisor else scores.scale * number
        return replace(scores, scale=scale, mask=mask, is_raised=is_raised)
    return replace(scores, cap=scores.cap * factor, mask=mask, is_raised=is_raised)


def _times_value(op: Builder, scores: Scores, by: ir.Value, *, is_divisor: bool) -> Scores:
    """``(q k^T) * c`` -> ``(q * c) k^T`` where c has one number for a row of scores at most."""
    constant = Reason.CONSTANT, f"the scale {facts.describe(by)} is no number, and not known to be one for each row"
    is_one = facts.rank(by) == 0 or facts.dim(by, -1) == 1
    require(is_one and scores.cap is None and scores.mask is None, *constant)
    require(by.dtype == scores.queries.dtype, Reason.DTYPE, f"{by.name} is {by.dtype}")
    rank = facts.rank(scores.queries) or 0
    require(len(scores.axes.leads) == rank - 2, Reason.RANK, f"{by.name} scales reshaped scores")
    require_few_axes(by, scores.axes)
    for axis in range(-(facts.rank(by) or 0), -1):
        if facts.dim(by, axis) != 1:
            require_same(by, axis, scores.queries, axis)
    queries = (op.Div if is_divisor else op.Mul)(scores.queries, by)
    queries.shape = scores.queries.shape
    return replace(scores, queries=queries)


def require_few_axes(value: ir.Value, axes: Axes) -> None:
    """Refuse a value that would add axes to the scores."""
    most = len(axes.leads) + 2
    require((facts.rank(value) or 0) <= most, Reason.RANK, f"{facts.describe(value)} has more than {most} axes")


def _require_not_larger(mask: ir.Value, seen: ir.Value, axes: Axes, is_closed: bool) -> None:
    """Refuse a mask that may be larger than the scores: addition repeats them for it, Attention does not."""
    require(mask.shape is not None, Reason.UNKNOWN, f"the rank of the mask {mask.name} is not known")
    require_few_axes(mask, axes)
    for axis in range(-(facts.rank(mask) or 0), -1 if is_closed else 0):
        here, there = facts.dim(mask, axis), axes.dim(axis)
        if here == 1 or facts.same_dim(here, there) or facts.same_dim(facts.dim(seen, axis), there):
            continue
        detail = f"axis {axis} of {facts.describe(mask)} must be 1 or {there}, that of the scores"
        require(not (isinstance(here, int) and isinstance(there, int)), Reason.SHAPE, detail)
        require(False, Reason.UNKNOWN, detail)


def _masked(
    op: Builder, scores: Scores, kind: int, by: ir.Value, kept: ir.Value | None, below: ir.Value | None
) -> Scores:
    dtype = scores.queries.dtype
    assert dtype is not None
    if below is None or kind == Step.SUMMAND:
        _require_own_type(by, scores.queries)
        return _plus(op, scores, by, is_raised=False)
    require_few_axes(below, scores.axes)
    if is_lowest(below):
        below = op.constant(np.asarray(float(dtype.min) * RAISED, dtype.numpy()), "low")
    if kind == Step.CHOSEN_SUMMAND:
        assert kept is not None
        _require_own_type(kept, scores.queries)
        is_raised = ranges.is_free_of_lowest(kept)
        return _plus(op, scores, _choice(op, scores, by, kept, below), is_raised=is_raised)
    is_narrow = dtype == ir.DataType.FLOAT16
    require(not is_narrow, Reason.DTYPE, f"{scores.queries.name} is float16, too narrow to add {below.name}")
    other = scores.mask
    if other is None:
        other = op.constant(np.zeros((), dtype.numpy()), "zero")
    chosen = (below, other) if kind == Step.REPLACED_WHERE else (other, below)
    return replace(scores, mask=_choice(op, scores, by, *chosen))


def _choice(op: Builder, scores: Scores, chooser: ir.Value, first: ir.Value, second: ir.Value) -> ir.Value:
    chosen: ir.Value = op.Where(chooser, first, second)
    chosen.shape = scores.axes.fitted(chooser, first, second)
    return chosen


def _require_own_type(mask: ir.Value, q: ir.Value) -> None:
    detail = f"the mask {mask.name} is {mask.dtype}, {q.name} is {q.dtype}"
    require(mask.dtype == q.dtype, Reason.DTYPE, detail)


def _plus(op: Builder, scores: Scores, mask: ir.Value, *, is_raised: bool) -> Scores:
    """Add a mask. The lowest number is looked for in that summand alone beside which the others are nothing."""
    if scores.mask is None:
        return replace(scores, mask=mask, is_raised=is_raised)
    first, second = scores.mask, mask
    if is_small(second):
        first, is_known = raised(op, first, scores.is_raised), True
    elif is_small(first):
        second, is_known = raised(op, second, is_raised), True
    else:
        is_known = False
    total: ir.Value = op.Add(first, second)
    total.shape = scores.axes.fitted(first, second)
    return replace(scores, mask=total, is_raised=is_known)


def raised(op: Builder, mask: ir.Value, is_raised: bool = False) -> ir.Value:
    """Raise the lowest number by 1 %, which kernels take for -inf where a softmax of it throughout is uniform."""
    if is_raised or ranges.is_free_of_lowest(mask) or is_small(mask):
        return mask
    assert mask.dtype is not None
    lowest = float(mask.dtype.min)
    result: ir.Value = op.Where(op.Equal(mask, lowest), lowest * RAISED, mask)
    result.shape = mask.shape
    return result


def is_small(value: ir.Value | None, depth: int = 0) -> bool:
    """Tell whether every element is known to be too small to change the lowest number that it is added to."""
    if value is None or value.dtype not in (ir.DataType.FLOAT, ir.DataType.BFLOAT16):
        return False
    tensor = facts.constant(value)
    if tensor is not None:
        return tensor.size <= LARGEST_READ and bool((np.abs(tensor.numpy().astype(np.float32)) <= SMALL).all())
    node = value.producer()
    if node is None or node.domain or depth > ranges.MAX_DEPTH:
        return False
    if node.op_type in ranges.MOVES or node.op_type in ("Gather", "GatherElements", "GatherND"):
        return is_small(node.inputs[0], depth + 1)
    return node.op_type in ("Sigmoid", "Tanh")
