"""clean-up: merges equal constants and then equal nodes, in one pass."""

import numpy as np
import onnx_ir as ir

from graphwright.passes.lower.clean_up import CLEAN_UP
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, model

TWICE = """<ir_version: 10, opset_import: ["" : 24]>
g (float[N, 4] x) => (float[N, 4] y) <float[1] a = {2.0}, float[1] b = {2.0}> {
    p = Mul(x, a) q = Mul(x, b) r = Neg(p) s = Neg(q) y = Add(r, s)
}"""


def operators(given: ir.Model) -> list[str]:
    return [node.op_type for node in given.graph]


def test_equal_constants_make_equal_nodes_one() -> None:
    before = model(TWICE)
    outcome = apply(before, CLEAN_UP)
    assert operators(outcome.model) == ["Mul", "Neg", "Add"]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(evaluate(outcome.model, {"x": x})["y"], -4 * x)


def test_different_constants_stay_apart() -> None:
    outcome = apply(model(TWICE.replace("b = {2.0}", "b = {2.5}")), CLEAN_UP)
    assert outcome.applied == 0 and len(outcome.model.graph) == 5


def test_an_overridable_constant_is_no_constant() -> None:
    text = TWICE.replace("(float[N, 4] x)", "(float[N, 4] x, float[1] b)")
    assert apply(model(text), CLEAN_UP).applied == 0


def test_a_second_run_finds_nothing() -> None:
    once = apply(model(TWICE), CLEAN_UP).model
    assert apply(once, CLEAN_UP).applied == 0
