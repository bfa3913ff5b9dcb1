"""Give ``Reshape`` a constant target where the sizes of its result are known.

Before:                                            After:
    x [B,S,32] --+------------ Reshape -- y            x -- Reshape [0, 0, 4, 8] -- y [B,S,4,8]
                 +-- Shape .. Concat --+

Exporters compute the target from the sizes of other values. A number is written as it is, a size that stands at the
same place in x is copied from there (0), and one other may follow from the rest (-1). The nodes that computed the
target go, and with them the readers of sizes that keep other rules from taking out a value.

Shapes:    x and y of known ranks; each size of y a number, or named and at the same axis of x, or the only other.
Dtypes:    any.
Refuses:   UNKNOWN ranks, or several sizes that are neither numbers nor those of x; SHAPE a size of 0; another number
           of elements than x has; a size that follows from the rest beside one that may be 0, unless the
           source says -1 there too.
Numerics:  the same.
Source:    ONNX operator Reshape-21.
"""

from math import prod

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require

COPIED, INFERRED = 0, -1


def computed_target(op: PatternOps, x: Var, target: Var) -> Named:
    return op.named("y", op.Reshape(x, op.check(target, "a target that is computed", _is_computed)))


def _is_computed(target: ir.Value) -> bool:
    return target.producer() is not None and facts.constant(target) is None


def constant_target(op: Builder, x: ir.Value, target: ir.Value, y: ir.Value) -> ir.Value:
    count = facts.rank(y)
    detail = f"{facts.describe(x)} becomes {facts.describe(y)}"
    require(count is not None and facts.rank(x) is not None, Reason.UNKNOWN, detail)
    sizes = [_size(x, y, axis) for axis in range(count or 0)]
    require(sizes.count(INFERRED) < 2, Reason.UNKNOWN, detail)
    require(None not in sizes, Reason.SHAPE, f"{detail}: 0 in a target copies a size")
    require(_fills(x, sizes), Reason.SHAPE, f"{detail}, which has another number of elements")
    if INFERRED in sizes and COPIED in sizes:
        said = _said(target, sizes.index(INFERRED)) == INFERRED
        require(said, Reason.SHAPE, f"{detail}: beside a size of 0 none follows from the rest")
    settled: ir.Value = op.Reshape(x, np.asarray(sizes, np.int64))
    return settled


def _size(x: ir.Value, y: ir.Value, axis: int) -> int | None:
    """Return what a target says for one axis; None for a size of 0, which it cannot say."""
    size = facts.dim(y, axis)
    if isinstance(size, int):
        return size or None
    return COPIED if facts.same_dim(size, facts.dim(x, axis)) else INFERRED


def _fills(x: ir.Value, sizes: list[int | None]) -> bool:
    """Tell whether the elements of x, as far as they are known, can be as many as a target says."""
    copied = [axis for axis, size in enumerate(sizes) if size == COPIED]
    rest = [facts.static_dim(x, axis) for axis in range(facts.rank(x) or 0) if axis not in copied]
    known = [size for size in rest if size is not None]
    if len(known) < len(rest):
        return True
    told = prod(size for size in sizes if size is not None and size > 0)
    return prod(known) % told == 0 if INFERRED in sizes else prod(known) == told


def _said(target: ir.Value, place: int) -> int | None:
    """Return the number that a target joined of single sizes has at a place, or None."""
    node = target.producer()
    if node is None or node.op_type != "Concat" or any(facts.static_dim(each, 0) != 1 for each in node.inputs):
        return None
    numbers = facts.integers(node.inputs[place])
    return numbers[0] if numbers is not None else None


SETTLE_RESHAPES = Rule("settle-reshapes", (computed_target,), constant_target)
