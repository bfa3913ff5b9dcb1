"""Attention on heads together becomes ONNX Runtime's MultiHeadAttention, its biases inside."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lower.lower_attention_to_mha import LOWER_ATTENTION_TO_MHA as RULE
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEADS = "q_num_heads = 2, kv_num_heads = 2"
PLAIN = "y = Attention <{attributes}> (q, k, v)"
MASKED = "y = Attention <{attributes}> (q, k, v, m)"
BIASED = "qb = Add(q, bq) kb = Add(k, bk) vb = Add(v, bv) y = Attention <{attributes}> (qb, kb, vb{mask})"
TOGETHER = MASKED.format(attributes=HEADS)
WITH_BIASES = BIASED.format(attributes=HEADS, mask="")


def layer(
    body: str = TOGETHER,
    *,
    q: str = "B,S,8",
    k: str = "B,T,8",
    v: str = "B,T,6",
    y: str = "B,S,6",
    mask: str = "float[B,1,S,T]",
    t: str = "float",
    opset: int = 24,
    biases: str = "8 8 6",
) -> ir.Model:
    bq, bk, bv = biases.split()
    imports = f'"": {opset}' + (', "com.microsoft": 1' if "microsoft" in body else "")
    masks = f", {mask} m" if ", m" in body else ""
    head = f"<ir_version: 10, opset_import: [{imports}]> g ({t}[{q}] q, {t}[{k}] k, {t}[{v}] v{masks}) => ({t}[{y}] y)"
    consts = f"{t}[{bq}] bq, {t}[{bk}] bk, {t}[{bv}] bv" if "bq" in body else ""
    return model(f"{head} <{consts}> {{ {body} }}", infer="microsoft" not in body)


EXAMPLES = {
    "plain": '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,8] q, float[B,N,8] k, float[B,N,6] v) => '
    f"(float[B,S,6] y) {{ {PLAIN.format(attributes=HEADS)} }}",
    "biases": '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,8] q, float[B,N,8] k, float[B,N,6] v) => '
    f"(float[B,S,6] y) <float[8] bq, float[8] bk, float[6] bv> {{ {WITH_BIASES} }}",
}


def test_without_a_mask() -> None:
    before = layer(PLAIN.format(attributes=f"{HEADS}, scale = 0.3"))
    after = layer("y = com.microsoft.MultiHeadAttention <num_heads = 2, scale = 0.3> (q, k, v)")
    assert_equivalent(before, assert_fires(before, RULE, 1, after), sizes={"B": 2, "S": 3, "T": 5})


@pytest.mark.parametrize("order", ["q, bq", "bq, q"])
def test_the_biases_of_the_projections_come_along(order: str) -> None:
    before = layer(WITH_BIASES.replace("q, bq", order))
    after = assert_fires(before, RULE)
    (node,) = after.graph
    assert [None if each is None else each.name for each in node.inputs[:3]] == ["q", "k", "v"]
    names = ("bq", "bk", "bv")
    packed = np.concatenate([before.graph.initializers[name].const_value.numpy() for name in names])  # type: ignore[union-attr]
    np.testing.assert_array_equal(node.inputs[3].const_value.numpy(), packed)  # type: ignore[union-attr]
    assert_equivalent(before, after, sizes={"B": 2, "S": 3, "T": 5})


@pytest.mark.parametrize("mask", ["B,1,S,T", "1,1,S,T"])
def test_a_mask_that_may_leave_a_row_without_a_key(mask: str) -> None:
    before = layer(mask=f"float[{mask}]")
    after = assert_fires(before, RULE)
    assert [node.op_type for node in after.graph] == ["MultiHeadAttention", "ReduceMax", "Equal", "Transpose", "Where"]
    assert_equivalent(before, after, sizes={"B": 2, "S": 3, "T": 5})
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 3, 8), "k": (2, 5, 8), "v": (2, 5, 6)}
    inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs["m"] = np.zeros((2 if mask[0] == "B" else 1, 1, 3, 5), np.float32)
    inputs["m"][0, 0, 1] = -np.inf
    found = evaluate(after, inputs)["y"]
    assert not found[0, 1].any() and np.isfinite(found).all()
    np.testing.assert_allclose(found, evaluate(before, inputs)["y"], atol=1e-5)


@pytest.mark.parametrize("mask", ["B,1,S,T", "1,1,S,T"])
def test_a_boolean_mask_becomes_numbers(mask: str) -> None:
    before = layer(mask=f"bool[{mask}]")
    after = assert_fires(before, RULE)
    assert_equivalent(before, after, sizes={"B": 3, "S": 3, "T": 5})


@pytest.mark.parametrize("mask", ["B,1,S,T", "B,2,S,T", "1,2,S,T", "B,1,2,2"])
def test_a_finite_mask_needs_nothing_else(mask: str) -> None:
    body = "c = Where(m, high, low) " + MASKED.format(attributes=HEADS).replace(", m)", ", c)")
    sizes = {"q": "B,2,8", "k": "B,2,8", "v": "B,2,6", "y": "B,2,6"} if "2,2" in mask else {}
    names = ", ".join(f"float[{sizes.get(name, size)}] {name}" for name, size in (("q", "B,S,8"), ("k", "B,T,8")))
    head = f"g ({names}, float[{sizes.get('v', 'B,T,6')}] v, bool[{mask}] m) => (float[{sizes.get('y', 'B,S,6')}] y)"
    consts = "<float low = {-5.0}, float high = {5.0}>"
    before = model(f'<ir_version: 10, opset_import: ["": 24]> {head} {consts} {{ {body} }}')
    after = assert_fires(before, RULE)
    assert [node.op_type for node in after.graph] == ["Where", "MultiHeadAttention"]
    assert_equivalent(before, after, sizes={"B": 3, "S": 3, "T": 5})


def test_two_layers() -> None:
    body = (
        PLAIN.format(attributes=HEADS).replace("y =", "h =") + " " + PLAIN.format(attributes=HEADS).replace("(q", "(h")
    )
    before = layer(body, v="B,T,8", y="B,S,8")
    assert_equivalent(before, assert_fires(before, RULE, 2), sizes={"B": 2, "S": 3, "T": 5})


def test_causal_where_queries_and_keys_are_as_many() -> None:
    before = layer(PLAIN.format(attributes=f"{HEADS}, is_causal = 1"), k="B,S,8", v="B,S,6")
    after = assert_fires(before, RULE)
    assert after.graph.node(0).attributes["unidirectional"].as_int() == 1
    assert_equivalent(before, after, sizes={"B": 2, "S": 5})


@pytest.mark.parametrize("body", [MASKED, BIASED])
@pytest.mark.parametrize("mask", ["B,1,S,S", "1,1,S,S"])
def test_causal_with_a_mask_and_biases(body: str, mask: str) -> None:
    text = body.format(attributes=f"{HEADS}, is_causal = 1", mask=", m")
    before = layer(text, k="B,S,8", v="B,S,6", mask=f"float[{mask}]")
    assert_equivalent(before, assert_fires(before, RULE), sizes={"B": 2, "S": 5})


def test_refuses_causal_attention_over_other_lengths() -> None:
    causal = PLAIN.format(attributes=f"{HEADS}, is_causal = 1")
    assert_refuses(layer(causal), RULE, Reason.UNKNOWN)
    assert_refuses(layer(causal, q="B,4,8", k="B,5,8", v="B,5,6", y="B,4,6"), RULE, Reason.SHAPE)


def test_refuses_other_types() -> None:
    assert_refuses(layer(PLAIN.format(attributes=HEADS), t="double"), RULE, Reason.DTYPE)
    before = layer(PLAIN.format(attributes=HEADS))
    before.graph.inputs[2].dtype = ir.DataType.FLOAT16
    assert_refuses(before, RULE, Reason.DTYPE)
    assert_refuses(layer(mask="float16[B,1,S,T]"), RULE, Reason.DTYPE)


def test_refuses_heads_apart() -> None:
    body = "y = Attention (q, k, v)"
    before = layer(body, q="B,2,S,4", k="B,2,T,4", v="B,2,T,3", y="B,2,S,3")
    assert_refuses(before, RULE, Reason.RANK)


@pytest.mark.parametrize("mask", ["S,T", "1,S,T"])
def test_refuses_a_mask_of_fewer_axes(mask: str) -> None:
    assert_refuses(layer(mask=f"float[{mask}]"), RULE, Reason.RANK)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [("B,2,S,T", Reason.SHAPE), ("B,1,1,T", Reason.UNKNOWN), ("A,1,S,T", Reason.UNKNOWN), ("B,1,S,3", Reason.UNKNOWN)],
)
def test_refuses_a_mask_that_may_not_fit(mask: str, reason: Reason) -> None:
    assert_refuses(layer(mask=f"float[{mask}]"), RULE, reason)


def test_refuses_a_mask_of_other_heads() -> None:
    assert_refuses(layer(mask="float[B,4,S,T]"), RULE, Reason.SHAPE)


def test_refuses_grouped_heads() -> None:
    body = PLAIN.format(attributes="q_num_heads = 4, kv_num_heads = 2")
    assert_refuses(layer(body, k="B,T,4", y="B,S,12"), RULE, Reason.SHAPE)


@pytest.mark.parametrize("attribute", ["softcap = 2.0", "softmax_precision = 11"])
def test_refuses_what_the_operator_cannot_express(attribute: str) -> None:
    assert_refuses(layer(PLAIN.format(attributes=f"{HEADS}, {attribute}")), RULE, Reason.ATTRIBUTE)


def test_biases_that_are_none_stay_before_it() -> None:
    text = "g (float[B,S,8] q, float[B,T,8] k, float[B,T,6] v, float[8] bq) => (float[B,S,6] y)"
    consts = "<float[8] bk, float[6] bv>"
    before = model(f'<ir_version: 10, opset_import: ["": 24]> {text} {consts} {{ {WITH_BIASES} }}')
    outcome = apply(before, RULE)
    assert outcome.patterns == ("without_biases",)
    assert Reason.CONSTANT in reasons_of_the_first(before)
    assert Reason.SHAPE in reasons_of_the_first(layer(WITH_BIASES, biases="1 8 6"))
    assert_equivalent(before, outcome.model, sizes={"B": 2, "S": 3, "T": 5})


def reasons_of_the_first(before: ir.Model) -> set[Reason]:
    return apply(before, replace(RULE, patterns=RULE.patterns[:1])).reasons


def test_a_sum_that_others_use_stays() -> None:
    body = WITH_BIASES.replace("y =", "a =") + " s = ReduceSum(qb) y = Mul(a, s)"
    before = layer(body)
    assert Reason.SHARED in reasons_of_the_first(before)
    assert_equivalent(before, assert_fires(before, RULE), sizes={"B": 2, "S": 3, "T": 5})


def test_refuses_scores_that_others_use() -> None:
    body = f"a, pk, pv = Attention <{HEADS}> (q, k, v) s = ReduceSum(pk) y = Mul(a, s)"
    assert_refuses(layer(body), RULE, Reason.SHARED)


def test_refuses_present_keys_that_are_outputs() -> None:
    text = "g (float[B,S,8] q, float[B,T,8] k, float[B,T,6] v) => (float[B,S,6] y, float[B,2,T,4] pk)"
    body = f"y, pk, pv = Attention <{HEADS}> (q, k, v)"
    assert_refuses(model(f'<ir_version: 10, opset_import: ["": 24]> {text} {{ {body} }}'), RULE, Reason.GRAPH_OUTPUT)


@pytest.mark.parametrize("body", [PLAIN, BIASED, MASKED])
@given(b=st.sampled_from([1, 2, 7]), s=st.sampled_from([2, 3, 7]), t=st.sampled_from([1, 2, 7]), seed=st.integers(0, 9))
def test_same_numbers(body: str, b: int, s: int, t: int, seed: int) -> None:
    before = layer(body.format(attributes=HEADS, mask=""))
    assert_equivalent(before, apply(before, RULE).model, sizes={"B": b, "S": s, "T": t}, seed=seed)
