"""Times of calls that can be compared: in turns within each round, and the order turns with the rounds.

A machine that heats up or is shared then slows all of them alike. Each turn waits until the idle threads of the one
before have stopped spinning, and begins with a call that is not timed.
"""

import time
from collections.abc import Callable, Mapping, Sequence

Call = Callable[[], object]
Clock = Callable[[], float]

# A round of very quick calls is repeated until it takes this long, so that the clock's own cost does not
# count.
_SHORTEST = 0.0005
# The pause before each turn, in seconds: ONNX Runtime's idle threads spin for more than 20 ms and less than 100 ms.
PAUSE = 0.1
_FEWEST_ROUNDS = 3


def interleaved(
    contenders: Mapping[str, Call],
    *,
    runs: int,
    warmup: int = 5,
    seconds: float | None = None,
    clock: Clock = time.perf_counter,
    pause: float = PAUSE,
) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; ``seconds`` ends the rounds early, after three at least.

    Example:
        >>> found = interleaved({"a": lambda: None, "b": lambda: None}, runs=3, pause=0)
        >>> list(found), len(found["a"])
        (['a', 'b'], 3)
    """
    repeats = {name: _repeats(call, warmup, clock) for name, call in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    started = clock()
    for turn in range(runs):
        for name in _turned(list(contenders), turn):
            times[name].append(_take_turn(contenders[name], repeats[name], clock, pause))
        if seconds is not None and turn >= _FEWEST_ROUNDS - 1 and clock() - started > seconds:
            break
    return times


def _turned(names: Sequence[str], turn: int) -> list[str]:
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def _repeats(call: Call, warmup: int, clock: Clock) -> int:
    for _ in range(max(warmup, 1)):
        took = _time(call, 1, clock)
    return max(1, round(_SHORTEST / took)) if 0 < took < _SHORTEST else 1


def _take_turn(call: Call, repeats: int, clock: Clock, pause: float) -> float:
    time.sleep(pause)
    call()
    return _time(call, repeats, clock)


def _time(call: Call, repeats: int, clock: Clock) -> float:
    started = clock()
    for _ in range(repeats):
        call()
    return (clock() - started) / repeats
