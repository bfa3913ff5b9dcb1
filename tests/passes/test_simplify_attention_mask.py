"""Masks that only repeat a smaller one are made small and expanded last."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.passes.transform.simplify_attention_mask import SIMPLIFY_ATTENTION_MASK
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_fires, assert_refuses, model

QKV = "float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T,3] v"
POSITIONS = """l = Shape <start = 2, end = 3> (q) n = Squeeze(l) range = Range(zero, n, one)
    rows = Unsqueeze(range, axes) a = GreaterOrEqual(rows, zero)"""
CONSTS = "int64 zero = {0}, int64 one = {1}, int64[1] axes = {1}, float kept = {0}, float low = {-1e30}"
LENGTHS = "ql = Shape <start = 2, end = 3> (q) kl = Shape <start = 2, end = 3> (k) both = Concat <axis = 0> (ql, kl)"
ATTENTION = "y = Attention <scale = 0.5> (q, k, v, mask)"


def layer(body: str, *, extra: str = ", bool[B,1,1,T] keys", consts: str = CONSTS, opset: int = 24) -> ir.Model:
    head = f'<ir_version: 10, opset_import: ["": {opset}]> g ({QKV}{extra}) => (float[B,2,S,3] y)'
    found = model(f"{head} <{consts}> {{ {body} }}")
    sizes = {
        "a": ["S", 1],
        "and_": ["B", 1, "S", "T"],
        "wide": ["B", 1, "S", "T"],
        "mask": ["B", 1, "S", "T"],
    }
    for node in found.graph:
        for value in node.outputs:
            if value.name in sizes:  # as infer-shapes gives them
                value.shape = ir.Shape(sizes[value.name])
    return found


AND = f"{POSITIONS} mask = And(a, keys) {ATTENTION}"
AFTER = f"{LENGTHS} mask = Expand(keys, both) {ATTENTION}"
CHOSEN = f"{POSITIONS} and_ = And(a, keys) mask = Where(and_, kept, low) {ATTENTION}"
CHOSEN_AFTER = f"{LENGTHS} small = Where(keys, kept, low) mask = Expand(small, both) {ATTENTION}"
SHAPE = "fb = Shape <start = 0, end = 1> (q) size = Concat <axis = 0> (fb, axes, ql, kl)"


@pytest.mark.parametrize("order", ["a, keys", "keys, a"])
def test_a_conjunction_with_what_is_always_true_goes(order: str) -> None:
    before = layer(AND.replace("a, keys", order))
    assert_fires(before, SIMPLIFY_ATTENTION_MASK, 1, layer(AFTER))


@pytest.mark.parametrize("order", ["a, keys", "keys, a"])
def test_a_number_is_chosen_by_the_small_mask(order: str) -> None:
    before = layer(CHOSEN.replace("a, keys", order))
    assert_fires(before, SIMPLIFY_ATTENTION_MASK, 1, layer(CHOSEN_AFTER))


@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("and_ = And(a, keys) mask = Expand(and_, size)", AFTER),
        ("and_ = And(a, keys) wide = Expand(and_, size) mask = Where(wide, kept, low)", CHOSEN_AFTER),
        ("wide = Expand(keys, size) mask = Where(wide, kept, low)", CHOSEN_AFTER),
        ("and_ = And(a, keys) c = Where(and_, kept, low) mask = Expand(c, size)", CHOSEN_AFTER),
    ],
)
def test_expansions_on_the_way_go(body: str, after: str) -> None:
    before = layer(f"{POSITIONS} {LENGTHS} {SHAPE} {body} {ATTENTION}")
    outcome = assert_fires(before, SIMPLIFY_ATTENTION_MASK)
    kinds = [sorted(node.op_type for node in each.graph) for each in (outcome, layer(after))]
    assert kinds[0] == kinds[1]


def test_a_mask_shared_by_two_layers_is_simplified_in_both() -> None:
    second = "w = Attention <scale = 0.25> (q, k, v, mask) y = Add(x, w)"
    body = CHOSEN.replace(ATTENTION, ATTENTION.replace("y =", "x =") + second)
    assert_fires(layer(body), SIMPLIFY_ATTENTION_MASK, 2)


def test_a_conjunction_that_others_use_stays_for_them() -> None:
    body = AND.replace(
        ATTENTION,
        ATTENTION.replace("y =", "x =") + " f = Cast <to = 1> (mask) m = ReduceMax(f) y = Mul(x, m)",
    )
    after = assert_fires(layer(body), SIMPLIFY_ATTENTION_MASK)
    assert "And" in {node.op_type for node in after.graph}


def test_a_mask_that_has_both_lengths_needs_no_expansion() -> None:
    before = layer(AND, extra=", bool[B,1,S,T] keys")
    after = layer(ATTENTION.replace("mask", "keys"), extra=", bool[B,1,S,T] keys")
    assert_fires(before, SIMPLIFY_ATTENTION_MASK, 1, after)


def test_attributes_of_the_attention_stay() -> None:
    before = layer(AND.replace("<scale = 0.5>", "<scale = 0.5, is_causal = 1, softcap = 2.0>"))
    after = assert_fires(before, SIMPLIFY_ATTENTION_MASK)
    attributes = after.graph.node(-1).attributes
    assert attributes["is_causal"].as_int() == 1 and attributes["softcap"].as_float() == 2.0


def test_refuses_operands_that_may_be_false() -> None:
    before = layer("mask = And(keys, rows) " + ATTENTION, extra=", bool[B,1,1,T] keys, bool[S,1] rows")
    assert_refuses(before, SIMPLIFY_ATTENTION_MASK, Reason.CONSTANT)
    assert_refuses(layer(AND.replace("(rows, zero)", "(rows, one)")), SIMPLIFY_ATTENTION_MASK, Reason.CONSTANT)
    causal = AND.replace("GreaterOrEqual(rows, zero)", "GreaterOrEqual(rows, range)")
    assert_refuses(layer(causal), SIMPLIFY_ATTENTION_MASK, Reason.CONSTANT)


def test_refuses_a_mask_whose_length_is_not_known() -> None:
    before = layer(AND)
    mask = next(node for node in before.graph if node.op_type == "And").outputs[0]
    mask.shape = ir.Shape(["B", 1, "S", None])
    assert_refuses(before, SIMPLIFY_ATTENTION_MASK, Reason.UNKNOWN)
    mask.shape = ir.Shape(["B", 1, "S", "U"])  # shorter than the keys: Attention pads it
    assert_refuses(before, SIMPLIFY_ATTENTION_MASK, Reason.UNKNOWN)
    mask.shape = None
    assert_refuses(before, SIMPLIFY_ATTENTION_MASK, Reason.UNKNOWN)


def test_refuses_queries_of_three_axes() -> None:
    """There the second axis is the length, and the last one may have the same size as the mask by chance."""
    inputs = "float[B,8,8] q, float[B,8,8] k, float[B,8,8] v, bool[B,1,1,8] keys"
    body = "mask = And(keys, true) y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v, mask)"
    head = f'<ir_version: 10, opset_import: ["": 24]> g ({inputs}) => (float[B,8,8] y) <bool true = {{1}}>'
    assert_refuses(model(f"{head} {{ {body} }}"), SIMPLIFY_ATTENTION_MASK, Reason.RANK)


def test_refuses_a_layer_that_gives_its_keys_back() -> None:
    head = f'<ir_version: 10, opset_import: ["": 24]> g ({QKV}, bool[B,1,S,T] keys)'
    body = "{ mask = And(keys, true) y, nk = Attention <scale = 0.5> (q, k, v, mask) }"
    outputs = "(float[B,2,S,3] y, float[B,2,T,4] nk) <bool true = {1}>"
    assert_refuses(model(f"{head} => {outputs} {body}"), SIMPLIFY_ATTENTION_MASK, Reason.GRAPH_OUTPUT)
    body = "{ mask = And(keys, true) x, nk = Attention <scale = 0.5> (q, k, v, mask) m = ReduceMax(nk) y = Mul(x, m) }"
    assert_refuses(
        model(f"{head} => (float[B,2,S,3] y) <bool true = {{1}}> {body}"),
        SIMPLIFY_ATTENTION_MASK,
        Reason.SHARED,
    )


def test_near_misses_stay() -> None:
    for body in (
        AND.replace("mask = And", "mask = Or"),
        AND.replace("mask = And(a, keys)", "mask = Xor(a, keys)"),
    ):
        assert_refuses(layer(body), SIMPLIFY_ATTENTION_MASK, Reason.STRUCTURE)
    past = ", bool[B,1,S,L] keys, float[B,2,P,4] pk, float[B,2,P,3] pv"
    body = f"{POSITIONS} mask = And(a, keys) y, nk, nv = Attention <scale = 0.5> (q, k, v, mask, pk, pv)"
    assert_refuses(layer(body, extra=past), SIMPLIFY_ATTENTION_MASK, Reason.STRUCTURE)


def test_a_constant_that_callers_may_replace_is_not_known_to_be_true() -> None:
    extra = ", bool[B,1,S,T] keys, bool true"
    before = layer(f"mask = And(keys, true) {ATTENTION}", extra=extra, consts="bool true = {1}")
    assert before.graph.inputs[4].is_initializer()
    assert_refuses(before, SIMPLIFY_ATTENTION_MASK, Reason.CONSTANT)


SIZES = st.sampled_from([1, 2, 7])


@pytest.mark.parametrize("body", [AND, CHOSEN])
@given(b=SIZES, s=SIZES, t=SIZES, seed=st.integers(0, 99))
def test_same_numbers(body: str, b: int, s: int, t: int, seed: int) -> None:
    before = layer(body)
    after = apply(before, SIMPLIFY_ATTENTION_MASK)
    assert after.applied == 1
    rng = np.random.default_rng(seed)
    shapes = {"q": (b, 2, s, 4), "k": (b, 2, t, 4), "v": (b, 2, t, 3)}
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    inputs["keys"] = rng.random((b, 1, 1, t)) < 0.5
    assert not compare(evaluate(before, inputs), evaluate(after.model, inputs))
