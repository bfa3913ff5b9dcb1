"""The CUDA kernels compiled by nvcc, once for each version of sources, options and compiler.

What is made lies in the user's cache folder, below a digest of all of these. It is written aside and moved into place,
so that a process finds a whole file or none, and two that compile at once do not meet.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from graphwright.errors import MissingDependencyError

WHERE = "hars: CUDA kernels"
SOURCES = Path(__file__).with_name("cuda")
LIBRARY = "libgraphwright_hars_cuda.so"
# No fast-math: denormals, NaN and infinities are part of what the operators mean.
FLAGS = ("-O3", "-std=c++17")
OBJECT_FLAGS = ("-Xcompiler", "-fPIC,-fvisibility=hidden")
# Of NVIDIA's cuda.h: CUdevice_attribute.
_MAJOR, _MINOR = 75, 76
_NEEDED = "an NVIDIA GPU and its driver"


@cache
def capabilities() -> tuple[int, ...]:
    """Return the compute capability of each visible device, by number: 90 for 9.0.

    Raises:
        MissingDependencyError: no device, or no driver.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise MissingDependencyError(WHERE, f"no CUDA driver ({error})", needed=_NEEDED) from error
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        raise MissingDependencyError(WHERE, f"no CUDA device (driver: {status})", needed=_NEEDED)
    return tuple(_capability(driver, number) for number in range(count.value))


def _capability(driver: ctypes.CDLL, number: int) -> int:
    device, value = ctypes.c_int(), ctypes.c_int()
    status = driver.cuDeviceGet(ctypes.byref(device), number)
    digits = []
    for attribute in (_MAJOR, _MINOR):
        status = status or driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        digits.append(value.value)
    if status:
        raise MissingDependencyError(WHERE, f"device {number} gives no answer (driver: {status})", needed=_NEEDED)
    return 10 * digits[0] + digits[1]


def nvcc() -> str | None:
    """Return CUDA's compiler: that of the PATH, of CUDA_HOME, or of the usual place."""
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    found = (shutil.which("nvcc", path=os.path.join(place, "bin")) for place in places if place)
    return shutil.which("nvcc") or next(filter(None, found), None)


def cache_folder() -> Path:
    """Return the folder of everything that is compiled here."""
    try:
        from platformdirs import user_cache_dir
    except ImportError:  # machines with a GPU often have their own set of packages
        base = os.environ.get("XDG_CACHE_HOME")
        return Path(base) / "graphwright" if base else Path.home() / ".cache" / "graphwright"
    return Path(user_cache_dir("graphwright"))


def sources() -> tuple[Path, ...]:
    """Return what the library is made of: every .cu file but that of the TensorRT plugin, which needs its headers.

    Example:
        >>> all(path.suffix == ".cu" for path in sources())
        True
    """
    return tuple(path for path in sorted(SOURCES.glob("*.cu")) if not path.name.startswith("tensorrt"))


def library(architectures: Sequence[int]) -> Path:
    """Return the library with machine code for these architectures, compiled now if it was not before.

    Raises:
        MissingDependencyError: no nvcc and nothing in the cache, an error of the compiler, no place to write.
    """
    return _made(LIBRARY, sources(), _library_flags(architectures))


def is_made(architectures: Sequence[int]) -> bool:
    """Tell whether the library is in the cache."""
    return _found(LIBRARY, _digest(sources(), _library_flags(architectures)), nvcc()) is not None


def _library_flags(architectures: Sequence[int]) -> tuple[str, ...]:
    codes = (f"-gencode=arch=compute_{each},code=sm_{each}" for each in sorted(set(architectures)))
    return (*FLAGS, *OBJECT_FLAGS, *codes)


def ptx(source: str, architecture: int = 80, flags: Sequence[str] = ()) -> str:
    """Return a source file of the kernels as PTX, which newer devices run as well.

    Raises:
        RequestError: no such file.
        MissingDependencyError: as ``library``.
    """
    options = (*FLAGS, *flags, "--ptx", f"-arch=compute_{architecture}")
    path = _made(f"{Path(source).stem}.ptx", (SOURCES / source,), options)
    return path.read_text(encoding="utf-8")


def _made(name: str, files: Sequence[Path], flags: Sequence[str]) -> Path:
    compiler = nvcc()
    digest = _digest(files, flags)
    found = _found(name, digest, compiler)
    if found is not None:
        return found
    if compiler is None:
        raise MissingDependencyError(WHERE, "no nvcc, and nothing compiled before", needed="the CUDA toolkit")
    target = _folder(digest, compiler) / name
    try:
        _compile(compiler, files, flags, target)
    except OSError as error:
        hint = "set XDG_CACHE_HOME to a folder that can be written"
        raise MissingDependencyError(WHERE, f"{error}", needed=f"a file {target}", hint=hint) from error
    return target


def _found(name: str, digest: str, compiler: str | None) -> Path | None:
    """Return what was made before; where there is no compiler to ask, what any version of it made."""
    if compiler is not None:
        path = _folder(digest, compiler) / name
        return path if path.exists() else None
    paths = sorted((cache_folder() / "cuda").glob(f"{digest}-*/{name}"), key=lambda path: path.stat().st_mtime)
    return paths[-1] if paths else None


def _folder(digest: str, compiler: str) -> Path:
    return cache_folder() / "cuda" / f"{digest}-{_version(compiler)}"


def _digest(files: Sequence[Path], flags: Sequence[str]) -> str:
    """Return a digest of the options, the files and every header that they may include."""
    found = hashlib.sha256(repr(tuple(flags)).encode())
    for path in (*files, *_headers()):
        content = path.read_bytes()
        found.update(f"\0{path.name}\0{len(content)}\0".encode() + content)
    return found.hexdigest()[:24]


def _headers() -> Iterator[Path]:
    return (path for path in sorted(SOURCES.iterdir()) if path.suffix in (".h", ".cuh"))


@cache
def _version(compiler: str) -> str:
    answer = subprocess.run([compiler, "--version"], capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"V(\d+\.\d+\.\d+)", answer.stdout)
    return found[1] if found else hashlib.sha256(answer.stdout.encode()).hexdigest()[:8]


def _compile(compiler: str, files: Sequence[Path], flags: Sequence[str], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=target.parent) as aside:
        made = Path(aside) / target.name
        if target.suffix == ".so":
            objects = [Path(aside) / f"{path.stem}.o" for path in files]
            calls = [
                [compiler, *flags, "-c", "-o", str(each), str(path)] for each, path in zip(objects, files, strict=True)
            ]
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # a file takes up to a minute
                list(pool.map(_run, calls))
            _run([compiler, *flags, "--shared", "-o", str(made), *map(str, objects)])
        else:
            _run([compiler, *flags, "-o", str(made), *map(str, files)])
        made.replace(target)


def _run(command: Sequence[str]) -> None:
    """Run nvcc.

    Raises:
        MissingDependencyError: it fails; with the first lines of what it says.
    """
    answer = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if answer.returncode:
        lines = [line for line in (answer.stderr + answer.stdout).splitlines() if line.strip()]
        first = "; ".join(lines[:4])[:600]
        raise MissingDependencyError(WHERE, f"nvcc fails: {first}", needed="a CUDA toolkit that fits the device")
