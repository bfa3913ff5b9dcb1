"""What DAMF costs in accuracy and saves in time, as one HTML page: tables, and a plot of each.

The figures are those that ``examples/04_damf.py`` and ``benchmarks/damf.py`` write; a page shows what is there of them.
"""

import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from graphwright.errors import LoadError
from graphwright.report import Latency
from graphwright.report.html import environment, style, write_page
from graphwright.report.line_plot import Chart, Point, line_chart

_RANK = re.compile(r"rank (\d+), (.+)")
_EXACT = "exact"


@dataclass(frozen=True)
class _Timed:
    """One table and plot of latency: median milliseconds by contender and length."""

    title: str
    lengths: list[str]
    rows: dict[str, list[Latency | None]]
    chart: str


@dataclass(frozen=True)
class _Accuracy:
    """One row: percentages with their spread, as text."""

    name: str
    before: str
    after: str
    loss: str


def damf_html(path: str | Path, result: Mapping[str, Any]) -> None:
    """Write the page of a result, one file that needs no network.

    ``result`` has the keys of those scripts' JSON: ``summary``, from the name of an attention (``exact``, ``rank 4,
    linear``) to accuracies by seed, ``before`` and ``after`` tuning; and ``latency``, from what was timed to times by
    length, or ``milliseconds``, times with their threads. Accuracy is drawn against rank and latency against length.

    Raises:
        LoadError: the result has none of these keys, or in another form.
        MissingDependencyError: jinja2 is not installed.
        OutputError: the file could not be written.
    """
    try:
        accuracy, chart = _accuracy(result.get("summary", {}))
        timed = [_timed(title, times) for title, times in _latencies(result).items() if times]
        circumstances = _circumstances(result)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        needed = "what examples/04_damf.py or benchmarks/damf.py writes"
        raise LoadError("DAMF result", f"no such form ({error!r})", needed=needed) from error
    if not accuracy and not timed:
        raise LoadError("DAMF result", "neither accuracies nor times", needed="summary, latency or milliseconds")
    jinja = environment()
    from markupsafe import Markup

    template = files("graphwright.report").joinpath("damf.html.jinja").read_text(encoding="utf-8")
    text = jinja.from_string(template).render(
        style=Markup(style()),
        what=result.get("texts") or result.get("layer") or "",
        circumstances=circumstances,
        accuracy=accuracy,
        accuracy_chart=Markup(chart),
        timed=[(each, Markup(each.chart)) for each in timed],
    )
    write_page(text, Path(path))


def _accuracy(summary: Mapping[str, Mapping[str, Sequence[float]]]) -> tuple[list[_Accuracy], str]:
    rows = [
        _Accuracy(name, *(_percent(arm.get(key, ())) for key in ("before", "after", "relative loss")))
        for name, arm in summary.items()
    ]
    lines: dict[str, list[Point]] = {}
    for name, arm in summary.items():
        found = _RANK.fullmatch(name)
        if found is not None and arm.get("after"):
            lines.setdefault(found[2], []).append(_point(int(found[1]), [100 * each for each in arm["after"]]))
    exact = summary.get(_EXACT, {}).get("after")
    levels = {_EXACT: 100 * statistics.mean(exact)} if exact else {}
    drawn = line_chart(Chart("Accuracy after tuning by rank", "rank", "accuracy, %", lines, levels, is_log=False))
    return rows, drawn


def _point(rank: int, values: Sequence[float]) -> Point:
    """Return mean and standard deviation; no spread of one value."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return Point(rank, mean)
    spread = statistics.stdev(values)
    return Point(rank, mean, mean - spread, mean + spread)


def _percent(values: Sequence[float]) -> str:
    if not values:
        return "-"
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


def _latencies(result: Mapping[str, Any]) -> dict[str, list[Latency]]:
    found = {title: [_latency(each) for each in times] for title, times in result.get("latency", {}).items()}
    for each in result.get("milliseconds", ()):
        found.setdefault(f"one attention layer, {each['threads']} threads", []).append(_latency(each))
    return found


def _latency(given: Mapping[str, Any]) -> Latency:
    return Latency(**{name: given[name] for name in ("shape", "contender", "median", "p10", "p90", "runs")})


def _timed(title: str, times: Iterable[Latency]) -> _Timed:
    cells = {(one.contender, one.shape): one for one in times}
    lengths = sorted({shape for _, shape in cells}, key=int)
    names = list(dict.fromkeys(name for name, _ in cells))
    rows = {name: [cells.get((name, length)) for length in lengths] for name in names}
    lines = {
        name: [Point(int(one.shape), one.median, one.p10, one.p90) for one in row if one is not None]
        for name, row in rows.items()
    }
    drawn = line_chart(Chart(f"Latency by length: {title}", "length", "ms", lines))
    return _Timed(title, lengths, rows, drawn)


def _circumstances(result: Mapping[str, Any]) -> str:
    """Return what was measured on and with, in one line."""
    given = result.get("circumstances", result)
    found = {name: given[name] for name in ("machine", "threads", "date", "versions") if name in given}
    return "; ".join(f"{name} {_plain(value)}" for name, value in found.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items())
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
