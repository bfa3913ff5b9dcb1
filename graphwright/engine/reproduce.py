"""Write a failed check to a folder, so that anyone can run it again: all of it, or nothing."""

import os
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphwright.errors import OutputError

# Models with more bytes of weights keep them in a file of their own.
MOST_INLINE = 16 << 20
COMMAND = "graphwright verify before.onnx after.onnx --inputs inputs.npz"


def write_reproducer(
    folder: Path,
    before: ir.Model,
    after: ir.Model,
    inputs: Mapping[str, np.ndarray],
    message: str,
    *,
    extra: Mapping[str, ir.Model] | None = None,
) -> Path:
    """Write before.onnx, after.onnx, inputs.npz, command.txt and README.txt; returns the folder.

    A folder of that name is not touched: the new one gets a number. ``extra`` has further models by file
    name.

    Raises:
        OutputError: the place cannot be written to; nothing is left behind.
    """
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    try:
        aside.mkdir(parents=True)
        for name, model in {"before.onnx": before, "after.onnx": after, **(extra or {})}.items():
            _save(model, aside / name)
        save_arrays(aside / "inputs.npz", inputs)
        (aside / "command.txt").write_text(COMMAND + "\n", encoding="utf-8")
        (aside / "README.txt").write_text(_readme(message, list(extra or {})), encoding="utf-8")
        return _move(aside, folder)
    except OSError as error:
        hint = "choose a folder that may be written to and has room"
        raise OutputError(
            str(folder), error.strerror or str(error), needed="a folder written whole", hint=hint
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _readme(message: str, extra: list[str]) -> str:
    lines = [message, "", "Run in this folder:", f"    {COMMAND}"]
    if extra:
        lines += ["", f"Further models: {', '.join(extra)}"]
    return "\n".join(lines) + "\n"


def _move(aside: Path, folder: Path) -> Path:
    target, count = folder, 1
    while target.exists():
        count += 1
        target = folder.with_name(f"{folder.name}-{count}")
    os.replace(aside, target)
    return target


def _save(model: ir.Model, path: Path) -> None:
    tensors = {
        id(v.const_value): v.const_value for g in model.graphs() for v in g.initializers.values() if v.const_value
    }
    is_large = sum(tensor.nbytes for tensor in tensors.values() if tensor is not None) > MOST_INLINE
    # A clone: saving points the initializers at the new file, and the caller's must stay as they are.
    copy = model.clone()
    if not is_large:
        # Weights may lie in a file beside the source, which does not come along.
        ir.external_data.load_to_model(copy)
    ir.save(copy, path, external_data=f"{path.name}.data" if is_large else None)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file under any names, which ``numpy.savez`` does not take.

    Types that NumPy does not know, such as bfloat16, are read back as raw bytes of their width.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "inputs.npz"
        >>> save_arrays(path, {"file": np.arange(3)})
        >>> np.load(path)["file"]
        array([0, 1, 2])
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(
                    entry, np.ascontiguousarray(array) if array.ndim else array, allow_pickle=False
                )
