"""Apply what was decided: parse, configure, add profiles, build. Every call of TensorRT's builder is made here.

TensorRT answers most faults with None or False and a line in its log, so each answer is looked at, and the log's errors
go into the error that is raised.

Source: the Python API reference of TensorRT 11.4.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import onnx_ir as ir

from graphwright.errors import BuildError, MissingDependencyError, OutputError
from graphwright.runtime.tensorrt import cuda_driver, library, messages, timing_cache
from graphwright.runtime.tensorrt.decisions import Decisions
from graphwright.runtime.tensorrt.monitor import Phases, Tell, monitor
from graphwright.runtime.tensorrt.parser_errors import nodes_named, parse_error, parser_faults
from graphwright.runtime.tensorrt.plugins import plugin_nodes, provide
from graphwright.runtime.tensorrt.sidecar import ProfileShapes

if TYPE_CHECKING:
    import tensorrt as trt

Enumeration = TypeVar("Enumeration")

# Attribute of the builder's configuration -> the enumeration that its values belong to.
_ENUMERATIONS = {
    "hardware_compatibility_level": "HardwareCompatibilityLevel",
    "profiling_verbosity": "ProfilingVerbosity",
    "tiling_optimization_level": "TilingOptimizationLevel",
}
_OTHER_VERSION = "TensorRT of a version that has it, or leave the option out"


@dataclass(frozen=True)
class Built:
    """A plan, and what happened that the user should know."""

    plan: memoryview
    notes: tuple[str, ...] = ()


def build_plan(path: Path, model: ir.Model, decisions: Decisions, tell: Tell = lambda *_: None) -> Built:
    """Build the engine that was decided on from the file at ``path``, which was written from ``model``.

    Raises:
        MissingDependencyError: no library, no GPU that it can use, or no plugin for a node.
        BuildError: the parser refuses a node, a profile is not taken, or no engine can be made.
    """
    trt = library.tensorrt_library()
    # TensorRT builds for the thread's current GPU, which is the first one if nobody says otherwise.
    with cuda_driver.cuda(decisions.device_number).current():
        return _build(trt, path, model, decisions, tell)


def _build(trt: Any, path: Path, model: ir.Model, decisions: Decisions, tell: Tell) -> Built:
    settings = decisions.settings
    messages.taken(trt, "")
    provide(trt, settings.libraries(), plugin_nodes(model), quick=settings.hars == "quick")
    builder = _builder()
    network, parser = _parsed(builder, path, model, decisions)
    config = _configured(builder, decisions)
    phases = Phases(tell)
    watcher = monitor(phases)
    config.progress_monitor = watcher
    _add_profiles(builder, config, network, decisions)
    timings, notes = None, []
    if settings.timing_cache is not None:
        file = Path(settings.timing_cache)
        timings, is_used = timing_cache.attach(config, file, must_fit=settings.error_on_timing_cache_miss)
        if not is_used:
            # What TensorRT says about it is no reason for what may fail later.
            messages.taken(trt, "")
            notes.append(f"timing cache {file} is of another version or GPU, or damaged: it is written anew")
    plan = builder.build_serialized_network(network, config)
    # The builder has only pointers to these: weights lie in the parser's memory.
    del parser, watcher
    phases.reraise()
    if plan is None:
        raise _failure(model, decisions)
    if timings is not None:
        try:
            timing_cache.save(config, timings, Path(settings.timing_cache or ""))
        except OutputError as error:
            # The plan took minutes, and nothing is wrong with it.
            notes.append(f"the timing cache was not written: {error}")
    return Built(memoryview(plan), tuple(notes))


def _builder() -> "trt.Builder":
    import tensorrt as trt

    try:
        return trt.Builder(messages.logger(trt))
    except TypeError as error:  # what the bindings make of a builder that could not be created
        found = messages.taken(trt, str(error))
        raise MissingDependencyError("TensorRT", found, needed="a GPU and a driver that it can use") from error


def _parsed(
    builder: "trt.Builder", path: Path, model: ir.Model, decisions: Decisions
) -> "tuple[trt.INetworkDefinition, trt.OnnxParser]":
    import tensorrt as trt

    flags = 0
    for name in decisions.network_flags:
        flags |= 1 << int(_member(trt.NetworkDefinitionCreationFlag, name, "network flag"))
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, messages.logger(trt))
    if not parser.parse_from_file(str(path)):
        raise parse_error(decisions.model, parser_faults(parser, model), messages.taken(trt, "a model it refuses"))
    expected = {port.name for port in decisions.outputs}
    found = {network.get_output(index).name for index in range(network.num_outputs)}
    if expected != found:
        text = f"outputs {', '.join(sorted(found)) or 'none'} after parsing"
        raise BuildError(decisions.model, text, needed=", ".join(sorted(expected)))
    return network, parser


def _configured(builder: "trt.Builder", decisions: Decisions) -> "trt.IBuilderConfig":
    import tensorrt as trt

    config, settings = builder.create_builder_config(), decisions.settings
    for name in settings.builder_flags():
        config.set_flag(_member(trt.BuilderFlag, name, "builder flag"))
    if not settings.tf32:
        # The one flag that is on without being asked for.
        config.clear_flag(trt.BuilderFlag.TF32)
    for name, size in settings.memory_pools().items():
        config.set_memory_pool_limit(_member(trt.MemoryPoolType, name, "memory pool"), size)
    for name, value in settings.config().items():
        if not hasattr(config, name):
            raise BuildError(f"builder configuration {name}", "none in this TensorRT", needed=_OTHER_VERSION)
        enumeration = _ENUMERATIONS.get(name)
        setattr(config, name, _member(getattr(trt, enumeration), str(value), name) if enumeration else value)
    if settings.plugins_to_serialize:
        config.plugins_to_serialize = [str(Path(each).resolve()) for each in settings.plugins_to_serialize]
    return config


def _member(enumeration: type[Enumeration], name: str, what: str) -> Enumeration:
    found: Enumeration | None = getattr(enumeration, name, None)
    if found is None:
        raise BuildError(f"{what} {name}", "none in this TensorRT", needed=_OTHER_VERSION)
    return found


def _add_profiles(
    builder: "trt.Builder", config: "trt.IBuilderConfig", network: "trt.INetworkDefinition", decisions: Decisions
) -> None:
    """Add every profile, complete; TensorRT itself finds a fault in one only after minutes."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in inputs:
        if tensor.is_shape_tensor:
            needed, hint = "an input whose values are no shape", "make its value a constant of the model"
            raise BuildError(f"input {tensor.name}", "values that other shapes depend on", needed=needed, hint=hint)
    for number, shapes in enumerate(decisions.profiles):
        missing = [tensor.name for tensor in inputs if tensor.name not in shapes]
        if missing:
            raise BuildError(f"profile {number}", f"no shapes for {', '.join(missing)}", needed="those of every input")
        _add_profile(builder, config, number, {tensor.name: shapes[tensor.name] for tensor in inputs})


def _add_profile(builder: "trt.Builder", config: "trt.IBuilderConfig", number: int, shapes: ProfileShapes) -> None:
    import tensorrt as trt

    profile = builder.create_optimization_profile()
    for name, corners in shapes.items():
        try:
            profile.set_shape(name, corners["min"], corners["opt"], corners["max"])
        except (ValueError, RuntimeError) as error:
            found = messages.taken(trt, str(error))
            raise BuildError(f"profile {number}: input {name}", found, needed=f"other than {_text(corners)}") from error
    if not profile or config.add_optimization_profile(profile) < 0:
        found = messages.taken(trt, "one that TensorRT does not take")
        needed = f"other than {'; '.join(f'{name} {_text(corners)}' for name, corners in shapes.items())}"
        raise BuildError(f"profile {number}", found, needed=needed)


def _text(corners: Mapping[str, Sequence[int]]) -> str:
    return ":".join("x".join(map(str, corners[which])) for which in ("min", "opt", "max"))


def _failure(model: ir.Model, decisions: Decisions) -> BuildError:
    import tensorrt as trt

    found = messages.taken(trt, "no engine, and no reason in TensorRT's log")
    named = nodes_named(found, model)
    where = f"{decisions.model}: {', '.join(named[:3])}" if named else decisions.model
    hint = "a smaller max in the profile, more --workspace, or another --builder-optimization-level"
    return BuildError(where, found, needed="an engine", hint=hint)
