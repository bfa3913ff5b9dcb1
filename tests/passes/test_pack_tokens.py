"""pack-tokens: what moves to the kept tokens, what stays and why, and the numbers under masks of all kinds."""

import re

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.engine.shapes import infer_shapes
from graphwright.passes.transform.pack_tokens import PACK_TOKENS
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, difference, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g '
WEIGHTS = "float[9,8] table, float[8,8] wq, float[8,8] wk, float[8,8] wv, float[8,8] wo, float[8] b, float[8] g"
CONSTANTS = (
    "float zero = {0}, float low = {-3e38}, float less = {-10000}, int64[2] at12 = {1, 2}, int64[2] at13 = {1, 3}, "
    "int64[1] at1 = {1}, int64[1] at2 = {2}, int64 i0 = {0}, int64 i1 = {1}, float one = {1}, int64[1] v0 = {0}, "
    "int64[1] v1 = {1}"
)
KEYS = "keep = Cast <to = 9> (mask) keys = Unsqueeze(keep, at12) "
QUERIES = "queries = Unsqueeze(keep, at13) "
# Only kept queries see kept keys: a mask of both lengths that needs no Expand.
BOTH = KEYS + QUERIES + "scores = And(keys, queries) "
WIDE = KEYS + (
    "n = Shape <start = 1, end = 2> (mask) lengths = Concat <axis = 0> (n, n) seen = Expand(keys, lengths) "
    "scores = Where(seen, zero, low) "
)
CAUSAL = KEYS + (
    "n = Shape <start = 1, end = 2> (mask) count = Squeeze(n) places = Range(i0, count, i1) "
    "rows = Unsqueeze(places, at1) seen = LessOrEqual(places, rows) both = And(keys, seen) "
    "scores = Where(both, zero, low) "
)
LAYER = (
    "q = MatMul(x, wq) k = MatMul(x, wk) v0_ = MatMul(x, wv) v = Add(v0_, b) "
    "a = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v, scores) o = MatMul(a, wo) ob = Add(o, b) "
    "r = Add(ob, x) y = LayerNormalization <axis = -1> (r, g, b) "
)
EMBED = "x = Gather(table, ids) "
MEAN = "f = Cast <to = 1> (mask) c = Unsqueeze(f, at2) p = Mul(y, c) z = ReduceSum <keepdims = 0> (p, at1)"
FIRST = "z = Gather <axis = 1> (y, i0)"


def used(body: str) -> str:
    """The constants that a body reads: what it does not is no part of the example."""
    return ", ".join(
        each for each in re.split(r", (?=float|int64)", CONSTANTS) if each.split()[1] in re.split(r"\W+", body)
    )


def text(
    body: str, out: str = "float[B,8] z", *, mask: str = "int64[B,S] mask", extra: str = "", ids: str = "int64[B,S] ids"
) -> str:
    return f"{HEAD}({ids}, {mask}{extra}) => ({out}) <{WEIGHTS}, {used(body)}> {{ {body} }}"


def known(body: str, out: str = "float[B,8] z", **given: str) -> ir.Model:
    """A model whose shapes are known as infer-shapes gives them."""
    found = model(text(body, out, **given))
    infer_shapes(found)
    return found


CHOSEN = "h = Unsqueeze(keep, at2) w = Where(h, y, zero) z = ReduceMax <keepdims = 0> (w, at1)"
EXAMPLES = {
    "a mean": text(BOTH + EMBED + LAYER + MEAN),
    "a choice": text(BOTH + EMBED + LAYER + CHOSEN),
    "an output with zeros": text(
        BOTH + EMBED + LAYER + "h = Unsqueeze(keep, at2) z = Where(h, y, zero)", "float[B,S,8] z"
    ),
    "a boolean mask": text(
        BOTH.replace("Cast <to = 9> (mask)", "Identity(mask)") + EMBED + LAYER + MEAN, mask="bool[B,S] mask"
    ),
    "hidden ones chosen": text(
        KEYS + QUERIES + "nk0 = Not(keys) nq0 = Not(queries) hidden = Or(nk0, nq0) scores = Not(hidden) "
        "nk = Not(keep) h = Unsqueeze(nk, at2) "
        + EMBED
        + LAYER
        + "w = Where(h, zero, y) z = ReduceMax <keepdims = 0> (w, at1)"
    ),
}

MASKS = {
    "right": [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]],
    "left": [[1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 1]],
    "holes": [[0, 1, 0, 1, 1], [1, 0, 0, 1, 0], [0, 0, 1, 0, 0]],
    "all": [[1] * 5] * 3,
    "none": [[0] * 5] * 3,
    "an empty row": [[1, 1, 1, 0, 0], [0] * 5, [0, 1, 1, 1, 1]],
    "one row": [[0, 1, 1, 0, 1]],
}


def same_under_every_mask(before: ir.Model, after: ir.Model) -> None:
    """Compare with a float64 run of the original under each mask."""
    for name, rows in MASKS.items():
        mask = np.asarray(rows)
        kind = next(value for value in before.graph.inputs if value.name == "mask").dtype
        assert kind is not None
        ids = np.random.default_rng(0).integers(0, 9, mask.shape)
        inputs = {"ids": ids, "mask": mask.astype(kind.numpy())}
        found = compare(evaluate(before, inputs, double=True), evaluate(after, inputs))
        assert not found, f"{name}: {found[0]}"


def products(after: ir.Model) -> list[int | None]:
    """The ranks of what is multiplied with weights: 2 for kept tokens, 3 for all."""
    return [
        node.outputs[0].shape.rank() if node.outputs[0].shape else None
        for node in after.graph
        if node.op_type == "MatMul"
    ]


@pytest.mark.parametrize("name", EXAMPLES)
def test_products_work_on_kept_tokens(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, PACK_TOKENS)
    assert set(products(after)) == {2}
    assert_equivalent(before, after, sizes={"B": 2, "S": 5})
    same_under_every_mask(before, after)


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 7), (2, 1), (7, 2)])
def test_the_numbers_hold_at_all_sizes(rows: int, length: int) -> None:
    before = model(EXAMPLES["a mean"])
    after = assert_fires(before, PACK_TOKENS)
    for seed in range(3):
        assert_equivalent(before, after, sizes={"B": rows, "S": length}, seed=seed)


@pytest.mark.parametrize("kind", ["int32", "int64", "float", "bool"])
def test_the_mask_may_be_of_any_type(kind: str) -> None:
    before = known(WIDE + EMBED + LAYER + MEAN, mask=f"{kind}[B,S] mask")
    same_under_every_mask(before, assert_fires(before, PACK_TOKENS))


def test_projections_without_a_bias_become_one_product() -> None:
    after = assert_fires(known(WIDE + EMBED + LAYER + MEAN), PACK_TOKENS)
    shapes = [str(weight.shape) for node in after.graph if node.op_type == "MatMul" and (weight := node.inputs[1])]
    assert shapes == ["[8,16]", "[8,8]", "[8,8]"]  # q with k, v for its bias alone, the output


def test_two_layers_are_both_moved() -> None:
    second = LAYER
    for name in ("q", "k", "v0_", "v", "a", "o", "ob", "r", "y"):
        second = (
            second.replace(f"{name} =", f"{name}2 =")
            .replace(f"({name},", f"({name}2,")
            .replace(f", {name})", f", {name}2)")
        )
    second = second.replace("(q2, k, v, scores)", "(q2, k2, v2, scores)").replace("(x,", "(y,").replace(", x)", ", y)")
    body = WIDE + EMBED + LAYER + second + MEAN.replace("Mul(y,", "Mul(y2,")
    before = known(body)
    after = assert_fires(before, PACK_TOKENS)
    assert set(products(after)) == {2}
    assert [node.op_type for node in after.graph].count("NonZero") == 1
    same_under_every_mask(before, after)


def test_a_first_token_is_kept_whatever_the_mask_says() -> None:
    for head in (FIRST, "s = Slice(y, v0, v1, v1) z = Squeeze(s, at1)"):
        before = known(WIDE + EMBED + LAYER + head)
        after = assert_fires(before, PACK_TOKENS)
        assert set(products(after)) == {2}
        same_under_every_mask(before, after)


def test_a_first_token_beside_a_mean_adds_nothing_to_it() -> None:
    before = known(WIDE + EMBED + LAYER + MEAN + " t = Gather <axis = 1> (y, i0)", "float[B,8] z, float[B,8] t")
    same_under_every_mask(before, assert_fires(before, PACK_TOKENS))


def test_a_causal_mask_hides_what_is_not_kept() -> None:
    before = known(CAUSAL + EMBED + LAYER + MEAN)
    same_under_every_mask(before, assert_fires(before, PACK_TOKENS))


WINDOW = CAUSAL.replace(
    "both = And(keys, seen)", "near = Greater(places, before) some = And(seen, near) both = And(keys, some)"
)


def test_a_causal_mask_may_have_a_window() -> None:
    before = known(WINDOW.replace("near =", "before = Sub(rows, i1) near =") + EMBED + LAYER + MEAN)
    same_under_every_mask(before, assert_fires(before, PACK_TOKENS))


def test_a_bias_by_distance_hides_nothing_and_shows_everything() -> None:
    bias = (
        "count = Squeeze(n) places = Range(i0, count, i1) rows = Unsqueeze(places, at1) away0 = Sub(places, rows) "
        "away = Abs(away0) by_distance = Gather(table, away) part = Slice(by_distance, v0, v1, at2) "
        "flat = Squeeze(part, at2) total = Add(scores, flat) "
    )
    before = known(WIDE + bias + EMBED + LAYER.replace("k, v, scores)", "k, v, total)") + MEAN)
    after = assert_fires(before, PACK_TOKENS)
    assert set(products(after)) == {2}
    same_under_every_mask(before, after)


def test_positions_are_gathered_for_kept_tokens() -> None:
    body = WIDE + (
        "n0 = Squeeze(n) at = Range(i0, n0, i1) pos = Gather(table, at) pos1 = Unsqueeze(pos, v0) "
        "e = Gather(table, ids) e1 = Add(e, pos1) x = Add(e1, pos) "
    )
    before = known(body + LAYER + MEAN)
    after = assert_fires(before, PACK_TOKENS)
    sums = [node.outputs[0].shape for node in after.graph if node.op_type == "Add"]
    assert {shape.rank() for shape in sums if shape is not None} == {2}
    same_under_every_mask(before, after)


def test_heads_apart_stay_as_they_are() -> None:
    body = WIDE + EMBED + LAYER + MEAN
    shape = "four = Constant <value = int64[4] {0, 0, 2, 4}> () three = Constant <value = int64[3] {0, 0, 8}> () "
    for name in "qkv":
        at = f"{name}s = Reshape({name}, four) {name}t = Transpose <perm = [0, 2, 1, 3]> ({name}s) "
        body = body.replace("a = Attention", at + "a = Attention")
    body = body.replace("<q_num_heads = 2, kv_num_heads = 2> (q, k, v, scores)", "(qt, kt, vt, scores)")
    body = body.replace(
        "o = MatMul(a, wo)", "at_ = Transpose <perm = [0, 2, 1, 3]> (a) ar = Reshape(at_, three) o = MatMul(ar, wo)"
    )
    before = known(shape + body)
    after = assert_fires(before, PACK_TOKENS)
    assert set(products(after)) == {2}
    same_under_every_mask(before, after)


def test_one_axis_for_rows_and_positions_is_followed() -> None:
    flat = (
        "rows8 = Constant <value = int64[2] {-1, 8}> () back = Shape(x) flat = Reshape(a, rows8) "
        "of = Gemm(flat, wo, b) ob = Reshape(of, back) "
    )
    before = known(WIDE + EMBED + LAYER.replace("o = MatMul(a, wo) ob = Add(o, b) ", flat) + MEAN)
    after = assert_fires(before, PACK_TOKENS)
    assert set(products(after)) == {2}
    same_under_every_mask(before, after)


def test_a_split_of_one_product_is_read_from_it() -> None:
    wide = "w3 = Concat <axis = 1> (wq, wk, wv) "
    body = LAYER.replace(
        "q = MatMul(x, wq) k = MatMul(x, wk) v0_ = MatMul(x, wv) v = Add(v0_, b)",
        "p3 = MatMul(x, w3) q, k, v = Split <axis = -1, num_outputs = 3> (p3)",
    )
    before = known(wide + WIDE + EMBED + body + MEAN)
    after = assert_fires(before, PACK_TOKENS)
    assert "Split" not in [node.op_type for node in after.graph]
    same_under_every_mask(before, after)


def test_a_shape_that_is_read_costs_no_values() -> None:
    body = LAYER + "s = Shape(y) s1 = Shape <start = 1> (y) d = Cast <to = 1> (s) d1 = Cast <to = 1> (s1) "
    before = known(WIDE + EMBED + body + MEAN, "float[B,8] z, float[3] d, float[2] d1")
    same_under_every_mask(before, assert_fires(before, PACK_TOKENS))


def test_an_output_in_the_middle_keeps_what_is_before_it() -> None:
    second = "h = MatMul(y, wo) y2 = Gelu(h) " + MEAN.replace("Mul(y,", "Mul(y2,")
    before = known(WIDE + EMBED + LAYER + second, "float[B,8] z, float[B,S,8] y")
    after = assert_fires(before, PACK_TOKENS)
    assert sorted(products(after), key=str) == [2, 3, 3, 3, 3]
    same_under_every_mask(before, after)


def unranked() -> ir.Model:
    before = known(WIDE + EMBED + LAYER + MEAN)
    next(node for node in before.graph if node.op_type == "Where").outputs[0].shape = None
    return before


TURNED = (
    "n9 = Shape <start = 1, end = 2> (mask) count9 = Squeeze(n9) forth = Range(i0, count9, i1) "
    "back1 = Sub(count9, forth) back = Sub(back1, i1) turned = Gather <axis = 1> (mask, back) "
) + WIDE.replace("Cast <to = 9> (mask)", "Cast <to = 9> (turned)")

TAIL = EMBED + LAYER + MEAN
REFUSED = {
    "an output": (Reason.GRAPH_OUTPUT, known(WIDE + EMBED + LAYER, "float[B,S,8] y")),
    "a maximum over positions": (
        Reason.STRUCTURE,
        known(WIDE + EMBED + LAYER + "z = ReduceMax <keepdims = 0> (y, at1)"),
    ),
    "the second token": (Reason.STRUCTURE, known(WIDE + EMBED + LAYER + FIRST.replace("i0", "i1"))),
    "the first token, causal": (Reason.STRUCTURE, known(CAUSAL + EMBED + LAYER + FIRST)),
    "one position": (Reason.SHAPE, known(WIDE + TAIL, mask="int64[B,1] mask", ids="int64[B,1] ids")),
    "a mask of no known size": (
        Reason.UNKNOWN,
        model(text(BOTH + TAIL, mask="int64[B,?] mask", ids="int64[B,?] ids")),
    ),
    "no mask": (Reason.STRUCTURE, known(KEYS + TAIL.replace(", scores)", ")"))),
    "a mask of queries": (
        Reason.STRUCTURE,
        known(WIDE.replace("Expand(keys", "Expand(queries").replace("n = Shape", QUERIES + "n = Shape") + TAIL),
    ),
    "hidden tokens shown": (Reason.STRUCTURE, known(WIDE.replace("zero, low", "low, zero") + TAIL)),
    "a mask from elsewhere": (Reason.STRUCTURE, known(KEYS + TAIL, extra=", float[B,1,S,S] scores")),
    "a mask that is turned": (Reason.STRUCTURE, known(TURNED + TAIL)),
    "a mask that may hide the token itself": (
        Reason.STRUCTURE,
        known(CAUSAL.replace("LessOrEqual", "Less") + TAIL),
    ),
    "a window that hides the token itself": (
        Reason.STRUCTURE,
        known(WINDOW.replace("near =", "before = Add(rows, i0) near =") + TAIL),
    ),
    "ten thousand": (Reason.CONSTANT, known(WIDE.replace("low)", "less)") + TAIL)),
    "a bias that may mask": (
        Reason.STRUCTURE,
        known(WIDE + "total = Add(scores, bias) " + TAIL.replace("v, scores)", "v, total)"), extra=", float[S,S] bias"),
    ),
    "no number that masks": (Reason.CONSTANT, known(WIDE.replace("zero, low", "zero, one") + TAIL)),
    "a cap": (Reason.ATTRIBUTE, known(WIDE + TAIL.replace("<q_num", "<softcap = 2.0, q_num"))),
    "a mask of another length": (Reason.SHAPE, known(KEYS + TAIL, extra=", float[B,1,S,T] scores")),
    "a mask of no known rank": (Reason.UNKNOWN, unranked()),
}


def refuses(before: ir.Model, reason: Reason) -> None:
    """Assert that nothing changes, for this reason. STRUCTURE is one of them, not "nothing matched" as for rules."""
    outcome = apply(before, PACK_TOKENS)
    assert not outcome.applied
    assert reason in outcome.reasons, outcome.refusals
    assert not difference(outcome.model, before)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str) -> None:
    refuses(REFUSED[name][1], REFUSED[name][0])


def test_attention_that_is_not_proved_to_follow_the_mask_keeps_what_it_reads() -> None:
    """Behind it, tokens may be left out as soon as other attention proves which."""
    second = "a1 = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x) x1 = MatMul(a1, wo) "
    before = known(WIDE + EMBED + second + LAYER.replace("(x,", "(x1,").replace(", x)", ", x1)") + MEAN)
    outcome = apply(before, PACK_TOKENS, regions=True)
    assert outcome.applied and Reason.STRUCTURE in outcome.reasons
    assert set(products(outcome.model)) == {2}
    same_under_every_mask(before, outcome.model)


def test_a_product_with_other_rows_of_the_mask_hides_nothing() -> None:
    """[B,1,S] on [B,S,S]: by size the mask would fit, by axis it weighs columns."""
    body = (
        WIDE
        + EMBED
        + LAYER
        + "yt = Transpose <perm = [0, 2, 1]> (y) u = MatMul(y, yt) f = Cast <to = 1> (mask) c = Unsqueeze(f, at1) "
        + "p = Mul(u, c) z = ReduceSum <keepdims = 0> (p, at1)"
    )
    refuses(known(body, "float[B,S] z"), Reason.STRUCTURE)


def test_a_model_without_attention_is_left() -> None:
    assert not apply(known(EMBED + "y = MatMul(x, wq) " + MEAN), PACK_TOKENS).applied


def test_numbers_that_are_not_finite_stay_in_their_row() -> None:
    """A kept token that is infinite must not reach the other rows through what stands in hidden places."""
    before = known(WIDE + EMBED + LAYER + MEAN)
    after = assert_fires(before, PACK_TOKENS)
    table = before.graph.initializers["table"].const_value
    assert table is not None
    for each in (before, after):
        spoiled = table.numpy().copy()
        spoiled[8] = np.inf
        each.graph.initializers["table"].const_value = ir.tensor(spoiled)
    mask = np.asarray([[1, 1, 0, 0], [1, 0, 0, 0]])
    inputs = {"ids": np.asarray([[8, 1, 2, 3], [4, 5, 6, 7]]), "mask": mask}
    due, found = evaluate(before, inputs)["z"], evaluate(after, inputs)["z"]
    assert np.isnan(due[0]).all() and np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], due[1], atol=1e-5)
