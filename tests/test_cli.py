"""The command line: verbs, what goes to stdout and what to stderr, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from graphwright.cli import check, engine, look, main, make, serve
from graphwright.cli.output import report_error

ROOT = Path(__file__).parents[1]
VERBS = [verb for verb, _, _ in (*make.VERBS, *check.VERBS, *look.VERBS, *engine.VERBS, *serve.VERBS)]
MODEL = """<ir_version: 10, opset_import: ["": 24]>
gated (float[batch, 8] x) => (float[batch, 8] y) {
    gate = Sigmoid(x)
    y = Mul(x, gate)
}"""
SHARED = MODEL.replace("(float[batch, 8] y)", "(float[batch, 8] y, float[batch, 8] gate)")
TANH = """
def edit(graph):
    for node in graph.nodes:
        if node.op == "Sigmoid":
            node.op = "Tanh"
"""


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("model", MODEL), ("shared", SHARED), ("tanh", MODEL.replace("Sigmoid", "Tanh"))):
        onnx.save(onnx.parser.parse_model(text), f"{name}.onnx")
    Path("script.py").write_text(TANH)


@pytest.fixture
def artifact() -> str:
    assert main(["optimize", "model.onnx", "-o", "artifact", "--profile", "batch=1:2:4", "--quiet"]) == 0
    return "artifact"


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(arguments) == code
    return capsys.readouterr().out


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, object]:
    data = json.loads(run(capsys, *arguments, "--json", code=code))
    assert isinstance(data, dict)
    return data


def spawn(*arguments: str, **options: object) -> "subprocess.CompletedProcess[str]":
    code = "import sys; from graphwright.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        check=False,
        **{"capture_output": True, **options},
    )


def test_the_documented_verbs_are_there() -> None:
    assert VERBS == [
        "export",
        "optimize",
        "verify",
        "explain",
        "bisect",
        "inspect",
        "bench",
        "passes",
        "doctor",
        "build-engine",
        "export-triton",
    ]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples_json_and_debug(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, verb, "--help")
    assert "Examples:" in text
    assert f"\n    graphwright {verb}" in text
    assert "--json" in text
    assert "--debug" in text


def test_optimize_prints_the_report_and_writes_the_artifact(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", "model.onnx", "-o", "out", "--html", "out.html"]) == 0
    printed = capsys.readouterr()
    assert "fuse-swish" in printed.out
    assert printed.err == "wrote out\n"
    assert Path("out/model.onnx").is_file()
    assert Path("out.html").is_file()


def test_optimize_gives_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "optimize", "model.onnx", "-o", "out", "--passes", "fuse-swish")
    assert data["report"]["after"]["operators"] == {"Swish": 1}
    assert list(data["files"]) == ["model.onnx"]


def test_quiet_prints_nothing_but_where_the_result_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "optimize", "model.onnx", "-o", "out", "--quiet") == ""


def test_changes_are_printed_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", "model.onnx", "-o", "out", "--print-changes", "--json"]) == 0
    printed = capsys.readouterr()
    json.loads(printed.out)
    assert "+++ after fuse-swish" in printed.err


def test_applications_can_be_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--passes", "fuse-swish", "--stop-after", "0"]
    data = run_json(capsys, "optimize", "model.onnx", "-o", "out", *options)
    assert data["report"]["after"]["operators"] == {"Mul": 1, "Sigmoid": 1}


def test_a_rule_can_be_explained_after_optimizing(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "optimize", "shared.onnx", "-o", "out", "--explain", "fuse-swish")
    assert "GRAPH_OUTPUT" in text


def test_a_script_that_changes_the_numbers_is_caught_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "optimize",
        "model.onnx",
        "-o",
        "out",
        "--gs-script",
        "script.py:edit",
        "--failure-dir",
        "case",
    ]
    assert main(arguments) == 1
    assert capsys.readouterr().err.startswith("error: model: found other numbers at x [1, 8]")
    assert not Path("out").exists()
    assert Path("case/final/inputs.npz").is_file()
    found = run_json(capsys, "bisect", "model.onnx", "--gs-script", "script.py:edit", code=1)
    assert (found["number"], found["pass"]) == (1, "gs:edit")


def test_export_writes_the_model_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "export", "model.onnx", "-o", "out.onnx")
    assert (data["nodes"], data["opset"]) == (2, 24)
    assert [node.op_type for node in onnx.load("out.onnx").graph.node] == ["Sigmoid", "Mul"]
    assert main(["export", "model.onnx", "-o", "out"]) == 2
    assert main(["export", "model.onnx", "-o", "other.onnx", "--opset", "20"]) == 2
    assert not Path("other.onnx").exists()


def test_verify_tells_same_from_different(artifact: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "verify", "model.onnx", artifact)["same"] is True
    found = run_json(capsys, "verify", "model.onnx", "tanh.onnx", code=1)
    assert found["same"] is False
    assert found["outputs"][0]["name"] == "y"
    assert found["outputs"][0]["absolute"] > 0.1
    assert "y" in run(capsys, "verify", "model.onnx", "tanh.onnx", code=1)


def test_verify_takes_inputs_and_a_tolerance(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("inputs.npz", x=np.ones((3, 8), np.float32))
    pair = ["verify", "model.onnx", "tanh.onnx", "--inputs", "inputs.npz"]
    assert run_json(capsys, *pair, code=1)["points"] == 1
    assert run_json(capsys, *pair, "--tolerance", "0.5")["same"] is True


def test_models_with_other_inputs_differ(capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(onnx.parser.parse_model(MODEL.replace("] x)", "] z)").replace("(x", "(z")), "renamed.onnx")
    found = run_json(capsys, "verify", "model.onnx", "renamed.onnx", code=1)
    assert "cannot run" in found["outputs"][0]["detail"]


def test_explain_names_the_node_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    misses = run_json(capsys, "explain", "shared.onnx", "--rule", "fuse-swish")["misses"]
    assert misses[0]["reason"] == "GRAPH_OUTPUT"
    assert "GRAPH_OUTPUT" in run(capsys, "explain", "shared.onnx")
    assert main(["explain", "shared.onnx", "--rule", "fuse-nothing"]) == 2


def test_bisect_finds_nothing_where_nothing_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "bisect", "model.onnx")["number"] is None


def test_inspect_shows_a_model_and_an_artifact(artifact: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "inspect", "model.onnx", "--cost", "--profile", "batch=1:2:4")
    assert data["operators"] == {"Mul": 1, "Sigmoid": 1}
    assert data["cost"]["max"]["dims"] == {"batch": 4}
    assert run_json(capsys, "inspect", artifact)["artifact"]["target"] == "ort-cpu"
    assert "x float[batch, 8]" in run(capsys, "inspect", artifact, "--cost")
    assert run_json(capsys, "inspect", artifact, "--cost")["cost"]["max"]["dims"] == {"batch": 4}


def test_bench_times_the_artifact_and_its_baseline(artifact: str, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--runs", "3", "--threads", "1"]
    data = run_json(capsys, "bench", artifact, "--baseline", "model.onnx", *few)
    assert [one["contender"] for one in data["latency"]][:2] == ["onnxruntime", "graphwright"]
    assert list(data["ratios"]) == ["batch=1", "batch=2", "batch=4"]
    text = run(capsys, "bench", artifact, "--shape", "batch=3", "--html", "bench.html", *few)
    assert "batch=3" in text
    assert "<svg" in Path("bench.html").read_text()


def test_passes_lists_and_documents(capsys: pytest.CaptureFixture[str]) -> None:
    names = [row["name"] for row in run_json(capsys, "passes")["passes"]]
    assert "fuse-gelu" in names
    assert "fuse-gelu" in run(capsys, "passes")
    assert "Refuses:" in run(capsys, "passes", "fuse-gelu")
    assert "Refuses:" in run_json(capsys, "passes", "fuse-gelu")["doc"]


def test_doctor_names_what_is_there_and_how_to_get_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    data = run_json(capsys, "doctor")
    assert "CPUExecutionProvider" in data["found"]["providers"]
    assert all(data["missing"].values())
    assert "numpy" in run(capsys, "doctor")


@pytest.mark.parametrize(
    "arguments",
    [
        ["unknown"],
        ["optimize"],
        ["optimize", "model.onnx"],
        ["optimize", "model.onnx", "-o", "x", "--no-such"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Error" in capsys.readouterr().err


def test_an_unexpected_error_is_one_paragraph(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("graphwright.doctor.examine", lambda: [][1])
    assert main(["doctor"]) == 1
    paragraph = capsys.readouterr().err
    assert paragraph.startswith("error: internal: IndexError: ")
    assert paragraph.count("\n") == 1
    assert main(["doctor", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("graphwright.doctor.examine", interrupt)
    assert main(["doctor"]) == 130


def test_a_name_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_error(ValueError("a\x1b[31m\nb"), debug=False) == 1
    assert "\x1b" not in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "import sys; from graphwright.cli import main; sys.exit(main(['passes', '--json']))"
    command = f'"{sys.executable}" -c "{code}" | "{sys.executable}" -c "pass"'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_the_program_itself_prints_data_on_stdout_only() -> None:
    done = spawn("optimize", "model.onnx", "-o", "out", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["output"] == "out"
    assert done.stderr == "wrote out\n" or done.stderr == ""


def test_what_would_fail_at_the_end_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["optimize", "model.onnx", "-o", "out", "--html", "nowhere/out.html"]) == 3
    assert "no folder nowhere" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert main(["optimize", "model.onnx", "-o", "out", "--html", "out.html"]) == 4
    assert "pip install graphwright[report]" in capsys.readouterr().err
    assert main(["optimize", "model.onnx", "-o", "out", "--explain", "fuse-nothing"]) == 2
    assert not Path("out").exists()


TIES = """<ir_version: 10, opset_import: ["": 24]> g (float[batch, 40] x) => (float[batch, 3] v, int64[batch, 3] i) {
    k = Constant <value_ints = [3]> () n = Round (x) s = Softmax (n) RANKED }"""
# Of equals the last one first.
BACKWARDS = """a = Constant <value_ints = [-1]> () e = Constant <value_ints = [-41]> () r = Slice (s, a, e, a, a)
    v, j = TopK (r, k) l = Constant <value_int = LAST> () i = Sub (l, j)"""


def test_verify_takes_either_order_of_what_ties(capsys: pytest.CaptureFixture[str]) -> None:
    for name, ranked in (
        ("first", "v, i = TopK (s, k)"),
        ("last", BACKWARDS.replace("LAST", "39")),
        ("wrong", BACKWARDS.replace("LAST", "38")),
    ):
        onnx.save(onnx.parser.parse_model(TIES.replace("RANKED", ranked)), f"{name}.onnx")
    assert run_json(capsys, "verify", "first.onnx", "last.onnx")["same"] is True
    assert run_json(capsys, "verify", "first.onnx", "wrong.onnx", code=1)["same"] is False
