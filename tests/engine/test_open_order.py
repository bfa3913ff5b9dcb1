"""No order among what an unsorted TopK gives is a difference; what goes with what is one."""

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.open_order import OpenOrder, has_unsorted, in_order, open_orders, with_sorted
from graphwright.engine.ties import compare_with_source
from graphwright.engine.verification import Evaluator
from graphwright.errors import VerificationError

HEAD = '<ir_version: 10, opset_import: ["": 20]> g '
ROUTER = """(float[B, 5] x) => (float[B, 2] w, int64[B, 2] i, float[B] t)
    <int64[1] k = {2}, int64[1] last = {-1}, float c = {2.5}> {
    s = Sigmoid(x) v, i = TopK <sorted = 0> (x, k) g = GatherElements <axis = 1> (s, i)
    u = ReduceSum(g, last) d = Div(g, u) w = Mul(d, c) t = ReduceSum <keepdims = 0> (v, last) }"""


def model_of(text: str = ROUTER) -> ir.Model:
    return ir.from_onnx_text(HEAD + text)


def outputs(w: list[float], i: list[int], t: float = 3.0) -> dict[str, np.ndarray]:
    return {"w": np.float32([w]), "i": np.array([i]), "t": np.float32([t])}


def differences(due: dict[str, np.ndarray], found: dict[str, np.ndarray], evaluate: Evaluator) -> list[str]:
    x = {"x": np.float32([[1, 0, 2, -1, -2]])}
    return [each.output for each in compare_with_source(model_of(), x, due, found, evaluate)]


def test_indices_and_what_was_taken_by_them_lie_in_one_order() -> None:
    assert open_orders(model_of()) == [OpenOrder(("i", "w"), -1)]
    assert open_orders(model_of(ROUTER.replace("sorted = 0", "sorted = 1"))) == []
    assert open_orders(model_of(ROUTER.replace("w = Mul(d, c)", "w = CumSum(d, c1)"))) == [OpenOrder(("i",), -1)]


@pytest.mark.parametrize(
    ("found", "different"),
    [
        (outputs([0.75, 0.25], [2, 0]), []),
        (outputs([0.25, 0.75], [0, 2]), []),
        (outputs([0.75, 0.25], [0, 2]), ["w"]),  # the weights of the others
        (outputs([0.75, 0.25], [2, 1]), ["i"]),
        (outputs([0.25, 0.75], [0, 2], 4.0), ["t"]),  # a sum has no order
        (outputs([0.25, 0.5], [0, 2]), ["w"]),
    ],
)
def test_another_order_is_no_difference_but_other_pairs_are(
    found: dict[str, np.ndarray], different: list[str], evaluate: Evaluator
) -> None:
    assert differences(outputs([0.75, 0.25], [2, 0]), found, evaluate) == different


def test_weights_without_indices_are_sorted_by_themselves() -> None:
    weights = {"w": np.float32([[3, 1, 2]])}
    assert in_order([OpenOrder(("w",), -1)], weights)["w"].tolist() == [[1, 2, 3]]
    assert in_order([OpenOrder(("w",), 7)], weights) == weights


def test_an_open_order_becomes_the_sorted_one(evaluate: Evaluator) -> None:
    given = model_of()
    assert has_unsorted(given) and not has_unsorted(with_sorted(given))
    assert has_unsorted(given), "the model itself was changed"
    fixed = with_sorted(given)
    assert with_sorted(fixed) is fixed
    x = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(fixed, {"x": x})["i"], np.argsort(-x)[:, :2])


def test_ties_that_the_source_cannot_be_asked_about_are_differences() -> None:
    def fail(model: ir.Model, inputs: object, *, double: bool = False) -> dict[str, np.ndarray]:
        raise VerificationError("source", "a model that cannot be run")

    text = "(float[B, 3] x) => (float[B, 1] y, int64[B, 1] i) <int64[1] k = {1}> {y, i = TopK(x, k)}"
    due, found = ({"y": np.float32([[1]]), "i": np.array([[place]])} for place in (0, 1))
    assert len(compare_with_source(model_of(text), {}, due, found, fail)) == 1
