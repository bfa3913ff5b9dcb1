"""router_topk in standard operators: the routers of the models it comes from, every option, what stays."""

from typing import Any

import numpy as np
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lower.lower_router_topk import LOWER_ROUTER_TOPK
from graphwright.plugins.hars import reference
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model


def layer(
    options: str = "k = 2",
    *,
    x: str = "float[N,8]",
    bias: str = "",
    results: str = "w, e",
    outputs: str = "float[N,2] w, int64[N,2] e",
    opset: int = 24,
) -> ir.Model:
    """A graph of one router, with its body."""
    head = f'<ir_version: 10, opset_import: ["": {opset}, "hars": 1]> g ({x} x{", " if bias else ""}{bias})'
    inputs = "x, bias" if bias else "x"
    read = model(f"{head} => ({outputs}) {{ {results} = hars.router_topk <{options}> ({inputs}) }}", infer=False)
    attach_bodies(read)
    return read


def standard(body: str, consts: str = "", bias: str = "") -> str:
    inputs = f"float[N,8] x{', ' if bias else ''}{bias}"
    head = f'<ir_version: 10, opset_import: ["": 24]> g ({inputs}) => (float[N,2] w, int64[N,2] e)'
    return f"{head} <int64[1] k = {{2}}{consts}> {{ {body} }}"


def test_mixtral() -> None:
    before = layer("k = 2, renormalize = 1")
    after = standard("b, e = TopK(x, k) w = Softmax <axis = -1> (b)")
    assert_equivalent(before, assert_fires(before, LOWER_ROUTER_TOPK, 1, after))


def test_qwen() -> None:
    before = layer("k = 2")
    after = standard("b, e = TopK(x, k) s = Softmax <axis = -1> (x) w = GatherElements <axis = -1> (s, e)")
    assert_equivalent(before, assert_fires(before, LOWER_ROUTER_TOPK, 1, after))


def test_a_sigmoid_with_bias_and_scale() -> None:
    bias = "float[8] bias"
    before = layer('k = 2, scoring = "sigmoid", renormalize = 1, scale = 2.5', bias=bias)
    body = """s = Sigmoid(x) c = Add(s, bias) b, e = TopK(c, k) g = GatherElements <axis = -1> (s, e)
        t = ReduceSum(g, last) u = Add(t, tiny) d = Div(g, u) w = Mul(d, scale)"""
    consts = ", int64[1] last = {1}, float tiny = {1e-20}, float scale = {2.5}"
    assert_equivalent(before, assert_fires(before, LOWER_ROUTER_TOPK, 1, standard(body, consts, bias)))


def test_deepseek() -> None:
    options = 'k = 2, scoring = "sigmoid", renormalize = 1, scale = 2.5, groups = 4, top_groups = 2'
    before = layer(options, bias="float[8] bias")
    assert_equivalent(before, assert_fires(before, LOWER_ROUTER_TOPK), sizes={"N": 7})


def test_longcat() -> None:
    results, outputs = "w, e, z", "float[N,2] w, int64[N,2] e, float[N] z"
    for scaled in (0, 1):
        options = f"k = 2, scale = 6.0, zero_experts = 3, scale_zero_experts = {scaled}"
        before = layer(options, bias="float[8] bias", results=results, outputs=outputs)
        assert_equivalent(before, assert_fires(before, LOWER_ROUTER_TOPK), sizes={"N": 7})


def test_an_identity_weight_that_nobody_uses_is_not_computed() -> None:
    after = assert_fires(layer("k = 2, zero_experts = 3", results="w, e, z"), LOWER_ROUTER_TOPK)
    assert "ReduceSum" not in [node.op_type for node in after.graph.all_nodes()]


def test_three_axes_of_half_precision() -> None:
    before = layer("k = 2", x="float16[B,S,8]", outputs="float[B,S,2] w, int64[B,S,2] e")
    after = assert_fires(before, LOWER_ROUTER_TOPK)
    assert_equivalent(before, after, sizes={"B": 2, "S": 3})
    assert not after.functions and list(after.opset_imports) == [""]


def test_refuses_what_is_not_known() -> None:
    assert_refuses(layer(x="float[N,E]"), LOWER_ROUTER_TOPK, Reason.UNKNOWN)
    for lost in ("shape", "type"):
        before = layer()
        setattr(before.graph.inputs[0], lost, None)
        assert_refuses(before, LOWER_ROUTER_TOPK, Reason.UNKNOWN)


def test_refuses_doubles() -> None:
    assert_refuses(layer(x="double[N,8]"), LOWER_ROUTER_TOPK, Reason.DTYPE)


def test_refuses_more_than_there_are() -> None:
    assert_refuses(layer("k = 9"), LOWER_ROUTER_TOPK, Reason.SHAPE)


def test_refuses_options_that_mean_nothing() -> None:
    before = layer()
    (only,) = before.graph
    only.attributes["scoring"] = ir.AttrString("scoring", "tanh")
    assert_refuses(before, LOWER_ROUTER_TOPK, Reason.ATTRIBUTE)


def test_refuses_an_old_opset() -> None:
    assert_refuses(layer(opset=17), LOWER_ROUTER_TOPK, Reason.OPSET)


@given(
    scoring=st.sampled_from(["softmax", "sigmoid"]),
    renormalize=st.booleans(),
    groups=st.sampled_from([(1, 1), (2, 1), (4, 3)]),
    zeros=st.sampled_from([0, 3]),
    biased=st.booleans(),
    tokens=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 99),
)
def test_same_numbers_as_the_reference(
    scoring: str, renormalize: bool, groups: tuple[int, int], zeros: int, biased: bool, tokens: int, seed: int
) -> None:
    text = f'k = 2, scoring = "{scoring}", renormalize = {int(renormalize)}, zero_experts = {zeros}'
    text += f", groups = {groups[0]}, top_groups = {groups[1]}, scale = 1.5"
    results, outputs = ("w, e, z", ", float[N] z") if zeros else ("w, e", "")
    outputs = "float[N,2] w, int64[N,2] e" + outputs
    before = layer(text, bias="float[8] bias" if biased else "", results=results, outputs=outputs)
    after = apply(before, LOWER_ROUTER_TOPK)
    assert after.applied == 1
    random = np.random.default_rng(seed)
    inputs: dict[str, Any] = {"x": random.normal(size=(tokens, 8)).astype(np.float32)}
    if biased:
        inputs["bias"] = random.normal(size=8).astype(np.float32)
    found = evaluate(after.model, inputs)
    options: dict[str, Any] = {"scoring": scoring, "renormalize": renormalize, "zero_experts": zeros, "scale": 1.5}
    options |= {"groups": groups[0], "top_groups": groups[1], "bias": inputs.get("bias")}
    expected = reference.router_topk(inputs["x"], 2, **options)
    np.testing.assert_array_equal(found["e"], expected[1])
    np.testing.assert_allclose(found["w"], expected[0], rtol=4e-6, atol=1e-6)
    if zeros:
        np.testing.assert_allclose(found["z"], expected[2], rtol=4e-6, atol=1e-6)
