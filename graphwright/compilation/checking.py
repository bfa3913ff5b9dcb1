"""Compare a finished model with its source, at the profile's shapes and on the example inputs.

A small source and its result are both loaded and run in turn. Of large ones only one is in memory at a time:
the source runs first, at every shape, and its outputs wait in files.

Where a pass changes the numbers by design, the models just before and just behind it are run as well, the same way: the
source must agree with the first, the result with the last, and those between two such passes with each other. The
result is then measured against the source. So each such pass costs two more models that run at every shape; their
weights are shared with source and result, and large ones are written to a file each while they run. Only where they
differ two of them run in float64, which takes twice their memory.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphwright.compilation.padding import NOTE
from graphwright.compilation.running import Arrays, Call, outputs_at, runner
from graphwright.engine.by_design import Approximation, compare_behind
from graphwright.engine.compare import Difference, compare
from graphwright.engine.deviation import Deviation, broken, deviations, worst_of
from graphwright.engine.rounding import beyond_rounding
from graphwright.engine.sample import sample_inputs
from graphwright.engine.ties import compare_with_source
from graphwright.engine.verification import Verification as Comparison
from graphwright.engine.verification import sizes_text
from graphwright.errors import GraphwrightError, RequestError, TimeLimitError, VerificationError
from graphwright.frontends import Source
from graphwright.report import VerifiedPoint
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.reference import Reference, evaluate
from graphwright.runtime.signature import inputs_of

At = Callable[[int], Arrays]

# What these make is run with every node rounded to its type: ONNX Runtime would hide what float16 loses on the CPU.
ROUNDED = frozenset({"precision"})


@dataclass(frozen=True)
class Stretch:
    """Passes that must keep the numbers, all in a row: the models before and behind them, and what those give.

    ``actual`` is None for the result itself, which its own session runs. ``start`` says what the first model is, and
    ``in_double`` runs it in float64.
    """

    start: str
    before: ir.Model
    expected: At
    after: ir.Model
    actual: At | None = None
    is_behind: bool = False
    in_double: Call | None = None

    def differences(self, inputs: Arrays, due: Arrays, actual: Arrays) -> list[Difference]:
        """Compare what both models gave; behind an approximation, rounding may be larger."""
        if self.is_behind:
            return compare_behind(self.before, self.after, inputs, due, actual, evaluate)
        found = compare_with_source(self.before, inputs, due, actual, evaluate)
        in_double = self.in_double or partial(evaluate, self.before, double=True)
        return beyond_rounding(found, due, actual, partial(in_double, inputs))


@dataclass(frozen=True)
class Failure:
    """The first point at which something differed, and the stretch of passes that is to blame.

    ``is_lost``: not they are, but what a pass that changes the numbers may not do either, NaN for one.
    """

    differences: tuple[Difference, ...]
    inputs: Arrays
    stretch: Stretch
    is_lost: bool = False


@dataclass(frozen=True)
class Checked:
    """What came of a comparison.

    ``points`` tell how far the result is from the source. Where passes change the numbers by design, ``deviations`` do
    by output, and ``kept`` tells how far off all others are at most, absolutely and relatively.
    """

    points: tuple[VerifiedPoint, ...]
    skipped: tuple[str, ...]
    failure: Failure | None = None
    reference: str = ""
    kept: tuple[float, float] = (0.0, 0.0)
    deviations: tuple[Deviation, ...] = ()


def requests(model: ir.Model, profile: BoundProfile, examples: Arrays | None = None) -> list[dict[str, np.ndarray]]:
    """Return inputs to compare on: random ones at each of the profile's points, and the examples if they fit.

    Raises:
        RequestError: numbers for an input cannot be drawn, and there are no examples; or the model does not take
        the examples at any size.
    """
    found: list[dict[str, np.ndarray]] = []
    if examples is not None:
        BoundProfile(inputs_of(model), ({},)).check(examples)
    if examples is not None and _fits(profile, examples):
        found.append(dict(examples))
    try:
        found.extend(
            sample_inputs(model, _complete(model, shapes), seed) for seed, shapes in enumerate(profile.points())
        )
    except RequestError:
        if not found:
            raise
    return found


def _fits(profile: BoundProfile, examples: Arrays) -> bool:
    try:
        profile.check(examples)
    except RequestError:
        return False
    return True


def _complete(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
    for value in model.graph.inputs:
        if not value.is_initializer() and value.name not in shapes:
            hint = "name its shape in the profile, or give example inputs"
            raise RequestError(f"input {value.name}", "a rank that is not known", needed="shapes to try", hint=hint)
    return shapes


def check(
    source: Source,
    original: Path | None,
    finished: ir.Model,
    result: Callable[[], Call],
    inputs: Sequence[Arrays],
    *,
    approximations: Sequence[Approximation] = (),
    one_at_a_time: bool = False,
    may_skip: bool = False,
    tell: Callable[[int], None] = lambda done: None,
) -> Checked:
    """Compare the finished model, as ``result`` runs it, with its source; stops at the first point that differs.

    ``original`` is the file that an ONNX source was read from. Where the source cannot run at a point, the
    point is skipped if ``may_skip`` (nobody promised that it can), as long as one point is left.

    Raises:
        VerificationError: the source cannot be run.
    """
    reference = "PyTorch" if source.reference is not None else "the source model"
    if source.notes.get(NOTE) == "free":
        reference += " with zeros where the mask hides a token"
    with ExitStack() as stack:

        def outputs(make: Callable[[], Call]) -> At:
            return stack.enter_context(outputs_at(make, inputs, one_at_a_time))

        expected = outputs(lambda: runner(source, original if one_at_a_time else None))
        ends = (source.model, finished)
        stretches = _stretches(reference, ends, expected, approximations, outputs)
        stretches[0] = replace(stretches[0], in_double=source.in_double)
        comparison = _Comparison(stretches, result(), may_skip)
        for index, given in enumerate(inputs):
            tell(index)
            if not comparison.add(index, given):
                break
    return comparison.checked(reference)


def _stretches(
    reference: str,
    ends: tuple[ir.Model, ir.Model],
    expected: At,
    approximations: Sequence[Approximation],
    outputs: Callable[[Callable[[], Call]], At],
) -> list[Stretch]:
    """Return the stretches between the passes that change the numbers; without any, the one from end to end."""
    found: list[Stretch] = []
    start, before, is_rounded = reference, ends[0], False
    for each in approximations:
        actual = outputs(partial(Reference, each.before, threads=None, rounded=is_rounded))
        is_rounded = is_rounded or each.name in ROUNDED
        found.append(Stretch(start, before, expected, each.before, actual, is_behind=bool(found)))
        start, before = f"the model behind {each.name}", each.after
        expected = outputs(partial(Reference, each.after, threads=None, rounded=is_rounded))
    return [*found, Stretch(start, before, expected, ends[1], is_behind=bool(found))]


def verified_point(given: Arrays, due: Arrays, actual: Arrays) -> VerifiedPoint:
    """Return how far outputs are off at the inputs given."""
    comparison = Comparison("final")
    comparison.add("", due, actual, ())
    shapes = {name: tuple(array.shape) for name, array in given.items()}
    output = comparison.worst_where.rpartition("output ")[2]
    return VerifiedPoint(shapes, output, comparison.worst_absolute, comparison.worst_relative)


class _Comparison:
    """Gathers points until one differs."""

    def __init__(self, stretches: Sequence[Stretch], session: Call, may_skip: bool) -> None:
        self.stretches = stretches
        self.session = session
        self.may_skip = may_skip
        self.points: list[VerifiedPoint] = []
        self.skipped: list[str] = []
        self.failure: Failure | None = None
        self.kept = Comparison("final")
        self.deviations: list[Deviation] = []

    def add(self, index: int, given: Arrays) -> bool:
        """Compare at one point; tells whether to go on.

        Raises:
            VerificationError: the source gives other numbers each time.
        """
        try:
            wanted = self.stretches[0].expected(index)
        except TimeLimitError:
            raise
        except GraphwrightError as error:
            if not self.may_skip:
                raise
            self.skipped.append(f"{sizes_text(given)}: {error}")
            return True
        result: Arrays = {}
        for stretch in self.stretches:
            try:
                due = wanted if stretch is self.stretches[0] else stretch.expected(index)
                result = self.session(given) if stretch.actual is None else stretch.actual(index)
            except GraphwrightError as error:
                return self._fail(given, stretch, [Difference("model", "run", f"a model that cannot be run: {error}")])
            differences = stretch.differences(given, due, result)
            if differences and compare(due, stretch.expected(index)):
                hint = "export it in evaluation mode, or do not verify"
                found = "other numbers each time it runs"
                raise VerificationError("source", found, needed="a model without random numbers", hint=hint)
            if differences:
                return self._fail(given, stretch, differences)
            if len(self.stretches) > 1:
                self.kept.add("", due, result, ())
        return self._add(given, wanted, result)

    def _add(self, given: Arrays, wanted: Arrays, result: Arrays) -> bool:
        """Keep how far the result is from the source, which no pass has broken."""
        if len(self.stretches) > 1:
            lost = broken(wanted, result)
            if lost:
                return self._fail(given, self.stretches[0], lost, is_lost=True)
            self.deviations.extend(deviations(wanted, result))
        self.points.append(verified_point(given, wanted, result))
        return True

    def _fail(
        self, given: Arrays, stretch: Stretch, differences: Sequence[Difference], *, is_lost: bool = False
    ) -> bool:
        self.failure = Failure(tuple(differences), given, stretch, is_lost)
        return False

    def checked(self, reference: str) -> Checked:
        """Return what came of it."""
        if not self.points and self.failure is None:
            reason = self.skipped[0] if self.skipped else "no inputs"
            hint = "give a profile with shapes that the source can run, or example inputs"
            raise VerificationError("source", f"no shape that it runs at ({reason})", needed="one at least", hint=hint)
        kept = (self.kept.worst_absolute, self.kept.worst_relative)
        found = worst_of(self.deviations)
        return Checked(tuple(self.points), tuple(self.skipped), self.failure, reference, kept, found)
