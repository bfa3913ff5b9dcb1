"""A double of the runtime half of TensorRT: plans of NumPy functions, and the rules by which the library may be called.

It is no TensorRT. It knows, of the Python API reference of TensorRT 11.4: which calls must come before which, what a
context refuses, when an output allocator is asked. Values are computed on the stream, from what then lies at the
addresses that were set when the run was put there.
"""

import json
from enum import IntEnum
from types import ModuleType
from typing import Any

from tests.runtime.tensorrt.context_double import Context, Network, Shape
from tests.runtime.tensorrt.cuda_double import CudaDouble

VERSION = "11.4.0.106"


class TensorRTDouble(ModuleType):
    """The module. ``networks`` are those that plans may name; ``said`` is everything that was called, in order."""

    def __init__(self, cuda: CudaDouble, version: str = VERSION) -> None:
        super().__init__("tensorrt")
        self.__version__ = version
        self.cuda = cuda
        self.networks: dict[str, Network] = {}
        self.said: list[str] = []
        self.contexts: list[Context] = []
        self.failing: set[str] = set()
        self.log: Any = None
        self.ILogger = ILogger
        self.IOutputAllocator = IOutputAllocator
        self.TensorIOMode = IntEnum("TensorIOMode", "NONE INPUT OUTPUT")
        self.TensorLocation = IntEnum("TensorLocation", "DEVICE HOST")
        self.TensorFormat = IntEnum("TensorFormat", "LINEAR CHW32")
        self.ExecutionContextAllocationStrategy = IntEnum("Strategy", "STATIC ON_PROFILE_CHANGE USER_MANAGED")
        self.registry = Registry(self)
        self.Runtime = lambda logger: Runtime(self, logger)
        self.Refitter = lambda engine, logger: Refitter(self, engine)
        self.OnnxParserRefitter = lambda refitter, logger: ParserRefitter(self)

    def get_plugin_registry(self) -> "Registry":
        return self.registry

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        self.said.append("init_libnvinfer_plugins")
        self.log = logger
        return True

    def error(self, text: str) -> None:
        self.log.log(ILogger.Severity.ERROR, text)

    def plan(self, network: Network, *, tag: bytes = b"ftrt", layout: int = 0, plugin: str = "") -> bytes:
        name = str(len(self.networks))
        self.networks[name] = network
        version = bytes(int(part) for part in self.__version__.split("."))
        header = tag + layout.to_bytes(4, "little") + bytes(16) + version
        return header + json.dumps({"network": name, "plugin": plugin, "version": self.__version__}).encode()


class ILogger:
    Severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
    is_made = False

    def __init__(self) -> None:
        # The library refuses an object whose class forgot to call this.
        self.is_made = True


class IOutputAllocator:
    is_made = False

    def __init__(self) -> None:
        self.is_made = True


class Registry:
    def __init__(self, trt: TensorRTDouble) -> None:
        self.trt = trt
        self.libraries: list[str] = []

    def load_library(self, path: str) -> object | None:
        with open(path, "rb") as file:
            if file.read() != b"plugins" or path in self.libraries:
                self.trt.error("[pluginRegistry.cpp::load::1] Error Code 4: plugin is registered already")
                return None
        self.libraries.append(path)
        return object()


class Kind:
    """A member of ``DataType``."""

    def __init__(self, name: str) -> None:
        self.name = name


class Runtime:
    def __init__(self, trt: TensorRTDouble, logger: Any) -> None:
        assert logger.is_made
        self.trt = trt
        trt.log = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, plan: bytes) -> "Engine | None":
        self.trt.said.append("deserialize_cuda_engine")
        self.trt.cuda._told("deserialize_cuda_engine")
        try:
            data = json.loads(plan[28:])
        except ValueError:
            self.trt.error("[coreReadArchive.cpp::verifyHeader::42] Error Code 1: Serialization (it is damaged)")
            return None
        if data["version"] != self.trt.__version__ and not self.engine_host_code_allowed:
            self.trt.error(f"Error Code 1: Serialization (expecting library version {data['version']})")
            return None
        if data["plugin"] and not self.trt.registry.libraries:
            self.trt.error(f"Error Code 4: Internal Error (Cannot find creator of plugin {data['plugin']})")
            return None
        return Engine(self.trt, self.trt.networks[data["network"]])


class Engine:
    def __init__(self, trt: TensorRTDouble, network: Network) -> None:
        self.trt, self.network = trt, network
        self.names = [*network.inputs, *network.outputs]
        self.tensors = {**network.inputs, **network.outputs}
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(network.profiles)
        self.refittable = network.refittable

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.trt.TensorIOMode
        return modes.INPUT if name in self.network.inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Kind:
        return Kind(self.tensors[name][0])

    def get_tensor_shape(self, name: str) -> Shape:
        return self.tensors[name][1]

    def get_tensor_format(self, name: str) -> Any:
        return self.trt.TensorFormat.CHW32 if name in self.network.packed else self.trt.TensorFormat.LINEAR

    def get_tensor_format_desc(self, name: str) -> str:
        return "a packed format"

    def get_tensor_location(self, name: str) -> Any:
        return self.trt.TensorLocation.HOST if name in self.network.hosts else self.trt.TensorLocation.DEVICE

    def get_aliased_input_tensor(self, name: str) -> str | None:
        return self.network.aliases.get(name)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[Shape]:
        return list(self.network.profiles[profile][name])

    def get_device_memory_size_for_profile_v2(self, profile: int) -> int:
        return self.network.scratch[profile]

    def create_execution_context(self, strategy: Any) -> "Context | None":
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.trt.cuda._told("create_execution_context")
        if "create_execution_context" in self.trt.failing:
            return None
        context = Context(self)
        self.trt.contexts.append(context)
        return context


class Refitter:
    def __init__(self, trt: TensorRTDouble, engine: Engine) -> None:
        assert engine.refittable
        self.trt = trt

    def refit_cuda_engine(self) -> bool:
        self.trt.said.append("refit_cuda_engine")
        return True

    def get_missing_weights(self) -> list[str]:
        return ["w1"]


class ParserRefitter:
    def __init__(self, trt: TensorRTDouble) -> None:
        self.trt = trt

    def refit_from_file(self, model: str) -> bool:
        self.trt.said.append("refit_from_file")
        return "refit_from_file" not in self.trt.failing
