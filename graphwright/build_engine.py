"""A TensorRT engine from an artifact or an ONNX file: decided, looked up, built once, written with its sidecar.

What can be wrong without the library is found first: the profile, nodes that the parser does not take, plugin files.
Then the library and the device are asked for, then the cache; only then does anything slow start.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from graphwright.engine_request import EngineRequest, ProfileLike, decide
from graphwright.errors import OutputError, UsageError
from graphwright.folder import MODEL
from graphwright.frontends.onnx import save_onnx
from graphwright.report.progress import Tell, progress_bar
from graphwright.runtime.tensorrt.cache import EngineCache, default_folder, write_engine
from graphwright.runtime.tensorrt.files import copy_whole
from graphwright.runtime.tensorrt.fingerprint import stripped
from graphwright.runtime.tensorrt.settings import EngineFlags, EngineSettings
from graphwright.runtime.tensorrt.sidecar import Sidecar, sidecar_path


@dataclass(frozen=True)
class Engine:
    """A plan on disk with what is known of it. ``was_cached`` tells that nothing had to be built."""

    path: Path
    sidecar: Sidecar
    was_cached: bool
    notes: tuple[str, ...] = ()


def build_engine(
    model: object,
    output: str | Path | None = None,
    *,
    profile: ProfileLike | None = None,
    tensorrt_version: str | None = None,
    device: int = 0,
    cache: str | Path | bool | None = None,
    progress: bool | Tell | None = None,
    **flags: Unpack[EngineFlags],
) -> Engine:
    """Build a TensorRT plan, or take the one that was built before from the same; write it with its sidecar.

    ``model`` is an artifact, its folder, or an ONNX file or object. ``profile`` is text or a list, one optimization
    profile each; without it an artifact's own is taken. ``output`` may be None where there is a cache: the plan stays
    there. ``cache`` is a folder (None: the user's; False: none). The other options are those of ``EngineSettings``.

    Raises:
        UsageError, ProfileError: an option or a profile that is wrong or does not fit the model.
        LoadError: the model cannot be read.
        MissingDependencyError: no TensorRT, no GPU, no plugin.
        BuildError: a node that TensorRT does not take, or an engine that it cannot build.
        OutputError: the plan cannot be written.

    Example:
        >>> import onnx_ir as ir
        >>> text = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) {y = Relu(x)}'
        >>> build_engine(ir.from_onnx_text(text), "relu.plan", profile="n=4:2:8")
        Traceback (most recent call last):
        graphwright.errors.ProfileError: profile entry n: found 4:2:8; needed 0 <= min <= opt <= max
    """
    settings = EngineSettings(**flags)
    engines = engine_cache(cache)
    if engines is None and output is None:
        raise UsageError("output", "none, and no cache", needed="a file for the plan, or a cache that keeps it")
    target = check_output(output) if output is not None else None
    request = decide(model, profile=profile, settings=settings, tensorrt_version=tensorrt_version, device=device)
    with progress_bar(progress) as tell:
        return make(request, target, engines, tell)


def check_output(output: str | Path) -> Path:
    """Return the path of a plan once nothing speaks against writing it.

    Raises:
        OutputError: it is a folder, or lies in none.
    """
    path = Path(output)
    if path.is_dir():
        raise OutputError(str(path), "a folder of that name", needed="a file name", hint="such as model.plan")
    if not path.parent.is_dir():
        raise OutputError(str(path), f"no folder {path.parent}", needed="a file in a folder that exists")
    return path


def engine_cache(given: str | Path | bool | None) -> EngineCache | None:
    """Return the cache that the option stands for."""
    if given is False:
        return None
    return EngineCache(default_folder() if given is None or given is True else Path(given))


def make(request: EngineRequest, output: Path | None, cache: EngineCache | None, tell: Tell) -> Engine:
    """Build the engine that was decided on, or find it in the cache.

    Raises:
        MissingDependencyError, BuildError, OutputError: as :func:`build_engine` says.
    """
    request.check()
    key = request.decisions.key
    assert key is not None
    if cache is None:
        assert output is not None
        with _work_folder(output.parent) as work:
            plan, sidecar, notes = _built(request, key, work, tell)
        write_engine(output, plan, sidecar)
        return Engine(output, sidecar, False, notes)
    engine = _cached(request, key, cache, tell)
    if output is None:
        return engine
    copy_whole(engine.path, output)
    copy_whole(sidecar_path(engine.path), sidecar_path(output))
    return replace(engine, path=output)


def _cached(request: EngineRequest, key: str, cache: EngineCache, tell: Tell) -> Engine:
    sidecar = cache.find(key)
    if sidecar is not None:
        return Engine(cache.plan(key), sidecar, True)
    with cache.building(key, lambda: tell("waiting for another build of the same engine", 0, 1)) as work:
        # Whoever held the lock may have built it.
        sidecar = cache.find(key)
        if sidecar is not None:
            return Engine(cache.plan(key), sidecar, True)
        plan, sidecar, notes = _built(request, key, work, tell)
        cache.keep(plan, sidecar)
    return Engine(cache.plan(key), sidecar, False, notes)


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix=".engine-", dir=parent)
    except OSError as error:
        hint = "choose a folder that may be written"
        raise OutputError(str(parent), f"{error.strerror}", needed="a folder to work in", hint=hint) from error
    with folder as work:
        yield Path(work)


def _built(request: EngineRequest, key: str, work: Path, tell: Tell) -> tuple[memoryview, Sidecar, tuple[str, ...]]:
    from graphwright.runtime.tensorrt.build import build_plan

    tell("write the model for the parser", 0, 1)
    # The parser reads a file: a model of more than 2 GiB has its weights beside it.
    save_onnx(stripped(request.model), work / MODEL)
    built = build_plan(work / MODEL, request.model, request.decisions, tell)
    return built.plan, request.decisions.sidecar(key, built.plan), (*request.decisions.notes, *built.notes)
