"""One GPU through its driver: memory, streams, events and graphs.

By ctypes and not by torch or cuda-python: a serving process needs neither, and where TensorRT runs, the driver is
there. The calls go to the device's primary context, the one that TensorRT and torch use as well, so that addresses and
streams mean the same to all three.

Source: CUDA driver API reference, CUDA 13.0; ``tests/runtime/tensorrt/test_cuda_driver.py`` compiles the signatures
    below against ``cuda.h``.
"""

import ctypes
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from graphwright.errors import MissingDependencyError

_pointer, _size = ctypes.c_void_p, ctypes.c_size_t
_address = ctypes.c_uint64

# Every function that is called here, with the types of its parameters; each returns a CUresult.
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDeviceGet": (_pointer, ctypes.c_int),
    "cuDevicePrimaryCtxRetain": (_pointer, ctypes.c_int),
    "cuDevicePrimaryCtxRelease_v2": (ctypes.c_int,),
    "cuCtxPushCurrent_v2": (_pointer,),
    "cuCtxPopCurrent_v2": (_pointer,),
    "cuMemAlloc_v2": (_pointer, _size),
    "cuMemFree_v2": (_address,),
    "cuMemcpyHtoDAsync_v2": (_address, _pointer, _size, _pointer),
    "cuMemcpyDtoHAsync_v2": (_pointer, _address, _size, _pointer),
    "cuMemcpyDtoDAsync_v2": (_address, _address, _size, _pointer),
    "cuStreamCreate": (_pointer, ctypes.c_uint),
    "cuStreamDestroy_v2": (_pointer,),
    "cuStreamSynchronize": (_pointer,),
    "cuStreamWaitEvent": (_pointer, _pointer, ctypes.c_uint),
    "cuStreamBeginCapture_v2": (_pointer, ctypes.c_int),
    "cuStreamEndCapture": (_pointer, _pointer),
    "cuEventCreate": (_pointer, ctypes.c_uint),
    "cuEventRecord": (_pointer, _pointer),
    "cuEventSynchronize": (_pointer,),
    "cuEventDestroy_v2": (_pointer,),
    "cuGraphInstantiateWithFlags": (_pointer, _pointer, ctypes.c_ulonglong),
    "cuGraphLaunch": (_pointer, _pointer),
    "cuGraphDestroy": (_pointer,),
    "cuGraphExecDestroy": (_pointer,),
    "cuGetErrorName": (ctypes.c_int, _pointer),
}

# Of cuda.h: CU_STREAM_NON_BLOCKING, CU_EVENT_DISABLE_TIMING, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL. A stream that blocks
# would wait for torch's default one, and a capture in the global mode forbids allocations to every other thread.
NON_BLOCKING, DISABLE_TIMING, THREAD_LOCAL = 1, 2, 1
_OUT_OF_MEMORY = 2


def open_driver() -> Any:
    """Return the driver's library.

    Raises:
        MissingDependencyError: there is none.
    """
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        needed = "an NVIDIA GPU and its driver"
        raise MissingDependencyError("GPU", f"no CUDA driver ({error})", needed=needed) from error


class Cuda:
    """A GPU by its number. Handles and addresses are plain numbers; each is freed by whoever asked for it.

    Raises:
        MissingDependencyError: no driver, no such GPU, or an error that CUDA reports, here and in every method.
    """

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self._library = open_driver()
        for name, parameters in SIGNATURES.items():
            function = getattr(self._library, name)
            function.argtypes, function.restype = parameters, ctypes.c_int
        self._call("cuInit", 0)
        handle = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        self._context = self._made("cuDevicePrimaryCtxRetain", handle.value)
        self._release = weakref.finalize(self, self._library.cuDevicePrimaryCtxRelease_v2, handle.value)
        # A process that ends gives everything back, maybe in an order that the driver does not like.
        self._release.atexit = False

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the thread's current one inside the block, for TensorRT too."""
        self._call("cuCtxPushCurrent_v2", self._context)
        try:
            yield
        finally:
            self._library.cuCtxPopCurrent_v2(ctypes.byref(_pointer()))

    def allocate(self, size: int) -> int:
        """Return the address of so many bytes, aligned to 256."""
        address = _address()
        self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        return int(address.value)

    def free(self, address: int) -> None:
        """Give memory back. What still uses it must have ended."""
        self._call("cuMemFree_v2", address)

    def copy_in(self, address: int, array: np.ndarray, stream: int) -> None:
        """Copy a contiguous array to the device; the array must live until the stream is there."""
        if array.nbytes:
            self._call("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, stream)

    def copy_out(self, array: np.ndarray, address: int, stream: int) -> None:
        """Copy from the device into a contiguous array, which is filled when the stream is there."""
        if array.nbytes:
            self._call("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy on the device."""
        if size:
            self._call("cuMemcpyDtoDAsync_v2", target, source, size, stream)

    def new_stream(self) -> int:
        """Return a stream that waits for no other one by itself."""
        return self._made("cuStreamCreate", NON_BLOCKING)

    def free_stream(self, stream: int) -> None:
        """Give a stream back; work on it goes on to its end."""
        self._call("cuStreamDestroy_v2", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until the stream's work is done."""
        self._call("cuStreamSynchronize", stream)

    def new_event(self) -> int:
        """Return an event without time stamps."""
        return self._made("cuEventCreate", DISABLE_TIMING)

    def free_event(self, event: int) -> None:
        """Give an event back."""
        self._call("cuEventDestroy_v2", event)

    def record(self, event: int, stream: int) -> None:
        """Let the event stand for all work that the stream has now."""
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """Let the stream go on only when the event has come; the caller goes on at once."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def wait_here(self, event: int) -> None:
        """Wait until the event has come; one that was never recorded has."""
        self._call("cuEventSynchronize", event)

    @contextmanager
    def captured(self, stream: int) -> Iterator[list[int]]:
        """Record what goes to the stream inside the block, without running it; the list then holds its graph."""
        graphs: list[int] = []
        self._call("cuStreamBeginCapture_v2", stream, THREAD_LOCAL)
        try:
            yield graphs
        except BaseException:
            # A stream that goes on capturing is of no use to anyone.
            self._end_capture(stream)
            raise
        status, recorded = self._end_capture(stream, keep=True)
        self._check("cuStreamEndCapture", status)
        try:
            graphs.append(self._made("cuGraphInstantiateWithFlags", recorded, 0))
        finally:
            self._library.cuGraphDestroy(recorded)

    def _end_capture(self, stream: int, *, keep: bool = False) -> tuple[int, int | None]:
        recorded = _pointer()
        status = self._library.cuStreamEndCapture(stream, ctypes.byref(recorded))
        if recorded.value and not keep:
            self._library.cuGraphDestroy(recorded)
        return status, recorded.value

    def launch(self, graph: int, stream: int) -> None:
        """Run a graph."""
        self._call("cuGraphLaunch", graph, stream)

    def free_graph(self, graph: int) -> None:
        """Give a graph back; a run of it goes on to its end."""
        self._call("cuGraphExecDestroy", graph)

    def _made(self, name: str, *arguments: Any) -> int:
        handle = _pointer()
        self._call(name, ctypes.byref(handle), *arguments)
        return int(handle.value or 0)

    def _call(self, name: str, *arguments: Any) -> None:
        self._check(name, getattr(self._library, name)(*arguments))

    def _check(self, name: str, status: int) -> None:
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorName(status, ctypes.byref(text))
            found = f"{name} gives {(text.value or b'an unknown error').decode()} ({status})"
            needed = "more free memory on the device" if status == _OUT_OF_MEMORY else "a GPU that is ready"
            raise MissingDependencyError(f"GPU {self.device}", found, needed=needed)


_opened: dict[int, Cuda] = {}
_lock = threading.Lock()


def cuda(device: int = 0) -> Cuda:
    """Return a GPU, the same object for the same number.

    Raises:
        MissingDependencyError: no driver, or no such GPU.
    """
    with _lock:
        if device not in _opened:
            _opened[device] = Cuda(device)
        return _opened[device]
