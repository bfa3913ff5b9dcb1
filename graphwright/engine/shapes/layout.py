"""The shapes that operators give which move elements or make shapes.

A function takes a node and what is known of its inputs and returns the shape of each output, None where its
rank is not known. It may say less than ONNX's own inference, never more than the operator's definition says.

One assumption: a size that a Reshape with allowzero=0 reads from another tensor is not zero, because
there a zero would mean "the size at this place". Exporters write that Reshape for sizes that are positive.
"""

from collections.abc import Sequence

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes import sizes
from graphwright.engine.shapes.known import (
    Known,
    ShapeRule,
    Shapes,
    as_dims,
    broadcast_shapes,
    fixed,
    is_given,
    normal_axis,
    operand,
    with_size,
)
from graphwright.engine.shapes.sizes import Size
from graphwright.engine.shapes.slices import slice_dims


def _constant(node: ir.Node, known: Known) -> Shapes:
    tensor = facts.constant(node.outputs[0])
    return [None if tensor is None else tuple(int(size) for size in tensor.shape.numpy())]


def _shape(node: ir.Node, known: Known) -> Shapes:
    given = known.shape(node.inputs[0])
    if given is None:
        return [(None,)]
    return [(len(given[facts.attribute(node, "start") or 0 : facts.attribute(node, "end")]),)]


def _scalar(node: ir.Node, known: Known) -> Shapes:
    return [()]


def _constant_of_shape(node: ir.Node, known: Known) -> Shapes:
    return [as_dims(known.contents(node.inputs[0]), known)]


def _gather(node: ir.Node, known: Known) -> Shapes:
    data, indices = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    axis = None if data is None else normal_axis(facts.attribute(node, "axis"), len(data))
    if data is None or indices is None or axis is None:
        return [None]
    return [(*data[:axis], *indices, *data[axis + 1 :])]


def _gather_elements(node: ir.Node, known: Known) -> Shapes:
    return [known.shape(node.inputs[1])]


def _gather_nd(node: ir.Node, known: Known) -> Shapes:
    data, indices = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if data is None or not indices or not isinstance(indices[-1], int):
        return [None]
    return [(*indices[:-1], *data[facts.attribute(node, "batch_dims") + indices[-1] :])]


def _agreed(first: Size | None, second: Size | None) -> Size | None:
    """Return what is known of a size that both must have; a number says more than a name."""
    if first is None or isinstance(second, int):
        return second if second is not None else first
    return first


def _concat(node: ir.Node, known: Known) -> Shapes:
    shapes = [given for given in map(known.shape, node.inputs) if given is not None]
    ranks = {len(given) for given in shapes}
    axis = normal_axis(facts.attribute(node, "axis"), len(shapes[0])) if len(ranks) == 1 else None
    if axis is None:
        return [None]
    if len(shapes) < len(node.inputs):
        return [(None,) * len(shapes[0])]
    result = shapes[0]
    for given in shapes[1:]:
        joined = tuple(_agreed(one, other) for one, other in zip(result, given, strict=True))
        result = with_size(joined, axis, sizes.add(result[axis], given[axis]))
    return [result]


def _slice(node: ir.Node, known: Known) -> Shapes:
    return [slice_dims(node, known)]


def _split(node: ir.Node, known: Known) -> Shapes:
    data, count = known.shape(node.inputs[0]), len(node.outputs)
    axis = None if data is None else normal_axis(facts.attribute(node, "axis"), len(data))
    if data is None or axis is None:
        return [None] * count
    return [with_size(data, axis, size) for size in _parts(node, known, data[axis])]


def _parts(node: ir.Node, known: Known, size: Size | None) -> Sequence[Size | None]:
    count = len(node.outputs)
    if is_given(node, 1, "split"):
        given = fixed(node, 1, "split", known) if "split" in node.attributes else known.contents(node.inputs[1])
        parts = as_dims(given, known)
        return parts if parts is not None and len(parts) == count else [None] * count
    if isinstance(size, int):
        width = -(-size // count)
        return [max(0, min(width, size - width * index)) for index in range(count)]
    return [sizes.quotient(size, count)] * count


def _squeeze(node: ir.Node, known: Known) -> Shapes:
    data = known.shape(node.inputs[0])
    if data is None:
        return [None]
    if not is_given(node, 1, "axes"):
        # Which sizes are 1 must be known, or the rank is not.
        return [tuple(size for size in data if size != 1) if all(isinstance(size, int) for size in data) else None]
    axes = fixed(node, 1, "axes", known)
    if axes is None:
        return [None]
    gone = {normal_axis(axis, len(data)) for axis in axes}
    return [tuple(size for axis, size in enumerate(data) if axis not in gone)]


def _unsqueeze(node: ir.Node, known: Known) -> Shapes:
    data, axes = known.shape(node.inputs[0]), fixed(node, 1, "axes", known)
    if data is None or axes is None:
        return [None]
    rank, left = len(data) + len(axes), iter(data)
    new = {normal_axis(axis, rank) for axis in axes}
    return [tuple(1 if axis in new else next(left) for axis in range(rank))] if len(new) == len(axes) else [None]


def _reshape(node: ir.Node, known: Known) -> Shapes:
    data, wanted = known.shape(node.inputs[0]), known.contents(operand(node, 1))
    if "shape" in node.attributes:
        wanted = tuple(facts.attribute(node, "shape"))
    if wanted is None:
        return [None]
    copied = () if facts.attribute(node, "allowzero") else tuple(i for i, size in enumerate(wanted) if size == 0)
    if data is None or any(axis >= len(data) for axis in copied):
        return [tuple(None if axis in copied else size for axis, size in enumerate(as_dims(wanted, known) or ()))]
    result = [data[axis] if axis in copied else size for axis, size in enumerate(as_dims(wanted, known) or ())]
    others = [size for axis, size in enumerate(result) if axis not in copied and wanted[axis] != -1]
    open_axes = [axis for axis, size in enumerate(result) if size is None and axis not in copied]
    if len(open_axes) == 1 and _is_determined(wanted[open_axes[0]], others):
        known_others = [size for axis, size in enumerate(result) if axis not in (*copied, *open_axes)]
        whole = [size for axis, size in enumerate(data) if axis not in copied]
        result[open_axes[0]] = sizes.divide_products(whole, known_others)
    return [tuple(result)]


def _is_determined(wanted: Size | None, others: Sequence[Size | None]) -> bool:
    """-1 is what is left over. So is an unknown element, unless the rest may be zero."""
    return wanted == -1 or all(isinstance(size, int) and size > 0 for size in others if size is not None)


def _expand(node: ir.Node, known: Known) -> Shapes:
    return [broadcast_shapes([known.shape(node.inputs[0]), as_dims(known.contents(node.inputs[1]), known)])]


def _pad(node: ir.Node, known: Known) -> Shapes:
    data, pads = known.shape(node.inputs[0]), known.contents(operand(node, 1))
    if "pads" in node.attributes:
        pads = tuple(facts.attribute(node, "pads"))
    if data is None:
        return [None]
    given = fixed(node, 3, "axes", known) if operand(node, 3) is not None else tuple(range(len(data)))
    axes = [normal_axis(axis, len(data)) for axis in given or ()]
    if pads is None or given is None or None in axes or len(pads) != 2 * len(axes):
        return [(None,) * len(data)]
    result = list(data)
    for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        size = sizes.add(data[axis or 0], sizes.add(before, after))
        # A negative pad takes away, and may take more than there is.
        result[axis or 0] = size if sizes.is_nonnegative(size) else None
    return [tuple(result)]


def _tile(node: ir.Node, known: Known) -> Shapes:
    data, repeats = known.shape(node.inputs[0]), as_dims(known.contents(node.inputs[1]), known)
    if data is None or repeats is None or len(data) != len(repeats):
        return [None if data is None else (None,) * len(data)]
    return [tuple(sizes.multiply(size, count) for size, count in zip(data, repeats, strict=True))]


def _range(node: ir.Node, known: Known) -> Shapes:
    start, limit, step = (given[0] if given else None for given in map(known.contents, node.inputs))
    if all(isinstance(number, int) for number in (start, limit, step)) and step != 0:
        return [(len(range(start, limit, step)),)]  # type: ignore[arg-type]  # all() does not narrow
    return [(sizes.clipped_difference(limit, start) if step == 1 else None,)]


def _transpose(node: ir.Node, known: Known) -> Shapes:
    data = known.shape(node.inputs[0])
    order = facts.attribute(node, "perm")
    if data is None:
        return [None if order is None else (None,) * len(order)]
    order = tuple(reversed(range(len(data)))) if order is None else order
    return [tuple(data[axis] for axis in order) if sorted(order) == list(range(len(data))) else None]


def _flatten(node: ir.Node, known: Known) -> Shapes:
    data = known.shape(node.inputs[0])
    if data is None:
        return [(None, None)]
    axis = facts.attribute(node, "axis")
    axis = axis + len(data) if axis < 0 else axis
    return [(sizes.product(data[:axis]), sizes.product(data[axis:]))]


LAYOUT: dict[str, ShapeRule] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _scalar,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
