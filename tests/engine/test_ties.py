"""Indices that tie are equal, all others are not; an open order is made the sorted one."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_ir.passes.common import ShapeInferencePass

from graphwright.engine.equivalence import check_equivalence, prepare_with
from graphwright.engine.pattern import PatternOps, Var
from graphwright.engine.rewrite import Builder, Rule, Run, apply_rule
from graphwright.engine.ties import Ranking, compare_choices, compare_with_source, rankings, with_data
from graphwright.engine.verification import Evaluator
from graphwright.engine.verify import RegionVerifier
from graphwright.errors import VerificationError

HEAD = '<ir_version: 10, opset_import: ["": 20]> g '
TOPK = "(float[B, 5] x) => (float[B, 2] y, int64[B, 2] i) <int64[1] k = {2}> {y, i = TopK(x, k)}"


def model_of(text: str) -> ir.Model:
    return ShapeInferencePass()(ir.from_onnx_text(HEAD + text)).model


def ranking(dtype: ir.DataType = ir.DataType.FLOAT, axis: int = -1) -> Ranking:
    return Ranking("i", ir.Value(name="x", type=ir.TensorType(dtype)), axis)


def same(data: Any, due: Any, found: Any, dtype: ir.DataType = ir.DataType.FLOAT, axis: int = -1) -> bool:
    return ranking(dtype, axis).is_same_choice(np.asarray(due), np.asarray(found), np.asarray(data))


TIED = [[0.5, 0.2, 0.2, 0.05, 0.05]]


@pytest.mark.parametrize(
    ("due", "found", "expected"),
    [
        ([[0, 1, 2]], [[0, 2, 1]], True),  # a permutation inside a run
        ([[0, 1, 2, 3]], [[0, 1, 2, 4]], True),  # another member of the run that k cuts off
        ([[0, 1]], [[0, 2]], True),
        ([[0, 1]], [[1, 0]], False),  # a permutation across runs
        ([[0, 1]], [[0, 3]], False),  # a wrong index
        ([[0, 1]], [[1, 2]], False),  # off by one
        ([[0, 1]], [[0, 0]], False),
        ([[0, 1, 2]], [[0, 1, 1]], False),  # the same one twice
        ([[0, 1]], [[0, 5]], False),  # out of range
        ([[0, 1]], [[0, -3]], False),
        ([[0, 1]], [[0]], False),
    ],
)
def test_only_members_of_one_run_may_be_exchanged(due: Any, found: Any, expected: bool) -> None:
    assert same(TIED, due, found) is expected


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_the_axis_decides(axis: int) -> None:
    data = np.array([[3.0, 1, 2], [3, 3, 1], [1, 2, 1]])
    along = np.argsort(-data, axis=axis, kind="stable").take([0, 1], axis)
    assert same(data, along, along, axis=axis)
    across = np.argsort(-data.T, axis=axis, kind="stable").take([0, 1], axis)
    assert not same(data, along, across, axis=axis)


@pytest.mark.parametrize(
    ("dtype", "two_ulp"),
    [
        (ir.DataType.FLOAT, 2.0**-22),
        (ir.DataType.FLOAT16, 2.0**-9),
        (ir.DataType.BFLOAT16, 2.0**-6),
        (ir.DataType.DOUBLE, 2.0**-51),
    ],
)
@pytest.mark.parametrize("size", [1.0, -8.0, 2.0**-10])
def test_two_units_in_the_last_place_are_a_tie_and_three_are_not(
    dtype: ir.DataType, two_ulp: float, size: float
) -> None:
    below = size - abs(size) * two_ulp / 2  # half of it: below a power of two the units are half as large
    assert same([[size, below]], [[0, 1]], [[1, 0]], dtype)
    apart = size + abs(size) * two_ulp * 1.5
    assert not same([[apart, size]], [[0, 1]], [[1, 0]], dtype)


def test_numbers_that_vanish_tie_and_infinities_with_their_own_kind() -> None:
    assert same([[1.0, 1e-60, 1e-50]], [[0, 2]], [[0, 1]])
    assert not same([[1.0, 1e-30, 1e-50]], [[0, 1]], [[0, 2]])
    assert same([[-np.inf, -np.inf, 1.0]], [[2, 0]], [[2, 1]])
    assert not same([[-np.inf, 0.0, 1.0]], [[2, 1]], [[2, 0]])
    assert same([[np.nan, np.nan]], [[0]], [[1]])
    assert not same([[np.nan, 1.0]], [[0]], [[1]])
    assert not same(np.zeros((0, 5)), np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int32))


def test_integers_tie_only_where_equal() -> None:
    assert same(np.array([[7, 7, 6]]), [[0, 1]], [[1, 0]], ir.DataType.INT64)
    assert not same(np.array([[7, 6, 6]]), [[0]], [[1]], ir.DataType.INT64)


@given(seed=st.integers(0, 999), axis=st.sampled_from([0, 1, 2]), steps=st.sampled_from([2, 5, 1000]))
def test_a_choice_is_right_exactly_if_it_has_the_right_values(seed: int, axis: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, steps, (4, 5, 6)).astype(np.float32)
    due = np.argsort(-data, axis=axis, kind="stable").take([0, 1, 2], axis)
    found = due.copy()
    place = tuple(int(rng.integers(size)) for size in due.shape)
    found[place] = rng.integers(0, data.shape[axis])
    values = [np.take_along_axis(data, each, axis) for each in (due, found)]
    distinct = all(len(set(row)) == 3 for row in np.moveaxis(found, axis, -1).reshape(-1, 3).tolist())
    assert same(data, due, found, axis=axis) == (np.array_equal(*values) and distinct)


def test_rankings_are_found_through_what_keeps_their_order() -> None:
    text = """(float[B, 5] x) => (int32[B2] a, int64[B] b, int64[B, 2] c, float[B, 2] d, int64[2, B] e)
        <int64[1] k = {2}, int64[1] flat = {-1}> {
        y, i = TopK <axis = 1> (x, k) j = Reshape(i, flat) a = Cast <to = 6> (j)
        b = ArgMax <axis = 1, keepdims = 0> (x) c = Neg(i) d = Identity(y) e = Transpose(i) }"""
    found = rankings(model_of(text))
    assert [(each.output, each.data.name, each.axis) for each in found] == [("a", "x", 1), ("b", "x", 1)]


def test_what_was_ranked_is_an_output_more(evaluate: Evaluator) -> None:
    text = "(float[B, 5] x) => (int64[B, 2] i) <int64[1] k = {2}> {e = Exp(x) y, i = TopK(e, k)}"
    x = np.float32([[1, 2, 3, 2, 1]])
    before = model_of(text)
    found = evaluate(with_data(before), {"x": x})
    np.testing.assert_allclose(found["i/ranked"], np.exp(x), rtol=1e-6)
    assert found["i"].tolist() == [[2, 1]]
    assert [value.name for value in before.graph.outputs] == ["i"], "the model itself was changed"


def test_data_is_asked_for_only_where_indices_differ() -> None:
    ranked = [ranking()]
    due, other = {"i": np.array([[0, 1]])}, {"i": np.array([[0, 2]])}

    def fail() -> dict[str, np.ndarray]:
        raise AssertionError("data was asked for")

    assert compare_choices(due, due, ranked, fail) == []
    assert len(compare_choices({"z": np.array([1])}, {"z": np.array([2])}, ranked, fail)) == 1
    assert compare_choices(due, other, ranked, lambda: {"i/ranked": np.array(TIED)}) == []
    assert len(compare_choices(due, other, ranked, lambda: {"i/ranked": np.array([[3.0, 2, 1]])})) == 1
    assert len(compare_choices(due, other, ranked, dict)) == 1, "without data nothing ties"
    assert len(compare_choices(due, {"i": np.array([[0]])}, ranked, lambda: {"i/ranked": np.array(TIED)})) == 1


# Four rounded values, so that many tie, and ranks that a rewrite takes from before the rounding.
ROUNDED = "(float[B, 30] x) => (float[B, 3] y, int64[B, 3] i) <int64[1] k = {3}> {r = Round(x) y, i = TopK(r, k)}"


def rounded_choice(op: PatternOps, x: Var, k: Var) -> Any:
    return op.TopK(op.Round(x), k, _outputs=2)


def rewritten(change: Any) -> Rule:
    def choice(op: Builder, x: ir.Value, k: ir.Value) -> Any:
        _, places = op.TopK(x, k, _outputs=2)
        return op.Round(op.GatherElements(x, places, axis=-1)), change(op, places)

    return Rule("rank-before-rounding", (rounded_choice,), choice)


def test_a_rewrite_that_ranks_what_is_behind_the_rounding_is_right(evaluate: Evaluator) -> None:
    verifier = RegionVerifier(evaluate)
    run = Run(model_of(ROUNDED), [verifier])
    assert apply_rule(rewritten(lambda op, places: places), run) == 1
    assert verifier.verification.passed


@pytest.mark.parametrize(
    "change",
    [
        lambda op, places: op.Add(places, 1),
        lambda op, places: op.Sub(places, 1),
        lambda op, places: op.Mul(places, 0),
        lambda op, places: op.Sub(29, places),
        lambda op, places: op.Max(places, 15),
    ],
)
def test_a_rewrite_whose_indices_are_wrong_is_caught(change: Any, evaluate: Evaluator) -> None:
    with pytest.raises(VerificationError, match="rank-before-rounding"):
        apply_rule(rewritten(change), Run(model_of(ROUNDED), [RegionVerifier(evaluate)]))


def test_a_rewrite_that_ranks_along_another_axis_is_caught(evaluate: Evaluator) -> None:
    square = "(float[7, 7] x) => (float[7, 7] y, int64[7, 7] i) <int64[1] k = {7}> {r = Abs(x) y, i = TopK(r, k)}"
    other = square.replace("TopK", "TopK <axis = 0>")
    fault = check_equivalence(model_of(square), model_of(other), prepare_with(evaluate)).fault
    assert fault is not None


def test_two_open_orders_are_compared_as_sorted(evaluate: Evaluator) -> None:
    open_order, fixed = model_of(TOPK.replace("TopK", "TopK <sorted = 0>")), model_of(TOPK)
    for pair in ((open_order, fixed), (fixed, open_order), (open_order, open_order.clone())):
        outcome = check_equivalence(*pair, prepare_with(evaluate))
        assert outcome.fault is None and outcome.points


def test_bfloat16_data_is_compared_as_numbers() -> None:
    data = np.array([[1.0, 1.0078125, 2.0]], ml_dtypes.bfloat16)
    assert same(data, [[2, 1]], [[2, 0]], ir.DataType.BFLOAT16)
    assert not same(data, [[2, 1]], [[1, 2]], ir.DataType.BFLOAT16)


def test_a_source_is_asked_for_what_it_ranked(evaluate: Evaluator) -> None:
    source = model_of(ROUNDED)
    x = {"x": np.float32([[0.9, 1.1, 0.2, *[0] * 27]])}
    due = {"y": np.float32([[1, 1, 0]]), "i": np.array([[0, 1, 2]])}
    assert compare_with_source(source, x, due, due | {"i": np.array([[1, 0, 9]])}, evaluate) == []
    (found,) = compare_with_source(source, x, due, due | {"i": np.array([[1, 2, 0]])}, evaluate)
    assert found.output == "i"
