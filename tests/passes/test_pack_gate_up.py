"""The two projections of a gated unit become one product."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Observer, Reason
from graphwright.engine.rewrite import Run, apply_rule
from graphwright.passes.transform.pack_gate_up import PACK_GATE_UP
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => (float[B,S,6] y)'
WEIGHTS = "float[4,6] wg, float[4,6] wu, float[6] bg, float[6] bu"
PLAIN = "g0 = MatMul(x, wg) u = MatMul(x, wu) a = Swish(g0) y = Mul(a, u)"
BIASED = """p = MatMul(x, wg) g0 = Add(p, bg) r = MatMul(x, wu) u = Add(r, bu)
    a = Gelu <approximate = "tanh"> (g0) y = Mul(a, u)"""
EXAMPLES = {"swiglu": f"{HEAD} <{WEIGHTS}> {{ {PLAIN} }}", "geglu": f"{HEAD} <{WEIGHTS}> {{ {BIASED} }}"}


def unit(body: str = PLAIN, *, head: str = HEAD, consts: str = WEIGHTS) -> ir.Model:
    return model(f"{head} <{consts}> {{ {body} }}")


def operators(given: ir.Model) -> list[str]:
    return [node.op_type for node in given.graph]


def test_packs_gate_and_up() -> None:
    before = unit()
    after = assert_fires(before, PACK_GATE_UP)
    assert operators(after) == ["MatMul", "Split", "Swish", "Mul"]
    weights = {name: value.const_value.numpy() for name, value in before.graph.initializers.items()}
    packed = after.graph.initializers["pack-gate-up/packed_weight"].const_value
    np.testing.assert_array_equal(packed.numpy(), np.concatenate([weights["wg"], weights["wu"]], 1))
    assert_equivalent(before, after)


def test_packs_biases_too() -> None:
    before = unit(BIASED)
    after = assert_fires(before, PACK_GATE_UP)
    assert operators(after) == ["MatMul", "Add", "Split", "Gelu", "Mul"]
    assert_equivalent(before, after)


def test_a_bias_that_one_lacks_is_zeros() -> None:
    before = unit(BIASED.replace("u = Add(r, bu)", "").replace("r = ", "u = "))
    after = assert_fires(before, PACK_GATE_UP)
    assert operators(after) == ["MatMul", "Add", "Split", "Gelu", "Mul"]
    assert_equivalent(before, after)


@pytest.mark.parametrize("activation", ["Swish", "Gelu", "Sigmoid", "Relu", "Tanh", "HardSwish", "Elu"])
def test_the_activation_may_be_any(activation: str) -> None:
    before = unit(PLAIN.replace("Swish", activation))
    assert_equivalent(before, assert_fires(before, PACK_GATE_UP))


def test_the_activation_may_be_a_product_with_the_sigmoid() -> None:
    for silu in ("s = Sigmoid(g0) a = Mul(g0, s)", "s = Sigmoid(g0) a = Mul(s, g0)"):
        before = unit(PLAIN.replace("a = Swish(g0)", silu))
        assert_equivalent(before, assert_fires(before, PACK_GATE_UP))


@pytest.mark.parametrize(("old", "new"), [("Mul(a, u)", "Mul(u, a)"), ("a = Swish(g0)", "a = Swish(g0) h = Neg(x)")])
def test_either_operand_order(old: str, new: str) -> None:
    before = unit(PLAIN.replace(old, new))
    assert_equivalent(before, assert_fires(before, PACK_GATE_UP))


def test_the_up_projection_may_stand_first() -> None:
    before = unit("u = MatMul(x, wu) g0 = MatMul(x, wg) a = Swish(g0) y = Mul(a, u)")
    assert_equivalent(before, assert_fires(before, PACK_GATE_UP))


def test_packs_gemms() -> None:
    head = HEAD.replace("B,S,", "N,")
    body = "g0 = Gemm(x, wg, bg) u = Gemm(x, wu, bu) a = Swish(g0) y = Mul(a, u)"
    before = unit(body, head=head)
    assert operators(assert_fires(before, PACK_GATE_UP)) == ["Gemm", "Split", "Swish", "Mul"]
    turned = unit(body.replace("Gemm(", "Gemm <transB = 1> ("), head=head, consts=WEIGHTS.replace("4,6", "6,4"))
    after = assert_fires(turned, PACK_GATE_UP)
    assert operators(after) == ["Gemm", "Split", "Swish", "Mul"]
    assert_equivalent(turned, after)


def test_two_units_are_packed() -> None:
    second = "g1 = MatMul(t, wg) u1 = MatMul(t, wu) a1 = Relu(g1) y = Mul(a1, u1)"
    body = f"{PLAIN.replace('y = ', 'm = ')} t = MatMul(m, wd) {second}"
    before = unit(body, consts=f"{WEIGHTS}, float[6,4] wd")
    assert_equivalent(before, assert_fires(before, PACK_GATE_UP, 2))


def test_two_units_of_one_input_are_packed_apart() -> None:
    """As the experts of a mixture are."""
    second = "g1 = MatMul(x, w1) u1 = MatMul(x, w2) a1 = Swish(g1) m1 = Mul(a1, u1)"
    body = f"{PLAIN.replace('y = ', 'm = ')} {second} y = Add(m, m1)"
    before = unit(body, consts=f"{WEIGHTS}, float[4,6] w1, float[4,6] w2")
    assert_equivalent(before, assert_fires(before, PACK_GATE_UP, 2))


def test_what_is_added_to_a_residual_is_no_gate() -> None:
    head = HEAD.replace("x)", "x, float[B,S,6] r0)")
    before = unit(BIASED.replace("Add(r, bu)", "Add(r, r0)"), head=head)
    assert_refuses(before, PACK_GATE_UP, Reason.STRUCTURE)


class Halt(Observer):
    """Lets no application through."""

    def should_apply(self, number: int) -> bool:
        return False


def refused_for(before: ir.Model) -> set[Reason]:
    """Return the reasons of the refusals before the match that would be taken."""
    run = Run(before.clone(), [Halt()])
    apply_rule(PACK_GATE_UP, run)
    return {each.reason for each in run.refusals}


@pytest.mark.parametrize(("bias", "reason"), [("float[1] bg", Reason.SHAPE), ("float[1,6] bg", Reason.RANK)])
def test_a_bias_of_another_shape_stays_behind_the_split(bias: str, reason: Reason) -> None:
    before = unit(BIASED, consts=WEIGHTS.replace("float[6] bg", bias))
    assert reason in refused_for(before)
    after = assert_fires(before, PACK_GATE_UP)
    assert operators(after).index("Split") == 2  # the bias of the other stays before it
    assert_equivalent(before, after)


def test_refuses_weights_that_are_no_matrices() -> None:
    before = unit(consts="float[1,4,6] wg, float[1,4,6] wu")
    assert_refuses(before, PACK_GATE_UP, Reason.RANK)


def test_refuses_weights_of_which_one_is_transposed() -> None:
    body = "g0 = Gemm(x, wg, bg) u = Gemm <transB = 1> (x, wu, bu) a = Swish(g0) y = Mul(a, u)"
    before = unit(body, head=HEAD.replace("B,S,", "N,"), consts=WEIGHTS.replace("float[4,6] wu", "float[6,4] wu"))
    assert_refuses(before, PACK_GATE_UP, Reason.ATTRIBUTE)


def test_refuses_a_bias_that_is_added_beside_and_packs_the_products() -> None:
    body = "g0 = MatMul(x, wg) u = MatMul(x, wu) a = Swish(g0) m = Mul(a, u) s = Add(g0, bg) y = Sub(m, s)"
    before = unit(body)
    assert Reason.SHARED in refused_for(before)
    assert_equivalent(before, assert_fires(before, PACK_GATE_UP))
    before = unit(body, head=HEAD.replace("=> (", "=> (float[B,S,6] g0, "))
    assert Reason.GRAPH_OUTPUT in refused_for(before)
    assert_equivalent(before, assert_fires(before, PACK_GATE_UP))


def test_refuses_an_older_opset() -> None:
    before = unit(PLAIN.replace("Swish", "Sigmoid"))
    before.graph.opset_imports[""] = 12
    assert_refuses(before, PACK_GATE_UP, Reason.OPSET)


NEAR_MISSES = {
    "no activation": "g0 = MatMul(x, wg) u = MatMul(x, wu) a = Neg(g0) y = Mul(a, u)",
    "a sum": PLAIN.replace("Mul(a, u)", "Add(a, u)"),
    "with itself": "g0 = MatMul(x, wg) u = MatMul(x, wu) a = Swish(g0) m = Mul(a, g0) y = Add(m, u)",
    "behind another step": PLAIN.replace("Mul(a, u)", "Mul(a, n)").replace("a = ", "n = Neg(u) a = "),
}


@pytest.mark.parametrize("body", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_misses_stay(body: str) -> None:
    assert_refuses(unit(body), PACK_GATE_UP, Reason.STRUCTURE)


def test_projections_of_other_inputs_stay() -> None:
    before = unit(PLAIN.replace("MatMul(x, wu)", "MatMul(x2, wu)"), head=HEAD.replace("x)", "x, float[B,S,4] x2)"))
    assert_refuses(before, PACK_GATE_UP, Reason.STRUCTURE)


def test_a_weight_that_callers_may_replace_is_no_projection() -> None:
    before = unit()
    before.graph.inputs.append(before.graph.initializers["wu"])
    assert_refuses(before, PACK_GATE_UP, Reason.STRUCTURE)


def test_equal_sizes_everywhere() -> None:
    head = '<ir_version: 10, opset_import: ["": 24]> g (float[4,4,4] x) => (float[4,4,4] y)'
    before = unit(head=head, consts="float[4,4] wg, float[4,4] wu")
    assert_equivalent(before, assert_fires(before, PACK_GATE_UP))


@given(b=st.sampled_from([1, 2, 7]), s=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(b: int, s: int, seed: int) -> None:
    before = unit(BIASED)
    assert_equivalent(before, apply(before, PACK_GATE_UP).model, sizes={"B": b, "S": s}, seed=seed)
