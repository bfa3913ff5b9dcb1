"""Run a model in ONNX Runtime: checked requests, bound buffers, NumPy or torch in and out."""

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from graphwright.errors import ProfileError, RequestError
from graphwright.runtime import dims, tensors
from graphwright.runtime.bind import bind
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.cuda import run_on_cuda
from graphwright.runtime.memory import Pool
from graphwright.runtime.ort_load import ORT_ERRORS, Options, clean, load, ports, remove
from graphwright.runtime.profile import Profile
from graphwright.runtime.signature import Port
from graphwright.runtime.time_limit import run_within

if TYPE_CHECKING:
    from graphwright.runtime.tensorrt.ort_provider import OrtTensorRT

Shape = tuple[int, ...]

# Requests of different shapes whose checks and output shapes are remembered.
_PLANS_KEPT = 1024


@dataclass(frozen=True)
class _Plan:
    """What was found out about requests of one signature: the shape of each output, where it is known."""

    outputs: tuple[Shape | None, ...]


class OrtSession:
    """A model in ONNX Runtime, callable with arrays by input name. Several threads may call it at once.

    Outputs lie in buffers that are allocated once, at the profile's maximum. An output belongs to the caller:
    its buffer serves another call only when the caller has dropped it and all views of it. An output whose
    size does not follow from the request is allocated by ONNX Runtime. One that is an input itself is a copy.
    ``seconds``, which may be set later too, limits the time of one run on the CPU (``runtime.time_limit``).
    ``kernels=False`` runs function bodies also where there is a compiled kernel (``runtime.kernels``). ``rounded`` has
    the CPU round float16 at every node (``runtime.rounded``); bfloat16 always is. ``tensorrt`` has TensorRT run what it
    can of the graph, with target ort-cuda (``runtime.tensorrt.ort_provider``).

    Raises:
        LoadError: ONNX Runtime refuses the model.
        ProfileError: the profile does not fit the model.
        MissingDependencyError: the target's provider is not there.

    Example:
        >>> x = ir.Value(name="self", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.FLOAT))
        >>> node = ir.node("Neg", [x])
        >>> y = node.outputs[0]
        >>> y.name, y.shape, y.type = "y", x.shape, x.type
        >>> model = ir.Model(ir.Graph([x], [y], nodes=[node], opset_imports={"": 20}), ir_version=10)
        >>> OrtSession(model, "n=1:2:8")(self=np.ones(3, np.float32))
        {'y': array([-1., -1., -1.], dtype=float32)}
    """

    def __init__(
        self,
        model: ir.Model | str | Path,
        profile: BoundProfile | Profile | str | None = None,
        *,
        target: str = "ort-cpu",
        threads: int | None = None,
        optimize: bool = True,
        prepack: bool = True,
        seconds: float | None = None,
        kernels: bool = True,
        rounded: bool = False,
        tensorrt: "OrtTensorRT | None" = None,
    ) -> None:
        self.seconds = seconds
        options = Options(threads, optimize, prepack, kernels, rounded)
        if tensorrt is not None:
            model, options = tensorrt.prepared(model, profile, options, target)
        self._session, folder = load(model, options, target)
        self._remove_folder = weakref.finalize(self, remove, folder)
        inputs = (
            *ports(self._session.get_inputs()),
            *ports(self._session.get_overridable_initializers(), is_optional=True),
        )
        self.profile = bound_to(profile, inputs)
        self.outputs = tuple(ports(self._session.get_outputs()))
        self._dtypes = {port.name: port.dtype or ir.DataType.UNDEFINED for port in inputs}
        self._passed = sorted(self._dtypes.keys() & {port.name for port in self.outputs})
        self._is_plain = any(
            port.dtype is None or tensors.storage(port.dtype) is None for port in (*inputs, *self.outputs)
        )
        self._pools = [self._pool(port) for port in self.outputs]
        # ``bind_cpu_input`` does not know them.
        self._defaults = {port.name for port in inputs if port.is_optional}
        self._is_on_cuda = "CUDAExecutionProvider" in self._session.get_providers()
        self._plans: dict[Any, _Plan] = {}
        self._declares_wrong_shapes = False

    def __call__(self, inputs: Mapping[str, Any] | None = None, /, **named: Any) -> dict[str, Any]:
        """Run the model: a mapping, keywords, or both. torch tensors among the inputs give torch tensors.

        Raises:
            RequestError: the request does not fit the model or the profile, or a node refuses its values.
        """
        request = {**inputs, **named} if inputs else named
        if inputs and len(request) < len(inputs) + len(named):
            twice = ", ".join(name for name in named if name in inputs)
            raise RequestError("request", f"input {twice} given twice", needed="each input once")
        plan = self._plan(request)
        if self._is_plain:
            return self._run_plain(request)
        device = tensors.cuda_device(request.values())
        if device is not None and self._is_on_cuda:
            return run_on_cuda(self._session, request, self._dtypes, self.outputs, plan.outputs)
        return self._run_bound(request, plan)

    def close(self) -> None:
        """Free the session and what it wrote to disk; also done when the object is dropped."""
        del self._session
        self._remove_folder()

    def _plan(self, request: Mapping[str, Any]) -> _Plan:
        """Check a request, once for each signature."""
        try:
            key = tuple((name, value.dtype, value.shape) for name, value in request.items())
            known = self._plans.get(key)
        except (AttributeError, TypeError):
            key, known = None, None
        if known is not None:
            return known
        sizes = self.profile.check(request)
        shapes = [None if self._declares_wrong_shapes else _shape(port, sizes) for port in self.outputs]
        plan = _Plan(tuple(shapes))
        if key is not None:
            if len(self._plans) >= _PLANS_KEPT:
                self._plans.clear()
            self._plans[key] = plan
        return plan

    def _pool(self, port: Port) -> Pool | None:
        """Buffers for an output at the largest size that any profile gives it."""
        dtype = tensors.storage(port.dtype) if port.dtype is not None else None
        if dtype is None:
            return None
        if not self.profile.is_bounded:
            return Pool(dtype, largest=-1)
        shapes = [_shape(port, self.profile.sizes("max", index)) for index in range(len(self.profile.profiles))]
        return Pool(dtype, largest=max(-1 if shape is None else math.prod(shape) for shape in shapes))

    def _run_bound(self, request: Mapping[str, Any], plan: _Plan) -> dict[str, Any]:
        """Run on the caller's memory and into lent buffers."""
        as_torch = any(map(tensors.is_torch, request.values()))
        binding = self._session.io_binding()
        # ONNX Runtime holds addresses only: the arrays must live until it is done.
        kept = [self._bind_input(binding, name, value) for name, value in request.items()]
        arrays = [_lend(binding, *output) for output in zip(self.outputs, self._pools, plan.outputs, strict=True)]
        try:
            run_within(self.seconds, lambda options: self._session.run_with_iobinding(binding, options))
        except ORT_ERRORS as error:
            if all(shape is None for shape in plan.outputs):
                raise _refused(error) from error
            result = self._run_bound(request, _Plan((None,) * len(self.outputs)))
            # The model declares an output shape that its nodes do not give; the nodes are right.
            self._declares_wrong_shapes = True
            self._plans.clear()
            return result
        del kept
        if any(array is None for array in arrays):
            values = zip(arrays, binding.get_outputs(), self.outputs, strict=True)
            arrays = [_taken(value, port) if array is None else array for array, value, port in values]
        # ONNX Runtime leaves the buffer of an output that is an input itself as it was.
        passed = {name: self._copy(name, request[name]) for name in self._passed if name in request}
        return {
            port.name: tensors.from_storage(passed.get(port.name, array), port.dtype, as_torch=as_torch)
            for port, array in zip(self.outputs, arrays, strict=True)
            if array is not None and port.dtype is not None
        }

    def _copy(self, name: str, value: Any) -> np.ndarray:
        return tensors.to_storage(name, value, self._dtypes[name]).copy()

    def _bind_input(self, binding: ort.IOBinding, name: str, value: Any) -> np.ndarray:
        dtype = self._dtypes[name]
        array = tensors.to_storage(name, value, dtype)
        if tensors.is_native(dtype) and name not in self._defaults:
            binding.bind_cpu_input(name, array)
        else:
            binding.bind_ortvalue_input(name, tensors.to_ort_value(array, dtype))
        return array

    def _run_plain(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run without binding: for text, sequences and types of less than a byte."""
        as_torch = any(map(tensors.is_torch, request.values()))
        feeds = {}
        for name, value in request.items():
            dtype = self._dtypes[name]
            feeds[name] = value if dtype == ir.DataType.UNDEFINED else tensors.to_storage(name, value, dtype)
        try:
            values = run_within(self.seconds, lambda options: self._session.run(None, feeds, options))
        except ORT_ERRORS as error:
            raise _refused(error) from error
        return {
            port.name: value if port.dtype is None else tensors.from_storage(value, port.dtype, as_torch=as_torch)
            for port, value in zip(self.outputs, values, strict=True)
        }


def _refused(error: Exception) -> RequestError:
    return RequestError("run in ONNX Runtime", clean(error), needed="inputs that every node takes")


def bound_to(profile: BoundProfile | Profile | str | None, inputs: Sequence[Port]) -> BoundProfile:
    """Return a profile fitted to inputs; one that is fitted already must be to these.

    Raises:
        ProfileError: it does not fit.
    """
    if isinstance(profile, BoundProfile):
        wanted, there = (sorted((port.name, port.dtype or 0) for port in of) for of in (profile.inputs, inputs))
        if wanted != there:
            raise ProfileError(
                "profile",
                f"one bound to inputs {', '.join(map(str, profile.inputs))}",
                needed=f"the model's own: {', '.join(map(str, inputs))}",
                hint="bind it to this model",
            )
        return profile
    if not isinstance(profile, Profile):
        profile = Profile.parse(profile) if profile is not None else Profile.unbounded()
    return bind(profile, inputs)


def _shape(port: Port, sizes: Mapping[str, int]) -> Shape | None:
    """The shape of an output, or None where it does not follow from the sizes of the inputs' dimensions."""
    shape = tuple(dims.size(dim, sizes) for dim in port.dims) if port.dims is not None else (None,)
    return None if None in shape else tuple(size for size in shape if size is not None)


def _lend(binding: ort.IOBinding, port: Port, pool: Pool | None, shape: Shape | None) -> np.ndarray | None:
    """Bind an output to a lent buffer, or leave it to ONNX Runtime where the shape is not known."""
    if shape is None or pool is None or port.dtype is None:
        binding.bind_output(port.name, "cpu")
        return None
    array, buffer = pool.lend(shape)
    value = buffer.prepared.get(shape) if buffer is not None else tensors.to_ort_value(array, port.dtype)
    if value is None and buffer is not None:
        # On the buffer's memory and not on the lent array: else the array would never be dropped.
        value = tensors.to_ort_value(buffer.view(shape, pool.dtype), port.dtype)
        buffer.remember(shape, value)
    binding.bind_ortvalue_output(port.name, value)
    return array


def _taken(value: ort.OrtValue, port: Port) -> np.ndarray | None:
    return tensors.from_ort_value(value, port.dtype) if port.dtype is not None else None
