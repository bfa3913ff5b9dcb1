"""The builder's progress, told to whoever asked, and the way to stop a build that takes minutes."""

from collections.abc import Callable
from typing import Any

# What is going on, steps done, steps in all.
Tell = Callable[[str, int, int], None]


class Phases:
    """The phases that are open, outermost first; ``tell`` hears of each step of the innermost.

    An error or an interrupt in ``tell`` is kept, since it may not pass through the builder; the build is then asked to
    stop, and ``reraise`` gives it back.

    Example:
        >>> phases = Phases(print)
        >>> phases.start("Building Engine", None, 2)
        Building Engine 0 2
        >>> phases.start("Tactics", "Building Engine", 10)
        Building Engine: Tactics 0 10
        >>> phases.step("Tactics", 4)
        Building Engine: Tactics 5 10
        True
        >>> phases.finish("Tactics")
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._open: dict[str, tuple[str | None, int]] = {}
        self._stopped: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        self._open[name] = (parent, steps)
        self._say(name, 0)

    def step(self, name: str, step: int) -> bool:
        """A step of a phase is done; False asks the builder to stop."""
        self._say(name, step + 1)
        return self._stopped is None

    def finish(self, name: str) -> None:
        """A phase is over, possibly before all of its steps."""
        self._open.pop(name, None)

    def reraise(self) -> None:
        """Raise what stopped the build, if anything did."""
        if self._stopped is not None:
            raise self._stopped

    def _say(self, name: str, done: int) -> None:
        if self._stopped is not None:
            return
        try:
            # An interrupt often arrives here: the builder itself does not look for any.
            self._tell(self._path(name), done, self._open.get(name, (None, 0))[1])
        except BaseException as error:
            self._stopped = error

    def _path(self, name: str) -> str:
        names, at = [name], self._open.get(name, (None, 0))[0]
        while at is not None and at in self._open and at not in names:
            names.append(at)
            at = self._open[at][0]
        return ": ".join(reversed(names))


def monitor(phases: Phases) -> Any:
    """Return TensorRT's kind of progress monitor for the phases."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of the library that is loaded
        """Passes on what the builder says."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            phases.start(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
