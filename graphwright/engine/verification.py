"""What a comparison of models found, and the comparison of a finished model with its source."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from graphwright.engine.compare import TOLERANCES, Difference, Tolerance, compare, gap_of, plain
from graphwright.errors import GraphwrightError

Inputs = Mapping[str, np.ndarray]


class Evaluator(Protocol):
    """Runs a model on arrays; ``double`` asks for float64 inside and out.

    It raises a ``GraphwrightError`` where the model cannot be loaded or run, or has no form in float64.
    """

    def __call__(self, model: ir.Model, inputs: Inputs, *, double: bool = False) -> dict[str, np.ndarray]:
        """Return the outputs by name."""


class Prepare(Protocol):
    """Makes a model ready to run on several inputs; raises as an ``Evaluator`` does, now or later."""

    def __call__(self, model: ir.Model, *, double: bool = False) -> Callable[[Inputs], dict[str, np.ndarray]]:
        """Return what runs the model."""


@dataclass(frozen=True)
class Unverified:
    """Something that could not be checked, and why."""

    where: str
    reason: str


@dataclass
class Verification:
    """What was compared and how far apart it was, over all that was compared."""

    level: str
    points: int = 0
    worst_absolute: float = 0.0
    worst_relative: float = 0.0
    worst_where: str = ""
    differences: list[Difference] = field(default_factory=list)
    unverified: list[Unverified] = field(default_factory=list)
    # Applications that are right only because of what the nodes before them prove.
    in_context: list[str] = field(default_factory=list)
    # Applications that change the numbers by design; they are not compared.
    by_design: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing differed. It takes at least one check, unless nothing was left unchecked."""
        return not self.differences and (self.points > 0 or not self.unverified)

    def add(self, where: str, expected: Inputs, actual: Inputs, differences: Sequence[Difference]) -> None:
        """Keep what one point gave."""
        self.points += 1
        self.differences.extend(differences)
        for name, tensor in expected.items():
            self._keep_worst(f"{where}, output {name}", tensor, actual.get(name))

    def _keep_worst(self, where: str, expected: np.ndarray, actual: np.ndarray | None) -> None:
        if actual is None or expected.shape != actual.shape or "O" in (expected.dtype.kind, actual.dtype.kind):
            return
        gap = gap_of(expected, actual, Tolerance(0.0, 0.0))
        if gap.absolute > self.worst_absolute:
            self.worst_absolute, self.worst_where = gap.absolute, where
        self.worst_relative = max(self.worst_relative, gap.relative)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return {
            "level": self.level,
            "passed": self.passed,
            "points": self.points,
            "worst_absolute": plain(self.worst_absolute),
            "worst_relative": plain(self.worst_relative),
            "worst_where": self.worst_where,
            "differences": [each.to_json() for each in self.differences],
            "unverified": [asdict(each) for each in self.unverified],
            "in_context": list(self.in_context),
            "by_design": list(self.by_design),
        }


def verify_final(
    source_run: Callable[[Inputs], Mapping[str, np.ndarray]],
    model_run: Callable[[Inputs], Mapping[str, np.ndarray]],
    inputs: Sequence[Inputs],
    *,
    tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
) -> Verification:
    """Compare a finished model with its source at each of the given inputs; differences are kept, not raised.

    Where the source cannot be run the point counts as unverified. Where only the model cannot, it differs.

    Example:
        >>> double, add = (lambda x: {"y": x["x"] * 2}), (lambda x: {"y": x["x"] + x["x"]})
        >>> verify_final(double, add, [{"x": np.float32([1, 2])}]).passed
        True
    """
    verification = Verification("final")
    for given in inputs:
        where = f"at {sizes_text(given)}"
        try:
            expected = source_run(given)
        except GraphwrightError as error:
            verification.unverified.append(Unverified(where, str(error)))
            continue
        try:
            actual = model_run(given)
        except GraphwrightError as error:
            found = Difference("model", "run", f"{where} it cannot be run: {error}", np.inf, np.inf)
            verification.add(where, {}, {}, [found])
            continue
        verification.add(where, expected, actual, compare(expected, actual, tolerances))
    return verification


def sizes_text(inputs: Inputs) -> str:
    """Return the shapes of inputs as messages show them.

    Example:
        >>> sizes_text({"x": np.zeros((2, 3))})
        'x [2, 3]'
    """
    return ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
