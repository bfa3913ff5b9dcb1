"""spell-residual-as-sum: fires on residual sums before a norm, and keeps everything else."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lower.spell_residual_as_sum import SPELL_RESIDUAL_AS_SUM as RULE
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["" : 21]> g (float[B, S, 4] x, float[B, S, 4] r) => (float[B, S, 4] y)'
WEIGHTS = "<float[4] g = {1, 2, 0.5, -1}, float[4] h = {0, 1, 2, 3}>"
NORM = "LayerNormalization <axis = -1, epsilon = 1e-6> (t, g, h)"


def layer(body: str, head: str = HEAD, weights: str = WEIGHTS) -> ir.Model:
    return model(f"{head} {weights} {{ {body} }}")


def operators(found: ir.Model) -> list[str]:
    return [node.op_type for node in found.graph]


@pytest.mark.parametrize("operands", ["x, r", "r, x"])
def test_a_residual_sum_before_a_norm_is_spelled_as_sum(operands: str) -> None:
    after = assert_fires(layer(f"t = Add({operands}) y = {NORM}"), RULE)
    assert operators(after) == ["Sum", "LayerNormalization"]
    assert after.graph[1].attributes["epsilon"].as_float() == pytest.approx(1e-6)


def test_a_norm_without_shift_is_taken_too() -> None:
    before = layer("t = Add(x, r) y = LayerNormalization (t, g)", weights="<float[4] g = {1, 2, 0.5, -1}>")
    assert operators(assert_fires(before, RULE)) == ["Sum", "LayerNormalization"]


def test_a_sum_with_other_users_is_replaced_for_all_of_them() -> None:
    after = assert_fires(layer(f"t = Add(x, r) n = {NORM} y = Mul(n, t)"), RULE)
    assert sorted(operators(after)) == ["LayerNormalization", "Mul", "Sum"]


def test_two_layers_give_two_applications() -> None:
    body = f"t = Add(x, r) n = {NORM} u = Add(n, r) y = LayerNormalization <axis = -1> (u, g, h)"
    assert operators(assert_fires(layer(body), RULE, times=2)).count("Sum") == 2


def test_sums_before_anything_else_stay() -> None:
    assert apply(layer("t = Add(x, r) y = Relu(t)"), RULE).applied == 0


def test_refuses_a_bias() -> None:
    before = layer(f"t = Add(x, b) y = {NORM}", weights=WEIGHTS.replace("<", "<float[4] b = {1, 1, 1, 1}, ", 1))
    assert_refuses(before, RULE, Reason.SHAPE)


def test_refuses_shapes_that_are_not_known_to_be_equal() -> None:
    assert_refuses(layer(f"t = Add(x, r) y = {NORM}", HEAD.replace("[B, S, 4] r", "[B, T, 4] r")), RULE, Reason.UNKNOWN)
    assert_refuses(layer(f"t = Add(x, r) y = {NORM}", HEAD.replace("[B, S, 4] r", "[B, 1, 4] r")), RULE, Reason.UNKNOWN)


@given(batch=st.sampled_from([1, 2, 3]), length=st.sampled_from([1, 2, 7]), seed=st.integers(0, 9))
def test_the_numbers_stay(batch: int, length: int, seed: int) -> None:
    before = layer(f"t = Add(x, r) n = {NORM} y = Mul(n, t)")
    after = assert_fires(before, RULE)
    assert_equivalent(before, after, sizes={"B": batch, "S": length}, seed=seed)


def test_a_second_run_finds_nothing() -> None:
    once = apply(layer(f"t = Add(x, r) y = {NORM}"), RULE).model
    assert apply(once, RULE).applied == 0
