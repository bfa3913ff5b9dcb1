"""Tell whether two models with the same inputs compute the same, on random inputs of several sizes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine.compare import TOLERANCES, Difference, Tolerance, as_declared, compare, gap_of
from graphwright.engine.open_order import with_sorted
from graphwright.engine.sample import CHOICES, USUAL_CHOICES, bind_dims, sample_inputs
from graphwright.engine.ties import compare_choices, rankings, with_data
from graphwright.engine.verification import Evaluator, Inputs, Prepare
from graphwright.errors import GraphwrightError

# A replacement may be off by this many times the error that the original itself has in its own dtype, ...
_NOISE_FACTOR = 8.0
# ... but never by more than this many tolerances: where float and double truly disagree, noise says nothing.
_MOST_NOISE = 32.0


@dataclass(frozen=True)
class Fault:
    """Inputs on which two models differ."""

    before: ir.Model
    after: ir.Model
    inputs: Inputs
    difference: Difference


@dataclass
class Outcome:
    """The outputs at each point that was compared, why other points said nothing, and the fault if any."""

    points: list[tuple[Inputs, Inputs]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    fault: Fault | None = None


def prepare_with(evaluate: Evaluator) -> Prepare:
    """Return a way to prepare models that does nothing ahead."""

    def prepare(model: ir.Model, *, double: bool = False) -> Callable[[Inputs], dict[str, np.ndarray]]:
        return lambda inputs: evaluate(model, inputs, double=double)

    return prepare


class _Runner:
    """One model, made ready to run once in each precision that is asked for."""

    def __init__(self, model: ir.Model, prepare: Prepare) -> None:
        self.model = model
        self._prepare = prepare
        self._ready: dict[bool, Callable[[Inputs], dict[str, np.ndarray]]] = {}
        self._errors: dict[bool, GraphwrightError] = {}

    def __call__(self, inputs: Inputs, *, double: bool = False) -> dict[str, np.ndarray]:
        if double in self._errors:
            raise self._errors[double]
        if double not in self._ready:
            try:
                self._ready[double] = self._prepare(self.model, double=double)
            except GraphwrightError as error:
                self._errors[double] = error
                raise
        return self._ready[double](inputs)


def check_equivalence(
    before: ir.Model,
    after: ir.Model,
    prepare: Prepare,
    *,
    seed: int = 0,
    in_double: bool = True,
    tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
) -> Outcome:
    """Compare two models at the usual sizes, and at others where none of those can be run.

    With ``in_double`` the first model runs in float64 where its operators have that; else only to judge a
    difference. Of indices that tie either is right (``ties``).
    """
    before, after = with_sorted(before), with_sorted(after)
    pair = _Pair(_Runner(before, prepare), _Runner(after, prepare), prepare, in_double, tolerances)
    outcome = Outcome()
    for choice in range(len(CHOICES)):
        if outcome.fault is not None or (choice >= USUAL_CHOICES and outcome.points):
            break
        try:
            inputs = sample_inputs(before, bind_dims(before.graph.inputs, choice), seed + choice)
            expected = pair.reference(inputs)
        except GraphwrightError as error:
            outcome.reasons.append(str(error))
            continue
        if not all(_tells_something(each) for each in expected.values()):
            outcome.reasons.append("an output is empty or NaN everywhere")
            continue
        pair.compare(outcome, inputs, expected)
    return outcome


@dataclass(frozen=True)
class _Pair:
    before: _Runner
    after: _Runner
    prepare: Prepare
    in_double: bool
    tolerances: Mapping[ir.DataType, Tolerance]

    def reference(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """Return the first model's outputs, in float64 if that is asked for and its operators take it."""
        return self._reference(self.before, inputs)

    def _reference(self, runner: _Runner, inputs: Inputs) -> dict[str, np.ndarray]:
        if self.in_double:
            try:
                return runner(inputs, double=True)
            except GraphwrightError:
                pass
        return runner(inputs)

    def compare(self, outcome: Outcome, inputs: Inputs, expected: Inputs) -> None:
        """Run the second model and add what comes of it."""
        try:
            actual = self.replaced(inputs)
        except GraphwrightError as error:
            found = [Difference("model", "run", f"it cannot be run: {error}", np.inf, np.inf)]
        else:
            outcome.points.append((expected, actual))
            found = self.differences(inputs, expected, actual)
        if found:
            outcome.fault = Fault(self.before.model, self.after.model, inputs, found[0])

    def replaced(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """Return the second model's outputs in its own dtypes.

        A runtime's kernel may take less than ONNX says, such as no Attention mask of query length 1. Then
        float64 decides, which runs ONNX's own definition; the finished model is still run as it is by
        ``final``.
        """
        try:
            return self.after(inputs)
        except GraphwrightError as error:
            try:
                outputs = self.after(inputs, double=True)
            except GraphwrightError:
                raise error from None
        declared = {value.name: value.dtype for value in self.after.model.graph.outputs}
        return {name: as_declared(array, declared.get(name)) for name, array in outputs.items()}

    def differences(self, inputs: Inputs, expected: Inputs, actual: Inputs) -> list[Difference]:
        """Compare; where that fails, with the original in its own dtype, allowing for its own error."""
        found = _dtype_differences(self.before.model, actual)
        if found or not compare(expected, actual, self.tolerances):
            return found
        ranked = rankings(self.before.model)
        wider = _Runner(with_data(self.before.model), self.prepare)
        found = compare_choices(
            expected, actual, ranked, lambda: self._reference(wider, inputs), tolerances=self.tolerances
        )
        if not found:
            return found
        try:
            own, wide = self.before(inputs), self.before(inputs, double=True)
        except GraphwrightError:
            return found
        widened = _widened(self.tolerances, wide, own)
        # The reference and the original are both right; it is enough to be near one of them.
        return compare_choices(own, actual, ranked, lambda: wider(inputs), widened) and compare_choices(
            wide, actual, ranked, lambda: wider(inputs, double=True), widened
        )


def _tells_something(output: np.ndarray) -> bool:
    if output.dtype.kind in "biuOUS":
        return bool(output.size)
    return bool(output.size) and not bool(np.isnan(output).all())


def _numpy(dtype: ir.DataType) -> np.dtype[Any]:
    return dtype.numpy()


def _dtype_differences(before: ir.Model, actual: Inputs) -> list[Difference]:
    """Return the outputs whose dtype is not the declared one; a float64 reference hides that."""
    found = []
    for value in before.graph.outputs:
        array = actual.get(value.name or "")
        if array is None or value.dtype is None or value.dtype == ir.DataType.STRING:
            continue
        due = _numpy(value.dtype)
        if array.dtype != due:
            found.append(Difference(value.name or "", "dtype", f"{array.dtype} where {due} is due"))
    return found


def _widened(
    tolerances: Mapping[ir.DataType, Tolerance], reference: Inputs, own: Inputs
) -> dict[ir.DataType, Tolerance]:
    """Return tolerances that allow for the error which the original has itself."""
    noise = 0.0
    for name, array in own.items():
        if array.dtype.kind not in "biuOUS" and reference[name].shape == array.shape:
            noise = max(noise, gap_of(reference[name], array, Tolerance(0.0, 0.0)).relative)
    return {
        dtype: Tolerance(each.absolute, each.relative + min(_MOST_NOISE * each.relative, _NOISE_FACTOR * noise))
        for dtype, each in tolerances.items()
    }
