"""Run a model in OpenVINO on the CPU, which has bfloat16 products where ONNX Runtime's CPU provider has none.

The graph is the portable one, with its functions inlined: OpenVINO's reader knows ONNX's operators and no bodies.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.errors import LoadError, RequestError, UsageError
from graphwright.runtime import tensors
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.double import inlined
from graphwright.runtime.openvino_engines import ERRORS, Engine, engine_named
from graphwright.runtime.ort import bound_to
from graphwright.runtime.ort_load import readable, remove
from graphwright.runtime.profile import Profile
from graphwright.runtime.signature import Port, inputs_of, outputs_of

# Of the option ``precision``: the type of the products. Without the hint OpenVINO takes bfloat16 wherever it can.
HINTS = {"fp32": "f32", "bf16": "bf16"}
# The CPU plug-in computes integers in 32 bits, whatever their type: 2**40 silently becomes another number.
_INTEGERS = np.iinfo(np.int32)
_WIDE = {ir.DataType.INT64, ir.DataType.UINT64, ir.DataType.UINT32}
# With its snippets, OpenVINO 2026.4 gives wrong numbers for longer sequences if the first one was of length 1.
_OPTIONS = {"SNIPPETS_MODE": "DISABLE"}
_PLACE = re.compile(r"Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:|FrontEnd API failed with \w+:")


class OpenVINOSession:
    """A model in OpenVINO, callable with arrays by input name, as an OrtSession is.

    Several threads may call it at once.

    ``precision`` is "fp32" or "bf16"; where the CPU has no bfloat16, OpenVINO computes in float32. ``engine`` is
    "package" (openvino), "provider" (onnxruntime-ep-openvino, where it lists a device), or None for the first of them
    that is there. Inputs and outputs keep their types. What differs from ONNX Runtime: float64 is computed in float32
    and integers in 32 bits, an index beyond a table gives zeros, defaults of inputs cannot be overridden, and a run
    cannot be stopped.

    Raises:
        LoadError: OpenVINO refuses the model.
        ProfileError: the profile does not fit the model.
        MissingDependencyError: neither the package nor the provider is there.
    """

    def __init__(
        self,
        model: ir.Model | str | Path,
        profile: BoundProfile | Profile | str | None = None,
        *,
        threads: int | None = None,
        precision: str = "fp32",
        engine: str | None = None,
    ) -> None:
        self._kind = engine_named(engine)
        if precision not in HINTS:
            raise UsageError("precision", repr(precision), needed=f"{' or '.join(HINTS)}, as target openvino has")
        graph = model if isinstance(model, ir.Model) else ir.load(model)
        inputs, self.outputs = inputs_of(graph), outputs_of(graph)
        self.profile = bound_to(profile, inputs)
        self._where = f"model {graph.graph.name or 'without a name'}"
        self._check_types((*inputs, *self.outputs))
        self._dtypes = {port.name: port.dtype for port in inputs if port.dtype is not None}
        self._defaults = {port.name for port in inputs if port.is_optional}
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision], **_OPTIONS}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        self._engine = self._compile(inlined(graph) if graph.functions else model, options)

    def __call__(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Any]:
        """Run the model: a mapping, keywords, or both. torch tensors among the inputs give torch tensors.

        Raises:
            RequestError: the request does not fit the model or the profile, or a node refuses its values.
        """
        request = {**(inputs or {}), **named}
        twice = named.keys() & (inputs or {}).keys()
        if twice:
            raise RequestError("request", f"input {', '.join(sorted(twice))} given twice", needed="each input once")
        self.profile.check(request)
        arrays = {name: self._array(name, value) for name, value in request.items()}
        as_torch = any(map(tensors.is_torch, request.values()))
        results = self._run({name: array for name, array in arrays.items() if name in self._engine.read})
        return {
            port.name: tensors.from_storage(array, port.dtype, as_torch=as_torch)
            for port, array in zip(self.outputs, results, strict=True)
            if port.dtype is not None
        }

    def close(self) -> None:
        """Free the model; also done when the object is dropped."""
        del self._engine

    def _check_types(self, ports: tuple[Port, ...]) -> None:
        """Refuse what the Python package crashes on (text) or has no arrays for."""
        for port in ports:
            if port.dtype is None or port.dtype == ir.DataType.STRING or not tensors.is_native(port.dtype):
                needed = "a tensor of a type that NumPy has, and no text"
                raise LoadError(self._where, str(port), needed=needed, hint="target ort-cpu")

    def _compile(self, model: ir.Model | str | Path, options: Mapping[str, Any]) -> Engine:
        """Read the model and compile it."""
        _, source, folder = readable(model)
        try:
            return self._kind(source, self.profile, options)
        except ERRORS as error:
            needed = "a model that OpenVINO can load"
            raise LoadError(self._where, _clean(error), needed=needed, hint="target ort-cpu") from error
        finally:
            # Compiling has copied the weights: OpenVINO lays them out anew.
            remove(folder)

    def _array(self, name: str, value: Any) -> np.ndarray:
        if name in self._defaults:
            hint = "leave it out, or optimize for target ort-cpu"
            raise RequestError(f"input {name}", "a value", needed="none: OpenVINO keeps its default", hint=hint)
        array = tensors.to_storage(name, value, self._dtypes[name])
        if self._dtypes[name] in _WIDE and array.size:
            least, most = int(array.min()), int(array.max())
            if least < _INTEGERS.min or most > _INTEGERS.max:
                needed = "integers of 32 bits, which OpenVINO computes in"
                raise RequestError(f"input {name}", f"numbers from {least} to {most}", needed=needed)
        return array

    def _run(self, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            return self._engine.run(arrays)
        except ERRORS as error:
            raise RequestError("run in OpenVINO", _clean(error), needed="inputs that every node takes") from error


def _clean(error: Exception) -> str:
    """OpenVINO's message without its source places.

    Example:
        >>> _clean(RuntimeError("Exception from src/core.cpp:105:\\nCheck 'false' failed at src/a.cpp:1:\\nno rule"))
        'no rule'
    """
    return " ".join(_PLACE.sub("", str(error)).split()).rstrip(".")
