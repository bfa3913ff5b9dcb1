"""A model's own functions: inlined, but for those that stand for a plugin."""

import numpy as np
import onnx_ir as ir

from graphwright.passes.lower.inline_functions import INLINE_FUNCTIONS
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.testing import apply, assert_equivalent, assert_fires, model

HEAD = '<ir_version: 10, opset_import: ["": 24, "lib": 1]>'
CALL = f"""{HEAD} g (float[B,4] x) => (float[B,4] y) {{ a = lib.Gelu <by = 2.0> (x) y = lib.outer(a) }}
<domain: "lib", opset_import: ["": 24, "lib": 1]> Gelu <by> (x) => (y)
    {{ c = Constant <value_float: float = @by> () y = Mul(x, c) }}
<domain: "lib", opset_import: ["": 24, "lib": 1]> outer (x) => (y) {{ b = lib.Gelu <by = 0.5> (x) y = Sigmoid(b) }}"""


def test_functions_in_functions_and_their_attributes() -> None:
    before = ir.from_onnx_text(CALL)
    # The parser takes a function of that name for ONNX's own operator.
    assert "a function named Gelu" in {each.reason for each in unsupported(before)}
    after = assert_fires(before, INLINE_FUNCTIONS, regions=False)
    assert not after.functions and {node.domain for node in after.graph} == {""}
    assert not unsupported(after)
    assert_equivalent(before, after, sizes={"B": 3})


def test_the_bodies_of_plugins_stay() -> None:
    text = '<ir_version: 10, opset_import: ["": 24, "hars": 1]> g (float[B,9] x) => (float[B,3] v, int64[B,3] i)'
    before = model(f"{text} {{ v, i = hars.softmax_topk <k = 3> (x) }}", infer=False)
    attach_bodies(before)
    assert not apply(before, INLINE_FUNCTIONS).applied


def test_a_model_without_functions_stays() -> None:
    before = model('<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y) { y = Relu(x) }')
    assert not apply(before, INLINE_FUNCTIONS).applied
    assert np.all([not function for function in before.functions])


def test_what_bodies_compute_gets_its_type() -> None:
    """Without it nothing behind this pass knows what it may cast."""
    before = model(CALL)
    after = apply(before, INLINE_FUNCTIONS).model
    assert {value.dtype for node in after.graph for value in node.outputs} == {ir.DataType.FLOAT}
