"""Parts of the DOUBLE of TensorRT's builder that only hold values: enumerations, errors, networks, timing caches."""

import json
from collections.abc import Sequence
from enum import IntEnum

import onnx

NetworkDefinitionCreationFlag = IntEnum(
    "NetworkDefinitionCreationFlag",
    {"STRONGLY_TYPED": 0, "PREFER_JIT_PYTHON_PLUGINS": 1, "PREFER_AOT_PYTHON_PLUGINS": 2},
)
BuilderFlag = IntEnum(
    "BuilderFlag",
    "DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE EDITABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS VERSION_COMPATIBLE "
    "EXCLUDE_LEAN_RUNTIME ERROR_ON_TIMING_CACHE_MISS STRIP_PLAN REFIT_IDENTICAL WEIGHT_STREAMING STRICT_NANS",
)
MemoryPoolType = IntEnum("MemoryPoolType", "WORKSPACE TACTIC_DRAM")
HardwareCompatibilityLevel = IntEnum("HardwareCompatibilityLevel", "NONE AMPERE_PLUS SAME_COMPUTE_CAPABILITY")
ProfilingVerbosity = IntEnum("ProfilingVerbosity", "LAYER_NAMES_ONLY DETAILED NONE")
TilingOptimizationLevel = IntEnum("TilingOptimizationLevel", "NONE FAST MODERATE FULL")
ErrorCode = IntEnum("ErrorCode", "SUCCESS UNSUPPORTED_NODE")


class Creator:
    """A plugin's creator, as the registry lists it."""

    def __init__(self, namespace: str, name: str, version: str = "1") -> None:
        self.plugin_namespace, self.name, self.plugin_version = namespace, name, version


class Fault:
    """An error of the parser."""

    def __init__(
        self, node_name: str, operator: str, text: str, index: int = -1, functions: Sequence[str] = ()
    ) -> None:
        self.given = (node_name, operator, text, index, list(functions))

    def code(self) -> ErrorCode:
        return ErrorCode.UNSUPPORTED_NODE

    def node_name(self) -> str:
        return self.given[0]

    def node_operator(self) -> str:
        return self.given[1]

    def desc(self) -> str:
        return self.given[2]

    def node(self) -> int:
        return self.given[3]

    def local_function_stack(self) -> list[str]:
        return self.given[4]


class Tensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        self.name = value.name
        dims = value.type.tensor_type.shape.dim
        self.shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
        self.is_shape_tensor = False


class Network:
    def __init__(self, flags: int) -> None:
        self.flags = flags
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.content = ""

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


class TimingCache:
    """Its content is a version and entries, so that one of another version can be told."""

    def __init__(self, version: str, entries: set[str]) -> None:
        self.version, self.entries = version, entries

    def combine(self, other: "TimingCache", ignore_mismatch: bool) -> bool:
        if other.version != self.version and not ignore_mismatch:
            return False
        self.entries |= other.entries
        return True

    def serialize(self) -> bytes:
        return json.dumps([self.version, sorted(self.entries)]).encode()
