"""Routers of mixtures of experts become one operator; each part may be missing, and what only looks like one stays."""

import re

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.engine.open_order import with_sorted
from graphwright.passes.transform.fuse_router import FUSE_ROUTER
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

# Eight experts in four groups of two, three chosen.
CONSTS = """float[8] bias = {0.1, -0.2, 0.3, 0.05, -0.1, 0.2, 0, 0.15}, int64[1] k = {3}, int64[1] last = {-1},
    int64[3] by_group = {-1, 4, 2}, int64[1] two = {2}, int64[1] open = {2}, int64[3] spread = {1, 4, 2},
    int64[2] all = {-1, 8}, float nought = {0}, float low = {-inf}, float tiny = {1e-20}, float scale = {2.5}"""
SIGMOID = "s = Sigmoid(x)"
SOFTMAX = "s = Softmax(x)"
BIASED = "c = Add(s, bias)"
CHOICE = "v, i = TopK <sorted = 0> (c, k) w = GatherElements <axis = 1> (s, i)"
SHARES = "t = ReduceSum(w, last) u = Add(t, tiny) r = Div(w, u)"
SCALED = "y = Mul(r, scale)"
GROUPS = """g = Reshape(b, by_group) gv, gi = TopK(g, two) gs = ReduceSum <keepdims = 0> (gv, last)
    ov, oi = TopK <sorted = 0> (gs, open) shape = Shape(gs) zeros = Expand(nought, shape) shape1 = Shape(oi)
    ones = ConstantOfShape <value = float[1] {1}> (shape1) scattered = ScatterElements <axis = 1> (zeros, oi, ones)
    column = Unsqueeze(scattered, last) wide = Expand(column, spread) mask = Reshape(wide, all)
    is_open = Cast <to = 9> (mask) is_shut = Not(is_open) c = Where(is_shut, low, b)"""
PLAIN = f"{SIGMOID} {BIASED} {CHOICE.replace('w =', 'y =')}"
DEEPSEEK = f"{SIGMOID} {BIASED} {CHOICE} {SHARES} {SCALED}"
GROUPED = f"{SIGMOID} b = Add(s, bias) {GROUPS} {CHOICE} {SHARES} {SCALED}"
LONGCAT = f"{SOFTMAX} {BIASED} {CHOICE} y = Mul(w, scale)"
UNBIASED = "s = Sigmoid(x) w, i = TopK(s, k) " + f"{SHARES} {SCALED}"


def text(
    body: str,
    *,
    x: str = "N,8",
    y: str = "N,3",
    t: str = "float",
    out: str = "",
    consts: str = CONSTS,
    opset: int = 24,
    more: str = "",
    inputs: str = "",
) -> str:
    hars = ', "hars": 1' if "hars." in body else ""
    head = f"({t}[{x}] x{inputs}) => ({out or t}[{y}] y, int64[{y}] i{more})"
    return f'<ir_version: 10, opset_import: ["": {opset}{hars}]> g {head} <{consts}> {{ {body} }}'


def router(body: str, **options: str | int) -> ir.Model:
    made = model(text(body, **options))
    if attach_bodies(made):
        RemoveUnusedNodesPass()(made)  # as every pipeline does, in functions too
    return made


def routed(inputs: str = "x, bias", **given: object) -> str:
    options = {
        "k": 3,
        "scoring": '"sigmoid"',
        "renormalize": 0,
        "scale": 1.0,
        "zero_experts": 0,
        "scale_zero_experts": 1,
        "groups": 1,
        "top_groups": 1,
    } | given
    return f"y, i = hars.router_topk <{', '.join(f'{name} = {value}' for name, value in options.items())}> ({inputs})"


EXAMPLES = {
    "plain": text(PLAIN),
    "deepseek": text(DEEPSEEK),
    "grouped": text(GROUPED),
    "longcat": text(LONGCAT),
    "unbiased": text(UNBIASED),
}


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (PLAIN, routed()),
        (PLAIN.replace("Add(s, bias)", "Add(bias, s)"), routed()),
        (DEEPSEEK, routed(renormalize=1, scale=2.5)),
        (DEEPSEEK.replace("Mul(r, scale)", "Mul(scale, r)"), routed(renormalize=1, scale=2.5)),
        (DEEPSEEK.replace("u = Add(t, tiny)", "").replace("Div(w, u)", "Div(w, t)"), routed(renormalize=1, scale=2.5)),
        (DEEPSEEK.replace("r =", "y =").replace(SCALED, ""), routed(renormalize=1)),
        (LONGCAT, routed(scoring='"softmax"', scale=2.5)),
        (LONGCAT.replace(BIASED, "c = Identity(s)"), None),
        (LONGCAT.replace(BIASED, "").replace("(c,", "(s,"), routed("x", scoring='"softmax"', scale=2.5)),
        (UNBIASED, routed("x", renormalize=1, scale=2.5)),
        (UNBIASED.replace("w, i", "y, i").replace(f"{SHARES} {SCALED}", ""), routed("x")),
        (GROUPED, routed(renormalize=1, scale=2.5, groups=4, top_groups=2)),
        (
            GROUPED.replace("Where(is_shut, low, b)", "Where(is_open, b, low)").replace("is_shut = Not(is_open)", ""),
            routed(renormalize=1, scale=2.5, groups=4, top_groups=2),
        ),
        (
            GROUPED.replace("b = Add(s, bias)", "").replace("(b,", "(s,").replace("low, b", "low, s"),
            routed("x", renormalize=1, scale=2.5, groups=4, top_groups=2),
        ),
        (
            GROUPED.replace("Expand(nought, shape)", "ConstantOfShape(shape)"),
            routed(renormalize=1, scale=2.5, groups=4, top_groups=2),
        ),
    ],
)
def test_each_form_is_fused(body: str, after: str | None) -> None:
    before = router(body)
    if after is None:
        assert_refuses(before, FUSE_ROUTER, Reason.STRUCTURE)  # Identity is removed by another pass
        return
    assert_equivalent(before, assert_fires(before, FUSE_ROUTER, 1, router(after)))


def test_a_fixed_number_of_tokens_has_constant_masks() -> None:
    body = GROUPED.replace("zeros = Expand(nought, shape)", "").replace("shape = Shape(gs)", "")
    body = body.replace("ones = ConstantOfShape <value = float[1] {1}> (shape1)", "").replace("shape1 = Shape(oi)", "")
    consts = CONSTS + f", float[5,4] zeros = {{{', '.join('0' * 20)}}}, float[5,2] ones = {{{', '.join('1' * 10)}}}"
    before = router(body, x="5,8", y="5,3", consts=consts)
    assert_equivalent(before, assert_fires(before, FUSE_ROUTER))
    other = consts.replace("ones = {1", "ones = {0")
    assert_refuses(router(body, x="5,8", y="5,3", consts=other), FUSE_ROUTER, Reason.STRUCTURE)


def test_two_layers_are_fused_one_by_one() -> None:
    second = re.sub(r"\b([sciwvtury])\b", r"\g<1>2", DEEPSEEK).replace("Sigmoid(x)", "Sigmoid(n)")
    before = router(f"{DEEPSEEK} n = Neg(x) {second}", more=", float[N,3] y2, int64[N,3] i2")
    after = assert_fires(before, FUSE_ROUTER, 2)
    assert len(after.functions) == 1
    assert_equivalent(before, after)


def test_the_bias_may_have_leading_axes_of_size_1() -> None:
    before = router(LONGCAT, consts=CONSTS.replace("float[8] bias", "float[1,8] bias"))
    assert_equivalent(before, assert_fires(before, FUSE_ROUTER, 1, router(routed(scoring='"softmax"', scale=2.5))))
    consts = CONSTS.partition("int64[1] k")
    before = router(LONGCAT, consts="".join(consts[1:]), inputs=", float[1,8] bias")
    after = assert_fires(before, FUSE_ROUTER)
    assert [node.op_type for node in after.graph] == ["Reshape", "router_topk"]
    assert_equivalent(before, after)


def test_tokens_may_have_more_axes() -> None:
    body = DEEPSEEK.replace("axis = 1", "axis = 2")
    before = router(body, x="B,S,8", y="B,S,3")
    assert_equivalent(before, assert_fires(before, FUSE_ROUTER))


def test_types_below_float32_come_back_as_they_were() -> None:
    half = CONSTS.replace(
        "float[8] bias = {0.1, -0.2, 0.3, 0.05, -0.1, 0.2, 0, 0.15}", "float16[8] bias = {0, 8192, 1, 2, 3, 4, 5, 6}"
    )
    half = half.replace("float scale = {2.5}", "float16 scale = {16640}")
    before = router(LONGCAT, t="float16", consts=half)
    after = assert_fires(before, FUSE_ROUTER)
    assert [node.op_type for node in after.graph] == ["router_topk", "Cast"]
    assert_equivalent(before, after)
    before = router(
        DEEPSEEK.replace("s = Sigmoid(x)", "z = Cast <to = 1> (x) s = Sigmoid(z)"), t="bfloat16", out="float"
    )
    after = assert_fires(before, FUSE_ROUTER)
    assert [node.op_type for node in after.graph] == ["router_topk"]
    assert_equivalent(before, after)


def test_refuses_an_older_opset() -> None:
    assert_refuses(router(PLAIN, opset=18), FUSE_ROUTER, Reason.OPSET)


def test_refuses_float64() -> None:
    wide = CONSTS.replace("float", "double")
    assert_refuses(router(PLAIN, t="double", consts=wide), FUSE_ROUTER, Reason.DTYPE)


def test_refuses_sizes_that_are_not_known() -> None:
    assert_refuses(router(UNBIASED, x="N,E"), FUSE_ROUTER, Reason.UNKNOWN)
    before = router(PLAIN, y="N,K", consts=CONSTS.replace("int64[1] k = {3}, ", ""), inputs=", int64[1] k")
    assert_refuses(before, FUSE_ROUTER, Reason.UNKNOWN)
    # As many rows as the constant has, where that fits.
    rows = CONSTS.replace("spread = {1, 4, 2}", "spread = {5, 4, 2}")
    assert_refuses(router(GROUPED, consts=rows), FUSE_ROUTER, Reason.UNKNOWN)
    shape = GROUPED.replace("Reshape(wide, all)", "Reshape(wide, given)")
    assert_refuses(router(shape, inputs=", int64[2] given"), FUSE_ROUTER, Reason.UNKNOWN)


def test_refuses_fewer_experts_in_the_open_groups_than_are_chosen() -> None:
    before = router(GROUPED, consts=CONSTS.replace("int64[1] open = {2}", "int64[1] open = {1}"))
    assert_refuses(before, FUSE_ROUTER, Reason.SHAPE)


def test_refuses_groups_that_are_ranked_otherwise() -> None:
    """By the best alone, by the three best, or groups of half of the experts."""
    four = (
        CONSTS.replace("{-1, 4, 2}", "{-1, 2, 4}")
        .replace("{1, 4, 2}", "{1, 2, 4}")
        .replace("{2}, int64[3] s", "{1}, int64[3] s")
    )
    assert_fires(router(GROUPED, consts=four), FUSE_ROUTER)
    for count in (1, 3):
        other = four.replace("int64[1] two = {2}", f"int64[1] two = {{{count}}}")
        assert_refuses(router(GROUPED, consts=other), FUSE_ROUTER, Reason.SHAPE)
    half = CONSTS.replace("{-1, 4, 2}", "{-1, 2, 2}").replace("{1, 4, 2}", "{1, 2, 2}")
    half = half.replace("int64[1] open = {2}", "int64[1] open = {1}")
    assert_refuses(router(GROUPED, consts=half), FUSE_ROUTER, Reason.SHAPE)


def test_a_mask_that_repeats_groups_along_the_other_axis_is_refused() -> None:
    """Two groups of two: Unsqueeze at axis 1 gives sizes that coincide, and another mask."""
    consts = CONSTS.replace(
        "float[8] bias = {0.1, -0.2, 0.3, 0.05, -0.1, 0.2, 0, 0.15}", "float[4] bias = {0, 1, 0, 1}"
    )
    consts = (
        consts.replace("{-1, 4, 2}", "{-1, 2, 2}")
        .replace("{1, 4, 2}", "{1, 2, 2}")
        .replace("all = {-1, 8}", "all = {-1, 4}")
    )
    consts = consts.replace("int64[1] open = {2}", "int64[1] open = {1}").replace(
        "int64[1] k = {3}", "int64[1] k = {2}"
    )
    before = router(GROUPED, consts=consts, x="N,4", y="N,2")
    assert_equivalent(before, assert_fires(before, FUSE_ROUTER))
    other = router(
        GROUPED.replace("Unsqueeze(scattered, last)", "Unsqueeze(scattered, first)"),
        consts=consts + ", int64[1] first = {1}",
        x="N,4",
        y="N,2",
    )
    assert_refuses(other, FUSE_ROUTER, Reason.SHAPE)


def test_refuses_a_bias_that_is_not_one_for_each_expert() -> None:
    eight = "float[8] bias = {0.1, -0.2, 0.3, 0.05, -0.1, 0.2, 0, 0.15}"
    assert_refuses(router(PLAIN, consts=CONSTS.replace(eight, "float[1] bias = {0.1}")), FUSE_ROUTER, Reason.SHAPE)
    rest = CONSTS.replace(f"{eight}, ", "")
    assert_refuses(router(PLAIN, consts=rest, inputs=", float[N,8] bias"), FUSE_ROUTER, Reason.SHAPE)


@pytest.mark.parametrize(
    "body",
    [
        PLAIN.replace("TopK <sorted = 0>", "TopK <axis = 0, sorted = 0>"),
        PLAIN.replace("GatherElements <axis = 1>", "GatherElements <axis = 0>"),
        PLAIN.replace("Sigmoid(x)", "Softmax <axis = 0> (x)"),
    ],
)
def test_refuses_other_axes_even_of_the_same_size(body: str) -> None:
    y = "3,8" if "TopK <axis = 0" in body else "8,3"
    assert_refuses(router(body, x="8,8", y=y), FUSE_ROUTER, Reason.ATTRIBUTE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gv, gi = TopK", "gv, gi = TopK <axis = 1>"),
        ("TopK <sorted = 0> (gs, open)", "TopK <axis = 0, sorted = 0> (gs, open)"),
        ("ScatterElements <axis = 1>", "ScatterElements <axis = 0>"),
    ],
)
def test_refuses_groups_along_other_axes_even_of_the_same_size(old: str, new: str) -> None:
    """Four tokens, two groups of two experts, of which both stay open."""
    consts = CONSTS.partition("int64[1] k")[2].replace("{-1, 4, 2}", "{-1, 2, 2}").replace("{1, 4, 2}", "{1, 2, 2}")
    consts = "float[4] bias = {0, 1, 0, 1}, int64[1] k" + consts.replace("all = {-1, 8}", "all = {-1, 4}")
    assert old in GROUPED
    body, sizes = GROUPED.replace(old, new), {"x": "4,4", "y": "4,3"}
    assert_fires(router(GROUPED, consts=consts, **sizes), FUSE_ROUTER)
    assert_refuses(router(body, consts=consts, **sizes), FUSE_ROUTER, Reason.ATTRIBUTE)


@pytest.mark.parametrize("number", ["inf", "-inf", "nan"])
def test_a_scale_that_is_refused_stays(number: str) -> None:
    consts = CONSTS.replace("float scale = {2.5}", f"float scale = {{{number}}}")
    outcome = apply(router(DEEPSEEK, consts=consts), FUSE_ROUTER)
    assert [node.op_type for node in outcome.model.graph] == ["router_topk", "Mul"]
    # Where the rest is refused too, the report gives the reason of each.
    consts = consts.replace("int64[1] k = {3}, ", "")
    before = router(DEEPSEEK, y="N,K", consts=consts, inputs=", int64[1] k")
    assert Reason.UNKNOWN in assert_refuses(before, FUSE_ROUTER, Reason.CONSTANT).reasons


def test_refuses_scores_that_others_need() -> None:
    before = router(f"{DEEPSEEK} z = Neg(s)", more=", float[N,8] z")
    assert_refuses(before, FUSE_ROUTER, Reason.SHARED)
    assert_refuses(router(DEEPSEEK, more=", float[N,8] c"), FUSE_ROUTER, Reason.GRAPH_OUTPUT)
    assert_refuses(router(GROUPED, more=", int64[N,2] oi"), FUSE_ROUTER, Reason.GRAPH_OUTPUT)


@pytest.mark.parametrize(
    "body",
    [
        PLAIN.replace("TopK <sorted = 0>", "TopK <largest = 0>"),
        PLAIN.replace("Sigmoid", "Tanh"),
        PLAIN.replace("GatherElements <axis = 1> (s, i)", "GatherElements <axis = 1> (c, i)"),
        PLAIN.replace("Add(s, bias)", "Mul(s, bias)"),
        GROUPED.replace("gv, gi = TopK", "gv, gi = TopK <largest = 0>"),
        GROUPED.replace("is_shut = Not(is_open)", "is_shut = Identity(is_open)"),
        GROUPED.replace("ReduceSum <keepdims = 0> (gv", "ReduceMax <keepdims = 0> (gv"),
        GROUPED.replace("Where(is_shut, low, b)", "Where(is_shut, nought, b)"),
        GROUPED.replace("float[1] {1}", "float[1] {0}"),
        GROUPED.replace("Expand(nought, shape)", "Expand(scale, shape)"),
        GROUPED.replace("ScatterElements <axis = 1>", 'ScatterElements <axis = 1, reduction = "mul">'),
    ],
)
def test_near_misses_stay(body: str) -> None:
    assert_refuses(router(body), FUSE_ROUTER, Reason.STRUCTURE)


@pytest.mark.parametrize(
    ("body", "stays"),
    [
        (DEEPSEEK.replace("tiny)", "scale)"), ["ReduceSum", "Add", "Div", "Mul"]),
        (DEEPSEEK.replace("ReduceSum(w", "ReduceMax(w"), ["ReduceMax", "Add", "Div", "Mul"]),
        (DEEPSEEK.replace("Div(w, u)", "Div(u, w)"), ["ReduceSum", "Add", "Div", "Mul"]),
        (DEEPSEEK.replace("Mul(r, scale)", "Add(r, scale)"), ["Add"]),
    ],
)
def test_other_weights_are_computed_as_before(body: str, stays: list[str]) -> None:
    before = router(body)
    after = assert_fires(before, FUSE_ROUTER)
    assert [node.op_type for node in after.graph] == ["router_topk", *stays]
    assert_equivalent(before, after)


@pytest.mark.parametrize("body", EXAMPLES)
@given(tokens=st.sampled_from([1, 2, 7]), wide=st.booleans(), seed=st.integers(0, 99))
def test_same_numbers_at_random_sizes(body: str, tokens: int, wide: bool, seed: int) -> None:
    before = with_sorted(model(EXAMPLES[body]))
    outcome = apply(before, FUSE_ROUTER)
    assert outcome.applied == 1
    x = (np.random.default_rng(seed).normal(size=(tokens, 8)) * (4 if wide else 1)).astype(np.float32)
    found = compare(evaluate(before, {"x": x}, double=True), evaluate(outcome.model, {"x": x}))
    assert not found, str(found[0])
