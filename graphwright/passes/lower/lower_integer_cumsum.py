"""Spell ``CumSum`` of integers, which TensorRT adds up in floats only.

Before:                        After, 0 and 1 (a mask):
    x [.., N] -- CumSum -- y       x -- Cast float32 -- CumSum -- Cast -- y

                               After, any integers:
                                   x -- Unsqueeze [.., 1, N] -- Where(column <= row [N, N], x, 0) -- ReduceSum -- y

Counts below 2^24 are exact in float32, and a mask that long there is none. Other integers are added up by ReduceSum,
in N times N additions; the comparison is "<" for ``exclusive`` and turns round for ``reverse``.

Shapes:    x [..., N, ...] of known rank with the axis a constant; any size may be dynamic.
Dtypes:    int32, int64; what is made of booleans by Cast counts as 0 and 1.
Refuses:   DTYPE floats, which TensorRT takes, and other types; CONSTANT an axis that is computed; UNKNOWN rank.
Numerics:  the same numbers.
Source:    ONNX operator CumSum-14; ``tensorrt_operators`` for the types.
"""

import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require

INTEGERS = {ir.DataType.INT32, ir.DataType.INT64}


def running_sum(op: PatternOps, x: Var, axis: Var) -> Op:
    node: Op = op.CumSum(x, axis, exclusive=op.attr("exclusive"), reverse=op.attr("reverse"))
    return node


def spelled(op: Builder, x: ir.Value, axis: ir.Value, exclusive: int, reverse: int) -> ir.Value:
    require(x.dtype in INTEGERS, Reason.DTYPE, f"{x.name} is {x.dtype}; needs int32 or int64")
    found = facts.integers(axis)
    require(found is not None and len(found) == 1, Reason.CONSTANT, f"the axis {axis.name} is computed")
    rank = facts.rank(x)
    require(bool(rank), Reason.UNKNOWN, f"the rank of {x.name} is not known")
    assert found is not None and rank and x.dtype is not None
    if _is_zero_or_one(x):
        total = op.CumSum(op.Cast(x, to=ir.DataType.FLOAT.value), axis, exclusive=exclusive, reverse=reverse)
        counted: ir.Value = op.Cast(total, to=x.dtype.value)
        return counted
    place = found[0] % rank
    to_last = [*(each for each in range(rank) if each != place), place]
    # An exchange of one axis for the last is undone by sorting where each went.
    back = sorted(range(rank), key=to_last.__getitem__)
    moved = x if place == rank - 1 else op.Transpose(x, perm=to_last)
    summed = op.ReduceSum(op.Where(_counted(op, moved, exclusive, reverse), _row(op, moved), _zero(op, x)), [-1])
    squeezed = op.Squeeze(summed, [-1])
    result: ir.Value = squeezed if place == rank - 1 else op.Transpose(squeezed, perm=back)
    return result


def _is_zero_or_one(value: ir.Value) -> bool:
    """Tell whether integers are made of booleans, through any number of casts and moves."""
    for _ in range(ranges.MAX_DEPTH):
        node = value.producer()
        if node is None or node.domain or node.inputs[0] is None:
            return False
        if node.op_type != "Cast" and node.op_type not in ranges.MOVES:
            return False
        if value.dtype not in INTEGERS:
            return False
        value = node.inputs[0]
        if value.dtype == ir.DataType.BOOL:
            return node.op_type == "Cast"
    return False


def _counted(op: Builder, moved: ir.Value, exclusive: int, reverse: int) -> ir.Value:
    """Return [N, N]: which columns count for which row."""
    size = op.Gather(op.Shape(moved), _scalar(op, -1))
    places = op.Range(_scalar(op, 0), size, _scalar(op, 1))
    column, row = op.Unsqueeze(places, [0]), op.Unsqueeze(places, [1])
    first, second = (row, column) if reverse else (column, row)
    kept: ir.Value = op.Less(first, second) if exclusive else op.LessOrEqual(first, second)
    return kept


def _scalar(op: Builder, number: int) -> ir.Value:
    return op.constant(ir.tensor(number, ir.DataType.INT64), "number")


def _zero(op: Builder, like: ir.Value) -> ir.Value:
    assert like.dtype is not None
    return op.constant(ir.tensor(0, like.dtype), "zero")


def _row(op: Builder, moved: ir.Value) -> ir.Value:
    row: ir.Value = op.Unsqueeze(moved, [-2])
    return row


LOWER_INTEGER_CUMSUM = Rule("lower-integer-cumsum", (running_sum,), spelled)
