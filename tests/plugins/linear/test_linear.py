"""The operator Linear: its bodies mean what the reference says, everywhere, and its cost is counted."""

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.reference
import onnx_ir as ir
import onnxruntime
import pytest

import graphwright as gw
from graphwright.engine.cost import cost_table
from graphwright.engine.pipeline import run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.engine.verify import RegionVerifier
from graphwright.errors import RequestError
from graphwright.passes import CATALOGUE
from graphwright.passes.transform.fuse_linear import FUSE_LINEAR
from graphwright.plugins.linear import reference
from graphwright.plugins.linear.meaning import ACTIVATIONS, linear
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, difference, model

CORPUS = Path(__file__).parents[2] / "corpus"
OPTIONS = list(product(["none", *ACTIVATIONS], [False, True], [False, True]))
MLP = """<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => (float[B,S,4] y)
    <float[4,6] w, float[6] b, float[6,4] v, float[4] c> {
    p = MatMul(x, w) h = Add(p, b) a = Gelu(h) q = MatMul(a, v) r = Add(q, c) y = Add(r, x) }"""


def arrays(seed: int = 0, *, transposed: bool = False) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"x": (2, 3, 4), "weight": (6, 4) if transposed else (4, 6), "bias": (6,), "residual": (2, 3, 6)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def one_node(activation: str, bias: bool, residual: bool, transposed: bool) -> onnx.ModelProto:
    """A model of one Linear, all of whose operands are inputs."""
    function = linear(activation, bias=bias, residual=residual, transposed=transposed)
    given = arrays(transposed=transposed)
    used = {"x": True, "weight": True, "bias": bias, "residual": residual}
    node = onnx.helper.make_node(
        "Linear",
        [name if is_used else "" for name, is_used in used.items()][: len(function.inputs)],
        ["y"],
        domain="graphwright",
        overload=function.overload,
        activation=activation,
        transposed=int(transposed),
    )
    inputs = [onnx.helper.make_tensor_value_info(name, 1, given[name].shape) for name in used if used[name]]
    graph = onnx.helper.make_graph([node], "g", inputs, [onnx.helper.make_tensor_value_info("y", 1, (2, 3, 6))])
    imports = [onnx.helper.make_opsetid("", 24), onnx.helper.make_opsetid("graphwright", 1)]
    proto = ir.serde.serialize_function(function)
    return onnx.helper.make_model(graph, functions=[proto], opset_imports=imports, ir_version=10)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("activation", "bias", "residual"), OPTIONS)
def test_bodies_mean_what_the_reference_says(activation: str, bias: bool, residual: bool, transposed: bool) -> None:
    proto = one_node(activation, bias, residual, transposed)
    onnx.checker.check_model(proto, full_check=True)
    used = {each.name for each in proto.graph.input}
    given = {name: array for name, array in arrays(transposed=transposed).items() if name in used}
    expected = reference.linear(**given, activation=activation, transposed=transposed)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, given)[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(evaluate(ir.from_proto(proto), given)["y"], expected, rtol=1e-5, atol=1e-6)
    # ONNX's own evaluator knows no types inside a body, which the definition of Gelu needs.
    flat = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(proto))
    found = onnx.reference.ReferenceEvaluator(flat).run(None, given)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_reference_knows_its_activations() -> None:
    with pytest.raises(RequestError, match="'softmax'"):
        reference.linear(np.ones((1, 1)), np.ones((1, 1)), activation="softmax")


def test_regions_are_verified() -> None:
    verifier = RegionVerifier(evaluate)
    run_pipeline(Run(model(MLP), [verifier]), CATALOGUE.parse("fuse-linear,spell-linear", "onnx"))
    assert not verifier.verification.unverified
    assert verifier.verification.points >= 4


def test_the_cost_is_that_of_the_steps() -> None:
    before = model(MLP)
    after = apply(before, FUSE_LINEAR).model
    dims = {"B": 2, "S": 5}
    apart, joined = cost_table(before, dims), cost_table(after, dims)
    assert [node.op_type for node in after.graph] == ["Linear", "Linear"]
    assert not joined.unknown
    assert joined.flops == apart.flops
    assert joined.total.static_macs.size == apart.total.static_macs.size == 2 * 5 * (4 * 6 + 6 * 4)
    assert joined.parameters == apart.parameters
    # What is between the steps is neither written nor read.
    assert int(joined.bytes) < int(apart.bytes)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_cost_of_each_activation_is_that_of_its_operator(activation: str) -> None:
    form = ACTIVATIONS[activation]
    given = ", ".join(f'{name} = "{value}"' for name, value in form.attributes.items())
    text = f"p = MatMul(x, w) h = Add(p, b) y = {form.operator} {f'<{given}>' if given else ''} (h)"
    head = '<ir_version: 10, opset_import: ["": 24]> g (float[M,4] x) => (float[M,6] y) <float[4,6] w, float[6] b>'
    before = model(f"{head} {{ {text} }}")
    assert cost_table(apply(before, FUSE_LINEAR).model).flops == cost_table(before).flops


def test_another_function_is_not_counted() -> None:
    text = """<ir_version: 10, opset_import: ["": 24, "mine": 1]>
        g (float[M,4] x) => (float[M,4] y) { y = mine.Linear(x) }
        <domain: "mine", opset_import: ["": 24]> Linear (x) => (y) { y = Neg(x) }"""
    assert cost_table(ir.from_onnx_text(text)).unknown


def test_an_artifact_with_nodes_left_in_runs_by_its_bodies(tmp_path: Path) -> None:
    text = "default,fuse-linear,-spell-linear,-lower-linear-for-ort"
    for target in ("onnx", "ort-cpu"):
        artifact = gw.optimize(model(MLP), target=target, passes=text, profile="B=1:2:4,S=1:3:8", progress=False)
        assert [node.op_type for node in artifact.model.graph] == ["Linear", "Linear"]
        artifact.save(tmp_path / target)
        x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
        plain = onnxruntime.InferenceSession(tmp_path / target / "model.onnx", providers=["CPUExecutionProvider"])
        expected = evaluate(model(MLP), {"x": x})["y"]
        np.testing.assert_allclose(plain.run(None, {"x": x})[0], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gw.load(tmp_path / target)(x=x)["y"], expected, rtol=1e-5, atol=1e-6)
        again = gw.optimize(tmp_path / target / "model.onnx", profile="B=1:2:4,S=1:3:8", progress=False)
        assert "Linear" not in {node.op_type for node in again.model.graph}


@pytest.mark.parametrize("target", ["onnx", "ort-cpu", "ort-cuda", "openvino", "tensorrt"])
def test_each_target_lowers_what_is_joined(target: str) -> None:
    before = model(MLP)
    plain, joined = (
        run_pipeline(Run(before.clone()), CATALOGUE.parse(text, target)) for text in ("default", "default,fuse-linear")
    )
    assert not difference(plain, joined)
    assert not joined.functions


@pytest.mark.parametrize("target", ["onnx", "ort-cpu"])
@pytest.mark.parametrize("name", ["bert_dynamo_24", "gpt2_dynamo_18", "llama_dynamo_18"])
def test_the_corpus_comes_out_as_without_it(name: str, target: str) -> None:
    before = model((CORPUS / f"{name}.onnxtxt").read_text())
    texts = ("default", "default,fuse-linear", "default,fuse-linear,-spell-linear,-lower-linear-for-ort")
    plain, joined, left = (run_pipeline(Run(before.clone()), CATALOGUE.parse(text, target)) for text in texts)
    assert Counter(node.op_type for node in joined.graph) == Counter(node.op_type for node in plain.graph)
    assert left.graph.num_nodes() < plain.graph.num_nodes()
    dims = {"batch": 2, "seq": 16}
    assert cost_table(left, dims).total.static_macs.size == cost_table(plain, dims).total.static_macs.size
