"""A double of Triton Inference Server: its message types are the published ones, its checks and its batcher are ours.

It reads a model's folder as the server does: config.pbtxt through the protobuf that tritonclient publishes, the file in
the newest version's folder with a plain ONNX Runtime session. Its checks follow what the server's core and its backends
refuse at load. Nothing here has run in the server itself.
"""

import functools
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format

ORT_TYPES = {
    "tensor(float)": "TYPE_FP32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
    **{f"tensor({name})": f"TYPE_{name.upper()}" for name in ("bool", "int8", "int32", "int64", "uint8", "uint64")},
}


@functools.cache
def published() -> Any:
    """Triton's message types. Loaded by its path: importing ``tritonclient.grpc`` would ask for grpc as well."""
    try:
        files = importlib.metadata.files("tritonclient") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("tritonclient, which has Triton's published protobuf, is not installed")
    path = next(each for each in files if each.as_posix().endswith("tritonclient/grpc/model_config_pb2.py"))
    spec = importlib.util.spec_from_file_location("model_config_pb2", Path(str(path.locate())))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_config(text: str) -> Any:
    """The configuration; text with a field or a word that Triton does not know is an error."""
    return text_format.Parse(text, published().ModelConfig())


def type_name(tensor: Any) -> str:
    return str(published().DataType.Name(tensor.data_type))


def refusals(config: Any) -> list[str]:
    """What the server's core refuses of a configuration by itself."""
    found = []
    if (config.backend, config.platform) not in {("onnxruntime", "onnxruntime_onnx"), ("tensorrt", "tensorrt_plan")}:
        found.append("platform")
    for tensor in (*config.input, *config.output):
        if not tensor.name or type_name(tensor) == "TYPE_INVALID" or not tensor.dims:
            found.append(f"{tensor.name}: name, type or dims")
        if any(dim < 1 and dim != -1 for dim in tensor.dims):
            found.append(f"{tensor.name}: dims {list(tensor.dims)}")
        if tensor.HasField("reshape") and not tensor.reshape.shape and not config.max_batch_size:
            found.append(f"{tensor.name}: an empty reshape without batching")
        if tensor.HasField("reshape") and not tensor.reshape.shape and list(tensor.dims) != [1]:
            found.append(f"{tensor.name}: an empty reshape of {list(tensor.dims)}")
    if any(not 0 < size <= config.max_batch_size for size in config.dynamic_batching.preferred_batch_size):
        found.append("preferred batch size")
    if config.HasField("dynamic_batching") and not config.max_batch_size:
        found.append("dynamic batching without a batch")
    return found + _group_refusals(config) + _warmup_refusals(config)


def _group_refusals(config: Any) -> list[str]:
    found = []
    for group in config.instance_group:
        kind = published().ModelInstanceGroup.Kind.Name(group.kind)
        if group.count < 1 or kind == "KIND_AUTO" or (kind == "KIND_CPU" and group.gpus):
            found.append(f"instance group {kind}")
        if group.profile and config.backend != "tensorrt":
            found.append("a profile without TensorRT")
    return found if config.instance_group else ["no instance group"]


def _warmup_refusals(config: Any) -> list[str]:
    found = []
    inputs = {tensor.name: tensor for tensor in config.input}
    for sample in config.model_warmup:
        if not 1 <= sample.batch_size <= max(1, config.max_batch_size) or sample.inputs.keys() != inputs.keys():
            found.append(f"warm-up {sample.name}")
        for name, given in sample.inputs.items():
            wanted = inputs[name]
            fits = [dim == size or dim == -1 for dim, size in zip(wanted.dims, given.dims, strict=True)]
            if given.data_type != wanted.data_type or -1 in given.dims or not all(fits):
                found.append(f"warm-up {sample.name}: {name}")
    return found


class Server:
    """One model of a repository that the server sees under ``seen_as``."""

    def __init__(self, repository: Path, name: str, seen_as: str = "") -> None:
        folder = repository / name
        self.config = read_config((folder / "config.pbtxt").read_text())
        assert self.config.name == name
        assert refusals(self.config) == []
        version = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
        options = ort.SessionOptions()
        for library in self.config.model_operations.op_library_filename:
            assert library.startswith(f"{seen_as}/"), library
            options.register_custom_ops_library(str(repository / library.removeprefix(f"{seen_as}/")))
        file = folder / str(version) / self.config.default_model_filename
        self.session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._compare(self.config.input, self.session.get_inputs(), exactly=False)
        self._compare(self.config.output, self.session.get_outputs(), exactly=True)
        for sample in self.config.model_warmup:
            self._warm_up(sample)

    def infer(self, requests: Sequence[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        """Join requests as the batcher does, run them once, and give each its rows."""
        config, rows = self.config, [len(next(iter(request.values()))) for request in requests]
        assert sum(rows) <= config.max_batch_size
        joined = {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}
        for tensor in config.input:
            if tensor.HasField("reshape"):
                joined[tensor.name] = joined[tensor.name].reshape(-1, *tensor.reshape.shape)
        outputs = dict(zip([one.name for one in config.output], self.session.run(None, joined), strict=True))
        ends = np.cumsum(rows)[:-1]
        parts = {name: np.split(array, ends) for name, array in outputs.items()}
        return [{name: parts[name][index] for name in parts} for index in range(len(requests))]

    def _compare(self, tensors: Any, args: list[Any], *, exactly: bool) -> None:
        """The ONNX Runtime backend's comparison of the configuration with the session."""
        declared = {arg.name: arg for arg in args}
        assert [tensor.name for tensor in tensors] == list(declared)
        for tensor in tensors:
            arg = declared[tensor.name]
            assert type_name(tensor) == ORT_TYPES[arg.type]
            dims = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
            full = [-1, *dims] if self.config.max_batch_size else dims
            model = [dim if isinstance(dim, int) else -1 for dim in arg.shape]
            if not model:
                assert full == [1]
                continue
            assert len(full) == len(model), tensor.name
            assert all(a == b or (b == -1 and not exactly) for a, b in zip(full, model, strict=True)), tensor.name
            assert not self.config.max_batch_size or model[0] == -1

    def _warm_up(self, sample: Any) -> None:
        batch = [sample.batch_size] if self.config.max_batch_size else []
        inputs = {}
        for arg in self.session.get_inputs():
            shape = [*batch, *sample.inputs[arg.name].dims][: len(arg.shape)]
            dtype = np.dtype({"float": "float32", "double": "float64"}.get(arg.type[7:-1], arg.type[7:-1]))
            inputs[arg.name] = np.zeros(shape, dtype)
        self.session.run(None, inputs)
