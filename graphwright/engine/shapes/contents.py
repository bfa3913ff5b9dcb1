"""What operators on small integer tensors compute: the arithmetic that exporters put before a Reshape.

A function returns the contents of a node's first output, None where nothing is known of them.
"""

from collections.abc import Callable

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes import sizes
from graphwright.engine.shapes.known import (
    COUNTED_DTYPES,
    MOST_ELEMENTS,
    Dims,
    Known,
    constant_elements,
    fixed,
    has_reference,
    is_given,
    small_count,
)
from graphwright.engine.shapes.sizes import Size


def elements_of(node: ir.Node, known: Known) -> Dims | None:
    """Return the contents of a node's first output; its shape must be known already."""
    value = node.outputs[0]
    count = small_count(value, known)
    if count is None:
        return None
    compute = CONTENTS.get(node.op_type) if node.domain == "" and not has_reference(node) else None
    elements = compute(node, known) if compute is not None else None
    return elements if elements is not None and len(elements) == count else (None,) * count


def _of_constant(node: ir.Node, known: Known) -> Dims | None:
    return constant_elements(node.outputs[0])


def _of_shape(node: ir.Node, known: Known) -> Dims | None:
    shape = known.shape(node.inputs[0])
    return None if shape is None else shape[facts.attribute(node, "start") or 0 : facts.attribute(node, "end")]


def _of_size(node: ir.Node, known: Known) -> Dims | None:
    shape = known.shape(node.inputs[0])
    return None if shape is None else (sizes.product(shape),)


def _same(node: ir.Node, known: Known) -> Dims | None:
    return known.contents(node.inputs[0])


def _cast(node: ir.Node, known: Known) -> Dims | None:
    elements = known.contents(node.inputs[0])
    if elements is None or facts.attribute(node, "to") != ir.DataType.BOOL:
        return elements
    return tuple(int(element != 0) if isinstance(element, int) else None for element in elements)


def _gather(node: ir.Node, known: Known) -> Dims | None:
    data, indices = known.contents(node.inputs[0]), known.contents(node.inputs[1])
    if data is None or indices is None or known.shape(node.inputs[0]) == ():
        return None
    reach = range(-len(data), len(data))
    return tuple(data[index] if isinstance(index, int) and index in reach else None for index in indices)


def _concat(node: ir.Node, known: Known) -> Dims | None:
    parts = [known.contents(value) for value in node.inputs]
    if any(part is None for part in parts):
        return None
    return tuple(element for part in parts for element in part or ())


def _slice(node: ir.Node, known: Known) -> Dims | None:
    data = known.contents(node.inputs[0])
    starts, ends = fixed(node, 1, "starts", known), fixed(node, 2, "ends", known)
    steps = fixed(node, 4, "steps", known) if is_given(node, 4, "steps") else (1,)
    if data is None or not starts or not ends or not steps or steps[0] == 0:
        return None
    # Going back, an end before the first element is None to Python: -1 is the last element.
    end: int | None = ends[0]
    if steps[0] < 0 and ends[0] < -len(data):
        end = None
    return data[starts[0] : end : steps[0]]


def _where(node: ir.Node, known: Known) -> Dims | None:
    def choose(condition: Size | None, yes: Size | None, no: Size | None) -> Size | None:
        if isinstance(condition, int):
            return yes if condition else no
        return yes if yes == no else None

    return _elementwise(choose)(node, known)


def _constant_of_shape(node: ir.Node, known: Known) -> Dims | None:
    shape, fill = known.contents(node.inputs[0]), facts.attribute(node, "value")
    if shape is None or fill is None or fill.dtype not in COUNTED_DTYPES:
        return None
    count = sizes.product(shape)
    return (int(fill.numpy().reshape(-1)[0]),) * count if isinstance(count, int) and count <= MOST_ELEMENTS else None


def _expand(node: ir.Node, known: Known) -> Dims | None:
    elements, count = known.contents(node.inputs[0]), small_count(node.outputs[0], known)
    return elements * count if elements is not None and count is not None and len(elements) == 1 else elements


def _range(node: ir.Node, known: Known) -> Dims | None:
    given = [known.contents(value) for value in node.inputs]
    numbers = [each[0] for each in given if each and isinstance(each[0], int)]
    if len(numbers) != 3 or numbers[2] == 0:
        return None
    counted = range(*(number for number in numbers if isinstance(number, int)))
    return tuple(counted) if len(counted) <= MOST_ELEMENTS else None


def _reduce(
    fold: Callable[[Size | None, Size | None], Size | None],
) -> Callable[[ir.Node, Known], Dims | None]:
    def reduced(node: ir.Node, known: Known) -> Dims | None:
        elements = known.contents(node.inputs[0])
        if not elements or (facts.attribute(node, "noop_with_empty_axes") and not is_given(node, 1, "axes")):
            return None
        result = elements[0]
        for element in elements[1:]:
            result = fold(result, element)
        return (result,)

    return reduced


def _elementwise(compute: Callable[..., Size | None]) -> Callable[[ir.Node, Known], Dims | None]:
    def computed(node: ir.Node, known: Known) -> Dims | None:
        operands = [elements for elements in map(known.contents, node.inputs) if elements is not None]
        counts = {len(elements) for elements in operands} - {1}
        if len(operands) < len(node.inputs) or len(counts) > 1:
            return None
        count = counts.pop() if counts else 1
        stretched = [elements * count if len(elements) == 1 else elements for elements in operands]
        return tuple(compute(*row) for row in zip(*stretched, strict=True))

    return computed


def _fold(fold: Callable[[Size | None, Size | None], Size | None]) -> Callable[..., Size | None]:
    def folded(first: Size | None, *others: Size | None) -> Size | None:
        for other in others:
            first = fold(first, other)
        return first

    return folded


def _divide(first: Size | None, second: Size | None) -> Size | None:
    if isinstance(first, int) and isinstance(second, int) and second != 0:
        return int(abs(first) // abs(second)) * (1 if (first < 0) == (second < 0) else -1)
    return sizes.floor_divide(first, second)


def _modulo(node: ir.Node, known: Known) -> Dims | None:
    # With fmod the sign is the dividend's, else the divisor's.
    takes_negative = not facts.attribute(node, "fmod")

    def modulo(first: Size | None, second: Size | None) -> Size | None:
        if isinstance(first, int) and isinstance(second, int):
            return first % second if second > 0 and (first >= 0 or takes_negative) else None
        if sizes.quotient(first, second) is not None:
            return 0
        return _missing(sizes.subtract(0, first), second) if takes_negative else None

    return _elementwise(modulo)(node, known)


def _missing(size: Size | None, step: Size | None) -> Size | None:
    """Return what a size lacks to the next multiple: the remainder of its negative."""
    if not isinstance(step, int) or step < 1 or not sizes.is_nonnegative(size):
        return None
    steps = sizes.floor_divide(sizes.add(size, step - 1), step)
    return sizes.subtract(sizes.multiply(steps, step), size)


def _equal(first: Size | None, second: Size | None) -> Size | None:
    answer = sizes.is_equal(first, second)
    return None if answer is None else int(answer)


def _less(first: Size | None, second: Size | None) -> Size | None:
    if sizes.is_at_least(first, second):
        return 0
    return 1 if sizes.is_at_least(second, sizes.add(first, 1)) else None


def _not(element: Size | None) -> Size | None:
    return 1 - element if isinstance(element, int) else None


CONTENTS: dict[str, Callable[[ir.Node, Known], Dims | None]] = {
    **dict.fromkeys(("Identity", "Squeeze", "Unsqueeze", "Reshape", "Flatten"), _same),
    "Add": _elementwise(sizes.add),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _of_constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(_equal),
    "Expand": _expand,
    "Gather": _gather,
    "Greater": _elementwise(lambda first, second: _less(second, first)),
    "Less": _elementwise(_less),
    "Max": _elementwise(_fold(sizes.maximum)),
    "Min": _elementwise(_fold(sizes.minimum)),
    "Mod": _modulo,
    "Mul": _elementwise(sizes.multiply),
    "Neg": _elementwise(lambda element: sizes.subtract(0, element)),
    "Not": _elementwise(_not),
    "Range": _range,
    "ReduceMax": _reduce(sizes.maximum),
    "ReduceMin": _reduce(sizes.minimum),
    "ReduceProd": _reduce(sizes.multiply),
    "ReduceSum": _reduce(sizes.add),
    "Shape": _of_shape,
    "Size": _of_size,
    "Slice": _slice,
    "Sub": _elementwise(sizes.subtract),
    "Where": _where,
}
