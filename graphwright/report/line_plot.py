"""Lines through measured points as SVG text: the first axis logarithmic, the second as asked."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from graphwright.report import Latency

_WIDTH, _HEIGHT = 760, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 62, 44
_LEGEND_ROW = 18
# The page's style sheet gives one colour to each of these classes.
_COLOURS = 6
_MOST_TICKS = 10
# Two sizes show no growth that the bars do not.
_FEWEST = 3
# Where nothing spreads an axis.
_LEAST_SHARE = 0.05

Position = Callable[[float], float]


@dataclass(frozen=True)
class Point:
    """One measurement, and from where to where it spreads."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Chart:
    """Lines by name with their points, and levels by name, which are drawn across; units stand at the axes."""

    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[Point]]
    levels: Mapping[str, float] = field(default_factory=dict)
    is_log: bool = True


def line_chart(chart: Chart) -> str:
    """Return the chart, or no text where there is nothing to draw.

    What a logarithm does not have is left out: numbers that are not above zero, NaN and infinity.

    Example:
        >>> times = [Point(128, 1.5), Point(512, 6.0), Point(2048, 24.0)]
        >>> drawn = line_chart(Chart("Time", "length", "ms", {"<ours>": times}))
        >>> drawn.count('class="dot'), "&lt;ours&gt;" in drawn
        (3, True)
    """
    lines = {
        name: sorted(_drawable(points, chart.is_log), key=lambda point: point.x) for name, points in chart.lines.items()
    }
    lines = {name: points for name, points in lines.items() if points}
    levels = {name: y for name, y in chart.levels.items() if _is_drawable(y, chart.is_log)}
    if not lines:
        return ""
    points = [point for each in lines.values() for point in each]
    xs = sorted({point.x for point in points})
    heights = [y for point in points for y in _extent(point)] + list(levels.values())
    x = _horizontal(xs)
    ticks = _log_ticks(min(heights), max(heights)) if chart.is_log else _even_ticks(min(heights), max(heights))
    y = _vertical(ticks[0], ticks[-1], chart.is_log)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(chart.title)}">',
        *_axes(chart, xs, ticks, x, y),
        *(part for place, level in enumerate(levels.items(), len(lines)) for part in _level(*level, place, y)),
        *(part for place, line in enumerate(lines.items()) for part in _line(*line, place, x, y)),
        *_legend([*lines, *levels]),
        "</svg>",
    ]
    return "\n".join(parts)


def latency_curve(latency: Sequence[Latency]) -> str:
    """Return times against the size that changes, where shapes (``batch=1,seq=128``) differ in one; else no text.

    Example:
        >>> times = [Latency(f"batch=1,seq={size}", "ours", size / 64, 1.0, 99.0, 9) for size in (64, 128, 256)]
        >>> "seq, log scale" in latency_curve(times), latency_curve(times[:2])
        (True, '')
    """
    shapes = {one.shape: dict(part.split("=", 1) for part in one.shape.split(",") if "=" in part) for one in latency}
    sizes = [shape for shape in shapes.values() if shape]
    changing = [name for name in (sizes[0] if sizes else ()) if len({shape.get(name) for shape in sizes}) > 1]
    if len(sizes) < max(len(shapes), _FEWEST) or len(changing) != 1:
        return ""
    lines: dict[str, list[Point]] = {}
    for one in latency:
        size = shapes[one.shape].get(changing[0], "")
        if not size.isdecimal():
            return ""
        lines.setdefault(one.contender, []).append(Point(int(size), one.median, one.p10, one.p90))
    return line_chart(Chart(f"Latency by {changing[0]}", changing[0], "ms", lines))


def _drawable(points: Sequence[Point], is_log: bool) -> list[Point]:
    return [
        point
        for point in points
        if _is_drawable(point.x, True) and all(_is_drawable(y, is_log) for y in _extent(point))
    ]


def _is_drawable(number: float, is_log: bool) -> bool:
    return math.isfinite(number) and (number > 0 or not is_log)


def _extent(point: Point) -> list[float]:
    return [y for y in (point.y, point.low, point.high) if y is not None]


def _horizontal(xs: Sequence[float]) -> Position:
    first, width = math.log(xs[0]), math.log(xs[-1]) - math.log(xs[0])
    inner = 24

    def position(x: float) -> float:
        share = (math.log(x) - first) / width if width else 0.5
        return _LEFT + inner + share * (_WIDTH - _LEFT - _RIGHT - 2 * inner)

    return position


def _vertical(low: float, high: float, is_log: bool) -> Position:
    def size(y: float) -> float:
        return math.log(y) if is_log else y

    def position(y: float) -> float:
        share = (size(y) - size(low)) / (size(high) - size(low))
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - _TOP)

    return position


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten around the data, or powers alone where those are many."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    for factors in ((1, 2, 5), (1,)):
        steps = [factor * 10.0**power for power in powers for factor in factors]
        first = max(index for index, step in enumerate(steps) if step <= low)
        last = min(index for index, step in enumerate(steps) if step >= high and index > first)
        if last - first < _MOST_TICKS:
            break
    return steps[first : last + 1]


def _even_ticks(low: float, high: float) -> list[float]:
    spread = max(high - low, _LEAST_SHARE * abs(high), 1e-9)
    rough = spread / (_MOST_TICKS - 3)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _axes(chart: Chart, xs: Sequence[float], ticks: Sequence[float], x: Position, y: Position) -> Iterator[str]:
    for tick in ticks:
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        yield f'<text class="tick" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.6g}</text>'
    for each in xs:
        yield f'<line class="grid" x1="{x(each):.1f}" x2="{x(each):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
        place = f'x="{x(each):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle"'
        yield f'<text class="tick" {place}>{each:.6g}</text>'
    scale = ", log scale" if chart.is_log else ""
    yield f'<text class="tick" x="4" y="{_TOP - 12}">{escape(chart.y)}{scale}</text>'
    place = f'x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end"'
    yield f'<text class="tick" {place}>{escape(chart.x)}, log scale</text>'


def _line(name: str, points: Sequence[Point], place: int, x: Position, y: Position) -> Iterator[str]:
    colour = f"s{place % _COLOURS}"
    path = " ".join(f"{x(point.x):.1f},{y(point.y):.1f}" for point in points)
    yield f'<polyline class="line {colour}" points="{path}"/>'
    for point in points:
        across, down = x(point.x), y(point.y)
        spread = ""
        if point.low is not None and point.high is not None:
            spread = f" ({point.low:.4g} to {point.high:.4g})"
            ends = f'y1="{y(point.low):.1f}" y2="{y(point.high):.1f}"'
            yield f'<line class="whisker" x1="{across:.1f}" x2="{across:.1f}" {ends}/>'
        title = escape(f"{name}, {point.x:.6g}: {point.y:.4g}{spread}")
        centre = f'cx="{across:.1f}" cy="{down:.1f}" r="4"'
        yield f'<circle class="dot c{place % _COLOURS}" {centre}><title>{title}</title></circle>'


def _level(name: str, level: float, place: int, y: Position) -> Iterator[str]:
    ends = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(level):.1f}" y2="{y(level):.1f}"'
    yield f'<line class="level s{place % _COLOURS}" {ends}><title>{escape(f"{name}: {level:.4g}")}</title></line>'


def _legend(names: Sequence[str]) -> Iterator[str]:
    x, y = float(_LEFT), 8
    for place, name in enumerate(names):
        width = 36 + 7.0 * len(name)
        if x > _LEFT and x + width > _WIDTH:
            x, y = float(_LEFT), y + _LEGEND_ROW
        yield f'<rect class="c{place % _COLOURS}" x="{x:.0f}" y="{y}" width="12" height="12"/>'
        yield f'<text class="tick" x="{x + 17:.0f}" y="{y + 10}">{escape(name)}</text>'
        x += width
