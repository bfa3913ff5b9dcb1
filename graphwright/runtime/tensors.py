"""The edge between ONNX Runtime and the arrays of its callers: NumPy, and torch without importing it.

A contiguous tensor in main memory is handed over without a copy. NumPy has no bfloat16 and no 8-bit floats:
they cross as integers of the same width.
"""

import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from graphwright.errors import RequestError
from graphwright.runtime.signature import numpy_dtype

_UNSIGNED = {1: "uint8", 2: "uint16"}
_NATIVE_KINDS = "biufc"


def is_torch(value: object) -> bool:
    """Whether the value is a torch tensor; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def cuda_device(values: Iterable[Any]) -> Any | None:
    """The CUDA device of the first tensor that lies on one."""
    return next((value.device for value in values if is_torch(value) and value.device.type == "cuda"), None)


@cache
def is_native(dtype: ir.DataType) -> bool:
    """Whether NumPy itself has the type."""
    return dtype != ir.DataType.STRING and numpy_dtype(dtype).kind in _NATIVE_KINDS


@cache
def storage(dtype: ir.DataType) -> np.dtype[Any] | None:
    """The NumPy type that a buffer of the type has; None where several elements share a byte, or for text."""
    if dtype == ir.DataType.STRING or dtype.bitwidth < 8:
        return None
    return numpy_dtype(dtype) if is_native(dtype) else np.dtype(_UNSIGNED[dtype.bitwidth // 8])


def to_storage(name: str, value: Any, dtype: ir.DataType) -> np.ndarray:
    """A contiguous NumPy array of the value's memory, or of a copy where it is not contiguous.

    Raises:
        RequestError: a tensor on another device.
    """
    native = storage(dtype)
    if is_torch(value):
        if value.device.type != "cpu":
            raise RequestError(
                f"input {name}",
                f"a tensor on {value.device}",
                needed="one in main memory",
                hint="call .cpu(), or optimize for target ort-cuda",
            )
        torch = sys.modules["torch"]
        value = value.detach().resolve_conj().resolve_neg()
        if native is not None and not is_native(dtype):
            value = value.view(torch.int16 if native.itemsize == 2 else torch.uint8)
        value = value.numpy()
    array = np.asarray(value, order="C")
    return array if native is None or array.dtype == native else array.view(native)


def to_ort_value(array: np.ndarray, dtype: ir.DataType) -> ort.OrtValue:
    """An OrtValue on the array's memory; the array must outlive it."""
    if is_native(dtype):
        return ort.OrtValue.ortvalue_from_numpy(array)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, int(dtype))


def from_storage(array: np.ndarray, dtype: ir.DataType, *, as_torch: bool) -> Any:
    """The array as the caller wants it, on the same memory."""
    if not as_torch or dtype == ir.DataType.STRING:
        return array if is_native(dtype) or dtype == ir.DataType.STRING else array.view(numpy_dtype(dtype))
    torch = sys.modules["torch"]
    if is_native(dtype):
        return torch.from_numpy(array)
    signed = array.view(np.int16) if array.itemsize == 2 else array
    return torch.from_numpy(signed).view(torch_dtype(dtype))


def from_ort_value(value: ort.OrtValue, dtype: ir.DataType) -> np.ndarray:
    """The memory that ONNX Runtime allocated, as an array that keeps it alive."""
    if is_native(dtype) or dtype == ir.DataType.STRING:
        return np.asarray(value.numpy())
    return np.asarray(_Owned(value, storage(dtype)))


class _Owned:
    """The owner of an array on an OrtValue's memory, for types that ``OrtValue.numpy`` refuses."""

    def __init__(self, value: ort.OrtValue, dtype: np.dtype[Any] | None) -> None:
        if dtype is None:
            raise RequestError("output", value.data_type(), needed="a type of whole bytes")
        self.value = value
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(value.shape()),
            "typestr": dtype.str,
            "data": (value.data_ptr(), False),
        }


def torch_dtype(dtype: ir.DataType) -> Any:
    """torch's type of the same name; torch must be loaded."""
    spelling = {"FLOAT8E4M3FN": "float8_e4m3fn", "FLOAT8E5M2": "float8_e5m2"}.get(dtype.name)
    return getattr(sys.modules["torch"], spelling or numpy_dtype(dtype).name)
