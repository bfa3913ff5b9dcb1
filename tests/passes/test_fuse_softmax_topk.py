"""Softmax with the choice of the largest becomes one operator, and what only looks like it stays."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphwright.engine.observe import Reason
from graphwright.passes.transform.fuse_softmax_topk import FUSE_SOFTMAX_TOPK
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

CONSTS = "int64[1] k = {3}, int64[1] last = {-1}, float c = {0.7}, float tiny = {1e-20}"
PLAIN = "p = Softmax(x) y, i = TopK(p, k)"
LOGS = "p = LogSoftmax(x) y, i = TopK(p, k)"
OWN_SUM = "p = Softmax(x) b, i = TopK(p, k) s = ReduceSum(b, last) y = Div(b, s)"
GUARDED_SUM = "p = Softmax(x) b, i = TopK(p, k) s = ReduceSum(b, last) t = Add(s, tiny) y = Div(b, t)"
OF_LARGEST = "b, i = TopK(x, k) y = Softmax(b)"
COOLED = "z = Div(x, c) p = Softmax(z) y, i = TopK(p, k)"
HEATED = "z = Mul(c, x) p = LogSoftmax(z) y, i = TopK(p, k)"


def head(
    body: str,
    *,
    x: str = "B,9",
    y: str = "B,3",
    t: str = "float",
    out: str = "",
    consts: str = CONSTS,
    opset: int = 24,
    more: str = "",
    inputs: str = "",
) -> ir.Model:
    opsets = f'opset_import: ["": {opset}{", " + chr(34) + "hars" + chr(34) + ": 1" if "hars." in body else ""}]'
    signature = f"({t}[{x}] x{inputs}) => ({out or t}[{y}] y, int64[{y}] i{more})"
    made = model(f"<ir_version: 10, {opsets}> g {signature} <{consts}> {{ {body} }}")
    if attach_bodies(made):
        RemoveUnusedNodesPass()(made)  # as every pipeline does, in functions too
    return made


def fused(mode: str, *, temperature: float = 1.0, k: int = 3, axis: int = -1, **options: str) -> ir.Model:
    attributes = f'k = {k}, axis = {axis}, mode = "{mode}", temperature = {temperature:.10f}'
    return head(f"y, i = hars.softmax_topk <{attributes}> (x)", **options)


EXAMPLES = {
    name: f'<ir_version: 10, opset_import: ["": 24]> g (float[B, 9] x) => (float[B, 3] y, int64[B, 3] i) '
    f"<{CONSTS}> {{ {body} }}"
    for name, body in {
        "plain": PLAIN,
        "logs": LOGS,
        "own-sum": OWN_SUM,
        "of-largest": OF_LARGEST,
        "cooled": COOLED,
    }.items()
}


@pytest.mark.parametrize(
    ("body", "mode"),
    [
        (PLAIN, "prob"),
        (PLAIN.replace("TopK", "TopK <sorted = 0>"), "prob"),
        (PLAIN.replace("Softmax", "Softmax <axis = 1>"), "prob"),
        (LOGS, "logprob"),
        (OWN_SUM, "prob_renorm"),
        (GUARDED_SUM, "prob_renorm"),
        (GUARDED_SUM.replace("Add(s, tiny)", "Add(tiny, s)"), "prob_renorm"),
        (OF_LARGEST, "prob_renorm"),
        (OF_LARGEST.replace("TopK", "TopK <sorted = 0>"), "prob_renorm"),
    ],
)
def test_each_form_is_fused(body: str, mode: str) -> None:
    before = head(body)
    assert_equivalent(before, assert_fires(before, FUSE_SOFTMAX_TOPK, 1, fused(mode)))


@pytest.mark.parametrize(
    ("body", "mode", "temperature"),
    [
        (COOLED, "prob", np.float32(0.7)),
        (HEATED, "logprob", np.float32(1 / 0.7)),
        (HEATED.replace("Mul(c, x)", "Mul(x, c)"), "logprob", np.float32(1 / 0.7)),
        (OWN_SUM.replace("Softmax(x)", "Softmax(z)").replace("p =", "z = Div(x, c) p =", 1), "prob_renorm", 0.7),
    ],
)
def test_a_temperature_is_taken_along(body: str, mode: str, temperature: float) -> None:
    before = head(body)
    after = assert_fires(before, FUSE_SOFTMAX_TOPK, 1, fused(mode, temperature=float(temperature)))
    for seed in range(5):
        assert_equivalent(before, after, seed=seed)


def test_two_heads_are_fused_one_by_one() -> None:
    body = PLAIN + " n = Neg(x) q = LogSoftmax(n) z, j = TopK(q, k)"
    before = head(body, more=", float[B,3] z, int64[B,3] j")
    after = assert_fires(before, FUSE_SOFTMAX_TOPK, 2)
    assert sorted(overload for _, _, overload in after.functions) == ["logprob", "prob"]
    assert_equivalent(before, after)


@pytest.mark.parametrize("axis", [0, 1, -2])
def test_any_axis_may_be_chosen_from(axis: int) -> None:
    sizes = [["4,B,5", "2,B,5"], ["B,4,5", "B,2,5"], ["B,4,5", "B,2,5"]][axis]
    body = f"p = Softmax <axis = {axis}> (x) y, i = TopK <axis = {axis % 3}> (p, k)"
    before = head(body, x=sizes[0], y=sizes[1], consts="int64[1] k = {2}")
    after = fused("prob", k=2, axis=axis % 3, x=sizes[0], y=sizes[1])
    assert_equivalent(before, assert_fires(before, FUSE_SOFTMAX_TOPK, 1, after))


@pytest.mark.parametrize("unused", ["y", "i"])
def test_one_output_alone_may_be_used(unused: str) -> None:
    kept = {"y": "int64[B,3] i", "i": "float[B,3] y"}[unused]
    before = model(f'<ir_version: 10, opset_import: ["": 24]> g (float[B,9] x) => ({kept}) <{CONSTS}> {{ {PLAIN} }}')
    after = assert_fires(before, FUSE_SOFTMAX_TOPK)
    (node,) = after.graph
    # Without the values there is nothing to normalize.
    assert node.attributes["mode"].as_string() == {"y": "logit", "i": "prob"}[unused]
    assert_equivalent(before, after)


@pytest.mark.parametrize("number", [10, 16])
def test_logits_below_float32_are_taken_before_their_cast(number: int) -> None:
    t = {10: "float16", 16: "bfloat16"}[number]
    before = head(f"w = Cast <to = 1> (x) {OWN_SUM.replace('(x)', '(w)')}", t=t, out="float")
    after = assert_fires(before, FUSE_SOFTMAX_TOPK, 1, fused("prob_renorm", t=t, out="float"))
    assert_equivalent(before, after)


def test_a_cast_that_others_read_stays_for_them() -> None:
    before = head(
        f"w = Cast <to = 1> (x) {PLAIN.replace('(x)', '(w)')} z = Neg(w)",
        t="float16",
        out="float",
        more=", float[B,9] z",
    )
    after = assert_fires(before, FUSE_SOFTMAX_TOPK)
    assert sorted(node.op_type for node in after.graph) == ["Cast", "Neg", "softmax_topk"]
    assert_equivalent(before, after)


def test_logits_that_are_cast_down_are_taken_behind_the_cast() -> None:
    before = head(f"w = Cast <to = 10> (x) {PLAIN.replace('(x)', '(w)')}", out="float16")
    after = assert_fires(before, FUSE_SOFTMAX_TOPK)
    assert [node.op_type for node in after.graph] == ["Cast", "softmax_topk", "Cast"]
    assert_equivalent(before, after)


@pytest.mark.parametrize(
    "body",
    [
        PLAIN,
        PLAIN.replace("Softmax(x)", "Softmax(w)")
        .replace("TopK(p", "TopK(q")
        .replace("p =", "w = Cast <to = 1> (x) p =")
        .replace("y, i", "q = Cast <to = 10> (p) y, i"),
    ],
)
def test_probabilities_below_float32_are_cast_after_the_choice(body: str) -> None:
    before = head(body, t="float16")
    after = head(
        'v, i = hars.softmax_topk <k = 3, axis = -1, mode = "prob", temperature = 1.0> (x) y = Cast <to = 10> (v)',
        t="float16",
    )
    assert_equivalent(before, assert_fires(before, FUSE_SOFTMAX_TOPK, 1, after))


def test_a_scale_behind_stays() -> None:
    before = head("p = Softmax(x) b, i = TopK(p, k) y = Mul(b, c)")
    after = assert_fires(before, FUSE_SOFTMAX_TOPK)
    assert [node.op_type for node in after.graph] == ["softmax_topk", "Mul"]
    assert_equivalent(before, after)


def test_a_vocabulary_of_unknown_size_may_be_chosen_from() -> None:
    before = head(PLAIN, x="B,V")
    assert_equivalent(before, assert_fires(before, FUSE_SOFTMAX_TOPK), sizes={"V": 11})


def test_a_constant_node_may_hold_k() -> None:
    before = head("n = Constant <value_ints = [3]> () p = Softmax(x) y, i = TopK(p, n)")
    assert_fires(before, FUSE_SOFTMAX_TOPK)


def test_refuses_an_older_opset() -> None:
    assert_refuses(head(PLAIN, opset=19), FUSE_SOFTMAX_TOPK, Reason.OPSET)
    assert_fires(head(PLAIN, opset=20), FUSE_SOFTMAX_TOPK)


def test_refuses_float64() -> None:
    assert_refuses(head(PLAIN, t="double"), FUSE_SOFTMAX_TOPK, Reason.DTYPE)
    wide = f"w = Cast <to = 11> (x) {PLAIN.replace('(x)', '(w)')}"
    assert_refuses(head(wide, out="double"), FUSE_SOFTMAX_TOPK, Reason.DTYPE)
    after = "p = Softmax(x) w = Cast <to = 11> (p) y, i = TopK(w, k)"
    assert_refuses(head(after, out="double"), FUSE_SOFTMAX_TOPK, Reason.DTYPE)


def test_refuses_a_k_that_is_no_constant() -> None:
    outputs = "(float[B,K] y, int64[B,K] i)"
    text = f'<ir_version: 10, opset_import: ["": 24]> g (float[B,9] x, int64[1] k) => {outputs} {{ {PLAIN} }}'
    assert_refuses(model(text), FUSE_SOFTMAX_TOPK, Reason.UNKNOWN)
    # An initializer that callers may override is no constant.
    overridable = text.replace(f"=> {outputs}", "=> (float[B,3] y, int64[B,3] i) <int64[1] k = {3}>")
    assert_refuses(model(overridable), FUSE_SOFTMAX_TOPK, Reason.UNKNOWN)


@pytest.mark.parametrize("k", [0, 10])
def test_refuses_more_than_there_are_or_none(k: int) -> None:
    text = f'<ir_version: 10, opset_import: ["": 24]> g (float[B,9] x) => (y, i) <int64[1] k = {{{k}}}> {{ {PLAIN} }}'
    before = ir.from_onnx_text(text)
    before.graph[0].outputs[0].shape, before.graph[0].outputs[0].dtype = ir.Shape(["B", 9]), ir.DataType.FLOAT
    before.graph[1].outputs[0].dtype = ir.DataType.FLOAT
    assert_refuses(before, FUSE_SOFTMAX_TOPK, Reason.SHAPE)


@pytest.mark.parametrize(
    "body",
    [
        PLAIN.replace("Softmax", "Softmax <axis = 0>"),
        LOGS.replace("TopK", "TopK <axis = 0>"),
        OF_LARGEST.replace("Softmax", "Softmax <axis = 0>"),
    ],
)
def test_refuses_a_choice_over_another_axis_even_of_the_same_size(body: str) -> None:
    y = "3,9" if "TopK <axis = 0>" in body else "9,3"
    assert_refuses(head(body, x="9,9", y=y), FUSE_SOFTMAX_TOPK, Reason.ATTRIBUTE)


def test_refuses_axes_of_an_unknown_rank() -> None:
    body = PLAIN.replace("Softmax", "Softmax <axis = 1>")
    text = f'<ir_version: 10, opset_import: ["": 24]> g (float[] x) => (float[] y, int64[] i) <{CONSTS}> {{ {body} }}'
    before = ir.from_onnx_text(text)
    for value in (*before.graph.inputs, *before.graph[0].outputs, *before.graph[1].outputs):
        value.shape = None
        value.dtype = value.dtype or ir.DataType.FLOAT
    assert_refuses(before, FUSE_SOFTMAX_TOPK, Reason.UNKNOWN)


def test_refuses_probabilities_that_others_need() -> None:
    assert_refuses(head(f"{PLAIN} z = Neg(p)", more=", float[B,9] z"), FUSE_SOFTMAX_TOPK, Reason.SHARED)
    assert_refuses(head(PLAIN, more=", float[B,9] p"), FUSE_SOFTMAX_TOPK, Reason.GRAPH_OUTPUT)
    captured = "z = If (on) <then_branch = t () => (a) { a = Identity(p) }, else_branch = e () => (b) { b = Neg(p) }>"
    before = head(f"{PLAIN} {captured}", more=", float[B,9] z", inputs=", bool on")
    assert_refuses(before, FUSE_SOFTMAX_TOPK, Reason.SHARED)


BAD_TEMPERATURES = [
    (Reason.CONSTANT, "float c = {-0.7}", "float"),
    (Reason.CONSTANT, "float c = {0.0}", "float"),
    (Reason.CONSTANT, "float c = {inf}", "float"),
    (Reason.CONSTANT, "float c = {1e-45}", "float"),
    (Reason.RANK, "float[1,1,1] c = {0.7}", "float"),
    (Reason.DTYPE, "float16 c = {14336}", "float16"),
]


@pytest.mark.parametrize(("reason", "consts", "t"), BAD_TEMPERATURES)
def test_a_temperature_that_is_refused_stays(reason: Reason, consts: str, t: str) -> None:
    y = "1,B,3" if reason is Reason.RANK else "B,3"
    after = apply(head(COOLED, consts=f"int64[1] k = {{3}}, {consts}", t=t, y=y), FUSE_SOFTMAX_TOPK)
    assert [node.op_type for node in after.model.graph][:2] == ["Div", "softmax_topk"]
    # Where the rest is refused too, the report gives the reason of each.
    text = f'<ir_version: 10, opset_import: ["": 24]> g ({t}[B,9] x, int64[1] k) => (y, i) <{consts}> {{ {COOLED} }}'
    outcome = assert_refuses(model(text), FUSE_SOFTMAX_TOPK, reason)
    assert Reason.UNKNOWN in outcome.reasons


@pytest.mark.parametrize(
    "body",
    [
        OWN_SUM.replace("ReduceSum(b, last)", "ReduceSum(b, first)"),
        OWN_SUM.replace("ReduceSum(b, last)", "ReduceSum(b, both)"),
        OWN_SUM.replace("ReduceSum(b, last)", "ReduceSum <keepdims = 0> (b, first)"),
        OWN_SUM.replace("Div(b, s)", "Div(s, b)"),
        OWN_SUM.replace("Softmax", "LogSoftmax"),
        GUARDED_SUM.replace("tiny", "c"),
    ],
)
def test_another_division_stays(body: str) -> None:
    before = head(body, x="B,3", consts=f"{CONSTS}, int64[1] first = {{0}}, int64[2] both = {{0, 1}}")
    after = assert_fires(before, FUSE_SOFTMAX_TOPK)
    assert "Div" in [node.op_type for node in after.graph]
    if "LogSoftmax" not in body:  # there a sum may be near zero, and its reciprocal far off
        assert_equivalent(before, after, sizes={"B": 3})


def test_chosen_shares_that_others_need_are_not_divided_first() -> None:
    before = head(OWN_SUM + " z = Neg(b)", more=", float[B,3] z")
    after = assert_fires(before, FUSE_SOFTMAX_TOPK)
    assert sorted(node.op_type for node in after.graph) == ["Div", "Neg", "ReduceSum", "softmax_topk"]
    assert_equivalent(before, after)


@pytest.mark.parametrize(
    "body",
    [
        PLAIN.replace("TopK", "TopK <largest = 0>"),
        OF_LARGEST.replace("TopK", "TopK <largest = 0>"),
        PLAIN.replace("Softmax(x)", "Sigmoid(x)"),
        PLAIN.replace("Softmax(x)", "Softplus(x)"),
        "y, i = TopK(x, k)",
        "b, i = TopK(x, k) y = LogSoftmax(b)",
        "p = Softmax(x) n = Neg(p) y, i = TopK(n, k)",
    ],
)
def test_near_misses_stay(body: str) -> None:
    assert_refuses(head(body), FUSE_SOFTMAX_TOPK, Reason.STRUCTURE)


def test_a_sort_of_experts_is_no_choice_of_the_largest() -> None:
    """As transformers exports mixtures of experts: the ids are sorted by TopK from the smallest."""
    body = f"{PLAIN} e = Reshape(i, last) n = Shape(e) s, order = TopK <largest = 0> (e, n)"
    before = head(body, more=", int64[N] order")
    after = assert_fires(before, FUSE_SOFTMAX_TOPK)
    assert [node.op_type for node in after.graph].count("TopK") == 1


def test_fires_inside_a_branch() -> None:
    inner = PLAIN.replace("y, i", "a, j")
    zeros = "a = Slice(x, zero, k, one) j = Cast <to = 7> (a)"
    body = f"""y, i = If (on) <then_branch = t () => (float[B,3] a, int64[B,3] j) {{ {inner} }},
        else_branch = e () => (float[B,3] a, int64[B,3] j) {{ {zeros} }}>"""
    before = head(body, consts=f"{CONSTS}, int64[1] zero = {{0}}, int64[1] one = {{1}}", inputs=", bool on")
    after = assert_fires(before, FUSE_SOFTMAX_TOPK)
    x = np.random.default_rng(0).normal(size=(2, 9)).astype(np.float32)
    for on in (True, False):
        old, new = (evaluate(each, {"x": x, "on": np.array(on)}) for each in (before, after))
        np.testing.assert_allclose(new["y"], old["y"], rtol=1e-5)
        np.testing.assert_array_equal(new["i"], old["i"])


SIZES = st.sampled_from([1, 2, 7])


@pytest.mark.parametrize("body", [PLAIN, LOGS, OWN_SUM, OF_LARGEST, COOLED, HEATED])
@given(b=SIZES, v=st.sampled_from([3, 4, 31]), seed=st.integers(0, 99))
def test_same_numbers_at_random_sizes(body: str, b: int, v: int, seed: int) -> None:
    before = head(body, x="B,V")
    after = apply(before, FUSE_SOFTMAX_TOPK)
    assert after.applied == 1
    assert_equivalent(before, after.model, sizes={"B": b, "V": v}, seed=seed)


def test_probabilities_that_tie_after_rounding_are_told_apart_by_their_logits() -> None:
    """The one difference that the docstring names: Softmax in float32 gives 0 twice, the logits differ."""
    before = head(PLAIN, consts="int64[1] k = {3}")
    x = np.full((1, 9), -400, np.float32)
    x[0, 0], x[0, 1], x[0, 5] = 0, -300, -200
    old, new = (evaluate(each, {"x": x})["i"] for each in (before, apply(before, FUSE_SOFTMAX_TOPK).model))
    assert old.tolist() == [[0, 1, 2]]
    assert new.tolist() == [[0, 5, 1]]
