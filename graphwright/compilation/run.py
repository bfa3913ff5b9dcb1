"""From a source to an artifact: run the pipeline, place the result, compare it with the source, report."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.artifact import Artifact
from graphwright.compilation.checking import ROUNDED, Checked, Failure, check, requests
from graphwright.compilation.foreign import foreign_operators
from graphwright.compilation.loss import with_loss
from graphwright.compilation.precision import informed
from graphwright.compilation.running import own_weights
from graphwright.compilation.settings import Settings
from graphwright.compilation.tuning import tune
from graphwright.engine.by_design import Approximations, passes_text, summary
from graphwright.engine.observe import Observer, PrintChanges, Progress, Record, StopAfter
from graphwright.engine.pipeline import Pipeline, run_pipeline
from graphwright.engine.reproduce import write_reproducer
from graphwright.engine.rewrite import Run
from graphwright.engine.structure import check_onnx
from graphwright.engine.verification import sizes_text
from graphwright.engine.verify import EachVerifier, RegionVerifier
from graphwright.errors import OutputError, VerificationError
from graphwright.folder import MODEL, versions
from graphwright.frontends import Source
from graphwright.frontends.onnx import load_onnx, save_onnx
from graphwright.report import Report, Size, Verification
from graphwright.report.measure import explanations, pass_rows, size_of, target_refusals
from graphwright.report.progress import Tell
from graphwright.report.tuning import summary_of
from graphwright.runtime.openvino import OpenVINOSession
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.ort_load import LARGEST_IN_MEMORY, NEWEST_IR_VERSION
from graphwright.runtime.providers import has_provider_for
from graphwright.runtime.reference import Reference, evaluate
from graphwright.runtime.time_limit import CHECKED_RUN
from graphwright.tuning.tune import Tuned

Session = OrtSession | OpenVINOSession

# Comparing after each pass is for finding faults: the first shapes will do.
_EACH_POINTS = 2


@dataclass
class Compilation:
    """One source on its way. ``original`` is the file that an ONNX source was read from."""

    source: Source
    pipeline: Pipeline
    settings: Settings
    tell: Tell
    original: Path | None = None
    record: Record = field(default_factory=Record)
    seconds: dict[str, float] = field(default_factory=dict)
    tuned: Tuned | None = None

    def run(self) -> Artifact:
        """Do all of it.

        Raises:
            StructureError, VerificationError: a pass left a graph that is not valid, or other numbers.
            ProfileError: the profile does not fit the source.
            OutputError: a large result could not be written to the staging folder.
        """
        self.profile = self.settings.bind(self.source.model)
        if self.settings.tune:
            self._tune()
        pipeline = informed(self.pipeline, self._requests)
        self.approximations = Approximations(self.pipeline.changing)
        self.foreign = foreign_operators(self.source.model)
        before = size_of(self.source.model)
        with self._timed("passes"):
            model, regions = self._rewrite(pipeline)
        # A large result is written to a file at once and mapped from there; it is never whole in memory.
        is_large = size_of(model).weight_bytes >= LARGEST_IN_MEMORY
        folder = self._stage(model) if is_large else None
        try:
            path = folder / MODEL if folder is not None else None
            if path is not None:
                model = load_onnx(path)
            elif self.source.reference is not None:
                own_weights(model)
            with self._timed("verification"):
                checked, session = self._verify(model, path)
        except BaseException:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        report = self._report(model, before, self._verification(checked, regions))
        discard = partial(shutil.rmtree, folder, ignore_errors=True) if folder is not None else None
        manifest = self._manifest(report)
        return Artifact(model, report, self.profile, manifest, path=path, discard=discard, session=session)

    def _report(self, model: ir.Model, before: Size, verification: Verification) -> Report:
        return Report(
            self.source.name,
            self.source.sha256,
            self.settings.target,
            str(self.pipeline),
            pass_rows(self.record.outcomes, self.record.applications, model),
            before,
            size_of(model),
            verification,
            (*explanations(self.record.outcomes, self.settings.explain), *target_refusals(model, self.settings.target)),
            (),
            self.seconds,
            self.tuned.report if self.tuned is not None else None,
            self.settings.padding,
        )

    def _tune(self) -> None:
        """Choose where which rules fire, by measuring; all that follows is as without."""
        with self._timed("tuning"):
            given = (self.source, self.pipeline, self.profile, self.settings)
            self.tuned = tune(*given, lambda what: self._tell(what, 0))
        self.pipeline = self.tuned.pipeline

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = perf_counter()
        yield
        self.seconds[name] = perf_counter() - started

    def _requests(self) -> list[dict[str, np.ndarray]]:
        return requests(self.source.model, self.profile, self.source.example_inputs)

    def _rewrite(self, pipeline: Pipeline) -> tuple[ir.Model, RegionVerifier | EachVerifier | None]:
        """Run the pipeline on a clone, which shares the source's tensors."""
        names = [step.name for step in self.pipeline.steps]
        observers: list[Observer] = [
            self.record,
            self.approximations,
            Progress(lambda name, done, _: self._tell(name, done + 1), names),
        ]
        if self.tuned is not None and self.tuned.gate is not None:
            observers.append(self.tuned.gate)
        if self.settings.print_changes:
            observers.append(PrintChanges())
        if self.settings.stop_after is not None:
            observers.append(StopAfter(self.settings.stop_after))
        verifier = self._verifier()
        if verifier is not None:
            observers.append(verifier)
        model = run_pipeline(
            Run(self.source.model.clone(), observers, explain=self.settings.explain is not None),
            pipeline,
        )
        check_onnx(model, "after the last pass")
        model.ir_version = min(model.ir_version, NEWEST_IR_VERSION)
        return model, verifier

    def _verifier(self) -> RegionVerifier | EachVerifier | None:
        if self.settings.verify == "region":
            return RegionVerifier(evaluate, prepare=Reference, folder=self.settings.failure_dir)
        if self.settings.verify == "each" and not self.foreign:
            return EachVerifier(evaluate, self.source.model, self._requests()[:_EACH_POINTS])
        return None

    def _tell(self, what: str, done: int) -> None:
        self.tell(what, done, len(self.pipeline.steps) + 2)

    def _stage(self, model: ir.Model) -> Path:
        self._tell("write", len(self.pipeline.steps) + 1)
        parent = self.settings.staging
        try:
            if parent is not None:
                parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".graphwright-", dir=parent))
        except OSError as error:
            found = error.strerror or str(error)
            raise OutputError(str(parent), found, needed="a folder to write the result in") from error
        try:
            save_onnx(model, folder / MODEL)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _verify(self, model: ir.Model, path: Path | None) -> tuple[Checked | None, Session | None]:
        """Compare with the source; the session that was used comes back where it is the artifact's own."""
        if self.settings.verify == "off" or self.foreign:
            return None, None
        inputs = self._requests()
        target = self.settings.target if has_provider_for(self.settings.target) else "ort-cpu"
        sessions: list[Session] = []

        rounded = any(each.name in ROUNDED for each in self.approximations.found)

        def result() -> Session:
            sessions.append(self._session(path or model, target, rounded))
            return sessions[-1]

        last = len(self.pipeline.steps) + 1
        checked = check(
            self.source,
            self.original,
            model,
            result,
            inputs,
            approximations=self.approximations.found,
            one_at_a_time=path is not None,
            may_skip=not self.profile.is_bounded,
            tell=lambda done: self._tell(f"verify {done + 1}/{len(inputs)}", last),
        )
        if checked.failure is None and self._is_rounding and target == self.settings.target:
            sessions = [OpenVINOSession(path or model, self.profile, precision=self.settings.precision)]
            given = (checked, self.source, self.original, model, sessions[0], inputs)
            checked = with_loss(*given, one_at_a_time=path is not None)
        if checked.failure is not None:
            self._fail(model, checked.failure)
        for session in sessions:
            if isinstance(session, OrtSession):
                session.seconds = None
        is_own = path is None and target == self.settings.target and not (rounded and target != "openvino")
        return checked, sessions[0] if is_own else None

    def _session(self, model: ir.Model | Path, target: str, rounded: bool) -> Session:
        """Return a session that computes in the graph's own types."""
        if target == "openvino":
            # It has no limit of time. The source has run first, within one, so a Loop that never ends has been met.
            return OpenVINOSession(model, self.profile)
        prepack = isinstance(model, ir.Model)
        return OrtSession(model, self.profile, target=target, prepack=prepack, seconds=CHECKED_RUN, rounded=rounded)

    @property
    def _is_rounding(self) -> bool:
        """Whether it is the runtime that rounds, and not the graph."""
        return self.settings.target == "openvino" and self.settings.precision != "fp32"

    def _fail(self, model: ir.Model, failure: Failure) -> None:
        given, stretch = failure.inputs, failure.stretch
        found = f"other numbers at {sizes_text(given)}: {'; '.join(map(str, failure.differences[:3]))}"
        needed = f"those of {stretch.start}"
        if failure.is_lost:
            needed = f"finite ones in the form of {stretch.start}, whatever {passes_text(self._by_design())} changes"
        after = model if failure.is_lost else stretch.after
        place = self.settings.failure_dir / "final"
        written = write_reproducer(place, stretch.before, after, given, f"{self.source.name}: {found}")
        # Bisection runs the pipeline's text, which does not hold the choices.
        is_tuned = self.tuned is not None and self.tuned.gate is not None
        finder = "--tune --stop-after N" if is_tuned else "graphwright bisect"
        hint = f"{finder} finds the application; the case is in {written}"
        raise VerificationError(self.source.name, found, needed=needed, hint=hint)

    def _verification(self, checked: Checked | None, verifier: RegionVerifier | EachVerifier | None) -> Verification:
        by_design = self._by_design()
        regions = verifier.verification.points if verifier is not None else 0
        if checked is None:
            note = f"nothing here knows {', '.join(self.foreign)}, so the model cannot be run"
            return Verification("off", regions=regions, unverified=(note,) if self.foreign else (), by_design=by_design)
        unverified = (
            tuple(f"{each.where}: {each.reason}" for each in verifier.verification.unverified) if verifier else ()
        )
        if self._is_rounding and not has_provider_for(self.settings.target):
            unverified += (f"{self.settings.precision}: openvino is not installed, so its loss was not measured",)
        return Verification(
            self.settings.verify,
            checked.reference,
            checked.points,
            checked.skipped,
            regions,
            unverified,
            by_design,
            checked.deviations,
            *checked.kept,
        )

    def _by_design(self) -> dict[str, int]:
        found = summary(self.approximations.found)
        return {**found, f"{self.settings.precision} in OpenVINO": 1} if self._is_rounding else found

    def _manifest(self, report: Report) -> dict[str, Any]:
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "source": {"name": self.source.name, "sha256": self.source.sha256, **self.source.notes},
            "task": self.source.task,
            "target": self.settings.target,
            "precision": self.settings.precision,
            "padding": self.settings.padding,
            "pipeline": report.pipeline,
            "profile": self.profile.to_json(),
            "verification": report.to_json()["verification"],
            **({"tuning": summary_of(report.tuning)} if report.tuning is not None else {}),
        }
