"""Compare the outputs of two models: one table of tolerances, one measure of how far apart tensors are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir


@dataclass(frozen=True)
class Tolerance:
    """The largest difference allowed: ``absolute + relative * scale``, with the scale of ``scale_of``."""

    absolute: float
    relative: float

    def times(self, factor: float) -> "Tolerance":
        """Return one that allows so many times as much."""
        return Tolerance(self.absolute * factor, self.relative * factor)


# The only table of tolerances. Unit roundoffs: 1.1e-16 (double), 6e-8 (float), 4.9e-4 (half), 3.9e-3
# (bfloat16). A sum of n rounded terms is off by about sqrt(n) and at most n of them relative to the size of
# its terms; n is 300 to 4,000 in transformers. Kernels for half and bfloat16 add up in float, so that only
# the few roundings between kernels count there: 16 of them. float is bound by what MiniLM must keep, 2e-5.
TOLERANCES: Mapping[ir.DataType, Tolerance] = {
    ir.DataType.DOUBLE: Tolerance(1e-13, 1e-11),
    ir.DataType.FLOAT: Tolerance(1e-6, 2e-5),
    ir.DataType.FLOAT16: Tolerance(1e-4, 8e-3),
    ir.DataType.BFLOAT16: Tolerance(1e-3, 6e-2),
    ir.DataType.COMPLEX64: Tolerance(1e-6, 2e-5),
    ir.DataType.COMPLEX128: Tolerance(1e-13, 1e-11),
}

# The tenth percentile of the magnitudes of normal numbers is 0.126 of their deviation.
_LOW_QUANTILE, _QUANTILE_TO_SCALE = 0.1, 10.0


@dataclass(frozen=True)
class Difference:
    """One output that differs by more than is allowed, and where it differs most."""

    output: str
    kind: str
    detail: str
    absolute: float = 0.0
    relative: float = 0.0

    def __str__(self) -> str:
        return f"{self.output}: {self.detail}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return {name: plain(field) for name, field in asdict(self).items()}


@dataclass(frozen=True)
class Gap:
    """How far apart two tensors are where both are finite, allowed or not."""

    absolute: float = 0.0
    relative: float = 0.0
    excess: float = 0.0
    index: tuple[int, ...] = ()


def compare(
    expected: Mapping[str, np.ndarray],
    actual: Mapping[str, np.ndarray],
    tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
) -> list[Difference]:
    """Return the outputs that differ: by name, dtype, shape, places of NaN and infinities, or numbers.

    Booleans, integers and text must be equal. A NaN equals a NaN. Where ``expected`` is double and ``actual``
    a narrower float, the narrower one's tolerance holds and the dtypes count as equal: the first is a
    reference.

    Example:
        >>> compare({"y": np.float32([1, 2])}, {"y": np.float32([1, 2.00001])})
        []
        >>> print(compare({"y": np.float32([1, 2])}, {"y": np.float32([1, 3])})[0])
        y: 3 where 2 is due, at [1]; the difference is 1, allowed 4.1e-05
    """
    found = [_missing(name, "is not there") for name in expected if name not in actual]
    found += [_missing(name, "was not there before") for name in actual if name not in expected]
    for name in expected:
        if name in actual:
            difference = compare_tensors(name, expected[name], actual[name], tolerances)
            found.extend([difference] if difference is not None else [])
    return found


def _missing(name: str, detail: str) -> Difference:
    return Difference(name, "missing", f"the output {detail}")


def compare_tensors(
    name: str,
    expected: np.ndarray,
    actual: np.ndarray,
    tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
) -> Difference | None:
    """Return how two tensors differ, or None where they do not."""
    if expected.shape != actual.shape:
        return Difference(name, "shape", f"shape {list(actual.shape)} where {list(expected.shape)} is due")
    is_reference = expected.dtype == np.float64 and _type(actual) in tolerances
    if expected.dtype != actual.dtype and not is_reference:
        return Difference(name, "dtype", f"{actual.dtype} where {expected.dtype} is due")
    tolerance = tolerances.get(_type(actual))
    if tolerance is None:
        return _compare_exactly(name, expected, actual)
    expected = as_rounded(expected, actual.dtype)
    for kind, classify in (("nan", np.isnan), ("infinity", _infinities)):
        wrong = np.asarray(classify(expected) != classify(actual.astype(expected.dtype)))
        if wrong.any():
            return _misplaced(name, kind, expected, actual, wrong)
    gap = gap_of(expected, actual, tolerance)
    if gap.excess <= 0:
        return None
    return _too_far(name, expected, actual, gap)


def _type(array: np.ndarray) -> ir.DataType:
    if array.dtype.kind in "OUS":
        return ir.DataType.STRING
    return ir.DataType.from_numpy(array.dtype)


def _infinities(array: np.ndarray) -> np.ndarray:
    """Return 1 and -1 for the infinities, 0 elsewhere."""
    signs: np.ndarray = np.asarray(np.isinf(array)).astype(np.int8)
    if array.dtype.kind != "c":
        signs[np.isneginf(array)] = -1
    return signs


def as_rounded(expected: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return numbers in double, infinite where the narrower dtype cannot hold them."""
    if expected.dtype.kind == "c":
        return expected.astype(np.complex128)
    wide = expected.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = expected.astype(dtype).astype(np.float64)
    return np.where(np.isinf(narrow), narrow, wide)


def as_declared(array: np.ndarray, dtype: ir.DataType | None) -> np.ndarray:
    """Return numbers that were computed in double in the dtype that their output declares."""
    if dtype is None or dtype not in TOLERANCES or array.dtype != np.float64:
        return array
    return array.astype(dtype.numpy())


def scale_of(expected: np.ndarray) -> np.ndarray:
    """Return, for each number, the size that its error is judged by: its own, or what is usual in its tensor.

    The usual size is read from the small end of the tensor, so that the huge negative numbers of an attention
    mask do not excuse errors in the rest; it stands for the terms that cancelled in a number near zero.
    """
    magnitude: np.ndarray = np.abs(expected)
    counted = magnitude[np.isfinite(magnitude) & (magnitude > 0)]
    if not counted.size:
        return magnitude
    usual = _QUANTILE_TO_SCALE * float(np.quantile(counted, _LOW_QUANTILE))
    return np.asarray(np.maximum(magnitude, min(usual, float(counted.max()))))


def gap_of(expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> Gap:
    """Return the largest differences where both are finite; ``excess`` above zero is too much."""
    expected = as_rounded(expected, actual.dtype)
    if not expected.size:
        return Gap()
    finite = np.isfinite(expected) & np.isfinite(actual.astype(expected.dtype))
    scale = np.where(finite, scale_of(expected), 0.0)
    distance = np.zeros(expected.shape)
    np.subtract(expected, actual.astype(expected.dtype), out=(raw := np.zeros_like(expected)), where=finite)
    distance = np.abs(raw)
    excess = distance - (tolerance.absolute + tolerance.relative * scale)
    ratio = np.divide(distance, scale, out=np.zeros_like(distance), where=scale > 0)
    worst = tuple(int(axis) for axis in np.unravel_index(int(np.argmax(excess)), excess.shape))
    return Gap(float(distance.max()), float(ratio.max()), float(excess.max()), worst)


def _too_far(name: str, expected: np.ndarray, actual: np.ndarray, gap: Gap) -> Difference:
    distance = float(abs(expected[gap.index] - actual[gap.index]))
    allowed = distance - gap.excess
    place = f", at {list(gap.index)}" if gap.index else ""
    detail = f"{_number(actual[gap.index])} where {_number(expected[gap.index])} is due{place}"
    return Difference(
        name,
        "value",
        f"{detail}; the difference is {distance:.3g}, allowed {allowed:.2g}",
        gap.absolute,
        gap.relative,
    )


def _misplaced(name: str, kind: str, expected: np.ndarray, actual: np.ndarray, wrong: np.ndarray) -> Difference:
    index = tuple(int(axis) for axis in np.argwhere(wrong)[0])
    place = f", at {list(index)}" if index else ""
    detail = f"{_number(actual[index])} where {_number(expected[index])} is due{place}"
    return Difference(name, kind, f"{detail}; {int(wrong.sum())} of {wrong.size} places", np.inf, np.inf)


def _compare_exactly(name: str, expected: np.ndarray, actual: np.ndarray) -> Difference | None:
    wrong = np.asarray(expected != actual)
    if not wrong.any():
        return None
    index = tuple(int(axis) for axis in np.argwhere(wrong)[0])
    place = f", at {list(index)}" if index else ""
    detail = f"{actual[index]} where {expected[index]} is due{place}; {int(wrong.sum())} of {wrong.size} places"
    return Difference(name, "value", detail)


def _number(number: Any) -> str:
    return f"{complex(number):.6g}" if isinstance(number, np.complexfloating) else f"{float(number):.6g}"


def plain(number: Any) -> Any:
    """Return a number as strict JSON takes it: text for NaN and the infinities."""
    if isinstance(number, float) and not np.isfinite(number):
        return str(number)
    return number
