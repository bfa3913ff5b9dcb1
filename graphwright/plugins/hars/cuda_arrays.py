"""Arrays on a CUDA device, by pointer: torch's, CuPy's, and others through CuPy or torch. Neither is imported here.

Outputs and scratch come from the same library as the input, on its current stream, so its allocator keeps the order
and a graph being captured owns them.
"""

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from itertools import pairwise
from math import inf, isfinite, prod
from typing import Any

import numpy as np

from graphwright.errors import MissingDependencyError, RequestError

# The numbers of hars_cuda.h.
DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
_CUDA = 2  # kDLCUDA of dlpack.h


class CupyMemory:
    """What the kernels need of CuPy; NumPy spells most of it the same."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def pointer(self, array: Any) -> int:
        """Return the address of the first element on the device."""
        return int(array.data.ptr)

    def stream(self, array: Any) -> int:
        """Return the stream that work on the array goes to now."""
        return int(self.library.cuda.get_current_stream().ptr)

    def device(self, array: Any) -> AbstractContextManager[Any]:
        """Return a context in which the array's device is the current one."""
        entered: AbstractContextManager[Any] = array.device
        return entered

    def place(self, array: Any) -> str:
        """Return the device by name."""
        return f"cuda:{array.device.id}"

    def dtype(self, array: Any) -> str:
        """Return the dtype by NumPy's name."""
        return str(array.dtype)

    def strides(self, array: Any) -> tuple[int, ...]:
        """Return the steps between neighbours along each axis, in elements."""
        return tuple(step // array.dtype.itemsize for step in array.strides)

    def empty(self, like: Any, shape: Sequence[int], dtype: str) -> Any:
        """Return new memory on the device of another array."""
        return self.library.empty(tuple(shape), dtype=dtype)

    def contiguous(self, array: Any) -> Any:
        """Return the array, or a copy, with its elements in order and without gaps."""
        return self.library.ascontiguousarray(array)

    def single(self, array: Any) -> Any:
        """Return the array in float32; a mask as 0 where it is true and -inf elsewhere."""
        if self.dtype(array) == "bool":
            return self.library.where(array, self.library.float32(0), self.library.float32(-self.library.inf))
        return array.astype("float32", copy=False)

    def whole(self, like: Any, value: Any, count: int) -> Any:
        """Return so many int64 numbers: one number over and over, or those of an array."""
        if isinstance(value, int):
            return self.library.full(count, value, dtype="int64")
        return self.contiguous(self.spread(value.astype("int64", copy=False), (count,)))

    def count(self, like: Any, count: int) -> Any:
        """Return 0, 1, 2, ... as int64."""
        return self.library.arange(count, dtype="int64")

    def move_axis(self, array: Any, source: int, target: int) -> Any:
        """Return a view with an axis moved to another place."""
        return self.library.moveaxis(array, source, target)

    def spread(self, array: Any, shape: Sequence[int]) -> Any:
        """Return a view that repeats the array to a shape."""
        return self.library.broadcast_to(array, tuple(shape))


class TorchMemory(CupyMemory):
    """What the kernels need of torch."""

    def pointer(self, array: Any) -> int:
        """Return the address of the first element on the device."""
        return int(array.data_ptr())

    def stream(self, array: Any) -> int:
        """Return the stream that work on the array goes to now."""
        return int(self.library.cuda.current_stream(array.device).cuda_stream)

    def device(self, array: Any) -> AbstractContextManager[Any]:
        """Return a context in which the array's device is the current one."""
        entered: AbstractContextManager[Any] = self.library.cuda.device(array.device)
        return entered

    def place(self, array: Any) -> str:
        """Return the device by name."""
        return str(array.device)

    def dtype(self, array: Any) -> str:
        """Return the dtype by NumPy's name."""
        return str(array.dtype).removeprefix("torch.")

    def strides(self, array: Any) -> tuple[int, ...]:
        """Return the steps between neighbours along each axis, in elements."""
        return tuple(array.stride())

    def empty(self, like: Any, shape: Sequence[int], dtype: str) -> Any:
        """Return new memory on the device of another array."""
        return self.library.empty(tuple(shape), dtype=getattr(self.library, dtype), device=like.device)

    def contiguous(self, array: Any) -> Any:
        """Return the array, or a copy, with its elements in order and without gaps."""
        return array.contiguous()

    def single(self, array: Any) -> Any:
        """Return the array in float32; a mask as 0 where it is true and -inf elsewhere."""
        if array.dtype == self.library.bool:
            zeros = self.library.zeros(array.shape, dtype=self.library.float32, device=array.device)
            return zeros.masked_fill_(~array, -self.library.inf)
        return array.float()

    def whole(self, like: Any, value: Any, count: int) -> Any:
        """Return so many int64 numbers: one number over and over, or those of an array."""
        if isinstance(value, int):
            return self.library.full((count,), value, dtype=self.library.int64, device=like.device)
        return value.long().broadcast_to((count,)).contiguous()

    def count(self, like: Any, count: int) -> Any:
        """Return 0, 1, 2, ... as int64."""
        return self.library.arange(count, dtype=self.library.int64, device=like.device)


def on_device(where: str, value: Any) -> tuple[CupyMemory, Any]:
    """Return an array on a device, and the library that it is of.

    Arrays of other libraries that share their memory (DLPack, ``__cuda_array_interface__``) become CuPy's or torch's,
    whichever is loaded, without a copy.

    Raises:
        RequestError: not on a CUDA device.
        MissingDependencyError: an array of another library, and neither torch nor CuPy is there.
    """
    torch, cupy = sys.modules.get("torch"), sys.modules.get("cupy")
    if torch is not None and isinstance(value, torch.Tensor):
        if not value.is_cuda:
            raise RequestError(where, f"a tensor on {value.device}", needed="one on a CUDA device")
        return TorchMemory(torch), value.detach().resolve_neg()
    if cupy is not None and isinstance(value, cupy.ndarray):
        return CupyMemory(cupy), value
    by_dlpack = hasattr(value, "__dlpack_device__") and value.__dlpack_device__()[0] == _CUDA
    if not by_dlpack and not hasattr(value, "__cuda_array_interface__"):
        raise RequestError(where, f"{type(value).__name__}", needed="an array on a CUDA device")
    if cupy is None and torch is not None:
        return TorchMemory(torch), torch.from_dlpack(value) if by_dlpack else torch.as_tensor(value, device="cuda")
    cupy = cupy or _cupy(where)
    return CupyMemory(cupy), cupy.from_dlpack(value) if by_dlpack else cupy.asarray(value)


def _cupy(where: str) -> Any:
    try:
        return import_module("cupy")
    except ImportError as error:
        raise MissingDependencyError(
            where, "neither torch nor CuPy", needed="one of them to make the results"
        ) from error


def row_step(shape: Sequence[int], strides: Sequence[int]) -> int | None:
    """Return the elements from each row to the next, or None where a kernel cannot walk the rows like this.

    Example:
        >>> row_step((2, 3, 5), (24, 8, 1)), row_step((2, 3, 5), (40, 8, 1)), row_step((3, 5), (-5, 1))
        (8, None, None)
    """
    width = shape[-1]
    if width > 1 and strides[-1] != 1:
        return None
    outer = [pair for pair in zip(shape[:-1], strides[:-1], strict=True) if pair[0] != 1]
    if not outer:
        return width
    if any(step != inner_size * inner_step for (_, step), (inner_size, inner_step) in pairwise(outer)):
        return None
    return outer[-1][1] if outer[-1][1] >= width else None


def bias_rows(memory: CupyMemory, bias: Any, shape: Sequence[int]) -> tuple[Any, int]:
    """Return a bias that has the rank of the logits as [rows, width] float32, whose row ``r % rows`` row r takes.

    Only the last axes, from the first one on that is more than 1, are spread out.
    """
    first = next((axis for axis, size in enumerate(bias.shape[:-1]) if size != 1), len(shape) - 1)
    wanted = tuple(shape[first:])
    tail = memory.single(bias).reshape(tuple(bias.shape[first:]))
    if tuple(tail.shape) != wanted:
        tail = memory.spread(tail, wanted)
    return memory.contiguous(tail), prod(wanted[:-1])


def fits(shape: Iterable[int], wanted: Sequence[int]) -> bool:
    """Tell whether a shape broadcasts to another.

    Example:
        >>> fits((1, 3), (2, 3)), fits((2, 3), (3,)), fits((), (2,))
        (True, False, True)
    """
    given = tuple(shape)
    if len(given) > len(wanted):
        return False
    return all(size in (1, each) for size, each in zip(reversed(given), reversed(wanted), strict=False))


def take(where: str, value: Any) -> tuple[CupyMemory, Any]:
    """Return logits or scores on a device, and the library that they are of.

    Raises:
        RequestError: not on a CUDA device, another dtype, a single number.
    """
    memory, array = on_device(where, value)
    if memory.dtype(array) not in DTYPES:
        raise RequestError(where, f"dtype {memory.dtype(array)}", needed="float32, float16 or bfloat16")
    if array.ndim == 0:
        raise RequestError(where, "a single number", needed="at least one axis")
    return memory, array


def walkable(memory: CupyMemory, array: Any) -> tuple[Any, int]:
    """Return the array, or a copy, with the elements from each row to the next."""
    step = row_step(array.shape, memory.strides(array))
    return (memory.contiguous(array), array.shape[-1]) if step is None else (array, step)


def checked_bias(where: str, memory: CupyMemory, rows: Any, bias: Any) -> Any:
    """Return the bias with as many axes as the rows, still in its own dtype.

    Raises:
        RequestError: another device or library, no floats, a shape that does not broadcast.
    """
    of, array = on_device(where, bias)
    if type(of) is not type(memory) or of.place(array) != memory.place(rows):
        raise RequestError(
            where, f"{of.place(array)}", needed=f"the library and device of the rest: {memory.place(rows)}"
        )
    if memory.dtype(array) not in (*DTYPES, "float64", "bool"):
        raise RequestError(where, f"dtype {memory.dtype(array)}", needed="a float dtype, or bool for a mask")
    if not fits(array.shape, rows.shape):
        raise RequestError(where, f"shape {list(array.shape)}", needed=f"one that broadcasts to {list(rows.shape)}")
    return array.reshape((1,) * (rows.ndim - array.ndim) + tuple(array.shape))


def temperature_of(where: str, given: float) -> float:
    """Return the temperature as the kernels have it, in float32.

    Raises:
        RequestError: not above 0, or not finite.
    """
    is_number = isinstance(given, int | float) and not isinstance(given, bool) and 0 < given < inf
    with np.errstate(over="ignore"):
        single = float(np.float32(given)) if is_number else 0.0
    if not (single > 0 and isfinite(single)):
        raise RequestError(f"{where}: temperature", repr(given), needed="a finite number above 0")
    return single
