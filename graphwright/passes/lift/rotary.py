"""What the passes over rotary positions share: parts of a last axis, tables that say everything twice; no rule.

Positions turn pairs of numbers of x, each by an angle. The table of the cosines (and of the sines) of r/2 angles is
made as long as the r numbers that are turned: by halves, [a b] -> [a b a b], where number i is paired with i + r/2, or
by neighbours, [a b] -> [a a b b], where number 2i is paired with 2i + 1.
"""

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Checked, Op, Pattern, PatternOps, Var

# The input types of RotaryEmbedding-23.
FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT})
# Constants with more numbers are weights, not tables of positions: 131,072 positions of 128 numbers.
LARGEST_TABLE = 1 << 24
# Names of one pattern's values that nobody asks for start with this.
_UNUSED = "_"


def sliced(op: PatternOps, x: Pattern, name: str) -> Op:
    """Match any Slice of ``x``; ``part`` tells which."""
    bounds = (Var(f"{_UNUSED}{name}_{bound}", optional=True) for bound in ("starts", "ends", "axes", "steps"))
    node: Op = op.Slice(x, *bounds)
    return node


def halves(op: PatternOps, x: Pattern, name: str) -> tuple[Checked, Checked]:
    """Match the first and the second half of the last axis of ``x``, by Slice or by one Split."""
    split = op.Split(x, Var(f"{_UNUSED}{name}_sizes", optional=True), _outputs=2)
    first, second = (op.any_of(sliced(op, x, f"{name}{index}"), split[index]) for index in (0, 1))
    return (
        op.check(first, "the first half of a last axis", lambda value: _is_half(value, 0)),
        op.check(second, "the second half of a last axis", lambda value: _is_half(value, 1)),
    )


def neighbours(op: PatternOps, x: Pattern, name: str) -> tuple[Checked, Checked]:
    """Match the numbers of the last axis of ``x`` at even places, and those at odd places."""
    even, odd = (sliced(op, x, f"{name}{index}") for index in (0, 1))
    return (
        op.check(even, "each other number of a last axis", lambda value: _is_each_other(value, 0)),
        op.check(odd, "each other number of a last axis, from the second on", lambda value: _is_each_other(value, 1)),
    )


def head_and_tail(op: PatternOps, whole: Pattern, name: str) -> tuple[Checked, Checked]:
    """Match the first numbers of the last axis of ``whole``, and all those behind them, by Slice or by one Split."""
    split = op.Split(whole, Var(f"{_UNUSED}{name}_sizes", optional=True), _outputs=2)
    head, tail = (op.any_of(sliced(op, whole, f"{name}{index}"), split[index]) for index in (0, 1))
    return (
        op.check(head, "the first numbers of a last axis", _is_head),
        op.check(tail, "the last numbers of a last axis", _is_tail),
    )


def by_halves(op: PatternOps, half: Pattern) -> Op:
    """Match [a b] -> [a b a b] without consuming it."""
    return op.keep(op.Concat(half, half, axis=-1))


def by_neighbours(op: PatternOps, half: Pattern, name: str) -> Checked:
    """Match [a b] -> [a a b b] without consuming it: a new last axis, of which there are two, joined to the one before.

    The two are an Expand, a Tile or a Concat.
    """
    column = op.keep(op.Unsqueeze(half, op.var(f"{_UNUSED}{name}_axes")))
    times = op.var(f"{_UNUSED}{name}_times")
    twice = op.any_of(
        op.keep(op.Expand(column, times)),
        op.keep(op.Tile(column, times)),
        op.keep(op.Concat(column, column, axis=-1)),
    )
    joined = op.keep(op.Reshape(twice, op.var(f"{_UNUSED}{name}_shape")))
    return op.check(joined, "each number of a last axis twice, side by side", _joins_pairs)


def stacked(op: PatternOps, first: Pattern, second: Pattern, name: str) -> Checked:
    """Match [a b], [c d] -> [a c b d]: a new last axis of the two, joined to the one before."""
    columns = (op.Unsqueeze(each, op.var(f"{_UNUSED}{name}_axes{index}")) for index, each in enumerate((first, second)))
    joined = op.Reshape(op.Concat(*columns, axis=-1), op.var(f"{_UNUSED}{name}_shape"))
    return op.check(joined, "the numbers of two last axes in turn", _joins_pairs)


def doubled(op: PatternOps, half: Pattern, name: str) -> AnyOf:
    """Match a last axis of numbers that are there twice; the tag ``name`` says whether by halves or by neighbours."""
    return op.any_of(by_halves(op, half), by_neighbours(op, half, name), tag=name)


def part(value: ir.Value) -> tuple[int, int, int, int] | None:
    """Return start, stop and step of what a Slice or Split takes of a last axis, and that axis' size, or None."""
    node = value.producer()
    size = facts.static_dim(node.inputs[0], -1) if node is not None and node.inputs else None
    if node is None or size is None or node.domain:
        return None
    if node.op_type == "Slice":
        return _sliced(node, size)
    last = (facts.rank(node.inputs[0]) or 0) - 1
    if node.op_type != "Split" or facts.attribute(node, "axis") not in (-1, last):
        return None
    sizes = [facts.static_dim(each, -1) for each in node.outputs]
    before = sizes[: value.index()]
    taken = facts.static_dim(value, -1)
    if taken is None or None in before:
        return None
    start = sum(each for each in before if each is not None)
    return start, start + taken, 1, size


def _sliced(node: ir.Node, size: int) -> tuple[int, int, int, int] | None:
    starts, ends, axes, steps = (_number(node, index) for index in range(1, 5))
    count = facts.rank(node.inputs[0])
    if starts is None or ends is None or axes is None or count is None or axes % count != count - 1:
        return None
    step = 1 if len(node.inputs) < 5 or node.inputs[4] is None else steps
    if step is None or step < 1:
        return None
    start, stop, _ = slice(starts, ends).indices(size)
    return start, stop, step, size


def _number(node: ir.Node, index: int) -> int | None:
    """Return the only number of a Slice's bounds; None where there are several, or none."""
    numbers = facts.integers(node.inputs[index]) if index < len(node.inputs) else None
    return numbers[0] if numbers is not None and len(numbers) == 1 else None


def is_one_half(value: ir.Value) -> bool:
    """Tell whether a value is the first or the second half of a last axis."""
    return _is_half(value, 0) or _is_half(value, 1)


def _is_half(value: ir.Value, which: int) -> bool:
    found = part(value)
    if found is None:
        return False
    start, stop, step, size = found
    return step == 1 and size % 2 == 0 and (start, stop) == (which * size // 2, (which + 1) * size // 2)


def _is_each_other(value: ir.Value, first: int) -> bool:
    found = part(value)
    return found is not None and found[3] % 2 == 0 and found == (first, found[3], 2, found[3])


def _is_head(value: ir.Value) -> bool:
    found = part(value)
    return found is not None and found[0] == 0 and found[2] == 1


def _is_tail(value: ir.Value) -> bool:
    found = part(value)
    return found is not None and found[1] == found[3] and found[2] == 1


def _joins_pairs(value: ir.Value) -> bool:
    """Tell whether a Reshape joins a last axis of two, new and made twice, to the one before it, and nothing else."""
    reshape = value.producer()
    pairs = reshape.inputs[0] if reshape is not None else None
    maker = pairs.producer() if pairs is not None else None
    if pairs is None or maker is None:
        return False
    columns = maker.inputs if maker.op_type == "Concat" else maker.inputs[:1]
    if not all(_adds_last_axis(column) and _is_alike(column, pairs, -1) for column in columns):
        return False
    count, size = facts.rank(pairs), facts.static_dim(pairs, -2)
    joins = size is not None and facts.static_dim(value, -1) == 2 * size and facts.static_dim(pairs, -1) == 2
    return joins and count is not None and facts.rank(value) == count - 1 and _is_alike(value, pairs, -2)


def _adds_last_axis(column: ir.Value | None) -> bool:
    node = column.producer() if column is not None else None
    axes, count = (facts.integers(node.inputs[1]), facts.rank(column)) if node is not None else (None, None)
    return axes is not None and count is not None and count - 1 in [axis % count for axis in axes]


def _is_alike(first: ir.Value | None, second: ir.Value, end: int) -> bool:
    """Tell whether two values are known to have the same sizes up to a negative axis of the second."""
    count = (facts.rank(second) or 0) + end
    return all(facts.same_dim(facts.dim(first, axis), facts.dim(second, axis)) for axis in range(count))


def is_table_by_halves(value: ir.Value) -> bool:
    """Tell whether a value is a constant whose rows hold all numbers twice, by halves."""
    tensor = facts.constant(value)
    if tensor is None or not 2 <= len(tensor.shape) <= 4 or not 0 < tensor.size <= LARGEST_TABLE:
        return False
    size = facts.static_dim(value, -1) or 1
    if size % 2 or tensor.dtype not in FLOATS:
        return False
    rows = tensor.numpy().reshape(-1, size)
    first, second = rows[:, : size // 2], rows[:, size // 2 :]
    return np.array_equal(first[0], second[0]) and np.array_equal(first, second)


def first_half(value: ir.Value) -> np.ndarray:
    """Return the first half of each row of a constant table."""
    tensor = facts.constant(value)
    assert tensor is not None
    rows = tensor.numpy()
    return np.ascontiguousarray(rows[..., : rows.shape[-1] // 2])


def axes_of_half(table: ir.Value, half: ir.Value) -> list[int]:
    """Return the axes of a table that the axes of its half have become."""
    axes: list[int] = list(range(facts.rank(table) or 0))
    value: ir.Value | None = table
    while value is not None and value is not half:
        node = value.producer()
        assert node is not None
        if node.op_type == "Reshape":
            axes.append(-1)
        elif node.op_type == "Unsqueeze":
            added = [axis % len(axes) for axis in facts.integers(node.inputs[1]) or ()]
            axes = [axis for place, axis in enumerate(axes) if place not in added]
        value = node.inputs[0]
    return axes
