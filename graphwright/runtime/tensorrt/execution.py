"""One execution context of an engine, for one of its profiles: shapes in, shapes out, one run at a time."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphwright.errors import MissingDependencyError, RequestError
from graphwright.runtime import tensors
from graphwright.runtime.tensorrt import messages
from graphwright.runtime.tensorrt.engine import Engine, Tensor

Shape = tuple[int, ...]
# Requests whose output shapes are remembered.
_SHAPES_KEPT = 1024
# Asks for so many bytes, by the output's name, and gives their address.
Allocate = Callable[[str, int], int]


@dataclass(frozen=True)
class _Inputs:
    """The shapes of the inputs, and type and bytes of those on the host."""

    shapes: tuple[tuple[str, Shape], ...] = ()
    values: tuple[tuple[str, str, bytes], ...] = ()


_NOTHING = _Inputs((("", ()),))


class Execution:
    """A context of its own for each profile: to change a context's profile, TensorRT would have to copy and wait.

    Its memory between layers is given with each run (``scratch.py``). The caller holds the session's lock, and the
    device is current.

    Raises:
        MissingDependencyError: the device lacks memory for it.
    """

    def __init__(self, engine: Engine, profile: int, stream: int) -> None:
        trt, native = engine.trt, engine.native
        self._engine = engine
        self._profile = profile
        self._stream = stream
        self._native = native.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if self._native is None or not self._native.set_optimization_profile_async(profile, stream):
            found = messages.taken(trt, "no context")
            raise MissingDependencyError(f"{engine.where}: profile {profile}", found, needed="more memory on the GPU")
        self.scratch_size = int(native.get_device_memory_size_for_profile_v2(profile))
        self._scratch: tuple[int, int] | None = None
        self._wanted = self._applied = _NOTHING
        self._hosts: dict[str, np.ndarray] = {}
        self._allocators: dict[str, Any] = {}
        self._shapes: dict[_Inputs, dict[str, Shape | None]] = {}
        self._most: dict[str, int] = {}

    @property
    def inputs(self) -> "_Inputs":
        """What the run to come is recognised by: the shapes of its inputs, and the values of those on the host."""
        return self._wanted

    def another(self) -> "Execution":
        """Return a context that nothing else uses, with the inputs of the run to come.

        Raises:
            MissingDependencyError: the device lacks memory for it.
        """
        made = Execution(self._engine, self._profile, self._stream)
        made._wanted = self._wanted
        return made

    def set_inputs(self, shapes: Mapping[str, Shape], hosts: Mapping[str, np.ndarray]) -> dict[str, Shape | None]:
        """Take the shapes of a request, and the values of inputs on the host; return the shapes of the outputs.

        An output of which TensorRT knows the size only afterwards has None.

        Raises:
            RequestError: TensorRT refuses them.
        """
        values = ((name, array.dtype.str, array.tobytes()) for name, array in hosts.items())
        self._wanted = _Inputs(tuple(shapes.items()), tuple(values))
        if self._wanted not in self._shapes:
            self._apply()
            if len(self._shapes) >= _SHAPES_KEPT:
                self._shapes.clear()
            found = {each.name: tuple(self._native.get_tensor_shape(each.name)) for each in self._engine.outputs}
            self._shapes[self._wanted] = {
                name: shape if all(size >= 0 for size in shape) else None for name, shape in found.items()
            }
        return self._shapes[self._wanted]

    def most_bytes(self, output: str) -> int:
        """Return the most that an output can take under this profile, or 0 where TensorRT does not say."""
        if output not in self._most:
            self._most[output] = max(int(self._native.get_max_output_size(output)), 0)
        return self._most[output]

    def _apply(self) -> None:
        """Give TensorRT the shapes of the run to come, unless it has them."""
        if self._applied == self._wanted:
            return
        self._applied = _NOTHING
        for name, shape in self._wanted.shapes:
            if not self._native.set_input_shape(name, shape):
                raise self._refused(f"shape {list(shape)} for input {name}", "a shape inside the profile")
        # TensorRT reads these now and while it runs: they must stay where they are.
        self._hosts = {name: np.frombuffer(data, dtype).copy() for name, dtype, data in self._wanted.values}
        for name, array in self._hosts.items():
            self._native.set_tensor_address(name, array.ctypes.data)
        try:
            missing = self._native.infer_shapes()
        except RuntimeError as error:
            raise self._refused(str(error), "inputs whose shapes fit together") from error
        if missing:
            raise self._refused(f"no size for {', '.join(missing)}", "inputs whose shapes fit together")
        self._applied = self._wanted

    def allocate_with(self, outputs: Iterable[str], allocate: Allocate) -> None:
        """Let TensorRT ask for the memory of these outputs, whose size it finds while it runs."""
        for name in outputs:
            allocator = self._allocators.get(name)
            if allocator is None:
                allocator = self._allocators[name] = output_allocator(self._engine.trt)
                self._native.set_output_allocator(name, allocator)
            allocator.allocate = allocate

    def enqueue(self, addresses: Mapping[str, int], scratch: int, stream: int) -> None:
        """Put one run on the stream, with inputs, outputs and the memory between layers at these addresses.

        Raises:
            RequestError: TensorRT refuses, as where a layer does not take the values of a shape input.
        """
        self._apply()
        if (scratch, self.scratch_size) != self._scratch:
            self._native.set_device_memory(scratch, self.scratch_size)
            self._scratch = scratch, self.scratch_size
        for name, address in addresses.items():
            if not self._native.set_tensor_address(name, address):
                raise self._refused(f"an address for {name}", "memory that is aligned")
        try:
            is_taken = self._native.execute_async_v3(stream)
        finally:
            # It is asked within that call alone, and what it holds of the call are the results.
            for allocator in self._allocators.values():
                allocator.allocate = None
        if not is_taken:
            raise self._refused("a run that fails", "inputs that every layer takes")

    def found_shape(self, output: str) -> Shape:
        """Return the shape that TensorRT told of an output while it took the last run.

        Raises:
            RequestError: the run gave none.
        """
        shape = self._allocators[output].shape
        if shape is None:
            raise self._refused(f"no shape of output {output}", "a run to its end")
        return tuple(shape)

    def _refused(self, found: str, needed: str) -> RequestError:
        text = messages.taken(self._engine.trt, "")
        return RequestError("run in TensorRT", f"{found}: {text}" if text else found, needed=needed)


def output_allocator(trt: Any) -> Any:
    """Return an object that TensorRT asks for an output's memory and tells the shape that it has found."""

    class OutputAllocator(trt.IOutputAllocator):  # type: ignore[misc]  # a class of the library that is loaded
        """``allocate`` is the present call's; an exception cannot pass through TensorRT, 0 tells it to stop."""

        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.allocate: Allocate | None = None
            self.shape: Shape | None = None

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            self.shape = None
            try:
                return self.allocate(tensor_name, int(size)) if self.allocate is not None else 0
            except (MissingDependencyError, MemoryError, RuntimeError):
                # TensorRT then fails the run, and the session says so.
                return 0

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return OutputAllocator()


def nbytes(tensor: Tensor, shape: Shape) -> int:
    """Return the bytes of a tensor of a shape."""
    dtype = tensors.storage(tensor.dtype)
    assert dtype is not None
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
