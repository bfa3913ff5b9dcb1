"""A plan as an engine on the device: plugins found, every input and output of a kind that a session can serve."""

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphwright.errors import LoadError, MissingDependencyError
from graphwright.runtime import tensors
from graphwright.runtime.bound import BoundProfile, Range, derived_dims
from graphwright.runtime.signature import Dims, Port, named_dims
from graphwright.runtime.tensorrt import library, messages
from graphwright.runtime.tensorrt.plan import PlanFile, check_fits
from graphwright.runtime.tensorrt.plugins import library_plugin
from graphwright.runtime.tensorrt.refit import check_weights, refit
from graphwright.runtime.tensorrt.sidecar import Sidecar

# TensorRT's names of ONNX's types.
DTYPES = {
    "FLOAT": ir.DataType.FLOAT,
    "HALF": ir.DataType.FLOAT16,
    "BF16": ir.DataType.BFLOAT16,
    "INT8": ir.DataType.INT8,
    "INT32": ir.DataType.INT32,
    "INT64": ir.DataType.INT64,
    "BOOL": ir.DataType.BOOL,
    "UINT8": ir.DataType.UINT8,
    "FP8": ir.DataType.FLOAT8E4M3FN,
    "INT4": ir.DataType.INT4,
    "FP4": ir.DataType.FLOAT4E2M1,
    "E8M0": ir.DataType.FLOAT8E8M0,
}
_WRONG_PLUGIN = re.compile(r"plugin|creator", re.IGNORECASE)
_lock = threading.Lock()


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine. On the host lies what TensorRT reads to find shapes.

    ``alias`` is the input whose memory an output is, as that of a key-value cache that is written in place.
    """

    port: Port
    is_input: bool
    is_on_host: bool = False
    alias: str | None = None

    @property
    def name(self) -> str:
        """The name in the engine."""
        return self.port.name

    @property
    def dtype(self) -> ir.DataType:
        """The type of its elements."""
        assert self.port.dtype is not None
        return self.port.dtype


class Engine:
    """A plan that TensorRT has taken, with what its inputs and outputs are. The device must be current.

    Raises:
        LoadError: a plan of another version, for another GPU, broken, or with tensors of packed formats.
        MissingDependencyError: no TensorRT, no GPU, or a plugin that the plan needs is not there.
    """

    def __init__(
        self,
        plan: PlanFile,
        *,
        device: int = 0,
        plugins: Sequence[str | Path] = (),
        weights: str | Path | None = None,
    ) -> None:
        self.where = plan.where
        self.trt = library.tensorrt_library()
        check_fits(plan, library.version_of(self.trt), library.device(device))
        check_weights(plan, weights)
        load_plugins(self.trt, plugins)
        self.runtime, self.native = _deserialized(self.trt, plan, plugins)
        if weights is not None:
            refit(self.trt, self.native, plan.where, Path(weights))
        self.tensors = tuple(self._tensor(index, plan.sidecar) for index in range(self.native.num_io_tensors))
        self.inputs = tuple(each for each in self.tensors if each.is_input)
        self.outputs = tuple(each for each in self.tensors if not each.is_input)
        self.profile = self._profile()

    def close(self) -> None:
        """Let go of the engine and then of the runtime, in the order that TensorRT asks for."""
        self.native = None
        self.runtime = None

    def _tensor(self, index: int, sidecar: Sidecar | None) -> Tensor:
        trt, name = self.trt, str(self.native.get_tensor_name(index))
        mode = self.native.get_tensor_mode(name)
        kind = self.native.get_tensor_dtype(name).name
        dtype = DTYPES.get(kind)
        where = f"{self.where}: {'input' if mode == trt.TensorIOMode.INPUT else 'output'} {name}"
        if dtype is None or tensors.storage(dtype) is None:
            raise LoadError(where, f"type {kind}", needed="a type of whole bytes", hint="cast it inside the model")
        if self.native.get_tensor_format(name) != trt.TensorFormat.LINEAR:
            found = str(self.native.get_tensor_format_desc(name))
            hint = "build without --inputIOFormats and --outputIOFormats"
            raise LoadError(where, found, needed="the linear format", hint=hint)
        # Older bindings do not know of outputs that are inputs.
        alias = getattr(self.native, "get_aliased_input_tensor", lambda _: None)(name)
        return Tensor(
            Port(name, dtype, _dims(name, tuple(self.native.get_tensor_shape(name)), sidecar)),
            mode == trt.TensorIOMode.INPUT,
            self.native.get_tensor_location(name) == trt.TensorLocation.HOST,
            str(alias) if alias else None,
        )

    def _profile(self) -> BoundProfile:
        """What the engine's profiles allow. Dimensions whose ranges differ do not share their name."""
        ports = tuple(each.port for each in self.inputs)
        count = int(self.native.num_optimization_profiles)
        found = [_ranges(ports, self._shapes(index)) for index in range(count)]
        if any(one is None for one in found):
            plain = [Port(port.name, port.dtype, _placed(port)) for port in ports]
            ports = tuple(plain)
            found = [_ranges(ports, self._shapes(index)) for index in range(count)]
        return BoundProfile(ports, tuple(one for one in found if one is not None))

    def _shapes(self, profile: int) -> dict[str, list[tuple[int, ...]]]:
        """Return for every input its smallest, its optimal and its largest shape."""
        return {
            each.name: [tuple(shape) for shape in self.native.get_tensor_profile_shape(each.name, profile)]
            for each in self.inputs
        }


def load_plugins(trt: Any, plugins: Sequence[str | Path]) -> None:
    """Load TensorRT's own plugins and the libraries given; each only once, for TensorRT refuses a second time.

    Raises:
        MissingDependencyError: no such file, no library of plugins, or another file than this process has loaded.
    """
    with _lock:
        loaded = _loaded(trt)
        for each in plugins:
            path = Path(each).resolve()
            digest = library_plugin(path).sha256
            if loaded.get(path, digest) != digest:
                # An engine with the old code would be kept under the digest of the new one.
                needed, hint = "the file that this process has loaded", "start a new process"
                raise MissingDependencyError(f"plugin library {each}", "another content", needed=needed, hint=hint)
            if path in loaded:
                continue
            try:
                handle = trt.get_plugin_registry().load_library(str(path))
            except (RuntimeError, TypeError) as error:
                found = messages.taken(trt, str(error))
                raise MissingDependencyError(f"plugin library {each}", found, needed="one for this TensorRT") from error
            if handle is None:
                found = messages.taken(trt, "one that TensorRT does not take")
                hint = "its plugins may be registered already, by Python or by another file"
                raise MissingDependencyError(f"plugin library {each}", found, needed="a library of plugins", hint=hint)
            loaded[path] = digest


@cache
def _loaded(trt: Any) -> dict[Path, str]:
    """Return the libraries of this process, with their digests. The first call registers TensorRT's own plugins."""
    trt.init_libnvinfer_plugins(messages.logger(trt), "")
    return {}


def _deserialized(trt: Any, plan: PlanFile, plugins: Sequence[str | Path]) -> tuple[Any, Any]:
    try:
        runtime = trt.Runtime(messages.logger(trt))
    except TypeError as error:  # what the bindings make of a runtime that could not be created
        found = messages.taken(trt, str(error))
        raise MissingDependencyError("TensorRT", found, needed="a GPU and a driver that it can use") from error
    # Such a plan brings code for the CPU, which TensorRT runs only when told that its origin is trusted.
    runtime.engine_host_code_allowed = plan.is_version_compatible
    messages.taken(trt, "")
    engine = runtime.deserialize_cuda_engine(plan.content)
    if engine is not None:
        return runtime, engine
    found = messages.taken(trt, "a plan that TensorRT does not take")
    if _WRONG_PLUGIN.search(found):
        raise MissingDependencyError(plan.where, found, needed=_needed_plugins(plan, plugins), hint=_PLUGIN_HINT)
    made = f" (it is of TensorRT {plan.version})" if plan.version else ""
    needed = f"a whole plan that TensorRT {library.version_of(trt)} can run{made}"
    raise LoadError(plan.where, found, needed=needed, hint="build the engine again on this machine")


_PLUGIN_HINT = "give the library with plugins=[...] (graphwright.plugins.hars.tensorrt_build makes the one for hars)"


def _needed_plugins(plan: PlanFile, plugins: Sequence[str | Path]) -> str:
    """Tell which libraries a plan was built with that were not given. Plugins with a namespace lie in the plan."""
    listed = plan.sidecar.plugins if plan.sidecar is not None else ()
    given = {hashlib.sha256(Path(each).read_bytes()).hexdigest() for each in plugins}
    absent = [each for each in listed if "::" not in each.name and each.sha256 not in given]
    missing = [f"{each.name} (sha256 {each.sha256[:12]})" for each in absent]
    return f"the plugin libraries {', '.join(missing)}" if missing else "every plugin that it was built with"


def _dims(name: str, shape: tuple[int, ...], sidecar: Sidecar | None) -> Dims:
    """Return an engine's dimensions with the names that the model gave those that are free."""
    ports = (*sidecar.inputs, *sidecar.outputs) if sidecar is not None else ()
    known = next((port.dims for port in ports if port.name == name and port.dims is not None), None)
    names = [dim if isinstance(dim, str) else None for dim in known or ()]
    if len(names) != len(shape):
        names = [None] * len(shape)
    return named_dims(name, [size if size >= 0 else text for size, text in zip(shape, names, strict=True)])


def _placed(port: Port) -> Dims:
    return named_dims(port.name, [dim if isinstance(dim, int) else None for dim in port.dims or ()])


def _ranges(ports: tuple[Port, ...], shapes: dict[str, list[tuple[int, ...]]]) -> dict[str, Range] | None:
    """Return the range of every free dimension, or None where two of one name differ."""
    ranges: dict[str, Range] = {}
    derived = derived_dims(ports)
    for port in ports:
        for axis, dim in enumerate(port.dims or ()):
            if not isinstance(dim, str) or dim in derived:
                continue
            given = Range(*(shape[axis] for shape in shapes[port.name]))
            if ranges.setdefault(dim, given) != given:
                return None
    return ranges
