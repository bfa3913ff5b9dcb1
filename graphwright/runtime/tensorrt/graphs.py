"""CUDA graphs of an engine's runs, one for each shape: all launches of a run as one.

A graph holds addresses and, in them, everything but the contents of buffers: it may be replayed only where profile,
shapes, addresses and the values of shape inputs are those of its recording. They are its key. It also stands on the
state of the context that it was recorded from, which nothing may change afterwards: so each graph has a context of its
own. TensorRT wants one plain run of a shape before the recording; that is the run that answers the call at hand, so no
work is done twice.

Source: "CUDA Graphs" in the developer guide of TensorRT 11, which advises one context for each graph, over shared
    memory; CUDA driver API, stream capture.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from graphwright.errors import GraphwrightError

# Graphs and their contexts take memory on the device; of more shapes than this the ones used longest ago are dropped.
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
        # With each graph the function that was recorded, which holds the context.
        self._graphs: OrderedDict[Hashable, tuple[int, Callable[[], None]]] = OrderedDict()
        self._calls: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._graphs)

    def run(
        self, key: Hashable, stream: int, enqueue: Callable[[], None], another: Callable[[], Callable[[], None]]
    ) -> None:
        """Replay the graph of a key, or put the work on the stream, and record it when the key comes again.

        ``another`` gives what puts the same work there from a context that nothing else uses.
        """
        if key in self._graphs:
            self._graphs.move_to_end(key)
            self._cuda.launch(self._graphs[key][0], stream)
        elif self.failure or not self._is_due(key):
            enqueue()
        else:
            self._run_and_record(key, stream, enqueue, another)

    def refuse(self, reason: str) -> None:
        """Record no more from here on, and say so once: the runs go on without graphs."""
        if not self.failure:
            self.failure = reason
            warnings.warn(f"no CUDA graphs for this engine: {reason}", RuntimeWarning, stacklevel=2)

    def clear(self, stream: int) -> None:
        """Free all graphs: at the end, or when memory that they use has gone elsewhere."""
        self._keep(0, stream)
        self._calls.clear()

    def _is_due(self, key: Hashable) -> bool:
        if key not in self._calls and len(self._calls) >= _CALLS_COUNTED:
            self._calls.clear()
        self._calls[key] = self._calls.get(key, 0) + 1
        return self._calls[key] >= _CALLS_BEFORE_RECORDING

    def _run_and_record(
        self, key: Hashable, stream: int, enqueue: Callable[[], None], another: Callable[[], Callable[[], None]]
    ) -> None:
        try:
            own = another()
        except GraphwrightError as error:
            enqueue()
            self.clear(stream)
            self.refuse(str(error))
            return
        own()
        try:
            with self._cuda.captured(stream) as recorded:
                own()
        except GraphwrightError as error:
            # The plain run before has given the answer; its context must outlive it.
            self._cuda.synchronize(stream)
            self.clear(stream)
            self.refuse(str(error))
            return
        self._keep(self._kept - 1, stream)
        self._graphs[key] = recorded[0], own
        self._calls.pop(key, None)

    def _keep(self, count: int, stream: int) -> None:
        """Free all but so many, the ones used longest ago first, once none of them runs any more."""
        if len(self._graphs) > count:
            self._cuda.synchronize(stream)
        while len(self._graphs) > count:
            # Before its context goes, with the end of the loop's turn.
            _, (graph, _own) = self._graphs.popitem(last=False)
            self._cuda.free_graph(graph)
