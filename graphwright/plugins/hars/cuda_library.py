"""The CUDA kernels as a loaded library: the C interface of ``cuda/hars_cuda.h`` in ctypes."""

import ctypes
from functools import cache
from typing import Any

from graphwright.errors import MissingDependencyError, RequestError
from graphwright.plugins.hars import cuda_build

# HARS_CUDA_ABI_VERSION of hars_cuda.h.
ABI_VERSION = 1
_BAD_REQUEST = -1

_i32, _i64, _f32, _address = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class SoftmaxTopkRequest(ctypes.Structure):
    """``struct hars_cuda_softmax_topk_request``."""

    _fields_ = (
        ("logits", _address),
        ("dtype", _i32),
        ("mode", _i32),
        ("rows", _i64),
        ("width", _i64),
        ("row_stride", _i64),
        ("k", _i64),
        ("bias", _address),
        ("bias_rows", _i64),
        ("temperature", _f32),
        ("values", _address),
        ("indices", _address),
        ("indices_are_int32", _i32),
        ("maximum", _address),
        ("log_sum", _address),
    )


class RouterTopkRequest(ctypes.Structure):
    """``struct hars_cuda_router_topk_request``."""

    _fields_ = (
        ("scores", _address),
        ("dtype", _i32),
        ("scoring", _i32),
        ("rows", _i64),
        ("experts", _i64),
        ("k", _i64),
        ("bias", _address),
        ("groups", _i64),
        ("top_groups", _i64),
        ("renormalize", _i32),
        ("scale_zero_experts", _i32),
        ("scale", _f32),
        ("zero_experts", _i64),
        ("weights", _address),
        ("chosen", _address),
        ("chosen_is_int32", _i32),
        ("identity_weight", _address),
    )


class BeamMergeRequest(ctypes.Structure):
    """``struct hars_cuda_beam_merge_request``."""

    _fields_ = (
        ("values", _address),
        ("indices", _address),
        ("indices_are_int32", _i32),
        ("batch", _i64),
        ("beams", _i64),
        ("listed", _i64),
        ("keep", _i64),
        ("scores", _address),
        ("best_scores", _address),
        ("best_beams", _address),
        ("best_tokens", _address),
    )


class SampleRequest(ctypes.Structure):
    """``struct hars_cuda_sample_request``."""

    _fields_ = (
        ("logits", _address),
        ("dtype", _i32),
        ("rows", _i64),
        ("width", _i64),
        ("row_stride", _i64),
        ("bias", _address),
        ("bias_rows", _i64),
        ("temperature", _f32),
        ("top_k", _i64),
        ("top_p", ctypes.c_double),
        ("min_p", ctypes.c_double),
        ("seeds", _address),
        ("offsets", _address),
        ("row_numbers", _address),
        ("tokens", _address),
        ("logprobs", _address),
    )


def loaded() -> ctypes.CDLL:
    """Return the library, compiled and loaded by the first call.

    Raises:
        MissingDependencyError: no device, or the library cannot be made.
    """
    found = _tried()
    if isinstance(found, MissingDependencyError):
        raise found.with_traceback(None)
    return found


def why_not() -> str:
    """Return what keeps the kernels from running here, or nothing. Compiles nothing.

    Before the first call that is whether there is a device, and a compiler or a finished library; afterwards, how the
    first call went.
    """
    if _tried.cache_info().currsize:
        found = _tried()
        return str(found) if isinstance(found, MissingDependencyError) else ""
    try:
        architectures = cuda_build.capabilities()
        if cuda_build.nvcc() is None and not cuda_build.is_made(architectures):
            cuda_build.library(architectures)  # raises what is missing
    except MissingDependencyError as error:
        return str(error)
    return ""


@cache
def _tried() -> ctypes.CDLL | MissingDependencyError:
    """Try once in a process: an attempt that fails may take a minute."""
    try:
        return opened(str(cuda_build.library(cuda_build.capabilities())))
    except MissingDependencyError as error:
        return error


def opened(path: str) -> ctypes.CDLL:
    """Return a library file with its functions' types declared.

    Raises:
        MissingDependencyError: it does not load, or is of another version.
    """
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise MissingDependencyError(cuda_build.WHERE, str(error), needed="a library that loads") from error
    version = library.hars_cuda_abi_version()
    if version != ABI_VERSION:
        raise MissingDependencyError(cuda_build.WHERE, f"interface {version}", needed=str(ABI_VERSION))
    for name, request in (("softmax_topk", SoftmaxTopkRequest), ("sample", SampleRequest)):
        size, run = getattr(library, f"hars_cuda_{name}_scratch"), getattr(library, f"hars_cuda_{name}")
        size.argtypes, size.restype = (ctypes.POINTER(request),), _i64
        run.argtypes = (ctypes.POINTER(request), _address, _i64, _address)
    library.hars_cuda_router_topk.argtypes = (ctypes.POINTER(RouterTopkRequest), _address)
    library.hars_cuda_beam_merge.argtypes = (ctypes.POINTER(BeamMergeRequest), _address)
    return library


def check(where: str, status: int, request: Any) -> None:
    """Raise unless a status is 0.

    Raises:
        RequestError: the kernels do not take the request.
        MissingDependencyError: CUDA reports an error, maybe one of earlier work.
    """
    if status == _BAD_REQUEST:
        sizes = {name: getattr(request, name) for name, kind in request._fields_ if kind is not _address}
        listed = ", ".join(f"{name} {value:g}" for name, value in sizes.items())
        raise RequestError(f"{where} (cuda)", listed, needed="sizes that the kernels take")
    if status:
        raise MissingDependencyError(f"{where} (cuda)", f"CUDA error {status} ({_name(status)})", needed="a device")


def _name(status: int) -> str:
    """Return CUDA's name of an error; the numbers of its runtime and its driver are the same."""
    text = ctypes.c_char_p()
    try:
        ctypes.CDLL("libcuda.so.1").cuGetErrorName(status, ctypes.byref(text))
    except OSError:
        return "no driver"
    return (text.value or b"unknown").decode()
