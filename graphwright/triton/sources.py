"""What can be served: an artifact by Triton's ONNX Runtime backend, a plan by its TensorRT backend."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphwright.artifact import Artifact, load
from graphwright.errors import LoadError, MissingDependencyError, UsageError
from graphwright.folder import MODEL, WEIGHTS, is_artifact
from graphwright.frontends.onnx import save_onnx
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.providers import has_provider_for
from graphwright.runtime.rounded import types_of
from graphwright.runtime.signature import Port
from graphwright.triton.config import MODEL_FILES, Backend
from graphwright.triton.serving import DEVICES, Serving

if TYPE_CHECKING:
    from graphwright.runtime.tensorrt.sidecar import Sidecar


# Types with which the model's file does not load on the CPU as it is (runtime/ort_load.py).
_REWRITTEN = frozenset({ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN})


@dataclass(frozen=True)
class Model:
    """What both kinds of sources come down to.

    ``outputs`` are as the runtime declares them, ``target`` an artifact's or "tensorrt", ``write`` fills a version's
    folder. ``runnable`` is the graph, and a session on it as Triton's; None where only the server can run it.
    """

    backend: Backend
    target: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    profile: BoundProfile
    write: Callable[[Path], None]
    runnable: tuple[ir.Model, OrtSession] | None = None
    libraries: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def open_source(source: Artifact | str | Path, serving: Serving, place: str) -> Model:
    """Open what is to be served; ``place`` is the version's folder in the repository.

    Raises:
        LoadError: no artifact and no plan, or files that are not those that were written.
        UsageError: a target that Triton does not run, kernels that do not take the model's types, types that need
        another file on the CPU.
        MissingDependencyError: the compiled kernels are wanted and not there.
    """
    if isinstance(source, Artifact):
        return _artifact(source, None, serving, place)
    path = Path(source)
    if is_artifact(path):
        return _artifact(load(path), path, serving, place)
    if path.is_file() and path.suffix == ".plan":
        return _plan(path)
    if path.is_file() and path.suffix == ".onnx":
        hint = f"graphwright optimize {path} -o {path.with_suffix('')}, then export that folder"
        raise UsageError(str(path), "an ONNX file", needed="an artifact's folder or a .plan", hint=hint)
    found = "no artifact and no plan" if path.exists() else "no such file or folder"
    raise LoadError(str(path), found, needed="an artifact's folder, or a .plan with its .plan.json beside it")


def _artifact(artifact: Artifact, folder: Path | None, serving: Serving, place: str) -> Model:
    if artifact.target == "tensorrt" or artifact.target not in DEVICES:
        hint = f"optimize for {', '.join(name for name in DEVICES if name != 'tensorrt')}"
        if artifact.target == "tensorrt":
            hint = "graphwright build-engine makes a plan of it, which export-triton takes"
        needed = "one that Triton's ONNX Runtime backend runs"
        raise UsageError("artifact", f"target {artifact.target}", needed=needed, hint=hint)
    if serving.device_for(artifact.target) == "cpu":
        _refuse_rewritten(artifact.model)
    library, notes = _library(artifact.model, serving)
    # Only a session tells what Triton will compare the configuration with: ONNX Runtime infers shapes of its own.
    target = artifact.target if has_provider_for(artifact.target) else "ort-cpu"
    source = folder / MODEL if folder is not None else artifact.model
    session = OrtSession(source, artifact.profile, target=target, kernels=library is not None)

    def write(version: Path) -> None:
        if folder is None:
            save_onnx(artifact.model, version / MODEL)
        else:
            for file in (folder / MODEL, folder / WEIGHTS):
                if file.is_file():
                    shutil.copyfile(file, version / file.name)
        if library is not None:
            shutil.copyfile(library, version / library.name)

    return Model(
        "onnxruntime",
        artifact.target,
        artifact.profile.inputs,
        session.outputs,
        artifact.profile,
        write,
        (artifact.model, session),
        libraries=(str(PurePosixPath(serving.kernels, place, library.name)),) if library and serving.kernels else (),
        notes=(*_version_notes(artifact), *notes),
    )


def _refuse_rewritten(model: ir.Model) -> None:
    """Refuse what graphwright's own sessions on the CPU rewrite, or open with other settings, and Triton's do not."""
    found = sorted(each.name.lower() for each in types_of(model) & _REWRITTEN)
    if found:
        needed = "types that ONNX Runtime has kernels for on the CPU"
        hint = "optimize with precision fp16 or int8, or for target onnx and serve it with --device gpu"
        raise UsageError("artifact", f"numbers of type {' and '.join(found)}", needed=needed, hint=hint)


def _version_notes(artifact: Artifact) -> tuple[str, ...]:
    made_with = artifact.manifest.get("versions", {}).get("onnxruntime", "another runtime")
    opset = artifact.model.opset_imports.get("", 0)
    return (
        f"target {artifact.target}, opset {opset}, IR version {artifact.model.ir_version}: checked with onnxruntime "
        f"{made_with}; the server's has to read the same",
    )


def _library(model: ir.Model, serving: Serving) -> tuple[Path | None, tuple[str, ...]]:
    """The compiled kernels that go along, and what there is to say of the nodes that want them."""
    from graphwright.runtime import kernels

    functions = (function.all_nodes() for function in model.functions.values())
    nodes = itertools.chain(model.graph.all_nodes(), *functions)
    count = sum(node.domain == kernels.DOMAIN for node in nodes)
    if not count:
        return None, ("no node wants the compiled kernels: none are registered",) if serving.kernels else ()
    if serving.kernels is None:
        ways = "--with-kernels takes the compiled ones along"
        return None, (f"{kernels.DOMAIN} nodes that run as function bodies: {count}; {ways}",)
    library = kernels.library()
    if library is None:
        hint = "install g++ and CMake, then reinstall graphwright; `graphwright doctor` tells what is there"
        raise MissingDependencyError("kernels", "no compiled library", needed="one for the server", hint=hint)
    if kernels.choose("artifact", model, is_wanted=True) is not kernels.Use.YES:
        # In Triton there is no second try: a registered kernel that refuses a type keeps the model from loading.
        needed = "declared inputs of float32, float16 or bfloat16"
        found = f"{kernels.DOMAIN} nodes of other or unknown types"
        raise UsageError("kernels", found, needed=needed, hint="leave --with-kernels out")
    note = "the kernels were compiled on this machine: the server needs its architecture and a C library no older"
    return library, (note,)


def _plan(path: Path) -> Model:
    from graphwright.runtime.tensorrt.sidecar import Sidecar, sidecar_path

    sidecar = Sidecar.read(path)
    sidecar.check_plan(path.read_bytes(), str(path))
    if sidecar.flags.get("strip_weights"):
        needed = "a plan with its weights, since Triton refits none"
        raise UsageError(str(path), "a stripped plan", needed=needed, hint="build it without --strip-weights")

    def write(version: Path) -> None:
        name = MODEL_FILES["tensorrt"]
        shutil.copyfile(path, version / name)
        shutil.copyfile(sidecar_path(path), sidecar_path(version / name))

    return Model(
        "tensorrt",
        "tensorrt",
        sidecar.inputs,
        sidecar.outputs,
        sidecar.bound_profile(),
        write,
        notes=tuple(_plan_notes(sidecar)),
    )


def _plan_notes(sidecar: "Sidecar") -> Iterator[str]:
    """What the server needs for a plan, and how it is to be started."""
    flags, device = sidecar.flags, sidecar.device
    gpus = {
        "AMPERE_PLUS": "any GPU from Ampere on",
        "SAME_COMPUTE_CAPABILITY": f"any GPU of compute capability {device.compute_capability}",
    }.get(str(flags.get("hardware_compatibility")), f"{device.name} (compute capability {device.compute_capability})")
    later = " or a later one of the same major version" if flags.get("version_compatible") else ""
    yield f"the server needs TensorRT {sidecar.tensorrt}{later}, and {gpus}"
    if flags.get("version_compatible"):
        yield "start the server with --backend-config=tensorrt,version-compatible=true"
    if sidecar.plugins:
        yield f"plugins: {', '.join(f'{one.name} {one.version}' for one in sidecar.plugins)}"
    libraries = [name for name in flags.get("plugins", ()) if name not in flags.get("plugins_to_serialize", ())]
    if libraries:
        paths = ";".join(f"/path/to/{name}" for name in libraries)
        yield f"start the server with --backend-config=tensorrt,plugins={paths}"
    if flags.get("weight_streaming"):
        yield "Triton has no budget for weight streaming: the weights lie on the GPU as a whole"
