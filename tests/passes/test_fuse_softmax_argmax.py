"""The likeliest class and its probability come from one operator, and what only looks like it stays."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.passes.transform.fuse_softmax_argmax import FUSE_SOFTMAX_ARGMAX
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

CONSTS = "int64[1] last = {-1}, int64[1] first = {0}, int64[2] both = {0, 1}"
LABEL = "p = Softmax(x) i = ArgMax <axis = -1, keepdims = 0> (p)"
SCORE = "p = Softmax(x) y = ReduceMax <keepdims = 0> (p, last)"
BOTH = f"{LABEL} y = ReduceMax <keepdims = 0> (p, last)"


def head(
    body: str, outputs: str, *, x: str = "B,9", t: str = "float", consts: str = CONSTS, opset: int = 24
) -> ir.Model:
    hars = ', "hars": 1' if "hars." in body else ""
    opsets = f'<ir_version: 10, opset_import: ["": {opset}{hars}]>'
    made = model(f"{opsets} g ({t}[{x}] x) => ({outputs}) <{consts}> {{ {body} }}")
    if attach_bodies(made):
        RemoveUnusedNodesPass()(made)  # as every pipeline does, in functions too
    return made


def chosen(mode: str, axis: int = -1) -> str:
    return f'v, j = hars.softmax_topk <k = 1, axis = {axis}, mode = "{mode}", temperature = 1.0> (x)'


OUTPUTS = {LABEL: "int64[B] i", SCORE: "float[B] y", BOTH: "int64[B] i, float[B] y"}
EXAMPLES = {
    name: f'<ir_version: 10, opset_import: ["": 24]> g (float[B,9] x) => ({OUTPUTS[body]}) <{CONSTS}> {{ {body} }}'
    for name, body in {"label": LABEL, "score": SCORE, "both": BOTH}.items()
}


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (LABEL, f"{chosen('logit')} i = Squeeze(j, last)"),
        (SCORE, f"{chosen('prob')} y = Squeeze(v, last)"),
        (SCORE.replace("Softmax", "LogSoftmax"), f"{chosen('logprob')} y = Squeeze(v, last)"),
        (BOTH, f"{chosen('prob')} i = Squeeze(j, last) y = Squeeze(v, last)"),
        (BOTH.replace("axis = -1", "axis = 1"), f"{chosen('prob')} i = Squeeze(j, last) y = Squeeze(v, last)"),
    ],
)
def test_each_form_is_fused(body: str, after: str) -> None:
    outputs = ", ".join(each for each, name in (("int64[B] i", "i ="), ("float[B] y", "y =")) if name in body)
    before = head(body, outputs)
    assert_equivalent(before, assert_fires(before, FUSE_SOFTMAX_ARGMAX, 1, head(after, outputs)))


@pytest.mark.parametrize("label_keeps", [0, 1])
@pytest.mark.parametrize("score_keeps", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_dimensions_are_kept_as_they_were(label_keeps: int, score_keeps: int, axis: int) -> None:
    kept = ",".join("1" if place == axis else size for place, size in enumerate(["B", "4", "5"]))
    gone = ",".join(size for place, size in enumerate(["B", "4", "5"]) if place != axis)
    outputs = f"int64[{kept if label_keeps else gone}] i, float[{kept if score_keeps else gone}] y"
    body = f"""p = Softmax <axis = {axis}> (x) i = ArgMax <axis = {axis - 3}, keepdims = {label_keeps}> (p)
        y = ReduceMax <keepdims = {score_keeps}> (p, at)"""
    before = head(body, outputs, x="B,4,5", consts=f"int64[1] at = {{{axis}}}")
    assert_equivalent(before, assert_fires(before, FUSE_SOFTMAX_ARGMAX), sizes={"B": 7})


def test_two_heads_are_fused_one_by_one() -> None:
    body = f"{BOTH} n = Neg(x) q = Softmax(n) j = ArgMax(q) m = Neg(n) r = Softmax(m) z = ReduceMax(r, first)"
    before = head(body, "int64[B] i, float[B] y, int64[1,9] j, float[1,9] z")
    # The last two reduce another axis than their softmax.
    after = apply(before, FUSE_SOFTMAX_ARGMAX)
    assert after.applied == 1
    body = f"{BOTH} n = Neg(x) q = Softmax(n) j = ArgMax <axis = 1> (q)"
    assert_fires(head(body, "int64[B] i, float[B] y, int64[B,1] j"), FUSE_SOFTMAX_ARGMAX, 2)


def test_types_below_float32_come_back_as_they_were() -> None:
    before = head(BOTH, "int64[B] i, float16[B] y", t="float16")
    after = f"{chosen('prob')} i = Squeeze(j, last) c = Cast <to = 10> (v) y = Squeeze(c, last)"
    expected = head(after, "int64[B] i, float16[B] y", t="float16")
    assert_equivalent(before, assert_fires(before, FUSE_SOFTMAX_ARGMAX, 1, expected))
    wide = f"w = Cast <to = 1> (x) {BOTH.replace('(x)', '(w)')}"
    after = f"{chosen('prob')} i = Squeeze(j, last) y = Squeeze(v, last)"
    expected = head(after, OUTPUTS[BOTH], t="bfloat16")
    assert_fires(head(wide, OUTPUTS[BOTH], t="bfloat16"), FUSE_SOFTMAX_ARGMAX, 1, expected)


def test_refuses_an_older_opset() -> None:
    assert_refuses(head(LABEL, "int64[B] i", opset=19), FUSE_SOFTMAX_ARGMAX, Reason.OPSET)


def test_refuses_float64() -> None:
    assert_refuses(head(LABEL, "int64[B] i", t="double"), FUSE_SOFTMAX_ARGMAX, Reason.DTYPE)


def test_refuses_probabilities_that_are_cut_to_integers() -> None:
    """Of which most are 0: the first of those is due."""
    body = LABEL.replace("(p)", "(w)").replace("i =", "w = Cast <to = 7> (p) i =")
    assert_refuses(head(body, "int64[B] i"), FUSE_SOFTMAX_ARGMAX, Reason.DTYPE)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (LABEL.replace("axis = -1", "axis = 0"), "int64[9] i"),
        (LABEL.replace("Softmax(x)", "Softmax <axis = 0> (x)"), "int64[9] i"),
        (SCORE.replace("last", "first"), "float[9] y"),
        (SCORE.replace("last", "both"), "float y"),
        (BOTH.replace("(p, last)", "(p, first)"), "int64[9] i, float[9] y"),
    ],
)
def test_refuses_other_axes_even_of_the_same_size(body: str, outputs: str) -> None:
    assert_refuses(head(body, outputs, x="9,9"), FUSE_SOFTMAX_ARGMAX, Reason.ATTRIBUTE)


def test_refuses_axes_of_an_unknown_rank() -> None:
    before = head(LABEL.replace("axis = -1", "axis = 1"), "int64[B] i")
    for value in (*before.graph.inputs, *(value for node in before.graph for value in node.outputs)):
        value.shape = None
    assert_refuses(before, FUSE_SOFTMAX_ARGMAX, Reason.UNKNOWN)


def test_refuses_probabilities_that_others_need() -> None:
    before = head(f"{BOTH} z = Neg(p)", f"{OUTPUTS[BOTH]}, float[B,9] z")
    assert_refuses(before, FUSE_SOFTMAX_ARGMAX, Reason.SHARED)
    assert_refuses(head(BOTH, f"{OUTPUTS[BOTH]}, float[B,9] p"), FUSE_SOFTMAX_ARGMAX, Reason.GRAPH_OUTPUT)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (LABEL.replace("keepdims = 0", "keepdims = 0, select_last_index = 1"), "int64[B] i"),
        (LABEL.replace("ArgMax", "ArgMin"), "int64[B] i"),
        (SCORE.replace("ReduceMax", "ReduceMin"), "float[B] y"),
        (SCORE.replace("(p, last)", "(p)"), "float y"),
        (LABEL.replace("Softmax(x)", "Sigmoid(x)"), "int64[B] i"),
    ],
)
def test_near_misses_stay(body: str, outputs: str) -> None:
    assert_refuses(head(body, outputs), FUSE_SOFTMAX_ARGMAX, Reason.STRUCTURE)


SIZES = st.sampled_from([1, 2, 7])


@pytest.mark.parametrize("body", [LABEL, SCORE, BOTH, BOTH.replace("Softmax", "LogSoftmax")])
@given(b=SIZES, v=st.sampled_from([2, 3, 31]), seed=st.integers(0, 99))
def test_same_numbers_at_random_sizes(body: str, b: int, v: int, seed: int) -> None:
    outputs = OUTPUTS[body.replace("LogSoftmax", "Softmax")]
    before = head(body, outputs, x="B,V")
    after = apply(before, FUSE_SOFTMAX_ARGMAX).model
    x = (np.random.default_rng(seed).normal(size=(b, v)) * 3).astype(np.float32)
    assert not compare(evaluate(before, {"x": x}, double=True), evaluate(after, {"x": x}))
