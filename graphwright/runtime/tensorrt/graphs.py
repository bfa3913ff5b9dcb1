"""CUDA graphs of an engine's runs, one for each shape: all launches of a run as one.

A graph holds addresses and, in them, everything but the contents of buffers: it may be replayed only where profile,
shapes, addresses and the values of shape inputs are those of its recording. They are its key. TensorRT wants one plain
run of a shape before the recording; that is the run that answers the call at hand, so no work is done twice.

Source: "CUDA Graphs" in the developer guide of TensorRT 11; CUDA driver API, stream capture.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from graphwright.errors import GraphwrightError

# Graphs take memory on the device; of more shapes than this the ones used longest ago are dropped.
KEPT = 32
# A shape that comes once is not worth a recording.
_CALLS_BEFORE_RECORDING = 2
_CALLS_COUNTED = 1024


class Graphs:
    """The graphs of one session, which calls it under its own lock. ``failure`` tells why it records no more."""

    def __init__(self, cuda: Any, kept: int = KEPT) -> None:
        self.failure = ""
        self._cuda = cuda
        self._kept = kept
        self._graphs: OrderedDict[Hashable, int] = OrderedDict()
        self._calls: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable, stream: int, enqueue: Callable[[], None]) -> None:
        """Replay the graph of a key, or put the work on the stream, and record it when the key comes again."""
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            self._cuda.launch(graph, stream)
            return
        enqueue()
        if not self.failure and self._is_due(key):
            self._record(key, stream, enqueue)

    def refuse(self, reason: str) -> None:
        """Record no more from here on, and say so once: the runs go on without graphs."""
        if not self.failure:
            self.failure = reason
            warnings.warn(f"no CUDA graphs for this engine: {reason}", RuntimeWarning, stacklevel=2)

    def clear(self) -> None:
        """Free all graphs: at the end, or when memory that they use has gone elsewhere."""
        while self._graphs:
            self._cuda.free_graph(self._graphs.popitem()[1])
        self._calls.clear()

    def _is_due(self, key: Hashable) -> bool:
        if key not in self._calls and len(self._calls) >= _CALLS_COUNTED:
            self._calls.clear()
        self._calls[key] = self._calls.get(key, 0) + 1
        return self._calls[key] >= _CALLS_BEFORE_RECORDING

    def _record(self, key: Hashable, stream: int, enqueue: Callable[[], None]) -> None:
        try:
            with self._cuda.captured(stream) as recorded:
                enqueue()
        except GraphwrightError as error:
            # The plain run before has given the answer.
            self.refuse(str(error))
            return
        while len(self._graphs) >= self._kept:
            self._cuda.free_graph(self._graphs.popitem(last=False)[1])
        self._graphs[key] = recorded[0]
        self._calls.pop(key, None)
