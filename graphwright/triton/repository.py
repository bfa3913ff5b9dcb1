"""A Triton model repository on disk: a model's folder, its numbered versions, written whole or not at all.

::

    REPOSITORY/NAME/config.pbtxt
    REPOSITORY/NAME/VERSION/model.onnx, model.onnx.data     or model.plan, model.plan.json

A new model is moved into place as one folder. A version that joins others is moved in before the configuration is
replaced, so that no moment has a configuration without its file.
"""

import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from graphwright.errors import OutputError, UsageError

CONFIG = "config.pbtxt"
# Triton keeps versions as signed 64-bit numbers.
_LARGEST_VERSION = 2**63 - 1
# A name is a folder and a part of URLs (/v2/models/NAME/infer).
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_name(name: str) -> None:
    """Refuse a model's name that cannot be a folder and a part of a URL.

    Raises:
        UsageError: other characters than letters, digits, ``.``, ``_`` and ``-``, or more than 128.

    Example:
        >>> check_name("bert-base_v1.2")
    """
    if not _NAME.fullmatch(name):
        needed = "at most 128 letters, digits, dots, dashes and underscores, the first a letter or digit"
        raise UsageError("model name", repr(name), needed=needed, hint="give one with --name")


def check_place(repository: Path, name: str, version: int, *, overwrite: bool) -> None:
    """Refuse what :func:`place` would refuse, before anything slow starts.

    Raises:
        UsageError: a name or version that Triton does not take, a file where a folder belongs, a folder that is no
        model's, or a version that is there and may not be replaced.
    """
    check_name(name)
    if not 1 <= version <= _LARGEST_VERSION:
        raise UsageError("model version", str(version), needed=f"a whole number from 1 to {_LARGEST_VERSION}")
    folder = repository / name
    for path in (repository, folder, folder / str(version)):
        if path.exists() and not path.is_dir():
            raise UsageError(str(path), "a file", needed="a folder", hint="choose another name")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        needed = f"a new or empty folder, or a model's with {CONFIG}"
        raise UsageError(str(folder), "a folder with other files", needed=needed, hint="choose another --name")
    if (folder / str(version)).is_dir() and not overwrite:
        hint = "give another --model-version, or --overwrite"
        raise UsageError(str(folder), f"version {version}", needed="a version that is not there", hint=hint)


def place(
    repository: Path,
    name: str,
    version: int,
    config: str,
    write: Callable[[Path], None],
    *,
    overwrite: bool = False,
) -> Path:
    """Write one version of a model and its configuration; ``write`` fills the version's folder. Return the model's.

    Raises:
        UsageError: as :func:`check_place` says, or other versions are served by another configuration.
        OutputError: the folder could not be written; nothing of it was left behind.
    """
    check_place(repository, name, version, overwrite=overwrite)
    folder = repository / name
    _check_config(folder, version, config, overwrite=overwrite)
    missing = [path for path in (repository, *repository.parents) if not path.exists()]
    aside = repository / f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        (aside / str(version)).mkdir(parents=True)
        write(aside / str(version))
        (aside / CONFIG).write_text(config, encoding="utf-8")
        _move_in(aside, folder, str(version))
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        for path in missing:
            with suppress(OSError):
                path.rmdir()
        if isinstance(error, OSError):
            found = error.strerror or str(error)
            hint = "choose a repository that may be written and has room"
            raise OutputError(str(folder), found, needed="a folder written whole", hint=hint) from error
        raise
    return folder


def _check_config(folder: Path, version: int, config: str, *, overwrite: bool) -> None:
    """One configuration serves all versions: replacing it may break those that stay."""
    others = [path.name for path in folder.glob("[1-9]*") if path.is_dir() and path.name != str(version)]
    if overwrite or not others or _settings((folder / CONFIG).read_text(encoding="utf-8")) == _settings(config):
        return
    found = f"another {CONFIG}, which also serves version {', '.join(sorted(others))}"
    hint = "choose another --name, or replace it with --overwrite"
    raise UsageError(str(folder), found, needed="the same configuration for all versions", hint=hint)


def _settings(config: str) -> list[str]:
    return [line for line in config.splitlines() if not line.startswith("#")]


def _move_in(aside: Path, folder: Path, version: str) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        os.rename(aside, folder)
        return
    new, old = folder / version, aside / "old"
    if new.exists():
        os.rename(new, old)
    try:
        os.rename(aside / version, new)
        os.replace(aside / CONFIG, folder / CONFIG)
    except OSError:
        if new.exists():
            os.rename(new, aside / version)
        if old.exists():
            os.rename(old, new)
        raise
    shutil.rmtree(aside, ignore_errors=True)
