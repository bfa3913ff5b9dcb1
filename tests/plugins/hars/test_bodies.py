"""A HARS node without a body gets the one that its attributes, inputs and outputs ask for."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphwright.engine.shapes import infer_shapes
from graphwright.errors import LoadError
from graphwright.plugins.hars import meaning, reference
from graphwright.plugins.hars.bodies import ATTRIBUTES, attach_bodies
from graphwright.runtime.ort import OrtSession

RANDOM = np.random.default_rng(3)


def model_of(outputs: str, call: str, opset: int = 24, ir_version: int = 8) -> ir.Model:
    declared = ", ".join(f"{'int64' if name in ('i', 'e') else 'float'}[{name}_a] {name}" for name in outputs.split())
    declared = declared.replace("_a]", "_a, two]")
    return ir.from_onnx_text(f"""
        <ir_version: {ir_version}, opset_import: ["" : {opset}, "hars" : 1]>
        g (float[B, 12] x, float[12] bias) => ({declared}) {{ {call} }}""")


def run(model: ir.Model, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    for value in model.graph.outputs:
        value.shape = None
    return OrtSession(model, kernels=False)(inputs)


def test_the_file_runs_in_onnx_runtime_with_the_numbers_of_the_reference() -> None:
    call = 'v, i, m, s = hars.softmax_topk <k = 3, mode = "prob", temperature = 0.5> (x, bias)'
    model = model_of("v i m s", call)
    assert attach_bodies(model) == 1
    onnx.checker.check_model(ir.to_proto(model))
    x, bias = RANDOM.normal(size=(4, 12)).astype(np.float32), RANDOM.normal(size=12).astype(np.float32)
    found = run(model, x=x, bias=bias)
    expected = reference.softmax_topk(x, 3, mode="prob", bias=bias, temperature=0.5, stats=True)
    for name, array in zip("vims", expected, strict=True):
        np.testing.assert_allclose(found[name], array, rtol=2e-6, atol=2e-6)


def test_a_second_call_changes_nothing() -> None:
    model = model_of("v i", "v, i = hars.softmax_topk <k = 3> (x)")
    assert (attach_bodies(model), attach_bodies(model)) == (1, 0)
    assert len(model.functions) == 1


@pytest.mark.parametrize(
    ("outputs", "call", "overload"),
    [
        ("v i", "v, i = hars.softmax_topk <k = 3> (x)", "logprob"),
        ("v i", 'v, i = hars.softmax_topk <k = 3, mode = "logit", temperature = 1.0> (x)', "logit"),
        ("v i", "v, i = hars.softmax_topk <k = 3, temperature = 2.0> (x, bias)", "logprob_bias_temperature"),
        ("v i m", "v, i, m = hars.softmax_topk <k = 3> (x)", "logprob_stats"),
        ("v e", "v, e = hars.router_topk <k = 3, groups = 1, top_groups = 1> (x)", "softmax"),
        (
            "v e",
            'v, e = hars.router_topk <k = 3, scoring = "sigmoid", groups = 4, top_groups = 2> (x, bias)',
            "sigmoid_bias_groups",
        ),
        (
            "v e",
            "v, e = hars.router_topk <k = 3, renormalize = 1> (x, bias)",
            "softmax_bias_renormalize",
        ),
        ("v e z", "v, e, z = hars.router_topk <k = 3, zero_experts = 2> (x)", "softmax_zero_experts"),
        (
            "v e",
            "v, e = hars.router_topk <k = 3, zero_experts = 2, scale_zero_experts = 0> (x)",
            "softmax_zero_experts_unscaled",
        ),
    ],
)
@pytest.mark.parametrize("opset", [20, 24])
def test_the_body_is_that_of_the_options(outputs: str, call: str, overload: str, opset: int) -> None:
    model = model_of(outputs, call, opset)
    attach_bodies(model)
    assert [identifier[2] for identifier in model.functions] == [overload]
    node = model.graph.node(0)
    assert node.op_identifier() in model.functions
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    assert proto.ir_version >= 10
    run(model, x=np.zeros((2, 12), np.float32), bias=np.zeros(12, np.float32))


def test_nodes_in_subgraphs_and_functions_get_bodies_too() -> None:
    text = """
        <ir_version: 10, opset_import: ["" : 24, "hars" : 1, "own" : 1]>
        g (float[B, 9] x, bool c) => (float[B, 2] y, int64[B, 2] j) {
            y = If (c) <then_branch = t () => (float[B, 2] v) { v, i = hars.softmax_topk <k = 2> (x) },
                        else_branch = e () => (float[B, 2] w) { w, i2 = hars.softmax_topk <k = 2, mode = "logit"> (x) }>
            j = own.pick (x)
        }
        <domain: "own", opset_import: ["" : 24, "hars" : 1]>
        pick (x) => (j) { v, j = hars.softmax_topk <k = 2, mode = "prob"> (x) }"""
    model = ir.from_onnx_text(text)
    assert attach_bodies(model) == 3
    x = RANDOM.normal(size=(3, 9)).astype(np.float32)
    found = OrtSession(model, kernels=False)(x=x, c=np.array(False))
    np.testing.assert_array_equal(found["y"], reference.softmax_topk(x, 2, mode="logit")[0])
    np.testing.assert_array_equal(found["j"], reference.softmax_topk(x, 2)[1])


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("v, i = hars.softmax_topk (x)", "k 0"),
        ("v, i = hars.softmax_topk <k = 0> (x)", "k 0"),
        ("v, i = hars.softmax_topk <k = 1.5> (x)", "k 1.5"),
        ('v, i = hars.softmax_topk <k = 2, mode = "max"> (x)', "mode 'max'"),
        ("v, i = hars.softmax_topk <k = 2, temperature = 0.0> (x)", "temperature 0.0"),
        ('v, i = hars.router_topk <k = 2, scoring = "max"> (x)', "scoring 'max'"),
        ("v, i = hars.softmin_topk <k = 2> (x)", "operator 'softmin_topk'"),
    ],
)
def test_a_node_that_means_nothing_is_an_error(call: str, found: str) -> None:
    with pytest.raises(LoadError) as caught:
        attach_bodies(model_of("v i", call))
    assert caught.value.found == found


def test_an_identity_weight_without_zero_experts_is_an_error() -> None:
    with pytest.raises(LoadError, match="zero_experts"):
        attach_bodies(model_of("v e z", "v, e, z = hars.router_topk <k = 2> (x)"))


def test_an_old_opset_is_an_error() -> None:
    with pytest.raises(LoadError, match="opset 14"):
        attach_bodies(model_of("v i", "v, i = hars.softmax_topk <k = 2> (x)", opset=14))


def test_the_attributes_are_those_of_the_bodies() -> None:
    functions: dict[str, Any] = {"softmax_topk": meaning.softmax_topk(), "router_topk": meaning.router_topk()}
    for name, attributes in ATTRIBUTES.items():
        declared = functions[name].attributes
        assert set(declared) == set(attributes)
        for each, default in attributes.items():
            assert each == "k" or declared[each].value == default


@pytest.mark.parametrize("mode", meaning.MODES)
@pytest.mark.parametrize("scoring", meaning.SCORINGS)
def test_a_body_gives_passes_nothing_to_do(mode: str, scoring: str) -> None:
    """Or a second run of a pipeline would change the model."""
    for function in (meaning.softmax_topk(mode), meaning.router_topk(scoring)):
        assert "Identity" not in [node.op_type for node in function]
        model = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 24}), ir_version=10, functions=[function])
        assert not infer_shapes(model)
