"""The best of each beam are enough for the best of all, in every spelling of the reshapes, ties included."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.passes.transform.fuse_beam_candidates import FUSE_BEAM_CANDIDATES
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

# Three beams, a vocabulary of 7, six candidates.
CONSTS = """int64[1] k = {6}, int64[2] joined = {-1, 21}, int64[3] split = {-1, 3, 7}, int64[2] items = {0, -1},
    int64[1] flat = {-1}, int64[2] halves = {-1, 15}, int64[3] cut = {-1, 7, 3}, int64[3] sides = {-1, 3, 21}"""
ROWS = "x = Identity(logits) p = LogSoftmax(x) t = Add(p, scores) f = Reshape(t, joined) y, i = TopK(f, k)"
FORMS = {
    "rows": (ROWS, "N,7", "N,1", "B,6"),
    "scores-first": (ROWS.replace("Add(p, scores)", "Add(scores, p)"), "N,7", "N,1", "B,6"),
    "unsorted": (ROWS.replace("TopK", "TopK <sorted = 0>"), "N,7", "N,1", "B,6"),
    "beams": (ROWS, "B,3,7", "B,3,1", "B,6"),
    "shared-scores": (ROWS, "B,3,7", "3,1", "B,6"),
    "split": (ROWS.replace("t = Add(p,", "q = Reshape(p, split) t = Add(q,"), "N,7", "B,3,1", "B,6"),
    "open-beams": (ROWS.replace("joined", "items"), "B,W,7", "B,W,1", "B,6"),
    "scores-of-more-rows": (ROWS, "1,3,7", "B,3,1", "B,6"),
    "one-item": (ROWS.replace("joined", "flat"), "3,7", "3,1", "6"),
}


def text(
    body: str, logits: str, scores: str, y: str, *, t: str = "float", opset: int = 24, more: str = "", k: str = ""
) -> str:
    hars = ', "hars": 1' if "hars." in body else ""
    consts = CONSTS.replace("{6}", f"{{{k}}}") if k else CONSTS
    head = f"({t}[{logits}] logits, {t}[{scores}] scores) => ({t}[{y}] y, int64[{y}] i{more})"
    return f'<ir_version: 10, opset_import: ["": {opset}{hars}]> g {head} <{consts}> {{ {body} }}'


def step(form: str = "rows", **options: str | int) -> ir.Model:
    return model(text(*FORMS[form], **options))


EXAMPLES = {form: text(*FORMS[form]) for form in FORMS}


def test_candidates_are_chosen_by_row() -> None:
    after = """x = Identity(logits)
        v, tokens = hars.softmax_topk <k = 6, axis = -1, mode = "logprob", temperature = 1.0> (x)
        t = Add(v, scores) f = Reshape(t, rows) y, place = TopK(f, k)
        h = Reshape(tokens, rows) token = GatherElements <axis = -1> (h, place)
        beam = Div(place, six) start = Mul(beam, seven) i = Add(start, token)"""
    expected_text = text(after, *FORMS["rows"][1:]).replace(
        "int64[1] k", "int64 six = {6}, int64 seven = {7}, int64[2] rows = {-1, 18}, int64[1] k"
    )
    expected = model(expected_text)
    attach_bodies(expected)
    RemoveUnusedNodesPass()(expected)  # as every pipeline does, in functions too
    assert_fires(step(), FUSE_BEAM_CANDIDATES, 1, expected)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_rewritten(form: str) -> None:
    before = step(form)
    after = assert_fires(before, FUSE_BEAM_CANDIDATES)
    assert "LogSoftmax" not in [node.op_type for node in after.graph]
    for seed in range(5):
        assert_equivalent(before, after, sizes={"B": 2, "N": 6, "W": 3}, seed=seed)


def test_sizes_that_may_differ_are_made_equal() -> None:
    before = step("scores-of-more-rows")
    after = assert_fires(before, FUSE_BEAM_CANDIDATES)
    assert "Expand" in [node.op_type for node in after.graph]
    for rows in (1, 2, 5):
        assert_equivalent(before, after, sizes={"B": rows})
    known = apply(step("beams"), FUSE_BEAM_CANDIDATES).model
    assert "Expand" not in [node.op_type for node in known.graph]


def test_two_steps_are_rewritten_one_by_one() -> None:
    body = ROWS + " n = Neg(x) q = LogSoftmax(n) u = Add(q, scores) g = Reshape(u, joined) z, j = TopK(g, k)"
    before = model(text(body, *FORMS["beams"][1:], more=", float[B,6] z, int64[B,6] j"))
    assert_equivalent(before, assert_fires(before, FUSE_BEAM_CANDIDATES, 2))


def test_types_below_float32_are_cast_before_the_scores() -> None:
    before = step("beams", t="float16")
    assert_equivalent(before, assert_fires(before, FUSE_BEAM_CANDIDATES))
    wide = ROWS.replace("LogSoftmax(x)", "LogSoftmax(w)").replace("p =", "w = Cast <to = 1> (x) p =", 1)
    before = model(text(wide, *FORMS["beams"][1:]).replace("float[B,3,7] logits", "bfloat16[B,3,7] logits"))
    after = assert_fires(before, FUSE_BEAM_CANDIDATES)
    assert "Cast" not in [node.op_type for node in after.graph]


def test_as_many_candidates_as_tokens_are_still_right() -> None:
    before = model(text(ROWS, *FORMS["beams"][1:3], "B,7", k="7"))
    assert_equivalent(before, assert_fires(before, FUSE_BEAM_CANDIDATES))


def test_refuses_an_older_opset() -> None:
    assert_refuses(step(opset=19), FUSE_BEAM_CANDIDATES, Reason.OPSET)


def test_refuses_float64() -> None:
    assert_refuses(step(t="double"), FUSE_BEAM_CANDIDATES, Reason.DTYPE)


def test_refuses_more_candidates_than_a_beam_has_tokens() -> None:
    before = model(text(ROWS, *FORMS["beams"][1:3], "B,8", k="8"))
    assert_refuses(before, FUSE_BEAM_CANDIDATES, Reason.SHAPE)


@pytest.mark.parametrize(
    ("body", "logits", "scores"),
    [
        (ROWS, "B,3,V", "B,3,1"),
        (ROWS, "B,3,7", "B,3,U"),
        (ROWS.replace("joined", "items"), "B,W,2,7", "B,W,2,1"),
        (ROWS.replace("joined", "open"), "B,W,7", "B,W,1"),
    ],
)
def test_refuses_sizes_that_are_not_known(body: str, logits: str, scores: str) -> None:
    before = text(body, logits, scores, "M,6")
    before = before.replace("[B,W,1] scores)", "[B,W,1] scores, int64[2] open)") if "open" in body else before
    assert_refuses(model(before), FUSE_BEAM_CANDIDATES, Reason.UNKNOWN)


def test_refuses_a_k_that_is_no_constant() -> None:
    before = text(ROWS, *FORMS["beams"][1:3], "B,K").replace(" scores) =>", " scores, int64[1] k) =>")
    assert_refuses(model(before.replace("int64[1] k = {6},", "")), FUSE_BEAM_CANDIDATES, Reason.UNKNOWN)


@pytest.mark.parametrize(
    ("body", "logits", "scores"),
    [
        (ROWS, "B,3,7", "7"),
        (ROWS, "B,3,7", "B,3,7"),
        (ROWS.replace("joined", "halves"), "B,15,7", "B,15,1"),
        (ROWS.replace("t = Add(p,", "q = Reshape(p, cut) t = Add(q,"), "N,7", "B,7,1"),
    ],
)
def test_refuses_scores_of_tokens_and_rows_cut_elsewhere(body: str, logits: str, scores: str) -> None:
    assert_refuses(model(text(body, logits, scores, "M,6")), FUSE_BEAM_CANDIDATES, Reason.SHAPE)


def test_refuses_scores_that_add_axes_and_results_of_many() -> None:
    assert_refuses(model(text(ROWS, "N,7", "B,N,1", "M,6")), FUSE_BEAM_CANDIDATES, Reason.RANK)
    deep = ROWS.replace("joined", "sides")
    assert_refuses(model(text(deep, "B,9,7", "B,9,1", "B,3,6")), FUSE_BEAM_CANDIDATES, Reason.RANK)


@pytest.mark.parametrize(
    "body",
    [ROWS.replace("LogSoftmax", "LogSoftmax <axis = 1>"), ROWS.replace("TopK", "TopK <axis = 0>")],
)
def test_refuses_other_axes_even_of_the_same_size(body: str) -> None:
    y = "6,21" if "TopK <" in body else "7,6"
    before = model(text(body, "3,7,7" if y == "7,6" else "21,3,7", "3,7,1" if y == "7,6" else "21,3,1", "P,Q"))
    assert_refuses(before, FUSE_BEAM_CANDIDATES, Reason.ATTRIBUTE)


def test_refuses_log_probabilities_that_others_need() -> None:
    before = model(text(ROWS + " z = Neg(p)", *FORMS["beams"][1:], more=", float[B,3,7] z"))
    assert_refuses(before, FUSE_BEAM_CANDIDATES, Reason.SHARED)
    before = model(text(ROWS, *FORMS["beams"][1:], more=", float[B,3,7] t"))
    assert_refuses(before, FUSE_BEAM_CANDIDATES, Reason.GRAPH_OUTPUT)


@pytest.mark.parametrize(
    "body",
    [
        ROWS.replace("LogSoftmax", "Softmax"),
        ROWS.replace("Add(p", "Mul(p"),
        ROWS.replace("Add(p", "Sub(p"),
        ROWS.replace("TopK", "TopK <largest = 0>"),
        ROWS.replace("f = Reshape(t, joined)", "u = Transpose(t) f = Reshape(u, joined)"),
    ],
)
def test_near_misses_stay(body: str) -> None:
    assert_refuses(model(text(body, *FORMS["beams"][1:])), FUSE_BEAM_CANDIDATES, Reason.STRUCTURE)


@given(b=st.sampled_from([1, 2, 5]), coarse=st.booleans(), seed=st.integers(0, 999))
def test_the_same_tokens_in_the_same_order(b: int, coarse: bool, seed: int) -> None:
    """Coarse logits tie within a beam and, with equal scores, between beams."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, 2, (b, 3, 7)) if coarse else rng.normal(size=(b, 3, 7)) * 4
    # The same logits in any order have the same sum, so that ties between beams are exact.
    logits = rng.permuted(np.repeat(logits[:, :1], 3, axis=1), axis=-1) if coarse else logits
    scores = np.zeros((b, 3, 1)) if coarse else -rng.random((b, 3, 1)) * 5
    inputs = {"logits": logits.astype(np.float32), "scores": scores.astype(np.float32)}
    before = step("beams")
    old, new = evaluate(before, inputs), evaluate(apply(before, FUSE_BEAM_CANDIDATES).model, inputs)
    assert not compare({"y": old["y"]}, {"y": new["y"]})
    np.testing.assert_array_equal(new["i"], old["i"])
