"""Latency, measured so that contenders can be compared: interleaved (``runtime.timing``), medians with their spread."""

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
from graphwright.runtime.machine import processor
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.profile import Profile
from graphwright.runtime.signature import inputs_of
from graphwright.runtime.timing import PAUSE, Call, interleaved

_CORNERS: tuple[Which, ...] = ("min", "opt", "max")


def measure(
    contenders: Mapping[str, Call],
    shape: str,
    *,
    runs: int = 50,
    warmup: int = 5,
    seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
    pause: float = PAUSE,
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
    times = interleaved(contenders, runs=runs, warmup=warmup, seconds=seconds, clock=clock, pause=pause)
    return [_summary(shape, name, taken) for name, taken in times.items()]


def circumstances(threads: int, packages: Sequence[str]) -> dict[str, Any]:
    """Return what a figure must be published with: the date, the machine, the threads and the versions.

    Example:
        >>> sorted(circumstances(2, ["numpy"]))
        ['date', 'machine', 'threads', 'versions']
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "threads": threads,
        "versions": {"graphwright": __version__, **{name: version(name) for name in packages}},
    }


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
