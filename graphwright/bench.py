"""Latency, measured so that contenders can be compared: runs interleaved, medians with their spread.

Contenders take turns within each round and the order turns with the rounds, so that a machine that heats up or is
shared slows all of them alike. Each turn waits until the idle threads of the one before have stopped spinning, and
begins with a call that is not timed.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from graphwright import __version__
from graphwright.artifact import Artifact
from graphwright.engine.sample import sample_inputs
from graphwright.errors import UsageError
from graphwright.optimize import load_source, onnx_file
from graphwright.report import Latency
from graphwright.runtime.bound import BoundProfile, Which
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.profile import Profile
from graphwright.runtime.signature import inputs_of

Call = Callable[[], object]

# A round of very quick calls is repeated until it takes this long, so that the clock's own cost does not
# count.
_SHORTEST = 0.0005
# The pause before each turn, in seconds: ONNX Runtime's idle threads spin for more than 20 ms and less than 100 ms.
_PAUSE = 0.1
_CORNERS: tuple[Which, ...] = ("min", "opt", "max")


def measure(
    contenders: Mapping[str, Call],
    shape: str,
    *,
    runs: int = 50,
    warmup: int = 5,
    seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    pause: float = _PAUSE,
) -> list[Latency]:
    """Time calls against each other; ``seconds`` ends the rounds early, after three at least.

    Raises:
        UsageError: no contender, or no run.

    Example:
        >>> [one.contender for one in measure({"a": lambda: None, "b": lambda: None}, "any", runs=3)]
        ['a', 'b']
    """
    if not contenders or runs < 1:
        raise UsageError("bench", f"{len(contenders)} contenders and {runs} runs", needed="at least one of each")
    repeats = {name: _repeats(call, warmup, clock) for name, call in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    started = clock()
    for turn in range(runs):
        for name in _turned(names, turn):
            times[name].append(_take_turn(contenders[name], repeats[name], clock, pause))
        if seconds is not None and turn >= 2 and clock() - started > seconds:
            break
    return [_summary(shape, name, times[name]) for name in names]


def circumstances(threads: int, packages: Sequence[str]) -> dict[str, Any]:
    """Return what a figure must be published with: the date, the machine, the threads and the versions.

    Example:
        >>> sorted(circumstances(2, ["numpy"]))
        ['date', 'machine', 'threads', 'versions']
    """
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        processor = next(names, processor)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "threads": threads,
        "versions": {"graphwright": __version__, **{name: version(name) for name in packages}},
    }


def _turned(names: Sequence[str], turn: int) -> list[str]:
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def _repeats(call: Call, warmup: int, clock: Callable[[], float]) -> int:
    for _ in range(max(warmup, 1)):
        took = _time(call, 1, clock)
    return max(1, round(_SHORTEST / took)) if 0 < took < _SHORTEST else 1


def _take_turn(call: Call, repeats: int, clock: Callable[[], float], pause: float) -> float:
    time.sleep(pause)
    call()
    return _time(call, repeats, clock)


def _time(call: Call, repeats: int, clock: Callable[[], float]) -> float:
    started = clock()
    for _ in range(repeats):
        call()
    return (clock() - started) / repeats


def _summary(shape: str, name: str, times: Sequence[float]) -> Latency:
    p10, median, p90 = (float(value) * 1e3 for value in np.percentile(times, (10, 50, 90)))
    return Latency(shape, name, median, p10, p90, len(times))


def bench_artifact(
    artifact: Artifact,
    baseline: str | Path | None = None,
    shapes: Sequence[str] = (),
    *,
    threads: int | None = None,
    runs: int = 50,
    seconds: float | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Latency]:
    """Time an artifact, beside plain ONNX Runtime on the baseline where one is given, with the same threads.

    ``shapes`` are texts such as ``batch=1,seq=128``; without any, min, opt and max of each profile.

    Raises:
        ProfileError: a shape that does not fit the model.
        LoadError, RequestError: the baseline cannot be read, or takes other inputs.
    """
    sessions = {"graphwright": artifact.session(threads=threads)}
    if baseline is not None:
        source = load_source(baseline)
        path = onnx_file(Path(baseline))
        free = BoundProfile(inputs_of(source.model), ({},))
        plain = OrtSession(path or source.model, free, threads=threads)
        sessions = {"onnxruntime": plain, **sessions}
    found: list[Latency] = []
    for name, given in _shapes(artifact, shapes):
        tell(f"timing {name}")
        inputs = sample_inputs(artifact.model, given)
        calls = {who: partial(session, inputs) for who, session in sessions.items()}
        found.extend(measure(calls, name, runs=runs, seconds=seconds))
    return found


def _shapes(artifact: Artifact, texts: Sequence[str]) -> Iterator[tuple[str, Mapping[str, tuple[int, ...]]]]:
    if texts:
        for text in texts:
            yield text, Profile.parse(text).bind(artifact.model).shapes("opt")
        return
    seen: list[Mapping[str, int]] = []
    for index in range(len(artifact.profile.profiles)):
        for which in _CORNERS:
            sizes = artifact.profile.sizes(which, index)
            if sizes not in seen:
                seen.append(sizes)
                name = ",".join(f"{dim}={size}" for dim, size in sizes.items()) or "fixed"
                yield name, artifact.profile.shapes(which, index)
