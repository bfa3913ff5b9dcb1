"""engine/shapes: lengths that convolutions give, and what may be negative."""

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.builder import Builder, Names
from graphwright.engine.shapes import infer_shapes
from tests.engine.test_shapes import run, spelled, value_of

# Attributes of a Conv of kernel 3 -> the length of its output, of input sizes from 3 on.
CONVOLUTIONS = {
    "": "B - 2",
    "strides = [2]": "((B + 1)//2) - 1",
    "strides = [3], pads = [1, 1]": "((B + 2)//3)",
    "pads = [2, 0]": "B",
    "dilations = [1], strides = [2], pads = [0, 1], kernel_shape = [3]": "(B//2)",
    'auto_pad = "SAME_UPPER", strides = [2]': "((B + 1)//2)",
    'auto_pad = "VALID", strides = [2]': "((B + 1)//2) - 1",
}
SOUND = '<ir_version: 8, opset_import: ["": 17]> g (float[A,2,B] x) => (y) '
KERNEL = "<float[4,2,3] w = {1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1}, int64[1] o = {1}, int64[1] m = {-1}, "
KERNEL += "int64[1] t = {2}, int64[1] z = {0}> "


@pytest.mark.parametrize("attributes", CONVOLUTIONS)
def test_a_convolution_counts_the_places_of_its_window(attributes: str) -> None:
    model = ir.from_onnx_text(SOUND + KERNEL + f"{{y = Conv {f'<{attributes}>' if attributes else ''} (x, w)}}")
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == f"A,4,{CONVOLUTIONS[attributes]}"
    for size in range(3, 12):
        found = run(model, {"A": 2, "B": size})["y"].shape
        assert list(found) == [value_of(each, {"A": 2, "B": size}) for each in model.graph.outputs[0].shape]


def test_lengths_from_convolutions_are_lengths_wherever_they_stand() -> None:
    """As a speech encoder computes them: two ways to one length, and a Reshape that is told it."""
    body = """{
        c = Conv <strides = [2]> (x, w) s = Shape(c) n = Slice(s, t, e, z) p = Concat <axis = 0> (m, n, t)
        d = Transpose <perm = [0, 2, 1]> (c) f = Reshape(d, p)
        l = Conv <strides = [2], pads = [1, 0]> (x, w) k = Slice(l, z, m, t) y = Concat <axis = 1> (k, c)}"""
    model = ir.from_onnx_text(SOUND + KERNEL.replace("> ", ", int64[1] e = {3}> ") + body)
    infer_shapes(model)
    shapes = {value.name: spelled(value) for node in model.graph for value in node.outputs}
    assert shapes["f"] == "2*A,((B + 1)//2) - 1,2"
    assert shapes["k"] == "A,4,Max(0, (B//2) - 1)"


def test_a_difference_that_is_no_length_may_be_negative() -> None:
    body = "{s = Shape <start = 2> (x) n = Sub(s, t) p = Concat <axis = 0> (m, n) y = Reshape(x, p)}"
    model = ir.from_onnx_text(SOUND + KERNEL + body)
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == "?,?"


def test_a_length_in_a_branch_says_nothing_of_other_runs() -> None:
    body = """{
        y = If (o) <then_branch = b () => (h) {h = Conv(x, w)}, else_branch = e () => (k) {
        s = Shape <start = 2> (x) n = Sub(s, t) p = Concat <axis = 0> (z, m, n) k = Reshape(x, p)}>}"""
    weights = KERNEL.replace("int64[1] o = {1}", "bool o = {1}")
    model = ir.from_onnx_text(SOUND + weights + body)
    infer_shapes(model)
    (reshape,) = (node for node in model.graph.all_nodes() if node.op_type == "Reshape")
    assert spelled(reshape.outputs[0]) == "A,?,?"


def test_a_new_node_has_the_names_of_its_inputs() -> None:
    """As shape inference would give them in another run."""
    model = ir.from_onnx_text(SOUND + "{y = Relu(x)}")
    op = Builder(Names(model), "rule", {"": 17})
    number = ir.tensor(2), ir.tensor(0), ir.tensor(1)
    axis, start, step = (op.constant(each) for each in number)
    places = op.Range(start, op.Gather(op.Shape(model.graph.inputs[0]), axis), step)
    assert spelled(places) == "B"
    assert spelled(op.Conv(model.graph.inputs[0], op.constant(np.ones((4, 2, 3), np.float32)))) == "A,4,B - 2"
    op.discard()
