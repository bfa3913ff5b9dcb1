"""Write a model and its weights: aside first, then moved into place, or not at all.

Each weight is read and written once, in the order of the graph, so that memory holds one at a time: mapped
files are written from their mapping and let go, lazy tensors are evaluated, written and dropped.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]  # no stubs among the pins

from graphwright.engine.weights import let_pages_go
from graphwright.errors import OutputError

# Smaller tensors stay inside the .onnx file: shapes and axes are read by shape inference.
EXTERNAL_THRESHOLD = 1024
# Offsets are multiples of this, so that a mapped tensor can be read by vector instructions.
ALIGNMENT = 64
_CHUNK = 1 << 24


def save_onnx(model: ir.Model, path: str | Path, *, external_threshold: int | None = EXTERNAL_THRESHOLD) -> None:
    """Write ``model`` to ``path``, initializers of ``external_threshold`` bytes or more to ``<path>.data``.

    None keeps every weight inside the file (2 GiB at most). The model is not changed, and stays right when
    ``path`` is the file that it was loaded from.

    Raises:
        OutputError: the folder is missing, read-only or full, or the file would exceed 2 GiB; nothing is left
        behind.

    Example:
        >>> import tempfile
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (y) {y = Relu(x)}'
        >>> model = ir.from_onnx_text(text)
        >>> folder = tempfile.mkdtemp()
        >>> save_onnx(model, f"{folder}/relu.onnx")
        >>> os.listdir(folder)
        ['relu.onnx']
    """
    target = Path(path)
    beside = target.with_name(target.name + ".data")
    if target.is_dir() or beside.is_dir():
        raise OutputError(str(target), "a folder of that name", needed="a file name", hint="choose another name")
    # The clone shares the tensors; its values are pointed into the new file while the caller's stay as they
    # are.
    copy = model.clone()
    try:
        with _aside(target) as new_model, _aside(beside) as new_data:
            with new_data.open("wb") as file:
                stored = _store_weights(copy, file, beside.name, external_threshold)
            new_model.write_bytes(_serialize(copy, target))
            if stored:
                _keep_mapped(model, beside)
                os.replace(new_data, beside)
            os.replace(new_model, target)
    except OSError as error:
        hint = "choose a folder that exists, may be written and has room for the weights"
        raise OutputError(
            str(target), error.strerror or str(error), needed="a file written whole", hint=hint
        ) from error


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """An empty temporary file beside ``target``, gone at the end unless it was moved."""
    path = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    path.touch(exist_ok=False)
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            path.unlink()


def _store_weights(copy: ir.Model, file: BinaryIO, location: str, threshold: int | None) -> bool:
    """Write the large initializers of ``copy`` into ``file`` and point them there; were there any?"""
    written: dict[int, tuple[int, ir.TensorProtocol]] = {}
    for graph in copy.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                continue
            if threshold is None or tensor.nbytes < max(threshold, 1) or tensor.dtype == ir.DataType.STRING:
                value.const_value = _inline(tensor)
                continue
            if id(tensor) not in written:
                # The tensor is kept beside its offset, so that its id stays its own.
                written[id(tensor)] = (_append(tensor, file), tensor)
            offset, length = written[id(tensor)][0], tensor.nbytes
            value.const_value = ir.ExternalTensor(
                location, offset, length, tensor.dtype, shape=_static(tensor), name=value.name or ""
            )
    _inline_attributes(copy)
    return bool(written)


def _static(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def _append(tensor: ir.TensorProtocol, file: BinaryIO) -> int:
    file.write(bytes(-file.tell() % ALIGNMENT))
    offset = file.tell()
    for chunk in chunks(tensor):
        file.write(chunk)
    if file.tell() - offset != tensor.nbytes:
        raise OSError(f"tensor {tensor.name!r} gave {file.tell() - offset} bytes, {tensor.nbytes} were due")
    return offset


def chunks(tensor: ir.TensorProtocol) -> Iterator[bytes | memoryview]:
    """The bytes of a tensor, each piece valid until the next; what was mapped for it is let go at the end.

    A mapped tensor is read from its mapping, never by path: the file there may have been replaced since.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        yield tensor.tobytes()
        return
    was_mapped = tensor.raw is not None
    if not was_mapped:
        tensor.numpy()
    start, end = tensor.offset or 0, (tensor.offset or 0) + tensor.nbytes
    with memoryview(tensor.raw or b"") as mapping:
        for begin in range(start, end, _CHUNK):
            with mapping[begin : min(begin + _CHUNK, end)] as piece:
                yield piece
    if was_mapped:
        let_pages_go(tensor)
        return
    # Another thread may hold the array by now; then the mapping goes with it.
    with suppress(BufferError):
        tensor.release()


def _keep_mapped(model: ir.Model, target: Path) -> None:
    """Map what the caller's tensors read from ``target``: a mapping outlives the replacement of its file."""
    if not target.exists():
        return
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and os.path.exists(tensor.path) and target.samefile(tensor.path):
                tensor.numpy()


def _inline(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor itself, or its content when it lies in a file that the new model does not name."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, shape=_static(tensor), name=tensor.name)


def _inline_attributes(copy: ir.Model) -> None:
    roots: list[ir.Graph | ir.Function] = [copy.graph, *copy.functions.values()]
    for node in (node for root in roots for node in root.all_nodes()):
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                node.attributes[name] = ir.AttrTensor(name, _inline(attribute.value))


def _serialize(copy: ir.Model, target: Path) -> bytes:
    try:
        data: bytes = ir.to_proto(copy).SerializeToString()
    except (EncodeError, ValueError) as error:
        hint = "lower external_threshold, so that the weights go to a file of their own"
        raise OutputError(str(target), "more than 2 GiB to put into one file", needed="less", hint=hint) from error
    return data
