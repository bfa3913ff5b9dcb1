"""The compiled CPU kernels, through ctypes: found when first asked for, called with next to nothing in between.

The library is optional. Without it the operators run on the portable lowering, and ``graphwright doctor`` shows
``why_not``. The C interface, and what each field of a request means: ``cpu/hars.h``.
"""

import ctypes
import functools
import os
import struct
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_FILE = "libgraphwright_hars.so"
_ABI_VERSION = 1
_ISAS = {"auto": 0, "scalar": 1, "avx2": 2, "avx512": 3}
_MODES = {"logit": 0, "logprob": 1, "prob": 2, "prob_renorm": 3}
_SCORINGS = {"softmax": 0, "sigmoid": 1}
# By numpy's type character; "E" is ml_dtypes' bfloat16.
_DTYPES = {"f": 0, "e": 1, "E": 2}
# The structures of hars.h, laid out as C does it. Packing one is several times faster than filling a ctypes.Structure.
_SOFTMAX_TOPK = struct.Struct("@PiiqqqqPPfPPPP")
_ROUTER_TOPK = struct.Struct("@PiiqqqPqqiifqPPP")
_WORKERS = struct.Struct("@iiPP")


def library_path() -> Path | None:
    """Return where the compiled library is: beside this module or, for an editable install, in site-packages."""
    beside = Path(__file__).with_name(_FILE)
    installed = Path(sysconfig.get_path("platlib"), "graphwright", "plugins", "hars", _FILE)
    return next((path for path in (beside, installed) if path.is_file()), None)


def available() -> bool:
    """Tell whether the compiled kernels can be used here."""
    return not why_not()


def why_not() -> str:
    """Return why the compiled kernels cannot be used, or nothing where they can."""
    return _load()[1]


@functools.cache
def isas() -> tuple[str, ...]:
    """Return the instruction sets that this processor and this build have, fastest first."""
    library, _ = _load()
    if library is None:
        return ()
    return tuple(name for name in ("avx512", "avx2", "scalar") if library.hars_has_isa(_ISAS[name]))


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    path = library_path()
    if path is None:
        return None, f"{_FILE} was not built: graphwright was installed without a C++ compiler"
    try:
        library = ctypes.CDLL(str(path))
        version = library.hars_abi_version()
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded: {error}"
    if version != _ABI_VERSION:
        return None, f"{path} has interface version {version}, this graphwright needs {_ABI_VERSION}: install it again"
    return library, ""


@functools.cache
def _function(name: str) -> Callable[[bytes, bytes], int]:
    library, reason = _load()
    if library is None:
        raise RuntimeError(reason)
    function = library[name]
    function.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
    function.restype = ctypes.c_int32
    return function


@functools.cache
def _workers(isa: str, threads: int | None) -> bytes:
    # The library wakes no more of them than pay for a request's size.
    return _WORKERS.pack(_ISAS[isa], threads or _cores(), 0, 0)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _address(array: Any) -> int:
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))
    except (TypeError, ValueError, BufferError):
        # Read-only, empty, or of a type that Python's buffers do not know: bfloat16. Slower by a microsecond.
        return int(array.ctypes.data)


def _run(name: str, request: bytes, workers: bytes) -> None:
    status = _function(name)(request, workers)
    if status == 3:
        raise MemoryError(name)
    if status != 0:
        raise RuntimeError(f"{name} was called with a request that nobody checked, or for a processor that is not here")


def softmax_topk(
    logits: np.ndarray,
    bias: np.ndarray | None,
    bias_row: np.ndarray | None,
    *,
    k: int,
    axis_sizes: tuple[int, int, int],
    mode: str,
    temperature: float,
    stats: bool,
    isa: str = "auto",
    threads: int | None = None,
) -> tuple[np.ndarray, ...]:
    """Return values and indices, with ``stats`` also maximum and log_sum; the caller has checked everything.

    Shapes: logits are contiguous and ``axis_sizes`` = (outer, width, inner) long, bias [rows, width] float32, bias_row
    [outer * inner] int64 or None for the first row; values and indices are [outer, k, inner], the rest [outer, inner].
    Dtypes: logits float32, float16 or bfloat16.
    """
    run, outputs = prepare(
        logits,
        bias,
        bias_row,
        k=k,
        axis_sizes=axis_sizes,
        mode=mode,
        temperature=temperature,
        stats=stats,
        isa=isa,
        threads=threads,
    )
    run()
    return outputs


def prepare(
    logits: np.ndarray,
    bias: np.ndarray | None,
    bias_row: np.ndarray | None,
    *,
    k: int,
    axis_sizes: tuple[int, int, int],
    mode: str,
    temperature: float,
    stats: bool,
    isa: str = "auto",
    threads: int | None = None,
) -> tuple[Callable[[], None], tuple[np.ndarray, ...]]:
    """Return a call and the arrays that it fills, for logits whose memory is used again and again.

    Shapes, Dtypes: as :func:`softmax_topk`.
    """
    outer, width, inner = axis_sizes
    values = np.empty((outer, k, inner), np.float32)
    indices = np.empty((outer, k, inner), np.int64)
    maximum = np.empty((outer, inner), np.float32) if stats else None
    log_sum = np.empty((outer, inner), np.float32) if stats else None
    request = _SOFTMAX_TOPK.pack(
        _address(logits),
        _DTYPES[logits.dtype.char],
        _MODES[mode],
        outer,
        width,
        inner,
        k,
        0 if bias is None else _address(bias),
        0 if bias_row is None else _address(bias_row),
        temperature,
        _address(values),
        _address(indices),
        0 if maximum is None else _address(maximum),
        0 if log_sum is None else _address(log_sum),
    )
    workers = _workers(isa, threads)
    # The request has addresses alone: what they point at must live as long as it does.
    kept = (logits, bias, bias_row, values, indices, maximum, log_sum)

    def run(kept: object = kept) -> None:
        _run("hars_softmax_topk", request, workers)

    return run, (values, indices) if maximum is None or log_sum is None else (values, indices, maximum, log_sum)


def router_topk(
    scores: np.ndarray,
    bias: np.ndarray | None,
    *,
    k: int,
    scoring: str,
    renormalize: bool,
    scale: float,
    zero_experts: int,
    scale_zero_experts: bool,
    groups: int,
    top_groups: int,
    isa: str = "auto",
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights, experts and identity_weight; the caller has checked everything.

    Shapes: scores are contiguous [rows, E], bias [E] float32; weights and experts are [rows, k], the last [rows].
    Dtypes: scores float32, float16 or bfloat16.
    """
    rows, experts = scores.shape
    weights = np.empty((rows, k), np.float32)
    chosen = np.empty((rows, k), np.int64)
    identity_weight = np.empty(rows, np.float32)
    request = _ROUTER_TOPK.pack(
        _address(scores),
        _DTYPES[scores.dtype.char],
        _SCORINGS[scoring],
        rows,
        experts,
        k,
        0 if bias is None else _address(bias),
        groups,
        top_groups,
        renormalize,
        scale_zero_experts,
        scale,
        zero_experts,
        _address(weights),
        _address(chosen),
        _address(identity_weight),
    )
    _run("hars_router_topk", request, _workers(isa, threads))
    return weights, chosen, identity_weight
