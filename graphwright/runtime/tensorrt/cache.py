"""Engines that were built before, by what they are made of: one folder, a plan and its sidecar for each key.

TensorRT has no such cache, and those of others take one engine for another: their keys leave out weights, versions or
shapes. Here the key is a digest of everything that matters (``Decisions.key_parts``) and the content is checked against
its sidecar each time, so that a damaged file is built again.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_dir

from graphwright.errors import LoadError, OutputError
from graphwright.runtime.tensorrt.files import locked, write_whole
from graphwright.runtime.tensorrt.sidecar import Sidecar, sidecar_path, sidecar_text


def default_folder() -> Path:
    """Return where engines are kept if nobody says otherwise: the user's cache folder."""
    return Path(user_cache_dir("graphwright")) / "tensorrt"


@dataclass(frozen=True)
class EngineCache:
    """The engines in a folder. Several processes may use it at once."""

    folder: Path

    def plan(self, key: str) -> Path:
        """Return where the plan of a key lies, or would lie."""
        return self.folder / f"{key}.plan"

    def find(self, key: str) -> Sidecar | None:
        """Return the sidecar of an engine that is there and whole, else None.

        A half that is alone, another content than the sidecar tells of or another key count as not there.
        """
        plan = self.plan(key)
        try:
            sidecar = Sidecar.read(plan)
            with plan.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (LoadError, OSError):
            return None
        return sidecar if digest == sidecar.plan_sha256 and sidecar.key == key else None

    def keep(self, plan: bytes | memoryview, sidecar: Sidecar) -> None:
        """Put an engine in, in place of one that may be there.

        Raises:
            OutputError: it cannot be written.
        """
        write_engine(self.plan(sidecar.key), plan, sidecar)

    @contextmanager
    def building(self, key: str, wait: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """Let one process or thread at a time build the engine of a key; the others wait and then find it.

        Gives a folder to work in, which is gone at the end. ``wait`` is called by who has to wait, once.

        Raises:
            OutputError: the folder cannot be written.
        """
        with locked(self.folder / f"{key}.lock", wait):
            work = self.folder / f".{key}.build"
            try:
                # Of a process that was killed: nobody else works for this key now.
                for left in self.folder.glob(f".{key}.*"):
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
                work.mkdir()
            except OSError as error:
                hint = "choose another folder for the cache"
                found = error.strerror or str(error)
                raise OutputError(str(work), found, needed="a folder to work in", hint=hint) from error
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)


def write_engine(path: Path, plan: bytes | memoryview, sidecar: Sidecar) -> None:
    """Write a plan and its sidecar, each whole or not at all.

    Raises:
        OutputError: they cannot be written.
    """
    # The sidecar last: until it is there, the digest in an old one tells that the two do not belong together.
    write_whole(path, plan)
    write_whole(sidecar_path(path), sidecar_text(sidecar).encode())
