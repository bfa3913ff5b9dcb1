"""The reference: unoptimized, in the model's types or in double."""

import math

import ml_dtypes
import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from graphwright.errors import RequestError, VerificationError
from graphwright.runtime.double import obstacle, to_double
from graphwright.runtime.reference import Reference, evaluate

RANDOM = np.random.default_rng(7)


def model_of(body: str, opset: int = 20, imports: str = "") -> ir.Model:
    header = f'<ir_version: 10, opset_import: ["": {opset}{imports}]> '
    return ir.from_proto(onnx.parser.parse_model(header + body))


def normal(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.asarray(RANDOM.standard_normal(shape), dtype)


def gelu(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def test_double_is_exact_where_single_is_not() -> None:
    model = model_of("g (float[n, 64] x, float[64, 8] w) => (float[n, 8] y) { y = MatMul(x, w) }")
    inputs = {"x": normal(3, 64), "w": normal(64, 8)}
    exact = inputs["x"].astype(np.float64) @ inputs["w"].astype(np.float64)
    in_double = evaluate(model, inputs, double=True)["y"]
    in_single = evaluate(model, inputs)["y"]
    assert in_double.dtype == np.float64 and in_single.dtype == np.float32
    np.testing.assert_allclose(in_double, exact, rtol=0, atol=1e-14)
    assert 1e-9 < np.abs(in_single - exact).max() < 1e-4


@pytest.mark.parametrize("dtype", ["float", "float16", "bfloat16"])
def test_initializers_constants_and_casts_become_double(dtype: str) -> None:
    code = {"float": 1, "float16": 10, "bfloat16": 16}[dtype]
    model = model_of(
        f"g ({dtype}[n, 2] x) => ({dtype}[n, 2] y) <{dtype}[2] w = {{1, 3}}> {{"
        "a = Constant<value_float = 0.5>() b = Constant<value_floats = [0.25, 0.5]>()"
        f"i = Cast<to = 7>(x) c = Cast<to = {code}>(i) s = Shape(x) z = ConstantOfShape(s)"
        f"o = ConstantOfShape<value = float[1] {{2}}>(s) p = Add(z, o) q = Add(p, a) r = Add(q, b)"
        f"t = Cast<to = {code}>(r) u = Add(c, t) v = Mul(u, w) y = Add(v, x) }}"
    )
    kind = {"float": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    # The text format writes float16 as bits.
    model.graph.initializers["w"].const_value = ir.Tensor(np.array([1, 3], kind), name="w")
    x = (normal(5, 2) * 4).astype(kind)
    wide = x.astype(np.float64)
    expected = (np.trunc(wide) + 2 + 0.5 + np.array([0.25, 0.5])) * np.array([1, 3]) + wide
    found = evaluate(model, {"x": x}, double=True)["y"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    assert model.graph.inputs[0].dtype == ir.DataType(code), "the model itself stays"
    assert model.graph.initializers["w"].dtype == ir.DataType(code)


def test_erf_is_computed_in_double() -> None:
    model = model_of("g (float[n] x) => (float[n] y, float[n] z) { y = Erf(x) z = Gelu(x) }")
    x = normal(50)
    wide = x.astype(np.float64)
    found = evaluate(model, {"x": x}, double=True)
    np.testing.assert_allclose(found["y"], np.vectorize(math.erf)(wide), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found["z"], gelu(wide), rtol=0, atol=1e-14)


def test_attention_is_computed_in_double() -> None:
    model = model_of("g (float[b, h, s, 8] q) => (float[b, h, s, 8] y) { y = Attention(q, q, q) }", 24)
    q = normal(2, 4, 3, 8)
    wide = q.astype(np.float64)
    expected = softmax(wide @ wide.transpose(0, 1, 3, 2) / math.sqrt(8)) @ wide
    np.testing.assert_allclose(evaluate(model, {"q": q}, double=True)["y"], expected, rtol=0, atol=1e-13)


def test_normalization_and_softmax_are_computed_in_double() -> None:
    model = model_of("g (float[n, 8] x, float[8] w) => (float[n, 8] y) { l = LayerNormalization(x, w) y = Softmax(l) }")
    inputs = {"x": normal(3, 8), "w": normal(8)}
    x, w = inputs["x"].astype(np.float64), inputs["w"].astype(np.float64)
    epsilon = float(np.float32(1e-5))
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * w
    np.testing.assert_allclose(evaluate(model, inputs, double=True)["y"], softmax(normed), rtol=0, atol=1e-14)


def test_an_operator_that_takes_no_doubles_is_computed_as_it_is_defined() -> None:
    text = "g (float[b, h, s, 8] x, float[b, s, 4] c, float[b, s, 4] d) => (float[b, h, s, 8] y) "
    model = model_of(text + "{ y = RotaryEmbedding(x, c, d) }", 24)
    inputs = {"x": normal(2, 3, 5, 8), "c": normal(2, 5, 4), "d": normal(2, 5, 4)}
    x, c, d = (inputs[name].astype(np.float64) for name in "xcd")
    first, second, c, d = x[..., :4], x[..., 4:], c[:, None], d[:, None]
    expected = np.concatenate([first * c - second * d, second * c + first * d], -1)
    np.testing.assert_allclose(evaluate(model, inputs, double=True)["y"], expected, rtol=0, atol=1e-14)
    assert [node.op_type for node in model.graph] == ["RotaryEmbedding"]


def test_subgraphs_and_functions_are_converted() -> None:
    text = """<ir_version: 10, opset_import: ["": 20, "local": 1]>
    g (bool c, float[n] x) => (float[n] y) {
      h = local.half(x)
      y = If(c) <then_branch = t () => (float[n] a) { k = Constant<value = float {3}>() a = Mul(h, k) },
                 else_branch = e () => (float[n] b) { b = Neg(h) }>
    }
    <domain: "local", opset_import: ["": 20]>
    half (x) => (y) { k = Constant<value = float {0.1}>() y = Mul(x, k) }"""
    model = ir.from_proto(onnx.parser.parse_model(text))
    x = normal(4)
    wide = x.astype(np.float64) * float(np.float32(0.1))
    for flag, expected in ((True, wide * 3), (False, -wide)):
        found = evaluate(model, {"c": np.array(flag), "x": x}, double=True)["y"]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


def test_an_operator_without_a_double_form_is_named() -> None:
    model = model_of("g (float[n] x) => (uint8[n] y) <float s = {0.1}> { [squeeze] y = QuantizeLinear(x, s) }")
    assert to_double(model) is None
    assert str(obstacle(model)).startswith("squeeze (QuantizeLinear): ")
    with pytest.raises(VerificationError, match="no double form: squeeze"):
        evaluate(model, {"x": normal(3)}, double=True)
    assert evaluate(model, {"x": normal(3)})["y"].dtype == np.uint8


def test_contrib_operators_run_in_their_own_type() -> None:
    model = model_of("g (float[n, 4] x, float[4] b) => (float[n, 4] y) { y = com.microsoft.BiasGelu(x, b) }",
                     imports=', "com.microsoft": 1')  # fmt: skip
    inputs = {"x": normal(3, 4), "b": normal(4)}
    np.testing.assert_allclose(evaluate(model, inputs)["y"], gelu(inputs["x"] + inputs["b"]), atol=1e-6)
    assert "com.microsoft" in str(obstacle(model))


def test_what_onnx_runtime_lacks_the_onnx_reference_runs() -> None:
    model = model_of("g (double[n, 4] x) => (double[n, 4] y) { y = Atan(x) }")
    reference = Reference(model)
    assert reference._session is None
    x = normal(3, 4).astype(np.float64)
    found = reference({"x": x})["y"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.arctan(x), atol=1e-12)
    with pytest.raises(RequestError, match="needed double"):
        reference({"x": normal(3, 4)})


def test_bfloat16_runs_in_onnx_runtime_and_is_rounded() -> None:
    model = model_of("g (bfloat16[n, 4] x) => (bfloat16[n, 4] y) { y = Atan(x) }")
    reference = Reference(model)
    assert reference._session is not None
    x = normal(3, 4).astype(ml_dtypes.bfloat16)
    found = reference({"x": x})["y"]
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found, np.arctan(x.astype(np.float32)).astype(ml_dtypes.bfloat16))
    with pytest.raises(RequestError, match="needed bfloat16"):
        reference({"x": normal(3, 4)})


def test_functions_of_one_name_are_told_apart_by_their_overload() -> None:
    text = """<ir_version: 10, opset_import: ["": 20, "local": 1]>
    g (double[n, 4] x) => (double[n, 4] y, double[n, 4] z) { y = local.f:up(x) z = local.f:down(x) }
    <domain: "local", overload: "up", opset_import: ["": 20]> f (x) => (y) { y = Atan(x) }
    <domain: "local", overload: "down", opset_import: ["": 20]> f (x) => (y) { a = Atan(x) y = Neg(a) }"""
    reference = Reference(ir.from_proto(onnx.parser.parse_model(text)))
    assert reference._session is None
    x = normal(3, 4).astype(np.float64)
    found = reference({"x": x})
    np.testing.assert_allclose(found["y"], np.arctan(x), atol=1e-12)
    np.testing.assert_array_equal(found["z"], -found["y"])


def test_a_model_that_nothing_runs_gives_both_reasons() -> None:
    model = model_of("g (float[n] x) => (float[n] y) { [odd] y = nowhere.Odd(x) }", imports=', "nowhere": 1')
    with pytest.raises(VerificationError, match=r"ONNX Runtime: .*Odd.*onnx\.reference: .*Odd"):
        evaluate(model, {"x": normal(3)})


def test_nothing_is_fused_or_folded() -> None:
    exp = Reference(model_of("g (float[n] x) => (float[n] y) { y = Exp(x) }"))
    assert exp._session is not None
    level = exp._session._session.get_session_options().graph_optimization_level
    assert level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # In single precision (x + 1e8) - 1e8 loses x; a rewrite to x would hide that.
    model = model_of("g (float[n] x) => (float[n] y) <float[1] w = {1e8}> { a = Add(x, w) y = Sub(a, w) }")
    x = np.array([1, 3], np.float32)
    np.testing.assert_array_equal(evaluate(model, {"x": x})["y"], [0, 0])
    np.testing.assert_allclose(evaluate(model, {"x": x}, double=True)["y"], x, atol=1e-7)


def test_an_empty_dimension_is_allowed() -> None:
    model = model_of("g (float[past, 2] x, float[n, 2] k) => (float[m, 2] y) { y = Concat<axis = 0>(x, k) }")
    assert evaluate(model, {"x": normal(0, 2), "k": normal(3, 2)})["y"].shape == (3, 2)
