"""Say what did not fuse and why, what the target does not take, and which application changes the numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphwright.artifact import Artifact
from graphwright.compilation.checking import requests
from graphwright.compilation.padding import with_free_padding
from graphwright.compilation.precision import informed, with_precision
from graphwright.compilation.settings import Settings
from graphwright.compilation.steps import build_pipeline
from graphwright.engine.bisect import Guilty, find_guilty
from graphwright.engine.explain import Explanation
from graphwright.engine.explain import explain as explain_outcomes
from graphwright.engine.observe import Record
from graphwright.engine.pipeline import run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.errors import PipelineError
from graphwright.frontends import Source
from graphwright.optimize import load_source
from graphwright.passes.lift.infer_shapes import INFER_SHAPES
from graphwright.passes.lower.tensorrt_support import Unsupported, known_version, unsupported
from graphwright.runtime.profile import Profile
from graphwright.runtime.reference import evaluate

__all__ = ["Support", "bisect", "check_tensorrt", "explain", "explain_source"]


@dataclass(frozen=True)
class Support:
    """Which nodes of a model a version of TensorRT would not take, by the table of its parser."""

    version: str
    unsupported: tuple[Unsupported, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it would take all of them."""
        return not self.unsupported

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, texts and truths."""
        found = [each.to_json() for each in self.unsupported]
        checked = "against a table of what the parser takes; no parser was run"
        return {
            "target": "tensorrt",
            "version": self.version,
            "supported": self.is_whole,
            "checked": checked,
            "unsupported": found,
        }


def check_tensorrt(
    model: object | Artifact,
    version: str = "11.4",
    *,
    example_inputs: Mapping[str, Any] | None = None,
    profile: Profile | str | None = None,
    task: str = "auto",
) -> Support:
    """Return what a version of TensorRT would not take of a model as it is; no pass but shape inference is run.

    Raises:
        UsageError: a version that there is no table for.
        LoadError, ExportError: the model cannot be read or traced.

    Example:
        >>> import onnx_ir as ir
        >>> text = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) {y = Relu(x)}'
        >>> check_tensorrt(ir.from_onnx_text(text)).is_whole
        True
    """
    known = known_version(version)
    loaded = load_source(model, example_inputs, profile=profile, task=task).model.clone()
    INFER_SHAPES.function(loaded)
    return Support(known, tuple(unsupported(loaded, known)))


def explain(
    model: object | Artifact,
    rule: str | None = None,
    *,
    example_inputs: Mapping[str, Any] | None = None,
    profile: Profile | str | None = None,
    task: str = "auto",
    target: str = "ort-cpu",
    passes: str | Sequence[object] | None = None,
    everything: bool = False,
) -> Explanation:
    """Return the nearest misses of a run of the pipeline, best first; ``rule`` asks about one pass only.

    Raises:
        PipelineError: the rule is not a pass of the catalogue.
        LoadError, ExportError: the model cannot be read or traced.

    Example:
        >>> import onnx_ir as ir
        >>> text = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) {y = Relu(x)}'
        >>> print(explain(ir.from_onnx_text(text), "fuse-gelu").text())
        Nothing came near.
    """
    source = load_source(model, example_inputs, profile=profile, task=task)
    settings = Settings(target=target, passes=passes)
    return explain_source(source, rule, settings, everything=everything)


def explain_source(source: Source, rule: str | None, settings: Settings, *, everything: bool = False) -> Explanation:
    """Explain a source that has been read; a rule that is not in the pipeline is added.

    Raises:
        PipelineError: the rule is not known.
    """
    pipeline = build_pipeline(settings.passes, settings.target, settings.scripts)
    if rule is not None and rule not in [step.name for step in pipeline.steps]:
        if not (settings.passes is None or isinstance(settings.passes, str)):
            raise PipelineError(rule, "a rule that the pipeline does not have", needed="one of its passes")
        pipeline = build_pipeline(f"{settings.passes or 'default'},{rule}", settings.target, settings.scripts)

    def asked() -> list[dict[str, np.ndarray]]:
        return requests(source.model, settings.bind(source.model), source.example_inputs)

    pipeline = informed(with_precision(pipeline, settings.precision, settings.target), asked)
    record = Record()
    run_pipeline(Run(source.model.clone(), [record], explain=True), pipeline)
    return explain_outcomes(record.outcomes, rule=rule, everything=everything)


def bisect(
    model: object,
    example_inputs: Mapping[str, Any] | None = None,
    *,
    profile: Profile | str | None = None,
    task: str = "auto",
    target: str = "ort-cpu",
    passes: str | Sequence[object] | None = None,
    scripts: Sequence[str] = (),
    failure_dir: str | Path | None = None,
    padding: str = "keep",
) -> Guilty:
    """Find the first application that changes the model's numbers; its case goes to ``failure_dir``.

    With ``padding`` "free", the model gives zeros where its mask hides a token, as ``optimize`` takes it.

    Raises:
        LoadError, ExportError: the model cannot be read or traced.
        VerificationError: the model itself cannot be run.

    Example:
        >>> import onnx_ir as ir
        >>> text = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) {y = Relu(x)}'
        >>> print(bisect(ir.from_onnx_text(text), passes="fuse-gelu"))
        all 0 applications keep the numbers (1 runs)
    """
    settings = Settings(profile, task, target, passes, padding=padding)
    pipeline = build_pipeline(passes, target, scripts)
    source = load_source(model, example_inputs, profile=profile, task=task)
    source = with_free_padding(source) if padding == "free" else source
    inputs = requests(source.model, settings.bind(source.model), source.example_inputs)
    pipeline = informed(pipeline, lambda: inputs)
    folder = Path(failure_dir) if failure_dir is not None else None
    return find_guilty(source.model.clone, pipeline, evaluate, inputs, folder=folder)
