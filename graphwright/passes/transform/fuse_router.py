"""Fuse a mixture-of-experts router, from the scores to the chosen experts' weights, into ``hars.router_topk``.

Before:
    x -- Sigmoid or Softmax -- s --+-- + bias -- [groups] -- TopK<k> --+-- i
                                   |                                   |
                                   +------------------- GatherElements -- w -- [/ (ReduceSum(w) + 1e-20)] -- [* c] -- y
After:
    x, bias -- router_topk<k, scoring, renormalize, scale=c, groups, top_groups> --+-- y
                                                                                   +-- i

[groups] keeps the experts of the best groups and sets the others to -inf, as DeepSeek-V3 does: Reshape to groups, the
sum of the two best of each by TopK and ReduceSum, TopK of the groups, ScatterElements of ones, Expand, Reshape, Where.
The bias may be missing, and the weights may be TopK's own values where it is. The scores may be cast to float32 before.
TopK's order may be open (``sorted=0``): it becomes the sorted one.

Shapes:    x [N, E] or any with E last; bias [E], or more axes of size 1; y and i [N, k]. E and k are fixed, N may be
           dynamic.
Dtypes:    x float32, float16, bfloat16; bias and y the same three.
Refuses:   OPSET below 20; DTYPE not listed; UNKNOWN E, k, a type, or a mask not known to be as large as the scores;
           SHAPE k above what the open groups hold, a bias that is not one for each expert, groups that are cut
           elsewhere; ATTRIBUTE a choice over another axis than the last; CONSTANT a scale that is not finite, which
           stays; SHARED and GRAPH_OUTPUT interior values, such as the scores of all experts.
Numerics:  the same sums. Without bias and groups it ranks x, which orders as s does but for ties. Without the 1e-20 the
           results differ where the chosen add up to less than 1e-15, and a weight that was NaN is 0.
Source:    DeepSeek-V3, arXiv:2412.19437, section 2.1.2; LongCat-Flash, arXiv:2509.01322, section 2.1; Jiang et al.
           2024 (Mixtral), arXiv:2401.04088, section 2.1.
"""

import math
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Named, Output, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.selection import (
    FLOAT,
    MIN_OPSET,
    cast_like,
    in_float32,
    require_axis,
    require_count,
    require_float,
    require_logits,
)
from graphwright.plugins.hars.body_text import SMALLEST_SUM
from graphwright.plugins.hars.meaning import call_router_topk

# Constant zeros or ones of a mask over fixed tokens and their groups: 4,096 tokens of 256 groups.
LARGEST_MASK = 2**20


def _filled(op: PatternOps, like: Pattern, number: float, name: str) -> AnyOf:
    """Match a tensor of one number throughout; ``name`` binds its shape where that is read from another tensor."""
    own = op.named(name, op.Shape(like, start=0, end=None))
    shape = op.any_of(own, op.var(f"_{name}"))
    return op.any_of(
        op.Expand(number, shape),
        op.check(op.ConstantOfShape(shape), f"{number} throughout", lambda value: _fill(value) == number),
        op.check(op.var(f"_all_{name}"), f"{number} throughout", lambda value: _all(value) == number),
    )


def _fill(value: ir.Value) -> float | None:
    """The number that ConstantOfShape repeats."""
    node = value.producer()
    given = None if node is None else facts.attribute(node, "value")
    return 0.0 if given is None else float(given.numpy().reshape(()))


def _all(value: ir.Value) -> float | None:
    """The number that a constant holds throughout."""
    tensor = facts.constant(value)
    if tensor is None or not 0 < tensor.size <= LARGEST_MASK or not tensor.dtype.is_floating_point():
        return None
    contents = tensor.numpy()
    return float(contents.flat[0]) if np.all(contents == contents.flat[0]) else None


def _in_best_groups(op: PatternOps, choice: Pattern) -> AnyOf:
    """Match ``choice`` with -inf outside of the groups whose two best add up to the most."""
    grouped = op.named("grouped", op.Reshape(choice, op.var("_by_group")))
    two_best, _ = op.TopK(grouped, op.var("two"), axis=op.attr("member_axis"), largest=1, _outputs=2)
    strength = op.named("strength", op.ReduceSum(two_best, op.axes(-1), keepdims=0))
    _, open_groups = op.TopK(strength, op.var("group_count"), axis=op.attr("group_axis"), largest=1, _outputs=2)
    zeros, ones = _filled(op, strength, 0.0, "shape_of_zeros"), _filled(op, open_groups, 1.0, "_shape_of_ones")
    scattered = op.ScatterElements(zeros, open_groups, ones, axis=op.attr("scatter_axis"), reduction="none")
    column = op.Unsqueeze(scattered, op.var("column_axis"))
    spread = op.named("spread", op.Expand(column, op.var("spread_shape")))
    is_open = op.Cast(op.named("mask", op.Reshape(spread, op.var("_mask"))), to=ir.DataType.BOOL.value)
    shut = op.check(op.var("_shut"), "-inf", lambda value: facts.scalar(value) == -math.inf)
    return op.any_of(op.Where(op.Not(is_open), shut, choice), op.Where(is_open, choice, shut))


def _weighted(op: PatternOps, weights: Pattern) -> AnyOf:
    """Match the weights, divided by their sum or not, scaled or not."""
    total = op.ReduceSum(weights, op.axes(-1), keepdims=1)
    share = op.named("renormalized", op.Div(weights, op.any_of(op.Add(total, SMALLEST_SUM), total)))
    plain = op.any_of(share, weights)
    scale = op.check(op.var("scale"), "a constant number", lambda value: facts.scalar(value) is not None)
    return op.any_of(op.Mul(plain, scale), plain)


def _shares(op: PatternOps, scores: Var) -> Named:
    single = in_float32(op, scores)
    sigmoid = op.named("sigmoid", op.Sigmoid(single))
    return op.named("shares", op.any_of(sigmoid, op.Softmax(single, axis=op.attr("softmax_axis"))))


def gathered(op: PatternOps, scores: Var, k: Var) -> tuple[Named, Output]:
    shares = _shares(op, scores)
    choice = op.any_of(op.Add(shares, op.var("bias")), shares)
    key = op.any_of(_in_best_groups(op, choice), choice)
    _, experts = op.TopK(key, k, axis=op.attr("axis"), largest=1, _outputs=2)
    weights = op.GatherElements(shares, experts, axis=op.attr("gather_axis"))
    return op.named("y", _weighted(op, weights)), experts


def of_largest_sigmoids(op: PatternOps, scores: Var, k: Var) -> tuple[Named, Output]:
    sigmoid = op.named("sigmoid", op.Sigmoid(in_float32(op, scores)))
    weights, experts = op.TopK(op.named("shares", sigmoid), k, axis=op.attr("axis"), largest=1, _outputs=2)
    return op.named("y", _weighted(op, weights)), experts


def routed(
    op: Builder,
    scores: ir.Value,
    k: ir.Value,
    shares: ir.Value,
    y: ir.Value,
    sigmoid: ir.Value | None,
    softmax_axis: int | None,
    axis: int,
    gather_axis: int | None,
    bias: ir.Value | None,
    renormalized: ir.Value | None,
    scale: ir.Value | None,
    **groups: Any,
) -> tuple[ir.Value, ir.Value]:
    require_logits(scores)
    require_float(shares)
    require_float(y)
    factor = 1.0 if scale is None else facts.scalar(scale)
    require(factor is not None and math.isfinite(factor), Reason.CONSTANT, f"the scale is {factor}")
    for each in (axis, softmax_axis, gather_axis):
        require_axis(shares, -1, -1 if each is None else each)
    count, group_count, open_count = _counts(shares, k, **groups)
    weights, chosen = call_router_topk(
        op,
        scores,
        None if bias is None else _by_expert(op, bias, shares),
        k=count,
        scoring="softmax" if sigmoid is None else "sigmoid",
        renormalize=renormalized is not None,
        scale=1.0 if factor is None else factor,
        groups=group_count,
        top_groups=open_count,
    )[:2]
    return cast_like(op, weights, y), chosen


def _counts(shares: ir.Value, k: ir.Value, **groups: Any) -> tuple[int, int, int]:
    """Return how many experts are chosen, how many groups there are, and how many of them stay open."""
    experts = facts.static_dim(shares, -1)
    require(experts is not None, Reason.UNKNOWN, f"the last size of {facts.describe(shares)} is not known")
    assert experts is not None
    count = require_count(k, shares, -1)
    group_count, open_count = _groups(shares, experts, **groups) if "grouped" in groups else (1, 1)
    held = experts // group_count * open_count
    require(count <= held, Reason.SHAPE, f"{count} experts of the {held} in {open_count} groups")
    return count, group_count, open_count


def _by_expert(op: Builder, bias: ir.Value, shares: ir.Value) -> ir.Value:
    """Return the bias as [E] float32."""
    experts = facts.static_dim(shares, -1)
    require(bias.dtype is not None and bias.shape is not None, Reason.UNKNOWN, f"the bias {facts.describe(bias)}")
    require_float(bias)
    rank = facts.rank(bias) or 0
    sizes = [facts.dim(bias, axis) for axis in range(rank)]
    detail = f"the bias {facts.describe(bias)} must be one number for each of {experts} experts"
    require(sizes == [*[1] * (rank - 1), experts], Reason.SHAPE, detail)
    contents = facts.array(bias)
    if contents is not None and (rank > 1 or bias.dtype != FLOAT):
        return op.constant(contents.reshape(-1).astype(np.float32), "bias")
    flat: ir.Value = bias if rank == 1 else op.Reshape(bias, [-1])
    if flat.dtype != FLOAT:
        flat = op.Cast(flat, to=FLOAT.value)
    return flat


def _groups(
    shares: ir.Value,
    experts: int,
    *,
    grouped: ir.Value,
    strength: ir.Value,
    spread: ir.Value,
    two: ir.Value,
    group_count: ir.Value,
    column_axis: ir.Value,
    member_axis: int,
    group_axis: int,
    scatter_axis: int,
    **masks: Any,
) -> tuple[int, int]:
    """Return how many groups there are and how many stay open, or refuse what groups otherwise."""
    groups, each = facts.static_dim(grouped, -2), facts.static_dim(grouped, -1)
    detail = f"{facts.describe(grouped)} must split {experts} experts into groups"
    require(groups is not None and each is not None, Reason.UNKNOWN, detail)
    assert groups is not None
    assert each is not None
    require(groups * each == experts and facts.rank(grouped) == (facts.rank(shares) or 0) + 1, Reason.SHAPE, detail)
    require_axis(grouped, member_axis, -1)
    for axis in (group_axis, scatter_axis):
        require_axis(strength, axis, -1)
    require(
        facts.integers(two) == (2,) and each >= 2, Reason.SHAPE, f"groups by {facts.integers(two)} of {each} experts"
    )
    open_count = require_count(group_count, strength, -1)
    kept = [facts.static_dim(spread, axis) for axis in (-2, -1)] == [groups, each]
    kept = kept and facts.rank(spread) == facts.rank(grouped)
    kept = kept and facts.integers(column_axis) in ((-1,), (facts.rank(strength),))
    require(kept, Reason.SHAPE, f"{facts.describe(spread)} must repeat each of {groups} groups {each} times")
    _require_own_rows(shares, **masks)
    return groups, open_count


def _require_own_rows(
    shares: ir.Value,
    *,
    mask: ir.Value,
    spread_shape: ir.Value,
    shape_of_zeros: ir.Value | None = None,
    **_others: Any,
) -> None:
    """Refuse a mask with other rows than the scores.

    Groups are whole rows of the scores, so what has the shape of their strengths has one row for each row of those.
    Expand adds no rows if all sizes that it is given but the last two are 1.
    """
    sizes = facts.integers(spread_shape)
    by_row = shape_of_zeros is not None and sizes is not None and set(sizes[:-2]) <= {1}
    by_row = by_row and facts.rank(mask) == 2 == facts.rank(shares)
    by_row = by_row and facts.static_dim(mask, -1) == facts.static_dim(shares, -1)
    known = by_row or facts.same_shape(mask, shares)
    require(known, Reason.UNKNOWN, f"{facts.describe(mask)} must be as large as {facts.describe(shares)}")


FUSE_ROUTER = Rule("fuse-router", (gathered, of_largest_sigmoids), routed, min_opset=MIN_OPSET)
