"""settle-reshapes: targets that become constant, what is refused, and the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.engine.shapes import infer_shapes
from graphwright.passes.lift.settle_reshapes import SETTLE_RESHAPES
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[B, S, 32] x) => (float[B, S, 4, 8] y) "
CONSTANTS = "<int64[1] four = {4}, int64[1] eight = {8}, int64[1] minus = {-1}, int64[1] whole = {32}> "
SIZES = "b = Shape <start = 0, end = 1> (x) s = Shape <start = 1, end = 2> (x) "
BODY = SIZES + "t = Concat <axis = 0> (b, s, four, eight) r = Reshape(x, t) y = Exp(r)"


def text(body: str = BODY, signature: str = SIGNATURE, constants: str = CONSTANTS) -> str:
    return HEAD + signature + constants + "{" + body + "}"


EXAMPLES = {
    "heads apart": text(),
    "one follows from the rest in the source too": text(BODY.replace("four, eight)", "minus, eight)")),
    "heads together": text(
        SIZES + "t = Concat <axis = 0> (b, s, whole) r = Reshape(x, t) y = Exp(r)",
        "(float[B, S, 4, 8] x) => (float[B, S, 32] y) ",
    ),
    "all positions in a row": text(
        SIZES + "n = Mul(b, s) t = Concat <axis = 0> (n, whole) r = Reshape(x, t) y = Exp(r)",
        "(float[B, S, 32] x) => (float[N, 32] y) ",
    ),
    "sizes are never zero": text(BODY.replace("Reshape(x", "Reshape <allowzero = 1> (x")),
    "of another value": text(
        "b = Shape <start = 0, end = 2> (z) t = Concat <axis = 0> (b, four, eight) r = Reshape(x, t) y = Exp(r)",
        SIGNATURE.replace("x)", "x, int64[B, S] z)"),
    ),
}
TARGETS = {
    "heads apart": [0, 0, 4, 8],
    "one follows from the rest in the source too": [0, 0, 4, 8],
    "heads together": [0, 0, 32],
    "all positions in a row": [-1, 32],
    "sizes are never zero": [0, 0, 4, 8],
    "of another value": [0, 0, 4, 8],
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_target_becomes_constant(name: str) -> None:
    before = model(EXAMPLES[name])
    infer_shapes(before)
    after = assert_fires(before, SETTLE_RESHAPES)
    assert [node.op_type for node in after.graph] == ["Reshape", "Exp"]
    target = after.graph.node(0).inputs[1]
    assert target is not None
    assert target.const_value is not None
    assert target.const_value.numpy().tolist() == TARGETS[name]
    assert_equivalent(before, after, sizes={"B": 2, "S": 3})


def test_two_in_one_graph_are_two_applications() -> None:
    second = "u = Concat <axis = 0> (b, s, whole) z = Reshape(y, u) "
    before = model(text(BODY + " " + second, SIGNATURE.replace("8] y)", "8] y, float[B, S, 32] z)")))
    infer_shapes(before)
    assert_fires(before, SETTLE_RESHAPES, 2)


REFUSED = {
    "sizes from elsewhere": (
        Reason.UNKNOWN,
        text("t = Abs(u) y = Reshape(x, t)", "(float[N, 32] x, int64[4] u) => (float[B, S, 4, 8] y) "),
    ),
    "unknown rank": (
        Reason.UNKNOWN,
        text("t = Abs(u) y = Reshape(x, t)", "(float[] x, int64[2] u) => (float[4, 8] y) "),
    ),
    "a size of 0": (
        Reason.SHAPE,
        text("t = Abs(u) y = Reshape(x, t)", "(float[N, 0] x, int64[2] u) => (float[0, 8] y) "),
    ),
    "another number of elements": (
        Reason.SHAPE,
        text(BODY.replace("eight)", "four)"), SIGNATURE.replace("8] y", "4] y")),
    ),
    "a length beside a batch that may be 0": (
        Reason.SHAPE,
        text(
            "s = Shape <start = 2, end = 3> (x) b = Shape <start = 0, end = 1> (x) "
            "t = Concat <axis = 0> (b, four, s, eight) r = Reshape(x, t) y = Exp(r)",
            "(float[B, 4, S, 8] z, float[B, 2, 2, S, 8] x) => (float[B, 4, S, 8] y) ",
        ).replace("start = 2, end = 3> (x)", "start = 3, end = 4> (x)"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    before = model(source)
    infer_shapes(before)
    assert_refuses(before, SETTLE_RESHAPES, reason)


def test_a_constant_target_is_left_alone() -> None:
    source = text("y = Reshape(x, t)", constants="<int64[4] t = {0, 0, 4, 8}> ")
    assert_refuses(model(source), SETTLE_RESHAPES, Reason.STRUCTURE)


def test_a_target_that_callers_give_is_left_alone() -> None:
    given = text("y = Reshape(x, t)", SIGNATURE.replace("x)", "x, int64[4] t = {0, 0, 4, 8})"), "")
    assert_refuses(model(given), SETTLE_RESHAPES, Reason.STRUCTURE)


@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    batch=st.sampled_from([1, 2, 3]),
    length=st.sampled_from([1, 2, 7]),
)
def test_same_numbers_at_any_size(name: str, batch: int, length: int) -> None:
    before = model(EXAMPLES[name])
    infer_shapes(before)
    after = apply(before, SETTLE_RESHAPES).model
    assert_equivalent(before, after, sizes={"B": batch, "S": length})
