"""Three projections and the attention over them become ONNX Runtime's own Attention."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine import sample
from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.engine.pipeline import run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.passes import CATALOGUE
from graphwright.passes.lower.fuse_attention_projections import FUSE_ATTENTION_PROJECTIONS as RULE
from graphwright.passes.lower.lower_attention_to_mha import LOWER_ATTENTION_TO_MHA
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

MHA = "com.microsoft.MultiHeadAttention <{attributes}>"
PROJECTED = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv)"
PLAIN = f"{PROJECTED} y = {MHA} (q, k, v)"
BIASED = f"{PROJECTED} y = {MHA} (q, k, v, b)"
MASKED = f'{PROJECTED} y = {MHA} (q, k, v, "", "", m)'
BOTH = f'{PROJECTED} y = {MHA} (q, k, v, b, "", m)'
# Weights of a BERT layer: hidden size 8, two heads, inner size 16.
LAYER = """
    q = MatMul(x, wq) qb = Add(q, bq) k = MatMul(x, wk) kb = Add(k, bk) v = MatMul(x, wv) vb = Add(v, bv)
    q4 = Reshape(qb, split) k4 = Reshape(kb, split) v4 = Reshape(vb, split)
    qh = Transpose <perm = [0, 2, 1, 3]> (q4) kh = Transpose <perm = [0, 2, 1, 3]> (k4)
    vh = Transpose <perm = [0, 2, 1, 3]> (v4)
    a = Attention (qh, kh, vh, m)
    at = Transpose <perm = [0, 2, 1, 3]> (a) ar = Reshape(at, join)
    o = MatMul(ar, wo) ob = Add(o, bo) s1 = Add(ob, x) n1 = LayerNormalization <epsilon = 1e-6> (s1, g1, h1)
    f = MatMul(n1, w1) fb = Add(f, b1) fg = Gelu(fb)
    d = MatMul(fg, w2) db = Add(d, b2) s2 = Add(db, n1) y = LayerNormalization <epsilon = 1e-6> (s2, g2, h2)
"""


def attention(
    body: str = BOTH,
    *,
    x: str = "B,S,6",
    mask: str = "B,1,S,S",
    weights: str = "6,8 6,8 6,4",
    heads: str = "num_heads = 2",
    t: str = "float",
) -> ir.Model:
    inputs = f"{t}[{x}] x" + (f", {t}[{mask}] m" if ", m)" in body else "")
    consts = [f"{t}[{shape}] w{name}" for name, shape in zip("qkv", weights.split(), strict=True)]
    consts += [f"{t}[20] b"] if ", b" in body else []
    imports = '"": 24, "com.microsoft": 1'
    text = f"<ir_version: 10, opset_import: [{imports}]> g ({inputs}) => ({t}[{x[:-1]}4] y) <{', '.join(consts)}>"
    return model(f"{text} {{ {body.format(attributes=heads)} }}", infer=False)


def assert_same(before: ir.Model, after: ir.Model, seed: int = 0, **sizes: int) -> None:
    """Both run in float32: ONNX Runtime's operators have no form in float64."""
    inputs = sample.sample_inputs(before, sample.bind_dims(before.graph.inputs, sizes=sizes), seed)
    assert not compare(evaluate(before, inputs), evaluate(after, inputs))


def bert_layer(mask: str) -> ir.Model:
    vectors = " ".join(f"float[8] {name}," for name in ("bq", "bk", "bv", "bo", "g1", "h1", "b2", "g2", "h2"))
    matrices = " ".join(f"float[8,8] {name}," for name in ("wq", "wk", "wv", "wo"))
    shapes = "int64[4] split = {0, 0, 2, 4}, int64[3] join = {0, 0, 8}"
    consts = f"{matrices} {vectors} float[8,16] w1, float[16] b1, float[16,8] w2, {shapes}"
    head = f"g (float[B,S,8] x, {mask} m) => (float[B,S,8] y)"
    return model(f'<ir_version: 10, opset_import: ["": 24]> {head} <{consts}> {{ {LAYER} }}')


@pytest.mark.parametrize("body", [PLAIN, BIASED, MASKED, BOTH])
def test_the_projections_go_in(body: str) -> None:
    before = attention(body, heads="num_heads = 2, scale = 0.3")
    after = assert_fires(before, RULE)
    (node,) = after.graph
    assert (node.domain, node.op_type, node.attributes["num_heads"].as_int()) == ("com.microsoft", "Attention", 2)
    assert list(node.attributes["qkv_hidden_sizes"].as_ints()) == [8, 8, 4]
    packed = np.concatenate([before.graph.initializers[f"w{name}"].const_value.numpy() for name in "qkv"], 1)  # type: ignore[union-attr]
    np.testing.assert_array_equal(node.inputs[1].const_value.numpy(), packed)  # type: ignore[union-attr]
    assert_same(before, after, B=2, S=5)


def test_a_bias_that_is_not_there_is_zeros() -> None:
    (node,) = assert_fires(attention(PLAIN), RULE).graph
    np.testing.assert_array_equal(node.inputs[2].const_value.numpy(), np.zeros(20, np.float32))  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [PLAIN, BOTH])
def test_causal_attention(body: str) -> None:
    before = attention(body, heads="num_heads = 2, unidirectional = 1")
    assert_same(before, assert_fires(before, RULE), B=2, S=5)


def test_twice_in_a_graph() -> None:
    second = PROJECTED.replace("q =", "p =").replace("k =", "r =").replace("v =", "u =") + f" z = {MHA} (p, r, u)"
    body = PLAIN.replace("y =", "a =") + " " + second + " y = Add(a, z)"
    before = attention(body)
    assert_same(before, assert_fires(before, RULE, 2), B=2, S=3)


@pytest.mark.parametrize(
    ("mask", "count"),
    # A boolean mask may leave a row without a key: a Where behind the attention sees to it.
    [("float[B,1,S,S]", 8), ("bool[B,1,S,S]", 8)],
)
def test_a_bert_layer_is_at_most_eight_computing_nodes(mask: str, count: int) -> None:
    before = bert_layer(mask)
    after = run_pipeline(Run(before.clone()), CATALOGUE.default("ort-cuda"))
    attention_node = next(node for node in after.graph if node.op_type == "Attention")
    # What makes the mask and tells which rows have a key is there once for all layers.
    of_mask = {"Where": 1 if mask.startswith("bool") else 0, "ReduceMax": 1, "Equal": 1, "Transpose": 1}
    operators = [node.op_type for node in after.graph]
    for name, times in of_mask.items():
        for _ in range(times):
            operators.remove(name)
    norm = "SkipLayerNormalization"
    assert sorted(operators) == sorted(["Attention", "Where", "MatMul", norm, "MatMul", "BiasGelu", "MatMul", norm])
    assert len(operators) <= count
    assert attention_node.domain == "com.microsoft"
    assert_equivalent(before, after, sizes={"B": 3, "S": 5})


def test_refuses_other_types() -> None:
    assert_refuses(attention(PLAIN, t="bfloat16"), RULE, Reason.DTYPE)


def test_refuses_an_input_of_other_axes() -> None:
    before = attention(PLAIN)
    before.graph.inputs[0].shape = ir.Shape(["S", 6])
    assert_refuses(before, RULE, Reason.RANK)


def test_refuses_a_weight_that_is_no_matrix() -> None:
    assert_refuses(attention(PLAIN, weights="1,6,8 6,8 6,4"), RULE, Reason.RANK)


@pytest.mark.parametrize("weights", ["6,6 6,8 6,4", "6,8 6,8 6,5"])
def test_refuses_widths_that_do_not_fit(weights: str) -> None:
    assert_refuses(attention(PLAIN, weights=weights), RULE, Reason.SHAPE)


def test_refuses_a_weight_that_is_not_constant() -> None:
    before = attention(PLAIN)
    weight = before.graph.initializers.pop("wq")
    weight.const_value = None
    before.graph.inputs.append(weight)
    assert_refuses(before, RULE, Reason.CONSTANT)


def test_a_weight_that_callers_may_set_is_not_constant() -> None:
    before = attention(PLAIN)
    before.graph.inputs.append(before.graph.initializers["wk"])
    assert_refuses(before, RULE, Reason.CONSTANT)


def test_refuses_a_projection_that_others_use() -> None:
    body = PLAIN.replace("y =", "a =") + " s = ReduceSum(q) y = Mul(a, s)"
    assert_refuses(attention(body), RULE, Reason.SHARED)


def test_refuses_a_projection_that_is_an_output() -> None:
    before = attention(PLAIN)
    before.graph.outputs.append(next(node for node in before.graph if node.op_type == "MatMul").outputs[0])
    assert_refuses(before, RULE, Reason.GRAPH_OUTPUT)


def test_projections_of_two_inputs_stay() -> None:
    text = "g (float[B,S,6] x, float[B,S,6] z) => (float[B,S,8] y) <float[6,8] wq, float[6,8] wk, float[6,8] wv>"
    body = PLAIN.replace("k = MatMul(x", "k = MatMul(z").format(attributes="num_heads = 2")
    before = model(f'<ir_version: 10, opset_import: ["": 24, "com.microsoft": 1]> {text} {{ {body} }}', infer=False)
    assert_refuses(before, RULE, Reason.STRUCTURE)


@pytest.mark.parametrize("mask", ["B,1,S,S", "B,2,S,S", "1,1,S,S"])
@given(b=st.sampled_from([1, 2, 7]), s=st.sampled_from([1, 2, 7]), seed=st.integers(0, 9))
def test_same_numbers(mask: str, b: int, s: int, seed: int) -> None:
    before = attention(mask=mask)
    assert_same(before, apply(before, RULE).model, seed, B=b, S=s)


def test_behind_the_pass_that_makes_its_operator() -> None:
    body = f"{PROJECTED} y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)"
    consts = "<float[6,8] wq, float[6,8] wk, float[6,4] wv>"
    text = f"g (float[B,S,6] x) => (float[B,S,4] y) {consts} {{ {body} }}"
    before = model(f'<ir_version: 10, opset_import: ["": 24]> {text}')
    between = assert_fires(before, LOWER_ATTENTION_TO_MHA)
    assert_equivalent(before, assert_fires(between, RULE), sizes={"B": 2, "S": 3})
