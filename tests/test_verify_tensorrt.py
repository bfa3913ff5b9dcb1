"""``verify --target tensorrt`` and what a compilation for TensorRT reports: nodes, sources, reasons, exit codes."""

import json
from pathlib import Path

import onnx
import pytest

import graphwright as gw
from graphwright.cli import main
from graphwright.diagnose import check_tensorrt

HEAD = '<ir_version: 10, opset_import: ["": 24]>'
GOOD = f"{HEAD} g (float[B,4] x) => (float[B,4] y) {{ y = Relu(x) }}"
BAD = f"{HEAD} g (int64[B] x) => (int64[N] u) {{ [flip] y = BitwiseNot(x) u, i, j, c = Unique(y) }}"
SWISH = f"{HEAD} g (float[B,4] x) => (float[B,4] y) {{ y = Swish(x) }}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Tables are as wide as the terminal.
    monkeypatch.setenv("COLUMNS", "200")
    for name, text in (("good", GOOD), ("bad", BAD), ("swish", SWISH)):
        onnx.save(onnx.parser.parse_model(text), f"{name}.onnx")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["verify", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_model_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "good.onnx", "--target", "tensorrt")
    assert code == 0 and "takes every node" in out and "no parser was run" in out


def test_nodes_that_are_not_are_named_with_their_reason(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "bad.onnx", "--target", "tensorrt")
    assert code == 1
    assert "flip (BitwiseNot)" in out and "Unique" in out and "2 nodes" in out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "bad.onnx", "--target", "tensorrt", "--json")
    found = json.loads(out)
    assert code == 1 and found["supported"] is False and found["version"] == "11.4"
    first = found["unsupported"][0]
    assert list(first) == ["node", "operator", "source", "reason", "needed", "hint"]
    assert (first["node"], first["operator"]) == ("flip (BitwiseNot)", "BitwiseNot")


@pytest.mark.parametrize(("version", "code"), [("10.16", 1), ("11.0", 0), ("11.4.0.106", 0)])
def test_the_version_counts(capsys: pytest.CaptureFixture[str], version: str, code: int) -> None:
    assert run(capsys, "swish.onnx", "--target", "tensorrt", "--tensorrt-version", version)[0] == code


@pytest.mark.parametrize(
    ("arguments", "needed"),
    [
        (["good.onnx"], "two models"),
        (["good.onnx", "--target", "ort-cpu"], "tensorrt"),
        (["good.onnx", "--tensorrt-version", "11.4"], "tensorrt"),
        (["good.onnx", "good.onnx", "--target", "tensorrt"], "one of the two"),
        (["good.onnx", "--target", "tensorrt", "--tolerance", "1"], "one of the two"),
        (["good.onnx", "--target", "tensorrt", "--tensorrt-version", "12.0"], "11.4"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: list[str], needed: str) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2 and needed in err


def test_a_file_that_is_no_model(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.onnx").write_bytes(b"\xff" * 64)
    assert run(capsys, "broken.onnx", "--target", "tensorrt")[0] == 3


def test_compiling_for_tensorrt_mends_what_can_be_mended() -> None:
    before = check_tensorrt("swish.onnx", "10.16")
    artifact = gw.optimize("swish.onnx", target="tensorrt", progress=False)
    assert not before.is_whole and check_tensorrt(artifact, "10.16").is_whole
    assert "would not take" not in artifact.report.table()


def test_compiling_for_tensorrt_reports_the_rest() -> None:
    report = gw.optimize("bad.onnx", target="tensorrt", progress=False).report
    found = [each for each in report.explanations if each.pass_name == "target"]
    assert [each.reason for each in found] == ["UNSUPPORTED"] * 2
    assert "tensorrt would not take 2 of the nodes" in report.table()
    assert gw.Report.from_json(report.to_json()) == report


def test_other_targets_say_nothing_of_it() -> None:
    report = gw.optimize("bad.onnx", target="onnx", progress=False).report
    assert not [each for each in report.explanations if each.pass_name == "target"]
