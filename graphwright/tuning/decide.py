"""Which of several spellings is faster, by more than the noise."""

from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

from graphwright.runtime.timing import Call, interleaved

# What runs contenders in turn within so many seconds, and returns the seconds of each in each round.
Measure = Callable[[Mapping[str, Call], float], dict[str, list[float]]]

# A region's other spelling has to take this part of the default's time or less. It is no measured noise, which differs
# from machine to machine, but the least gain that is worth another graph.
MARGIN = 0.97
# And be faster in so many of the rounds.
_SHARE = 75
_ROUNDS = 15
_WARMUP = 3


def timed(contenders: Mapping[str, Call], seconds: float) -> dict[str, list[float]]:
    """Time the contenders in turns, for that many seconds and three rounds at least."""
    return interleaved(contenders, runs=_ROUNDS, warmup=_WARMUP, seconds=seconds)


def summed(points: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Return the times of several shapes as one: round by round, as far as all have rounds.

    Example:
        >>> summed([{"a": [1.0, 2.0]}, {"a": [10.0]}])
        {'a': [11.0]}
    """
    return {name: [sum(times) for times in zip(*(point[name] for point in points), strict=False)] for name in points[0]}


def fastest(times: Mapping[str, Sequence[float]], default: str, margin: float = MARGIN) -> str:
    """Return the contender to take: the default, unless another is faster by more than the noise.

    Contenders are compared round by round, since those of one round met the same machine.

    Example:
        >>> fastest({"a": [1.0, 1.0, 1.0], "b": [0.5, 0.6, 0.5]}, "a"), fastest({"a": [1.0] * 3, "b": [0.98] * 3}, "a")
        ('b', 'a')
    """
    chosen, best = default, margin
    for name, taken in times.items():
        if name == default:
            continue
        ratios = [one / other if other > 0 else 1.0 for one, other in zip(taken, times[default], strict=True)]
        if median(ratios) < best and float(np.percentile(ratios, _SHARE)) < 1.0:
            chosen, best = name, median(ratios)
    return chosen
