"""Bad input: each gives its exit code and one clear paragraph, and nothing half-written stays behind."""

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.cli import main
from graphwright.errors import LoadError

ROOT = Path(__file__).parents[1]
SMALL = """<ir_version: 10, opset_import: ["": 24]>
small (float[batch, 8] x) => (float[batch, 8] y) { y = Relu(x) }"""
# 1 MiB of weights, more than the size limit below allows.
SIDE = 512


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(SMALL), "small.onnx")


def with_weights(name: str = "model.onnx") -> onnx.ModelProto:
    """A model whose weights lie in a file beside it."""
    weight = onnx.numpy_helper.from_array(np.ones((SIDE, SIDE), np.float32), "w")
    x, y = (onnx.helper.make_tensor_value_info(each, 1, ["n", SIDE]) for each in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 24)], ir_version=10)
    onnx.save(model, name, save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    return onnx.load(name, load_external_data=False)


def truncated() -> str:
    Path("bad.onnx").write_bytes(Path("small.onnx").read_bytes()[:-20])
    return "bad.onnx"


def cut_to_nothing() -> str:
    Path("bad.onnx").write_bytes(b"")
    return "bad.onnx"


def not_onnx() -> str:
    Path("bad.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8)
    return "bad.onnx"


def not_there() -> str:
    return "bad.onnx"


def outside_its_folder() -> str:
    Path("model").mkdir()
    model = with_weights("secret.onnx")
    (entry,) = (each for each in model.graph.initializer[0].external_data if each.key == "location")
    entry.value = "../secret.onnx.data"
    Path("model/bad.onnx").write_bytes(model.SerializeToString())
    return "model/bad.onnx"


def missing_weights() -> str:
    with_weights("bad.onnx")
    Path("bad.onnx.data").unlink()
    return "bad.onnx"


def short_weights() -> str:
    with_weights("bad.onnx")
    Path("bad.onnx.data").write_bytes(bytes(100))
    return "bad.onnx"


def unknown_operator() -> str:
    model = onnx.load("small.onnx")
    model.graph.node[0].op_type = "Reluu"
    onnx.save(model, "bad.onnx")
    return "bad.onnx"


def a_folder_without_a_model() -> str:
    Path("bad").mkdir()
    return "bad"


MODELS: list[tuple[Callable[[], str], str]] = [
    (truncated, "bad.onnx"),
    (cut_to_nothing, "empty"),
    (not_onnx, "no ONNX model"),
    (not_there, "no such file"),
    (outside_its_folder, "leaves the model's folder"),
    (missing_weights, "bad.onnx.data"),
    (short_weights, "cut short"),
    (unknown_operator, "Reluu"),
    (a_folder_without_a_model, "config.json"),
]


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*")}


def is_one_paragraph(text: str) -> bool:
    return text.startswith("error: ") and text.count("\n") == 1 and "Traceback" not in text and "found" in text


def fails(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    """Run a command that must fail with this code, in one paragraph, and leave no file."""
    before = files()
    capsys.readouterr()
    assert main(arguments) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert is_one_paragraph(printed.err), printed.err
    assert files() == before
    return printed.err


@pytest.mark.parametrize(("make_model", "found"), MODELS, ids=lambda each: getattr(each, "__name__", None))
def test_a_bad_model_is_refused(make_model: Callable[[], str], found: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_model()
    assert found in fails(capsys, 3, "optimize", path, "-o", "out/deep")
    assert found in fails(capsys, 3, "export", path, "-o", "out.onnx")
    assert found in fails(capsys, 3, "verify", "small.onnx", path)


@pytest.mark.parametrize("make_model", [truncated, missing_weights])
def test_the_program_itself_refuses_a_bad_model(make_model: Callable[[], str]) -> None:
    done = spawn("optimize", make_model(), "-o", "out")
    assert done.returncode == 3
    assert done.stdout == ""
    assert is_one_paragraph(done.stderr), done.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--passes", "fuse-gleu"], "fuse-gelu"),
        (["--passes", "default,-fuse-nothing"], "fuse-nothing"),
        (["--passes", "default(("], "pipeline"),
        (["--profile", "batch=4:2:1"], "min <= opt <= max"),
        (["--profile", "batch"], "name=min:opt:max"),
        (["--profile", "rows=1:2:3"], "rows"),
        (["--profile", "x=1x1:2x2:3x3"], "axis 1"),
        (["--target", "toaster"], "ort-cpu"),
        (["--precision", "int4"], "fp32"),
        (["--gs-script", "nowhere.py:f"], "nowhere.py"),
    ],
)
def test_a_wrong_option_is_refused(options: list[str], found: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert found in fails(capsys, 2, "optimize", "small.onnx", "-o", "out", *options)


@pytest.fixture(scope="module")
def artifact() -> gw.Artifact:
    return gw.optimize(onnx.parser.parse_model(SMALL), profile="batch=2:4:8", progress=False)


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ({"z": np.zeros((2, 8), np.float32)}, "z"),
        ({}, "x"),
        ({"x": np.zeros((2, 8), np.float64)}, "double"),
        ({"x": np.zeros((2, 8), np.int64)}, "int64"),
        ({"x": np.zeros(8, np.float32)}, "rank 1"),
        ({"x": np.zeros((2, 8, 1), np.float32)}, "rank 3"),
        ({"x": np.zeros((2, 7), np.float32)}, "size 7"),
        ({"x": [[0.0] * 8] * 2}, "list"),
        ({"x": None}, "NoneType"),
        ({"x": np.zeros((1, 8), np.float32)}, "outside every profile"),
        ({"x": np.zeros((9, 8), np.float32)}, "outside every profile"),
        ({"x": np.zeros((0, 8), np.float32)}, "outside every profile"),
    ],
)
def test_a_wrong_request_is_refused(artifact: gw.Artifact, inputs: dict[str, object], found: str) -> None:
    with pytest.raises(gw.RequestError) as caught:
        artifact(inputs)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 and no more", None])
def test_wrong_input_files_are_refused(content: bytes | None, capsys: pytest.CaptureFixture[str]) -> None:
    if content is not None:
        Path("inputs.npz").write_bytes(content)
    fails(capsys, 2, "verify", "small.onnx", "small.onnx", "--inputs", "inputs.npz")


def test_a_damaged_input_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("inputs.npz", x=np.zeros((4, 4), np.float32))
    content = bytearray(Path("inputs.npz").read_bytes())
    content[190] ^= 255
    Path("inputs.npz").write_bytes(content)
    text = fails(capsys, 2, "verify", "small.onnx", "small.onnx", "--inputs", "inputs.npz")
    assert "Bad CRC-32" in text


def test_pickled_inputs_are_never_opened(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("inputs.npz", x=np.array([{}], dtype=object))
    text = fails(capsys, 2, "verify", "small.onnx", "small.onnx", "--inputs", "inputs.npz")
    assert "allow_pickle" in text


def test_an_output_that_is_no_artifact_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    assert "mine.txt" in fails(capsys, 2, "optimize", "small.onnx", "-o", "out")
    assert "small.onnx" in fails(capsys, 2, "optimize", "small.onnx", "-o", "small.onnx")


@pytest.mark.parametrize("folder", ["small.onnx/out", "/proc/out", "/proc/out/deeper"])
def test_an_output_where_nothing_can_be_made(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    fails(capsys, 3, "optimize", "small.onnx", "-o", folder)
    fails(capsys, 3, "export", "small.onnx", "-o", f"{folder}.onnx")


def test_a_read_only_output_folder(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the file system's answer is put in its place."""
    make_folder = os.mkdir

    def refuse(path: str | Path, *arguments: int, **options: int) -> None:
        if Path(path).name.startswith(".out."):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        make_folder(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", refuse)
    assert "Read-only file system" in fails(capsys, 3, "optimize", "small.onnx", "-o", "out")


@pytest.mark.parametrize("verb", ["optimize", "export"])
def test_a_full_output_folder(verb: str) -> None:
    """A limit on the size of files stands for the full disk: the write fails in the middle of the weights."""
    with_weights()
    before = files()
    output = "out" if verb == "optimize" else "out.onnx"
    done = spawn(verb, "model.onnx", "-o", output, size_limit=SIDE * SIDE)
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert is_one_paragraph(done.stderr), done.stderr
    assert files() == before


def spawn(*arguments: str, size_limit: int | None = None) -> "subprocess.CompletedProcess[str]":
    def limit() -> None:
        if size_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size_limit, size_limit))

    code = "import sys; from graphwright.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )


STRANGE = """<ir_version: 10, opset_import: ["": 24, "their": 1]>
g (float[n, 4] x) => (float[n, 4] y) {gate = Sigmoid(x) a = Mul(x, gate) y = their.Strange <size = 3> (a)}"""


@pytest.mark.parametrize("verify", ["final", "region", "each"])
def test_an_operator_that_nobody_knows_passes_through_with_a_note(verify: str) -> None:
    artifact = gw.optimize(ir.from_onnx_text(STRANGE), verify=verify, progress=False)
    (strange,) = (node for node in artifact.model.graph if node.domain == "their")
    assert strange.attributes["size"].as_int() == 3
    assert [node.op_type for node in artifact.model.graph] == ["Swish", "Strange"]
    verification = artifact.report.verification
    assert verification is not None and "their.Strange" in verification.unverified[0]
    assert (verification.regions > 0) is (verify == "region")
    assert "Not verified: nothing here knows their.Strange" in artifact.report.table()
    with pytest.raises(LoadError, match="Strange"):
        artifact(x=np.ones((2, 4), np.float32))
