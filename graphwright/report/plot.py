"""A grouped bar chart as SVG text: one group a shape, one bar a contender, on a logarithmic scale."""

import math
from collections.abc import Iterator, Sequence
from html import escape

from graphwright.report import Latency

_WIDTH, _HEIGHT = 760, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 40, 36
# The page's style sheet gives one colour to each of these classes.
_COLOURS = 4
_GAP = 0.24


def bar_chart(latency: Sequence[Latency]) -> str:
    """Return the chart; heights are medians, whiskers reach from p10 to p90.

    Example:
        >>> ours, other = (Latency("1x16", name, 2.0, 1.5, 3.0, 9) for name in ("ours", "<other>"))
        >>> chart = bar_chart([ours, other])
        >>> chart.count('class="bar'), "&lt;other&gt;" in chart
        (2, True)
    """
    shown = [one for one in latency if one.median > 0]
    if not shown:
        return ""
    contenders = list(dict.fromkeys(one.contender for one in shown))
    scale = _Scale([one.p10 or one.median for one in shown], [one.p90 for one in shown])
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Latency in milliseconds by shape">',
        *_axis(scale),
        *_groups(shown, contenders, scale),
        *_legend(contenders),
        "</svg>",
    ]
    return "\n".join(parts)


class _Scale:
    """Milliseconds to vertical position by their logarithm, from tick to tick around the data."""

    def __init__(self, lows: Sequence[float], highs: Sequence[float]) -> None:
        steps = [factor * 10.0**power for power in range(-6, 9) for factor in (1, 2, 5)]
        low = max((step for step in steps if step <= min(lows) * 0.8), default=steps[0])
        high = min((step for step in steps if step >= max(highs)), default=steps[-1])
        self.ticks = [step for step in steps if low <= step <= high]
        self._low, self._high = math.log(low), math.log(max(high, low * 2))

    def __call__(self, milliseconds: float) -> float:
        share = (math.log(max(milliseconds, 1e-6)) - self._low) / (self._high - self._low)
        return _HEIGHT - _BOTTOM - min(max(share, 0.0), 1.0) * (_HEIGHT - _BOTTOM - _TOP)


def _axis(scale: _Scale) -> Iterator[str]:
    for tick in scale.ticks:
        y = scale(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
    yield f'<text class="tick" x="4" y="{_TOP - 14}">ms, log scale</text>'


def _groups(latency: Sequence[Latency], contenders: Sequence[str], scale: _Scale) -> Iterator[str]:
    shapes = list(dict.fromkeys(one.shape for one in latency))
    group = (_WIDTH - _LEFT - _RIGHT) / len(shapes)
    width = group * (1 - _GAP) / len(contenders)
    for index, shape in enumerate(shapes):
        left = _LEFT + index * group
        centre = left + group / 2
        place = f'x="{centre:.1f}" y="{_HEIGHT - 14}" text-anchor="middle"'
        yield f'<text class="tick" {place}>{escape(shape)}</text>'
        for one in latency:
            if one.shape == shape:
                index_in_group = contenders.index(one.contender)
                x = left + group * _GAP / 2 + index_in_group * width
                yield from _bar(one, x, width, index_in_group, scale)


def _bar(one: Latency, x: float, width: float, place: int, scale: _Scale) -> Iterator[str]:
    top, bottom, middle = scale(one.median), _HEIGHT - _BOTTOM, x + width / 2
    title = f"{one.contender}, {one.shape}: {one.median:.2f} ms ({one.p10:.2f} to {one.p90:.2f})"
    yield (
        f'<rect class="bar c{place % _COLOURS}" x="{x:.1f}" y="{top:.1f}" width="{width * 0.92:.1f}" '
        f'height="{bottom - top:.1f}"><title>{escape(title)}</title></rect>'
    )
    middle -= width * 0.04
    yield (
        f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}" '
        f'y1="{scale(one.p10):.1f}" y2="{scale(one.p90):.1f}"/>'
    )
    yield (
        f'<text class="value" x="{middle:.1f}" y="{scale(one.p90) - 4:.1f}" text-anchor="middle">'
        f"{_short(one.median)}</text>"
    )


def _legend(contenders: Sequence[str]) -> Iterator[str]:
    x = float(_LEFT + 90)
    for place, name in enumerate(contenders):
        yield f'<rect class="c{place % _COLOURS}" x="{x:.0f}" y="12" width="12" height="12"/>'
        yield f'<text class="tick" x="{x + 17:.0f}" y="22">{escape(name)}</text>'
        x += 42 + 7.0 * len(name)


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.3g}"
