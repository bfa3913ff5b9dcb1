"""What a run of the compiler did, as plain data; it goes to a table, to JSON and to one HTML file."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graphwright.engine.deviation import Deviation
from graphwright.errors import LoadError
from graphwright.report.tuning import Tuning

__all__ = ["Deviation", "Explanation", "Latency", "PassRow", "Report", "Size", "Verification", "VerifiedPoint"]

# Stands for a pass where the target itself does not take a node of the result.
TARGET = "target"


@dataclass(frozen=True)
class PassRow:
    """One pass of the run. ``surviving`` counts the applications that the final graph still shows.

    It is None where that cannot be seen: a pass that is no rule leaves no mark on the nodes that it makes.
    """

    name: str
    family: str
    applied: int
    surviving: int | None
    refused: Mapping[str, int]
    seconds: float
    nodes_before: int
    nodes_after: int


@dataclass(frozen=True)
class Explanation:
    """A rewrite that was not made, and why; or a node that the target does not take."""

    pass_name: str
    node: str
    reason: str
    detail: str


@dataclass(frozen=True)
class VerifiedPoint:
    """One comparison: the shapes of the inputs, and how far off the worst output was.

    ``relative`` is the difference over the size of the numbers, as ``engine.compare.scale_of`` defines it.
    """

    shapes: Mapping[str, tuple[int, ...]]
    output: str
    absolute: float
    relative: float


@dataclass(frozen=True)
class Verification:
    """How the result was compared: with what, and where the source itself cannot run (``skipped``).

    ``regions`` counts comparisons of single applications, ``unverified`` names those that could not be
    compared. ``by_design`` counts the applications, by pass, that change the numbers by design. Where there are
    any, ``points`` and ``deviations`` tell how far the result is from the source, and ``kept_absolute`` and
    ``kept_relative`` how far off all other passes are.
    """

    mode: str
    reference: str = ""
    points: tuple[VerifiedPoint, ...] = ()
    skipped: tuple[str, ...] = ()
    regions: int = 0
    unverified: tuple[str, ...] = ()
    by_design: Mapping[str, int] = field(default_factory=dict)
    deviations: tuple[Deviation, ...] = ()
    kept_absolute: float = 0.0
    kept_relative: float = 0.0

    @property
    def worst(self) -> float | None:
        """The largest difference over all points, or None where nothing was compared."""
        return max((point.absolute for point in self.points), default=None)


@dataclass(frozen=True)
class Latency:
    """Times of one contender at one shape, in milliseconds."""

    shape: str
    contender: str
    median: float
    p10: float
    p90: float
    runs: int


@dataclass(frozen=True)
class Size:
    """What a model consists of: operators by name with their counts, nodes, and bytes of weights."""

    operators: Mapping[str, int]
    nodes: int
    weight_bytes: int


@dataclass(frozen=True)
class Report:
    """Everything that is known of a run.

    Example:
        >>> size = Size({"Relu": 1}, 1, 0)
        >>> row = PassRow("fuse-gelu", "lift", 0, 0, {}, 0.1, 1, 1)
        >>> report = Report("m", "ab", "ort-cpu", "fuse-gelu", (row,), size, size)
        >>> Report.from_json(report.to_json()) == report
        True
        >>> print(report.table(width=80).splitlines()[0].strip())
        m for ort-cpu: 1 -> 1 nodes, weights 0.0 -> 0.0 MiB
    """

    model: str
    source_sha256: str
    target: str
    pipeline: str
    passes: tuple[PassRow, ...]
    before: Size
    after: Size
    verification: Verification | None = None
    explanations: tuple[Explanation, ...] = ()
    latency: tuple[Latency, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    tuning: Tuning | None = None
    padding: str = "keep"

    def table(self, *, width: int | None = None) -> str:
        """Return the report as text for a terminal of the given width (None: this terminal's)."""
        from graphwright.report.text import render

        return render(self, width)

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, texts and numbers."""
        return {"format": 1, **_plain(asdict(self))}

    def to_html(self, path: str | Path) -> None:
        """Write one HTML file that needs no network.

        Raises:
            MissingDependencyError: jinja2 is not installed.
            OutputError: the file could not be written.
        """
        from graphwright.report.html import write

        write(self, Path(path))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Report":
        """Return the report that :meth:`to_json` gave.

        Raises:
            LoadError: the data has another form.
        """
        try:
            checked = data["verification"]
            return cls(
                data["model"],
                data["source_sha256"],
                data["target"],
                data["pipeline"],
                tuple(PassRow(**row) for row in data["passes"]),
                Size(**data["before"]),
                Size(**data["after"]),
                None if checked is None else _verification(checked),
                tuple(Explanation(**one) for one in data["explanations"]),
                tuple(Latency(**one) for one in data["latency"]),
                data["seconds"],
                # Reports of artifacts that were written before there was tuning have none.
                None if data.get("tuning") is None else Tuning.from_json(data["tuning"]),
                data.get("padding", "keep"),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise LoadError("report", f"no such form ({error})", needed="a report.json of this version") from error


def _verification(data: Mapping[str, Any]) -> Verification:
    points = tuple(
        VerifiedPoint(
            {name: tuple(shape) for name, shape in point["shapes"].items()},
            point["output"],
            float(point["absolute"]),
            float(point["relative"]),
        )
        for point in data["points"]
    )
    deviations = tuple(
        Deviation(one["output"], float(one["absolute"]), float(one["relative"]), one["cosine"], one["unequal"])
        for one in data["deviations"]
    )
    return Verification(
        data["mode"],
        data["reference"],
        points,
        tuple(data["skipped"]),
        data["regions"],
        tuple(data["unverified"]),
        data["by_design"],
        deviations,
        float(data["kept_absolute"]),
        float(data["kept_relative"]),
    )


def _plain(value: Any) -> Any:
    """Tuples become lists; a number that JSON does not have becomes its name."""
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value - value != 0.0:
        return str(value)
    return value
