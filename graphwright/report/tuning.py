"""What tuning tried, what it measured and what it chose, as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MEASURED, CACHED, NOT_TIMED = "measured", "from the cache", "not timed"


@dataclass(frozen=True)
class Tried:
    """One thing that was timed: a distinct region of the graph, or the whole model.

    ``count``: regions like it. ``milliseconds``: the median of each alternative, summed over the shapes. ``default`` is
    what the pipeline does without tuning. ``origin`` is measured, from the cache, or not timed, then with a ``note``.
    """

    choice: str
    node: str
    count: int
    shapes: tuple[str, ...]
    milliseconds: Mapping[str, float]
    default: str
    chosen: str
    origin: str = MEASURED
    note: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Tuning:
    """A whole tuning: the circumstances, each region, and the model with all choices against the one without.

    ``kept`` tells whether the choices are in the result. ``seconds`` is what it took in all.
    """

    machine: Mapping[str, str] = field(default_factory=dict)
    regions: tuple[Tried, ...] = ()
    whole: Tried | None = None
    kept: bool = False
    seconds: float = 0.0

    @property
    def outcome(self) -> str:
        """What came of it, in a sentence.

        Example:
            >>> Tuning().outcome
            'Tuning: no region has more than one valid lowering; the default is kept.'
        """
        if not self.regions:
            return "Tuning: no region has more than one valid lowering; the default is kept."
        timed = sum(one.origin == MEASURED for one in self.regions)
        cached = sum(one.origin == CACHED for one in self.regions)
        left = len(self.regions) - timed - cached
        counts = f"{timed} regions measured, {cached} from the cache" + (f", {left} not timed" if left else "")
        text = f"Tuning: {counts}, {self.seconds:.1f} s."
        if self.whole is None:
            return f"{text} No other lowering is faster than the default by more than the noise."
        times = self.whole.milliseconds
        figures = f"{times.get('tuned', 0.0):.3f} ms against {times.get('default', 0.0):.3f} ms of the default"
        verdict = "kept" if self.kept else "not faster by more than the noise, so the default is kept"
        return f"{text} The whole model with the choices: {figures}; {verdict}."

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Tuning":
        """Return the tuning that the report's JSON holds.

        Raises:
            KeyError, TypeError: the data has another form.
        """
        whole = data["whole"]
        return cls(
            dict(data["machine"]),
            tuple(_tried(one) for one in data["regions"]),
            None if whole is None else _tried(whole),
            bool(data["kept"]),
            float(data["seconds"]),
        )


def summary_of(tuning: Tuning) -> dict[str, Any]:
    """Return what an artifact's manifest says of a tuning: where it was done, and what was chosen."""
    chosen = {f"{one.choice}: {one.node}": one.chosen for one in tuning.regions if one.chosen != one.default}
    return {"machine": dict(tuning.machine), "kept": tuning.kept, "chosen": chosen if tuning.kept else {}}


def _tried(data: Mapping[str, Any]) -> Tried:
    return Tried(**{**data, "shapes": tuple(data["shapes"])})
