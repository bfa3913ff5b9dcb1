"""An engine's runs on the device: where inputs and outputs lie, in which order the work goes, what comes back.

Work goes to a stream of the session's own, for torch's default stream can neither be recorded nor left without extra
waiting in TensorRT. Events keep the order with torch's current stream, so a caller sees no difference, and memory
that he drops is safe. With arrays in main memory a call returns when the results are there.
"""

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphwright.errors import UsageError
from graphwright.runtime import tensors
from graphwright.runtime.memory import Pool
from graphwright.runtime.tensorrt.device_buffers import DeviceBuffers
from graphwright.runtime.tensorrt.engine import Engine, Tensor
from graphwright.runtime.tensorrt.execution import Execution, Shape, nbytes
from graphwright.runtime.tensorrt.graphs import Graphs
from graphwright.runtime.tensorrt.scratch import SharedScratch

# What TensorRT asks of every address on the device.
_ALIGNMENT = 256


class Runner:
    """Runs an engine, one request after another; several threads may call it. It owns all but the scratch."""

    def __init__(self, engine: Engine, cuda: Any, scratch: SharedScratch, *, with_graphs: bool) -> None:
        count = len(engine.profile.profiles)
        sizes = (int(engine.native.get_device_memory_size_for_profile_v2(index)) for index in range(count))
        # The largest first: where there is no room for it, nothing was made yet.
        scratch.reserve(max(sizes, default=0))
        self.graphs = Graphs(cuda) if with_graphs else None
        self._engine = engine
        self._cuda = cuda
        self._scratch = scratch
        self._lock = threading.Lock()
        self._stream = cuda.new_stream()
        self._ready, self._done = cuda.new_event(), cuda.new_event()
        self._buffers = DeviceBuffers(cuda, self._stream)
        self._executions: dict[int, Execution] = {}
        self._pools: dict[tuple[int, str], Pool] = {}
        self._recorded_with = 0, 0
        self._is_open = True

    def run(self, profile: int, request: Mapping[str, Any]) -> dict[str, Any]:
        """Run a checked request under one of the engine's profiles. A tensor on the device gives such tensors back.

        Raises:
            RequestError: TensorRT refuses it.
            UsageError: the session is closed.
            MissingDependencyError: the device lacks memory, or CUDA reports an error.
        """
        device = tensors.cuda_device(request.values())
        with self._lock, self._cuda.current():
            if not self._is_open:
                raise UsageError(self._engine.where, "a closed session", needed="an open one")
            call = _Call(self._engine, self._buffers, self._cuda, self._stream)
            try:
                if device is None:
                    return self._run_on_host(call, profile, request)
                return self._run_on_device(call, profile, request, device)
            except BaseException:
                # The stream may still read what the caller is about to drop.
                self._cuda.synchronize(self._stream)
                raise

    def close(self) -> None:
        """Wait for the last run and free everything; a second call does nothing."""
        with self._lock, self._cuda.current():
            if not self._is_open:
                return
            self._is_open = False
            self._cuda.synchronize(self._stream)
            if self.graphs is not None:
                self.graphs.clear(self._stream)
            self._executions.clear()
            self._engine.close()
            self._buffers.close()
            self._cuda.free_event(self._ready)
            self._cuda.free_event(self._done)
            self._cuda.free_stream(self._stream)

    def _run_on_host(self, call: "_Call", profile: int, request: Mapping[str, Any]) -> dict[str, Any]:
        execution, shapes = self._prepared(profile, request)
        call.place_inputs(request, is_moved=True)
        results: dict[str, np.ndarray] = {}
        for each in self._engine.outputs:
            shape = shapes[each.name]
            if shape is not None:
                results[each.name] = self._pool(profile, each, execution).lend(shape)[0]
                call.place_output(each, shape, execution.most_bytes(each.name), results[each.name])
        open_ended = [name for name, shape in shapes.items() if shape is None]
        execution.allocate_with(open_ended, self._buffers.address)
        self._enqueue(call, execution, profile, open_ended)
        for each in self._engine.outputs:
            if each.name in open_ended:
                # This one's memory is asked for, so it is no buffer of the call.
                shape = execution.found_shape(each.name)
                results[each.name] = np.empty(shape, tensors.storage(each.dtype))
                call.addresses[each.name] = self._buffers.address(each.name, nbytes(each, shape))
            if not each.is_on_host:
                self._cuda.copy_out(results[each.name], call.addresses[each.name], self._stream)
        self._cuda.synchronize(self._stream)
        as_torch = any(map(tensors.is_torch, request.values()))
        return {
            each.name: tensors.from_storage(results[each.name], each.dtype, as_torch=as_torch)
            for each in self._engine.outputs
        }

    def _run_on_device(self, call: "_Call", profile: int, request: Mapping[str, Any], device: Any) -> dict[str, Any]:
        torch = sys.modules["torch"]
        caller = int(torch.cuda.current_stream(device).cuda_stream)
        # Before the event below: what is not contiguous is copied on the caller's stream.
        request = {name: _contiguous(value) for name, value in request.items()}
        execution, shapes = self._prepared(profile, request)
        results = self._new_tensors(shapes, device)
        # After all that the caller has put on his stream, the last use of the new tensors' memory included.
        self._cuda.record(self._ready, caller)
        self._cuda.wait(self._stream, self._ready)
        is_moved = self.graphs is not None and not self.graphs.failure
        call.place_inputs(request, is_moved=is_moved)
        for each in self._engine.outputs:
            if each.name in results:
                at_most = execution.most_bytes(each.name)
                results[each.name] = call.bind(each, results[each.name], at_most, is_moved=is_moved)
        open_ended = [name for name, shape in shapes.items() if shape is None]

        def allocate(name: str, size: int) -> int:
            results[name] = torch.empty(max(size, 1), dtype=torch.uint8, device=device)
            # What used this memory last may have been put on the caller's stream by another thread since.
            self._cuda.record(self._ready, caller)
            self._cuda.wait(self._stream, self._ready)
            return int(results[name].data_ptr())

        execution.allocate_with(open_ended, allocate)
        self._enqueue(call, execution, profile, open_ended)
        for name, size in call.copied.items():
            self._cuda.copy(results[name].data_ptr(), call.addresses[name], size, self._stream)
        for each in self._engine.outputs:
            if each.name in open_ended:
                results[each.name] = _shaped(results[each.name], each, execution.found_shape(each.name))
        self._cuda.record(self._done, self._stream)
        self._cuda.wait(caller, self._done)
        if call.arrays or any(each.is_on_host for each in self._engine.tensors):
            # Main memory that the stream still reads or writes must not be anyone else's yet.
            self._cuda.synchronize(self._stream)
        return {each.name: results[each.name] for each in self._engine.outputs}

    def _new_tensors(self, shapes: Mapping[str, Shape | None], device: Any) -> dict[str, Any]:
        """Make tensors for the outputs whose sizes are known."""
        torch = sys.modules["torch"]
        found: dict[str, Any] = {}
        for each in self._engine.outputs:
            shape = shapes[each.name]
            if shape is not None:
                place = "cpu" if each.is_on_host else device
                found[each.name] = torch.empty(shape, dtype=tensors.torch_dtype(each.dtype), device=place)
        return found

    def _writes_on_host(self) -> bool:
        return any(each.is_on_host for each in self._engine.outputs)

    def _prepared(self, profile: int, request: Mapping[str, Any]) -> tuple[Execution, dict[str, Shape | None]]:
        execution = self._executions.get(profile)
        if execution is None:
            execution = self._executions[profile] = Execution(self._engine, profile, self._stream)
        shapes = {each.name: tuple(request[each.name].shape) for each in self._engine.inputs}
        hosts = {each.name: _on_host(each, request[each.name]) for each in self._engine.inputs if each.is_on_host}
        return execution, execution.set_inputs(shapes, hosts)

    def _enqueue(self, call: "_Call", execution: Execution, profile: int, open_ended: Sequence[str]) -> None:
        with self._scratch.lent(execution.scratch_size, self._stream) as scratch:
            if self.graphs is not None and (open_ended or self._writes_on_host()):
                self.graphs.refuse(f"{', '.join(open_ended) or 'an output'} is known only after the run")
            if self.graphs is None or self.graphs.failure:
                execution.enqueue(call.addresses, scratch, self._stream)
                return
            if self._recorded_with != (scratch, self._buffers.moves):
                # The graphs hold addresses that are nobody's now.
                self.graphs.clear(self._stream)
                self._recorded_with = scratch, self._buffers.moves
            # What a graph keeps must not hold the call, and with it the caller's tensors.
            addresses, stream = call.addresses, self._stream
            key = (profile, execution.inputs, tuple(addresses.items()))

            def another() -> Callable[[], None]:
                own = execution.another()
                return lambda: own.enqueue(addresses, scratch, stream)

            self.graphs.run(key, stream, lambda: execution.enqueue(addresses, scratch, stream), another)

    def _pool(self, profile: int, output: Tensor, execution: Execution) -> Pool:
        key = profile, output.name
        if key not in self._pools:
            dtype = tensors.storage(output.dtype)
            assert dtype is not None
            self._pools[key] = Pool(dtype, largest=execution.most_bytes(output.name) // dtype.itemsize or -1)
        return self._pools[key]


class _Call:
    """Where the inputs and outputs of one call lie. ``copied`` are the outputs that must be copied to their tensors."""

    def __init__(self, engine: Engine, buffers: DeviceBuffers, cuda: Any, stream: int) -> None:
        self.addresses: dict[str, int] = {}
        self.copied: dict[str, int] = {}
        # Both are held until the call is over, for the device knows addresses only.
        self.arrays: list[np.ndarray] = []
        self.tensors: dict[str, Any] = {}
        self._engine = engine
        self._buffers = buffers
        self._cuda = cuda
        self._stream = stream

    def place_inputs(self, request: Mapping[str, Any], *, is_moved: bool) -> None:
        """Give every input an address: its own where it lies on the device already, unless it has to move."""
        for each in self._engine.inputs:
            if each.is_on_host:
                continue
            value = request[each.name]
            size = nbytes(each, tuple(value.shape))
            if tensors.cuda_device((value,)) is None:
                array = tensors.to_storage(each.name, value, each.dtype)
                self.arrays.append(array)
                self.addresses[each.name] = self._buffer(each, size)
                self._cuda.copy_in(self.addresses[each.name], array, self._stream)
                continue
            self.tensors[each.name] = value
            address = int(value.data_ptr())
            if not is_moved and _is_usable(address):
                self.addresses[each.name] = address
                continue
            self.addresses[each.name] = self._buffer(each, size)
            self._cuda.copy(self.addresses[each.name], address, size, self._stream)

    def place_output(self, output: Tensor, shape: Shape, at_most: int, array: np.ndarray) -> None:
        """Give an output an address: of its array, if TensorRT writes it on the host, else of a buffer."""
        if output.is_on_host:
            self.addresses[output.name] = int(array.ctypes.data)
        elif output.alias is not None:
            self.addresses[output.name] = self.addresses[output.alias]
        else:
            self.addresses[output.name] = self._buffers.address(output.name, nbytes(output, shape), at_most)

    def bind(self, output: Tensor, tensor: Any, at_most: int, *, is_moved: bool) -> Any:
        """Give an output its tensor's address, and return the tensor; one that is an input is that input's."""
        size, address = nbytes(output, tuple(tensor.shape)), int(tensor.data_ptr())
        if output.alias is not None:
            self.addresses[output.name] = self.addresses[output.alias]
            same = self.tensors.get(output.alias)
            if same is not None and self.addresses[output.alias] == int(same.data_ptr()):
                return same
            self.copied[output.name] = size
        elif output.is_on_host or (not is_moved and _is_usable(address)):
            self.addresses[output.name] = address
        else:
            self.addresses[output.name] = self._buffers.address(output.name, size, at_most)
            self.copied[output.name] = size
        return tensor

    def _buffer(self, each: Tensor, size: int) -> int:
        return self._buffers.address(each.name, size, nbytes(each, self._engine.profile.max_shapes()[each.name]))


def _contiguous(value: Any) -> Any:
    return value.detach().contiguous() if tensors.is_torch(value) else value


def _shaped(memory: Any, output: Tensor, shape: Shape) -> Any:
    """Return the front of a tensor of bytes as a tensor of the output's type and shape."""
    return memory[: nbytes(output, shape)].view(tensors.torch_dtype(output.dtype)).reshape(shape)


def _is_usable(address: int) -> bool:
    """Whether TensorRT takes the address: that of an empty tensor is 0."""
    return bool(address) and address % _ALIGNMENT == 0


def _on_host(tensor: Tensor, value: Any) -> np.ndarray:
    return tensors.to_storage(tensor.name, value.cpu() if tensors.is_torch(value) else value, tensor.dtype)
