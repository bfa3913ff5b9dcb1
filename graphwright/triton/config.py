"""Triton's model configuration: what a ``config.pbtxt`` says of one model, and its text.

The text is written here, in a dozen lines: protobuf's own writer would need Triton's message types, which come with
tritonclient, and nobody who exports a model needs that package. The tests read every text back with those types.

Source: triton-inference-server, common/protobuf/model_config.proto; what its core and its backends check at load.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import onnx_ir as ir

from graphwright.errors import UsageError
from graphwright.runtime.bound import Shapes
from graphwright.runtime.signature import Port

Backend = Literal["onnxruntime", "tensorrt"]
Message = Mapping[str, Any]

_PLATFORMS: Mapping[Backend, str] = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
# By backend: the name of the model's file in the folder of a version.
MODEL_FILES: Mapping[Backend, str] = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}

_TYPES = {
    ir.DataType.BOOL: "TYPE_BOOL",
    ir.DataType.UINT8: "TYPE_UINT8",
    ir.DataType.UINT16: "TYPE_UINT16",
    ir.DataType.UINT32: "TYPE_UINT32",
    ir.DataType.UINT64: "TYPE_UINT64",
    ir.DataType.INT8: "TYPE_INT8",
    ir.DataType.INT16: "TYPE_INT16",
    ir.DataType.INT32: "TYPE_INT32",
    ir.DataType.INT64: "TYPE_INT64",
    ir.DataType.FLOAT16: "TYPE_FP16",
    ir.DataType.FLOAT: "TYPE_FP32",
    ir.DataType.DOUBLE: "TYPE_FP64",
    ir.DataType.STRING: "TYPE_STRING",
    ir.DataType.BFLOAT16: "TYPE_BF16",
}
# The ONNX Runtime backend has no case for bfloat16; TensorRT has no tensors of the other types.
_TAKEN: Mapping[Backend, frozenset[ir.DataType]] = {
    "onnxruntime": frozenset(_TYPES) - {ir.DataType.BFLOAT16},
    "tensorrt": frozenset(
        {
            ir.DataType.BOOL,
            ir.DataType.UINT8,
            ir.DataType.INT8,
            ir.DataType.INT32,
            ir.DataType.INT64,
            ir.DataType.FLOAT16,
            ir.DataType.FLOAT,
            ir.DataType.BFLOAT16,
        }
    ),
}


class Word(str):
    """A name of an enumeration, which the text has without quotes."""


@dataclass(frozen=True)
class Sample:
    """Shapes to run once, or to capture, before the first request. ``shapes`` are without the batch."""

    name: str
    batch: int
    shapes: Shapes


@dataclass(frozen=True)
class ModelConfig:
    """What Triton is told of a model. ``max_batch`` 0: no batching, and ``dims`` are whole shapes.

    Example:
        >>> x = Port("x", ir.DataType.FLOAT, ("batch", 3))
        >>> print(ModelConfig("m", "onnxruntime", (x,), (Port("y", ir.DataType.INT64, ("batch",)),), 8).text())
        name: "m"
        backend: "onnxruntime"
        platform: "onnxruntime_onnx"
        default_model_filename: "model.onnx"
        max_batch_size: 8
        input {
          name: "x"
          data_type: TYPE_FP32
          dims: [3]
        }
        output {
          name: "y"
          data_type: TYPE_INT64
          dims: [1]
          reshape {}
        }
        dynamic_batching {}
        instance_group {
          count: 1
          kind: KIND_CPU
        }
        <BLANKLINE>
    """

    name: str
    backend: Backend
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    max_batch: int
    preferred: tuple[int, ...] = ()
    queue_delay: int = 0
    device: Literal["cpu", "gpu"] = "cpu"
    instances: int = 1
    gpus: tuple[int, ...] = ()
    profiles: tuple[int, ...] = ()
    warmup: tuple[Sample, ...] = ()
    cuda_graphs: tuple[Sample, ...] = ()
    libraries: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)

    def message(self) -> Message:
        """Return the fields as the protobuf has them.

        Raises:
            UsageError: an input or output that Triton or the backend has no way to write down.
        """
        found: dict[str, Any] = {
            "name": self.name,
            "backend": self.backend,
            "platform": _PLATFORMS[self.backend],
            "default_model_filename": MODEL_FILES[self.backend],
            "max_batch_size": self.max_batch,
            "input": [self._tensor("input", port) for port in self.inputs],
            "output": [self._tensor("output", port) for port in self.outputs],
        }
        if self.max_batch > 1:
            found["dynamic_batching"] = self._batching()
        found["instance_group"] = self._group()
        if self.cuda_graphs:
            found["optimization"] = {"cuda": {"graphs": True, "graph_spec": [_graph(one) for one in self.cuda_graphs]}}
        if self.libraries:
            found["model_operations"] = {"op_library_filename": list(self.libraries)}
        found["parameters"] = [{"key": key, "value": {"string_value": text}} for key, text in self.parameters.items()]
        found["model_warmup"] = [self._warmup(one) for one in self.warmup]
        return found

    def text(self, notes: Sequence[str] = ()) -> str:
        """Return the file's text, with notes as comments above it.

        Raises:
            UsageError: as :meth:`message` says.
        """
        comments = [f"# {_escaped(note)}" for note in notes]
        return "\n".join([*comments, *_lines(self.message(), "")]) + "\n"

    def _tensor(self, kind: str, port: Port) -> Message:
        self._check(kind, port)
        assert port.dtype is not None and port.dims is not None
        sizes = [dim if isinstance(dim, int) else -1 for dim in port.dims[bool(self.max_batch) :]]
        # A shape may not be empty: a number for each row travels as [batch, 1] and is reshaped to [batch].
        shape: dict[str, Any] = {"dims": sizes or [1]}
        if self.max_batch and not sizes:
            shape["reshape"] = {}
        return {"name": port.name, "data_type": Word(_TYPES[port.dtype]), **shape}

    def _check(self, kind: str, port: Port) -> None:
        where = f"{kind} {port.name or 'without a name'}"
        if not port.name:
            raise UsageError(where, "it", needed="a name", hint="name it in the export")
        if port.dtype not in _TAKEN[self.backend]:
            found = f"{port.dtype.name.lower()}" if port.dtype is not None else "no tensor"
            needed = ", ".join(sorted(dtype.name.lower() for dtype in _TAKEN[self.backend]))
            hint = "cast it inside the model to a type that Triton's backend takes"
            raise UsageError(where, found, needed=f"one of {needed} for the backend {self.backend}", hint=hint)
        if port.dims is None:
            raise UsageError(where, "an unknown rank", needed="a shape", hint="run the pass infer-shapes")
        if 0 in port.dims:
            raise UsageError(where, f"a size of zero: {port}", needed="sizes of at least one")

    def _batching(self) -> Message:
        found: dict[str, Any] = {"preferred_batch_size": list(self.preferred)}
        if self.queue_delay:
            found["max_queue_delay_microseconds"] = self.queue_delay
        return found

    def _group(self) -> Message:
        found: dict[str, Any] = {"count": self.instances, "kind": Word(f"KIND_{self.device.upper()}")}
        return found | {"gpus": list(self.gpus), "profile": [str(number) for number in self.profiles]}

    def _warmup(self, sample: Sample) -> Message:
        types = {port.name: port.dtype for port in self.inputs}
        # Zeros are indices that every table has, where random integers would be none.
        inputs = [
            {
                "key": name,
                "value": {"data_type": Word(_TYPES[dtype]), "dims": list(shape) or [1], "zero_data": True},
            }
            for name, shape in sample.shapes.items()
            if (dtype := types.get(name)) is not None
        ]
        return {"name": sample.name, "batch_size": sample.batch, "inputs": inputs}


def _graph(sample: Sample) -> Message:
    shapes = [{"key": name, "value": {"dim": list(shape) or [1]}} for name, shape in sample.shapes.items()]
    return {"batch_size": sample.batch, "input": shapes}


def _lines(message: Message, indent: str) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, list) and value and not isinstance(value[0], Mapping):
            yield f"{indent}{name}: [{', '.join(map(_scalar, value))}]"
            continue
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, Mapping):
                yield f"{indent}{name}: {_scalar(one)}"
            elif inner := list(_lines(one, indent + "  ")):
                yield from (f"{indent}{name} {{", *inner, f"{indent}}}")
            else:
                yield f"{indent}{name} {{}}"


def _scalar(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, Word | int) else f'"{_escaped(value)}"'


def _escaped(text: str) -> str:
    """Text as a string of the format holds it: what is no printable ASCII becomes its bytes in octal."""
    plain = (chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\' else f"\\{byte:03o}" for byte in text.encode())
    return "".join(plain)
