"""infer-shapes as a pass: it reports a change once, and changes no node."""

import onnx_ir as ir
import pytest

from graphwright.passes.lift.infer_shapes import INFER_SHAPES

TEXT = """<ir_version: 10, opset_import: ["": 17]> g (float[N,4] x) => (y) {
  a = Shape(x) b = Expand(x, a) y = Exp(b)
}"""


def test_a_second_run_changes_nothing() -> None:
    model = ir.from_onnx_text(TEXT)
    nodes = [node.op_type for node in model.graph]
    assert INFER_SHAPES.function(model) is True
    assert INFER_SHAPES.function(model) is False
    assert [node.op_type for node in model.graph] == nodes
    assert all(value.shape is not None and value.dtype is not None for node in model.graph for value in node.outputs)


def test_it_says_what_it_does() -> None:
    assert "Shapes:" in INFER_SHAPES.doc


HEADER = '<ir_version: 10, opset_import: ["": 17]> '
POSITIONS = (
    HEADER
    + """g (int64[batch,seq] ids, float[batch,seq,384] words) => (y)
<int64[1,512] positions, float[512,384] weights, int64 one = {1}, int64[1] z = {0}, int64[1] o = {1}> {
  s = Shape(ids)
  n = Gather <axis = 0> (s, one)
  e = Unsqueeze(n, z)
  p = Slice(positions, z, e, o, o)
  v = Gather <axis = 0> (weights, p)
  y = Add(words, v)
}"""
)
MASK = (
    HEADER
    + """g (bool[batch,seq] mask, float[batch,seq,384] h) => (y)
<int64 zero = {0}, int64 one = {1}, int64[1] z = {0}, int64[1] m = {-1}, int64 minus = {-1}> {
  s = Shape(h)
  b = Gather <axis = 0> (s, zero)
  n = Gather <axis = 0> (s, one)
  b1 = Unsqueeze(b, z)
  n1 = Unsqueeze(n, z)
  c = Concat <axis = 0> (b1, m, n1, n1)
  r = Reshape(c, m)
  f = Shape(r)
  ones = ConstantOfShape <value = int64[1] {1}> (f)
  negative = Mul(ones, minus)
  any = Equal(r, negative)
  t = Where(any, ones, r)
  axes = Constant <value_ints = [1, 2]> ()
  wide = Unsqueeze(mask, axes)
  y = Expand(wide, t)
}"""
)
HEADS = (
    HEADER
    + """g (float[batch,seq,384] h) => (y)
<int64 zero = {0}, int64 one = {1}, int64[1] z = {0}, int64[1] m = {-1}, int64[1] d = {32}> {
  s = Shape(h)
  b = Gather <axis = 0> (s, zero)
  n = Gather <axis = 0> (s, one)
  b1 = Unsqueeze(b, z)
  n1 = Unsqueeze(n, z)
  c = Concat <axis = 0> (b1, n1, m, d)
  y = Reshape(h, c)
}"""
)
SPELLINGS = {POSITIONS: "batch,seq,384", MASK: "batch,1,seq,seq", HEADS: "batch,seq,12,32"}


@pytest.mark.parametrize("text", SPELLINGS)
def test_the_torchscript_exporter_s_shape_arithmetic_is_understood(text: str) -> None:
    model = ir.from_onnx_text(text)
    assert INFER_SHAPES.function(model)
    shape = model.graph.outputs[0].shape
    assert shape is not None and str(shape) == f"[{SPELLINGS[text]}]"
