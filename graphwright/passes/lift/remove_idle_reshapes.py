"""Remove ``Reshape`` and ``Expand`` nodes that give back what they take.

Before:                                 After:
    x [B,H,S,D] -- Reshape -- y [B,H,S,D]   x

Exporters emit them where a size was only known when the model ran; with shapes inferred, they are seen to be idle.

Shapes:    x and y of the same shape, known by number or by name.
Dtypes:    any.
Refuses:   UNKNOWN shapes that may be equal and are not known to be. Where a number differs, it does not match.
Numerics:  the same.
Source:    ONNX operators Reshape-21 and Expand-13.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require


def reshape(op: PatternOps, x: Var, shape: Var) -> Named:
    return op.named("y", op.check(op.Reshape(x, shape), "a shape that may be its input's", _may_be_idle))


def expand(op: PatternOps, x: Var, shape: Var) -> Named:
    return op.named("y", op.check(op.Expand(x, shape), "a shape that may be its input's", _may_be_idle))


def _may_be_idle(y: ir.Value) -> bool:
    """Tell whether no number says that a node changes a shape: where one does, nobody expects it to go."""
    node = y.producer()
    x = node.inputs[0] if node is not None else None
    count = facts.rank(y)
    if x is None or count is None or facts.rank(x) is None:
        return True
    if count != facts.rank(x):
        return False
    sizes = ((facts.static_dim(x, axis), facts.static_dim(y, axis)) for axis in range(count))
    return all(before is None or after is None or before == after for before, after in sizes)


def itself(op: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    same = facts.same_shape(x, y)
    require(same, Reason.UNKNOWN, f"{facts.describe(x)} is not known to have the shape of {facts.describe(y)}")
    return x


REMOVE_IDLE_RESHAPES = Rule("remove-idle-reshapes", (reshape, expand), itself)
