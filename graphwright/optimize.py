"""The one call: a model goes in, is optimized and compared by numbers, and an artifact comes out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphwright.artifact import Artifact
from graphwright.compilation.padding import with_free_padding
from graphwright.compilation.precision import with_precision
from graphwright.compilation.run import Compilation
from graphwright.compilation.settings import Settings, as_profile
from graphwright.compilation.steps import build_pipeline
from graphwright.folder import MODEL, is_artifact, kept_files
from graphwright.frontends import Source, load
from graphwright.report.progress import Tell, progress_bar
from graphwright.runtime.profile import Profile
from graphwright.tuning.tune import check_tunable


def optimize(
    model: object,
    example_inputs: Mapping[str, Any] | None = None,
    *,
    profile: Profile | str | None = None,
    task: str = "auto",
    target: str = "ort-cpu",
    passes: str | Sequence[object] | None = None,
    precision: str = "fp32",
    verify: str = "final",
    tune: bool = False,
    padding: str = "keep",
    progress: bool | Tell | None = None,
) -> Artifact:
    """Optimize a model, compare the result with it by numbers, and return what can be called and saved.

    ``model`` is a torch module (with example inputs), a Hugging Face model or its saved folder, or an ONNX
    file or object, which is not changed. ``passes`` is pipeline text or a list (``compilation.steps``).
    ``precision`` is fp32, fp16, bf16, int8 or fp8; ranges are observed on the example inputs and on random ones at the
    profile's shapes, and the loss is in the report. ``tune`` times the alternatives of each region on this machine at
    the profile's opt shapes, for a minute at most, and keeps its choices in the user's cache folder. ``padding`` is
    keep or free: zeros where the mask hides a token, so that padding needs no work. ``verify`` is off,
    final, region or each. ``progress`` may be a function of (what, done, total). A failed check leaves its case in
    ``graphwright-failure`` in the current folder.

    Raises:
        UsageError: an option, pipeline or profile that is wrong or does not fit the model.
        LoadError, ExportError: the model cannot be read or traced.
        CheckError: a pass left a graph that is not valid, or the numbers differ.
        MissingDependencyError: a package that the model needs is not there, or, to tune, the target's provider.

    Example:
        >>> import onnx_ir as ir
        >>> text = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) {y = Relu(x)}'
        >>> optimize(ir.from_onnx_text(text), progress=False).report.after.nodes
        1
    """
    settings = Settings(profile, task, target, passes, precision, verify, tune, padding, progress)
    return compile_model(model, example_inputs, settings)


def compile_model(model: object, example_inputs: Mapping[str, Any] | None, settings: Settings) -> Artifact:
    """Do what :func:`optimize` says, with all the settings there are.

    Raises:
        GraphwrightError: as :func:`optimize` says.
    """
    pipeline = build_pipeline(settings.passes, settings.target, settings.scripts)
    pipeline = with_precision(pipeline, settings.precision, settings.target)
    if settings.tune:
        check_tunable(settings.target, pipeline)
    path = Path(model) if isinstance(model, str | Path) else None
    with progress_bar(settings.progress) as tell:
        tell("load", 0, len(pipeline.steps) + 2)
        source = load_source(model, example_inputs, profile=settings.profile, task=settings.task)
        original = onnx_file(path) if path is not None else None
        if settings.padding == "free":
            source, original = with_free_padding(source), None
        artifact = Compilation(source, pipeline, settings, tell, original).run()
    if path is not None and path.is_dir():
        artifact.files = kept_files(path)
    return artifact


def load_source(
    model: object,
    example_inputs: Mapping[str, Any] | None = None,
    *,
    profile: Profile | str | None = None,
    task: str = "auto",
) -> Source:
    """Read or trace a model; an artifact's folder stands for the model in it.

    Raises:
        LoadError, ExportError, MissingDependencyError, UsageError: as ``frontends.load`` says.
    """
    if isinstance(model, Artifact):
        model = model.model
    if isinstance(model, str | Path) and is_artifact(Path(model)):
        model = Path(model) / MODEL
    return load(model, example_inputs, task=task, profile=as_profile(profile))


def onnx_file(path: Path) -> Path | None:
    """Return the ONNX file that a path stands for: itself, an artifact's, or None."""
    if is_artifact(path):
        return path / MODEL
    return path if path.is_file() and path.suffix != ".onnxtxt" else None
