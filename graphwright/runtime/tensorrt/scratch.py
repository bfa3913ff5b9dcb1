"""Device memory for what lies between an engine's layers, shared by engines that run one after another.

TensorRT gives each execution context such memory of its own unless it is told otherwise. Engines that never run at the
same time, such as the parts of one pipeline or the profiles of one engine, need only the largest of these sizes.

Source: ``ExecutionContextAllocationStrategy.USER_MANAGED`` and ``IExecutionContext.set_device_memory`` of the Python
    API reference of TensorRT 11; allocating at the maximum and reusing is LightSeq's dynamic memory reuse (Wang et al.
    2021, arXiv:2010.13887).
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from graphwright.errors import UsageError
from graphwright.runtime.tensorrt import cuda_driver

# An engine may need none at all, but an address it always gets.
_SMALLEST = 256


class SharedScratch:
    """One buffer on a device, as large as the largest of the engines that share it. Several threads may share it.

    Give the same one to several sessions. Their runs then wait for each other on the device, in the order in which
    they were started; work that should overlap needs two scratches. Nothing is allocated before an engine asks.

    Raises:
        MissingDependencyError: no such GPU; in :meth:`reserve` also, not enough memory on it.

    Example:
        ::

            scratch = SharedScratch()
            encoder = TensorRTSession("encoder.plan", scratch=scratch)
            decoder = TensorRTSession("decoder.plan", scratch=scratch)
    """

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self.size = 0
        self.address = 0
        self._cuda = cuda_driver.cuda(device)
        self._lock = threading.Lock()
        with self._cuda.current():
            self._event = self._cuda.new_event()
        # The memory's address changes, so what frees it looks it up.
        self._held: list[int] = []
        self._close = weakref.finalize(self, _free, self._cuda, self._held, self._event)
        # A process that ends gives everything back, maybe in an order that the driver does not like.
        self._close.atexit = False

    def reserve(self, size: int) -> None:
        """Make the buffer at least so large, once no run uses it any more. Call it before the first run."""
        if size <= self.size:
            return
        with self._lock, self._cuda.current():
            self._grow(size)

    @contextmanager
    def lent(self, size: int, stream: int) -> Iterator[int]:
        """Give the address to what is put on the stream inside the block, and to nothing else meanwhile.

        Raises:
            UsageError: the scratch is closed.
        """
        with self._lock:
            if not self._close.alive:
                raise UsageError("scratch", "a closed one", needed="one that lives as long as its sessions")
            self._grow(max(size, _SMALLEST))
            # The run before may have been put on another stream, and may not have ended.
            self._cuda.wait(stream, self._event)
            try:
                yield self.address
            finally:
                self._cuda.record(self._event, stream)

    def close(self) -> None:
        """Free the memory, once no run uses it any more; also done when the object is dropped."""
        with self._lock:
            self._close()
            self.size = self.address = 0

    def _grow(self, size: int) -> None:
        if size <= self.size:
            return
        self._cuda.wait_here(self._event)
        while self._held:
            self._cuda.free(self._held.pop())
        self.size = self.address = 0
        self.address = self._cuda.allocate(size)
        self._held.append(self.address)
        self.size = size


def _free(cuda: Any, held: list[int], event: int) -> None:
    with cuda.current():
        cuda.wait_here(event)
        while held:
            cuda.free(held.pop())
        cuda.free_event(event)
