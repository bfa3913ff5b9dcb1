"""Random inputs that a model can take, drawn from what is known of them: types, sizes and uses.

Sizes come from ``bind_dims``, which gives dimensions of one name one size; numbers from ``sample_inputs``.
What cannot be drawn with any hope of fitting is refused with its reason, so that nothing counts as checked
that never ran.
"""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.roles import Kind, Role, role_of
from graphwright.errors import RequestError

# Sizes for the named dimensions, in order of appearance, last one repeated, and for those of unknown size.
# Distinct primes show a mixed-up axis; a size of 1 shows broadcasting; a first size of 1 is the usual batch.
CHOICES = (
    ((3, 5, 2, 7, 11, 13), 4),
    ((2, 1), 1),
    ((1, 7, 5, 2), 3),
    # Only for a model that takes none of these: sizes that must be equal, or divisible, under different
    # names.
    ((4,), 4),
    ((8, 16), 8),
)
# How many of the choices are always tried.
USUAL_CHOICES = 3

_NAME = re.compile(r"[A-Za-z_][\w.]*")
# Text longer than this, or with a power in it, is taken as a name: SymPy would compute 9**9**9.
_LONGEST_EXPRESSION = 200
# Numbers of indices, masks and inputs whose use says nothing.
_SMALL = 4
# Of eight bytes each: NumPy raises ValueError above it, and MemoryError below.
_MOST_ELEMENTS = sys.maxsize // 8


def bind_dims(
    values: Iterable[ir.Value], choice: int = 0, sizes: Mapping[str, int] | None = None
) -> dict[str, tuple[int, ...]]:
    """Return a shape for each value: one of ``CHOICES``, where ``sizes`` does not say otherwise.

    Dimensions of the same name get the same size; expressions such as ``past + seq`` follow from their names.

    Raises:
        RequestError: a value whose number of axes is unknown.

    Example:
        >>> x = ir.Value(name="x", shape=ir.Shape(["batch", "seq", 3]))
        >>> bind_dims([x]), bind_dims([x], 2), bind_dims([x], sizes={"seq": 9})
        ({'x': (3, 5, 3)}, {'x': (1, 7, 3)}, {'x': (3, 9, 3)})
    """
    values = list(values)
    order, unknown = CHOICES[choice]
    bound: dict[str, int] = {}
    for name in (name for value in values for name in _names(value)):
        bound.setdefault(name, order[min(len(bound), len(order) - 1)])
    bound.update(sizes or {})
    return {value.name or "": _shape(value, bound, unknown) for value in values}


def _shape(value: ir.Value, sizes: Mapping[str, int], unknown: int) -> tuple[int, ...]:
    if value.shape is None:
        raise _refusal(value, "a value whose number of axes is not known")
    found = [size_of(dim, sizes) for dim in value.shape]
    return tuple(unknown if size is None else size for size in found)


def _names(value: ir.Value) -> Iterator[str]:
    for dim in value.shape or ():
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
            yield from sorted(dim.free_symbols()) if _is_expression(dim) else [dim.value]


def _is_expression(dim: ir.SymbolicDim) -> bool:
    text = dim.value or ""
    if _NAME.fullmatch(text) or len(text) > _LONGEST_EXPRESSION or "**" in text:
        return False
    try:
        return bool(dim.free_symbols())
    except (TypeError, ValueError):
        return False


def size_of(dim: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int | None:
    """Return the size of a dimension, or None where it does not follow from the sizes given.

    Example:
        >>> size_of(ir.SymbolicDim("past + seq"), {"past": 3, "seq": 4}), size_of(ir.SymbolicDim("other"), {})
        (7, None)
    """
    if isinstance(dim, int):
        return dim
    if dim.value is None or dim.value in sizes:
        return sizes.get(dim.value or "")
    found = dim.evaluate(sizes) if _is_expression(dim) else None
    return found if isinstance(found, int) and found >= 0 else None


def sizes_of(values: Iterable[ir.Value], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return the size of each named dimension, read off the shapes that the values have."""
    found: dict[str, int] = {}
    for value in values:
        for dim, size in zip(value.shape or (), shapes.get(value.name or "", ()), strict=False):
            if isinstance(dim, ir.SymbolicDim) and dim.value is not None:
                found.setdefault(dim.value, size)
    return found


def sample_inputs(model: ir.Model, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Return an array for each input that has no default.

    Indices stay inside the table they point into; masks are ones with padding on the right and on the left in
    turn, never a row of zeros alone; other numbers are normal with a deviation between 0.5 and 2.

    Raises:
        RequestError: an input that is no tensor of numbers, or whose range cannot be known.

    Example:
        >>> text = "g (float[9, 4] t, int64[N] i) => (y) {y = Gather(t, i)}"
        >>> model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 24]> ' + text)
        >>> inputs = sample_inputs(model, {"t": (9, 4), "i": (100,)})
        >>> int(inputs["i"].min()), int(inputs["i"].max())
        (0, 8)
    """
    rng = np.random.default_rng(seed)
    sizes = sizes_of(model.graph.inputs, shapes)
    wanted = [value for value in model.graph.inputs if not value.is_initializer()]
    return {value.name or "": _draw(value, model, shapes[value.name or ""], sizes, rng) for value in wanted}


def _draw(
    value: ir.Value,
    model: ir.Model,
    shape: tuple[int, ...],
    sizes: Mapping[str, int],
    rng: np.random.Generator,
) -> np.ndarray:
    if not isinstance(value.type, ir.TensorType):
        raise _refusal(value, "a sequence, an optional or a value of unknown type")
    dtype = value.type.dtype
    if dtype == ir.DataType.STRING:
        raise _refusal(value, "text")
    if math.prod(shape) > _MOST_ELEMENTS:
        raise _refusal(value, f"the shape {list(shape)}, more elements than an array can have")
    role = role_of(value, model)
    if dtype == ir.DataType.BOOL:
        return _mask(shape, rng).astype(np.bool_)
    if dtype.is_floating_point():
        numbers = rng.standard_normal(shape) * rng.uniform(0.5, 2.0)
        return np.asarray(np.abs(numbers) + 0.1 if role.kind is Kind.POSITIVE else numbers).astype(dtype.numpy())
    if not dtype.is_integer():
        raise _refusal(value, f"the type {dtype.name.lower()}")
    return _integers(value, role, shape, sizes, rng).astype(dtype.numpy())


def _integers(
    value: ir.Value, role: Role, shape: tuple[int, ...], sizes: Mapping[str, int], rng: np.random.Generator
) -> np.ndarray:
    if role.kind is Kind.INDEX:
        return rng.integers(0, _extent(value, role, sizes), shape)
    if role.kind is Kind.MASK:
        return _mask(shape, rng)
    if role.kind in (Kind.SIZE, Kind.POSITIVE):
        return rng.integers(1, _SMALL, shape)
    if not shape:
        raise _refusal(value, "a single integer whose use says nothing of its range")
    signed = value.dtype is not None and value.dtype.is_signed()
    return rng.integers(-_SMALL if signed else 0, _SMALL, shape)


def _extent(value: ir.Value, role: Role, sizes: Mapping[str, int]) -> int:
    """Return the number of positions that fit every table the indices reach."""
    found: list[int] = []
    for extent in role.extents:
        size = extent.depth
        if extent.data is not None:
            dim = facts.dim(extent.data, extent.axis)
            size = None if dim is None else size_of(dim, sizes)
        if size is None:
            raise _refusal(value, f"indices into {facts.describe(extent.data)}, whose size is not known")
        found.append(size - extent.added)
    if min(found) < 1:
        raise _refusal(value, "indices into an axis of no elements")
    return min(found)


def _mask(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return ones with zeros at the right of every second row of three and at the left of every third."""
    mask = np.ones(shape, np.int64)
    if not shape or shape[-1] < 2:
        return mask
    rows = mask.reshape(-1, shape[-1])
    # A random start, so that a mask of one row is padded too.
    start = int(rng.integers(1, 3)) if len(rows) < 3 else 0
    for index, row in enumerate(rows):
        padding = int(rng.integers(1, shape[-1]))
        if (index + start) % 3 == 1:
            row[-padding:] = 0
        elif (index + start) % 3 == 2:
            row[:padding] = 0
    return mask


def _refusal(value: ir.Value, found: str) -> RequestError:
    return RequestError(
        f"input {value.name}",
        found,
        needed="a tensor of numbers that can be drawn",
        hint="give example inputs",
    )
