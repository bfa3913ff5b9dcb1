"""The timing cache in a file: read before a build, written after it with what the build has added.

TensorRT takes one only from the same version on the same kind of GPU. One that does not fit is replaced, as trtexec
does it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from graphwright.errors import BuildError, UsageError
from graphwright.runtime.tensorrt.files import locked, write_whole

if TYPE_CHECKING:
    import tensorrt as trt


def attach(config: "trt.IBuilderConfig", path: Path, *, must_fit: bool) -> "tuple[trt.ITimingCache, bool]":
    """Give the builder the cache in a file, or a new one; return it and whether the file was of use.

    Raises:
        UsageError: a folder, or a file that cannot be read.
        BuildError: the file does not fit, or is not there, and ``must_fit``.
    """
    content = _read(path)
    if content:
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache, True
    if must_fit:
        found = "a cache of another version or GPU, or a damaged one" if content else "no such cache, or an empty one"
        hint = "leave --error-on-timing-cache-miss out once, to make it"
        raise BuildError(f"timing cache {path}", found, needed="one of this version and GPU", hint=hint)
    cache = config.create_timing_cache(b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise BuildError("timing cache", "none that TensorRT could make", needed="an empty one")
    return cache, not content


def save(config: "trt.IBuilderConfig", cache: "trt.ITimingCache", path: Path) -> None:
    """Write the cache to a file, with what another build may have put there meanwhile.

    Raises:
        OutputError: it cannot be written.
    """
    with locked(path.with_name(path.name + ".lock")):
        content = _read(path)
        other = config.create_timing_cache(content) if content else None
        if other is not None:
            # Entries of one that does not fit are skipped: the answer is False then, and nothing is lost.
            cache.combine(other, False)
        write_whole(path, memoryview(cache.serialize()))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UsageError(f"timing cache {path}", error.strerror or str(error), needed="a file") from error
