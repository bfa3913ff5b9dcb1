"""Every spelling of attention becomes the operator, and what only looks like it stays."""

import re
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.engine.shapes import infer_shapes
from graphwright.passes.lift.fuse_attention import FUSE_ATTENTION
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": {opset}]> g '
QKV = "{t}[B,2,S,4] q, {t}[B,2,T,4] k, {t}[B,2,T,3] v"
TRANSPOSED = "kt = Transpose <perm = [0, 1, 3, 2]> (k)"
SCALED = "s = MatMul(q, kt) z = Mul(s, c)"
PLAIN = f"{TRANSPOSED} {SCALED} p = Softmax(z) y = MatMul(p, v)"
MASKED = f"{TRANSPOSED} {SCALED} m = Add(z, mask) p = Softmax(m) y = MatMul(p, v)"
LOWEST = float(np.finfo(np.float32).min)


_EXAMPLE = f"{HEAD.format(opset=24)} ({QKV.format(t='float')}, {{}}) => (float[B,2,S,3] y) <{{}}> {{{{ {{}} }}}}"
_CAPPED = "a = Div(s, c) t = Tanh(a) z = Mul(t, c) m = Add(z, mask)"
_WINDOWS = "a = Add(s, bias) s5 = Reshape(a, five) m5 = Add(s5, mask) m = Reshape(m5, back)"
_FIXED = QKV.format(t="float").replace("B,2,S", "8,2,3").replace("B,2,T", "8,2,3")
EXAMPLES = {
    "plain": _EXAMPLE.format("float[S,T] mask", "float c = {0.5}", PLAIN),
    "masked": _EXAMPLE.format("float[B,1,S,T] mask", "float c = {0.5}", MASKED),
    "capped": _EXAMPLE.format(
        "float[B,1,S,T] mask",
        "float c = {0.5}",
        f"{TRANSPOSED} s = MatMul(q, kt) {_CAPPED} p = Softmax(m) y = MatMul(p, v)",
    ),
    "windows": (
        f"{HEAD.format(opset=24)} ({_FIXED}, float[1,2,3,3] bias, float[1,4,1,3,3] mask) => (float[8,2,3,3] y) "
        f"<int64[5] five = {{-1, 4, 2, 3, 3}}, int64[4] back = {{-1, 2, 3, 3}}> "
        f"{{ {TRANSPOSED} s = MatMul(q, kt) {_WINDOWS} p = Softmax(m) y = MatMul(p, v) }}"
    ),
    "three axes": (
        f"{HEAD.format(opset=24)} (float[N,S,4] q, float[N,T,4] k, float[N,T,3] v, float[N,1,T] mask) "
        f"=> (float[N,S,3] y) <float c = {{0.5}}> {{ {MASKED.replace('[0, 1, 3, 2]', '[0, 2, 1]')} }}"
    ),
}


def layer(body: str, *, mask: str = "", consts: str = "float c = {0.5}", t: str = "float", opset: int = 24) -> ir.Model:
    inputs = QKV.format(t=t) + (f", {mask}" if mask else "")
    return model(f"{HEAD.format(opset=opset)} ({inputs}) => ({t}[B,2,S,3] y) <{consts}> {{ {body} }}")


def fused(
    call: str = "y = Attention <scale = 0.5> (q, k, v)", *, mask: str = "", consts: str = "", before: str = ""
) -> ir.Model:
    return layer(f"{before} {call}", mask=mask, consts=consts)


def inputs_of(
    sizes: Mapping[str, int], mask: np.ndarray | None = None, dtype: type = np.float32, seed: int = 0
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    b, s, t = sizes["B"], sizes["S"], sizes["T"]
    shapes = {"q": (b, 2, s, 4), "k": (b, 2, t, 4), "v": (b, 2, t, 3)}
    arrays = {name: rng.normal(0, 2, shape).astype(dtype) for name, shape in shapes.items()}
    return arrays if mask is None else arrays | {"mask": mask}


def assert_same_numbers(before: ir.Model, after: ir.Model, inputs: Mapping[str, np.ndarray]) -> None:
    found = compare(evaluate(before, inputs), evaluate(after, inputs))
    assert not found, str(found[0])


def test_attention_without_a_mask_is_fused() -> None:
    assert_equivalent(layer(PLAIN), assert_fires(layer(PLAIN), FUSE_ATTENTION, 1, fused()))


@pytest.mark.parametrize(
    ("body", "scale"),
    [
        (PLAIN, 0.5),
        (PLAIN.replace("Mul(s, c)", "Mul(c, s)"), 0.5),
        (PLAIN.replace("Mul(s, c)", "Div(s, c)"), 2.0),
        (f"{TRANSPOSED} s = MatMul(q, kt) p = Softmax <axis = 3> (s) y = MatMul(p, v)", 1.0),
        (f"{TRANSPOSED} a = Mul(q, c) b = Mul(c, kt) s = MatMul(a, b) p = Softmax(s) y = MatMul(p, v)", 0.25),
        (
            (
                f"{TRANSPOSED} a = Div(q, c) b = Mul(kt, c) {SCALED.replace('q, kt', 'a, b')} p = "
                f"Softmax(z) y = MatMul(p, v)"
            ),
            0.5,
        ),
        (
            (
                "kc = Mul(k, c) kt = Transpose <perm = [0, 1, 3, 2]> (kc) s = MatMul(q, kt) p = "
                "Softmax(s) y = MatMul(p, v)"
            ),
            None,
        ),
    ],
)
def test_a_scale_may_stand_at_each_place(body: str, scale: float | None) -> None:
    after = f"y = Attention <scale = {scale}> (q, k, v)"
    if scale is None:  # a scale under the transpose stays where it is
        after = "kc = Mul(k, c) y = Attention <scale = 1.0> (q, kc, v)"
    before = layer(body)
    assert_equivalent(before, assert_fires(before, FUSE_ATTENTION, 1, fused(after, consts="float c = {0.5}")))


def test_keys_by_length_are_transposed_as_attention_wants_them() -> None:
    text = "{head} (float[B,2,S,4] q, float[B,T,2,4] k, float[B,2,T,3] v) => (float[B,2,S,3] y) {{ {body} }}"
    body = "kt = Transpose <perm = [0, 2, 3, 1]> (k) s = MatMul(q, kt) p = Softmax(s) y = MatMul(p, v)"
    after = "kh = Transpose <perm = [0, 2, 1, 3]> (k) y = Attention <scale = 1.0> (q, kh, v)"
    before = model(text.format(head=HEAD.format(opset=24), body=body))
    assert_fires(before, FUSE_ATTENTION, 1, text.format(head=HEAD.format(opset=24), body=after))


def test_keys_that_come_transposed_are_transposed_back() -> None:
    text = "{head} (float[B,2,S,4] q, float[B,2,4,T] k, float[B,2,T,3] v) => (float[B,2,S,3] y) {{ {body} }}"
    body = "s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v)"
    after = "kt = Transpose <perm = [0, 1, 3, 2]> (k) y = Attention <scale = 1.0> (q, kt, v)"
    before = model(text.format(head=HEAD.format(opset=24), body=body))
    assert_fires(before, FUSE_ATTENTION, 1, text.format(head=HEAD.format(opset=24), body=after))


RAISED_CONSTS = f"float low = {{{LOWEST}}}, float high = {{{LOWEST * 0.99}}}"
RAISED = "lowest = Equal(mask, low) raised = Where(lowest, high, mask)"
LENGTHS = "l = Shape <start = 2, end = 3> (q) r = Shape <start = 2, end = 3> (k) z = Concat <axis = 0> (l, r)"


@pytest.mark.parametrize("body", [MASKED, MASKED.replace("Add(z, mask)", "Add(mask, z)")])
@pytest.mark.parametrize("shape", ["S,T", "1,1,S,T", "B,1,S,T", "B,2,S,T", "1,2,S,T", "2,S,T"])
def test_a_mask_of_both_lengths_is_handed_on_raised(shape: str, body: str) -> None:
    mask = f"float[{shape}] mask"
    call = f"{RAISED} y = Attention <scale = 0.5> (q, k, v, raised)"
    assert_fires(layer(body, mask=mask), FUSE_ATTENTION, 1, fused(call, mask=mask, consts=RAISED_CONSTS))


@pytest.mark.parametrize("shape", ["B,1,1,T", "1,1,1,T", "1,T", "T", "1,S,1", "B,2,S,1", "1", "B,1,1,U", "1,S,U", ""])
def test_any_other_mask_is_raised_and_spread_over_both_lengths(shape: str) -> None:
    mask = f"float[{shape}] mask".replace("[]", "")
    call = f"{RAISED} {LENGTHS} w = Expand(raised, z) y = Attention <scale = 0.5> (q, k, v, w)"
    expected = fused(call, mask=mask, consts=RAISED_CONSTS)
    assert_fires(layer(MASKED, mask=mask), FUSE_ATTENTION, 1, expected, regions=False)


@pytest.mark.parametrize("number", ["0", "-1e30", "-3.4e38", "-inf"])
def test_a_constant_mask_free_of_the_lowest_number_is_only_spread(number: str) -> None:
    consts = f"float[1] mask = {{{number}}}"
    before = layer(MASKED, consts=f"{consts}, float c = {{0.5}}")
    call = f"{LENGTHS} w = Expand(mask, z) y = Attention <scale = 0.5> (q, k, v, w)"
    assert_fires(before, FUSE_ATTENTION, 1, fused(call, consts=consts), regions=number != "-inf")


@pytest.mark.parametrize("number", ["-1e30", "-3.4e38", "-inf"])
def test_a_choice_between_numbers_above_the_lowest_is_handed_on_as_it_is(number: str) -> None:
    consts = f"float zero = {{0}}, float other = {{{number}}}"
    choice = "chosen = Where(keep, zero, other) mask = Transpose <perm = [0, 1, 3, 2]> (chosen)"
    before = layer(f"{choice} {MASKED}", mask="bool[B,1,T,S] keep", consts=f"{consts}, float c = {{0.5}}")
    call = f"{choice} y = Attention <scale = 0.5> (q, k, v, mask)"
    assert_fires(before, FUSE_ATTENTION, 1, fused(call, mask="bool[B,1,T,S] keep", consts=consts), regions=False)


def test_a_choice_that_may_be_the_lowest_number_is_raised() -> None:
    consts = f"float zero = {{0}}, float c = {{0.5}}, {RAISED_CONSTS}"
    choice = "mask = Where(keep, zero, given)"
    inputs = "bool[B,1,S,T] keep, float[S,T] given"
    call = f"{choice} {RAISED} y = Attention <scale = 0.5> (q, k, v, raised)"
    before = layer(f"{choice} {MASKED}", mask=inputs, consts=consts)
    assert_fires(before, FUSE_ATTENTION, 1, fused(call, mask=inputs, consts=consts))


def test_a_choice_of_the_lowest_number_is_raised_a_little() -> None:
    consts = f"float c = {{0.5}}, float zero = {{0}}, float low = {{{LOWEST}}}"
    before = layer("mask = Where(keep, zero, low) " + MASKED, mask="bool[B,1,S,T] keep", consts=consts)
    after = assert_fires(before, FUSE_ATTENTION)
    node = after.graph.node(-1)
    choice = node.inputs[3]
    assert node.op_type == "Attention" and choice is not None
    assert choice.producer().inputs[2].const_value.numpy() == np.float32(LOWEST * 0.99)
    keep = np.ones((2, 1, 3, 5), bool)
    keep[0, 0, 1] = keep[1, 0, 2, :4] = False
    assert_same_numbers(before, after, inputs_of({"B": 2, "S": 3, "T": 5}) | {"keep": keep})


def test_a_mask_that_others_use_is_shared_not_taken() -> None:
    consts = f"float c = {{0.5}}, float zero = {{0}}, float low = {{{LOWEST}}}"
    body = "mask = Where(keep, zero, low) " + MASKED.replace("y = ", "x = ") + " n = ReduceMax(mask) y = Mul(x, n)"
    after = assert_fires(layer(body, mask="bool[B,1,S,T] keep", consts=consts), FUSE_ATTENTION)
    assert sorted(node.op_type for node in after.graph) == ["Attention", "Mul", "ReduceMax", "Where", "Where"]


@pytest.mark.parametrize(
    ("choice", "after"),
    [
        ("Where(mask, z, low)", "w = Where(mask, zero, low)"),
        ("Where(mask, low, z)", "w = Where(mask, low, zero)"),
    ],
)
@pytest.mark.parametrize("number", ["-1e30", "-3.4028234663852886e38"])
def test_a_mask_that_selects_is_added(choice: str, after: str, number: str) -> None:
    consts = f"float low = {{{number}}}"
    body = MASKED.replace("Add(z, mask)", choice)
    before = layer(body, mask="bool[B,1,S,T] mask", consts=consts + ", float c = {0.5}")
    call = f"{after} y = Attention <scale = 0.5> (q, k, v, w)"
    if number != "-1e30":
        assert_fires(before, FUSE_ATTENTION)
    else:
        expected = fused(call, mask="bool[B,1,S,T] mask", consts=consts + ", float zero = {0}")
        assert_fires(before, FUSE_ATTENTION, 1, expected)


GUARD = "n = IsNaN(p) g = Where(n, zero, p) y = MatMul(g, v)"


def test_rows_without_a_key_may_be_guarded() -> None:
    body = MASKED.replace("y = MatMul(p, v)", GUARD)
    before = layer(body, mask="float[S,T] mask", consts="float c = {0.5}, float[1] zero = {0}")
    call = f"{RAISED} y = Attention <scale = 0.5> (q, k, v, raised)"
    assert_fires(before, FUSE_ATTENTION, 1, fused(call, mask="float[S,T] mask", consts=RAISED_CONSTS))


def test_softmax_in_float32_is_stated() -> None:
    body = (
        f"{TRANSPOSED} s = MatMul(q, kt) w = Cast <to = 1> (s) p = Softmax(w) n = Cast <to = 10> (p) y = MatMul(n, v)"
    )
    after = layer("y = Attention <scale = 1.0, softmax_precision = 1> (q, k, v)", t="float16", consts="")
    assert_fires(layer(body, t="float16"), FUSE_ATTENTION, 1, after)
    single = body.replace("to = 10", "to = 1")
    assert_fires(layer(single), FUSE_ATTENTION, 1, fused("y = Attention <scale = 1.0> (q, k, v)"))


def test_two_layers_are_fused_one_by_one() -> None:
    second = MASKED.replace("(q,", "(x,")
    for name in ("k", "v", "kt", "s", "z", "m", "p"):
        second = re.sub(rf"\b{name}\b", f"{name}2", second)
    body = MASKED.replace("y =", "x =") + " " + second
    inputs = (
        "float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T,4] v, float[B,2,T,4] k2, float[B,2,T,4] v2, float[S,T] mask"
    )
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[B,2,S,4] y) <float c = {{0.5}}> {{ {body} }}")
    assert_fires(before, FUSE_ATTENTION, 2)


# One layer each, as the exporters write it: 2 heads of 4, with its mask; the weights are left out.
HEADS = "(float[batch,seq,8] qh, float[batch,seq,8] kh, float[batch,seq,8] vh, bool[batch,1,1,seq] keys)"
SPLIT = """
    b = Shape <start = 0, end = 1> (qh) t = Shape <start = 1, end = 2> (qh) tt = Squeeze(t)
    sizes = Concat <axis = 0> (b, t, minus1, four)
    positions = Range(i0, tt, i1) rows = Unsqueeze(positions, axes013) ge = GreaterOrEqual(rows, i0)
    both = And(ge, keys)
    q4 = Reshape <allowzero = 1> (qh, sizes) q = Transpose <perm = [0, 2, 1, 3]> (q4)
    k4 = Reshape <allowzero = 1> (kh, sizes)
    v4 = Reshape <allowzero = 1> (vh, sizes) v = Transpose <perm = [0, 2, 1, 3]> (v4)
"""
CONSTS = f"""int64[1] minus1 = {{-1}}, int64[1] minus2 = {{-2}}, int64[1] four = {{4}}, int64 i0 = {{0}},
    int64 i1 = {{1}}, int64[1] first = {{-9223372036854775807}}, int64[1] last = {{9223372036854775807}},
    int64[3] axes013 = {{0, 1, 3}}, float zero = {{0}}, float low = {{{LOWEST}}}, float[1] inf = {{-inf}},
    float root = {{0.7071067690849304}}, float scale = {{0.5}}"""
MERGE = (
    "yt = Transpose <perm = [0, 2, 1, 3]> (y4) merged = Concat <axis = 0> (b, t, minus1) y = "
    "Reshape <allowzero = 1> (yt, merged)"
)
DYNAMO_SDPA = """
    k = Transpose <perm = [0, 2, 1, 3]> (k4)
    ks = Shape(k) d = Slice(ks, minus1, last) l = Slice(ks, minus2, minus1) bh = Slice(ks, first, minus2)
    flat = Concat <axis = 0> (minus1, l, d) k3 = Reshape(k, flat) k3t = Transpose <perm = [0, 2, 1]> (k3)
    back = Concat <axis = 0> (bh, d, l) kt = Reshape(k3t, back)
    qs = Mul(q, root) kts = Mul(kt, root) mask = Where(both, zero, low) s = MatMul(qs, kts) m = Add(s, mask)
    p = Softmax <axis = -1> (m) n = IsNaN(p) g = Where(n, zero, p) y4 = MatMul(g, v)
"""
DYNAMO_EAGER = """
    mask = Where(both, zero, low) kt = Transpose <perm = [0, 2, 3, 1]> (k4)
    s = MatMul(q, kt) z = Mul(s, scale) m = Add(z, mask) p = Softmax <axis = -1> (m) y4 = MatMul(p, v)
"""
TORCHSCRIPT_SDPA = """
    kt = Transpose <perm = [0, 2, 3, 1]> (k4)
    i1s = Constant <value_ints = [1]> () full = Concat <axis = 0> (b, i1s, t, t) wide = Expand(both, full)
    qs = Mul(q, root) kts = Mul(kt, root) s = MatMul(qs, kts) mask = Where(wide, zero, inf) m = Add(s, mask)
    p = Softmax <axis = -1> (m) n = IsNaN(p) g = Where(n, zero, p) y4 = MatMul(g, v)
"""
TORCHSCRIPT_EAGER = """
    i1s = Constant <value_ints = [1]> () full = Concat <axis = 0> (b, i1s, t, t) wide = Expand(both, full)
    mask = Where(wide, zero, low) kt = Transpose <perm = [0, 2, 3, 1]> (k4)
    s = MatMul(q, kt) z = Mul(s, scale) m = Add(z, mask) p = Softmax <axis = -1> (m) y4 = MatMul(p, v)
"""
EXPORTED = {
    "dynamo-sdpa": DYNAMO_SDPA,
    "dynamo-eager": DYNAMO_EAGER,
    "torchscript-sdpa": TORCHSCRIPT_SDPA,
    "torchscript-eager": TORCHSCRIPT_EAGER,
}


def exported(name: str) -> ir.Model:
    body = SPLIT + EXPORTED[name] + MERGE
    text = f"{HEAD.format(opset=24)} {HEADS} => (float[batch,seq,8] y) <{CONSTS}> {{ {body} }}"
    found = model(text, infer=False)
    infer_shapes(found)
    return found


@pytest.mark.parametrize("name", EXPORTED)
def test_each_exporters_layer_is_fused(name: str) -> None:
    before = exported(name)
    after = assert_fires(before, FUSE_ATTENTION)
    assert not {"Softmax", "MatMul", "IsNaN", "Add"} & {node.op_type for node in after.graph}
    for batch, length in ((1, 1), (2, 1), (1, 7), (3, 5), (2, 2)):
        assert_equivalent(before, after, sizes={"batch": batch, "seq": length})
    rng = np.random.default_rng(0)
    feeds = {each: rng.normal(size=(3, 5, 8)).astype(np.float32) for each in ("qh", "kh", "vh")}
    keys = np.ones((3, 1, 1, 5), bool)
    keys[0], keys[1, ..., 2:] = False, False
    assert_same_numbers(before, after, feeds | {"keys": keys})


def test_refuses_an_older_opset() -> None:
    assert_refuses(layer(PLAIN, opset=23), FUSE_ATTENTION, Reason.OPSET)
    assert_refuses(layer(PLAIN, opset=18), FUSE_ATTENTION, Reason.OPSET)


def test_refuses_float64_because_the_operators_scale_is_single() -> None:
    assert_refuses(layer(PLAIN, t="double", consts="double c = {0.1}"), FUSE_ATTENTION, Reason.DTYPE)


def test_refuses_queries_narrower_than_values() -> None:
    inputs = "float16[B,2,S,4] q, float16[B,2,T,4] k, float[B,2,T,3] v"
    body = f"{TRANSPOSED} s = MatMul(q, kt) w = Cast <to = 1> (s) p = Softmax(w) n = Cast <to = 1> (p) y = MatMul(n, v)"
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[B,2,S,3] y) {{ {body} }}")
    assert_refuses(before, FUSE_ATTENTION, Reason.DTYPE)


def test_refuses_to_add_a_number_that_float16_cannot_hold() -> None:
    body = MASKED.replace("Add(z, mask)", "Where(mask, z, low)")
    consts = "float16 c = {14336}, float16 low = {64512}"
    before = layer(body, mask="bool[S,T] mask", t="float16", consts=consts)
    assert_refuses(before, FUSE_ATTENTION, Reason.DTYPE)


@pytest.mark.parametrize("consts", ["float[1,1,1,1,1] c = {0.5}", "float c = {0.5}, float[1,1,1,1,1] low = {-1e30}"])
def test_refuses_numbers_that_add_axes(consts: str) -> None:
    body = MASKED.replace("Add(z, mask)", "Where(mask, z, low)") if "low" in consts else PLAIN
    mask = ", bool[S,T] mask" if "low" in consts else ""
    inputs = "float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T,3] v" + mask
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (y) <{consts}> {{ {body} }}", infer=False)
    assert_refuses(before, FUSE_ATTENTION, Reason.RANK)


def test_refuses_a_mask_of_five_axes() -> None:
    inputs = QKV.format(t="float") + ", float[1,B,1,S,T] mask"
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[1,B,2,S,3] y) <float c = {{0.5}}> {{ {MASKED} }}")
    assert_refuses(before, FUSE_ATTENTION, Reason.RANK)


@pytest.mark.parametrize("rank", ["A,B,2,S,4 A,B,2,4,T A,B,2,T,3 A,B,2,S,3", "S,4 4,T T,3 S,3"])
def test_refuses_other_ranks(rank: str) -> None:
    q, k, v, y = rank.split()
    inputs = f"float[{q}] q, float[{k}] k, float[{v}] v"
    text = f"({inputs}) => (float[{y}] y) {{ s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v) }}"
    refused = assert_refuses(model(HEAD.format(opset=24) + text), FUSE_ATTENTION, Reason.RANK)
    assert Reason.UNKNOWN not in refused.reasons


@pytest.mark.parametrize(
    ("q", "k", "v", "reason"),
    [
        ("2,2,S,4", "1,2,T,4", "2,2,T,3", Reason.SHAPE),  # one batch of keys for all queries
        ("B,4,S,4", "B,1,T,4", "B,4,T,3", Reason.SHAPE),  # one head of keys for all
        ("B,2,S,4", "B,2,T,4", "B,1,T,3", Reason.SHAPE),  # one head of values for all
        ("B,2,S,4", "A,2,T,4", "B,2,T,3", Reason.UNKNOWN),
        ("B,2,S,4", "1,2,T,4", "B,2,T,3", Reason.UNKNOWN),
        ("B,H,S,4", "B,K,T,4", "B,H,T,3", Reason.UNKNOWN),
        ("B,2,S,4", "B,2,T,5", "B,2,T,3", Reason.SHAPE),
        ("B,2,S,4", "B,2,7,4", "B,2,6,3", Reason.SHAPE),
    ],
)
def test_refuses_sizes_that_only_a_product_broadcasts(q: str, k: str, v: str, reason: Reason) -> None:
    inputs = f"float[{q}] q, float[{k}] k, float[{v}] v"
    text = f"({inputs}) => (y) <float c = {{0.5}}> {{ {PLAIN} }}"
    assert_refuses(model(HEAD.format(opset=24) + text, infer=False), FUSE_ATTENTION, reason)


@pytest.mark.parametrize(
    ("shape", "q_batch", "reason"),
    [
        ("3,1,S,T", "1", Reason.SHAPE),
        ("A,1,S,T", "1", Reason.UNKNOWN),
        ("B,1,R,T", "B", Reason.UNKNOWN),
        ("3,S,T", "B", Reason.SHAPE),
    ],
)
def test_refuses_a_mask_that_may_be_larger_than_the_scores(shape: str, q_batch: str, reason: Reason) -> None:
    inputs = QKV.format(t="float").replace("[B,", f"[{q_batch},") + f", float[{shape}] mask"
    text = f"({inputs}) => (y) <float c = {{0.5}}> {{ {MASKED} }}"
    assert_refuses(model(HEAD.format(opset=24) + text, infer=False), FUSE_ATTENTION, reason)


def test_refuses_what_is_not_known_at_all() -> None:
    text = f"(float q, float k, float v) => (float y) <float c = {{0.5}}> {{ {PLAIN} }}"
    before = model(HEAD.format(opset=24) + text, infer=False)
    for value in (*before.graph.inputs, *before.graph.outputs):
        value.shape = None
    assert_refuses(before, FUSE_ATTENTION, Reason.UNKNOWN)
    before = layer(MASKED, mask="float[S,T] mask")
    before.graph.inputs[3].shape = None
    assert_refuses(before, FUSE_ATTENTION, Reason.UNKNOWN)


@pytest.mark.parametrize("number", ["-0.5", "0", "inf", "nan"])
def test_refuses_a_scale_that_attention_cannot_have(number: str) -> None:
    assert_refuses(layer(PLAIN, consts=f"float c = {{{number}}}"), FUSE_ATTENTION, Reason.CONSTANT)


@pytest.mark.parametrize("name", ["s", "z", "m", "p"])
def test_refuses_an_interior_value_with_another_use(name: str) -> None:
    body = MASKED.replace("y = MatMul", "x = MatMul") + f" u = ReduceMax({name}) y = Add(x, u)"
    assert_refuses(layer(body, mask="float[S,T] mask"), FUSE_ATTENTION, Reason.SHARED)


@pytest.mark.parametrize("name", ["s", "z", "m", "p"])
def test_refuses_an_interior_value_that_is_an_output(name: str) -> None:
    inputs = QKV.format(t="float") + ", float[S,T] mask"
    head = f"({inputs}) => (float[B,2,S,3] y, float[B,2,S,T] {name})"
    before = model(f"{HEAD.format(opset=24)} {head} <float c = {{0.5}}> {{ {MASKED} }}")
    assert_refuses(before, FUSE_ATTENTION, Reason.GRAPH_OUTPUT)


def test_refuses_an_interior_value_that_a_subgraph_captures() -> None:
    branches = "x = If (on) <then_branch = t () => (a) { a = Identity(p) }, else_branch = e () => (b) { b = Neg(p) }>"
    body = MASKED + f" {branches} w = ReduceMax(x)"
    inputs = QKV.format(t="float") + ", float[S,T] mask, bool on"
    head = f"({inputs}) => (float[B,2,S,3] y, float[1,1,1,1] w)"
    before = model(f"{HEAD.format(opset=24)} {head} <float c = {{0.5}}> {{ {body} }}")
    assert_refuses(before, FUSE_ATTENTION, Reason.SHARED)


@pytest.mark.parametrize(
    "body",
    [
        PLAIN.replace("Softmax(z)", "Softmax <axis = 2> (z)"),
        PLAIN.replace("Softmax(z)", "LogSoftmax(z)"),
        MASKED.replace("Add(z, mask)", "Where(above, z, high)"),
        MASKED.replace("Add(z, mask)", "Sub(z, mask)"),
        MASKED.replace("y = MatMul(p, v)", GUARD.replace("zero", "one")),
        MASKED.replace("y = MatMul(p, v)", "n = IsNaN(z) g = Where(n, zero, p) y = MatMul(g, v)"),
        MASKED.replace("y = MatMul(p, v)", "n = IsNaN(p) g = Where(n, p, zero) y = MatMul(g, v)"),
        MASKED.replace("y = MatMul(p, v)", "d = Dropout(p, half, on) y = MatMul(d, v)"),
    ],
)
def test_near_misses_stay(body: str) -> None:
    consts = "float c = {0.5}, float high = {-1e29}, float zero = {0}, float one = {1}, float half = {0.5}"
    inputs = QKV.format(t="float") + ", float[S,T] mask, bool[S,T] above, bool on"
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[B,2,S,3] y) <{consts}> {{ {body} }}")
    assert_refuses(before, FUSE_ATTENTION, Reason.STRUCTURE)


def test_equal_sizes_do_not_hide_a_missing_transpose() -> None:
    """Length, heads and size are all 4: the keys must still be transposed by the rule."""
    inputs = "float[4,4,4,4] q, float[4,4,4,4] k, float[4,4,4,4] v"
    body = "s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v)"
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[4,4,4,4] y) {{ {body} }}")
    assert_equivalent(before, assert_fires(before, FUSE_ATTENTION))
    other = body.replace("s = MatMul(q, k)", "kt = Transpose <perm = [0, 3, 2, 1]> (k) s = MatMul(q, kt)")
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[4,4,4,4] y) {{ {other} }}")
    assert_equivalent(before, assert_fires(before, FUSE_ATTENTION))


def test_a_reshape_that_mixes_length_and_size_is_not_a_transpose() -> None:
    """[B*H,T,D] to [B*H,D,T] must be a transpose: here the first Reshape already cuts rows elsewhere."""
    inputs = "float[2,2,6,4] q, float[2,2,6,4] k, float[2,2,6,3] v"
    consts = "int64[3] flat = {4, 4, 6}, int64[4] back = {2, 2, 4, 6}"
    body = """k3 = Reshape(k, flat) kt3 = Transpose <perm = [0, 2, 1]> (k3) kt = Reshape(kt3, back)
        s = MatMul(q, kt) p = Softmax(s) y = MatMul(p, v)"""
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[2,2,6,3] y) <{consts}> {{ {body} }}")
    after = assert_fires(before, FUSE_ATTENTION)  # from the transposed keys, whatever made them
    assert "Reshape" in {node.op_type for node in after.graph}
    assert_equivalent(before, after)


def test_a_number_that_callers_may_replace_scales_the_queries() -> None:
    inputs = QKV.format(t="float") + ", float c"
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[B,2,S,3] y) <float c = {{0.5}}> {{ {PLAIN} }}")
    assert before.graph.inputs[3].is_initializer()
    after = assert_fires(before, FUSE_ATTENTION)
    (node,) = (each for each in after.graph if each.op_type == "Attention")
    assert node.attributes["scale"].value == 1.0
    inputs_at = inputs_of({"B": 2, "S": 3, "T": 5}) | {"c": np.float32(0.25)}
    assert_same_numbers(before, after, inputs_at)


@pytest.mark.parametrize(("k", "v"), [("B,2,T,C", "B,2,T,3"), ("B,2,T,4", "B,2,U,3")])
def test_sizes_that_a_product_adds_up_over_are_equal_in_every_run_that_works(k: str, v: str) -> None:
    inputs = f"float[B,2,S,4] q, float[{k}] k, float[{v}] v"
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[B,2,S,3] y) <float c = {{0.5}}> {{ {PLAIN} }}")
    after = assert_fires(before, FUSE_ATTENTION)
    assert_same_numbers(before, after, inputs_of({"B": 2, "S": 3, "T": 5}))


def test_a_mask_may_repeat_a_single_key_where_values_are_not_known_to_be_as_many() -> None:
    inputs = "float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,U,3] v, float[S,U] mask"
    text = f"({inputs}) => (y) <float c = {{0.5}}> {{ {MASKED} }}"
    assert_refuses(model(HEAD.format(opset=24) + text, infer=False), FUSE_ATTENTION, Reason.UNKNOWN)


def test_one_head_of_keys_and_values_is_shared_by_all_queries() -> None:
    inputs = "float[B,4,S,4] q, float[B,1,T,4] k, float[B,1,T,3] v, float[S,T] mask"
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[B,4,S,3] y) <float c = {{0.5}}> {{ {MASKED} }}")
    after = assert_fires(before, FUSE_ATTENTION)
    for sizes in ({"B": 2, "S": 3, "T": 5}, {"B": 1, "S": 1, "T": 1}, {"B": 3, "S": 7, "T": 2}):
        assert_equivalent(before, after, sizes=sizes)


@pytest.mark.parametrize("body", [PLAIN, MASKED])
def test_fires_inside_a_branch(body: str) -> None:
    inner = body.replace("y =", "x =")
    branches = (
        f"y = If (on) <then_branch = t () => (float[B,2,S,3] x) {{ {inner} }}, else_branch = e () "
        f"=> (float[B,2,S,3] o) {{ o = MatMul(mask, v) }}>"
    )
    inputs = QKV.format(t="float") + ", float[S,T] mask, bool on"
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[B,2,S,3] y) <float c = {{0.5}}> {{ {branches} }}")
    after = assert_fires(before, FUSE_ATTENTION)
    mask = np.zeros((3, 5), np.float32)
    assert_same_numbers(before, after, inputs_of({"B": 2, "S": 3, "T": 5}, mask) | {"on": np.array(True)})


SIZES = st.sampled_from([1, 2, 7])
FORMS = ["B,1,1,T", "1,1,S,T", "S,T", "B,2,S,T", "T", "S,1"]


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("form", FORMS)
@given(b=SIZES, s=SIZES, t=SIZES, low=st.sampled_from([-np.inf, LOWEST, -1e30, -1e4]), seed=st.integers(0, 99))
def test_same_numbers_for_added_masks(form: str, guarded: bool, b: int, s: int, t: int, low: float, seed: int) -> None:
    body = MASKED.replace("y = MatMul(p, v)", GUARD) if guarded else MASKED
    before = layer(body, mask=f"float[{form}] mask", consts="float c = {0.5}, float[1] zero = {0}")
    after = apply(before, FUSE_ATTENTION)
    assert after.applied == 1
    sizes = {"B": b, "S": s, "T": t, "1": 1, "2": 2}
    rng = np.random.default_rng(seed)
    keep = rng.random([sizes[name] for name in form.split(",")]) < 0.5
    if low == -np.inf and not guarded:  # such a row is NaN before: tested apart
        keep[..., 0] = True
    mask = np.where(keep, 0, low).astype(np.float32)
    assert_same_numbers(before, after.model, inputs_of(sizes, mask, seed=seed))


@pytest.mark.parametrize("order", ["mask, z, low", "mask, low, z"])
@pytest.mark.parametrize("form", FORMS)
@given(b=SIZES, s=SIZES, t=SIZES, seed=st.integers(0, 99))
def test_same_numbers_for_masks_that_select(form: str, order: str, b: int, s: int, t: int, seed: int) -> None:
    body = MASKED.replace("Add(z, mask)", f"Where({order})")
    before = layer(body, mask=f"bool[{form}] mask", consts="float c = {0.5}, float low = {-1e30}")
    after = apply(before, FUSE_ATTENTION)
    assert after.applied == 1
    sizes = {"B": b, "S": s, "T": t, "1": 1, "2": 2}
    mask = np.random.default_rng(seed).random([sizes[name] for name in form.split(",")]) < 0.5
    assert_same_numbers(before, after.model, inputs_of(sizes, mask, seed=seed))


def test_an_unguarded_row_without_keys_is_zero_after_and_nan_before() -> None:
    """The one difference that the docstring names."""
    before = layer(MASKED, mask="float[S,T] mask")
    mask = np.zeros((3, 5), np.float32)
    mask[1] = -np.inf
    inputs = inputs_of({"B": 2, "S": 3, "T": 5}, mask)
    after = apply(before, FUSE_ATTENTION).model
    old, new = evaluate(before, inputs)["y"], evaluate(after, inputs)["y"]
    assert np.isnan(old[:, :, 1]).all() and (new[:, :, 1] == 0).all()
    np.testing.assert_allclose(new[:, :, [0, 2]], old[:, :, [0, 2]], rtol=1e-5, atol=1e-5)


def test_same_numbers_in_float16() -> None:
    before = layer(MASKED, mask="float16[B,1,1,T] mask", t="float16", consts="float16 c = {14336}")
    after = assert_fires(before, FUSE_ATTENTION)
    for sizes in ({"B": 2, "S": 3, "T": 5}, {"B": 1, "S": 1, "T": 1}):
        assert_equivalent(before, after, sizes=sizes)
