"""``inspect --cost`` and ``inspect --damf-table``: what is printed, as text and as JSON, and wrong usage."""

import json
import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from graphwright.cli import main

MODEL = """<ir_version: 10, opset_import: ["": 24]>
g (float[batch, seq, 8] x) => (float[batch, seq, 8] y) {
    scale = Constant<value_floats = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]>()
    n = LayerNormalization(x, scale)
    a = Attention<q_num_heads = 2, kv_num_heads = 2>(n, n, n)
    y = Add(a, x)
}"""
ROOT = Path(__file__).parents[1]
CONVENTIONS = ("paper", "consistent", "complete")


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(MODEL), "model.onnx")
    strange = MODEL.replace("y = Add(a, x)", "b = NonZero(a) y = Add(a, x)")
    onnx.save(onnx.parser.parse_model(strange), "strange.onnx")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["inspect", *arguments]) == code
    return tuple(capsys.readouterr())  # type: ignore[return-value]


def test_without_a_profile_costs_are_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = run(capsys, "model.onnx", "--cost")
    assert "16*batch*seq**2" in text
    assert "Attention 3-D" in text
    assert "GFLOP" not in text
    costs = json.loads(run(capsys, "model.onnx", "--cost", "--json")[0])["cost"]
    assert list(costs) == ["formulas"]
    assert costs["formulas"]["dynamic_macs"] == "16*batch*seq**2"
    (attention,) = costs["formulas"]["attentions"]
    assert attention["dynamic_macs_as_in_the_paper"] == "10*batch*seq**2"


def test_with_a_profile_there_are_numbers_too(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("model.onnx", "--cost", "--profile", "batch=1:2:4,seq=1:10:20")
    text, _ = run(capsys, *arguments)
    assert "cost at opt (batch=2, seq=10)" in text
    assert "3,200" in text
    costs = json.loads(run(capsys, *arguments, "--json")[0])["cost"]
    assert list(costs) == ["formulas", "min", "opt", "max"]
    assert costs["max"]["dynamic_macs"] == 16 * 4 * 400
    assert costs["max"]["attentions"][0]["dynamic_macs_as_in_the_paper"] == 10 * 4 * 400


def test_figures_are_whole_in_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text, _ = run(capsys, "model.onnx", "--cost", "--profile", "batch=1:200:4000,seq=1:100:100000")
    cost = json.loads(run(capsys, "model.onnx", "--cost", "--profile", "batch=4000,seq=100000", "--json")[0])["cost"]
    for name in ("dynamic_macs", "flops", "bytes_read", "bytes_written"):
        assert f" {cost['max'][name]:,}" in text


def test_formulas_have_a_line_for_each_product(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = run(capsys, "model.onnx", "--cost")
    assert any(re.search(r"32\*batch\*seq \+(  |$)", line) for line in text.splitlines())
    assert "16*batch*seq**2" in text


def test_what_is_not_counted_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = run(capsys, "strange.onnx", "--cost")
    assert "1 nodes not counted" in text
    assert "NonZero: no formula for this operator" in text


def test_attentions_that_cost_the_same_share_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    attention = "Attention<q_num_heads = 2, kv_num_heads = 2>"
    twice = MODEL.replace("y = Add(a, x)", f"m = LayerNormalization(a, scale) b = {attention}(m, m, m) y = Add(b, x)")
    onnx.save(onnx.parser.parse_model(twice), "twice.onnx")
    text, _ = run(capsys, "twice.onnx", "--cost")
    assert "and 1 more, each" in " ".join(text.split())
    assert len(json.loads(run(capsys, "twice.onnx", "--cost", "--json")[0])["cost"]["formulas"]["attentions"]) == 2


def test_the_damf_table_has_every_figure_of_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = run(capsys, "--damf-table")
    rows = [line.split() for line in text.splitlines()]
    printed = {" ".join(row[:-5]): row[-4:] for row in rows if len(row) > 5 and row[-5] == "paper"}
    assert printed == {
        "BERT-base": ["9.00", "12.78", "4.06", "314.77"],
        "BERT-small": ["4.00", "8.52", "5.97", "142.74"],
        "BERT-base + DAMF": ["4.51", "0.03", "0.02", "153.39"],
    }
    for figure in ("4.57", "25.17", "32.50", "2.05", "1.99", "284", "2.21"):
        assert f" {figure}" in text
    for name in CONVENTIONS:
        assert f"\n{name}: " in text
    assert "D = L^2 (d + h)" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_damf_table_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    data = json.loads(run(capsys, "--damf-table", "--json")[0])
    assert [row["convention"] for row in data["rows"][:3]] == list(CONVENTIONS)
    assert round(data["rows"][6]["macs"] / 1e6, 2) == 153.39


@pytest.mark.parametrize(
    ("arguments", "found"), [((), "no MODEL"), (("model.onnx", "--damf-table"), "MODEL model.onnx too")]
)
def test_wrong_usage_is_an_error(arguments: tuple[str, ...], found: str, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = run(capsys, *arguments, code=2)
    assert out == ""
    assert err.startswith(f"error: inspect: found {found}; needed MODEL, or --damf-table alone")


@pytest.mark.parametrize("option", [("--cost",), ("--profile", "batch=1"), ("--task", "fill-mask")])
def test_the_table_takes_no_options_of_models(option: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert "needed --damf-table alone" in run(capsys, "--damf-table", *option, code=2)[1]


def test_the_module_gives_its_exit_code() -> None:
    command = [sys.executable, "-m", "graphwright", "inspect"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: inspect")


def test_the_help_tells_what_the_table_counts(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(run(capsys, "--help")[0].split())
    for name in CONVENTIONS:
        assert name in text
