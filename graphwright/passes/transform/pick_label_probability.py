"""Compute the probability of given classes from their logits and two numbers a row, without the whole softmax.

Before:                                  After:
    x -- Softmax -- Gather(labels) -- y      x --+-- Gather(labels) ----------------------- - m - s -- Exp -- y
                                                 +-- softmax_topk<k=1, stats> -- m, s ------+

m is the largest logit, s the logarithm of the sum of the exponentials above it. Gather may be GatherElements, or a
Slice of some columns; LogSoftmax has no Exp after. The logits may be cast to float32 before.

Shapes:    x [..., V, ...] with V on any axis; fewer classes than V are taken of each row; other sizes may be dynamic.
Dtypes:    x float32, float16, bfloat16; y the same three.
Refuses:   OPSET below 20; DTYPE not listed; UNKNOWN a type, a rank, V, or how many classes are taken; ATTRIBUTE classes
           taken from another axis, or from several; SHAPE as many classes as there are, or labels for a part of the
           rows; SHARED and GRAPH_OUTPUT the probabilities of all classes.
Numerics:  exp(x - m - log(sum)) for exp(x - m) / sum: off by 1e-7 times the distance from the largest logit.
           Ends because each application removes a softmax and makes none.
Source:    Milakov and Gimelshein 2018 (online softmax), arXiv:1805.02867, section 2.
"""

import math

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Named, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.selection import (
    FLOAT,
    MIN_OPSET,
    cast_like,
    in_float32,
    require_axis,
    require_float,
    require_logits,
    softmax,
)
from graphwright.plugins.hars.meaning import call_softmax_topk


def _shares(op: PatternOps, logits: Var) -> AnyOf:
    return softmax(op, in_float32(op, logits))


def gathered(op: PatternOps, logits: Var, labels: Var) -> Named:
    return op.named("y", op.Gather(_shares(op, logits), labels, axis=op.attr("axis")))


def gathered_by_row(op: PatternOps, logits: Var, labels: Var) -> Named:
    return op.named("y", op.GatherElements(_shares(op, logits), labels, axis=op.attr("axis")))


def sliced(op: PatternOps, logits: Var, starts: Var, ends: Var, axes: Var, steps: Var | None = None) -> Named:
    return op.named("y", op.Slice(_shares(op, logits), starts, ends, axes, steps))


def picked(
    op: Builder,
    logits: ir.Value,
    y: ir.Value,
    kind: int,
    softmax_axis: int,
    axis: int | None,
    labels: ir.Value | None,
    axes: ir.Value | None,
) -> ir.Value:
    require_logits(logits)
    require_float(y)
    found = facts.integers(axes) if axis is None else (axis,)
    one = found is not None and len(found) == 1
    require(one, Reason.ATTRIBUTE, f"{facts.describe(axes)} is no constant axis")
    assert found is not None
    place = require_axis(logits, softmax_axis, found[0])
    rank = facts.rank(logits)
    require(rank is not None, Reason.UNKNOWN, f"the rank of {logits.name} is not known")
    assert rank is not None
    node = y.producer()
    assert node is not None
    _require_few(logits, place, _size(labels) if node.op_type == "Gather" else facts.static_dim(y, place))
    if node.op_type == "GatherElements":
        _require_same_rows(logits, labels, place % rank)
    chosen = op.copy(node, [logits, *node.inputs[1:]])
    chosen = chosen if logits.dtype == FLOAT else op.Cast(chosen, to=FLOAT.value)
    _, _, maximum, log_sum = call_softmax_topk(op, logits, k=1, axis=place, stats=True)
    # Gather puts the axes of its labels in place of the classes.
    added = facts.rank(labels) if node.op_type == "Gather" else 1
    if added:
        spread = list(range(place % rank, place % rank + added))
        maximum, log_sum = op.Unsqueeze(maximum, spread), op.Unsqueeze(log_sum, spread)
    logarithm = op.Sub(op.Sub(chosen, maximum), log_sum)
    return cast_like(op, logarithm if kind else op.Exp(logarithm), y)


def _size(labels: ir.Value | None) -> int | None:
    """Return how many labels there are, where that is known."""
    rank = facts.rank(labels)
    sizes = [facts.static_dim(labels, axis) for axis in range(rank or 0)]
    known = [size for size in sizes if size is not None]
    return math.prod(known) if rank is not None and len(known) == rank else None


def _require_few(logits: ir.Value, axis: int, count: int | None) -> None:
    """Refuse unless fewer classes are taken than there are."""
    classes = facts.static_dim(logits, axis)
    detail = f"takes {'unknown' if count is None else count} of {facts.describe(logits)} on axis {axis}"
    require(count is not None and classes is not None, Reason.UNKNOWN, detail)
    assert count is not None
    assert classes is not None
    require(count < classes, Reason.SHAPE, detail)


def _require_same_rows(logits: ir.Value, labels: ir.Value | None, axis: int) -> None:
    """Refuse labels that are not known to be there for each row: GatherElements also takes those of a part."""
    detail = f"{facts.describe(labels)} must have a row for each of {facts.describe(logits)}"
    for each in range(facts.rank(logits) or 0):
        here, there = facts.dim(logits, each), facts.dim(labels, each)
        if each != axis:
            require(not (isinstance(here, int) and isinstance(there, int) and here != there), Reason.SHAPE, detail)
            require(facts.same_dim(here, there), Reason.UNKNOWN, detail)


PICK_LABEL_PROBABILITY = Rule(
    "pick-label-probability", (gathered, gathered_by_row, sliced), picked, min_opset=MIN_OPSET
)
