"""fold-constants: what is computed, what is left to the runtime, and how large results may be."""

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine import facts
from graphwright.engine.observe import Reason
from graphwright.passes.lift.fold_constants import FOLD_CONSTANTS, RESULT_SIZE
from graphwright.runtime.reference import evaluate
from graphwright.testing import assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[N, 4] x) => (float[N, 4] y) "
AB = "<float[4] a = {1, 2, 3, 4}, float[4] b = {2, 4, 5, 8}> "

EXAMPLES = {
    "product": HEAD + SIGNATURE + AB + "{c = Mul(a, b) y = Mul(x, c)}",
    "chain": HEAD + SIGNATURE + AB + "{c = Add(a, b) d = Sqrt(c) e = Div(a, d) y = Mul(x, e)}",
    "constant node": HEAD + SIGNATURE + "{c = Constant <value_float = 2.0> () y = Mul(x, c)}",
    "known size": HEAD
    + SIGNATURE
    + "<int64 one = {1}> {s = Shape(x) n = Gather(s, one) f = Cast <to = 1> (n) y = Mul(x, f)}",
    "known tail": HEAD + SIGNATURE + "{s = Shape <start = 1> (x) f = Cast <to = 1> (s) y = Mul(x, f)}",
    "known end": HEAD
    + "(float[2, N] x) => (float[2, N] y) {s = Shape <end = 1> (x) f = Cast <to = 1> (s) y = Mul(x, f)}",
}
EXAMPLES["copies"] = (
    HEAD
    + SIGNATURE
    + AB.replace("> ", ", int64[2] s = {4, 1}, int64[1] f = {0}> ")
    + "{r = Reshape(a, s) t = Transpose(r) q = Squeeze(t, f) y = Mul(x, q)}"
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_one_node_is_left(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, FOLD_CONSTANTS)
    assert [node.op_type for node in after.graph] == ["Mul"]
    assert_equivalent(before, after, sizes={"N": 3})


def test_the_result_is_an_initializer() -> None:
    after = HEAD + SIGNATURE + "<float[4] c = {2, 8, 15, 32}> {y = Mul(x, c)}"
    assert_fires(model(EXAMPLES["product"]), FOLD_CONSTANTS, after=after)


KEPT = {
    "dynamic size": HEAD
    + SIGNATURE
    + "<int64 zero = {0}> {s = Shape(x) n = Gather(s, zero) f = Cast <to = 1> (n) y = Mul(x, f)}",
    "all sizes": HEAD + "(float[N, 4] x) => (int64[2] y) {s = Shape(x) y = Neg(s)}",
    "overridable": HEAD
    + SIGNATURE.replace("x)", "x, float[4] a = {1, 2, 3, 4})")
    + "<float[4] b = {1, 2, 3, 4}> {c = Mul(a, b) y = Mul(x, c)}",
    "result is an output": HEAD + "(float[N] x) => (float[N] y, float[4] c) " + AB + "{c = Mul(a, b) y = Exp(x)}",
    "exponential": HEAD + SIGNATURE + AB + "{c = Exp(a) y = Mul(x, c)}",
    "matrix product": HEAD + SIGNATURE + AB + "{c = MatMul(a, b) y = Mul(x, c)}",
    "random numbers": HEAD + SIGNATURE + AB + "{c = RandomNormalLike(a) y = Mul(x, c)}",
    "strings": HEAD + '(string[N] x) => (bool[N] y) {c = Constant <value_string = "a"> () y = Equal(x, c)}',
    "sum of floats": HEAD + SIGNATURE + AB + "{c = ReduceSum(a) y = Mul(x, c)}",
    "integer division of a negative": HEAD
    + "(int64[N] x) => (int64[N] y) <int64 a = {-7}, int64 b = {2}> {c = Div(a, b) y = Mul(x, c)}",
    "integer division by zero": HEAD
    + "(int64[N] x) => (int64[N] y) <int64 a = {7}, int64 b = {0}> {c = Div(a, b) y = Mul(x, c)}",
    "float beyond the integers": HEAD
    + "(int32[N] x) => (int32[N] y) <float a = {3e9}> {c = Cast <to = 6> (a) y = Mul(x, c)}",
    "double into half": HEAD
    + "(float16[N] x) => (float16[N] y) <double a = {1.1}> {c = Cast <to = 10> (a) y = Mul(x, c)}",
    "four bits": HEAD
    + "(float[N] x) => (float[N] y) <float a = {3}> {b = Cast <to = 22> (a) c = Cast <to = 1> (b) y = "
    "Mul(x, c)}",
    "wrong index": HEAD + SIGNATURE + "<float[4] a = {1, 2, 3, 4}, int64 i = {9}> {c = Gather(a, i) y = Mul(x, c)}",
    "own operator": '<ir_version: 12, opset_import: ["": 24, "own": 1]> g '
    + SIGNATURE
    + AB
    + "{c = own.Mul(a, b) y = Mul(x, c)}",
}


@pytest.mark.parametrize("name", KEPT)
def test_the_rest_is_left_to_the_runtime(name: str) -> None:
    assert_refuses(
        model(KEPT[name], infer=name not in ("wrong index", "own operator")), FOLD_CONSTANTS, Reason.STRUCTURE
    )


@pytest.mark.parametrize(
    "body",
    [
        "<int64[2] s = {100000, 100000}> {c = ConstantOfShape(s) y = Mul(x, c)}",
        "<float a = {1}, int64[2] s = {100000, 100000}> {c = Expand(a, s) y = Mul(x, c)}",
        "<float[1] a = {1}, int64[1] s = {1000000000}> {c = Tile(a, s) y = Mul(x, c)}",
        "<int64 a = {0}, int64 b = {1000000000000}, int64 d = {1}> {r = Range(a, b, d) c = Cast <to = "
        "1> (r) y = Mul(x, c)}",
    ],
)
def test_a_small_file_makes_no_huge_tensor(body: str) -> None:
    source = HEAD + "(float x) => (float[] y) " + body
    assert_refuses(model(source, infer=False), FOLD_CONSTANTS, Reason.STRUCTURE)


def test_large_inputs_are_not_read() -> None:
    before = model(HEAD + SIGNATURE + "<float[4] w> {c = Transpose(w) y = Mul(x, c)}")

    def read() -> ir.TensorProtocol:
        raise AssertionError("read")

    weight = before.graph.initializers["w"]
    weight.const_value = ir.LazyTensor(read, dtype=ir.DataType.FLOAT, shape=ir.Shape([1 << 23]))
    assert not FOLD_CONSTANTS.function(before)


def test_functions_get_constant_nodes_and_keep_the_callers_attributes() -> None:
    text = (
        '<ir_version: 12, opset_import: ["": 24, "own": 1]> g (float[N] x) => (float[N] y) '
        '{y = own.f <p = 3.0> (x)} <domain: "own", opset_import: ["": 24]> f <p> (a) => (d) '
        "{b = Constant <value_float = 2.0> () c = Mul(b, b) "
        "q = Constant <value_float: float = @p> () r = Mul(q, q) s = Mul(a, c) d = Mul(r, s)}"
    )
    after = assert_fires(model(text, infer=False), FOLD_CONSTANTS, regions=False)
    (body,) = after.functions.values()
    assert [node.op_type for node in body] == ["Constant", "Constant", "Mul", "Mul", "Mul"]
    x = np.asarray([1, 2], np.float32)
    np.testing.assert_array_equal(evaluate(after, {"x": x})["y"], 36 * x)


def test_folds_inside_branches() -> None:
    text = HEAD + (
        "(float[N] x, bool k) => (float[N] y) <float a = {2}> {y = If (k) <then_branch = t () => "
        "(float[N] o) "
        "{c = Mul(a, a) o = Mul(x, c)}, else_branch = f () => (float[N] q) {q = Neg(x)}>}"
    )
    before = model(text)
    assert_equivalent(before, assert_fires(before, FOLD_CONSTANTS), sizes={"N": 4})


INTEGERS = "int64[3] a = {1, 2, 7}, int64[3] b = {3, 2, 1}, int64 i = {1}, int64[1] o = {1}, int64 z = {0}"
BOOLS = "bool[3] p = {1, 0, 1}, bool[3] q = {1, 1, 0}"
FLOATS = "float[3] f = {0.1, -2.7, 1e30}, float[3] h = {3.3, -0.2, 1e30}, int64[2] n = {3, 1}"
CALLS = {
    **{name: f"{name}(f)" for name in ("Abs", "Ceil", "Floor", "Identity", "Neg", "Reciprocal", "Sqrt", "Flatten")},
    **{name: f"{name}(f, h)" for name in ("Add", "Div", "Mul", "Sub", "Equal", "Greater", "GreaterOrEqual")},
    **{name: f"{name}(f, h)" for name in ("Less", "LessOrEqual")},
    **{name: f"{name}(a, b)" for name in ("Max", "Min", "Mod")},
    **{name: f"{name}(a)" for name in ("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum")},
    **{name: f"{name}(p, q)" for name in ("And", "Or", "Xor")},
    "Cast": "Cast <to = 10> (f)",
    "Concat": "Concat <axis = 0> (f, h)",
    "ConstantOfShape": "ConstantOfShape(n)",
    "Expand": "Expand(f, n)",
    "Gather": "Gather(f, i)",
    "Not": "Not(p)",
    "Range": "Range(z, i, i)",
    "Reshape": "Reshape(f, n)",
    "Slice": "Slice(f, o, t)",
    "Squeeze": "Squeeze(o)",
    "Tile": "Tile(f, o)",
    "Transpose": "Transpose(f)",
    "Trilu": "Trilu(m)",
    "Unsqueeze": "Unsqueeze(f, o)",
    "Where": "Where(p, f, h)",
}


@pytest.mark.parametrize("op_type", sorted(RESULT_SIZE))
def test_each_operator_gives_the_bits_that_the_runtime_gives(op_type: str) -> None:
    constants = f"{INTEGERS}, {BOOLS}, {FLOATS}, int64[1] t = {{3}}, float[2, 2] m = {{1, 2, 3, 4}}"
    before = model(HEAD + f"(float[1] x) => (float[1] y) <{constants}> {{r = {CALLS[op_type]} y = Exp(x)}}")
    (node,) = [node for node in before.graph if node.op_type == op_type]
    kept = before.clone()
    kept.graph.outputs.append(kept.graph.node(0).outputs[0])
    expected = evaluate(kept, {"x": np.ones(1, np.float32)})["r"]
    before.graph.append(copy := ir.node("Identity", [node.outputs[0]]))
    copy.outputs[0].name, copy.outputs[0].type = "out", node.outputs[0].type
    before.graph.outputs.append(copy.outputs[0])
    assert FOLD_CONSTANTS.function(before)
    found = facts.constant(before.graph.initializers["r"])
    assert found is not None
    assert found.numpy().dtype == expected.dtype
    assert found.numpy().shape == expected.shape
    assert found.numpy().tobytes() == expected.tobytes()
