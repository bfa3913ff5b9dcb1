"""Files that several processes use at once: written aside and moved into place, made by one while the others wait."""

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphwright.errors import OutputError


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    Raises:
        OutputError: it cannot be written; nothing is left behind.
    """
    with _aside(path) as aside, aside.open("xb") as file:
        file.write(content)
        file.flush()
        # Without it, a machine that stops may have the name and not the content.
        os.fsync(file.fileno())


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file as :func:`write_whole` writes one.

    Raises:
        OutputError: it cannot be read or written; nothing is left behind.
    """
    with _aside(target) as aside:
        shutil.copyfile(source, aside)
        with aside.open("r+b") as file:
            os.fsync(file.fileno())


@contextmanager
def locked(path: Path, wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock that a file stands for; ``wait`` is called once if another holder has it.

    The system takes it back when a process ends, however it ends. The file stays: removing it would let a second
    process lock a file of the same name that the first does not see.

    Raises:
        OutputError: the file cannot be made, or its file system has no locks.
    """
    with _or_output_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with _or_output_error(path):
            is_mine = _take(handle, blocking=False)
        if not is_mine:
            wait()
            with _or_output_error(path):
                _take(handle, blocking=True)
        yield
    finally:
        # It ends the lock as well.
        os.close(handle)


@contextmanager
def _or_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "choose another folder for the cache"
        raise OutputError(str(path), error.strerror or str(error), needed="a lock file", hint=hint) from error


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """The name of a file beside the target that is moved there at the end, or is gone after an error."""
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.replace(aside, target)
    except OSError as error:
        hint = "choose a folder that may be written and has room"
        raise OutputError(
            str(target), error.strerror or str(error), needed="a file written whole", hint=hint
        ) from error
    finally:
        with suppress(OSError):
            aside.unlink()


if sys.platform == "win32":
    import msvcrt
    import time

    def _take(handle: int, *, blocking: bool) -> bool:
        while True:
            try:
                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
                return True
            except OSError:
                if not blocking:
                    return False
                time.sleep(0.2)

else:
    import fcntl

    def _take(handle: int, *, blocking: bool) -> bool:
        try:
            # Of the open file, not of the process: two threads exclude each other as well.
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
        return True
