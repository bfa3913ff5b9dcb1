"""A DOUBLE of TensorRT's builder: it records calls and keeps the rules that the reference states; it builds nothing.

What it knows is taken from the Python API reference of TensorRT 11.4. A test that passes with it shows in which order
graphwright calls what, with which values, and what it makes of each answer; it does not show that TensorRT would build.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from graphwright.runtime.tensorrt import cuda_driver, library
from graphwright.runtime.tensorrt.library import Device
from tests.runtime.tensorrt.double_parts import (
    BuilderFlag,
    Creator,
    Fault,
    HardwareCompatibilityLevel,
    MemoryPoolType,
    Network,
    NetworkDefinitionCreationFlag,
    ProfilingVerbosity,
    Tensor,
    TilingOptimizationLevel,
    TimingCache,
)

DEVICE = Device("NVIDIA H200", "9.0", "13.0")


class Registry:
    """``libraries`` holds what each plugin library brings, by its file's name."""

    def __init__(self, trt: "RecordedTensorRT") -> None:
        self.trt = trt
        self.libraries: dict[str, list[Creator]] = {}
        self.all_creators: list[Creator] = []

    def load_library(self, path: str) -> object | None:
        self.trt.record("load_library", Path(path).name)
        brought = self.libraries.get(Path(path).name)
        if brought is None:
            return None
        self.all_creators += brought
        return object()

    def get_creator(self, name: str, version: str, namespace: str = "") -> Creator | None:
        found = {(each.name, each.plugin_version, each.plugin_namespace): each for each in self.all_creators}
        return found.get((name, version, namespace))


class Config:
    def __init__(self, trt: "RecordedTensorRT") -> None:
        self.trt = trt
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[Profile] = []
        self.pools: dict[MemoryPoolType, int] = {}
        self.builder_optimization_level = 3
        self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.tiling_optimization_level = TilingOptimizationLevel.NONE
        self.max_num_tactics = self.max_aux_streams = -1
        self.plugins_to_serialize: list[str] = []
        self.progress_monitor: Any = None
        self.timing_cache: TimingCache | None = None

    def set_flag(self, flag: BuilderFlag) -> None:
        assert isinstance(flag, BuilderFlag)
        self.trt.record("set_flag", flag.name)
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.trt.record("clear_flag", flag.name)
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.trt.record("set_memory_pool_limit", pool.name, size)
        self.pools[pool] = size

    def create_timing_cache(self, content: bytes) -> TimingCache | None:
        self.trt.record("create_timing_cache", len(content) > 0)
        if not content:
            return TimingCache(self.trt.__version__, set())
        try:
            version, entries = json.loads(content)
        except ValueError:
            return None
        return TimingCache(version, set(entries))

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        self.trt.record("set_timing_cache", ignore_mismatch)
        if cache.version != self.trt.__version__ and not ignore_mismatch:
            return False
        self.timing_cache = cache
        return True

    def add_optimization_profile(self, profile: "Profile") -> int:
        self.trt.record("add_optimization_profile")
        if self.trt.refuses_profiles:
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1


class Profile:
    def __init__(self, trt: "RecordedTensorRT") -> None:
        self.trt = trt
        self.shapes: dict[str, list[tuple[int, ...]]] = {}

    def set_shape(self, name: str, *corners: Sequence[int]) -> None:
        self.trt.record("set_shape", name, *map(tuple, corners))
        smallest, best, largest = map(tuple, corners)
        if not len(smallest) == len(best) == len(largest):
            raise ValueError("ranks differ")
        if any(not 0 <= a <= b <= c for a, b, c in zip(smallest, best, largest, strict=True)):
            raise ValueError("0 <= min <= opt <= max does not hold")
        self.shapes[name] = [smallest, best, largest]

    def __bool__(self) -> bool:
        return bool(self.shapes)


class Builder:
    def __init__(self, trt: "RecordedTensorRT", logger: Any) -> None:
        trt.record("Builder")
        if trt.has_no_device:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.trt, self.logger = trt, logger

    def create_network(self, flags: int = 0) -> Network:
        self.trt.record("create_network", flags)
        return Network(flags)

    def create_builder_config(self) -> Config:
        self.trt.record("create_builder_config")
        self.trt.config = Config(self.trt)
        return self.trt.config

    def create_optimization_profile(self) -> Profile:
        self.trt.record("create_optimization_profile")
        return Profile(self.trt)

    def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
        self.trt.record("build_serialized_network")
        self.trt.while_building()
        monitor = config.progress_monitor
        monitor.phase_start("Building Engine", None, 2)
        monitor.phase_start("Tactics", "Building Engine", 4)
        answers = [monitor.step_complete("Tactics", step) for step in range(4)]
        monitor.phase_finish("Tactics")
        monitor.step_complete("Building Engine", 0)
        monitor.phase_finish("Building Engine")
        problem = self.problem(network, config)
        if problem:
            self.logger.log(self.trt.ILogger.Severity.ERROR, f"[builder.cpp::build::12] Error Code 4: {problem}")
        if problem or not all(answers):
            return None
        if config.timing_cache is not None:
            config.timing_cache.entries.add(self.trt.new_timing)
        version = bytes(map(int, self.trt.version.split(".")))
        return b"ftrt" + bytes(20) + version + json.dumps(self.described(network, config)).encode()

    def problem(self, network: Network, config: Config) -> str:
        """What TensorRT would refuse after it was asked to build."""
        if self.trt.build_problem:
            return self.trt.build_problem
        for tensor in network.inputs:
            for profile in config.profiles:
                corners = profile.shapes.get(tensor.name)
                if corners is None and -1 in tensor.shape:
                    return f"input {tensor.name} has dynamic dimensions and no shapes in a profile"
                pairs = zip(tensor.shape, *(corners or [tensor.shape] * 3), strict=True)
                if any(fixed != -1 and {fixed} != {*sizes} for fixed, *sizes in pairs):
                    return f"input {tensor.name}: a static dimension differs"
            if -1 in tensor.shape and not config.profiles:
                return f"input {tensor.name} has dynamic dimensions and there is no profile"
        return ""

    def described(self, network: Network, config: Config) -> dict[str, Any]:
        return {
            "network": network.content,
            "flags": sorted(flag.name for flag in config.flags),
            "profiles": [profile.shapes for profile in config.profiles],
            "level": config.builder_optimization_level,
            "build": self.trt.count("build_serialized_network"),
        }


class OnnxParser:
    def __init__(self, trt: "RecordedTensorRT", network: Network, logger: Any) -> None:
        trt.record("OnnxParser")
        self.trt, self.network = trt, network

    def parse_from_file(self, path: str) -> bool:
        self.trt.record("parse_from_file")
        if self.trt.parser_faults:
            return False
        model = onnx.load(path)
        onnx.checker.check_model(path)
        self.trt.parsed.append(model)
        defaults = {tensor.name for tensor in model.graph.initializer}
        self.network.inputs = [Tensor(value) for value in model.graph.input if value.name not in defaults]
        self.network.outputs = [Tensor(value) for value in model.graph.output]
        for tensor in self.network.inputs:
            tensor.is_shape_tensor = tensor.name in self.trt.shape_tensors
        self.network.content = " ".join(node.op_type for node in model.graph.node)
        return True

    @property
    def num_errors(self) -> int:
        return len(self.trt.parser_faults)

    def get_error(self, index: int) -> Fault:
        return self.trt.parser_faults[index]


class Cuda:
    """A double of the driver: it says which GPU was made the current one."""

    def __init__(self, trt: "RecordedTensorRT", device: int) -> None:
        self.trt, self.device = trt, device

    @contextmanager
    def current(self) -> Iterator[None]:
        self.trt.record("current GPU", self.device)
        yield
        self.trt.record("former GPU")


class RecordedTensorRT(ModuleType):
    """The double: put it at ``sys.modules["tensorrt"]``. ``calls`` has every call; the rest says what goes wrong."""

    def __init__(self, version: str = "11.4.0.106") -> None:
        super().__init__("tensorrt")
        # torch asks for it when it is imported after the double.
        self.__spec__ = ModuleSpec("tensorrt", None)
        self.__version__ = self.version = version
        self.calls: list[tuple[Any, ...]] = []
        self.parsed: list[onnx.ModelProto] = []
        self.config: Config | None = None
        self.registry = Registry(self)
        self.parser_faults: list[Fault] = []
        self.shape_tensors: set[str] = set()
        self.build_problem = ""
        self.new_timing = "tactic"
        self.has_no_device = self.refuses_profiles = False
        self.while_building: Callable[[], None] = lambda: None
        self.add_names()

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "RecordedTensorRT":
        """Put the double in the library's place, and a GPU beside it."""
        monkeypatch.setitem(sys.modules, "tensorrt", self)
        monkeypatch.setattr(library, "device", lambda index=0: DEVICE)
        monkeypatch.setattr(cuda_driver, "cuda", lambda device=0: Cuda(self, device))
        return self

    def add_names(self) -> None:
        class Severity(IntEnum):
            INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        self.ILogger = type("ILogger", (), {"Severity": Severity, "__init__": lambda self: None})
        self.IProgressMonitor = type("IProgressMonitor", (), {"__init__": lambda self: None})
        for enumeration in (
            NetworkDefinitionCreationFlag,
            BuilderFlag,
            MemoryPoolType,
            HardwareCompatibilityLevel,
            ProfilingVerbosity,
            TilingOptimizationLevel,
        ):
            setattr(self, enumeration.__name__, enumeration)

    def record(self, name: str, *values: Any) -> None:
        self.calls.append((name, *values))

    def count(self, name: str) -> int:
        return sum(call[0] == name for call in self.calls)

    def Builder(self, logger: Any) -> Builder:
        return Builder(self, logger)

    def OnnxParser(self, network: Network, logger: Any) -> OnnxParser:
        return OnnxParser(self, network, logger)

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        self.record("init_libnvinfer_plugins")
        return True

    def get_plugin_registry(self) -> Registry:
        return self.registry
