"""The sizes that Slice gives, with ends that are names."""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes import sizes
from graphwright.engine.shapes.known import Dims, Known, fixed, is_given
from graphwright.engine.shapes.sizes import Size

# Exporters write "to the end" as the largest number of an integer type; int32 has the smallest such.
LARGEST_LENGTH = 2**31 - 1


def slice_dims(node: ir.Node, known: Known) -> Dims | None:
    """Return the shape of a Slice's output."""
    data = known.shape(node.inputs[0])
    if data is None:
        return None
    starts, ends = _bounds(node, 1, "starts", known), _bounds(node, 2, "ends", known)
    count = len(starts or ends or ())
    steps = fixed(node, 4, "steps", known) if is_given(node, 4, "steps") else (1,) * count
    axes = fixed(node, 3, "axes", known) if is_given(node, 3, "axes") else tuple(range(count))
    if starts is None or ends is None or axes is None or not len(starts) == len(ends) == len(axes):
        return (None,) * len(data)
    result = list(data)
    for index, axis in enumerate(axes):
        step = steps[index] if steps is not None and index < len(steps) else None
        if -len(data) <= axis < len(data):
            result[axis] = sliced(data[axis], starts[index], ends[index], step)
    return tuple(result)


def _bounds(node: ir.Node, index: int, name: str, known: Known) -> Dims | None:
    return facts.attribute(node, name) if name in node.attributes else known.contents(node.inputs[index])


def sliced(size: Size | None, start: Size | None, end: Size | None, step: int | None) -> Size | None:
    """Return how many elements of ``size`` lie in ``start:end:step``, counted as Slice does.

    Example:
        >>> sliced(512, 0, "seq", 1), sliced("past + seq", "past", 2**63 - 1, 1)
        ('Min(512, seq)', 'seq')
    """
    if step == 0 or step is None or start is None or end is None or size is None:
        return None
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(*slice(start, _python_end(size, end, step), step).indices(size)))
    if step == -1 and start == -1 and isinstance(end, int) and end <= -LARGEST_LENGTH:
        return size
    length = _length(size, start, end) if step > 0 else None
    return length if step == 1 else _in_steps(length, step)


def _python_end(size: int, end: int, step: int) -> int | None:
    """Going back, an end before the first element is None to Python: -1 is the last element."""
    return None if step < 0 and end < -size else end


def _in_steps(length: Size | None, step: int) -> Size | None:
    return sizes.floor_divide(sizes.add(length, step - 1), step)


def _length(size: Size, start: Size, end: Size) -> Size | None:
    if isinstance(start, int) and start < 0:
        # The last elements, as many as there are: s[-2:] of one element is one element.
        return sizes.minimum(-start, size) if _is_past_the_end(size, end) else None
    if not sizes.is_nonnegative(start):
        return None
    if _is_past_the_end(size, end):
        return sizes.clipped_difference(size, start)
    if isinstance(end, int) and end < 0:
        return sizes.clipped_difference(sizes.add(size, end), start)
    if not sizes.is_nonnegative(end):
        return None
    return sizes.clipped_difference(sizes.minimum(size, end), start)


def _is_past_the_end(size: Size, end: Size) -> bool:
    return (isinstance(end, int) and end >= LARGEST_LENGTH) or sizes.is_at_least(end, size)
