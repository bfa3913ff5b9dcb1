"""``quantize``: 8-bit pairs around products with weights, by ONNX Runtime's quantizer."""

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphwright.engine import facts
from graphwright.engine.observe import Reason
from graphwright.engine.pipeline import FunctionPass
from graphwright.errors import PipelineError, VerificationError
from graphwright.passes.lower.quantize import QUANTIZE, quantize
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.quantize import quantized
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g'
LAYER = f"""{HEAD} (float[N, 8] x) => (float[N, 8] y) <float[8, 16] w, float[16] c, float[16, 8] v> {{
    a = MatMul(x, w) b = Add(a, c) h = Gelu(b) d = Gemm(h, v) e = Add(d, x) y = Softmax(e)
}}"""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


INPUTS = [{"x": normal(rows, 8, seed=rows)} for rows in (1, 2, 7, 64)]


def into(type: str = "int8", **options: Any) -> FunctionPass:
    def quantizer(given: ir.Model, type: str) -> ir.Model:
        return quantized(given, INPUTS, type)

    return replace(QUANTIZE, function=partial(quantize, **{"type": type, "quantizer": quantizer, **options}))


def kinds(given: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in given.graph)


@pytest.mark.parametrize(("type", "dtype"), [("int8", ir.DataType.INT8), ("fp8", ir.DataType.FLOAT8E4M3FN)])
def test_inputs_of_products_are_quantised_and_nothing_else(type: str, dtype: ir.DataType) -> None:
    before = model(LAYER)
    after = assert_fires(before, into(type), regions=False)
    expected = kinds(before) + Counter({"QuantizeLinear": 2, "DequantizeLinear": 4})
    assert kinds(after) == expected
    for node in after.graph:
        if node.op_type == "QuantizeLinear":
            assert node.outputs[0].dtype == dtype
            assert not facts.array(node.inputs[2]).astype(np.float32).any(), "TensorRT takes zero points of 0 only"
        if node.op_type in ("MatMul", "Gemm"):
            assert [value.producer().op_type for value in node.inputs[:2]] == ["DequantizeLinear"] * 2
    assert [facts.describe(value) for value in after.graph.outputs] == ["y float32[N, 8]"]
    assert all(value.dtype is not None for node in after.graph for value in node.outputs)


def test_weights_have_a_scale_for_each_column() -> None:
    after = apply(model(LAYER), into()).model
    sizes = {
        value.const_value.shape.numpy() for name, value in after.graph.initializers.items() if name.endswith("_scale")
    }
    assert sizes == {(), (16,), (8,)}


@pytest.mark.parametrize(("type", "most"), [("int8", 0.05), ("fp8", 0.2)])
def test_numbers_are_near_and_not_the_same(type: str, most: float) -> None:
    before = model(LAYER)
    after = apply(before, into(type)).model
    for rows in (1, 2, 11):
        given = {"x": normal(rows, 8, seed=100 + rows)}
        due, found = evaluate(before, given)["y"], evaluate(after, given)["y"]
        gap = np.abs(due - found).max()
        assert 0 < gap < most
        np.testing.assert_allclose(OrtSession(after)(given)["y"], found, atol=most / 4)


@settings(max_examples=8)
@given(rows=st.sampled_from([1, 2, 13]), seed=st.integers(0, 100))
def test_random_weights_and_shapes_are_near(rows: int, seed: int) -> None:
    before = model(LAYER, seed=seed)
    after = apply(before, into()).model
    given = {"x": normal(rows, 8, seed=seed)}
    due, found = evaluate(before, given)["y"], evaluate(after, given)["y"]
    assert np.linalg.norm(due - found) < 0.1 * np.linalg.norm(due)


def test_a_quantised_model_stays() -> None:
    assert not apply(apply(model(LAYER), into()).model, into()).applied
    given = f"{HEAD} (float[N] x, float s) => (int8[N] y) {{ y = QuantizeLinear<output_dtype = 3>(x, s) }}"
    outcome = apply(model(given), into())
    assert (outcome.applied, outcome.reasons) == (0, {Reason.STRUCTURE})


@pytest.mark.parametrize(
    "text",
    [
        "(float[N, N] x) => (float[N, N] y) { y = MatMul(x, x) }",
        "(double[N, 8] x) => (double[N, 8] y) <double[8, 8] w> { y = MatMul(x, w) }",
        "(float[N, 8] x) => (float[N, 8] y) { y = Softmax(x) }",
    ],
)
def test_a_model_without_products_with_weights_stays(text: str) -> None:
    outcome = apply(model(f"{HEAD} {text}"), into())
    assert (outcome.applied, outcome.refusals) == (0, ())


@pytest.mark.parametrize(("type", "opset", "is_done"), [("int8", 13, True), ("int8", 12, False), ("fp8", 19, False)])
def test_an_operator_set_without_the_pairs_is_refused(type: str, opset: int, is_done: bool) -> None:
    text = "(float[N, 8] x) => (float[N, 8] y) <float[8, 8] w> { y = MatMul(x, w) }"
    given = model(f"{HEAD.replace('24', str(opset))} {text}")
    if is_done:
        assert_fires(given, into(type), regions=False)
    else:
        assert_refuses(given, into(type), Reason.OPSET)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"quantize.type.*int8, fp8"):
        quantize(model(LAYER), "int4")
    with pytest.raises(PipelineError, match=r"precision\(bf16\)"):
        quantize(model(LAYER), "bf16")
    with pytest.raises(PipelineError, match="no quantizer"):
        quantize(model(LAYER))


def test_requests_that_the_model_does_not_take_are_left_out() -> None:
    text = "(float[N, 8] x, float[M, 8] z) => (float[K, 8] y) <float[8, 8] w> { s = Add(x, z) y = MatMul(s, w) }"
    before = model(f"{HEAD} {text}")
    good, bad = ({"x": normal(3, 8), "z": normal(rows, 8)} for rows in (3, 2))
    assert kinds(quantized(before, [bad, good], "int8"))["QuantizeLinear"] == 1
    with pytest.raises(VerificationError, match="inputs to observe"):
        quantized(before, [bad], "int8")
    with pytest.raises(VerificationError, match="no inputs"):
        quantized(before, [], "int8")


def test_the_quantizer_says_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    quantized(model(LAYER), INPUTS, "fp8")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("inputs", "product"),
    [
        ("float[8, 8] x", "Gemm(a, x)"),
        ("float[8, 8] x", "MatMul(a, x)"),
        ("float[8, 8] x, float[8, 8] u", "Gemm(a, u)"),
    ],
)
def test_products_of_activations_stay_beside_others(inputs: str, product: str) -> None:
    text = f"({inputs}) => (float[8, 8] y) <float[8, 8] w> {{ a = MatMul(x, w) y = {product} }}"
    requests = [{name.split()[-1]: normal(8, 8) for name in inputs.split(", f")}]
    after = quantized(model(f"{HEAD} {text}"), requests, "int8")
    assert next(node for node in after.graph if node.outputs[0].name == "y").inputs[0].name == "a"
    assert kinds(after)["QuantizeLinear"] == 1


def test_an_initializer_that_callers_may_override_is_no_weight() -> None:
    text = "(float[N, 8] x, float[8, 8] u) => (float[N, 8] y) <float[8, 8] w> { a = MatMul(x, w) y = MatMul(a, u) }"
    before = model(f"{HEAD} {text}")
    value = before.graph.inputs[1]
    value.const_value = ir.tensor(normal(8, 8), name="u")
    before.graph.register_initializer(value)
    after = apply(before, into()).model
    assert [value.name for value in after.graph.inputs] == ["x", "u"]
    assert kinds(after) == {"MatMul": 2, "QuantizeLinear": 1, "DequantizeLinear": 2}


def test_a_product_of_constants_stays() -> None:
    before = model(f"{HEAD} () => (float[8, 8] y) <float[8, 8] w> {{ y = MatMul(w, w) }}")
    assert not apply(before, into()).applied
    assert kinds(quantized(before, [{}], "int8")) == {"MatMul": 1}
