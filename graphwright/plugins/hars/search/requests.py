"""Arguments of the search functions, checked once, before anything runs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphwright.errors import RequestError
from graphwright.plugins.hars.arrays import SINGLE_OR_LESS, bias_rows, check_rows, is_torch

_FULL = 2**64


@dataclass(frozen=True)
class Logits:
    """Logits [rows, V] with a bias [n, V]; ``bias_row`` tells which of its n rows each takes, where n is not 1."""

    array: np.ndarray
    bias: np.ndarray | None = None
    temperature: float = 1.0
    bias_row: np.ndarray | None = None

    @property
    def full_bias(self) -> np.ndarray | None:
        """The bias [1, V] or [rows, V]."""
        if self.bias is None or self.bias_row is None:
            return self.bias
        return np.asarray(self.bias[self.bias_row])


def check_logits(where: str, logits: Any, bias: Any, temperature: float, ranks: tuple[int, ...]) -> Logits:
    """Return the logits as [rows, V], float32 or less.

    Raises:
        RequestError: no float logits, float64, V = 0, another rank, a bias that does not broadcast, a temperature that
            is not above 0.
    """
    rows = check_rows(where, logits, 1, -1, bias, temperature)
    array = rows.array
    if array.dtype not in SINGLE_OR_LESS:
        needed, hint = "float32, float16 or bfloat16", "round it with astype(np.float32)"
        raise RequestError(f"{where}: logits", f"dtype {array.dtype}", needed=needed, hint=hint)
    if array.ndim not in ranks:
        needed = " or ".join(f"{rank} axes" for rank in ranks)
        raise RequestError(f"{where}: logits", f"shape {list(array.shape)}", needed=needed)
    table, bias_row = bias_rows(rows)
    return Logits(array.reshape(-1, array.shape[-1]), table, float(temperature), bias_row)


def whole(where: str, value: object, low: int, high: int | None = None) -> int:
    """Return a whole number within bounds.

    Raises:
        RequestError: something else.

    Example:
        >>> whole("beam_step: beams", np.int64(4), 1)
        4
    """
    needed = f"a whole number, {low} or more" if high is None else f"a whole number from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise RequestError(where, repr(value), needed=needed)
    if value < low or (high is not None and value > high):
        raise RequestError(where, str(value), needed=needed)
    return int(value)


def fraction(where: str, value: object, low: float, high: float) -> float:
    """Return a number within bounds, both of which it may be.

    Raises:
        RequestError: something else, NaN among it.

    Example:
        >>> fraction("sample: top_p", 1, 0.0, 1.0)
        1.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not low <= float(value) <= high:
        raise RequestError(where, repr(value), needed=f"a number from {low:g} to {high:g}")
    return float(value)


def plain(value: Any) -> np.ndarray:
    """Return an array of numbers from NumPy, torch or lists; floats of torch too, but not bfloat16."""
    return np.asarray(value.detach().cpu().numpy() if is_torch(value) else value)


def counters(where: str, value: Any, rows: int) -> np.ndarray:
    """Return unsigned 64-bit numbers, one a row, from one number or one for each.

    Raises:
        RequestError: no whole numbers, negative ones, or not one a row.

    Example:
        >>> counters("sample: seed", 7, 2).tolist()
        [7, 7]
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return np.full(rows, whole(where, value, 0, _FULL - 1), np.uint64)
    array = plain(value)
    if array.dtype.kind not in "iu" or (array.size and array.min() < 0):
        raise RequestError(where, f"{array.dtype} numbers", needed="whole numbers, 0 or more")
    if array.shape not in ((), (rows,)):
        raise RequestError(where, f"shape {list(array.shape)}", needed=f"one number, or [{rows}]")
    return np.array(np.broadcast_to(array, (rows,)), np.uint64)


def int64s(where: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return whole numbers of a shape as int64.

    Raises:
        RequestError: another kind or shape.
    """
    return _shaped(where, value, shape, "iu", np.dtype(np.int64))


def float32s(where: str, value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers of a shape as float32.

    Raises:
        RequestError: another kind or shape.
    """
    return _shaped(where, value, shape, "iuf", np.dtype(np.float32))


def _shaped(where: str, value: Any, shape: tuple[int, ...], kinds: str, dtype: np.dtype[Any]) -> np.ndarray:
    array = plain(value)
    if array.dtype.kind not in kinds:
        raise RequestError(where, f"dtype {array.dtype}", needed=str(dtype))
    if array.shape != shape:
        raise RequestError(where, f"shape {list(array.shape)}", needed=str(list(shape)))
    return np.ascontiguousarray(array, dtype)
