"""Plots of lines, and the page of DAMF's accuracy and latency."""

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import graphwright as gw
from graphwright.report import Latency
from graphwright.report.damf import damf_html
from graphwright.report.line_plot import Chart, Point, latency_curve, line_chart
from tests.test_report import EVIL, full, read

LENGTHS = (128, 512, 2048, 8192)


def times(contender: str, power: int) -> list[dict[str, Any]]:
    found = (Latency(str(n), contender, n**power / 1e3, n**power / 2e3, n**power / 5e2, 9) for n in LENGTHS)
    return [vars(each) for each in found]


def result() -> dict[str, Any]:
    """What examples/04_damf.py writes, shortened."""
    arms = {"exact": 0.84, "rank 1, linear": 0.8, "rank 8, linear": 0.83, "rank 1, exact softmax": 0.81}
    summary = {
        name: {"before": [0.5, 0.52], "after": [after, after + 0.02], "relative loss": [0.01, 0.02]}
        for name, after in arms.items()
    }
    latency = {"one attention layer": times("exact", 2) + times("rank 1, linear", 1), "the whole model": []}
    circumstances = {"date": "today", "machine": "a machine", "threads": 2, "versions": {"numpy": "2.0"}}
    return {"circumstances": circumstances, "texts": "12 texts", "summary": summary, "latency": latency}


def dots(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'class="dot[^>]*cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_a_power_of_the_length_is_a_straight_line_of_its_slope() -> None:
    drawn = {}
    for power in (1, 2):
        points = [Point(n, float(n) ** power) for n in LENGTHS]
        # The other line gives both charts the same axes.
        both = {"line": points, "axes": [Point(128, 128.0), Point(8192, 8192.0**2)]}
        found = dots(line_chart(Chart("t", "length", "ms", both)))[: len(LENGTHS)]
        steps = [(b[0] - a[0], a[1] - b[1]) for a, b in pairwise(found)]
        assert all(math.isclose(across, steps[0][0], abs_tol=0.2) for across, _ in steps)
        assert all(math.isclose(up, steps[0][1], abs_tol=0.2) for _, up in steps)
        drawn[power] = steps[0][1]
    assert math.isclose(drawn[2], 2 * drawn[1], abs_tol=0.5)


@pytest.mark.parametrize("is_log", [True, False])
@pytest.mark.parametrize("ys", [[1e-6, 5e7], [80.0, 80.0], [84.3], [0.0, 100.0], [3.0, 2.999]])
def test_every_point_lies_inside_the_axes(ys: list[float], is_log: bool) -> None:
    points = [Point(2.0**place, y) for place, y in enumerate(ys, 3)]
    found = dots(line_chart(Chart("t", "rank", "%", {"a": points}, is_log=is_log)))
    assert len(found) == sum(y > 0 or not is_log for y in ys)
    assert all(64 <= x <= 744 and 62 <= y <= 296 for x, y in found)


def test_what_cannot_be_drawn_is_left_out() -> None:
    points = [Point(1, math.nan), Point(0, 1.0), Point(1, math.inf), Point(2, 1.0, 0.0, 2.0)]
    assert line_chart(Chart("t", "x", "y", {"a": points})) == ""
    assert line_chart(Chart("t", "x", "y", {})) == ""
    assert len(dots(line_chart(Chart("t", "x", "y", {"a": points}, is_log=False)))) == 1


def test_many_lines_have_a_legend_in_rows_inside_the_picture() -> None:
    drawn = line_chart(Chart("t", "x", "y", {f"a rather long name {place}": [Point(1, 1.0)] for place in range(6)}))
    places = [(int(x), int(y)) for x, y in re.findall(r'<rect[^>]* x="(\d+)" y="(\d+)"', drawn)]
    assert len(set(places)) == 6
    assert len({y for _, y in places}) > 1
    assert max(x for x, _ in places) < 600


def test_the_page_has_both_plots_and_loads_nothing(tmp_path: Path) -> None:
    damf_html(tmp_path / "damf.html", json.loads(json.dumps(result())))
    page = read(tmp_path / "damf.html")
    assert page.tags.count("svg") == 2
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.links == []
    text = " ".join("".join(page.text).split())
    assert "Accuracy against rank" in text
    assert "Latency against length: one attention layer" in text
    assert "machine a machine; threads 2; date today; versions numpy 2.0" in text
    # Ranks 1 and 8 of the linear form, 1 of the other; four lengths of two contenders.
    assert page.tags.count("circle") == 3 + 8
    assert "81.0 ± 1.4" in text
    source = (tmp_path / "damf.html").read_text()
    assert 'class="level' in source
    assert "http:" not in source and "https:" not in source
    assert [path.name for path in tmp_path.iterdir()] == ["damf.html"]


def test_a_benchmark_alone_is_a_page_of_latency(tmp_path: Path) -> None:
    timed = [{"threads": threads, **each} for threads in (1, 2) for each in times("damf rank 1", 1)]
    damf_html(tmp_path / "damf.html", {"benchmark": "damf", "layer": "width 384", "milliseconds": timed})
    page = read(tmp_path / "damf.html")
    text = " ".join("".join(page.text).split())
    assert "one attention layer, 1 threads" in text and "one attention layer, 2 threads" in text
    assert "Accuracy" not in text
    assert page.tags.count("svg") == 2


def test_names_stay_text(tmp_path: Path) -> None:
    given = result()
    given["summary"][f"rank 4, {EVIL}"] = given["summary"]["rank 1, linear"]
    given["latency"][EVIL] = times(EVIL, 1)
    damf_html(tmp_path / "damf.html", given)
    assert "script" not in read(tmp_path / "damf.html").tags


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"summary": {}, "latency": {}},
        {"summary": [1]},
        {"summary": {"exact": {"after": ["high"]}}},
        {"latency": {"layer": [{"shape": "128"}]}},
        {"latency": {"layer": [{**times("a", 1)[0], "shape": "1x16"}]}},
    ],
)
def test_a_result_of_another_form_is_refused(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(gw.LoadError, match="DAMF result"):
        damf_html(tmp_path / "damf.html", given)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(gw.OutputError, match="missing"):
        damf_html(tmp_path / "missing" / "damf.html", result())


def timed_at(*shapes: str) -> list[Latency]:
    return [Latency(shape, "ours", float(place), 0.5, 9.0, 3) for place, shape in enumerate(shapes, 1)]


def test_a_report_of_several_lengths_draws_them(tmp_path: Path) -> None:
    lengths = timed_at("batch=1,seq=128", "batch=1,seq=512", "batch=1,seq=2048")
    assert len(dots(latency_curve(lengths))) == 3
    report = full()
    fields = {name: getattr(report, name) for name in vars(report)} | {"latency": tuple(lengths)}
    type(report)(**fields).to_html(tmp_path / "report.html")
    assert read(tmp_path / "report.html").tags.count("svg") == 2


@pytest.mark.parametrize(
    "shapes",
    [
        (),
        ("batch=1,seq=128", "batch=1,seq=512"),
        ("batch=1,seq=128", "batch=2,seq=512", "batch=3,seq=64"),
        ("1x16", "1x32", "1x64"),
        ("batch=1,seq=128", "batch=1,seq=512", "1x64"),
        ("seq=a", "seq=b", "seq=c"),
    ],
)
def test_shapes_that_differ_in_more_than_one_size_have_no_curve(shapes: tuple[str, ...]) -> None:
    assert latency_curve(timed_at(*shapes)) == ""
