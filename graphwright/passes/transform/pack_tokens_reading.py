"""What a value reads of the token mask, proved from the nodes that make it; no rule.

A token is kept where the token mask [B,S] is not zero.
"""

from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.passes.transform.pack_tokens_positions import VIEWS, is_spread, places, through_view

_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})


@dataclass(frozen=True)
class Reading:
    """A value that is made of the token mask alone: its element at these axes tells whether the token is kept.

    ``batch`` and ``length`` count from the end. ``is_unit``: ones and zeros, or booleans. ``is_inverted``: zero, or
    false, where the token is kept.
    """

    batch: int
    length: int
    is_unit: bool
    is_inverted: bool = False


class TokenMask:
    """One graph input taken as the token mask."""

    def __init__(self, mask: ir.Value) -> None:
        self.mask = mask
        self._readings: dict[ir.Value, Reading | None] = {}

    def reading(self, value: ir.Value | None) -> Reading | None:
        """Return how a value reads the token mask, or None where it is not known to be made of it alone."""
        if value is None:
            return None
        if value not in self._readings:
            self._readings[value] = None
            self._readings[value] = self._read(value)
        return self._readings[value]

    def _read(self, value: ir.Value) -> Reading | None:
        if value is self.mask:
            return Reading(-2, -1, is_unit=value.dtype == ir.DataType.BOOL)
        node = value.producer()
        if node is None or node.domain:
            return None
        read = _READERS.get(node.op_type)
        return read(self, node) if read is not None else None


def _view(tokens: TokenMask, node: ir.Node) -> Reading | None:
    """Find the nearest value behind views whose axes are still there: a view may join axes that the next one parts."""
    value = node.inputs[0]
    while value is not None:
        found = tokens.reading(value)
        axes = through_view(value, node.outputs[0], (found.batch, found.length)) if found is not None else None
        if found is not None and axes is not None and axes[0] < axes[1]:
            return Reading(axes[0], axes[1], found.is_unit, found.is_inverted)
        before = value.producer()
        if before is None or before.domain or before.op_type not in VIEWS:
            return None
        value = before.inputs[0]
    return None


def _expand(tokens: TokenMask, node: ir.Node) -> Reading | None:
    found, value = tokens.reading(node.inputs[0]), node.inputs[0]
    if found is None or value is None:
        return None
    kept = all(is_spread(value, node.outputs[0], axis) for axis in (found.batch, found.length))
    return found if kept else None


def _cast(tokens: TokenMask, node: ir.Node) -> Reading | None:
    """To booleans, which tells zero from others; to other types where what is not zero stays so."""
    found, value = tokens.reading(node.inputs[0]), node.inputs[0]
    if found is None or value is None or value.dtype is None:
        return None
    to = ir.DataType(facts.attribute(node, "to"))
    if to == ir.DataType.BOOL:
        return Reading(found.batch, found.length, True, found.is_inverted)
    is_number = to.is_floating_point() or to in _INTEGERS
    if found.is_unit and is_number:
        return found
    is_whole = value.dtype in _INTEGERS and (to.is_floating_point() or to == ir.DataType.INT64)
    return found if is_whole or to == value.dtype else None


def _not(tokens: TokenMask, node: ir.Node) -> Reading | None:
    found = tokens.reading(node.inputs[0])
    return None if found is None else Reading(found.batch, found.length, True, not found.is_inverted)


def _equal(tokens: TokenMask, node: ir.Node) -> Reading | None:
    for value, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
        found, number = tokens.reading(value), facts.scalar(other)
        if found is None or (facts.rank(other) or 0) > (facts.rank(value) or 0):
            continue
        if number == 0:
            return Reading(found.batch, found.length, True, not found.is_inverted)
        if number == 1 and found.is_unit:
            return Reading(found.batch, found.length, True, found.is_inverted)
    return None


def _one_minus(tokens: TokenMask, node: ir.Node) -> Reading | None:
    found = tokens.reading(node.inputs[1])
    if found is None or not found.is_unit or facts.scalar(node.inputs[0]) != 1:
        return None
    if (facts.rank(node.inputs[0]) or 0) > (facts.rank(node.inputs[1]) or 0):
        return None
    return Reading(found.batch, found.length, True, not found.is_inverted)


def _gather_nd(tokens: TokenMask, node: ir.Node) -> Reading | None:
    """``mask[rows, columns]``, where both are the places on two axes of the result."""
    found, indices = tokens.reading(node.inputs[0]), node.inputs[1]
    joined = indices.producer() if indices is not None else None
    if found is None or (found.batch, found.length) != (-2, -1) or facts.rank(node.inputs[0]) != 2:
        return None
    if joined is None or joined.op_type != "Concat" or joined.domain or len(joined.inputs) != 2:
        return None
    axis, count = facts.attribute(joined, "axis"), facts.rank(indices)
    if facts.attribute(node, "batch_dims") or count is None or axis % count != count - 1:
        return None
    axes = [_only_place(part) for part in joined.inputs]
    if axes[0] is None or axes[1] is None or axes[0] >= axes[1] or axes[1] > -2:
        return None
    # The axis of the two indices goes.
    return Reading(axes[0] + 1, axes[1] + 1, found.is_unit, found.is_inverted)


def _only_place(value: ir.Value | None) -> int | None:
    found = places(value)
    return next(iter(found)) if found is not None and list(found.values()) == [1] else None


def _gather(tokens: TokenMask, node: ir.Node) -> Reading | None:
    """``flat[row * S + column]``, as the older exporter reads two axes at once."""
    data, indices = node.inputs
    if data is None or facts.attribute(node, "axis") != 0 or any(size != 1 for size in list(data.shape or (0, 0))[1:]):
        return None
    matrix = data
    while facts.rank(matrix) != 2 or tokens.reading(matrix) is None:
        before = matrix.producer()
        if before is None or before.domain or before.op_type not in VIEWS or before.inputs[0] is None:
            return None
        matrix = before.inputs[0]
    found, where = tokens.reading(matrix), places(indices)
    if found is None or (found.batch, found.length) != (-2, -1) or facts.rank(matrix) != 2 or where is None:
        return None
    width = facts.dim(matrix, 1)
    axes = [axis for axis, factor in where.items() if facts.same_dim(width, factor)]
    columns = [axis for axis, factor in where.items() if factor == 1]
    if len(where) != 2 or len(axes) != 1 or len(columns) != 1 or axes[0] >= columns[0]:
        return None
    added = (facts.rank(data) or 1) - 1
    return Reading(axes[0] - added, columns[0] - added, found.is_unit, found.is_inverted)


_READERS: dict[str, Callable[[TokenMask, ir.Node], Reading | None]] = {
    **dict.fromkeys(VIEWS, _view),
    "Cast": _cast,
    "Equal": _equal,
    "Expand": _expand,
    "Gather": _gather,
    "GatherND": _gather_nd,
    "Not": _not,
    "Sub": _one_minus,
}
