"""The option ``precision`` from end to end: pipelines, reports, files, and the numbers of tiny transformers."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.cli import main
from graphwright.compilation.precision import with_precision
from graphwright.compilation.steps import build_pipeline
from graphwright.engine.compare import TOLERANCES, compare
from graphwright.engine.pipeline import FunctionPass
from graphwright.frontends import load
from graphwright.frontends.onnx import save_onnx
from graphwright.passes.lower.precision import TYPES, kept_in_float32, precision
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.report import Verification
from graphwright.runtime.ort import OrtSession
from graphwright.testing import model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g'
CORPUS = Path(__file__).parent / "corpus"
FAMILIES = ("bert_dynamo_18_eager", "gpt2_dynamo_18", "llama_dynamo_18")
PROFILE = "batch=1:2:3,seq=1:4:11"
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 64,
}
TINY = {
    "bert": SMALL,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100, "n_positions": 64},
    "llama": {**SMALL, "num_key_value_heads": 2},
}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def layer() -> ir.Model:
    """A feed-forward layer between two norms."""
    body = """n = LayerNormalization(x, z) a = MatMul(n, w) b = Add(a, c) h = Gelu(b) d = MatMul(h, v) e = Add(d, x)
        hidden = LayerNormalization(e, z)"""
    weights = "float[8, 16] w, float[16] c, float[16, 8] v, float[8] z"
    return model(f"{HEAD} (float[batch, seq, 8] x) => (float[batch, seq, 8] hidden) <{weights}> {{ {body} }}")


@cache
def corpus(name: str) -> ir.Model:
    return model((CORPUS / f"{name}.onnxtxt").read_text())


@cache
def tiny(family: str) -> ir.Model:
    """A model of two layers with random weights, sharper attention and no weight that is zero or one by chance."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **TINY[family], use_cache=False)
    made = (transformers.AutoModel if family == "bert" else transformers.AutoModelForCausalLM).from_config(config)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            weight.add_(torch.randn_like(weight) * 0.02)
            if any(part in name for part in ("query", "key", "q_proj", "k_proj")):
                weight.mul_(3)
    return load(made.eval()).model


def within(verification: Verification, dtype: ir.DataType) -> bool:
    """Whether every output at every shape is within the tolerance of a type; each is over the size of the numbers."""
    allowed = TOLERANCES[dtype]
    return all(
        each.relative <= allowed.relative or each.absolute <= allowed.absolute for each in verification.deviations
    )


def quiet(given: object, **options: object) -> gw.Artifact:
    return gw.optimize(given, progress=False, **{"profile": PROFILE, **options})  # type: ignore[arg-type]


def assert_measured(artifact: gw.Artifact, name: str) -> Verification:
    found = artifact.report.verification
    assert found is not None
    assert found.by_design == {name: 1}
    assert found.deviations
    assert found.worst is not None
    assert found.worst > 1e-5, "nothing was rounded"
    assert found.kept_relative < 1e-4
    return found


# Target onnx has attention as one operator, tensorrt as products and a softmax.
@pytest.mark.parametrize(("type", "target"), [("fp16", "onnx"), ("fp16", "tensorrt"), ("bf16", "tensorrt")])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_corpus_is_within_the_tolerance_of_the_type(name: str, type: str, target: str) -> None:
    artifact = quiet(corpus(name), precision=type, target=target)
    assert within(assert_measured(artifact, "precision"), TYPES[type])
    narrow = [node for node in artifact.model.graph if node.outputs[0].dtype == TYPES[type]]
    assert {"MatMul", "Gemm", "Attention"} & {node.op_type for node in narrow}
    assert artifact.report.after.weight_bytes < 0.7 * artifact.report.before.weight_bytes
    if target == "tensorrt":
        assert unsupported(artifact.model) == []


@pytest.mark.slow  # torch.export of three models; the corpus has one layer of each
@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("family", TINY)
def test_tiny_transformers_are_within_the_tolerance_of_the_type(family: str, type: str) -> None:
    artifact = quiet(tiny(family), precision=type, target="onnx", profile="batch=1:2:3,seq=1:8:20")
    assert within(assert_measured(artifact, "precision"), TYPES[type])


@pytest.mark.parametrize(
    "text",
    [
        "(float[2, 4, 8] x) => (float[2, 4, 16] y) <float[8, 16] w, float[16] b> { h = MatMul(x, w) y = Add(h, b) }",
        """(float[N, 4, 8] x) => (float[N, 4, 16] y, float[N, 32] z) <float[8, 16] w, int64[2] s = {0, 32}>
        { y = MatMul(x, w) z = Reshape(x, s) }""",
    ],
)
def test_int8_loads_where_onnx_runtime_moves_a_pair_over_a_reshape(text: str, tmp_path: Path) -> None:
    artifact = gw.optimize(model(f"{HEAD} {text}"), precision="int8", progress=False)
    artifact.save(tmp_path / "saved")
    x = np.random.default_rng(0).standard_normal((2, 4, 8), np.float32)
    np.testing.assert_array_equal(gw.load(tmp_path / "saved")(x=x)["y"], artifact(x=x)["y"])


def test_int8_is_near() -> None:
    artifact = quiet(corpus("bert_dynamo_24"), precision="int8")
    found = assert_measured(artifact, "quantize")
    assert min(each.cosine or 0.0 for each in found.deviations) > 0.99
    assert artifact.report.after.operators["QuantizeLinear"] >= 4


@pytest.mark.parametrize("verify", ["region", "each"])
@pytest.mark.parametrize("type", ["fp16", "bf16", "int8"])
def test_every_way_of_checking_takes_it(type: str, verify: str) -> None:
    found = quiet(layer(), precision=type, verify=verify).report.verification
    assert found is not None
    assert list(found.by_design.values()) == [1]
    assert found.unverified == ()


def test_the_step_stands_between_the_targets_spellings_and_its_fusions() -> None:
    text = quiet(layer(), precision="bf16", verify="off").report.pipeline.split(",")
    assert text.index("lower-without-kernel") + 1 == text.index("precision(type=bf16)")
    assert str(gw.passes().parse("default,precision(bf16)", "ort-cpu")) == ",".join(text)


def test_products_are_seen_behind_the_pass_that_joins_them() -> None:
    joining = build_pipeline("default,fuse-linear", "ort-cpu")
    for kind, reader in (("int8", "quantize"), ("fp16", "precision")):
        steps = [step.name for step in with_precision(joining, kind).steps]
        assert steps.index("fuse-linear") < steps.index("spell-linear") < steps.index(reader)
    assert "spell-linear" not in str(with_precision(build_pipeline("default", "ort-cpu"), "int8"))


def test_pipeline_text_observes_too() -> None:
    text = (
        "(float[N, 8] x) => (float[N, 8] y) <float[8, 8] w, float k> { a = MatMul(x, w) b = Mul(a, k) y = Sigmoid(b) }"
    )
    given = model(f"{HEAD} {text}")
    given.graph.initializers["k"].const_value = ir.tensor(np.float32(30000), name="k")
    for options in ({"passes": "default,precision(fp16)"}, {"precision": "fp16"}):
        kept = kept_in_float32(quiet(given, profile=None, **options).model)
        assert [reason.split(":")[0] for reason in kept.values()] == ["RANGE", "RANGE"]


def test_a_result_that_overflows_is_an_error_and_not_a_report() -> None:
    """Calibrated on small numbers, it meets larger ones: ONNX Runtime alone would not see it on the CPU."""
    text = (
        "(float[N, 8] x) => (float[N, 8] y) <float[8, 8] w, float k> { a = MatMul(x, w) b = Mul(a, k) y = Sub(b, b) }"
    )
    given = model(f"{HEAD} {text}")
    given.graph.initializers["k"].const_value = ir.tensor(np.float32(30000), name="k")
    blind = FunctionPass("precision", precision, changes_numbers=True)
    with pytest.raises(gw.VerificationError, match="nan where 0 is due"):
        quiet(given, profile=None, passes=[blind])


def test_the_artifact_runs_and_comes_back_from_its_folder() -> None:
    given = layer()
    exact = quiet(given, verify="off")
    inputs = {"x": np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)}
    for type in TYPES:
        artifact = quiet(given, precision=type)
        artifact.save(type)
        expected, loaded = exact(**inputs), gw.load(type)
        for run in (artifact, loaded):
            found = run(**inputs)
            assert {name: array.dtype for name, array in found.items()} == {
                name: array.dtype for name, array in expected.items()
            }
            assert not compare(expected, found, {ir.DataType.FLOAT: TOLERANCES[TYPES[type]]})
        assert json.loads(Path(type, "manifest.json").read_text())["precision"] == type


def test_explain_says_what_stayed_in_float32() -> None:
    text = gw.explain(layer(), "precision").text()
    assert "SENSITIVE" in text
    assert "LayerNormalization is computed in float32" in text


def test_bisect_takes_both() -> None:
    for text in ("default,precision(bf16)", "default,quantize"):
        found = gw.bisect(layer(), passes=text, profile=PROFILE)
        assert found.application is None
        assert "(1 application) by design" in str(found)


def test_the_option_beside_a_pass_of_its_kind_is_refused() -> None:
    with pytest.raises(gw.UsageError, match="leave the option out"):
        quiet(layer(), precision="fp16", passes="default,precision(bf16)")


def test_the_command_line_makes_half_precision(capsys: pytest.CaptureFixture[str]) -> None:
    save_onnx(layer(), "layer.onnx")
    assert main(["optimize", "layer.onnx", "-o", "out", "--precision", "fp16", "--profile", PROFILE]) == 0
    assert "Changes numbers by design: precision (1 application)" in " ".join(capsys.readouterr().out.split())
    assert OrtSession("out/model.onnx") is not None
    assert main(["optimize", "layer.onnx", "-o", "other", "--precision", "int4"]) == 2
    assert "int4" in capsys.readouterr().err
