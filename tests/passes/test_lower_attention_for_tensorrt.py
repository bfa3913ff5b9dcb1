"""Attention for TensorRT: the scale on the queries, and all else as in lower-attention."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.passes.lower.lower_attention_for_tensorrt import LOWER_ATTENTION_FOR_TENSORRT
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

QKV = "{t}[B,2,S,4] q, {t}[B,2,T,4] k, {t}[B,2,T,3] v"
ATTENTION = "y = Attention <scale = 0.25> (q, k, v, mask)"
SCORES = "sq = Mul(q, number) kt = Transpose <perm = [0, 1, 3, 2]> (k) z = MatMul(sq, kt)"
ADDED = f"{SCORES} m = Add(z, mask) p = Softmax(m) x = MatMul(p, v)"
CLEARED = "top = ReduceMax(mask, last) none = Equal(top, inf) y = Where(none, nought, x)"
CONSTS = "float number = {0.25}, int64[1] last = {-1}, float inf = {-inf}, float nought = {0}"


def layer(body: str = ATTENTION, *, mask: str = "", consts: str = "", t: str = "float", opset: int = 24) -> ir.Model:
    inputs = QKV.format(t=t) + (f", {mask}" if mask else "")
    head = f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({t}[B,2,S,3] y)'
    return model(f"{head} <{consts}> {{ {body} }}")


EXAMPLES = {
    "plain": '<ir_version: 10, opset_import: ["": 24]> g (float[B,2,S,4] q, float[B,2,S,4] k, float[B,2,S,4] v) '
    "=> (float[B,2,S,4] y) { y = Attention(q, k, v) }",
}


@pytest.mark.parametrize("opset", [23, 24])
def test_the_scale_goes_to_the_queries(opset: int) -> None:
    before = layer(ATTENTION.replace(", mask", ""), opset=opset)
    after = layer(f"{SCORES} p = Softmax(z) y = MatMul(p, v)", consts=CONSTS, opset=opset)
    assert_equivalent(before, assert_fires(before, LOWER_ATTENTION_FOR_TENSORRT, 1, after))


@pytest.mark.parametrize("shape", ["S,T", "1,1,S,T", "B,1,S,T"])
def test_masks_and_rows_without_keys_are_as_in_lower_attention(shape: str) -> None:
    mask = f"float[{shape}] mask"
    before = layer(mask=mask)
    after = assert_fires(before, LOWER_ATTENTION_FOR_TENSORRT, 1, layer(f"{ADDED} {CLEARED}", mask=mask, consts=CONSTS))
    assert_equivalent(before, after)
    assert not unsupported(after)


def test_an_expansion_of_the_mask_is_taken_off() -> None:
    lengths = "ql = Shape <start = 2, end = 3> (q) kl = Shape <start = 2, end = 3> (k) s = Concat <axis = 0> (ql, kl)"
    before = layer(f"{lengths} wide = Expand(mask, s) {ATTENTION.replace('mask', 'wide')}", mask="float[B,1,1,T] mask")
    wide = next(node for node in before.graph if node.op_type == "Expand").outputs[0]
    wide.shape = ir.Shape(["B", 1, "S", "T"])
    assert_equivalent(before, assert_fires(before, LOWER_ATTENTION_FOR_TENSORRT, 1))


@pytest.mark.parametrize("attribute", ["is_causal = 1", "softmax_precision = 11"])
def test_refuses_what_the_definition_spells(attribute: str) -> None:
    assert_refuses(layer(f"y = Attention <{attribute}> (q, k, v)"), LOWER_ATTENTION_FOR_TENSORRT, Reason.ATTRIBUTE)


def test_a_row_without_keys_is_0_as_the_operator_says() -> None:
    before = layer(mask="bool[B,1,S,T] mask")
    after = apply(before, LOWER_ATTENTION_FOR_TENSORRT).model
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 2, 3, 4), "k": (2, 2, 5, 4), "v": (2, 2, 5, 3)}
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    inputs["mask"] = rng.random((2, 1, 3, 5)) < 0.5
    inputs["mask"][0, 0, 1] = False
    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(ir.to_proto(before)).run(None, inputs)[0]
    found = evaluate(after, inputs)["y"]
    assert not compare({"y": expected}, {"y": found})
    assert not found[0, :, 1].any() and found[0, :, 0].any()
