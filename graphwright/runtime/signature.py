"""What a model's inputs and outputs are called, and what is known of their types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.errors import RequestError

Dims = tuple[int | str, ...]

# torch's names of the types that NumPy calls otherwise or not at all.
_TORCH_NAMES = {
    "torch.float8_e4m3fn": ir.DataType.FLOAT8E4M3FN,
    "torch.float8_e5m2": ir.DataType.FLOAT8E5M2,
    "torch.bfloat16": ir.DataType.BFLOAT16,
}


@dataclass(frozen=True)
class Port:
    """One input or output. ``dims`` is None where the rank is unknown, ``dtype`` where it is no tensor.

    A dimension without a name gets one from its place, such as ``x[0]``, so that a profile can name it.
    """

    name: str
    dtype: ir.DataType | None
    dims: Dims | None
    is_optional: bool = False

    def __str__(self) -> str:
        dtype = self.dtype.name.lower() if self.dtype is not None else "no tensor"
        return f"{self.name} {dtype}[{', '.join(map(str, self.dims)) if self.dims is not None else '...'}]"


def inputs_of(model: ir.Model) -> tuple[Port, ...]:
    """The inputs of a model; those that an initializer gives a default are optional.

    Example:
        >>> x = ir.Value(name="x", shape=ir.Shape(["batch", None, 3]), type=ir.TensorType(ir.DataType.FLOAT))
        >>> print(*inputs_of(ir.Model(ir.Graph([x], [], nodes=[]), ir_version=10)))
        x float[batch, x[1], 3]
    """
    defaults = model.graph.initializers
    return tuple(_port(value, is_optional=value.name in defaults) for value in model.graph.inputs)


def outputs_of(model: ir.Model) -> tuple[Port, ...]:
    """The outputs of a model."""
    return tuple(_port(value) for value in model.graph.outputs)


def _port(value: ir.Value, *, is_optional: bool = False) -> Port:
    name = value.name or ""
    dtype = value.dtype if isinstance(value.type, ir.TensorType) else None
    if value.shape is None or dtype is None:
        return Port(name, dtype, None, is_optional)
    raw = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return Port(name, dtype, named_dims(name, raw), is_optional)


def named_dims(name: str, dims: Any) -> Dims:
    """Dimensions with a name each: ``None`` and ``""`` become the place, such as ``x[0]``."""
    return tuple(dim if isinstance(dim, int) else dim or f"{name}[{axis}]" for axis, dim in enumerate(dims))


def describe(name: str, value: object) -> tuple[ir.DataType, tuple[int, ...]]:
    """Type and shape of a NumPy array or a torch tensor.

    Raises:
        RequestError: the value is neither, or has a type that ONNX does not know.

    Example:
        >>> describe("x", np.zeros((2, 3), np.float16))
        (FLOAT16, (2, 3))
    """
    where = f"input {name}"
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is None or shape is None:
        raise RequestError(where, f"a {type(value).__name__}", needed="a NumPy array or a torch tensor")
    if isinstance(dtype, np.dtype):
        return _from_numpy(where, dtype), tuple(shape)
    known = _TORCH_NAMES.get(str(dtype))
    if known is not None:
        return known, tuple(shape)
    try:
        return ir.DataType.from_numpy(np.dtype(str(dtype).removeprefix("torch."))), tuple(shape)
    except TypeError:
        raise RequestError(where, f"type {dtype}", needed="a type that ONNX knows") from None


def _from_numpy(where: str, dtype: np.dtype[Any]) -> ir.DataType:
    if not dtype.isnative:
        raise RequestError(where, f"byte order {dtype.str}", needed="this machine's", hint="convert it")
    if dtype.kind in "OUS":
        return ir.DataType.STRING
    try:
        return ir.DataType.from_numpy(dtype)
    except TypeError:
        raise RequestError(where, f"type {dtype}", needed="a type that ONNX knows") from None


def numpy_dtype(dtype: ir.DataType) -> np.dtype[Any]:
    """The NumPy type of an ONNX type; bfloat16 and the 8-bit floats come from ml_dtypes.

    Example:
        >>> numpy_dtype(ir.DataType.BFLOAT16)
        dtype(bfloat16)
    """
    return np.dtype(object) if dtype == ir.DataType.STRING else dtype.numpy()


Request = Mapping[str, Any]
