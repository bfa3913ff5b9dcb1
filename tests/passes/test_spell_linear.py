"""``graphwright.Linear`` comes apart into ONNX's own operators."""

from itertools import product

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.engine.shapes import infer_shapes
from graphwright.passes.lower.spell_linear import SPELL_LINEAR
from graphwright.passes.transform.fuse_linear import FUSE_LINEAR
from graphwright.plugins.linear.meaning import ACTIVATIONS, linear
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, difference, model

HEAD = '<ir_version: 10, opset_import: ["": 24, "graphwright": 1]> g (float[B,S,4] x, float[B,S,6] r)'


def call(
    activation: str = "none", *, bias: bool = True, residual: bool = False, transposed: bool = False, x: str = "B,S,"
) -> ir.Model:
    """A model of one Linear with its body."""
    given = "x, w" + (", b" if bias else ", " if residual else "") + (", r" if residual else "")
    attributes = f'<activation = "{activation}", transposed = {int(transposed)}>'
    weights = f"float[{'6,4' if transposed else '4,6'}] w, float[6] b"
    head = f"{HEAD} => (float[B,S,6] y)".replace("B,S,", x)
    text = f"{head} <{weights}> {{ h = graphwright.Linear {attributes} ({given}) y = Neg(h) }}"
    made = model(text, infer=False)
    return with_body(made, linear(activation, bias=bias, residual=residual, transposed=transposed))


def with_body(made: ir.Model, function: ir.Function) -> ir.Model:
    made.graph.node(0).overload = function.overload
    made.functions[function.identifier()] = function
    return apply_shapes(made)


def apply_shapes(made: ir.Model) -> ir.Model:
    infer_shapes(made)
    return made


OPTIONS = list(product(["none", *ACTIVATIONS], [False, True], [False, True]))


@pytest.mark.parametrize(("activation", "bias", "residual"), OPTIONS)
def test_every_set_of_options(activation: str, bias: bool, residual: bool) -> None:
    before = call(activation, bias=bias, residual=residual)
    after = assert_fires(before, SPELL_LINEAR)
    expected = ["MatMul", *["Add"] * bias, *([ACTIVATIONS[activation].operator] if activation != "none" else [])]
    assert [node.op_type for node in after.graph] == [*expected, *["Add"] * residual, "Neg"]
    assert not after.functions
    assert_equivalent(before, after)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_two_axes(transposed: bool, bias: bool) -> None:
    before = call("relu", bias=bias, transposed=transposed, x="M,")
    after = assert_fires(before, SPELL_LINEAR)
    first = "Gemm" if bias or transposed else "MatMul"
    assert [node.op_type for node in after.graph] == [first, "Relu", "Neg"]
    assert_equivalent(before, after)


def test_a_transposed_weight_of_more_axes_is_turned() -> None:
    before = call("relu", transposed=True)
    after = assert_fires(before, SPELL_LINEAR)
    assert [node.op_type for node in after.graph] == ["Transpose", "MatMul", "Add", "Relu", "Neg"]
    assert_equivalent(before, after)


def test_what_was_joined_comes_apart_as_it_was() -> None:
    text = """<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x) => (float[B,S,6] y)
        <float[4,6] w, float[6] b, float[6,6] v> {
        p = MatMul(x, w) h = Add(p, b) a = Gelu(h) q = MatMul(a, v) y = Add(q, h) }"""
    before = model(text)
    fused = apply(before, FUSE_LINEAR)
    assert fused.applied == 2
    after = assert_fires(fused.model, SPELL_LINEAR, 2)
    assert not difference(before, after)


def test_twice_in_a_graph() -> None:
    before = call("gelu")
    node = before.graph.node(0)
    twin = ir.node("Linear", list(node.inputs), attributes=node.attributes, domain=node.domain, overload=node.overload)
    twin.outputs[0].name = "other"
    total = ir.node("Sub", [twin.outputs[0], before.graph.outputs[0]])
    total.outputs[0].name = "total"
    before.graph.extend([twin, total])
    before.graph.outputs[0] = total.outputs[0]
    total.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    apply_shapes(before)
    assert_equivalent(before, assert_fires(before, SPELL_LINEAR, 2))


def test_refuses_an_activation_that_is_not_known() -> None:
    before = call("relu")
    before.graph.node(0).attributes["activation"] = ir.AttrString("activation", "softmax")
    assert_refuses(before, SPELL_LINEAR, Reason.ATTRIBUTE)


def test_refuses_an_activation_that_is_newer_than_the_model() -> None:
    text = f"{HEAD.replace('24', '18')} => (float[B,S,6] y) <float[4,6] w, float[6] b>"
    body = '{ h = graphwright.Linear <activation = "gelu"> (x, w, b) y = Neg(h) }'
    assert_refuses(model(f"{text} {body}", infer=False), SPELL_LINEAR, Reason.OPSET)


def test_another_domain_stays() -> None:
    text = f"{HEAD.replace('graphwright', 'mine')} => (float[B,S,6] y) <float[4,6] w, float[6] b>"
    before = model(f"{text} {{ h = mine.Linear (x, w, b) y = Neg(h) }}", infer=False)
    assert_refuses(before, SPELL_LINEAR, Reason.STRUCTURE)


@given(b=st.sampled_from([1, 2, 7]), s=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(b: int, s: int, seed: int) -> None:
    before = call("gelu_tanh", residual=True)
    assert_equivalent(before, apply(before, SPELL_LINEAR).model, sizes={"B": b, "S": s}, seed=seed)
