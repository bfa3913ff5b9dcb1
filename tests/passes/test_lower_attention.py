"""Attention as products and a softmax: every form of mask, rows without keys, and what stays an operator."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.passes.lower.lower_attention import LOWER_ATTENTION
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

QKV = "{t}[B,2,S,4] q, {t}[B,2,T,4] k, {t}[B,2,T,3] v"
ATTENTION = "y = Attention <scale = 0.25> (q, k, v, mask)"
SCORES = "kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt) z = Mul(s, number)"
ADDED = f"{SCORES} m = Add(z, mask) p = Softmax(m) x = MatMul(p, v)"
CLEARED = "top = ReduceMax(mask, last) none = Equal(top, inf) y = Where(none, nought, x)"
CONSTS = "float number = {0.25}, int64[1] last = {-1}, float inf = {-inf}, float nought = {0}"


def layer(body: str = ATTENTION, *, mask: str = "", consts: str = "", t: str = "float", opset: int = 24) -> ir.Model:
    inputs = QKV.format(t=t) + (f", {mask}" if mask else "")
    head = f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({t}[B,2,S,3] y)'
    return model(f"{head} <{consts}> {{ {body} }}")


@pytest.mark.parametrize("opset", [23, 24])
def test_without_a_mask(opset: int) -> None:
    before = layer(ATTENTION.replace(", mask", ""), opset=opset)
    after = layer(f"{SCORES} p = Softmax(z) y = MatMul(p, v)", consts=CONSTS, opset=opset)
    assert_equivalent(before, assert_fires(before, LOWER_ATTENTION, 1, after))


def test_the_scale_is_that_of_the_head_size_where_none_is_given() -> None:
    before = layer("y = Attention(q, k, v)")
    after = layer(f"{SCORES} p = Softmax(z) y = MatMul(p, v)", consts="float number = {0.5}")
    assert_fires(before, LOWER_ATTENTION, 1, after)


def test_a_scale_of_zero_is_a_scale() -> None:
    before = layer("y = Attention <scale = 0.0> (q, k, v)")
    after = layer(f"{SCORES} p = Softmax(z) y = MatMul(p, v)", consts="float number = {0}")
    assert_fires(before, LOWER_ATTENTION, 1, after, regions=False)


@pytest.mark.parametrize("shape", ["S,T", "1,1,S,T", "B,1,S,T", "B,2,S,T", "1,S,T", "2,S,T"])
def test_an_added_mask_clears_rows_without_keys(shape: str) -> None:
    mask = f"float[{shape}] mask"
    after = layer(f"{ADDED} {CLEARED}", mask=mask, consts=CONSTS)
    before = layer(mask=mask)
    assert_equivalent(before, assert_fires(before, LOWER_ATTENTION, 1, after))


def test_a_boolean_mask_becomes_numbers() -> None:
    body = f"mask = Where(keep, nought, inf) {ADDED} {CLEARED}"
    after = layer(body, mask="bool[B,1,S,T] keep", consts=CONSTS)
    before = layer(ATTENTION.replace("mask", "keep"), mask="bool[B,1,S,T] keep")
    assert_fires(before, LOWER_ATTENTION, 1, after)


def test_a_mask_of_finite_numbers_clears_nothing() -> None:
    consts = CONSTS + ", float low = {-1e30}"
    choice = "mask = Where(keep, nought, low)"
    before = layer(f"{choice} {ATTENTION}", mask="bool[B,1,S,T] keep", consts=consts)
    after = layer(f"{choice} {ADDED.replace('x =', 'y =')}", mask="bool[B,1,S,T] keep", consts=consts)
    assert_equivalent(before, assert_fires(before, LOWER_ATTENTION, 1, after))


SPREAD = "ql = Shape <start = 2, end = 3> (q) kl = Shape <start = 2, end = 3> (k) both = Concat <axis = 0> (ql, kl)"


@pytest.mark.parametrize("shape", ["B,1,1,T", "1,T", "T", "B,1,S,1"])
def test_an_expansion_is_taken_off(shape: str) -> None:
    before = layer(
        f"{SPREAD} wide = Expand(mask, both) {ATTENTION.replace('mask', 'wide')}", mask=f"float[{shape}] mask"
    )
    wide = next(node for node in before.graph if node.op_type == "Expand").outputs[0]
    wide.shape = ir.Shape([*before.graph.inputs[3].shape[:-2], "S", "T"])
    after = layer(f"{ADDED} {CLEARED}", mask=f"float[{shape}] mask", consts=CONSTS)
    assert_equivalent(before, assert_fires(before, LOWER_ATTENTION, 1, after))


def test_two_layers() -> None:
    body = ATTENTION.replace("y =", "x =") + " y = Attention <scale = 0.5> (x, k, x, mask)"
    inputs = "float[B,2,S,4] q, float[B,2,S,4] k, float[B,2,S,4] v, float[S,S] mask"
    before = model(f'<ir_version: 10, opset_import: ["": 24]> g ({inputs}) => (float[B,2,S,4] y) {{ {body} }}')
    assert_equivalent(before, assert_fires(before, LOWER_ATTENTION, 2))


@pytest.mark.parametrize("attribute", ["is_causal = 1", "softmax_precision = 10", "softmax_precision = 11"])
def test_refuses_attributes_that_it_does_not_spell(attribute: str) -> None:
    assert_refuses(layer(f"y = Attention <{attribute}> (q, k, v)"), LOWER_ATTENTION, Reason.ATTRIBUTE)


def test_a_softmax_in_the_inputs_own_type_is_spelled() -> None:
    assert_fires(layer("y = Attention <scale = 0.5, softmax_precision = 1> (q, k, v)"), LOWER_ATTENTION)


def test_refuses_three_axes() -> None:
    inputs = "float[B,S,8] q, float[B,T,8] k, float[B,T,6] v"
    body = "y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)"
    before = model(f'<ir_version: 10, opset_import: ["": 24]> g ({inputs}) => (float[B,S,6] y) {{ {body} }}')
    assert_refuses(before, LOWER_ATTENTION, Reason.RANK)


@pytest.mark.parametrize("window", ["left_window_size = 2", "right_window_size = 0"])
def test_refuses_a_window(window: str) -> None:
    before = layer(f"y = Attention <scale = 0.5, {window}> (q, k, v)", opset=25)
    assert_refuses(before, LOWER_ATTENTION, Reason.ATTRIBUTE)
    open_on_both_sides = "left_window_size = -1, right_window_size = -1"
    assert_fires(layer(f"y = Attention <scale = 0.5, {open_on_both_sides}> (q, k, v)", opset=25), LOWER_ATTENTION)


@pytest.mark.parametrize("mask", ["", "float[S,T] mask"])
def test_a_soft_cap_comes_before_the_mask(mask: str) -> None:
    body = "y = Attention <scale = 0.25, softcap = 1.5> " + ("(q, k, v, mask)" if mask else "(q, k, v)")
    capped = f"{SCORES} d = Div(z, cap) t = Tanh(d) c = Mul(t, cap)"
    consts = CONSTS + ", float cap = {1.5}"
    rest = "m = Add(c, mask) p = Softmax(m) x = MatMul(p, v) " + CLEARED if mask else "p = Softmax(c) y = MatMul(p, v)"
    before = layer(body, mask=mask)
    after = assert_fires(before, LOWER_ATTENTION, 1, layer(f"{capped} {rest}", mask=mask, consts=consts))
    assert_equivalent(before, after)


GROUPED = "{head} (float[B,4,S,4] q, float[{k},T,4] k, float[{k},T,3] v{mask}) => (float[B,4,S,3] y) {{ {body} }}"


@pytest.mark.parametrize("k", ["B,1", "B,2", "B,4"])
@pytest.mark.parametrize("mask", ["", ", float[B,1,S,T] mask", ", bool[B,4,S,T] mask"])
def test_grouped_heads_are_repeated_unless_a_product_does(k: str, mask: str) -> None:
    body = "y = Attention <softcap = 2.5> (q, k, v, mask)" if mask else "y = Attention (q, k, v)"
    head = '<ir_version: 10, opset_import: ["": 24]> g'
    before = model(GROUPED.format(head=head, k=k, mask=mask, body=body))
    after = assert_fires(before, LOWER_ATTENTION)
    assert ("Expand" in {node.op_type for node in after.graph}) == (k == "B,2")
    for sizes in ({"B": 2, "S": 3, "T": 5}, {"B": 1, "S": 1, "T": 1}):
        assert_equivalent(before, after, sizes=sizes)


def test_refuses_heads_that_are_no_multiple() -> None:
    head = '<ir_version: 10, opset_import: ["": 24]> g'
    before = model(GROUPED.format(head=head, k="B,3", mask="", body="y = Attention (q, k, v)"), infer=False)
    assert_refuses(before, LOWER_ATTENTION, Reason.SHAPE)


@pytest.mark.parametrize("q", ["B,H,S,4", "B,2,S,D"])
def test_refuses_heads_or_sizes_that_are_not_known(q: str) -> None:
    inputs = f"float[{q}] q, float[B,2,T,4] k, float[B,2,T,3] v"
    before = model(
        f'<ir_version: 10, opset_import: ["": 24]> g ({inputs}) => (y) {{ y = Attention(q, k, v) }}',
        infer=False,
    )
    assert_refuses(before, LOWER_ATTENTION, Reason.UNKNOWN)
    before.graph.inputs[0].shape = None
    assert_refuses(before, LOWER_ATTENTION, Reason.UNKNOWN)


@pytest.mark.parametrize("shape", ["S,U", "B,1,S,1", "1", "S,3"])
def test_refuses_a_mask_that_may_be_shorter_than_the_keys(shape: str) -> None:
    """Attention pads it with -inf; addition would repeat it or fail."""
    assert_refuses(layer(mask=f"float[{shape}] mask"), LOWER_ATTENTION, Reason.UNKNOWN)


def test_refuses_types_that_an_addition_does_not_mix() -> None:
    inputs = "float16[B,2,S,4] q, float16[B,2,T,4] k, {v}[B,2,T,3] v, {m}[S,T] mask"
    for v, m in (("float16", "float"), ("float", "float16")):
        head = f'<ir_version: 10, opset_import: ["": 24]> g ({inputs.format(v=v, m=m)}) => (float16[B,2,S,3] y)'
        before = model(f"{head} {{ y = Attention <scale = 0.5> (q, k, v, mask) }}")
        assert_refuses(before, LOWER_ATTENTION, Reason.DTYPE)


def test_refuses_types_that_are_not_known() -> None:
    before = layer(mask="float[S,T] mask")
    before.graph.inputs[0].type = None
    assert_refuses(before, LOWER_ATTENTION, Reason.DTYPE)


def test_refuses_a_layer_that_gives_its_keys_back() -> None:
    head = f'<ir_version: 10, opset_import: ["": 24]> g ({QKV.format(t="float")})'
    outputs = "(float[B,2,S,3] y, float[B,2,T,4] nk)"
    before = model(f"{head} => {outputs} {{ y, nk = Attention <scale = 0.5> (q, k, v) }}")
    assert_refuses(before, LOWER_ATTENTION, Reason.GRAPH_OUTPUT)
    body = "{ x, nk = Attention <scale = 0.5> (q, k, v) m = ReduceMax(nk) y = Mul(x, m) }"
    assert_refuses(model(f"{head} => (float[B,2,S,3] y) {body}"), LOWER_ATTENTION, Reason.SHARED)


def test_attention_with_a_cache_stays() -> None:
    body = "y, nk, nv = Attention <scale = 0.5> (q, k, v, , pk, pv)"
    before = layer(body, mask="float[B,2,P,4] pk, float[B,2,P,3] pv")
    assert_refuses(before, LOWER_ATTENTION, Reason.STRUCTURE)


def test_lowers_inside_a_branch() -> None:
    branches = """y = If (on) <then_branch = t () => (float[B,2,S,3] x) {
            x = Attention <scale = 0.25> (q, k, v, mask) },
        else_branch = e () => (float[B,2,S,3] o) { o = MatMul(mask, v) }>"""
    before = layer(branches, mask="float[S,T] mask, bool on")
    after = assert_fires(before, LOWER_ATTENTION)
    assert not any(node.op_type == "Attention" for node in after.graph.all_nodes())


SIZES = st.sampled_from([1, 2, 7])
DTYPES = {"float": np.float32, "float16": np.float16, "double": np.float64}


@pytest.mark.parametrize("t", DTYPES)
@pytest.mark.parametrize("kind", ["bool", "number"])
@pytest.mark.parametrize("form", ["B,1,S,T", "1,1,S,T", "S,T", "B,2,S,T", "1,T", "B,1,1,T", "T"])
@given(b=SIZES, s=SIZES, n=SIZES, low=st.sampled_from([-np.inf, -1e4]), seed=st.integers(0, 99))
def test_same_numbers_as_the_operators_definition(
    t: str, kind: str, form: str, b: int, s: int, n: int, low: float, seed: int
) -> None:
    """Against ONNX's own evaluator: it takes every mask that the operator allows."""
    before = layer(mask=f"{'bool' if kind == 'bool' else t}[{form}] mask", t=t)
    after = apply(before, LOWER_ATTENTION)
    assert after.applied == 1
    sizes = {"B": b, "S": s, "T": n, "1": 1, "2": 2}
    rng = np.random.default_rng(seed)
    shapes = {"q": (b, 2, s, 4), "k": (b, 2, n, 4), "v": (b, 2, n, 3)}
    inputs = {name: rng.normal(size=shape).astype(DTYPES[t]) for name, shape in shapes.items()}
    keep = rng.random([sizes[name] for name in form.split(",")]) < 0.5
    if t == "float16" and low != -np.inf:  # at -1e4 half precision keeps multiples of 8: nothing of the scores
        keep[..., 0] = True
    inputs["mask"] = keep if kind == "bool" else np.where(keep, 0, low).astype(DTYPES[t])
    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(ir.to_proto(before)).run(None, inputs)[0]
    actual = evaluate(after.model, inputs)["y"]
    assert not compare({"y": expected}, {"y": actual})


@pytest.mark.parametrize("t", ["float", "float16"])
@pytest.mark.parametrize("kind", ["bool", "number"])
@pytest.mark.parametrize("form", ["B,1,S,T", "1,1,S,T", "S,T", "B,2,S,T", "2,S,T"])
def test_onnx_runtimes_kernel_agrees_on_the_masks_that_other_passes_make(form: str, kind: str, t: str) -> None:
    """Both lengths given; rows of -inf, or of a number just above the lowest one."""
    before = layer(mask=f"{'bool' if kind == 'bool' else t}[{form}] mask", t=t)
    for b, s, n in ((2, 3, 5), (1, 1, 1), (3, 1, 2)):
        sizes = {"B": b, "S": s, "T": n, "1": 1, "2": 2}
        rng = np.random.default_rng(b)
        shapes = {"q": (b, 2, s, 4), "k": (b, 2, n, 4), "v": (b, 2, n, 3)}
        inputs = {name: rng.normal(size=shape).astype(DTYPES[t]) for name, shape in shapes.items()}
        keep = rng.random([sizes[name] for name in form.split(",")]) < 0.6
        keep.reshape(-1, n)[0] = False
        raised = float(np.finfo(DTYPES[t]).min) * 0.99
        lows = [0.0] if kind == "bool" else [-np.inf, raised]
        for low in lows:
            inputs["mask"] = keep if kind == "bool" else np.where(keep, 0, low).astype(DTYPES[t])
            with np.errstate(all="ignore"):
                expected = ReferenceEvaluator(ir.to_proto(before)).run(None, inputs)[0]
            assert not compare({"y": expected}, evaluate(before, inputs))
