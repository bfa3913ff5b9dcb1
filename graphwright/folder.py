"""An artifact's folder: its files, their hashes, and how it is written whole or not at all."""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import machine, python_version
from typing import Any

from graphwright import __version__
from graphwright.errors import LoadError, OutputError, UsageError

FORMAT = 1
MANIFEST, REPORT, MODEL, WEIGHTS = "manifest.json", "report.json", "model.onnx", "model.onnx.data"
# What a program needs beside the model to use it: taken along from a Hugging Face folder.
KEPT_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_OURS = {MANIFEST, REPORT, MODEL, WEIGHTS, "report.html", *KEPT_FILES}
_PACKAGES = (
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxscript",
    "openvino",
    "torch",
    "transformers",
)
_LARGEST_MANIFEST = 1 << 24


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on; packages that are not installed are left out."""
    found = {"graphwright": __version__, "python": python_version(), "machine": machine()}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def is_artifact(folder: Path) -> bool:
    """Tell whether a folder holds an artifact, as far as its file names tell."""
    return (folder / MANIFEST).is_file() and (folder / MODEL).is_file()


def kept_files(folder: Path) -> dict[str, bytes]:
    """Return the tokenizer and configuration files of a folder."""
    return {name: (folder / name).read_bytes() for name in KEPT_FILES if (folder / name).is_file()}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a folder's manifest once its version and the hashes of the model's files have been checked.

    Raises:
        LoadError: no artifact, one of another version, or files that are not those that were written.
    """
    path = folder / MANIFEST
    needed = "an artifact's folder"
    if not is_artifact(folder):
        found = "no artifact" if folder.is_dir() else "no such folder"
        raise LoadError(str(folder), found, needed=f"{needed} with {MANIFEST} and {MODEL}")
    if path.stat().st_size > _LARGEST_MANIFEST:
        raise LoadError(str(path), f"{path.stat().st_size} bytes", needed="a manifest")
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise LoadError(
            str(path), f"no JSON ({error})", needed="a manifest", hint="write the artifact again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = f"format {manifest.get('format')!r}" if isinstance(manifest, dict) else "no manifest"
        hint = "load it with the version that wrote it, or optimize again"
        raise LoadError(str(path), found, needed=f"format {FORMAT}", hint=hint)
    missing = [key for key in ("files", "profile", "target") if key not in manifest]
    if missing or not isinstance(manifest["files"], dict):
        raise LoadError(
            str(path),
            f"no {', '.join(missing) or 'files'}",
            needed="a manifest",
            hint="write the artifact again",
        )
    _check_hashes(folder, manifest["files"])
    return manifest


def _check_hashes(folder: Path, files: Mapping[str, str]) -> None:
    for name in (MODEL, WEIGHTS):
        path = folder / name
        if name in files and not path.is_file():
            raise LoadError(str(path), "no such file", needed="the file that the manifest names", hint="copy it again")
        if path.is_file() and _sha256(path) != files.get(name):
            hint = "copy the folder again, or optimize again; do not trust the file"
            raise LoadError(
                str(path),
                "another sha256 than the manifest has",
                needed="the file that was written",
                hint=hint,
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_folder(
    folder: Path,
    manifest: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    write_model: Callable[[Path], None],
    owned: Path | None,
    before_swap: Callable[[Path], None],
    overwrite: bool,
) -> tuple[Path, dict[str, Any]]:
    """Write an artifact aside and move it into place; return the folder's real path and its manifest.

    ``owned`` is a model file that may be moved in; ``write_model`` writes one where there is none or where it
    lies on another file system. ``before_swap`` is called with a folder that is about to be replaced.

    Raises:
        UsageError, OutputError: as ``Artifact.save`` says.
    """
    target = Path(os.path.realpath(folder))
    check_target(target, overwrite=overwrite)
    try:
        with _aside(target) as new:
            moved = _bring_model(new, owned, write_model)
            try:
                complete = _complete(manifest, new)
                for name, content in files.items():
                    (new / name).write_bytes(content)
                (new / MANIFEST).write_text(json.dumps(complete, indent=1) + "\n", encoding="utf-8")
                _swap(new, target, before_swap)
            except BaseException:
                for here, there in moved:
                    os.replace(here, there)
                raise
    except OSError as error:
        hint = "choose a folder whose parent may be written and has room"
        raise OutputError(
            str(folder), error.strerror or str(error), needed="a folder written whole", hint=hint
        ) from error
    return target, complete


def check_target(folder: Path, *, overwrite: bool = True) -> None:
    """Refuse a folder that :func:`write_folder` may not replace.

    Raises:
        UsageError: it is a file, or holds anything that an artifact does not have.
    """
    where, hint = f"output {folder}", "choose another folder, or empty this one"
    if folder.exists() and not folder.is_dir():
        raise UsageError(where, "a file", needed="a folder", hint="choose another name")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in _OURS)
    if strangers or not is_artifact(folder):
        found = f"a folder with {', '.join(strangers[:3])}" if strangers else "a folder with other files"
        raise UsageError(where, found, needed="a new or empty folder, or an artifact's", hint=hint)
    if not overwrite:
        raise UsageError(where, "an artifact", needed="a new or empty folder", hint=hint)


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A new folder beside the target; gone at the end, with the parents made for it, unless it was moved."""
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        new.mkdir()
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def _bring_model(new: Path, owned: Path | None, write_model: Callable[[Path], None]) -> list[tuple[Path, Path]]:
    """Put the model into the new folder; return what was moved there, with the places it came from."""
    moved: list[tuple[Path, Path]] = []
    if owned is None:
        write_model(new / MODEL)
        return moved
    for name in (MODEL, WEIGHTS):
        here, there = new / name, owned.with_name(name)
        if not there.exists():
            continue
        try:
            os.rename(there, here)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            write_model(new / MODEL)
            return []
        moved.append((here, there))
    return moved


def _complete(manifest: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    files = {name: _sha256(folder / name) for name in (MODEL, WEIGHTS) if (folder / name).is_file()}
    saved = datetime.now(UTC).isoformat(timespec="seconds")
    return {"format": FORMAT, **manifest, "saved": saved, "files": files}


def _swap(new: Path, target: Path, before_swap: Callable[[Path], None]) -> None:
    """Move the new folder to the target's place; what was there comes back when that fails."""
    if not target.exists() or not any(target.iterdir()):
        os.rename(new, target)
        return
    before_swap(target)
    old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
