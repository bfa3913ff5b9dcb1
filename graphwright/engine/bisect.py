"""Find the first application that changes a model's numbers, in O(log n) runs of the pipeline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine.by_design import Approximations, compare_behind, passes_text, summary
from graphwright.engine.compare import TOLERANCES, Difference, Tolerance
from graphwright.engine.deviation import broken
from graphwright.engine.observe import Application, Observer, Record, Replacement, StopAfter
from graphwright.engine.pipeline import Pipeline, run_pipeline
from graphwright.engine.region import region_models
from graphwright.engine.reproduce import write_reproducer
from graphwright.engine.rewrite import Run
from graphwright.engine.ties import compare_with_source
from graphwright.engine.verification import Evaluator, Inputs
from graphwright.errors import GraphwrightError, RequestError, VerificationError


def bisect(count: int, is_good: Callable[[int], bool]) -> int | None:
    """Return an n at which good turns bad: ``is_good(n - 1)`` holds and ``is_good(n)`` does not.

    0 is taken as good without asking. None where ``count`` is good. Asks at most ``log2(count) + 2`` times.

    Example:
        >>> bisect(1000, lambda number: number < 317)
        317
    """
    if count < 1 or is_good(count):
        return None
    good, bad = 0, count
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_good(middle):
            good = middle
        else:
            bad = middle
    return bad


@dataclass(frozen=True)
class Guilty:
    """What a bisection found; ``application`` is None where the whole pipeline keeps the numbers.

    ``by_design`` counts the applications, by pass, that may change them.
    """

    application: Application | None
    count: int
    runs: int
    difference: Difference | None = None
    folder: Path | None = None
    by_design: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.application is None and self.by_design:
            named = passes_text(self.by_design)
            return f"all {self.count} applications keep the numbers but for {named} by design ({self.runs} runs)"
        if self.application is None:
            return f"all {self.count} applications keep the numbers ({self.runs} runs)"
        return f"{self.application} changes the numbers: {self.difference} ({self.runs} runs)"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        guilty = self.application
        return {
            "number": guilty.number if guilty else None,
            "pass": guilty.pass_name if guilty else None,
            "nodes": list(guilty.nodes) if guilty else [],
            "count": self.count,
            "runs": self.runs,
            "difference": self.difference.to_json() if self.difference else None,
            "folder": str(self.folder) if self.folder else None,
            "by_design": dict(self.by_design),
        }


def find_guilty(
    make_model: Callable[[], ir.Model],
    pipeline: Pipeline,
    evaluate: Evaluator,
    inputs: Sequence[Inputs],
    *,
    folder: Path | None = None,
    tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
) -> Guilty:
    """Rerun the pipeline up to one application or another until the one is found that changes the numbers.

    One that does so by design is not guilty, unless it gives NaN or infinities: what it makes is what the passes behind
    it must keep.

    ``make_model`` gives a fresh source model each time. A model that cannot be run any more counts as
    changed. With ``folder``, a reproducer is written there: the model before and after, and the region alone.

    Raises:
        VerificationError: the source model itself cannot be run on the inputs.
        OutputError: the reproducer cannot be written.
    """
    try:
        points = [(each, evaluate(make_model(), each)) for each in inputs]
    except GraphwrightError as error:
        raise VerificationError("source model", f"a model that cannot be run: {error}") from error
    search = _Search(make_model, pipeline, evaluate, points, tolerances)
    whole = search.run(None)
    count, by_design = len(whole.record.applications), summary(whole.kept.found)
    number = bisect(count, lambda limit: search.fault(search.run(limit)) is None)
    if number is None:
        return Guilty(None, count, search.runs, by_design=by_design)
    before, after = search.run(number - 1), search.run(number)
    application = after.record.applications[number - 1]
    fault = search.fault(after)
    assert fault is not None
    written = _write(folder, application, before.model, after, fault) if folder is not None else None
    return Guilty(application, count, search.runs, fault.difference, written, by_design)


@dataclass
class _Outcome:
    """One run of the pipeline: how far it came, and what stopped it if something did."""

    model: ir.Model
    record: Record
    region: "_KeepRegion"
    kept: Approximations
    error: GraphwrightError | None = None


@dataclass(frozen=True)
class _Fault:
    difference: Difference
    inputs: Inputs


class _KeepRegion(Observer):
    """Keeps the region of one application, before and after."""

    def __init__(self, number: int | None) -> None:
        self.number = number
        self.models: dict[str, ir.Model] = {}

    def before_commit(self, application: Application, replacement: Replacement | None, model: ir.Model) -> None:
        """Cut the region out; one that means nothing alone is left out."""
        if application.number != self.number or replacement is None:
            return
        try:
            before, after = region_models(replacement, model)
        except RequestError:
            return
        self.models = {"region_before.onnx": before, "region_after.onnx": after}


@dataclass
class _Search:
    make_model: Callable[[], ir.Model]
    pipeline: Pipeline
    evaluate: Evaluator
    points: Sequence[tuple[Inputs, Inputs]]
    tolerances: Mapping[ir.DataType, Tolerance]
    runs: int = 0

    def run(self, limit: int | None) -> _Outcome:
        """Run the pipeline up to a number of applications; None runs all of it."""
        self.runs += 1
        record, region, kept = Record(), _KeepRegion(limit), Approximations(self.pipeline.changing)
        observers: list[Observer] = [record, region, kept]
        if limit is not None:
            observers.append(StopAfter(limit))
        run = Run(self.make_model(), observers)
        try:
            run_pipeline(run, self.pipeline)
        except GraphwrightError as error:
            return _Outcome(run.model, record, region, kept, error)
        return _Outcome(run.model, record, region, kept)

    def fault(self, outcome: _Outcome) -> _Fault | None:
        """Return the first difference that no pass may make, or None."""
        if outcome.error is not None:
            return _Fault(_unrunnable(outcome.error), self.points[0][0] if self.points else {})
        for inputs, expected in self.points:
            try:
                found = self._differences(outcome, inputs, expected)
            except GraphwrightError as error:
                found = [_unrunnable(error)]
            if found:
                return _Fault(max(found, key=lambda each: each.relative), inputs)
        return None

    def _differences(self, outcome: _Outcome, inputs: Inputs, expected: Inputs) -> list[Difference]:
        """Compare each stretch of passes that must keep the numbers, from one model that was kept to the next."""
        source = self.make_model()
        start, due = source, expected
        for each in outcome.kept.found:
            actual = self.evaluate(each.before, inputs)
            found = self._compare(start, each.before, inputs, due, actual, is_behind=start is not source)
            if found:
                return found
            start, due = each.after, self.evaluate(each.after, inputs)
        actual = self.evaluate(outcome.model, inputs)
        found = self._compare(start, outcome.model, inputs, due, actual, is_behind=bool(outcome.kept.found))
        return found or (broken(expected, actual) if outcome.kept.found else [])

    def _compare(
        self, start: ir.Model, end: ir.Model, inputs: Inputs, due: Inputs, actual: Inputs, *, is_behind: bool
    ) -> list[Difference]:
        if is_behind:
            return compare_behind(start, end, inputs, due, actual, self.evaluate, self.tolerances)
        return compare_with_source(start, inputs, due, actual, self.evaluate, self.tolerances)


def _unrunnable(error: GraphwrightError) -> Difference:
    return Difference("model", "run", f"it cannot be run: {error}", np.inf, np.inf)


def _write(folder: Path, application: Application, before: ir.Model, after: _Outcome, fault: _Fault) -> Path:
    text = f"{application} changes the numbers: {fault.difference}"
    place = folder / f"{application.number}-{application.pass_name}"
    return write_reproducer(place, before, after.model, fault.inputs, text, extra=after.region.models)
