"""Write a model repository for Triton Inference Server from an artifact or from a TensorRT plan.

An artifact is served by Triton's ONNX Runtime backend, a plan by its TensorRT backend. What Triton must be told stands
in the artifact's manifest or in the plan's sidecar. That requests may share a batch is not taken for granted: rows are
run together and alone, and compared.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from graphwright.artifact import Artifact
from graphwright.triton import batching, checks
from graphwright.triton.config import Backend, ModelConfig
from graphwright.triton.repository import CONFIG, check_place, place
from graphwright.triton.serving import Serving
from graphwright.triton.sources import Model, open_source

__all__ = ["Exported", "Serving", "export_triton"]

# More than two, so that a first, a last and a row between differ.
_ROWS = 3


@dataclass(frozen=True)
class Exported:
    """A model in a repository: its folder, what was written, and what whoever runs the server should know."""

    folder: Path
    name: str
    version: int
    backend: Backend
    max_batch: int
    files: tuple[str, ...]
    config: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**vars(self), "folder": str(self.folder), "files": list(self.files), "notes": list(self.notes)}


def export_triton(
    source: Artifact | str | Path,
    repository: str | Path,
    serving: Serving | None = None,
    *,
    name: str | None = None,
    version: int = 1,
    overwrite: bool = False,
) -> Exported:
    """Write an artifact, its folder or a TensorRT plan as one version of a model that Triton can serve.

    ``name`` is by default that of the folder or plan.

    Raises:
        UsageError: an artifact of a target that Triton does not run, a name that it refuses, a place that is taken, or
        options that do not go together.
        ProfileError: requests cannot share a batch, or nothing says how many may.
        VerificationError: rows give other numbers in a batch than alone.
        LoadError: no artifact and no plan, or files that are not those that were written.
        MissingDependencyError: the compiled kernels are wanted and not there.
        OutputError: the repository could not be written.

    Example:
        >>> import tempfile, onnx_ir as ir, graphwright as gw
        >>> text = '<ir_version: 10, opset_import: ["": 20]> g (float[n, 4] x) => (float[n, 4] y) {y = Relu(x)}'
        >>> artifact = gw.optimize(ir.from_onnx_text(text), profile="n=1:4:8", progress=False)
        >>> made = export_triton(artifact, tempfile.mkdtemp(), name="relu")
        >>> made.backend, made.max_batch, made.files
        ('onnxruntime', 8, ('1/model.onnx', 'config.pbtxt'))
    """
    serving = serving or Serving()
    where = Path(repository)
    chosen = name if name is not None else default_name(source)
    check_place(where, chosen, version, overwrite=overwrite)
    model = open_source(source, serving, f"{chosen}/{version}")
    config, notes = configure(chosen, model, serving)
    text = config.text(notes)
    folder = place(where, chosen, version, text, model.write, overwrite=overwrite)
    written = sorted(f"{version}/{path.name}" for path in (folder / str(version)).iterdir())
    files = (*written, CONFIG)
    return Exported(folder, chosen, version, model.backend, config.max_batch, files, text, notes)


def default_name(source: Artifact | str | Path) -> str:
    """Return the name that a model has without one given.

    Example:
        >>> default_name("out/bert.plan"), default_name("out/bert/")
        ('bert', 'bert')
    """
    if isinstance(source, Artifact):
        return Path(str(source.manifest.get("source", {}).get("name", ""))).stem
    path = Path(source)
    return path.stem if path.suffix == ".plan" else path.resolve().name


def configure(name: str, model: Model, serving: Serving) -> tuple[ModelConfig, tuple[str, ...]]:
    """Decide what Triton is told of a model; also return the notes for whoever runs the server.

    Raises:
        UsageError, ProfileError, VerificationError: as :func:`export_triton` says.
    """
    serving.check(model.backend, model.target)
    numbers = batching.chosen_profiles(model.profile, serving.profiles)
    config, batch = _decide(name, model, serving, numbers)
    # What cannot be written down is refused before anything runs.
    config.message()
    notes = [*model.notes, *_profile_notes(model, numbers, batch)]
    if serving.check_rows:
        config, found = _try(config, model, numbers[0], batch)
        notes += found
    left_out = [port.name for port in model.inputs if port.is_optional]
    if left_out:
        notes.append(f"inputs with a default are not offered: {', '.join(left_out)}")
    return config, tuple(notes)


def _decide(name: str, model: Model, serving: Serving, numbers: tuple[int, ...]) -> tuple[ModelConfig, str | None]:
    """The configuration, and the dimension along which requests are joined, if they are."""
    inputs = tuple(port for port in model.inputs if not port.is_optional)
    batch, largest = None, 0
    preferred: tuple[int, ...] = ()
    if serving.max_batch != 0:
        batch = batching.batch_dimension(inputs, model.outputs)
        largest = batching.largest_batch(model.profile, batch, numbers, serving.max_batch)
        preferred = batching.preferred_batches(model.profile, batch, numbers, largest)
    samples = partial(batching.samples, model.profile, numbers, batch, largest)
    config = ModelConfig(
        name,
        model.backend,
        inputs,
        model.outputs,
        largest,
        preferred=preferred,
        queue_delay=serving.queue_delay,
        device=serving.device_for(model.target),
        instances=serving.instances,
        gpus=serving.gpus,
        profiles=numbers if model.backend == "tensorrt" else (),
        warmup=samples(("opt", "max")) if serving.warmup else (),
        cuda_graphs=samples(("opt",)) if serving.cuda_graphs else (),
        libraries=model.libraries,
        parameters={"intra_op_thread_count": str(serving.threads)} if serving.threads else {},
    )
    return config, batch


def _try(config: ModelConfig, model: Model, number: int, batch: str | None) -> tuple[ModelConfig, list[str]]:
    """Run what the configuration relies on; a warm-up that fails would keep the model from being ready."""
    if model.runnable is None:
        return config, ["rows in a batch were not compared with rows alone: that needs the GPU"] if batch else []
    graph, session = model.runnable
    notes = []
    if batch is not None and config.max_batch > 1:
        shapes = batching.shapes_of(model.profile, "opt", number, {batch: min(config.max_batch, _ROWS)})
        notes.append(checks.compare_rows(graph, session, shapes))
    if config.warmup:
        shapes = batching.shapes_of(model.profile, "opt", number, {batch: 1} if batch is not None else {})
        reason = checks.refuses_zeros(session, shapes)
        if reason is not None:
            notes.append(f"no warm-up, since the model does not run on zeros: {reason}")
            config = replace(config, warmup=())
    return config, notes


def _profile_notes(model: Model, numbers: tuple[int, ...], batch: str | None) -> list[str]:
    """Triton bounds the batch alone; other sizes are for the caller to keep."""
    if not model.profile.is_bounded:
        return ["the profile has no maximum: no warm-up, and no request is known to be too long"]
    ranges = [
        ",".join(f"{dim}={given}" for dim, given in model.profile.profiles[number].items() if dim != batch)
        for number in numbers
    ]
    kept = "requests outside fail" if model.backend == "tensorrt" else "Triton itself does not refuse others"
    return [f"made for {text}: {kept}" for text in ranges if text]
