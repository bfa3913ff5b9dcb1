"""Where the elements of a value come from: what views do to axes, and numbers that are places on them; no rule.

Axes count from the end (-1 is the last), so that broadcasting leaves them as they are.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.facts import Dim

# Operators that keep the elements in row-major order.
VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
_INTEGERS = {ir.DataType.INT32.value, ir.DataType.INT64.value}


def dims(value: ir.Value | None) -> list[Dim | None] | None:
    """Return the sizes of a value, None for those that are not known, or None where its rank is not."""
    count = facts.rank(value)
    return None if count is None else [facts.dim(value, axis) for axis in range(count)]


def through_view(before: ir.Value, after: ir.Value, axes: Sequence[int]) -> tuple[int, ...] | None:
    """Return where axes of ``before`` are in ``after``, which holds the same elements in the same order.

    An axis stays where its size does and as many elements stand before it.

    Example:
        >>> x, y = (ir.Value(name=n, shape=ir.Shape(s)) for n, s in (("x", ["B", "S", 8]), ("y", ["B", "S", 2, 4])))
        >>> through_view(x, y, (-3, -2)), through_view(x, y, (-1,))
        ((-4, -3), None)
    """
    old, new = dims(before), dims(after)
    if old is None or new is None:
        return None
    found = [_same_place(old, new, axis) for axis in axes]
    kept = tuple(axis for axis in found if axis is not None)
    return kept if len(kept) == len(axes) else None


def _same_place(old: Sequence[Dim | None], new: Sequence[Dim | None], axis: int) -> int | None:
    place = axis % len(old)
    ahead = product(old[:place])
    if ahead is None:
        return None
    fitting = [
        at for at, size in enumerate(new) if facts.same_dim(size, old[place]) and _is_same(product(new[:at]), ahead)
    ]
    # Axes of size 1 may stand anywhere: the first place will do.
    return fitting[0] - len(new) if fitting else None


def _is_same(first: object, second: object) -> bool:
    """Tell whether two products are known and the same."""
    return first is not None and first == second


def product(sizes: Sequence[Dim | None]) -> tuple[int, tuple[tuple[str, int], ...]] | None:
    """Return a product of sizes as a number and named factors, or None where one is not known."""
    number, names = 1, Counter[str]()
    for size in sizes:
        if size is None:
            return None
        if isinstance(size, int):
            number *= size
        else:
            names[str(size.value)] += 1
    return number, tuple(sorted(names.items()))


def is_spread(part: ir.Value, whole: ir.Value, axis: int) -> bool:
    """Tell whether an axis of ``whole`` is that of ``part``, and not a repetition of one of size 1."""
    return facts.same_dim(facts.dim(part, axis), facts.dim(whole, axis))


def places(value: ir.Value | None) -> dict[int, Dim] | None:
    """Return a factor by axis: each number is the sum of its places on the axes, times their factors. None: unknown.

    Example:
        >>> text = "g (int64 n) => (r) <int64 zero = {0}, int64 one = {1}> {r = Range(zero, n, one)}"
        >>> places(ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 24]> {text}').graph.outputs[0])
        {-1: 1}
    """
    node = value.producer() if value is not None else None
    if value is None:
        return None
    if node is None or node.op_type == "Constant":
        return _counted(value)
    if node.domain:
        return None
    if node.op_type == "Range":
        is_count = facts.scalar(node.inputs[0]) == 0 and facts.scalar(node.inputs[2]) == 1
        return {-1: 1} if is_count else None
    if node.op_type in VIEWS or node.op_type == "Expand":
        return _moved(node, places(node.inputs[0]))
    if node.op_type == "Cast" and facts.attribute(node, "to") in _INTEGERS:
        return places(node.inputs[0])
    if node.op_type == "Add":
        return _summed(node)
    if node.op_type == "Mul":
        return _scaled(node)
    return None


def _counted(value: ir.Value) -> dict[int, Dim] | None:
    """Read a constant 0, 1, 2, ... along its only axis that is not of size 1."""
    contents = facts.array(value)
    if contents is None or contents.dtype.kind not in "iu" or contents.size != max((1, *contents.shape)):
        return None
    if not np.array_equal(contents.reshape(-1), np.arange(contents.size)):
        return None
    return {axis - contents.ndim: 1 for axis, size in enumerate(contents.shape) if size > 1}


def _moved(node: ir.Node, found: dict[int, Dim] | None) -> dict[int, Dim] | None:
    before, after = node.inputs[0], node.outputs[0]
    if found is None or before is None:
        return None
    if node.op_type == "Expand":
        return found if all(is_spread(before, after, axis) for axis in found) else None
    axes = through_view(before, after, list(found))
    return None if axes is None else dict(zip(axes, found.values(), strict=True))


def _summed(node: ir.Node) -> dict[int, Dim] | None:
    total: dict[int, Dim] = {}
    for operand in node.inputs:
        found = places(operand)
        if found is None or operand is None or set(found) & set(total):
            return None
        if not all(is_spread(operand, node.outputs[0], axis) for axis in found):
            return None
        total |= found
    return total


def _scaled(node: ir.Node) -> dict[int, Dim] | None:
    """Places times the size of an axis, as in the offset of a row."""
    for operand, other in (node.inputs, reversed(node.inputs)):
        found, size = places(operand), held_size(other)
        if found is None or size is None or operand is None or list(found.values()) != [1]:
            continue
        (axis,) = found
        return {axis: size} if is_spread(operand, node.outputs[0], axis) else None
    return None


def held_size(value: ir.Value | None) -> Dim | None:
    """Return the size that a value of one element holds, read from the shape of another value."""
    node = value.producer() if value is not None else None
    if node is None or node.domain:
        return None
    if node.op_type in VIEWS:
        return held_size(node.inputs[0])
    if node.op_type == "Gather":
        index, inner = facts.integers(node.inputs[1]), node.inputs[0]
        shape = inner.producer() if inner is not None else None
        if index is None or len(index) != 1 or shape is None or shape.op_type != "Shape" or shape.domain:
            return None
        given = (facts.attribute(shape, "start") or 0, facts.attribute(shape, "end"))
        return facts.dim(shape.inputs[0], index[0]) if given == (0, None) else None
    count = facts.rank(node.inputs[0]) if node.op_type == "Shape" else None
    if count is None:
        return None
    chosen = range(count)[facts.attribute(node, "start") or 0 : facts.attribute(node, "end")]
    return facts.dim(node.inputs[0], chosen[0]) if len(chosen) == 1 else None
