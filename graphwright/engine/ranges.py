"""What is known of the numbers in a value, from the nodes that make it. Unknown is never yes."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts

# Operators that rearrange, repeat or drop elements and make no new ones.
MOVES = frozenset({"Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"})

# Facts are asked of short chains; a longer one is answered with "not known".
MAX_DEPTH = 32


def is_always_true(value: ir.Value | None, depth: int = 0) -> bool:
    """Tell whether every element of a boolean value is known to be true."""
    return _holds(value, depth, lambda contents: bool(contents.all()), _makes_true)


def is_non_negative(value: ir.Value | None, depth: int = 0) -> bool:
    """Tell whether every element is known to be zero or above, as positions and sizes are."""
    return _holds(value, depth, lambda contents: bool((contents >= 0).all()), _makes_non_negative)


def is_always_zero(value: ir.Value | None) -> bool:
    """Tell whether every element of a numeric value is known to be zero."""
    return _holds(value, 0, lambda contents: contents.dtype.kind != "b" and not contents.any(), _makes_zero)


def is_finite(value: ir.Value | None, depth: int = 0) -> bool:
    """Tell whether every element is known to be neither infinite nor NaN, as in a mask of 0 and -3.4e38."""
    return _holds(value, depth, lambda contents: bool(np.isfinite(contents).all()), lambda node, depth: False)


def is_free_of_lowest(value: ir.Value | None) -> bool:
    """Tell whether it is known that no element is the lowest finite number of its type, which stands for "masked"."""
    if value is None or value.dtype is None or not value.dtype.is_floating_point():
        return False
    lowest = float(value.dtype.min)
    return _holds(value, 0, lambda contents: not bool((contents == lowest).any()), lambda node, depth: False)


def _holds(
    value: ir.Value | None,
    depth: int,
    of_contents: Callable[[np.ndarray], bool],
    of_node: Callable[[ir.Node, int], bool],
) -> bool:
    contents = facts.array(value)
    if contents is not None:
        return of_contents(contents)
    node = value.producer() if value is not None else None
    if node is None or node.domain or depth > MAX_DEPTH:
        return False
    if node.op_type in MOVES:
        return _holds(node.inputs[0], depth + 1, of_contents, of_node)
    if node.op_type == "Where":
        return all(_holds(each, depth + 1, of_contents, of_node) for each in node.inputs[1:])
    return of_node(node, depth + 1)


def _makes_true(node: ir.Node, depth: int) -> bool:
    if node.op_type == "And":
        return all(is_always_true(each, depth) for each in node.inputs)
    if node.op_type == "Or":
        return any(is_always_true(each, depth) for each in node.inputs)
    if node.op_type == "Cast" and facts.attribute(node, "to") == ir.DataType.BOOL.value:
        return is_always_true(node.inputs[0], depth)
    if node.op_type == "GreaterOrEqual":
        bound = facts.scalar(node.inputs[1])
        return bound is not None and bound <= 0 and is_non_negative(node.inputs[0], depth)
    if node.op_type == "ConstantOfShape":
        fill = facts.attribute(node, "value")
        return fill is not None and bool(fill.numpy().all())
    return False


def _makes_zero(node: ir.Node, depth: int) -> bool:
    if node.op_type != "ConstantOfShape":
        return False
    given = node.attributes.get("value")
    return given is None or (not given.is_ref() and not given.as_tensor().numpy().any())


def _makes_non_negative(node: ir.Node, depth: int) -> bool:
    if node.op_type in ("Shape", "Size"):  # not Abs: it keeps NaN, and the lowest integer has no partner
        return True
    if node.op_type == "Range":
        step = facts.scalar(node.inputs[2])
        return step is not None and step > 0 and is_non_negative(node.inputs[0], depth)
    if node.op_type == "Gather":
        return is_non_negative(node.inputs[0], depth)
    return False
