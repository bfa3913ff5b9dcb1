"""The sizes that a convolution gives, with lengths that are names.

A window that does not fit once is an error of the runtime, so in every run that works no length here is negative.
"""

from collections.abc import Sequence

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes import sizes
from graphwright.engine.shapes.known import Known, ShapeRule, Shapes
from graphwright.engine.shapes.sizes import Size


def _convolution(node: ir.Node, known: Known) -> Shapes:
    data, weight = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if data is None:
        return [None if weight is None else (None,) * len(weight)]
    channels = weight[0] if weight else None
    kernel: Sequence[Size | None] | None = facts.attribute(node, "kernel_shape") or (weight[2:] if weight else None)
    if kernel is None or len(kernel) != len(data) - 2:
        return [(*data[:1], channels, *(None,) * (len(data) - 2))]
    lengths = [_places(node, axis, size, kernel[axis]) for axis, size in enumerate(data[2:])]
    return [(*data[:1], channels, *lengths)]


def _places(node: ir.Node, axis: int, size: Size | None, window: Size | None) -> Size | None:
    """Return at how many places a window stands along an axis, counted from the first axis behind the channels."""
    step = _along(node, "strides", axis, 1)
    padding = facts.attribute(node, "auto_pad")
    if padding in ("SAME_UPPER", "SAME_LOWER"):
        return sizes.steps(sizes.add(size, step - 1), step)
    if not isinstance(window, int):
        return None
    pads = facts.attribute(node, "pads") if padding == "NOTSET" else None
    around = 0 if pads is None else pads[axis] + pads[axis + len(pads) // 2]
    reach = _along(node, "dilations", axis, 1) * (window - 1) + 1
    return sizes.add(sizes.steps(sizes.add(size, around - reach), step), 1)


def _along(node: ir.Node, name: str, axis: int, default: int) -> int:
    given = facts.attribute(node, name)
    return default if given is None else int(given[axis])


WINDOWS: dict[str, ShapeRule] = {"Conv": _convolution}
