"""Remove ``Reshape`` and ``Expand`` nodes that give back what they take.

Before:                                 After:
    x [B,H,S,D] -- Reshape -- y [B,H,S,D]   x

Exporters emit them where a size was only known when the model ran; with shapes inferred, they are seen to be idle.

Shapes:    x and y of the same shape, known by number or by name.
Dtypes:    any.
Refuses:   UNKNOWN shapes that are not known to be equal.
Numerics:  the same.
Source:    ONNX operators Reshape-21 and Expand-13.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require


def reshape(op: PatternOps, x: Var, shape: Var) -> Named:
    return op.named("y", op.Reshape(x, shape))


def expand(op: PatternOps, x: Var, shape: Var) -> Named:
    return op.named("y", op.Expand(x, shape))


def itself(op: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    same = facts.same_shape(x, y)
    require(same, Reason.UNKNOWN, f"{facts.describe(x)} is not known to have the shape of {facts.describe(y)}")
    return x


REMOVE_IDLE_RESHAPES = Rule("remove-idle-reshapes", (reshape, expand), itself)
