"""Reports: what they count, and their three forms."""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.report import Explanation, Latency, PassRow, Report, Size, Verification, VerifiedPoint
from graphwright.report.measure import size_of
from graphwright.report.plot import bar_chart
from graphwright.report.progress import progress_bar

EVIL = "<script>alert('x')</script>&"

GELU = """<ir_version: 10, opset_import: ["": 24]>
gelu (float[n] x) => (float[n] z) {
    half = Constant<value_float = 0.5> ()
    one = Constant<value_float = 1.0> ()
    root = Constant<value_float = 1.4142135> ()
    scaled = Div(x, root)
    erf = Erf(scaled)
    bracket = Add(erf, one)
    product = Mul(x, bracket)
    y = Mul(product, half)
    z = Neg(y)
}"""


def full(text: str = "plain") -> Report:
    row = PassRow(text, "lift", 3, 2, {"SHARED": 1, "DTYPE": 2}, 0.5, 10, 4)
    unknown = PassRow("other", "user", 1, None, {}, 0.1, 4, 4)
    point = VerifiedPoint({text: (1, 2)}, text, 1e-6, 2e-5)
    return Report(
        text,
        "ab" * 32,
        "ort-cpu",
        text,
        (row, unknown),
        Size({"Erf": 2, text: 1}, 10, 1 << 20),
        Size({"Gelu": 1, text: 1}, 4, 1 << 20),
        Verification("final", "PyTorch", (point,), (text,), 4, (text,)),
        (Explanation(text, text, "DTYPE", text),),
        (Latency("1x16", text, 2.0, 1.0, 3.0, 5), Latency("1x16", "plain", 4.0, 3.0, 5.0, 5)),
        {"passes": 1.0},
    )


class Reader(HTMLParser):
    """Collects what would run or load, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_a_report_comes_back_from_json() -> None:
    report = full(EVIL)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_a_number_that_json_lacks_is_written_as_text() -> None:
    point = VerifiedPoint({}, "y", float("inf"), float("nan"))
    report = full()
    broken = Report(*(getattr(report, name) for name in list(vars(report))[:7]), Verification("final", "x", (point,)))
    text = json.dumps(broken.to_json(), allow_nan=False)
    verification = Report.from_json(json.loads(text)).verification
    assert verification is not None
    assert verification.worst == float("inf")


def test_the_table_shows_counts_reasons_and_the_worst_difference() -> None:
    text = full().table(width=120)
    assert "10 -> 4" in text
    assert "2 DTYPE, 1 SHARED" in text
    assert "PyTorch" in text
    assert "1.0e-06" in text
    assert "0.5" in text
    assert max(map(len, text.splitlines())) <= 120


def test_names_are_never_taken_for_markup() -> None:
    assert "[red]name[/red]" in full("[red]name[/red]").table(width=200)


def test_the_page_is_one_file_that_runs_nothing_and_loads_nothing(tmp_path: Path) -> None:
    full(EVIL).to_html(tmp_path / "report.html")
    page = read(tmp_path / "report.html")
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.links == []
    assert page.tags.count("svg") == 1
    assert page.tags.count("rect") == 4
    assert EVIL in "".join(page.text)
    text = (tmp_path / "report.html").read_text()
    assert "prefers-color-scheme" in text
    assert "http:" not in text and "https:" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_page_needs_no_latency_and_no_verification(tmp_path: Path) -> None:
    report = full()
    few = Report(*(getattr(report, name) for name in list(vars(report))[:7]))
    few.to_html(tmp_path / "report.html")
    assert "svg" not in read(tmp_path / "report.html").tags


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(gw.OutputError, match="missing"):
        full().to_html(tmp_path / "missing" / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(gw.OutputError, match="taken"):
        full().to_html(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_without_jinja2_the_page_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(gw.MissingDependencyError, match=r"pip install graphwright\[report\]"):
        full().to_html(tmp_path / "report.html")


def test_times_of_zero_and_of_many_sizes_can_be_drawn() -> None:
    assert bar_chart([Latency("x", "a", 0.0, 0.0, 0.0, 1)]) == ""
    times = [Latency(f"{size}", "a", 10.0**size, 0.0, 10.0**size, 3) for size in range(-5, 7)]
    assert bar_chart(times).count("<rect") == len(times) + 1


def test_what_a_later_pass_replaced_does_not_count_as_surviving() -> None:
    undo = gw.Rule("gelu-to-relu", (lambda op, x: op.Gelu(x),), lambda op, x: op.Relu(x))
    model = ir.from_onnx_text(GELU)
    alone = gw.optimize(model, passes="fuse-gelu", progress=False).report.passes[0]
    assert (alone.applied, alone.surviving) == (1, 1)
    settings = {"verify": "off", "progress": False}
    replaced = gw.optimize(model, passes=["fuse-gelu", undo], **settings).report.passes
    assert [(row.applied, row.surviving) for row in replaced] == [(1, 0), (1, 1)]


def test_a_refusal_is_counted_by_its_reason_and_explained() -> None:
    shared = ir.from_onnx_text(GELU.replace("z = Neg(y)", "z = Add(y, erf)"))
    report = gw.optimize(shared, passes="fuse-gelu", progress=False).report
    assert report.passes[0].refused == {"SHARED": 1}
    assert [one.reason for one in report.explanations] == ["SHARED"]


def test_sizes_count_subgraphs_and_shared_weights_once() -> None:
    weight = ir.tensor([1.0, 2.0], dtype=ir.DataType.FLOAT, name="w")
    values = [ir.Value(name=f"w{index}", const_value=weight) for index in range(2)]
    nodes = [ir.node("Neg", [value]) for value in values]
    graph = ir.Graph([], [], nodes=nodes, initializers=values, opset_imports={"": 24})
    assert size_of(ir.Model(graph, ir_version=10)) == Size({"Neg": 2}, 2, 8)


def test_progress_is_silent_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    for wanted in (None, False):
        with progress_bar(wanted) as tell:
            tell("step", 0, 1)
    assert capsys.readouterr() == ("", "")


def test_the_bar_can_be_forced(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(True) as tell:
        tell("a step of note", 1, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "a step of note" in captured.err
