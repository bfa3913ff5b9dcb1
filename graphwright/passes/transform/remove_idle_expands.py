"""Remove an ``Expand`` from an operand where broadcasting does its work anyway.

Before:                                         After:
    x [1,T] -- Expand -- [B,T] --+                  x [1,T] ---+
    other [B,T] -----------------+-- Add -- y       other -----+-- Add -- y

Along each axis of y either x or the other operand must have y's size already: the result is then the same without the
Expand. It goes with its last user, and what computed its target too. Each application takes one user from an Expand.

Shapes:    x of any known rank, other and y of known ranks, sizes known by number or by name.
Dtypes:    any.
Refuses:   OPSET below 13; UNKNOWN sizes of which it is not known that x or the other operand has them.
Numerics:  the same.
Source:    ONNX, Broadcasting.md; ONNX operator Expand-13.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require

EITHER_ORDER = ("Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min")
ORDERED = ("Sub", "Div", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")


def operand(op: PatternOps, x: Var, other: Var) -> Named:
    expanded = op.keep(op.Expand(x, op.var("_target")))
    return op.named("y", op.any_of(*_pairs(op, expanded, other)))


def _pairs(op: PatternOps, expanded: Op, other: Var) -> list[object]:
    either = [getattr(op, each)(expanded, other) for each in EITHER_ORDER]
    ordered = [pair for each in ORDERED for pair in _both(op, each, expanded, other)]
    return [*either, *ordered]


def _both(op: PatternOps, operator: str, expanded: Op, other: Var) -> tuple[object, object]:
    make = getattr(op, operator)
    return make(expanded, other), make(other, expanded)


def chosen(op: PatternOps, x: Var, other: Var, condition: Var) -> Named:
    expanded = op.keep(op.Expand(x, op.var("_target")))
    return op.named("y", op.any_of(op.Where(condition, expanded, other), op.Where(condition, other, expanded)))


def broadcast(op: Builder, x: ir.Value, other: ir.Value, y: ir.Value, condition: ir.Value | None) -> ir.Value:
    given = [each for each in (x, other, condition) if each is not None]
    count = facts.rank(y)
    known = count is not None and all(facts.rank(each) is not None for each in given)
    require(known, Reason.UNKNOWN, f"a rank of {', '.join(map(facts.describe, [*given, y]))}")
    for axis in range(-(count or 0), 0):
        size = facts.dim(y, axis)
        found = any(facts.same_dim(facts.dim(each, axis), size) for each in given)
        detail = f"axis {axis} of {facts.describe(y)} from {', '.join(map(facts.describe, given))}"
        require(found, Reason.UNKNOWN, detail)
    node = y.producer()
    assert node is not None
    kept = set(given)
    return op.copy(node, [each if each in kept else x for each in node.inputs])


REMOVE_IDLE_EXPANDS = Rule("remove-idle-expands", (operand, chosen), broadcast)
