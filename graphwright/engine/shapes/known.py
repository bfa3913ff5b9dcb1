"""What shape inference knows of a value, whoever asks: the walk over a model, or a rule about one value.

A shape is a tuple of sizes (``sizes.py``), None where one is not known. The contents of an integer tensor of
rank 0 or 1 are such a tuple too.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes import sizes
from graphwright.engine.shapes.sizes import Size

Dims = tuple[Size | None, ...]
# What a node gives: the shape of each output, None where its rank is not known.
Shapes = Sequence[Dims | None]

# A shape has few elements; longer integer tensors are data.
MOST_ELEMENTS = 64
# Sizes are computed in these types. Others wrap around early or round.
COUNTED_DTYPES = {ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL}


class Known(Protocol):
    """What a table may ask about the inputs of a node."""

    def shape(self, value: ir.Value | None) -> Dims | None:
        """Return the sizes of a tensor, or None where even its rank is not known."""

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """Return the type of a tensor's elements."""

    def contents(self, value: ir.Value | None) -> Dims | None:
        """Return the elements of an integer tensor of rank 0 or 1."""

    def is_length(self, size: Size | None) -> bool:
        """Tell whether some tensor of every run that works has an axis of this size: then it is not negative."""


def has_reference(node: ir.Node) -> bool:
    """Tell whether an attribute comes from the caller of the enclosing function: it is not known here."""
    return any(given.is_ref() for given in node.attributes.values())


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input, or None where it is not given."""
    return node.inputs[index] if index < len(node.inputs) else None


def fixed(node: ir.Node, index: int, name: str, known: Known) -> tuple[int, ...] | None:
    """Return integers that one opset gives as an attribute and another as an input; None where not known."""
    if name in node.attributes:
        given = facts.attribute(node, name)
        return (given,) if isinstance(given, int) else tuple(given)
    elements = known.contents(operand(node, index))
    if elements is None or not all(isinstance(element, int) for element in elements):
        return None
    return tuple(element for element in elements if isinstance(element, int))


def is_given(node: ir.Node, index: int, name: str) -> bool:
    """Tell whether a node has this attribute or input at all."""
    return name in node.attributes or operand(node, index) is not None


def constant_elements(value: ir.Value) -> Dims | None:
    """Return the elements of a small integer or boolean constant."""
    contents = facts.array(value)
    if contents is None or contents.ndim > 1 or contents.size > MOST_ELEMENTS or contents.dtype.kind not in "iub":
        return None
    return tuple(int(number) for number in contents.reshape(-1))


def as_sizes(shape: ir.Shape | None) -> Dims | None:
    """Return a declared shape in canonical spelling."""
    if shape is None:
        return None
    return tuple(sizes.canonical(size if isinstance(size, int) else size.value or None) for size in shape)


def unknown_elements(value: ir.Value, known: Known) -> Dims | None:
    """Return as many unknown elements as a small integer tensor has."""
    count = small_count(value, known)
    return None if count is None else (None,) * count


def small_count(value: ir.Value, known: Known) -> int | None:
    """Return the number of elements of an integer tensor of rank 0 or 1, where that is known and small."""
    shape = known.shape(value)
    if shape is None or len(shape) > 1 or known.dtype(value) not in COUNTED_DTYPES:
        return None
    count = sizes.product(shape)
    return count if isinstance(count, int) and count <= MOST_ELEMENTS else None


def as_dims(elements: Dims | None, known: Known) -> Dims | None:
    """Return the elements of a shape tensor as sizes: what might be negative is not known."""
    if elements is None:
        return None
    return tuple(each if sizes.is_nonnegative(each) or known.is_length(each) else None for each in elements)


def normal_axis(axis: int, rank: int) -> int | None:
    """Return an axis counted from the front, or None where there is no such axis."""
    return axis % rank if -rank <= axis < rank else None


def with_size(shape: Dims, axis: int, size: Size | None) -> Dims:
    """Return a shape with one size changed."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def broadcast_shapes(shapes: Sequence[Dims | None]) -> Dims | None:
    """Return the shape that several broadcast to."""
    result: Dims = ()
    for shape in shapes:
        if shape is None:
            return None
        width = max(len(result), len(shape))
        first = (1,) * (width - len(result)) + result
        second = (1,) * (width - len(shape)) + shape
        result = tuple(sizes.broadcast(one, other) for one, other in zip(first, second, strict=True))
    return result


ShapeRule = Callable[[ir.Node, Known], Shapes]
