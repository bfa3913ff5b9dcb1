"""Three products of one input become one, with their biases."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.engine.rewrite import Rule
from graphwright.passes.transform.pack_qkv import PACK_QKV, packed, with_biases
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

WEIGHTS = "float[4,5] wq, float[4,3] wk, float[4,5] wv"
BIASES = "float[5] bq, float[3] bk, float[5] bv"
PRODUCTS = "pq = MatMul(x, wq) pk = MatMul(x, wk) pv = MatMul(x, wv)"
BIASED = f"{PRODUCTS} q = Add(pq, bq) k = Add(pk, bk) v = Add(pv, bv)"
USES = "qt = Transpose <perm = [0, 2, 1]> (q) y = MatMul(qt, v) z = Relu(k)"


def layer(body: str = BIASED, *, consts: str = f"{WEIGHTS}, {BIASES}", x: str = "B,S,4", opset: int = 24) -> ir.Model:
    head = f'<ir_version: 10, opset_import: ["": {opset}]> g (float[{x}] x) => (float[B,5,5] y, float[B,S,3] z)'
    return model(f"{head} <{consts}> {{ {body} {USES} }}")


def constants(after: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in after.graph.initializers.items()}


@pytest.mark.parametrize("opset", [13, 18, 24])
def test_packs_products_with_biases(opset: int) -> None:
    before = layer(opset=opset)
    after = assert_fires(before, PACK_QKV)
    assert [node.op_type for node in after.graph] == ["MatMul", "Add", "Split", "Transpose", "MatMul", "Relu"]
    old, new = constants(before), constants(after)
    packed = np.concatenate([old["wq"], old["wk"], old["wv"]], 1)
    np.testing.assert_array_equal(new["pack-qkv/packed_weight"], packed)
    bias = np.concatenate([old["bq"], old["bk"], old["bv"]])
    np.testing.assert_array_equal(new["pack-qkv/packed_bias"], bias)
    assert_equivalent(before, after)


def test_the_bias_may_stand_first() -> None:
    body = BIASED.replace("Add(pq, bq)", "Add(bq, pq)").replace("Add(pv, bv)", "Add(bv, pv)")
    before = layer(body)
    after = assert_fires(before, PACK_QKV)
    assert len(list(after.graph)) == 6
    assert_equivalent(before, after)


def test_packs_products_without_biases() -> None:
    body = PRODUCTS.replace("pq", "q").replace("pk", "k").replace("pv", "v")
    before = layer(body)
    after = assert_fires(before, PACK_QKV)
    assert [node.op_type for node in after.graph] == ["MatMul", "Split", "Transpose", "MatMul", "Relu"]
    assert_equivalent(before, after)


def test_a_bias_that_one_of_them_lacks_stays_behind_the_split() -> None:
    """As in Whisper, whose keys have no bias."""
    before = layer(BIASED.replace("k = Add(pk, bk)", "k = Identity(pk)"))
    after = assert_fires(before, PACK_QKV)
    assert sorted(node.op_type for node in after.graph)[:2] == ["Add", "Add"]
    assert_equivalent(before, after)


def test_two_layers_are_packed() -> None:
    body = BIASED + (
        " r = MatMul(v, wo) pq2 = MatMul(r, wq) pk2 = MatMul(r, wk) pv2 = MatMul(r, wv) a = "
        "Add(pq2, bq) b = Add(pk2, bk) c = Add(pv2, bv)"
    )
    head = '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => (float[B,S,3] y, float[B,S,5] z)'
    consts = f"{WEIGHTS}, {BIASES}, float[5,4] wo"
    before = model(f"{head} <{consts}> {{ {body} d = Add(k, b) y = Relu(d) e = Add(a, c) f = Add(e, q) z = Relu(f) }}")
    assert_equivalent(before, assert_fires(before, PACK_QKV, 2))


def test_outputs_of_the_graph_keep_their_names() -> None:
    head = '<ir_version: 10, opset_import: ["": 24]> g (float[B,4] x) => (float[B,5] q, float[B,3] k, float[B,5] v)'
    before = model(f"{head} <{WEIGHTS}, {BIASES}> {{ {BIASED} }}")
    after = assert_fires(before, PACK_QKV)
    assert [value.name for value in after.graph.outputs] == ["q", "k", "v"]
    assert_equivalent(before, after)


@pytest.mark.parametrize("shape", ["4", "B,4", "A,B,S,4"])
def test_any_number_of_axes(shape: str) -> None:
    out = shape.replace("4", "{}")
    outputs = f"float[{out.format(5)}] q, float[{out.format(3)}] k, float[{out.format(5)}] v"
    head = f'<ir_version: 10, opset_import: ["": 24]> g (float[{shape}] x) => ({outputs})'
    before = model(f"{head} <{WEIGHTS}, {BIASES}> {{ {BIASED} }}")
    assert_equivalent(before, assert_fires(before, PACK_QKV))


def test_equal_sizes_everywhere() -> None:
    consts = "float[4,4] wq, float[4,4] wk, float[4,4] wv, float[4] bq, float[4] bk, float[4] bv"
    head = '<ir_version: 10, opset_import: ["": 24]> g (float[4,4,4] x) => (float[4,4,4] y)'
    before = model(f"{head} <{consts}> {{ {BIASED} a = Sub(q, k) b = Exp(v) y = Mul(a, b) }}")
    assert_equivalent(before, assert_fires(before, PACK_QKV))


def test_refuses_weights_that_are_not_constant() -> None:
    head = (
        f'<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x, {WEIGHTS}) => (float[B,S,5] '
        f"q, float[B,S,3] k, float[B,S,5] v)"
    )
    before = model(f"{head} <{BIASES}> {{ {BIASED} }}")
    assert_refuses(before, PACK_QKV, Reason.CONSTANT)


def test_refuses_a_weight_that_callers_may_replace() -> None:
    before = layer(PRODUCTS.replace("pq", "q").replace("pk", "k").replace("pv", "v"))
    before.graph.inputs.append(before.graph.initializers["wk"])
    assert_refuses(before, PACK_QKV, Reason.CONSTANT)


def test_refuses_a_bias_that_is_a_residual() -> None:
    head = (
        '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x, float[B,S,5] r) => '
        "(float[B,S,5] q, float[B,S,3] k, float[B,S,5] v)"
    )
    before = model(f"{head} <{WEIGHTS}, {BIASES}> {{ {BIASED.replace('Add(pq, bq)', 'Add(pq, r)')} }}")
    outcome = apply(before, PACK_QKV)
    assert outcome.patterns == ("without_biases",)
    assert_equivalent(before, outcome.model)


def test_refuses_weights_of_other_ranks() -> None:
    body = PRODUCTS.replace("pq", "q").replace("pk", "k").replace("pv", "v")
    head = (
        '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => (float[B,S,5] q, '
        "float[B,S,3] k, float[B,S,5] v)"
    )
    before = model(f"{head} <float[1,4,5] wq, float[1,4,3] wk, float[1,4,5] wv> {{ {body} }}")
    assert_refuses(before, PACK_QKV, Reason.RANK)
    head = '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => (float[B,S] q, float[B,S] k, float[B,S] v)'
    before = model(f"{head} <float[4] wq, float[4] wk, float[4] wv> {{ {body} }}")
    assert_refuses(before, PACK_QKV, Reason.RANK)


@pytest.mark.parametrize(("bias", "reason"), [("float[1]", Reason.SHAPE), ("float[1,5]", Reason.RANK)])
def test_a_bias_of_another_shape_stays_behind_the_split(bias: str, reason: Reason) -> None:
    before = layer(consts=f"{WEIGHTS}, {BIASES.replace('float[5] bq', bias + ' bq')}")
    outcome = apply(before, PACK_QKV)
    assert outcome.patterns == ("without_biases",)
    assert_equivalent(before, outcome.model)
    assert reason in apply_with_biases_only(before)


def apply_with_biases_only(before: ir.Model) -> set[Reason]:
    return apply(before, Rule("pack-qkv", (with_biases,), packed)).reasons


def test_refuses_interior_values_with_another_use() -> None:
    before = layer(BIASED + " o = Add(pq, q)")
    assert apply_with_biases_only(before) == {Reason.SHARED}
    head = (
        '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => (float[B,S,5] pq, '
        "float[B,S,5] q, float[B,S,3] k, float[B,S,5] v)"
    )
    before = model(f"{head} <{WEIGHTS}, {BIASES}> {{ {BIASED} }}")
    assert apply_with_biases_only(before) == {Reason.GRAPH_OUTPUT}
    assert_equivalent(before, assert_fires(before, PACK_QKV))  # the products alone are packed


def test_products_that_stand_apart_are_made_at_the_first() -> None:
    text = "q = MatMul(x, wq) t = Relu(q) k = MatMul(x, wk) v = MatMul(x, wv) y = Neg(t)"
    outputs = "(float[B,S,5] y, float[B,S,3] k, float[B,S,5] v)"
    head = f'<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => {outputs}'
    before = model(f"{head} <{WEIGHTS}> {{ {text} }}")
    assert_equivalent(before, assert_fires(before, PACK_QKV))


def test_refuses_an_older_opset() -> None:
    before = layer(opset=13)
    before.graph.opset_imports[""] = 12
    assert_refuses(before, PACK_QKV, Reason.OPSET)


def test_near_misses_stay() -> None:
    outputs = "(float[B,S,5] q, float[B,S,3] k, float[B,S,5] v)"
    head = f'<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x, float[B,S,4] x2) => {outputs}'
    body = PRODUCTS.replace("pq", "q").replace("pk", "k").replace("pv", "v")
    assert_refuses(model(f"{head} <{WEIGHTS}> {{ {body.replace('(x, wv)', '(x2, wv)')} }}"), PACK_QKV, Reason.STRUCTURE)
    two = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x2, wv)"
    assert_refuses(model(f"{head} <{WEIGHTS}> {{ {two} }}"), PACK_QKV, Reason.STRUCTURE)
    head = '<ir_version: 10, opset_import: ["": 24]> g (float[4,4] x) => (float[4,5] q, float[4,3] k, float[4,4] v)'
    right = "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(wv, x)"
    assert_refuses(
        model(f"{head} <{WEIGHTS.replace('[4,5] wv', '[4,4] wv')}> {{ {right} }}"), PACK_QKV, Reason.STRUCTURE
    )


def test_packs_inside_a_branch() -> None:
    branches = f"""y = If (on) <then_branch = t () => (float[B,S,5] a) {{
            {BIASED} s = Sub(q, v) m = ReduceMax(k) a = Mul(s, m) }},
        else_branch = e () => (float[B,S,5] o) {{ o = MatMul(x, wq) }}>"""
    head = '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x, bool on) => (float[B,S,5] y)'
    assert_fires(model(f"{head} <{WEIGHTS}, {BIASES}> {{ {branches} }}"), PACK_QKV)


@given(b=st.sampled_from([1, 2, 7]), s=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(b: int, s: int, seed: int) -> None:
    before = layer()
    assert_equivalent(before, apply(before, PACK_QKV).model, sizes={"B": b, "S": s}, seed=seed)
