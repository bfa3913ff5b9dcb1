"""The one call: what it takes, what it refuses, and that nothing wrong gets through it."""

import gc
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import RemoveUnusedNodesPass

import graphwright as gw
from graphwright.cli import main
from graphwright.compilation import run as compilation_run
from graphwright.compilation.settings import Settings
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder
from graphwright.optimize import compile_model

GATED = """<ir_version: 10, opset_import: ["": 24]>
gated (float[batch, 8] x) => (float[batch, 8] y) {
    gate = Sigmoid(x)
    y = Mul(x, gate)
}"""


def gated() -> ir.Model:
    return ir.from_onnx_text(GATED)


def sigmoid_alone(op: PatternOps, x: Var) -> Op:
    return op.Sigmoid(x)


def tanh_instead(op: Builder, x: ir.Value) -> ir.Value:
    return op.Tanh(x)


WRONG = gw.Rule("sigmoid-to-tanh", (sigmoid_alone,), tanh_instead)


def quiet(model: object, **options: object) -> gw.Artifact:
    return gw.optimize(model, **{"progress": False, **options})


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_signature_is_the_documented_one() -> None:
    parameters = inspect.signature(gw.optimize).parameters
    assert list(parameters) == [
        "model",
        "example_inputs",
        "profile",
        "task",
        "target",
        "passes",
        "precision",
        "verify",
        "tune",
        "padding",
        "progress",
    ]
    assert all(each.kind is each.KEYWORD_ONLY for each in list(parameters.values())[2:])
    defaults = [each.default for each in list(parameters.values())[1:]]
    assert defaults == [None, None, "auto", "ort-cpu", None, "fp32", "final", False, "keep", None]


def test_public_names_survive_the_import_of_the_modules_they_hide() -> None:
    code = (
        "import graphwright.optimize, graphwright.passes, graphwright as gw;"
        "assert callable(gw.optimize) and callable(gw.passes) and gw.passes().steps();"
        "missing = [name for name in gw._HOMES if not hasattr(gw, name)]; assert not missing, missing;"
        "assert set(gw._HOMES) <= set(dir(gw))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_an_artifact_computes_what_its_source_does() -> None:
    x = np.linspace(-3, 3, 16, dtype=np.float32).reshape(2, 8)
    artifact = quiet(gated())
    np.testing.assert_allclose(artifact(x=x)["y"], x / (1 + np.exp(-x)), rtol=1e-6, atol=1e-7)
    assert [node.op_type for node in artifact.model.graph] == ["Swish"]
    assert not list(Path().iterdir())


def test_the_source_model_is_not_changed() -> None:
    model = gated()
    before = ir.to_proto(model).SerializeToString()
    quiet(model)
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize("make", [gated, lambda: onnx.parser.parse_model(GATED)])
def test_a_model_may_be_an_object(make: Callable[[], object]) -> None:
    assert quiet(make()).report.after.operators == {"Swish": 1}


@pytest.mark.parametrize("suffix", [".onnx", ".onnxtxt"])
def test_a_model_may_be_a_file(suffix: str) -> None:
    path = Path(f"model{suffix}")
    path.write_bytes(onnx.parser.parse_model(GATED).SerializeToString() if suffix == ".onnx" else GATED.encode())
    assert quiet(path).report.model == "model"
    assert quiet(str(path)).report.after.nodes == 1


def test_an_artifacts_folder_stands_for_its_model() -> None:
    quiet(gated()).save("first")
    assert quiet("first").report.before.operators == {"Swish": 1}


@pytest.mark.parametrize(
    ("option", "value", "needed"),
    [
        ("precision", "int4", "fp16"),
        ("precision", "fp12", "fp32"),
        ("padding", "sometimes", "free"),
        ("tune", "yes", "True"),
        ("target", "toaster", "ort-cpu"),
        ("verify", "sometimes", "region"),
    ],
)
def test_an_option_that_is_not_there_is_refused_and_never_ignored(option: str, value: object, needed: str) -> None:
    with pytest.raises(gw.UsageError) as caught:
        quiet(gated(), **{option: value})
    assert caught.value.where == f"option {option}"
    assert needed in caught.value.needed


def no_change(graph: object) -> None:
    """A graphsurgeon function that leaves the graph as it was."""


@pytest.mark.parametrize(
    ("passes", "names"),
    [
        ("fuse-swish", ["fuse-swish"]),
        (["fuse-swish"], ["fuse-swish"]),
        ([RemoveUnusedNodesPass(), "fuse-swish"], ["remove-unused-nodes", "fuse-swish"]),
        ([no_change, "fuse-swish"], ["gs:no_change", "fuse-swish"]),
        (["script.py:edit", "fuse-swish"], ["gs:edit", "fuse-swish"]),
    ],
)
def test_a_pass_may_be_many_things(passes: object, names: list[str]) -> None:
    Path("script.py").write_text("def edit(graph):\n    graph.name = 'edited'\n")
    artifact = quiet(gated(), passes=passes)
    assert [row.name for row in artifact.report.passes] == names
    assert artifact.report.after.operators == {"Swish": 1}


def test_texts_beside_each_other_are_one_text() -> None:
    names = [row.name for row in quiet(gated(), passes=["default", "-fuse-swish"]).report.passes]
    assert "fuse-gelu" in names
    assert "fuse-swish" not in names


def test_an_onnxscript_rule_set_may_be_a_pass() -> None:
    rewriter = pytest.importorskip("onnxscript.rewriter")
    rule = rewriter.pattern.RewriteRule(lambda op, x: op.Sigmoid(x), lambda op, x: op.HardSigmoid(x))
    with pytest.raises(gw.VerificationError):
        quiet(gated(), passes=[rewriter.RewriteRuleSet([rule])])
    same = rewriter.pattern.RewriteRule(lambda op, x: op.Mul(x, op.Sigmoid(x)), lambda op, x: op.Swish(x))
    assert quiet(gated(), passes=[rewriter.RewriteRuleSet([same])]).report.after.operators == {"Swish": 1}


@pytest.mark.parametrize("thing", [3, object(), [3], [None]])
def test_what_is_no_pass_is_refused(thing: object) -> None:
    with pytest.raises(gw.PipelineError):
        quiet(gated(), passes=thing)


@pytest.mark.parametrize("verify", ["final", "region", "each"])
def test_a_wrong_rewrite_is_caught(verify: str) -> None:
    with pytest.raises(gw.VerificationError) as caught:
        quiet(gated(), passes=[WRONG], verify=verify)
    assert verify == "final" or "sigmoid-to-tanh" in str(caught.value)
    assert quiet(gated(), passes=[WRONG], verify="off").report.after.operators == {"Tanh": 1, "Mul": 1}


def test_a_failed_check_leaves_a_case_that_can_be_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(gw.VerificationError, match="graphwright-failure"):
        quiet(gated(), passes=[WRONG])
    case = Path("graphwright-failure/final")
    assert {"before.onnx", "after.onnx", "inputs.npz"} <= {path.name for path in case.iterdir()}
    command = ["verify", str(case / "before.onnx"), str(case / "after.onnx")]
    assert main([*command, "--inputs", str(case / "inputs.npz")]) == 1
    assert "different" in capsys.readouterr().out


def test_each_application_can_be_compared_alone() -> None:
    verification = quiet(gated(), verify="region").report.verification
    assert verification is not None
    assert verification.regions > 0


def test_shapes_that_the_source_cannot_run_are_skipped_only_where_nobody_promised_them() -> None:
    text = """<ir_version: 10, opset_import: ["": 24]>
    pairs (float[n] x) => (float[m, 4] y) {
        shape = Constant<value_ints = [-1, 4]> ()
        y = Reshape(x, shape)
    }"""
    model = ir.from_onnx_text(text)
    verification = quiet(model).report.verification
    assert verification is not None
    assert verification.points
    assert verification.skipped
    with pytest.raises(gw.GraphwrightError, match=r"13|[Rr]eshape"):
        quiet(model, profile="n=8:13:16")


@pytest.mark.parametrize("name", ["x", "wrong"])
def test_example_inputs_that_the_model_does_not_take_are_refused(name: str) -> None:
    with pytest.raises(gw.RequestError, match=r"needed (float|some of x)"):
        quiet(gated(), example_inputs={name: np.zeros((5, 8))})


def test_example_inputs_are_compared_too() -> None:
    examples = {"x": np.full((5, 8), 2, np.float32)}
    verification = gw.optimize(gated(), examples, progress=False).report.verification
    assert verification is not None
    assert verification.points[0].shapes == {"x": (5, 8)}


def test_progress_is_told_from_the_first_step_to_the_last() -> None:
    told: list[tuple[str, int, int]] = []
    quiet(gated(), passes="fuse-gelu,fuse-swish", progress=lambda *step: told.append(step))
    assert [name for name, _, _ in told][:3] == ["load", "fuse-gelu", "fuse-swish"]
    assert told[-1][0].startswith("verify")
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert all(done < total for _, done, total in told)


def test_a_target_without_its_provider_can_be_made_but_not_run() -> None:
    from graphwright.runtime.providers import has_provider_for

    if has_provider_for("ort-cuda"):
        pytest.skip("this ONNX Runtime has CUDA")
    artifact = quiet(gated(), target="ort-cuda")
    with pytest.raises(gw.MissingDependencyError, match="CUDAExecutionProvider"):
        artifact(x=np.zeros((1, 8), np.float32))


def test_applications_can_be_stopped_by_their_number() -> None:
    settings = Settings(progress=False, passes="fuse-swish", stop_after=0)
    assert compile_model(gated(), None, settings).report.after.operators == {"Mul": 1, "Sigmoid": 1}


def with_weights() -> ir.Model:
    weight = ir.tensor(np.random.default_rng(0).standard_normal((64, 64), np.float32), name="w")
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 64]))
    w = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=weight.shape, const_value=weight)
    node = ir.node("MatMul", [x, w], name="product")
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", x.type, ir.Shape(["n", 64])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 24}, name="big")
    return ir.Model(graph, ir_version=10)


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation_run, "LARGEST_IN_MEMORY", 1)


@pytest.mark.usefixtures("everything_is_large")
def test_a_large_result_is_written_once_and_moved_by_save() -> None:
    staging = Path("staging")
    artifact = compile_model(with_weights(), None, Settings(progress=False, staging=staging))
    (staged,) = staging.iterdir()
    inode = (staged / "model.onnx.data").stat().st_ino
    x = np.ones((2, 64), np.float32)
    before = artifact(x=x)["y"]
    artifact.save("out")
    assert Path("out/model.onnx.data").stat().st_ino == inode
    assert not list(staging.iterdir())
    np.testing.assert_array_equal(artifact(x=x)["y"], before)
    artifact.save("again")
    np.testing.assert_array_equal(gw.load("again")(x=x)["y"], before)


@pytest.mark.usefixtures("everything_is_large")
def test_a_large_result_that_nobody_saves_leaves_no_file() -> None:
    artifact = compile_model(with_weights(), None, Settings(progress=False, staging=Path("staging")))
    del artifact
    gc.collect()
    assert not list(Path("staging").iterdir())


@pytest.mark.usefixtures("everything_is_large")
def test_a_large_result_that_is_wrong_leaves_no_file() -> None:
    doubled = gw.FunctionPass("double-weights", double_weights)
    settings = Settings(progress=False, staging=Path("staging"), passes=[doubled])
    with pytest.raises(gw.VerificationError):
        compile_model(with_weights(), None, settings)
    assert not list(Path("staging").iterdir())


def double_weights(model: ir.Model) -> bool:
    value = model.graph.initializers["w"]
    assert value.const_value is not None
    value.const_value = ir.tensor(value.const_value.numpy() * 2, name="w")
    return True


def test_a_torch_module_is_compared_with_itself() -> None:
    torch = pytest.importorskip("torch")
    layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 4))
    artifact = gw.optimize(layers, {"input": np.ones((3, 8), np.float32)}, progress=False)
    verification = artifact.report.verification
    assert verification is not None
    assert verification.reference == "PyTorch"
    given = torch.randn(5, 8)
    (output,) = artifact(input=given).values()
    torch.testing.assert_close(output, layers(given).detach(), rtol=1e-5, atol=1e-6)


def test_training_a_torch_module_further_does_not_change_the_result(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(8, 64)
    x = np.ones((2, 8), np.float32)
    artifact = quiet(layer, example_inputs={"input": x})
    (before,) = artifact(input=x).values()
    with torch.no_grad():
        layer.weight.zero_()
    artifact.save(tmp_path / "saved")
    (after,) = gw.load(tmp_path / "saved")(input=x).values()
    np.testing.assert_array_equal(after, before)


def test_a_profile_of_another_kind_is_refused() -> None:
    with pytest.raises(gw.UsageError, match="found a int; needed a Profile"):
        quiet(gated(), profile=5)


def test_a_model_that_draws_random_numbers_is_not_blamed_on_a_pass() -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 8] x) => (float[n, 8] y) '
    text += "<float r = {0.5}, bool training = {1}> { y, mask = Dropout(x, r, training) }"
    with pytest.raises(gw.VerificationError, match="other numbers each time it runs"):
        quiet(ir.from_onnx_text(text))
    assert not Path("graphwright-failure").exists()
