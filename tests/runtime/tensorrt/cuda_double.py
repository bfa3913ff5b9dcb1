"""A double of ``cuda_driver.Cuda`` that needs no GPU: device memory is main memory, and streams run late.

Nothing that is put on a stream happens before somebody waits for it, as late as CUDA may do it: what is missing in the
order of two streams, or drops memory too early, shows in the numbers. Freed memory is overwritten, addresses are
looked up, and every call outside ``current()`` is a fault.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from graphwright.errors import MissingDependencyError

ALIGNMENT = 256
Work = Callable[[], None]


@dataclass
class Stream:
    pending: list[Work] = field(default_factory=list)


class CudaDouble:
    """One device. Stream 0 is the default one, of which torch's double makes its own."""

    def __init__(self, size: int = 1 << 26) -> None:
        self.device = 0
        self.size = size
        self.memory: dict[int, np.ndarray] = {}
        self.streams = {0: Stream()}
        self.events: dict[int, tuple[int, Work] | None] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.calls: list[str] = []
        self.fail_capture = False
        self._depth = 0
        self._number = 0
        self._capturing: tuple[int, list[Work]] | None = None

    @contextmanager
    def current(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1

    def allocate(self, size: int) -> int:
        self._told("allocate")
        assert size > 0
        if sum(array.nbytes for array in self.memory.values()) + size > self.size:
            raise MissingDependencyError("GPU 0", "no room", needed="more free memory on the device")
        raw = np.full(size + ALIGNMENT, 0xA5, np.uint8)
        address = raw.ctypes.data + -raw.ctypes.data % ALIGNMENT
        self.memory[address] = raw
        return address

    def free(self, address: int) -> None:
        self._told("free")
        self.memory.pop(address).fill(0xEE)

    def bytes_at(self, address: int, size: int) -> np.ndarray:
        """The memory, which must lie in one allocation."""
        for start, raw in self.memory.items():
            if start <= address and address + size <= start + raw.nbytes - ALIGNMENT:
                return at(address, size)
        raise AssertionError(f"{size} bytes at {address:#x} are nobody's memory")

    def copy_in(self, address: int, array: np.ndarray, stream: int) -> None:
        assert array.flags.c_contiguous
        if not array.nbytes:
            return
        self.put(stream, "copy_in", lambda: _fill(self.bytes_at(address, array.nbytes), array))

    def copy_out(self, array: np.ndarray, address: int, stream: int) -> None:
        assert array.flags.c_contiguous
        if not array.nbytes:
            return
        target = at(array.ctypes.data, array.nbytes)
        self.put(stream, "copy_out", lambda: _fill(target, self.bytes_at(address, array.nbytes)))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        if not size:
            return
        self.put(stream, "copy", lambda: _fill(self.bytes_at(target, size), self.bytes_at(source, size)))

    def new_stream(self) -> int:
        self._told("new_stream")
        self._number += 1
        self.streams[self._number] = Stream()
        return self._number

    def free_stream(self, stream: int) -> None:
        self._told("free_stream")
        assert stream and not self.streams[stream].pending
        del self.streams[stream]

    def synchronize(self, stream: int) -> None:
        self._told("synchronize")
        self._run(stream)

    def new_event(self) -> int:
        self._told("new_event")
        self._number += 1
        self.events[self._number] = None
        return self._number

    def free_event(self, event: int) -> None:
        self._told("free_event")
        del self.events[event]

    def record(self, event: int, stream: int) -> None:
        def mark() -> None:
            pass

        self.put(stream, "record", mark)
        self.events[event] = stream, mark

    def wait(self, stream: int, event: int) -> None:
        recorded = self.events[event]
        self.put(stream, "wait", lambda: self._run_until(recorded))

    def wait_here(self, event: int) -> None:
        self._told("wait_here")
        self._run_until(self.events[event])

    @contextmanager
    def captured(self, stream: int) -> Iterator[list[int]]:
        self._told("captured")
        assert stream, "the default stream cannot be recorded"
        graphs: list[int] = []
        self._capturing = stream, []
        try:
            yield graphs
            recorded = self._capturing[1]
        finally:
            self._capturing = None
        if self.fail_capture:
            raise MissingDependencyError("GPU 0", "cuStreamEndCapture gives an error (901)", needed="a GPU")
        self._number += 1
        self.graphs[self._number] = recorded
        graphs.append(self._number)

    @property
    def is_capturing(self) -> bool:
        return self._capturing is not None

    def launch(self, graph: int, stream: int) -> None:
        recorded = list(self.graphs[graph])
        self.put(stream, "launch", lambda: [work() for work in recorded] and None)

    def free_graph(self, graph: int) -> None:
        self._told("free_graph")
        del self.graphs[graph]

    def put(self, stream: int, what: str, work: Work) -> None:
        """Put work on a stream, or into the graph that is being recorded from it."""
        self._told(what)
        if self._capturing is not None and self._capturing[0] == stream:
            self._capturing[1].append(work)
        else:
            self.streams[stream].pending.append(work)

    def _told(self, what: str) -> None:
        assert self._depth, f"{what} while no device is current"
        self.calls.append(what)

    def _run(self, stream: int) -> None:
        pending = self.streams[stream].pending
        while pending:
            pending.pop(0)()

    def _run_until(self, recorded: tuple[int, Work] | None) -> None:
        if recorded is None or recorded[0] not in self.streams:
            return
        stream, mark = recorded
        pending = self.streams[stream].pending
        while mark in pending:
            pending.pop(0)()


def at(address: int, size: int) -> np.ndarray:
    """So many bytes of this process."""
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)


def _fill(target: np.ndarray, source: np.ndarray) -> None:
    target[...] = source.reshape(-1).view(np.uint8)
