"""Tuning of one model: regions are timed, the whole is timed once more with the choices, and what gains is kept.

The choices decide which rules fire where. The graph that comes of them goes through the same checks as any other.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import median
from typing import Any

import onnx_ir as ir

from graphwright.engine.pipeline import Pipeline, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.errors import GraphwrightError, UsageError
from graphwright.passes.lower.ort_capabilities import TARGETS
from graphwright.report.tuning import CACHED, MEASURED, NOT_TIMED, Tried, Tuning
from graphwright.runtime.machine import cores, graphics, onnxruntime_version, processor
from graphwright.runtime.ort_load import providers_for
from graphwright.tuning.cache import ChoiceCache, Kept
from graphwright.tuning.choices import Alternative
from graphwright.tuning.decide import Measure, fastest, summed, timed
from graphwright.tuning.gate import Chosen
from graphwright.tuning.regions import Region, find_regions, fingerprint
from graphwright.tuning.spellings import Arrays, Plan, distinct, lowered, open_session, spellings
from graphwright.tuning.values import values_at

Tell = Callable[[str], None]
DEFAULT, TUNED = "default", "tuned"
# Of the time that tuning may take, the part that is left for the model as a whole.
_SHARE_OF_WHOLE = 0.2


def check_tunable(target: str, pipeline: Pipeline) -> None:
    """Refuse what tuning is not for, before anything slow starts.

    Raises:
        UsageError: another target than ONNX Runtime's, or passes that change the numbers.
        MissingDependencyError: the target's provider is not there, so nothing can be measured.
    """
    if target not in TARGETS:
        own = {
            "tensorrt": "TensorRT times its own kernels when it builds the engine",
            "openvino": "OpenVINO chooses its own kernels",
            "onnx": "a portable file is for no machine in particular",
        }
        hint = f"leave tune out: {own[target]}" if target in own else "leave tune out"
        raise UsageError("option tune", f"target {target}", needed=" or ".join(TARGETS), hint=hint)
    if pipeline.changing:
        found = f"it beside {', '.join(sorted(pipeline.changing))}, which change the numbers"
        raise UsageError("option tune", found, needed="passes and a precision that keep them", hint="leave one out")
    providers_for(target)


@dataclass(frozen=True)
class Tuned:
    """What came of it: the pipeline to run, what lets its rules fire (None: nothing was chosen), and the report."""

    pipeline: Pipeline
    gate: Chosen | None
    report: Tuning


@dataclass(frozen=True)
class Tuner:
    """How to tune: ``points`` are inputs of the whole model, one for each shape, whose names are ``shapes``.

    ``seconds`` limits the timing; what is not reached keeps the default. ``measure`` is what times.
    """

    target: str
    points: Sequence[Arrays]
    shapes: tuple[str, ...]
    cache: ChoiceCache
    seconds: float = 60.0
    threads: int | None = None
    measure: Measure = timed
    tell: Tell = lambda text: None

    @cached_property
    def machine(self) -> Mapping[str, str]:
        """What times depend on besides the graph."""
        where = {"gpu": graphics()} if self.target == "ort-cuda" else {}
        return {
            "provider": TARGETS[self.target],
            "onnxruntime": onnxruntime_version(),
            "processor": processor(),
            "threads": str(self.threads) if self.threads is not None else f"ONNX Runtime's own on {cores()} cores",
            **where,
        }

    def tune(self, model: ir.Model, pipeline: Pipeline) -> Tuned:
        """Tune a pipeline for a model, which is not changed.

        Raises:
            CheckError: a pass failed.
            GraphwrightError: the model cannot be run.
        """
        started = time.perf_counter()
        plan = Plan(pipeline)
        start = run_pipeline(Run(model.clone()), Pipeline(plan.prefix))
        kinds = _by_kind(find_regions(start, plan.choices))
        tried, decisions = self._regions(start, plan, kinds)
        chosen = [(region, each) for region, each in decisions if each != plan.alternatives(region.choice)[0]]
        report = Tuning(self.machine, tuple(tried), seconds=time.perf_counter() - started)
        if not chosen:
            return Tuned(pipeline, None, report)
        gate = Chosen(decisions, plan.names, plan.choices)
        tuned = plan.tuned([each for _, each in chosen])
        whole = self._whole(model, {DEFAULT: (pipeline, None), TUNED: (tuned, gate)})
        took = time.perf_counter() - started
        report = replace(report, whole=whole, kept=whole.chosen == TUNED, seconds=took)
        return Tuned(tuned, gate, report) if report.kept else Tuned(pipeline, None, report)

    def _regions(
        self, start: ir.Model, plan: Plan, kinds: Sequence[list[Region]]
    ) -> tuple[list[Tried], list[tuple[Region, Alternative]]]:
        """Try each kind of region; all regions of it get what its first one gets."""
        work = [(same, _models(plan, same[0])) for same in kinds]
        work = [(same, models) for same, models in work if len(models) > 1]
        values = values_at(start, [same[0].model for same, _ in work], self.points) if work else []
        tried: list[Tried] = []
        decisions: list[tuple[Region, Alternative]] = []
        left = self.seconds * (1 - _SHARE_OF_WHOLE)
        for number, ((same, models), points) in enumerate(zip(work, values, strict=True)):
            self.tell(f"tune {number + 1}/{len(work)}: {same[0].choice.name}")
            one, name = self._kind(same, models, points, left / (len(work) - number))
            left = max(left - one.seconds, 0.0) if one.origin == MEASURED else left
            alternative = next(each for each, _ in models if each.name == name)
            tried.append(one)
            decisions.extend((region, alternative) for region in same)
        return tried, decisions

    def _kind(
        self,
        same: Sequence[Region],
        models: Sequence[tuple[Alternative, ir.Model]],
        points: Sequence[Arrays],
        seconds: float,
    ) -> tuple[Tried, str]:
        """Time the spellings of one kind of region, or find what was chosen before."""
        region, default = same[0], models[0][0].name
        sizes = [{name: list(array.shape) for name, array in point.items()} for point in points]
        parts = {
            "region": fingerprint(region.model),
            "spellings": {each.name: fingerprint(model) for each, model in models},
            "default": default,
            "shapes": [list(point.values()) for point in sizes],
            **self.machine,
        }
        empty = Tried(region.choice.name, region.node, len(same), self.shapes, {}, default, default)
        kept = self.cache.find(parts)
        if kept is not None and kept.chosen in {each.name for each, _ in models}:
            times = _milliseconds(kept.medians)
            return replace(empty, milliseconds=times, chosen=kept.chosen, origin=CACHED), kept.chosen
        if seconds <= 0:
            return replace(empty, origin=NOT_TIMED, note="the time for tuning was over"), default
        started = time.perf_counter()
        try:
            ready, refused = spellings(models, points, self.target, self.threads)
        except GraphwrightError as error:
            return replace(empty, origin=NOT_TIMED, note=str(error)), default
        calls = [{each.alternative.name: partial(each.session, point) for each in ready} for point in points]
        times_of, name = self._fastest(calls, default, seconds)
        note = self.cache.try_to_keep(parts, Kept(times_of, name))
        notes = "; ".join(filter(None, (*refused, note)))
        took = time.perf_counter() - started
        return replace(empty, milliseconds=_milliseconds(times_of), chosen=name, note=notes, seconds=took), name

    def _fastest(
        self, calls: Sequence[Mapping[str, Callable[[], object]]], default: str, seconds: float, **margin: float
    ) -> tuple[dict[str, float], str]:
        """Time contenders at each shape; return the median of each in seconds, and the one to take."""
        times = summed([self.measure(each, seconds / len(calls)) for each in calls])
        return {name: float(median(taken)) for name, taken in times.items()}, fastest(times, default, **margin)

    def _whole(self, model: ir.Model, runs: Mapping[str, tuple[Pipeline, Chosen | None]]) -> Tried:
        """Time the model with the choices against the one without; it takes no margin, but most of the rounds."""
        self.tell("tune: the whole model")
        models = {
            name: run_pipeline(Run(model.clone(), [gate] if gate is not None else []), pipeline)
            for name, (pipeline, gate) in runs.items()
        }
        sizes = [[list(array.shape) for array in point.values()] for point in self.points]
        prints = {name: fingerprint(each) for name, each in models.items()}
        parts: dict[str, Any] = {"whole": prints, "shapes": sizes, **self.machine}
        empty = Tried("the whole model", "", 1, self.shapes, {}, DEFAULT, DEFAULT)
        kept = self.cache.find(parts)
        if kept is not None and kept.chosen in runs:
            return replace(empty, milliseconds=_milliseconds(kept.medians), chosen=kept.chosen, origin=CACHED)
        started = time.perf_counter()
        try:
            sessions = {name: open_session(each, self.target, self.threads) for name, each in models.items()}
            calls = [{name: partial(each, point) for name, each in sessions.items()} for point in self.points]
            times, chosen = self._fastest(calls, DEFAULT, self.seconds * _SHARE_OF_WHOLE, margin=1.0)
        except GraphwrightError as error:
            return replace(empty, origin=NOT_TIMED, note=str(error))
        note = self.cache.try_to_keep(parts, Kept(times, chosen))
        took = time.perf_counter() - started
        return replace(empty, milliseconds=_milliseconds(times), chosen=chosen, note=note, seconds=took)


def _by_kind(regions: Sequence[Region]) -> list[list[Region]]:
    kinds: dict[tuple[str, str], list[Region]] = {}
    for region in regions:
        kinds.setdefault((region.choice.name, region.kind), []).append(region)
    return list(kinds.values())


def _models(plan: Plan, region: Region) -> list[tuple[Alternative, ir.Model]]:
    """Return the spellings of a region that differ, the default first."""
    alternatives = plan.alternatives(region.choice)
    return distinct([(each, lowered(region.model, plan.steps(region.choice, each))) for each in alternatives])


def _milliseconds(medians: Mapping[str, float]) -> dict[str, float]:
    return {name: seconds * 1e3 for name, seconds in medians.items()}
