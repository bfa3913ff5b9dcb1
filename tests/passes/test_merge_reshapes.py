"""Two changes of shape in a row become one, or none."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lower.merge_reshapes import MERGE_RESHAPES
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g '
EXAMPLES = {
    "unsqueeze twice": f"""{HEAD} (float[B,T] x) => (float[B,1,1,T] y) <int64[1] one = {{1}}, int64[1] two = {{2}}>
        {{ h = Exp(x) a = Unsqueeze(h, one) b = Unsqueeze(a, two) y = Neg(b) }}""",
    "reshape twice": f"""{HEAD} (float[B,4,T] x)
        => (float[B,2,2,T] y) <int64[4] flat = {{0, 4, 1, -1}}, int64[4] heads = {{0, 2, 2, -1}}>
        {{ h = Exp(x) a = Reshape(h, flat) b = Reshape(a, heads) y = Neg(b) }}""",
}


def views(text: str, *, x: str, y: str, consts: str = "") -> ir.Model:
    """A model of views between two other nodes, so that an input is no output."""
    return model(f"{HEAD} (float[{x}] x) => (float[{y}] y) <{consts}> {{ h = Exp(x) {text} y = Neg(b) }}")


def axes(**given: str) -> str:
    return ", ".join(f"int64[{text.count(',') + 1}] {name} = {{{text}}}" for name, text in given.items())


def after(before: ir.Model, operators: list[str], times: int = 1) -> ir.Model:
    result = assert_fires(before, MERGE_RESHAPES, times)
    assert [node.op_type for node in result.graph] == ["Exp", *operators, "Neg"]
    assert_equivalent(before, result)
    return result


def test_unsqueezes() -> None:
    before = views("a = Unsqueeze(h, i) b = Unsqueeze(a, j)", x="B,T", y="B,1,1,T", consts=axes(i="1", j="2"))
    expected = views("b = Unsqueeze(h, i)", x="B,T", y="B,1,1,T", consts=axes(i="1,2"))
    assert_fires(before, MERGE_RESHAPES, 1, expected)


def test_unsqueezes_of_negative_axes() -> None:
    before = views("a = Unsqueeze(h, i) b = Unsqueeze(a, j)", x="B,T", y="B,1,T,1", consts=axes(i="-1", j="1"))
    after(before, ["Unsqueeze"])


def test_squeezes() -> None:
    before = views("a = Squeeze(h, i) b = Squeeze(a, i)", x="1,1,T", y="T", consts=axes(i="0"))
    after(before, ["Squeeze"])
    before = views("a = Squeeze(h, i) b = Squeeze(a)", x="1,7,1", y="7", consts=axes(i="0"))
    after(before, ["Squeeze"])


def test_what_is_undone_goes() -> None:
    after(views("a = Unsqueeze(h, i) b = Squeeze(a, i)", x="B,T", y="B,T", consts=axes(i="1")), [])
    flat = axes(i="-1, 8", j="-1, 2, 4")
    after(views("a = Reshape(h, i) b = Reshape(a, j)", x="3,2,4", y="3,2,4", consts=flat), [])


def test_a_reshape_that_only_adds_an_axis_is_an_unsqueeze() -> None:
    """As in BLOOM, whose heads are flattened between."""
    text = "a = Unsqueeze(h, i) b = Reshape(a, j)"
    before = views(text, x="3,4,7", y="3,4,1,7", consts=axes(i="0", j="-1, 4, 1, 7"))
    after(before, ["Unsqueeze"])


def test_reshapes() -> None:
    before = views("a = Reshape(h, i) b = Reshape(a, j)", x="B,T,8", y="B,T,2,4", consts=axes(i="0,0,8,1", j="0,0,2,4"))
    after(before, ["Reshape"])


def test_a_flatten_and_a_reshape() -> None:
    before = views("a = Flatten(h) b = Reshape(a, i)", x="B,4,3", y="B,2,6", consts=axes(i="0,2,6"))
    after(before, ["Reshape"])


def test_a_size_follows_from_the_rest() -> None:
    before = views("a = Reshape(h, i) b = Reshape(a, j)", x="B,6", y="M,3", consts=axes(i="-1,2,3", j="-1,3"))
    after(before, ["Reshape"])


def test_three_in_a_row() -> None:
    text = "c = Unsqueeze(h, i) a = Unsqueeze(c, i) b = Unsqueeze(a, i)"
    after(views(text, x="B,T", y="B,1,1,1,T", consts=axes(i="1")), ["Unsqueeze"], 2)


def test_twice_in_a_graph() -> None:
    text = "a = Unsqueeze(h, i) d = Unsqueeze(a, i) n = Neg(d) c = Unsqueeze(n, i) b = Unsqueeze(c, i)"
    before = views(text, x="B,T", y="B,1,1,1,1,T", consts=axes(i="1"))
    after(before, ["Unsqueeze", "Neg", "Unsqueeze"], 2)


def test_an_output_keeps_its_name() -> None:
    text = "h = Exp(x) a = Unsqueeze(h, i) y = Squeeze(a, i)"
    before = model(f"{HEAD} (float[B,T] x) => (float[B,T] y) <{axes(i='1')}> {{ {text} }}")
    result = assert_fires(before, MERGE_RESHAPES)
    assert [value.name for value in result.graph.outputs] == ["y"]
    assert_equivalent(before, result)


def test_equal_sizes_and_sizes_of_one() -> None:
    consts = axes(i="1", j="2")
    after(views("a = Unsqueeze(h, i) b = Unsqueeze(a, j)", x="3,3,3", y="3,1,1,3,3", consts=consts), ["Unsqueeze"])
    after(views("a = Unsqueeze(h, i) b = Unsqueeze(a, j)", x="1,1", y="1,1,1,1", consts=consts), ["Unsqueeze"])
    after(views("a = Squeeze(h, i) b = Squeeze(a, j)", x="1,1,1,3", y="1,3", consts=axes(i="0", j="0")), ["Squeeze"])


def test_refuses_several_sizes_that_are_not_known_from_the_input() -> None:
    text = "a = Reshape(h, i) b = Reshape(a, j)"
    before = views(text, x="B,T,8", y="M,N,2,4", consts=axes(i="-1,8", j="0,1,2,4"))
    before.graph.node(2).outputs[0].shape = ir.Shape(["M", "N", 2, 4])
    assert_refuses(before, MERGE_RESHAPES, Reason.UNKNOWN)


def test_refuses_unknown_ranks() -> None:
    before = views("a = Unsqueeze(h, i) b = Unsqueeze(a, i)", x="B,T", y="B,1,1,T", consts=axes(i="1"))
    before.graph.node(2).outputs[0].shape = None
    assert_refuses(before, MERGE_RESHAPES, Reason.UNKNOWN)


def test_refuses_a_size_of_nothing() -> None:
    before = views("a = Reshape(h, i) b = Reshape(a, j)", x="B,0,8", y="B,0,2,4", consts=axes(i="0,0,8,1", j="0,0,2,4"))
    assert_refuses(before, MERGE_RESHAPES, Reason.SHAPE)


def test_refuses_a_size_that_follows_beside_one_that_may_be_nothing() -> None:
    before = views("a = Unsqueeze(h, i) b = Flatten <axis = 2> (a)", x="B,T,8", y="B,M", consts=axes(i="1"))
    assert_refuses(before, MERGE_RESHAPES, Reason.SHAPE)


def test_refuses_an_older_opset() -> None:
    before = views("a = Reshape(h, i) b = Reshape(a, i)", x="4,7", y="7,4", consts=axes(i="7,4"))
    before.graph.opset_imports[""] = 12
    assert_refuses(before, MERGE_RESHAPES, Reason.OPSET)


def test_refuses_what_others_need_between() -> None:
    text = "a = Unsqueeze(h, i) d = Unsqueeze(a, i) e = Neg(a) b = Mul(d, e)"
    assert_refuses(views(text, x="B,T", y="B,B,1,T", consts=axes(i="1")), MERGE_RESHAPES, Reason.SHARED)
    text = "h = Exp(x) a = Unsqueeze(h, i) y = Unsqueeze(a, i)"
    before = model(f"{HEAD} (float[B,T] x) => (float[B,1,T] a, float[B,1,1,T] y) <{axes(i='1')}> {{ {text} }}")
    assert_refuses(before, MERGE_RESHAPES, Reason.GRAPH_OUTPUT)


def test_what_is_undone_goes_though_others_need_what_is_between() -> None:
    """As in BLOOM, which asks for the sizes of its flattened heads."""
    text = "a = Unsqueeze(h, i) d = Squeeze(a, i) s = ReduceSum <keepdims = 0> (a) b = Mul(d, s)"
    before = views(text, x="B,T", y="B,T", consts=axes(i="1"))
    result = assert_fires(before, MERGE_RESHAPES)
    assert [node.op_type for node in result.graph] == ["Exp", "Unsqueeze", "ReduceSum", "Mul", "Neg"]
    assert_equivalent(before, result)


@pytest.mark.parametrize("between", ["Transpose <perm = [1, 0, 2]>", "Neg", "Softmax"])
def test_views_with_something_between_stay(between: str) -> None:
    text = f"a = Unsqueeze(h, i) c = {between} (a) b = Unsqueeze(c, i)"
    y = "1,1,B,T" if "perm" in between else "B,1,1,T"
    assert_refuses(views(text, x="B,T", y=y, consts=axes(i="1")), MERGE_RESHAPES, Reason.STRUCTURE)


@given(b=st.sampled_from([1, 2, 7]), t=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(b: int, t: int, seed: int) -> None:
    before = model(EXAMPLES["reshape twice"])
    assert_equivalent(before, apply(before, MERGE_RESHAPES).model, sizes={"B": b, "T": t}, seed=seed)
