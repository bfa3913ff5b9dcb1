"""Which implementations of the HARS operators this machine can run, and which one a call takes."""

from functools import cache
from importlib.util import find_spec
from typing import Literal

import numpy as np

from graphwright.errors import MissingDependencyError, UsageError
from graphwright.plugins.hars import arrays, cuda, native

Name = Literal["auto", "reference", "body", "portable", "scalar", "avx2", "avx512", "cuda"]

KERNELS = ("avx512", "avx2", "scalar")
BY_ONNX = ("portable", "body")
_DOUBLE = np.dtype(np.float64)
NAMES = ("cuda", *KERNELS, *BY_ONNX, "reference")


def implementations() -> tuple[str, ...]:
    """Return the names of the implementations that this machine can run, fastest first.

    ``reference`` is NumPy; ``body`` and ``portable`` run in ONNX Runtime, in standard operators; ``scalar``, ``avx2``
    and ``avx512`` are the compiled CPU kernel; ``cuda`` the compiled GPU kernel.

    Example:
        >>> "reference" in implementations()
        True
    """
    return tuple(name for name in NAMES if not why_not(name))


def why_not(name: str) -> str:
    """Return why an implementation cannot run here; nothing if it can.

    Example:
        >>> why_not("reference")
        ''
    """
    if name in KERNELS:
        return native.why_not() or ("" if name in native.isas() else f"this processor or this build has no {name}")
    if name in BY_ONNX:
        return "" if find_spec("onnxruntime") else "onnxruntime is not installed"
    return cuda.why_not() if name == "cuda" else ""


def choose(where: str, implementation: str, given: object) -> str:
    """Return the implementation that a call takes; "auto" is the fastest that fits where the numbers lie.

    Raises:
        UsageError: no such implementation, or float64 for one that computes in float32.
        MissingDependencyError: it cannot run here.
    """
    is_double = _is_double(given)
    if implementation == "auto":
        if not is_on_gpu(given):
            return "reference" if is_double else _fastest_on_cpu()
        implementation = "cuda"
    elif implementation not in NAMES:
        needed = f"auto or one of {', '.join(sorted(NAMES))}"
        raise UsageError(f"{where}: implementation", repr(implementation), needed=needed)
    if is_double and implementation != "reference":
        needed = "float32, float16 or bfloat16"
        raise UsageError(f"{where}: {implementation}", "float64", needed=needed, hint="cast it first")
    reason = why_not(implementation)
    if reason:
        hint = f"implementation={_fastest_on_cpu()!r}, which computes on the CPU"
        raise MissingDependencyError(f"{where}: implementation {implementation}", reason, needed="it", hint=hint)
    return implementation


@cache
def _fastest_on_cpu() -> str:
    return next(name for name in NAMES[1:] if not why_not(name))


def is_on_gpu(given: object) -> bool:
    """Tell whether an array lies in GPU memory."""
    if isinstance(given, np.ndarray):
        return False
    if arrays.is_torch(given):
        return bool(given.is_cuda)
    return hasattr(given, "__cuda_array_interface__")


def _is_double(given: object) -> bool:
    if isinstance(given, np.ndarray):
        return bool(given.dtype == _DOUBLE)
    return str(getattr(given, "dtype", "")).removeprefix("torch.") == "float64"
