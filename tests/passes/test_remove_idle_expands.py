"""An Expand whose work broadcasting does anyway goes."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.transform.remove_idle_expands import REMOVE_IDLE_EXPANDS
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g (float[1,T] x, float[B,T] other) => (float[B,T] y)'
SUM = f"{HEAD} {{ sizes = Shape(other) e = Expand(x, sizes) y = Add(e, other) }}"
EXAMPLES = {"sum": SUM}


def operators(given: ir.Model) -> list[str]:
    return [node.op_type for node in given.graph]


def test_a_sum() -> None:
    before = model(SUM)
    after = assert_fires(before, REMOVE_IDLE_EXPANDS)
    assert operators(after) == ["Add"]
    assert_equivalent(before, after)


@pytest.mark.parametrize("operator", ["Add", "Mul", "Max", "Min", "Sub", "Div"])
@pytest.mark.parametrize("operands", ["e, other", "other, e"])
def test_other_operators_in_either_order(operator: str, operands: str) -> None:
    before = model(SUM.replace("Add(e, other)", f"{operator}({operands})"))
    after = assert_fires(before, REMOVE_IDLE_EXPANDS)
    assert operators(after) == [operator]
    assert [value.name for value in after.graph.node(0).inputs] == operands.replace("e,", "x,").replace(
        ", e", ", x"
    ).split(", ")
    assert_equivalent(before, after)


@pytest.mark.parametrize("operator", ["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"])
def test_comparisons(operator: str) -> None:
    before = model(SUM.replace("y = Add(e, other)", f"c = {operator}(e, other) y = Where(c, other, x)"))
    assert operators(assert_fires(before, REMOVE_IDLE_EXPANDS)) == [operator, "Where"]


@pytest.mark.parametrize("operator", ["And", "Or", "Xor"])
def test_truth_values(operator: str) -> None:
    body = f"n = Greater(x, x) m = Less(other, x) sizes = Shape(other) e = Expand(n, sizes) c = {operator}(m, e)"
    before = model(f"{HEAD} {{ {body} y = Where(c, other, x) }}")
    assert operators(assert_fires(before, REMOVE_IDLE_EXPANDS)) == ["Greater", "Less", operator, "Where"]


def test_a_choice() -> None:
    for choice in ("Where(c, e, other)", "Where(c, other, e)"):
        before = model(f"{HEAD} {{ c = Less(other, x) sizes = Shape(other) e = Expand(x, sizes) y = {choice} }}")
        after = assert_fires(before, REMOVE_IDLE_EXPANDS)
        assert operators(after) == ["Less", "Where"]
        assert_equivalent(before, after)


def test_the_condition_may_have_the_sizes() -> None:
    body = "c = Less(other, x) sizes = Shape(other) e = Expand(x, sizes) half = Mul(x, x) y = Where(c, e, half)"
    before = model(f"{HEAD} {{ {body} }}")
    assert_equivalent(before, assert_fires(before, REMOVE_IDLE_EXPANDS))


def test_a_number_spread_over_a_table() -> None:
    """As T5's buckets of positions have it."""
    body = "sizes = Shape(other) e = Expand(bound, sizes) y = Min(other, e)"
    before = model(f"{HEAD} <float bound = {{0.5}}> {{ {body} }}")
    after = assert_fires(before, REMOVE_IDLE_EXPANDS)
    assert operators(after) == ["Min"]
    assert_equivalent(before, after)


def test_each_operand_has_one_of_the_sizes() -> None:
    head = HEAD.replace("float[B,T] other", "float[B,1] other, float[B,T] like")
    before = model(f"{head} {{ sizes = Shape(like) e = Expand(x, sizes) y = Add(e, other) }}")
    assert_equivalent(before, assert_fires(before, REMOVE_IDLE_EXPANDS))


def test_twice_in_a_graph() -> None:
    before = model(SUM.replace("y = Add", "a = Add").replace(" }", " b = Neg(x) f = Expand(b, sizes) y = Mul(a, f) }"))
    assert_equivalent(before, assert_fires(before, REMOVE_IDLE_EXPANDS, 2))


def test_refuses_sizes_that_nobody_else_has() -> None:
    head = HEAD.replace("float[B,T] other", "float[1,T] other, float[B,T] like")
    before = model(f"{head} {{ sizes = Shape(like) e = Expand(x, sizes) y = Add(e, other) }}")
    assert_refuses(before, REMOVE_IDLE_EXPANDS, Reason.UNKNOWN)


def test_refuses_axes_that_nobody_else_has() -> None:
    head = HEAD.replace("float[B,T] other", "float[T] other, float[B,T] like")
    before = model(f"{head} {{ sizes = Shape(like) e = Expand(x, sizes) y = Add(e, other) }}")
    assert_refuses(before, REMOVE_IDLE_EXPANDS, Reason.UNKNOWN)


def test_refuses_sizes_that_coincide_on_another_axis() -> None:
    head = (
        HEAD.replace("float[B,T] other", "float[3,1] other, float[3,3] like")
        .replace("[1,T]", "[1,1]")
        .replace("[B,T] y", "[3,3] y")
    )
    before = model(f"{head} {{ sizes = Shape(like) e = Expand(x, sizes) y = Add(e, other) }}")
    assert_refuses(before, REMOVE_IDLE_EXPANDS, Reason.UNKNOWN)


def test_refuses_unknown_ranks() -> None:
    before = model(SUM)
    before.graph.inputs[0].shape = None
    assert_refuses(before, REMOVE_IDLE_EXPANDS, Reason.UNKNOWN)


def test_each_of_several_users_takes_the_smaller_operand() -> None:
    before = model(SUM.replace("y = Add(e, other)", "a = Add(e, other) y = Sub(a, e)"))
    after = assert_fires(before, REMOVE_IDLE_EXPANDS, 2)
    assert operators(after) == ["Add", "Sub"]
    assert_equivalent(before, after)


def test_an_expand_that_somebody_else_needs_stays_for_them() -> None:
    before = model(SUM.replace("=> (", "=> (float[B,T] e, "))
    assert sorted(operators(assert_fires(before, REMOVE_IDLE_EXPANDS))) == ["Add", "Expand", "Shape"]
    before = model(SUM.replace("y = Add(e, other)", "a = Add(e, other) n = Neg(e) y = Div(a, n)"))
    assert_fires(before, REMOVE_IDLE_EXPANDS)


def test_refuses_an_older_opset() -> None:
    before = model(SUM)
    before.graph.opset_imports[""] = 12
    assert_refuses(before, REMOVE_IDLE_EXPANDS, Reason.OPSET)


@pytest.mark.parametrize("user", ["MatMul(e, turned)", "Concat <axis = 0> (e, other)"])
def test_users_that_do_not_broadcast_stay(user: str) -> None:
    out = "B,B" if "MatMul" in user else "M,T"
    body = f"sizes = Shape(other) e = Expand(x, sizes) turned = Transpose <perm = [1, 0]> (other) y = {user}"
    before = model(f"{HEAD.replace('[B,T] y', f'[{out}] y')} {{ {body} }}")
    assert_refuses(before, REMOVE_IDLE_EXPANDS, Reason.STRUCTURE)


@given(b=st.sampled_from([1, 2, 7]), t=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(b: int, t: int, seed: int) -> None:
    before = model(SUM)
    assert_equivalent(before, apply(before, REMOVE_IDLE_EXPANDS).model, sizes={"B": b, "T": t}, seed=seed)
