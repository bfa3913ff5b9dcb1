"""Output buffers that are allocated once, at the largest size, and reused.

An array that is lent out owns its buffer until the last view of it is gone; only then does the buffer serve
another call. So a result stays valid for as long as anyone holds it, no copy is made, and a loop that drops
its results allocates nothing. Where all buffers are lent, a call gets memory of the size it needs.

Source: allocating at the maximum and reusing is LightSeq's dynamic memory reuse (Wang et al. 2021,
    arXiv:2010.13887).
"""

import math
import threading
from typing import Any

import numpy as np

# One that the caller still holds while the next call runs, and one for that call.
_BUFFERS = 2
_ALIGNMENT = 64
# Different shapes of one buffer that are kept ready.
_SHAPES_KEPT = 16


class Buffer:
    """Memory of a fixed size, and what was built on it for the shapes seen last."""

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size + _ALIGNMENT, np.uint8)
        address = int(self.memory.__array_interface__["data"][0])
        self.address = address + -address % _ALIGNMENT
        self.prepared: dict[tuple[int, ...], Any] = {}

    def view(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """The front of the memory as an array of its own; it does not count as lent."""
        offset = self.address - int(self.memory.__array_interface__["data"][0])
        return np.ndarray(shape, dtype, buffer=self.memory, offset=offset)

    def remember(self, shape: tuple[int, ...], prepared: Any) -> None:
        """Keep what was prepared for a shape; of too many shapes none is kept."""
        if len(self.prepared) >= _SHAPES_KEPT:
            self.prepared.clear()
        self.prepared[shape] = prepared


class Pool:
    """Buffers for one output.

    Dtypes: the storage type; a type that NumPy lacks is lent as integers of the same width.

    Example:
        >>> pool = Pool(np.dtype(np.float32), largest=6)
        >>> first, _ = pool.lend((2, 3))
        >>> address = first.__array_interface__["data"][0]
        >>> del first
        >>> pool.lend((3, 2))[0].__array_interface__["data"][0] == address
        True
    """

    def __init__(self, dtype: np.dtype[Any], largest: int) -> None:
        self.dtype = dtype
        self.largest = largest
        self._free: list[Buffer] = []
        self._allocated = 0
        self._lock = threading.Lock()

    def lend(self, shape: tuple[int, ...]) -> tuple[np.ndarray, Buffer | None]:
        """An array of the shape, and the buffer it lies in, if it lies in one."""
        buffer = self._take() if math.prod(shape) <= self.largest else None
        if buffer is None:
            return np.empty(shape, self.dtype), None
        return np.asarray(_Loan(self._free, buffer, shape, self.dtype.str)), buffer

    def _take(self) -> Buffer | None:
        try:
            return self._free.pop()
        except IndexError:
            pass
        with self._lock:
            if self._allocated >= _BUFFERS:
                return None
            self._allocated += 1
        try:
            return Buffer(self.largest * self.dtype.itemsize)
        except (MemoryError, ValueError):
            # A request may still fit where the profile's maximum does not.
            return None


class _Loan:
    """The owner of a lent array: NumPy keeps it alive for as long as a view of its memory is."""

    def __init__(self, free: list[Buffer], buffer: Buffer, shape: tuple[int, ...], typestr: str) -> None:
        self._free = free
        self._buffer = buffer
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": typestr,
            "data": (buffer.address, False),
        }

    def __del__(self) -> None:
        self._free.append(self._buffer)
