"""read-sizes-from-inputs: where sizes are read, what is refused, and the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lift.read_sizes_from_inputs import READ_SIZES_FROM_INPUTS
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[B, S, 4] x) => (int64[N] y) "
CONSTANTS = (
    "<int64 one = {1}, int64[1] first = {0}, int64[1] last = {-1}, int64[2] both = {1, 0}, int64[1] two = {2}, "
    "int64[1] zero = {0}> "
)
VALUE = "e = Exp(x) v = Transpose <perm = [2, 0, 1]> (e) h = Shape(v) "


def text(body: str, signature: str = SIGNATURE, constants: str = CONSTANTS, head: str = HEAD) -> str:
    return head + signature + constants + "{" + body + "}"


EXAMPLES = {
    "one size": text(VALUE + "g = Gather(h, one) y = Unsqueeze(g, zero)"),
    "a list of one": text(VALUE + "g = Gather(h, last) y = Abs(g)"),
    "a list of two": text(VALUE + "g = Gather(h, both) y = Abs(g)"),
    "a slice": text(VALUE + "g = Slice(h, zero, last) y = Abs(g)"),
    "a slice with axes and steps": text(VALUE + "g = Slice(h, zero, last, zero, two_less) y = Abs(g)").replace(
        "int64[1] two =", "int64[1] two_less = {1}, int64[1] two ="
    ),
    "a part of the shape": text(VALUE.replace("Shape(v)", "Shape <start = 1> (v)") + "g = Gather(h, first) y = Abs(g)"),
}
AFTER = {
    "one size": "h = Shape(x) g = Gather(h, none) y = Unsqueeze(g, zero)",
    "a list of one": "g = Shape <start = 1, end = 2> (x) y = Abs(g)",
    "a list of two": "b = Shape <start = 0, end = 1> (x) g = Concat <axis = 0> (b, four) y = Abs(g)",
    "a slice": "b = Shape <start = 0, end = 1> (x) g = Concat <axis = 0> (four, b) y = Abs(g)",
    "a part of the shape": "g = Shape <start = 0, end = 1> (x) y = Abs(g)",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_sizes_are_read_from_the_input(name: str) -> None:
    before = model(EXAMPLES[name])
    constants = "<int64 none = {0}, int64[1] zero = {0}, int64[1] four = {4}> "
    after = text(AFTER[name], constants=constants) if name in AFTER else None
    found = assert_fires(before, READ_SIZES_FROM_INPUTS, after=after)
    assert all(node.inputs[0] is found.graph.inputs[0] for node in found.graph if node.op_type == "Shape")


def test_two_in_one_graph_are_two_applications() -> None:
    signature = SIGNATURE.replace("[N] y)", "[N] y, int64[N] z)")
    before = text(VALUE + "g = Gather(h, last) y = Abs(g) i = Gather(h, both) z = Abs(i)", signature)
    assert_fires(model(before), READ_SIZES_FROM_INPUTS, 2)


REFUSED = {
    "old opset": (Reason.OPSET, EXAMPLES["a list of one"].replace('"": 24', '"": 14')),
    "unknown rank": (
        Reason.UNKNOWN,
        EXAMPLES["a list of one"]
        .replace("v = Transpose <perm = [2, 0, 1]> (e)", "v = Reshape(e, t)")
        .replace("4] x)", "4] x, int64[R] t)"),
    ),
    "a size that no input has": (
        Reason.UNKNOWN,
        EXAMPLES["a list of one"]
        .replace("v = Transpose <perm = [2, 0, 1]> (e)", "v = Concat <axis = 1> (e, e)")
        .replace("Gather(h, last)", "Gather(h, place)")
        .replace("int64[1] two =", "int64[1] place = {1}, int64[1] two ="),
    ),
    "a number": (Reason.UNKNOWN, EXAMPLES["a list of one"].replace("Gather(h, last)", "Gather(h, first)")),
    "one number": (Reason.UNKNOWN, EXAMPLES["one size"].replace("int64 one = {1}", "int64 one = {0}")),
    "places are an input": (
        Reason.CONSTANT,
        EXAMPLES["a list of one"].replace("Gather(h, last)", "Gather(h, p)").replace("4] x)", "4] x, int64[1] p)"),
    ),
    "bounds are an input": (
        Reason.CONSTANT,
        EXAMPLES["a slice"].replace("zero, last)", "zero, p)").replace("4] x)", "4] x, int64[1] p)"),
    ),
    "a slice in steps": (
        Reason.ATTRIBUTE,
        EXAMPLES["a slice with axes and steps"].replace("two_less = {1}", "two_less = {2}"),
    ),
    "an empty slice": (Reason.ATTRIBUTE, EXAMPLES["a slice"].replace("zero, last)", "zero, zero)")),
    "the shape of an input": (Reason.STRUCTURE, text("h = Shape(x) g = Gather(h, last) y = Abs(g)")),
    "another axis of the sizes": (
        Reason.STRUCTURE,
        EXAMPLES["a list of one"].replace("Shape(v)", "Size(v)").replace("Gather(h", "Expand(h"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    assert_refuses(model(source), READ_SIZES_FROM_INPUTS, reason)


@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    batch=st.sampled_from([1, 2, 3]),
    length=st.sampled_from([2, 7]),
)
def test_same_numbers_at_any_size(name: str, batch: int, length: int) -> None:
    before = model(EXAMPLES[name])
    after = apply(before, READ_SIZES_FROM_INPUTS).model
    assert_equivalent(before, after, sizes={"B": batch, "S": length})
