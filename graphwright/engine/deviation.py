"""How far outputs are off that may be, and what they may not be even so; ``by_design`` tells when."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine.compare import TOLERANCES, Difference, Tolerance, as_rounded, compare, gap_of, plain

Arrays = Mapping[str, np.ndarray]

# Any numbers will do, but not another name, dtype or shape.
_ANY_NUMBERS = {dtype: Tolerance(np.inf, 0.0) for dtype in TOLERANCES}
_OF_THE_FORM = ("missing", "dtype", "shape")


@dataclass(frozen=True)
class Deviation:
    """How far an output is off, where both are finite. For integers, booleans and text: the share that is unequal.

    ``relative`` is over the size of the numbers (``compare.scale_of``); ``cosine`` is that of the angle between the two
    outputs, each taken for one long vector.
    """

    output: str
    absolute: float = 0.0
    relative: float = 0.0
    cosine: float | None = None
    unequal: float | None = None

    def __str__(self) -> str:
        if self.cosine is None:
            return f"{self.output}: {self.unequal or 0.0:.1%} of the elements unequal"
        return f"{self.output}: up to {self.absolute:.1e} (relative {self.relative:.1e}), cosine {self.cosine:.6f}"

    def worst(self, other: "Deviation") -> "Deviation":
        """Return the worst of both in each respect."""
        cosines = [each for each in (self.cosine, other.cosine) if each is not None]
        shares = [each for each in (self.unequal, other.unequal) if each is not None]
        return Deviation(
            self.output,
            max(self.absolute, other.absolute),
            max(self.relative, other.relative),
            min(cosines, default=None),
            max(shares, default=None),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return {name: plain(field) for name, field in asdict(self).items()}


def deviations(expected: Arrays, actual: Arrays) -> list[Deviation]:
    """Return how far each output is off; those that ``broken`` names are left out.

    Example:
        >>> print(deviations({"y": np.float32([3, 4])}, {"y": np.float32([3, 4.5])})[0])
        y: up to 5.0e-01 (relative 1.2e-01), cosine 0.998460
    """
    wrong = {each.output for each in broken(expected, actual)}
    return [_deviation(name, due, actual[name]) for name, due in expected.items() if name not in wrong]


def worst_of(found: Iterable[Deviation]) -> tuple[Deviation, ...]:
    """Return the worst for each output."""
    worst: dict[str, Deviation] = {}
    for each in found:
        worst[each.output] = worst[each.output].worst(each) if each.output in worst else each
    return tuple(worst.values())


def broken(expected: Arrays, actual: Arrays) -> list[Difference]:
    """Return what no pass may do: other names, dtypes or shapes, and NaN or infinities where finite numbers are due."""
    found = [each for each in compare(expected, actual, _ANY_NUMBERS) if each.kind in _OF_THE_FORM]
    named = {each.output for each in found}
    for name, due in expected.items():
        if name not in named and _is_rounded(due):
            found.extend(_lost(name, due, actual[name]))
    return found


def _lost(name: str, expected: np.ndarray, actual: np.ndarray) -> list[Difference]:
    due, got = as_rounded(expected, actual.dtype), as_rounded(actual, actual.dtype)
    lost = np.argwhere(np.isfinite(due) & ~np.isfinite(got))
    if not len(lost):
        return []
    index = tuple(int(axis) for axis in lost[0])
    place = f", at {list(index)}" if index else ""
    detail = f"{got[index]} where {due[index]:.6g} is due{place}; {len(lost)} of {due.size} places"
    return [Difference(name, "nan" if np.isnan(got[index]) else "infinity", detail, np.inf, np.inf)]


def _is_rounded(array: np.ndarray) -> bool:
    return array.dtype.kind not in "OUS" and ir.DataType.from_numpy(array.dtype) in TOLERANCES


def _deviation(name: str, expected: np.ndarray, actual: np.ndarray) -> Deviation:
    if not _is_rounded(expected):
        unequal = float(np.mean(np.asarray(expected != actual))) if expected.size else 0.0
        return Deviation(name, unequal=unequal)
    gap = gap_of(expected, actual, Tolerance(0.0, 0.0))
    return Deviation(name, gap.absolute, gap.relative, _cosine(expected, actual))


def _cosine(expected: np.ndarray, actual: np.ndarray) -> float:
    due, got = as_rounded(expected, actual.dtype).ravel(), as_rounded(actual, actual.dtype).ravel()
    is_finite = np.isfinite(due) & np.isfinite(got)
    due, got = (_scaled(each[is_finite]) for each in (due, got))
    lengths = float(np.linalg.norm(due)), float(np.linalg.norm(got))
    if not all(lengths):
        return 1.0 if lengths[0] == lengths[1] else 0.0
    return min(1.0, float(np.vdot(due, got).real) / (lengths[0] * lengths[1]))


def _scaled(vector: np.ndarray) -> np.ndarray:
    """Return a vector whose largest number is 1, since squares of huge numbers are infinite."""
    largest = float(np.abs(vector).max(initial=0.0))
    return vector / largest if largest else vector
