"""Compute a table of rotary positions before its numbers are doubled, not after.

Before:                                        After:
    angles -- [a b a b] -- Cos -- table            angles -- Cos -- [a b a b] -- table

Each angle turns two numbers, so exporters make the angles twice: by halves, ``Concat(a, a)``, or by neighbours, a
new last axis of two joined to the one before it. The doubling moves behind cosine, sine, casts, and products with
and quotients by one number, each time one operator nearer to the end; where only one half is taken again, both go.
A constant table whose halves are the same is read as half of it. Then ``fuse-rotary`` sees that they are.

Shapes:    angles [..., r/2], table [..., r]; r is a number, other sizes may be names. A constant table: 2 to 4 axes,
           at most 2^24 numbers, read by Gather along its first axis or by Slice of other axes than the last.
Dtypes:    those of the operators; a constant table: float16, bfloat16, float32.
Refuses:   RANK a number with more axes than the angles.
Numerics:  the same bits, computed once.
Source:    Su et al. 2021, arXiv:2104.09864; ONNX operators Cos-22, Sin-22, Concat-13.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Checked, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.lift import rotary


def of_each(op: PatternOps, half: Var) -> AnyOf:
    double = op.named("double", rotary.doubled(op, half, "doubling"))
    number = op.check(op.var("number"), "a constant number", lambda value: facts.scalar(value) is not None)
    # A mask of whole groups, as routers have it, is doubled too and cast to bool; it is no table.
    cast = op.check(op.Cast(double), "a cast to floats", _is_float)
    made = (op.Cos(double), op.Sin(double), cast, op.Mul(double, number), op.Div(double, number))
    return op.any_of(*(op.named("table", each) for each in made))


def half_again(op: PatternOps, half: Var) -> Checked:
    double = rotary.by_halves(op, half)
    wide = op.any_of(double, op.keep(op.Unsqueeze(double, op.var("axes"))))
    return op.check(rotary.sliced(op, wide, "again"), "one of the two halves", rotary.is_one_half)


def read_constant(op: PatternOps, whole: Var) -> AnyOf:
    table = op.check(whole, "a constant table with equal halves", rotary.is_table_by_halves)
    reads = (op.Gather(table, op.var("_places"), axis=0), op.check(rotary.sliced(op, table, "read"), "rows", _is_rows))
    return op.any_of(*(op.named("table", each) for each in reads))


def _is_float(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.is_floating_point()


def _is_rows(value: ir.Value) -> bool:
    """Tell whether a Slice takes nothing of a last axis away."""
    node = value.producer()
    axes = facts.integers(node.inputs[3]) if node is not None and len(node.inputs) > 3 else None
    count = facts.rank(value)
    return axes is not None and count is not None and count - 1 not in [axis % count for axis in axes]


def doubled_later(
    op: Builder,
    half: ir.Value,
    table: ir.Value | None,
    double: ir.Value | None,
    number: ir.Value | None,
    axes: ir.Value | None,
    whole: ir.Value | None,
) -> ir.Value:
    if table is None:
        return half if axes is None else op.Unsqueeze(half, axes)
    node = table.producer()
    assert node is not None
    if whole is not None:
        rows = op.copy(node, [op.constant(rotary.first_half(whole), "table"), *node.inputs[1:]])
        if table.shape is not None:
            rows.shape = ir.Shape([*table.shape[:-1], (facts.static_dim(table, -1) or 0) // 2])
        twice: ir.Value = op.Concat(rows, rows, axis=-1)
        return twice
    assert double is not None
    fits = (facts.rank(number) or 0) <= (facts.rank(half) or 0)
    require(fits, Reason.RANK, f"{facts.describe(number)} adds axes to {facts.describe(half)}")
    made = op.copy(node, [half if value is double else value for value in node.inputs])
    made.shape = half.shape
    return _again(op, double, half, made)


def _again(op: Builder, double: ir.Value, half: ir.Value, made: ir.Value) -> ir.Value:
    """Return ``made`` doubled in the way in which ``double`` was made of ``half``."""
    if double is half:
        return made
    node = double.producer()
    assert node is not None and node.inputs[0] is not None
    first = _again(op, node.inputs[0], half, made)
    copy = op.copy(node, [first, *([first] if node.op_type == "Concat" else node.inputs[1:])])
    copy.shape = double.shape
    return copy


HALVE_ROTARY_TABLES = Rule("halve-rotary-tables", (read_constant, of_each, half_again), doubled_later)
