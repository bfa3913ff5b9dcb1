"""Where the data of a tensor may lie, and how much of it there must be, checked before anything is mapped.

onnx_ir checks the folder again when it maps a file; sizes and offsets it takes on trust.
"""

import math
import os
from pathlib import Path, PureWindowsPath

import onnx
import onnx_ir as ir

from graphwright.errors import LoadError

# What the ONNX specification lets external data say; a misspelt offset must not count as none.
_KEYS = {"location", "offset", "length", "checksum", "basepath"}


def check_tensor(tensor: onnx.TensorProto, where: str, folder: Path | None) -> None:
    """Refuse a tensor whose data do not fit its shape, or do not lie inside ``folder`` (None: it has none).

    Raises:
        LoadError: the first thing found wrong.
    """
    place = f"{where}: tensor {tensor.name!r}"
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (TypeError, ValueError):
        bits = None
    if tensor.data_type == onnx.TensorProto.STRING and tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    if bits is None or any(dim < 0 for dim in tensor.dims):
        found = f"data type {tensor.data_type} and shape {list(tensor.dims)}"
        raise LoadError(place, found, needed="a number type and no negative size")
    size = math.ceil(math.prod(tensor.dims) * bits / 8)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, size, place, folder)
    elif tensor.HasField("raw_data") and len(tensor.raw_data) != size:
        needed = f"{size} for shape {list(tensor.dims)}"
        raise LoadError(place, f"{len(tensor.raw_data)} bytes of data", needed=needed)


def _check_external(tensor: onnx.TensorProto, size: int, place: str, folder: Path | None) -> None:
    fields = {entry.key: entry.value for entry in tensor.external_data}
    location = fields.get("location", "")
    if not fields.keys() <= _KEYS:
        raise LoadError(place, f"external data with {sorted(fields)}", needed=f"keys among {sorted(_KEYS)}")
    if folder is None:
        hint = "pass the path of the file, or load the weights first"
        raise LoadError(place, f"external data in {location!r}", needed="a model with a folder", hint=hint)
    try:
        offset, length = int(fields.get("offset", 0)), int(fields.get("length", size))
    except ValueError:
        raise LoadError(place, f"external data with {fields}", needed="offset and length as numbers") from None
    if offset < 0 or length != size:
        found = f"external data with offset {offset} and length {length}"
        raise LoadError(place, found, needed=f"offset 0 or more, length {size} for shape {list(tensor.dims)}")
    there = resolve_location(location, place, folder).stat().st_size
    if offset + size > there:
        needed = f"{offset + size} for offset {offset} and length {size}"
        hint = "copy the file again, it may be cut short"
        raise LoadError(place, f"{there} bytes in {location!r}", needed=needed, hint=hint)


def resolve_location(location: str, place: str, folder: Path) -> Path:
    """The path of an external data file inside ``folder``; nothing outside it is opened or even looked at.

    Raises:
        LoadError: the location leaves the folder, is a link out of it, or is no plain file.
    """
    windows = PureWindowsPath(location)  # splits at both kinds of slash
    leaves = bool(windows.anchor) or ".." in windows.parts or "\0" in location or not windows.parts
    path = folder / location
    real = None if leaves else Path(os.path.realpath(path))
    if real is None or not real.is_relative_to(os.path.realpath(folder)):
        hint = "copy the folder with its links resolved (cp -rL), or do not trust the file"
        found = f"external data at {location!r}, which leaves the model's folder"
        raise LoadError(place, found, needed="a file inside the folder", hint=hint)
    if not real.is_file():
        hint = "put the weights beside the model"
        raise LoadError(place, f"no file {location!r}", needed=f"the weights in {folder}", hint=hint)
    # onnx_ir will not map such a file: a hard link reaches outside the folder as a symbolic one does.
    if real.stat().st_nlink > 1:
        hint = f"copy it: cp {location} copy && mv copy {location}"
        raise LoadError(place, f"a file {location!r} with several hard links", needed="a file of its own", hint=hint)
    return real
