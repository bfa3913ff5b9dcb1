"""Merge two nodes in a row that only change how axes are read: ``Reshape``, ``Squeeze``, ``Unsqueeze``, ``Flatten``.

Before:                                                        After:
    x [B,T] -- Unsqueeze -- Unsqueeze -- y [B,1,1,T]               x -- Unsqueeze [1, 2] -- y

    x [B,H,T] -- Reshape -- [B*H,1,T] -- Reshape -- y [B,H,1,T]    x -- Unsqueeze [2] -- y

    x [1,1,T] -- Squeeze -- Squeeze -- y [T]                       x -- Squeeze [0, 1] -- y

    x [B,T,8] -- Unsqueeze -- Reshape -- y [B,T,2,4]               x -- Reshape [0, 0, 2, 4] -- y

    x [B,T] -- Unsqueeze -- Squeeze -- y [B,T]                     x

The numbers stay in their order, so the shapes of x and y say all there is to say: y is x, x with axes of size 1 put in
or taken out, or x in another shape, of which numbers and the sizes that stand at the same place in x are known, and one
other follows. It runs last, since rules before it know such pairs as exporters write them.

Shapes:    x and y of known ranks; sizes that are neither numbers nor those of x at most one.
Dtypes:    any.
Refuses:   OPSET below 13; UNKNOWN ranks, or several sizes that are neither numbers nor those of x; SHAPE a size of 0,
           or a size that follows from the rest beside one that may be 0, unless the source says -1 there; SHARED and
           GRAPH_OUTPUT a first result that others need, unless y is x.
Numerics:  the same.
Source:    ONNX operators Reshape-21, Squeeze-21 and Unsqueeze-21.
"""

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, Op, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require

COPIED, INFERRED = 0, -1


def _views(op: PatternOps, x: Pattern, name: str) -> list[Op]:
    given = op.var(name)
    return [op.Reshape(x, given), op.Unsqueeze(x, given), op.Squeeze(x, given), op.Squeeze(x), op.Flatten(x)]


def two_views(op: PatternOps, x: Var) -> Named:
    first = op.named("middle", op.any_of(*map(op.keep, _views(op, x, "first"))))
    return op.named("y", op.any_of(*_views(op, first, "second")))


def one_view(op: Builder, x: ir.Value, middle: ir.Value, y: ir.Value) -> ir.Value:
    detail = f"{facts.describe(x)} becomes {facts.describe(y)}"
    require(x.shape is not None and y.shape is not None, Reason.UNKNOWN, detail)
    if facts.same_shape(x, y):
        return x
    # With another user of the first there would be as many nodes as before.
    require(len(middle.uses()) == 1, Reason.SHARED, f"{middle.name} is used by others too")
    require(not middle.is_graph_output(), Reason.GRAPH_OUTPUT, f"{middle.name} is a graph output")
    made: ir.Value
    added = _ones_between(x, y)
    if added is not None:
        made = op.Unsqueeze(x, added)
        return made
    removed = _ones_between(y, x)
    if removed is not None:
        made = op.Squeeze(x, removed)
        return made
    made = op.Reshape(x, np.asarray(_target(x, y, detail), np.int64))
    return made


def _ones_between(small: ir.Value, large: ir.Value) -> list[int] | None:
    """Return the axes of size 1 that the larger shape has between the sizes of the smaller one, if that is all."""
    found, place = [], 0
    for axis in range(facts.rank(large) or 0):
        if facts.same_dim(facts.dim(small, place), facts.dim(large, axis)) and place < (facts.rank(small) or 0):
            place += 1
        elif facts.dim(large, axis) == 1:
            found.append(axis)
        else:
            return None
    return found if place == facts.rank(small) else None


def _target(x: ir.Value, y: ir.Value, detail: str) -> list[int]:
    """Return y's sizes as Reshape takes them: numbers, 0 for a size that x has at this place, -1 for the rest."""
    sizes = []
    for axis in range(facts.rank(y) or 0):
        size = facts.dim(y, axis)
        require(size != 0, Reason.SHAPE, f"{detail}: 0 in a target copies a size")
        same = axis < (facts.rank(x) or 0) and facts.same_dim(size, facts.dim(x, axis))
        sizes.append(size if isinstance(size, int) else COPIED if same else INFERRED)
    require(sizes.count(INFERRED) < 2, Reason.UNKNOWN, detail)
    if INFERRED in sizes and COPIED in sizes:
        said = _said(y, sizes.index(INFERRED)) == INFERRED
        require(said, Reason.SHAPE, f"{detail}: beside a size of 0 none follows from the rest")
    return sizes


def _said(y: ir.Value, axis: int) -> int | None:
    """Return what the second node's own target says for one axis, if it is a Reshape of a constant."""
    node = y.producer()
    target = facts.integers(node.inputs[1]) if node is not None and node.op_type == "Reshape" else None
    return None if target is None else target[axis]


MERGE_RESHAPES = Rule("merge-reshapes", (two_views,), one_view)
