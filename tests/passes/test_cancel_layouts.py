"""A change of layout that is undone behind a function of single elements goes."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.transform.cancel_layouts import CANCEL_LAYOUTS
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g '
# As GPT-2's exports have it: the products are of two axes.
MLP = f"""{HEAD} (float[M,4] x, int64[3] apart) => (float[M,4] y)
    <float[4,6] w, float[6,4] v, int64[2] flat = {{-1, 6}}>
    {{ p = Gemm(x, w) a = Reshape(p, apart) f = Gelu(a) b = Reshape(f, flat) y = Gemm(b, v) }}"""
TURNED = f"""{HEAD} (float[B,T,4] x) => (float[B,T,4] y)
    {{ h = Exp(x) a = Transpose <perm = [1, 2, 0]> (h) f = Relu(a) b = Transpose <perm = [2, 0, 1]> (f) y = Neg(b) }}"""
EXAMPLES = {"turned": TURNED}


def mlp(text: str = MLP) -> ir.Model:
    """The two axes between are of a known size, as inference by names finds them."""
    made = model(text)
    for node in made.graph:
        if node.op_type == "Reshape" and node.inputs[1] is not None and node.inputs[1].name == "flat":
            node.outputs[0].shape = ir.Shape(["M", 6])
    return made


def operators(given: ir.Model) -> list[str]:
    return [node.op_type for node in given.graph]


def flattened(function: str = "Gelu", there: str = "2, 3, 6", back: str = "6, 6") -> ir.Model:
    sizes = f"int64[{there.count(',') + 1}] there = {{{there}}}, int64[{back.count(',') + 1}] back = {{{back}}}"
    text = f"p = Gemm(x, w) a = Reshape(p, there) f = {function} (a) b = Reshape(f, back) y = Gemm(b, v)"
    return model(f"{HEAD} (float[6,4] x) => (float[6,4] y) <float[4,6] w, float[6,4] v, {sizes}> {{ {text} }}")


def test_a_reshape_and_back() -> None:
    assert operators(assert_fires(mlp(), CANCEL_LAYOUTS, regions=False)) == ["Gemm", "Gelu", "Gemm"]
    before = flattened()
    after = assert_fires(before, CANCEL_LAYOUTS)
    assert operators(after) == ["Gemm", "Gelu", "Gemm"]
    assert_equivalent(before, after)


def test_transposes_that_undo_each_other() -> None:
    before = model(TURNED)
    after = assert_fires(before, CANCEL_LAYOUTS)
    assert operators(after) == ["Exp", "Relu", "Neg"]
    assert_equivalent(before, after)


@pytest.mark.parametrize("function", ["Erf", 'Gelu <approximate = "tanh">', "Swish <alpha = 1.5>", "Tanh", "Sigmoid"])
def test_the_function_keeps_its_attributes(function: str) -> None:
    before = flattened(function)
    after = assert_fires(before, CANCEL_LAYOUTS)
    assert_equivalent(before, after)


def test_a_cast_between() -> None:
    text = TURNED.replace("f = Relu(a)", "f = Cast <to = 10> (a)").replace("=> (float", "=> (float16")
    before = model(text)
    assert_equivalent(before, assert_fires(before, CANCEL_LAYOUTS))


def test_twice_in_a_graph() -> None:
    again = "c = Transpose <perm = [1, 0, 2]> (b) d = Tanh(c) e = Transpose <perm = [1, 0, 2]> (d) y = Neg(e)"
    before = model(TURNED.replace("y = Neg(b)", again))
    assert_equivalent(before, assert_fires(before, CANCEL_LAYOUTS, 2))


def test_an_output_keeps_its_name() -> None:
    before = model(TURNED.replace("b = Transpose", "y = Transpose").replace("y = Neg(b)", ""))
    after = assert_fires(before, CANCEL_LAYOUTS)
    assert [value.name for value in after.graph.outputs] == ["y"]


def test_sizes_that_coincide_do_not_undo_a_transpose() -> None:
    text = TURNED.replace("B,T,4", "4,4,4").replace("[2, 0, 1]", "[1, 2, 0]")
    assert_refuses(model(text), CANCEL_LAYOUTS, Reason.ATTRIBUTE)


def test_refuses_a_permutation_that_is_not_given() -> None:
    text = TURNED.replace("Transpose <perm = [1, 2, 0]> (h)", "Transpose (h)").replace("[2, 0, 1]", "[2, 1, 0]")
    assert_refuses(model(text), CANCEL_LAYOUTS, Reason.ATTRIBUTE)


def test_refuses_another_shape() -> None:
    text = "p = Gemm(x, w) a = Reshape(p, there) f = Gelu(a) b = Reshape(f, back) y = Neg(b)"
    sizes = "int64[3] there = {2, 3, 6}, int64[2] back = {4, 9}"
    before = model(f"{HEAD} (float[6,4] x) => (float[4,9] y) <float[4,6] w, {sizes}> {{ {text} }}")
    assert_refuses(before, CANCEL_LAYOUTS, Reason.UNKNOWN)


def test_refuses_sizes_that_are_not_known() -> None:
    assert_refuses(model(MLP), CANCEL_LAYOUTS, Reason.UNKNOWN)


def test_refuses_what_others_need_between() -> None:
    text = TURNED.replace("y = Neg(b)", "s = ReduceSum(f) y = Mul(b, s)")
    assert_refuses(model(text), CANCEL_LAYOUTS, Reason.SHARED)
    before = model(TURNED.replace("=> (", "=> (float[T,4,B] a, "))
    assert_refuses(before, CANCEL_LAYOUTS, Reason.GRAPH_OUTPUT)


def test_refuses_an_older_opset() -> None:
    before = model(TURNED)
    before.graph.opset_imports[""] = 12
    assert_refuses(before, CANCEL_LAYOUTS, Reason.OPSET)


@pytest.mark.parametrize("function", ["Softmax <axis = -1>", "CumSum", "LpNormalization"])
def test_functions_of_several_elements_stay(function: str) -> None:
    text = TURNED.replace("f = Relu(a)", f"f = {function} (a)")
    if function == "CumSum":
        text = text.replace("(a)", "(a, last)").replace("=> (float[B,T,4] y)", "=> (float[B,T,4] y) <int64 last = {2}>")
    assert_refuses(model(text), CANCEL_LAYOUTS, Reason.STRUCTURE)


@given(b=st.sampled_from([1, 2, 7]), t=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(b: int, t: int, seed: int) -> None:
    before = model(TURNED)
    assert_equivalent(before, apply(before, CANCEL_LAYOUTS).model, sizes={"B": b, "T": t}, seed=seed)
