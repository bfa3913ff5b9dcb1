"""Arrays in and out of the HARS functions: NumPy or torch, checked once, before anything runs."""

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import ml_dtypes
import numpy as np

from graphwright.errors import RequestError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SINGLE_OR_LESS = (np.dtype(np.float32), np.dtype(np.float16), BFLOAT16)
# By numpy's type character; "E" is ml_dtypes' bfloat16.
_FLOATS = "fdeE"
_NEEDED = "float32, float16, bfloat16 or float64"


def is_torch(value: object) -> TypeGuard[Any]:
    """Tell whether a value is a torch tensor, without importing torch.

    Example:
        >>> is_torch(np.zeros(3))
        False
    """
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_numpy(where: str, value: Any) -> np.ndarray:
    """Return an array that shares memory with the value where it can.

    Raises:
        RequestError: no float array.
    """
    array = _from_torch(value) if is_torch(value) else np.asarray(value)
    if array.dtype.char not in _FLOATS:
        raise RequestError(where, f"dtype {array.dtype}", needed=_NEEDED)
    return array


def _from_torch(value: Any) -> np.ndarray:
    torch = sys.modules["torch"]
    value = value.detach().cpu().contiguous()
    if value.dtype == torch.bfloat16:
        return np.asarray(value.view(torch.int16).numpy().view(BFLOAT16))
    return np.asarray(value.numpy())


def like(arrays: Sequence[np.ndarray], given: object) -> tuple[Any, ...]:
    """Return the arrays as the kind that was given: torch tensors on the device of a torch tensor, else as they are."""
    if not is_torch(given):
        return tuple(arrays)
    torch = sys.modules["torch"]
    return tuple(torch.from_numpy(array).to(given.device) for array in arrays)


class Rows(NamedTuple):
    """Logits as [outer, width, inner], and how to get back."""

    array: np.ndarray
    axis: int
    bias: np.ndarray | None

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many rows before the axis, how long a row is, and how many sizes lie behind the axis."""
        shape, axis = self.array.shape, self.axis
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])

    def kept(self, k: int) -> tuple[int, ...]:
        """The shape with ``k`` in place of the width."""
        return (*self.array.shape[: self.axis], k, *self.array.shape[self.axis + 1 :])

    @property
    def rest(self) -> tuple[int, ...]:
        """The shape without the axis."""
        return (*self.array.shape[: self.axis], *self.array.shape[self.axis + 1 :])


def check_rows(where: str, logits: Any, k: int, axis: int, bias: Any, temperature: float) -> Rows:
    """Return the logits as an array, with its axis counted from the front and the bias in float32.

    Raises:
        RequestError: what the operator does not take.
    """
    array = to_numpy(f"{where}: logits", logits)
    if array.ndim == 0:
        raise RequestError(f"{where}: logits", "a single number", needed="at least one axis")
    if not -array.ndim <= axis < array.ndim:
        raise RequestError(f"{where}: axis", str(axis), needed=f"-{array.ndim} to {array.ndim - 1}")
    axis %= array.ndim
    check_k(where, k, array.shape[axis])
    if temperature != 1.0 and not _is_temperature(temperature):
        raise RequestError(f"{where}: temperature", repr(temperature), needed="a finite number above 0")
    return Rows(array, axis, None if bias is None else _check_bias(where, bias, array))


def _is_temperature(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(0 < value < math.inf) and bool(np.float32(value))


def check_k(where: str, k: object, width: int) -> None:
    """Raise unless ``k`` is a whole number from 1 to the width."""
    if type(k) is not int and (isinstance(k, bool) or not isinstance(k, int | np.integer)):
        raise RequestError(f"{where}: k", repr(k), needed="a whole number")
    if not 1 <= k <= width:
        raise RequestError(f"{where}: k", str(k), needed=f"1 to {width}, the size of the axis")


def _check_bias(where: str, bias: Any, logits: np.ndarray) -> np.ndarray:
    if is_torch(bias):
        bias = _from_torch(bias)
    array = np.asarray(bias)
    if array.dtype == np.bool_:
        array = np.where(array, np.float32(0), np.float32(-np.inf))
    wanted = np.float64 if logits.dtype == np.float64 else np.float32
    array = to_numpy(f"{where}: bias", array).astype(wanted, copy=False)
    try:
        fits = np.broadcast_shapes(array.shape, logits.shape) == logits.shape
    except ValueError:
        fits = False
    if not fits:
        needed = f"one that broadcasts to {list(logits.shape)}"
        raise RequestError(f"{where}: bias", f"shape {list(array.shape)}", needed=needed)
    return array


def bias_rows(rows: Rows) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the bias as a table of whole rows, and which of them each row of the logits takes; None: all the first."""
    if rows.bias is None:
        return None, None
    shape = rows.array.shape
    bias = rows.bias.reshape((1,) * (len(shape) - rows.bias.ndim) + rows.bias.shape)
    lines = np.moveaxis(bias, rows.axis, -1)
    lines = np.broadcast_to(lines, (*lines.shape[:-1], shape[rows.axis]))
    table = np.ascontiguousarray(lines.reshape(-1, shape[rows.axis]))
    if len(table) == 1:
        return table, None
    numbers = np.arange(len(table), dtype=np.int64).reshape(lines.shape[:-1])
    return table, np.ascontiguousarray(np.broadcast_to(numbers, rows.rest).reshape(-1))


def check_router(
    where: str, scores: Any, k: int, bias: Any, zero_experts: int, groups: int, top_groups: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return scores and bias as arrays.

    Raises:
        RequestError: what the operator does not take.
    """
    array = to_numpy(f"{where}: scores", scores)
    if array.ndim == 0:
        raise RequestError(f"{where}: scores", "a single number", needed="at least one axis")
    experts = array.shape[-1]
    check_k(where, k, experts)
    if not 0 <= zero_experts <= experts:
        raise RequestError(f"{where}: zero_experts", str(zero_experts), needed=f"0 to {experts}, the number of scores")
    check_groups(where, experts, k, groups, top_groups)
    if bias is None:
        return array, None
    offset = to_numpy(f"{where}: bias", bias)
    if offset.shape != (experts,):
        raise RequestError(f"{where}: bias", f"shape {list(offset.shape)}", needed=f"[{experts}]")
    return array, np.ascontiguousarray(offset, np.float64 if array.dtype == np.float64 else np.float32)


def check_groups(where: str, experts: int, k: int, groups: int, top_groups: int) -> None:
    """Raise unless the experts form equal groups, of which enough are open for ``k`` experts."""
    if groups == 1 and top_groups == 1:
        return
    each = experts // max(groups, 1)
    if groups < 1 or experts % groups or (groups > 1 and each < 2):
        raise RequestError(f"{where}: groups", str(groups), needed=f"a divisor of {experts} with 2 or more in each")
    if not 1 <= top_groups <= groups or top_groups * each < k:
        needed = f"1 to {groups}, and at least {k} experts in them"
        raise RequestError(f"{where}: top_groups", str(top_groups), needed=needed)
