"""engine/shapes: every size that is claimed is the size of a real run."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphwright.engine import facts
from graphwright.engine.shapes import infer_shapes, shape_value

# In place of the type of the graph's inputs: what a case needs is put between the parts.
HEAD = """<ir_version: 11, opset_import: ["": 23]>
g (float[A,B,6] x, float[A,1,6] w, int64[A,B] i) => (y) """
K = "<int64 zero = {0}, int64 deep = {2}, int64 one = {1}, int64[1] z = {0}, int64[1] o = {1}, "
K += "int64[1] t = {2}, int64[1] m = {-1}, "
K += "int64[1] end = {9223372036854775807}, float[1,4] table = {1,2,3,4}, int64[3] s113 = {1,1,3}> "

# Body -> the shape of y. Sizes of A and B are drawn from 0; those of MEANT_FOR_MORE from 1.
CASES = {
    "{y = Shape(x)}": "3",
    "{y = Shape <start = 1> (x)}": "2",
    "{y = Size(x)}": "",
    "{y = Relu(x)}": "A,B,6",
    "{y = Cast <to = 7> (x)}": "A,B,6",
    "{y = Add(x, w)}": "A,B,6",
    "{y = Add(w, x)}": "A,B,6",
    "{c = Greater(x, w) y = Where(c, x, w)}": "A,B,6",
    "{y = Max(x, w, x)}": "A,B,6",
    "{y = Gather <axis = 2> (x, i)}": "A,B,A,B",
    "{y = Gather <axis = -1> (x, zero)}": "A,B",
    "{n = Unsqueeze(i, m) y = GatherND(x, n)}": "A,B,B,6",
    "{q = Unsqueeze(x, o) y, k, v = Attention(q, q, q, , q, q)}": "A,1,B,6",
    "{y = Attention <q_num_heads = 2, kv_num_heads = 2> (x, x, x)}": "A,B,6",
    "{y = Pad(x, p) p = Constant <value_ints = [0, 0, 1, 0, 0, 2]> ()}": "A,B,9",
    "{s = Shape <start = 1, end = 2> (x) n = Neg(s) r = Mod(n, t) p = Concat <axis = 0> (z, r) y = Pad(x, p, , o)}": (
        "A,2*((B + 1)//2),6"
    ),
    "{s = Shape <start = 1, end = 2> (x) r = Mod(m, t) p = Concat <axis = 0> (r, s) y = Pad(x, p, , m)}": "A,B,B + 7",
    "{y = GatherElements <axis = 1> (i, i)}": "A,B",
    "{y = Concat <axis = 1> (x, w, x)}": "A,2*B + 1,6",
    "{y = Concat <axis = 0> (x, x)}": "2*A,B,6",
    "{y = Squeeze(w, o)}": "A,6",
    "{y = Unsqueeze(x, s) s = Concat <axis = 0> (z, m)}": "1,A,B,6,1",
    "{y = Transpose <perm = [2, 0, 1]> (x)}": "6,A,B",
    "{y = Transpose(x)}": "6,B,A",
    "{y = Flatten <axis = 2> (x)}": "A*B,6",
    "{y = Flatten <axis = -2> (x)}": "A,6*B",
    "{s = Shape(x) y = Expand(w, s)}": "A,B,6",
    "{y = Tile(x, s113)}": "A,B,18",
    "{s = Shape(i) y = ConstantOfShape(s)}": "A,B",
    "{s = Shape(i) p = ReduceProd <keepdims = 0> (s) y = Range(zero, p, one)}": "A*B",
    "{s = Shape(x) b = Gather(s, one) y = Range(zero, b, one)}": "B",
    "{s = Shape(x) b = Gather(s, one) y = Range(one, b, one)}": "Max(0, B - 1)",
    "{s = Shape <start = 1, end = 2> (x) y = Slice(table, z, s, o)}": "1,Min(4, B)",
    "{s = Shape <start = 1, end = 2> (x) y = Slice(x, z, s, o)}": "A,B,6",
    "{s = Shape <start = 0, end = 1> (x) y = Slice(x, z, s, o)}": "A,Min(A, B),6",
    "{y = Slice(x, o, end, o)}": "A,Max(0, B - 1),6",
    "{y = Slice(x, z, m, o)}": "A,Max(0, B - 1),6",
    "{y = Slice(x, m, end, o)}": "A,Min(1, B),6",
    "{y = Slice(x, z, end, o, t)}": "A,((B + 1)//2),6",
    "{c = Concat <axis = 1> (i, i) s = Shape <start = 1, end = 2> (i) y = Slice(c, s, end, o)}": "A,B",
    "{y, v = Split <axis = 2, num_outputs = 2> (x)}": "A,B,3",
    "{y, v, q, r = Split <axis = 2, num_outputs = 4> (x)}": "A,B,2",
    "{c = Concat <axis = 0> (x, x) y, v = Split <axis = 0, num_outputs = 2> (c)}": "A,B,6",
    "{a = Transpose <perm = [0, 2, 1]> (x) y = MatMul(x, a)}": "A,B,B",
    "{f = Flatten <axis = 2> (x) y = Gemm <transA = 1> (f, f)}": "6,6",
    "{y = ReduceSum <keepdims = 0> (x, o)}": "A,6",
    "{y = ReduceSum(x, o)}": "A,1,6",
    "{y = ReduceSum(x)}": "1,1,1",
    "{y = ReduceSum <noop_with_empty_axes = 1> (x)}": "A,B,6",
    "{y = Softmax <axis = -1> (x)}": "A,B,6",
    "{y = CumSum(x, one)}": "A,B,6",
    "{y = IsNaN(x)}": "A,B,6",
    "{y, v = TopK <axis = 2> (x, t)}": "A,B,2",
    "{y = OneHot <axis = -1> (i, deep, pair) pair = Constant <value_floats = [0.0, 1.0]> ()}": "A,B,2",
    "{y = Reshape(x, p) p = Constant <value_ints = [0, 0, 2, 3]> ()}": "A,B,2,3",
    "{y = Reshape(x, p) p = Constant <value_ints = [0, 0, 2, -1]> ()}": "A,B,2,3",
    "{s = Shape(x) y = Reshape <allowzero = 1> (x, s)}": "A,B,6",
    "{s = Shape(i) y = Reshape(i, s)}": "A,B",
    "{y = If (c) <then_branch = t () => (p) {p = Relu(x)}, else_branch = e () => (q) {q = Neg(x)}>"
    " c = Constant <value = bool {1}> ()}": "A,B,6",
    "{y = Loop (two, , x) <body = b (int64 n, bool c, float[P,Q,R] h) => (bool d, float[P2,Q2,R2] k)"
    " {d = Identity(c) k = Relu(h)}> two = Constant <value_int = 2> ()}": "A,B,6",
}
MEANT_FOR_MORE = {
    "{y = Reshape(x, m)}": "6*A*B",
    "{p = Constant <value_ints = [-1, 3]> () y = Reshape(x, p)}": "2*A*B,3",
    "{s = Shape <end = 2> (x) p = Concat <axis = 0> (s, m, t) y = Reshape(x, p)}": "A,B,3,2",
    "{s = Shape <start = 1, end = 2> (x) p = Concat <axis = 0> (m, s) y = Reshape(x, p)}": "6*A,B",
    "{s = Shape <end = 2> (x) p = Concat <axis = 0> (m, s) y = Reshape(x, p)}": "6,A,B",
    "{y = LayerNormalization(x, n) n = Constant <value_floats = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]> ()}": "A,B,6",
    "{s = Shape <end = 1> (x) r = Mod(m, s) p = Concat <axis = 0> (r, z) y = Pad(x, p, , o)}": "A,?,6",
    "{y = ArgMax <axis = 1, keepdims = 0> (x)}": "A,6",
}


def load(body: str) -> ir.Model:
    """Sort a body, written in the order that reads best, and load it."""
    model = ir.from_onnx_text(HEAD + K + body)
    model.graph.sort()
    return model


def spelled(value: ir.Value) -> str | None:
    if value.shape is None:
        return None
    return ",".join(str(size) if isinstance(size, int) else size.value or "?" for size in value.shape)


def value_of(size: int | ir.SymbolicDim, named: dict[str, int]) -> int:
    if isinstance(size, int):
        return size
    return int(eval(size.value, {"Min": min, "Max": max}, dict(named)))


def run(model: ir.Model, named: dict[str, int]) -> dict[str, np.ndarray]:
    """Run a model with these sizes and return every value of its main graph."""
    wide = model.clone()
    seen = set(wide.graph.outputs)
    wide.graph.outputs.extend(v for node in wide.graph for v in node.outputs if v.name and v not in seen)
    inputs = {
        value.name: np.zeros([value_of(size, named) for size in value.shape], value.dtype.numpy())
        for value in wide.graph.inputs
    }
    results = ReferenceEvaluator(ir.to_proto(wide)).run(None, inputs)
    return dict(zip([value.name for value in wide.graph.outputs], results, strict=True))


def assert_true_of(model: ir.Model, named: dict[str, int]) -> None:
    """Check every size and every element that is claimed against a run; a run that fails claims nothing."""
    twin = model.clone()
    infer_shapes(model)
    try:
        results = run(twin, named)
    except (ValueError, IndexError, RuntimeError):
        return
    for node in model.graph:
        for value in node.outputs:
            real = np.asarray(results[value.name])
            assert value.dtype is not None and value.dtype.numpy() == real.dtype, value
            assert value.shape is not None and len(value.shape) == real.ndim, value
            for axis, size in enumerate(value.shape):
                assert facts.dim(value, axis) is None or value_of(size, named) == real.shape[axis], (
                    value,
                    named,
                )
            for claimed, element in zip(shape_value(value) or (), real.reshape(-1), strict=False):
                assert claimed is None or value_of(claimed, named) == element, (value, named)


@pytest.mark.parametrize("body", [*CASES, *MEANT_FOR_MORE])
def test_sizes_are_spelled_in_the_names_of_the_inputs(body: str) -> None:
    model = load(body)
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == {**CASES, **MEANT_FOR_MORE}[body]
    assert not infer_shapes(model)


@pytest.mark.parametrize("body", CASES)
@given(a=st.integers(0, 5), b=st.integers(0, 5))
def test_claims_hold_in_real_runs(body: str, a: int, b: int) -> None:
    assert_true_of(load(body), {"A": a, "B": b})


@pytest.mark.parametrize("body", MEANT_FOR_MORE)
@given(a=st.integers(1, 5), b=st.integers(1, 5))
def test_claims_hold_where_sizes_are_not_zero(body: str, a: int, b: int) -> None:
    assert_true_of(load(body), {"A": a, "B": b})


@pytest.mark.parametrize("body", [*CASES, *MEANT_FOR_MORE])
def test_every_case_runs(body: str) -> None:
    assert len(run(load(body), {"A": 2, "B": 3})) > 0


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("{p = Constant <value_ints = [0, -1]> () y = Pad(x, p, , o)}", "A,?,6"),
        ("{p = Constant <value_ints = [-2, 0]> () y = Pad(x, p, , t)}", "A,B,4"),
        ("{p = Constant <value_ints = [1, 1, 1]> () y = Pad(x, p, , t)}", "?,?,?"),
        ("{p = Constant <value_ints = [1, 1]> () q = Constant <value_ints = [3]> () y = Pad(x, p, , q)}", "?,?,?"),
    ],
)
def test_pads_that_take_away_or_do_not_fit(body: str, expected: str) -> None:
    model = load(body)
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == expected


def test_two_different_names_may_broadcast_to_either() -> None:
    model = ir.from_onnx_text(HEADER + "g (float[A] x, float[B] w) => (y) {y = Add(x, w)}")
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == "?"


HEADER = '<ir_version: 10, opset_import: ["": 17]> '


def declared(types: str, body: str) -> ir.Model:
    return ir.from_onnx_text(HEADER + f"g (float[N,4] x) => (y) <{types}> {{{body}}}")


def test_a_declaration_fills_what_no_operator_tells() -> None:
    model = declared("float[N,rows] a", "a = my.Op(x) y = Relu(a)")
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == "N,rows"


@pytest.mark.parametrize("left_behind", ["3", "7,4", "N,5", "N,4,1"])
def test_one_wrong_declaration_refutes_all(left_behind: str) -> None:
    model = declared(f"float[{left_behind}] a, float[1,1] b", "a = Relu(x) b = my.Op(a) y = Relu(b)")
    assert infer_shapes(model)
    assert [spelled(node.outputs[0]) for node in model.graph] == ["N,4", None, None]
    assert not infer_shapes(model)


def test_the_type_of_dequantized_numbers_is_that_of_their_scale() -> None:
    text = HEAD.replace("int64[A,B] i", "int8[A] q, float s") + "{y = DequantizeLinear(q, s)}"
    model = ir.from_onnx_text(text)
    infer_shapes(model)
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT


def test_made_up_names_are_not_compared() -> None:
    model = declared("float[unk__0,4] a, float[unk__0,4] b", "a = my.Op(x) b = my.Op(x) y = Add(a, b)")
    infer_shapes(model)
    a, b, y = (node.outputs[0] for node in model.graph)
    assert [spelled(value) for value in (a, b, y)] == ["?,4", "?,4", "?,4"]
    assert not facts.same_shape(a, b)


def test_two_unknown_sizes_of_one_kind_stay_apart() -> None:
    model = declared("float q", "a = NonZero(x) b = NonZero(a) y = Transpose(b)")
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == "?,2"


def test_names_of_outputs_stay() -> None:
    text = HEADER + "g (float[N,4] x) => (float[rows,columns] y) {y = Relu(x)}"
    model = ir.from_onnx_text(text)
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == "rows,columns"


def test_an_initializer_that_callers_may_replace_is_no_constant() -> None:
    text = HEADER + "g (float[N,4] x, int64[2] s = {2, 2}) => (y) {y = Reshape(x, s)}"
    model = ir.from_onnx_text(text)
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == "?,?"


def test_a_loop_that_grows_its_value_has_no_fixed_size() -> None:
    model = load(
        "{y = Loop (two, , x) <body = b (int64 n, bool c, float[P,Q,R] h) => (bool d, float[P2,Q2,R2] k)"
        " {d = Identity(c) k = Concat <axis = 1> (h, x)}> two = Constant <value_int = 2> ()}"
    )
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == "A,?,6"


def test_branches_of_different_sizes_give_an_unknown_one() -> None:
    model = load(
        "{y = If (c) <then_branch = t () => (p) {p = Relu(x)}, else_branch = e () => (q) {q = Neg(w)}>"
        " c = Constant <value = bool {1}> ()}"
    )
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == "A,?,6"


def test_a_function_is_followed_for_each_call() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 10, opset_import: ["": 17, "l": 1]> g (float[N,4] x, float[M,3] w) => (y, v)'
        ' {y = l.f(x) v = l.f(w)} <domain: "l", opset_import: ["": 17]> f (i) => (o) {o = Transpose(i)}'
    )
    infer_shapes(model)
    assert [spelled(value) for value in model.graph.outputs] == ["4,N", "3,M"]
    assert [value.dtype for value in model.graph.outputs] == [ir.DataType.FLOAT] * 2


def test_a_graph_that_squares_its_sizes_ends() -> None:
    squares = " ".join(f"v{n + 1} = Mul(v{n}, v{n})" for n in range(60))
    model = load(f"{{s = Shape(x) v0 = ReduceSum <keepdims = 0> (s) {squares} y = Range(zero, v60, one)}}")
    infer_shapes(model)
    assert spelled(model.graph.outputs[0]) == "?"
