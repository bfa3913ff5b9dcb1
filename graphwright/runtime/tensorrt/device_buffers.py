"""Device memory for inputs and outputs that do not lie on the device already, or must not move."""

import weakref
from typing import Any

from graphwright.errors import MissingDependencyError

# Not of size 0, which has no address.
_SMALLEST = 256


class DeviceBuffers:
    """One buffer a name, allocated at the largest size asked for and kept. One session's own, under its lock.

    ``moves`` counts the buffers that had to become larger, and so lie elsewhere since.
    """

    def __init__(self, cuda: Any, stream: int) -> None:
        self.moves = 0
        self._cuda = cuda
        self._stream = stream
        self._held: dict[str, tuple[int, int]] = {}
        self._close = weakref.finalize(self, _free, cuda, self._held)
        self._close.atexit = False

    def address(self, name: str, size: int, at_most: int = 0) -> int:
        """Return where the buffer lies; ``at_most`` is the size to allocate at once, where it is known.

        The device must be current.
        """
        address, held = self._held.get(name, (0, 0))
        if size <= held and address:
            return address
        if address:
            self._cuda.synchronize(self._stream)
            del self._held[name]
            self.moves += 1
            self._cuda.free(address)
        size = max(size, _SMALLEST)
        most = max(size, at_most)
        try:
            address = self._cuda.allocate(most)
        except MissingDependencyError:
            # A request may still fit where the profile's maximum does not.
            if most == size:
                raise
            most = size
            address = self._cuda.allocate(most)
        self._held[name] = address, most
        return int(address)

    def close(self) -> None:
        """Free them all; the session's stream must have ended its work."""
        self._close()


def _free(cuda: Any, held: dict[str, tuple[int, int]]) -> None:
    with cuda.current():
        while held:
            cuda.free(held.popitem()[1][0])
