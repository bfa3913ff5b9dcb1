"""Read ONNX models that nobody vouches for, and write them whole or not at all.

Reading:   the file is checked before it is used (``onnx_guard``); weights in external data stay
           memory-mapped.
Writing:   everything goes to a temporary file beside the target and is moved into place (``onnx_write``).
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.parser
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs among the pins

from graphwright.errors import LoadError
from graphwright.frontends.onnx_guard import check_proto, tensors
from graphwright.frontends.onnx_weights import resolve_location
from graphwright.frontends.onnx_write import chunks, save_onnx
from graphwright.plugins.hars.bodies import attach_bodies

__all__ = ["load_onnx", "save_onnx", "sha256_of"]

# A protobuf message ends here; larger models keep their weights in external data.
MOST_BYTES = 2**31 - 1
# Before this version initializers had to be listed as inputs too, and could not be overridden.
_INITIALIZERS_ARE_INPUTS = 4
# Deeper text than this is no model that an exporter wrote, and the parser is recursive.
_DEEPEST_TEXT = 100
_CHUNK = 1 << 22

Source = str | Path | onnx.ModelProto | ir.Model


def load_onnx(source: Source) -> ir.Model:
    """A model from an .onnx file, from ONNX text (.onnxtxt) or from an object already in memory.

    Operators of foreign domains are let through: the runtime may have a kernel. Operators of ONNX's own
    domains must exist in the opset that the file names. An ``ir.Model`` comes back as it is, unchecked: the
    caller built it.

    Raises:
        LoadError: no such file, not a model, not valid, or weights that are missing or outside the model's
        folder.

    Example:
        >>> load_onnx("no.onnx")
        Traceback (most recent call last):
        graphwright.errors.LoadError: no.onnx: found no such file; needed an .onnx file; try: check the path
    """
    if isinstance(source, ir.Model):
        return source
    if isinstance(source, onnx.ModelProto):
        return _deserialize(source, source.graph.name or "model", None)
    path = Path(source)
    return _deserialize(_read(path), str(path), path.parent)


def sha256_of(source: Source) -> str:
    """SHA-256 of a model and all of its weights, as hex digits.

    For a file it is that of the file followed by its external data files in the order of their names:
    ``cat model.onnx model.onnx.data | sha256sum`` gives the same.

    Raises:
        LoadError: the file or its external data cannot be read.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (y) {y = Neg(x)}'
        >>> model = ir.from_onnx_text(text)
        >>> len(sha256_of(model))
        64
    """
    digest = hashlib.sha256()
    if isinstance(source, ir.Model):
        for piece in _pieces(source):
            digest.update(piece)
        return digest.hexdigest()
    if isinstance(source, onnx.ModelProto):
        digest.update(source.SerializeToString(deterministic=True))
        return digest.hexdigest()
    path = Path(source)
    proto = _read(path)
    locations = {entry.value for tensor in tensors(proto) for entry in tensor.external_data if entry.key == "location"}
    files = [path, *(resolve_location(location, str(path), path.parent) for location in sorted(locations))]
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _pieces(model: ir.Model) -> Iterator[bytes | memoryview]:
    """The structure of a model, then the bytes of each initializer."""
    copy = model.clone()
    weights = []
    for graph in copy.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                weights.append(value.const_value)
                value.const_value = _described(value.const_value, value.name or "")
    yield ir.to_proto(copy).SerializeToString(deterministic=True)
    for tensor in weights:
        yield from chunks(tensor)


def _described(tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
    """Type, shape and name of a tensor, without its content."""
    return ir.ExternalTensor("", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name)


def _read(path: Path) -> onnx.ModelProto:
    where, needed = str(path), "an .onnx file"
    if path.is_dir():
        raise LoadError(where, "a folder", needed=needed, hint="name the .onnx file inside it")
    if not path.exists():
        raise LoadError(where, "no such file", needed=needed, hint="check the path")
    if not path.is_file():
        raise LoadError(where, "no plain file", needed=needed)
    size = path.stat().st_size
    if size == 0:
        raise LoadError(where, "an empty file", needed=needed, hint="copy or export it again")
    if size > MOST_BYTES:
        raise LoadError(where, f"{size} bytes", needed="less than 2 GiB", hint="export with external data")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LoadError(where, error.strerror or str(error), needed="a file that can be read") from error
    return _parse_text(data, where) if path.suffix == ".onnxtxt" else _parse(data, where)


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        hint = "check that the file is complete and an .onnx file"
        raise LoadError(where, "bytes that are no ONNX model", needed="a ModelProto", hint=hint) from None
    return proto


def _parse_text(data: bytes, where: str) -> onnx.ModelProto:
    depth = deepest = 0
    for byte in data:
        depth += (byte in b"([{<") - (byte in b")]}>")
        deepest = max(deepest, depth)
    if deepest > _DEEPEST_TEXT:
        raise LoadError(where, f"brackets {deepest} deep", needed=f"at most {_DEEPEST_TEXT}")
    try:
        return onnx.parser.parse_model(data.decode("utf-8"))
    except (onnx.parser.ParseError, UnicodeDecodeError) as error:
        found = " ".join(str(error).split())[:200]
        raise LoadError(where, found, needed="a model as ONNX text", hint="see the ONNX text syntax") from None


def _deserialize(proto: onnx.ModelProto, where: str, folder: Path | None) -> ir.Model:
    check_proto(proto, where, folder)
    try:
        model = ir.serde.deserialize_model(proto)
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        found = f"a model that onnx_ir cannot read ({' '.join(str(error).split())[:200]})"
        raise LoadError(where, found, needed="a valid ONNX model", hint="export it again") from error
    if folder is not None:
        for root in (model.graph, *(function.graph for function in model.functions.values())):
            # An empty folder name would switch onnx_ir's own checks of the path off.
            ir.external_data.set_base_dir(root, folder.resolve())
    if model.ir_version < _INITIALIZERS_ARE_INPUTS:
        kept = [value for value in model.graph.inputs if not value.is_initializer()]
        model.graph.inputs.clear()
        model.graph.inputs.extend(kept)
    # A file from elsewhere may have HARS nodes alone, which only a runtime with kernels for them could run.
    attach_bodies(model)
    return model
