"""The projections of one input that an attention takes become one, with their biases."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Observer, Reason, Record
from graphwright.engine.rewrite import Run, apply_rule
from graphwright.passes.transform.pack_qkv import PACK_QKV
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

GEMM_HEAD = (
    """<ir_version: 10, opset_import: ["": 24]> g (float[N,4] x) => (float[N,5] q, float[N,3] k, float[N,5] v)"""
)

WEIGHTS = "float[4,5] wq, float[4,3] wk, float[4,5] wv"
BIASES = "float[5] bq, float[3] bk, float[5] bv"
PRODUCTS = "pq = MatMul(x, wq) pk = MatMul(x, wk) pv = MatMul(x, wv)"
BIASED = f"{PRODUCTS} q = Add(pq, bq) k = Add(pk, bk) v = Add(pv, bv)"
USES = "qt = Transpose <perm = [0, 2, 1]> (q) y = MatMul(qt, v) z = Relu(k)"
HEAD = '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => (float[B,5,5] y, float[B,S,3] z)'
EXAMPLES = {"three": f"{HEAD} <{WEIGHTS}, {BIASES}> {{ {BIASED} {USES} }}"}


def layer(
    body: str = BIASED, *, consts: str = f"{WEIGHTS}, {BIASES}", x: str = "B,S,4", opset: int = 24, extra: str = ""
) -> ir.Model:
    head = f'<ir_version: 10, opset_import: ["": {opset}]> g (float[{x}] x) => (float[B,5,5] y, float[B,S,3] z)'
    return model(f"{head} <{consts}> {{ {body} {USES} {extra} }}")


def constants(after: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in after.graph.initializers.items()}


@pytest.mark.parametrize("opset", [13, 18, 24])
@pytest.mark.parametrize("body", [BIASED, BIASED.replace("Add(pq, bq)", "Add(bq, pq)")])
def test_packs_products_with_biases(body: str, opset: int) -> None:
    before = layer(body, opset=opset)
    after = assert_fires(before, PACK_QKV)
    assert [node.op_type for node in after.graph] == ["MatMul", "Add", "Split", "Transpose", "MatMul", "Relu"]
    old, new = constants(before), constants(after)
    packed = np.concatenate([old["wq"], old["wk"], old["wv"]], 1)
    np.testing.assert_array_equal(new["pack-qkv/packed_weight"], packed)
    bias = np.concatenate([old["bq"], old["bk"], old["bv"]])
    np.testing.assert_array_equal(new["pack-qkv/packed_bias"], bias)
    assert_equivalent(before, after)


def test_packs_products_without_biases() -> None:
    body = PRODUCTS.replace("pq", "q").replace("pk", "k").replace("pv", "v")
    before = layer(body)
    after = assert_fires(before, PACK_QKV)
    assert [node.op_type for node in after.graph] == ["MatMul", "Split", "Transpose", "MatMul", "Relu"]
    assert_equivalent(before, after)


def test_a_bias_that_one_of_them_lacks_is_zeros() -> None:
    """As in Whisper, whose keys have no bias."""
    before = layer(BIASED.replace("k = Add(pk, bk)", "k = Identity(pk)"))
    after = assert_fires(before, PACK_QKV)
    assert [node.op_type for node in after.graph][:3] == ["MatMul", "Add", "Split"]
    np.testing.assert_array_equal(constants(after)["pack-qkv/packed_bias"][5:8], 0)
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


def test_weights_that_are_not_constant_are_no_projections() -> None:
    head = (
        f'<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x, {WEIGHTS}) => (float[B,S,5] '
        f"q, float[B,S,3] k, float[B,S,5] v)"
    )
    before = model(f"{head} <{BIASES}> {{ {BIASED} }}")
    assert_refuses(before, PACK_QKV, Reason.STRUCTURE)


def test_a_weight_that_callers_may_replace_is_no_projection() -> None:
    before = layer(PRODUCTS.replace("pq", "q").replace("pk", "k").replace("pv", "v"))
    before.graph.inputs.append(before.graph.initializers["wk"])
    assert_refuses(before, PACK_QKV, Reason.STRUCTURE)


def test_refuses_a_bias_that_is_a_residual_and_packs_the_products() -> None:
    head = (
        '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x, float[B,S,5] r) => '
        "(float[B,S,5] q, float[B,S,3] k, float[B,S,5] v)"
    )
    before = model(f"{head} <{WEIGHTS}, {BIASES}> {{ {BIASED.replace('Add(pq, bq)', 'Add(pq, r)')} }}")
    refused_for(before, Reason.CONSTANT)
    after = assert_fires(before, PACK_QKV)
    assert [node.op_type for node in after.graph][-1] == "Add"
    assert_equivalent(before, after)


def refused_for(before: ir.Model, reason: Reason) -> None:
    """Assert that the refusals of the first sweep, before the match that is taken, have this reason."""
    record = Record()
    run = Run(before.clone(), [record, Halt()], explain=True)
    apply_rule(PACK_QKV, run)
    assert reason in {each.reason for each in run.refusals}


class Halt(Observer):
    """Lets no application through."""

    def should_apply(self, number: int) -> bool:
        return False


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
    refused_for(before, reason)
    after = assert_fires(before, PACK_QKV)
    assert sum(node.op_type == "Add" for node in after.graph) == 2
    assert_equivalent(before, after)


def test_refuses_interior_values_with_another_use_and_packs_the_products() -> None:
    before = layer(extra="n = Neg(pq) o = Add(n, q) u = Relu(o)")
    refused_for(before, Reason.SHARED)
    assert_equivalent(before, assert_fires(before, PACK_QKV))
    head = (
        '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => (float[B,S,5] pq, '
        "float[B,S,5] q, float[B,S,3] k, float[B,S,5] v)"
    )
    before = model(f"{head} <{WEIGHTS}, {BIASES}> {{ {BIASED} }}")
    refused_for(before, Reason.GRAPH_OUTPUT)
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


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("with_bias", [True, False])
def test_packs_gemms(turned: int, with_bias: bool) -> None:
    consts = f"{WEIGHTS}, {BIASES}"
    if turned:
        consts = f"float[5,4] wq, float[3,4] wk, float[5,4] wv, {BIASES}"
    bias = dict.fromkeys("qkv", "") | ({each: f", b{each}" for each in "qkv"} if with_bias else {})
    body = " ".join(f"{each} = Gemm <transB = {turned}> (x, w{each}{bias[each]})" for each in "qkv")
    before = model(f"{GEMM_HEAD} <{consts}> {{ {body} }}")
    after = assert_fires(before, PACK_QKV)
    assert [node.op_type for node in after.graph] == ["Gemm", "Split"]
    assert_equivalent(before, after)


def test_a_product_and_a_gemm_are_packed_together() -> None:
    body = "q = Gemm(x, wq, bq) pk = MatMul(x, wk) k = Add(pk, bk) v = Gemm(x, wv)"
    before = model(f"{GEMM_HEAD} <{WEIGHTS}, {BIASES}> {{ {body} }}")
    after = assert_fires(before, PACK_QKV)
    assert [node.op_type for node in after.graph] == ["Gemm", "Split"]
    assert_equivalent(before, after)


def test_refuses_weights_of_which_one_is_transposed() -> None:
    body = "q = Gemm(x, wq, bq) k = Gemm <transB = 1> (x, wt) v = Gemm(x, wv)"
    before = model(f"{GEMM_HEAD} <{WEIGHTS}, {BIASES}, float[3,4] wt> {{ {body} }}")
    assert_refuses(before, PACK_QKV, Reason.ATTRIBUTE)


@pytest.mark.parametrize("attribute", ["alpha = 0.5", "beta = 0.5"])
def test_a_gemm_that_scales_is_no_projection(attribute: str) -> None:
    body = f"q = Gemm <{attribute}> (x, wq, bq) k = Gemm(x, wk) v = Gemm(x, wv)"
    assert_refuses(model(f"{GEMM_HEAD} <{WEIGHTS}, {BIASES}> {{ {body} }}"), PACK_QKV, Reason.STRUCTURE)


CROSS_HEAD = """<ir_version: 10, opset_import: ["": 24]> g (float[B,S,8] x, float[B,T,8] m) => (float[B,S,8] y)"""
CROSS = """pq_0 = MatMul(x, wq) q_0 = Add(pq_0, b) k_0 = MatMul(m, wk) pv_0 = MatMul(m, wv) v_0 = Add(pv_0, b)
    a_0 = Attention <q_num_heads = 2, kv_num_heads = 2> (q_0, k_0, v_0)"""
CROSS_WEIGHTS = "float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8] b"


def test_the_keys_and_values_of_cross_attention_are_packed() -> None:
    before = model(f"{CROSS_HEAD} <{CROSS_WEIGHTS}> {{ {CROSS} y = Relu(a_0) }}")
    after = assert_fires(before, PACK_QKV)
    assert [node.op_type for node in after.graph].count("MatMul") == 2
    assert_equivalent(before, after)


def test_layers_that_share_a_memory_are_packed_one_by_one() -> None:
    second = CROSS.replace("_0", "_1").replace("(x,", "(a_0,")
    before = model(f"{CROSS_HEAD} <{CROSS_WEIGHTS}> {{ {CROSS} {second} y = Relu(a_1) }}")
    after = assert_fires(before, PACK_QKV, 2)
    assert [node.op_type for node in after.graph].count("MatMul") == 4
    assert_equivalent(before, after)


def test_grouped_queries_with_norms_and_heads_apart_are_packed() -> None:
    """As in Qwen3: keys and values narrower than queries, norms of the heads of two."""
    head = """<ir_version: 10, opset_import: ["": 24]> g (float[B,S,8] x) => (float[B,4,S,4] y, float[B,S,3] u)"""
    weights = "float[8,16] wq, float[8,8] wk, float[8,8] wv, float[8,3] other, float[4] scale"
    heads = "<int64[4] four = {0, 0, 4, 4}, int64[4] two = {0, 0, 2, 4}, " + weights + ">"
    body = """pq = MatMul(x, wq) pk = MatMul(x, wk) pv = MatMul(x, wv) o = MatMul(x, other) u = Relu(o)
        rq = Reshape(pq, four) rk = Reshape(pk, two) rv = Reshape(pv, two)
        nq = RMSNormalization(rq, scale) nk = RMSNormalization(rk, scale)
        q = Transpose <perm = [0, 2, 1, 3]> (nq) k = Transpose <perm = [0, 2, 1, 3]> (nk)
        v = Transpose <perm = [0, 2, 1, 3]> (rv) y = Attention(q, k, v)"""
    before = model(f"{head} {heads} {{ {body} }}")
    after = assert_fires(before, PACK_QKV)
    assert [node.op_type for node in after.graph].count("MatMul") == 2  # the packed one, and the other
    assert_equivalent(before, after)


def test_two_projections_that_meet_at_no_attention_stay() -> None:
    head = """<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => (float[B,S,5] y)"""
    before = model(f"{head} <{WEIGHTS}> {{ q = MatMul(x, wq) v = MatMul(x, wv) y = Mul(q, v) }}")
    assert_refuses(before, PACK_QKV, Reason.STRUCTURE)


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
