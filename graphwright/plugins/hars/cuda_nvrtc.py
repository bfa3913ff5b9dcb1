"""The CUDA kernels as PTX without nvcc: by NVRTC, NVIDIA's compiler as a library, which torch for CUDA brings along."""

import ctypes
import ctypes.util
import os
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from graphwright.errors import BuildError, MissingDependencyError
from graphwright.plugins.hars import cuda_build

_WHERE = "hars: CUDA kernels by NVRTC"
# NVRTC reads no header of the system, and has the device functions built in.
_INTEGERS = "".join(
    f"typedef {'signed' if bits == 8 else ''} {name} int{bits}_t; typedef unsigned {name} uint{bits}_t;\n"
    for bits, name in ((8, "char"), (16, "short"), (32, "int"), (64, "long long"))
)
_HEADERS = {"stdint.h": _INTEGERS, "cuda_runtime.h": ""}


def is_there() -> bool:
    """Tell whether NVRTC is installed.

    Example:
        >>> is_there() == (_library() is not None)
        True
    """
    return _library() is not None


@cache
def ptx(source: str, architecture: int = 80, flags: Sequence[str] = ()) -> str:
    """Return a source file of the kernels as PTX, which newer devices run as well.

    Raises:
        MissingDependencyError: NVRTC is not installed.
        BuildError: it refuses the source.
    """
    library = _library()
    if library is None:
        hint = "install the CUDA toolkit, or pip install nvidia-cuda-nvrtc"
        raise MissingDependencyError(_WHERE, "no NVRTC", needed="nvcc or libnvrtc", hint=hint)
    names, texts = (
        (ctypes.c_char_p * len(_HEADERS))(*map(str.encode, each)) for each in (_HEADERS.keys(), _HEADERS.values())
    )
    program = ctypes.c_void_p()
    content = (cuda_build.SOURCES / source).read_bytes()
    _call(library, "CreateProgram", ctypes.byref(program), content, source.encode(), len(_HEADERS), texts, names)
    try:
        options = (f"--gpu-architecture=compute_{architecture}", "-std=c++17", f"-I{cuda_build.SOURCES}", *flags)
        given = (ctypes.c_char_p * len(options))(*map(str.encode, options))
        if library.nvrtcCompileProgram(program, len(options), given):
            log = _text(library, program, "ProgramLog")
            raise BuildError(f"{_WHERE}: {source}", log[:600], needed="a source that it compiles")
        return _text(library, program, "PTX")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    _call(library, f"Get{what}Size", program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    _call(library, f"Get{what}", program, text)
    return text.value.decode()


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    status = getattr(library, f"nvrtc{name}")(*arguments)
    if status:
        raise BuildError(_WHERE, f"error {status} of nvrtc{name}", needed="none")


@cache
def _library() -> ctypes.CDLL | None:
    for name in _places():
        try:
            return ctypes.CDLL(name)
        except OSError:  # of another architecture, or without what it needs itself
            continue
    return None


def _places() -> Iterator[str]:
    """Every place where the library may be: the system, the toolkit, NVIDIA's wheels."""
    found = ctypes.util.find_library("nvrtc")
    if found is not None:
        yield found
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [Path(each) / "lib64" for each in toolkits if each]
    wheels = find_spec("nvidia")
    for place in (wheels.submodule_search_locations or ()) if wheels is not None else ():
        folders += sorted(Path(place).glob("*/lib"), reverse=True)
    for folder in folders:
        yield from (str(path) for path in sorted(folder.glob("libnvrtc.so*"), reverse=True))
