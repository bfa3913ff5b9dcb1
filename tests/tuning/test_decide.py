"""Which contender is taken, from times alone."""

import pytest

from graphwright.runtime.timing import interleaved
from graphwright.tuning.decide import fastest, summed

SLOW = [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({"a": SLOW, "b": [0.5] * 4}, "b"),
        ({"a": SLOW, "b": [0.98] * 4}, "a"),
        ({"a": SLOW, "b": [1.5] * 4}, "a"),
        # Faster at the median, but not in three rounds of four.
        ({"a": SLOW, "b": [0.5, 0.5, 2.0, 2.0]}, "a"),
        ({"a": SLOW, "b": [0.9] * 4, "c": [0.8] * 4}, "c"),
        # A machine that slows down slows all of a round.
        ({"a": [1.0, 10.0, 100.0], "b": [0.5, 5.0, 50.0]}, "b"),
        ({"a": [0.0] * 3, "b": [0.0] * 3}, "a"),
        ({"a": SLOW}, "a"),
    ],
)
def test_the_default_is_kept_unless_another_wins_by_more_than_the_noise(
    times: dict[str, list[float]], chosen: str
) -> None:
    assert fastest(times, "a") == chosen


def test_without_a_margin_most_rounds_decide() -> None:
    assert fastest({"a": SLOW, "b": [0.99] * 4}, "a", margin=1.0) == "b"
    assert fastest({"a": SLOW, "b": SLOW}, "a", margin=1.0) == "a"


def test_several_shapes_count_together() -> None:
    points = [{"a": [1.0, 1.0, 9.0], "b": [2.0, 2.0, 9.0]}, {"a": [10.0, 10.0], "b": [5.0, 5.0]}]
    assert summed(points) == {"a": [11.0, 11.0], "b": [7.0, 7.0]}


class Clock:
    """A clock that goes on by what the calls cost."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def test_contenders_take_turns_and_the_order_turns() -> None:
    clock, calls = Clock(), []  # type: Clock, list[str]

    def call(name: str, cost: float) -> None:
        calls.append(name)
        clock.spend(cost)

    contenders = {"a": lambda: call("a", 1.0), "b": lambda: call("b", 2.0)}
    times = interleaved(contenders, runs=3, warmup=1, clock=clock, pause=0)
    assert times == {"a": [1.0] * 3, "b": [2.0] * 3}
    # One call to warm up, then an untimed one and a timed one a turn.
    assert calls == list("ab" + "aabb" + "bbaa" + "aabb")


def test_a_limit_ends_the_rounds_after_three() -> None:
    clock = Clock()
    assert len(interleaved({"a": lambda: clock.spend(1.0)}, runs=9, seconds=0.1, clock=clock, pause=0)["a"]) == 3
