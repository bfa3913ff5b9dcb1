"""The execution context of the TensorRT double: the rules of a run, and the run itself, as a NumPy function."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.runtime.tensorrt.cuda_double import ALIGNMENT, at

Arrays = dict[str, np.ndarray]
Shape = tuple[int, ...]
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "BF16": np.uint16, "INT64": np.int64, "INT32": np.int32}


@dataclass
class Network:
    """What a plan of the double computes. ``shapes`` gives the outputs' shapes; None where only the run knows.

    Tensors are name -> (type, dimensions), -1 where free. Each profile has min, opt and max of every input.
    """

    inputs: Mapping[str, tuple[str, Shape]]
    outputs: Mapping[str, tuple[str, Shape]]
    profiles: Sequence[Mapping[str, tuple[Shape, Shape, Shape]]]
    compute: Callable[[Arrays], Arrays]
    shapes: Callable[[dict[str, Shape], Arrays], dict[str, Shape | None]]
    scratch: Sequence[int] = (1024,)
    hosts: frozenset[str] = frozenset()
    aliases: Mapping[str, str] = field(default_factory=dict)
    packed: frozenset[str] = frozenset()
    refittable: bool = False


class Context:
    def __init__(self, engine: Any) -> None:
        self.engine, self.trt, self.network = engine, engine.trt, engine.network
        self.profile: int | None = None
        self.memory: tuple[int, int] | None = None
        self.inputs: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}
        self.said: list[str] = []

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        assert stream in self.trt.cuda.streams
        self.profile = profile
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % ALIGNMENT == 0 and size >= self.network.scratch[self.profile or 0]
        self.said.append("set_device_memory")
        self.memory = memory, size

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        assert self.profile is not None and type(shape) is tuple
        self.said.append("set_input_shape")
        least, _, most = self.network.profiles[self.profile][name]
        if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
            self.trt.error(f"[run.cpp::shape::7] Error Code 3: the shape of {name} is outside the profile")
            return False
        self.inputs[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address, f"no address for {name}"
        assert name in self.network.hosts or address % ALIGNMENT == 0, f"{name} is not aligned"
        self.addresses[name] = address
        return True

    def infer_shapes(self) -> list[str]:
        self.said.append("infer_shapes")
        if "infer_shapes" in self.trt.failing:
            raise RuntimeError("shapes do not fit")
        missing = [name for name in self.network.inputs if name not in self.inputs]
        return missing + [name for name in self.network.hosts & set(self.network.inputs) if name not in self.addresses]

    def get_tensor_shape(self, name: str) -> Shape:
        found = self._output_shapes()[name]
        return tuple(found) if found is not None else (-1, *self.engine.tensors[name][1][1:])

    def get_max_output_size(self, name: str) -> int:
        assert self.profile is not None
        most = {each: shapes[2] for each, shapes in self.network.profiles[self.profile].items()}
        kind, _ = self.network.outputs[name]
        found = self.network.shapes(most, self._host_values())[name]
        return -1 if found is None else int(np.prod(found)) * np.dtype(NUMPY[kind]).itemsize

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        assert allocator.is_made
        self.allocators[name] = allocator
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self.said.append("execute_async_v3")
        self.trt.cuda._told("execute_async_v3")
        assert self.memory is not None and not self.infer_shapes()
        if "execute_async_v3" in self.trt.failing:
            self.trt.error("[engine.cpp::run::9] Error Code 1: a layer refuses")
            return False
        inputs, host_values = dict(self.inputs), self._host_values()
        scratch, places, shapes = self.memory[0], dict(self.addresses), self._output_shapes()
        if any(shape is None for shape in shapes.values()):
            # TensorRT itself must wait here: it asks for memory of a size that the values tell.
            self.trt.cuda._run(stream)
            results = self._computed(inputs, places, host_values, scratch)
            for name, shape in shapes.items():
                if shape is None:
                    array = np.ascontiguousarray(results[name])
                    places[name] = self.allocators[name].reallocate_output_async(
                        name, 0, array.nbytes, ALIGNMENT, stream
                    )
                    if not places[name]:
                        self.trt.error("Error Code 2: no memory for an output")
                        return False
                    self.allocators[name].notify_shape(name, array.shape)
        state = dict(self.inputs), dict(self.addresses), self.memory
        is_recorded = self.trt.cuda.is_capturing

        def run() -> None:
            # TensorRT's guide: changing a context leaves the graphs that were recorded from it undefined.
            assert not is_recorded or state == (self.inputs, self.addresses, self.memory), "a graph of another state"
            self._write(inputs, places, host_values, scratch)

        self.trt.cuda.put(stream, "run", run)
        return True

    def _write(self, inputs: dict[str, Shape], places: dict[str, int], hosts: Arrays, scratch: int) -> None:
        for name, array in self._computed(inputs, places, hosts, scratch).items():
            array = np.ascontiguousarray(array)
            device = self.trt.cuda.bytes_at
            target = (at if name in self.network.hosts else device)(places[name], array.nbytes)
            target[...] = array.reshape(-1).view(np.uint8)

    def _computed(self, inputs: dict[str, Shape], places: dict[str, int], hosts: Arrays, scratch: int) -> Arrays:
        self.trt.cuda.bytes_at(scratch, self.network.scratch[self.profile or 0]).fill(0x77)
        given = dict(hosts)
        for name, shape in inputs.items():
            if name not in self.network.hosts:
                dtype = np.dtype(NUMPY[self.network.inputs[name][0]])
                data = self.trt.cuda.bytes_at(places[name], int(np.prod(shape)) * dtype.itemsize)
                given[name] = data.view(dtype).reshape(shape).copy()
        return self.network.compute(given)

    def _host_values(self) -> Arrays:
        found = {}
        for name in self.network.hosts & set(self.network.inputs):
            dtype = np.dtype(NUMPY[self.network.inputs[name][0]])
            shape = self.inputs.get(name, self.network.inputs[name][1])
            found[name] = (
                at(self.addresses[name], int(np.prod(shape)) * dtype.itemsize).view(dtype).reshape(shape).copy()
            )
        return found

    def _output_shapes(self) -> dict[str, Shape | None]:
        return self.network.shapes(self.inputs, self._host_values())
