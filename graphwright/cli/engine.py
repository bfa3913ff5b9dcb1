"""The verb that builds a TensorRT engine: build-engine."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graphwright.cli import engine_options as given
from graphwright.cli import options
from graphwright.cli.output import note, one_line, say, say_json, table

if TYPE_CHECKING:
    from graphwright.build_engine import Engine
    from graphwright.engine_request import EngineRequest
    from graphwright.runtime.tensorrt.cache import EngineCache


def build_engine(
    model: given.Model = None,
    onnx: given.OnnxFile = None,
    output: given.Output = None,
    profile: given.Profiles = None,
    min_shapes: given.MinShapes = None,
    opt_shapes: given.OptShapes = None,
    max_shapes: given.MaxShapes = None,
    builder_optimization_level: given.Level = 3,
    workspace: given.Workspace = None,
    mem_pool_size: given.MemoryPools = None,
    version_compatible: given.VersionCompatible = False,
    exclude_lean_runtime: given.ExcludeLean = False,
    hardware_compatibility: given.Hardware = "none",
    weight_streaming: given.Streaming = False,
    strip_weights: given.Strip = False,
    refit: given.Refit = False,
    refit_identical: given.RefitIdentical = False,
    no_tf32: given.NoTf32 = False,
    strict_nans: given.StrictNans = False,
    max_aux_streams: given.AuxStreams = None,
    max_tactics: given.Tactics = None,
    tiling_optimization_level: given.Tiling = "none",
    profiling_verbosity: given.Verbosity = "layer-names-only",
    plugins: given.Plugins = None,
    plugins_to_serialize: given.Serialized = None,
    hars: given.Hars = "quick",
    timing_cache: given.TimingCache = None,
    error_on_timing_cache_miss: given.TimingMiss = False,
    cache_dir: given.CacheFolder = None,
    no_cache: given.NoCache = False,
    device: given.Device = 0,
    tensorrt_version: given.Version = None,
    dry_run: given.DryRun = False,
    skip_inference: given.Ignored = False,
    precision: given.Precision = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Build a TensorRT plan, or take the one built before from the same; write it with its sidecar."""
    # Every option by its name; the build's own ones are those that EngineSettings has.
    _run(dict(locals()))


def _run(values: dict[str, Any]) -> None:
    from graphwright.build_engine import check_output, engine_cache, make
    from graphwright.cli.engine_shapes import profiles
    from graphwright.engine_request import decide
    from graphwright.errors import UsageError
    from graphwright.report.progress import progress_bar

    model = _one("MODEL", "--onnx", values["model"], values["onnx"])
    cache = engine_cache(False if values["no_cache"] else values["cache_dir"])
    output = check_output(values["output"]) if values["output"] is not None else None
    if output is None and cache is None and not values["dry_run"]:
        raise UsageError("--no-cache", "no --output either", needed="a place for the plan")
    shapes = profiles(*([*(values[name] or ())] for name in ("profile", "min_shapes", "opt_shapes", "max_shapes")))
    request = decide(
        model,
        profile=shapes,
        settings=_settings(values),
        tensorrt_version=values["tensorrt_version"],
        device=values["device"],
    )
    if values["dry_run"]:
        _say_decisions(request, output, cache, as_json=values["as_json"])
        return
    shown = False if values["quiet"] else (None if sys.stderr.isatty() else _lines())
    with progress_bar(shown) as tell:
        engine = make(request, output, cache, tell)
    _say_engine(engine, as_json=values["as_json"])


def _one(name: str, other_name: str, first: str | None, second: str | None) -> str:
    from graphwright.errors import UsageError

    if (first is None) == (second is None):
        found = "neither" if first is None else "both"
        raise UsageError(f"{name} and {other_name}", found, needed="one of the two")
    return first if first is not None else str(second)


def _settings(values: dict[str, Any]) -> Any:
    from dataclasses import fields

    from graphwright.errors import UsageError
    from graphwright.runtime.tensorrt.settings import EngineSettings, workspace_of_pools

    if values["refit"] and values["refit_identical"]:
        raise UsageError("--refit", "--refit-identical as well", needed="one of the two")
    if values["workspace"] is not None and values["mem_pool_size"] is not None:
        raise UsageError("--workspace", "--mem-pool-size as well", needed="one of the two")
    chosen = {each.name: values[each.name] for each in fields(EngineSettings) if each.name in values}
    if values["mem_pool_size"] is not None:
        chosen["workspace"] = workspace_of_pools(values["mem_pool_size"])
    chosen["refit"] = "all" if values["refit"] else "identical" if values["refit_identical"] else "off"
    chosen["tf32"] = not values["no_tf32"]
    for name in ("plugins", "plugins_to_serialize"):
        chosen[name] = values[name] or ()
    return EngineSettings(**chosen)


def _lines() -> Callable[[str, int, int], None]:
    """A line on stderr for each step of the outermost phases: what a pipeline's log can keep."""
    last = [""]

    def tell(what: str, done: int, total: int) -> None:
        text = f"{what} ({done} of {total})" if ": " not in what else ""
        if text and text != last[0]:
            last[0] = text
            note(f"build-engine: {one_line(text)}")

    return tell


def _say_decisions(
    request: "EngineRequest", output: Path | None, cache: "EngineCache | None", *, as_json: bool
) -> None:
    from graphwright.errors import MissingDependencyError
    from graphwright.runtime.tensorrt.sidecar import sidecar_path

    decisions = request.decisions
    key = decisions.key
    kept = cache.plan(key) if cache is not None and key is not None else None
    data = decisions.to_json() | {
        "output": str(output) if output is not None else None,
        "sidecar": str(sidecar_path(output)) if output is not None else None,
        "cache": {
            "folder": str(cache.folder) if cache is not None else None,
            "plan": str(kept) if kept is not None else None,
            "has_it": cache.find(key) is not None if cache is not None and key is not None else None,
        },
    }
    if as_json:
        say_json(data)
    else:
        _say_table(data)
    try:
        request.check()
    except MissingDependencyError:
        # What is missing here may be there where the engine is built; it is among the decisions.
        return


def _say_table(data: dict[str, Any]) -> None:
    gpu = data["device"]
    rows = [
        ("model", data["model"]),
        ("sha256", data["onnx_sha256"]),
        ("passes", ", ".join(data["passes"]) or "-"),
        ("tensorrt", f"{data['tensorrt'] or 'not here'}, checked for {data['checked_for']}"),
        ("device", f"{gpu['name']} ({gpu['compute_capability']})" if gpu else "not here"),
        *(("profile", "\n".join(_corners(name, one) for name, one in each.items())) for each in data["profiles"]),
        ("builder flags", ", ".join(data["builder_flags"]) or "-"),
        *(("configuration", f"{name} = {value}") for name, value in data["config"].items()),
        *(("memory pool", f"{name} = {size} bytes") for name, size in data["memory_pools"].items()),
        *(("plugin", f"{each['name']} {each['sha256'][:12]}") for each in data["plugins"]),
        *(("plugin operator", name) for name in data["plugin_operators"]),
        *(("unsupported", f"{each['node']} ({each['operator']}): {each['reason']}") for each in data["unsupported"]),
        *(("missing", text) for text in data["missing"]),
        *(("note", text) for text in data["notes"]),
        ("key", data["key"] or "-"),
        ("cache", data["cache"]["plan"] or data["cache"]["folder"] or "none"),
        ("output", data["output"] or "-"),
    ]
    table(("what", "decided"), [(name, "\n".join(map(one_line, text.split("\n")))) for name, text in rows])


def _corners(name: str, shapes: dict[str, list[int]]) -> str:
    return f"{name} " + ":".join("x".join(map(str, shapes[which])) for which in ("min", "opt", "max"))


def _say_engine(engine: "Engine", *, as_json: bool) -> None:
    from graphwright.runtime.tensorrt.sidecar import sidecar_path

    for text in engine.notes:
        note(f"note: {text}")
    made = engine.sidecar
    if as_json:
        data = {"output": str(engine.path), "sidecar": str(sidecar_path(engine.path)), "was_cached": engine.was_cached}
        say_json(data | {"engine": made.to_json()})
        return
    origin = "from the cache" if engine.was_cached else "built"
    say(f"{engine.path}: {origin}, TensorRT {made.tensorrt}, {made.device.name}, {len(made.profiles)} profiles")


VERBS = (
    (
        "build-engine",
        build_engine,
        (
            "build-engine optimized -o model.plan",
            "build-engine model.onnx -o model.plan --profile batch=1:8:32,seq=1:128:512 --timing-cache-file timing.bin",
            "build-engine --onnx=model.onnx --saveEngine=model.plan --minShapes=ids:1x8 --optShapes=ids:8x128 "
            "--maxShapes=ids:32x512",
            "build-engine model.onnx --profile batch=1:8:32 --dry-run --json",
        ),
    ),
)
