"""Arithmetic and traffic, counted by hand."""

import json

import onnx_ir as ir
import pytest

from graphwright import testing
from graphwright.engine.cost import CostReport, cost_table

HEADER = '<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]> '


def cost(text: str, **dims: int) -> CostReport:
    return cost_table(testing.model(HEADER + text), dims)


@pytest.mark.parametrize(
    ("graph", "flops", "moved"),
    [
        ("(float[B, 3, 4] x, float[4, 8] w) => (y) {y = MatMul(x, w)}", 2 * 6 * 4 * 8, 4 * (24 + 32 + 48)),
        ("(float[B, 4] x, float[8, 4] w, float[8] b) => (y) {y = Gemm<transB=1>(x, w, b)}", 16 * 9, 4 * 64),
        ("(float[4, B] x, float[4, 8] w) => (y) {y = Gemm<transA=1>(x, w)}", 16 * 8, 4 * (8 + 32 + 16)),
        (
            "(float[B, 3, 8, 8] x, float[5, 3, 3, 3] w) => (y) {y = Conv(x, w)}",
            360 * 54,
            4 * (384 + 135 + 360),
        ),
        ("(float16[B, 4] x, float16[4] b) => (y) {y = Add(x, b)}", 8, 2 * (8 + 4 + 8)),
        ("(float[B] x) => (y) {y = Mul(x, x)}", 2, 4 * (2 + 2)),
        ("(float[B, 4] x) => (y) {y = Softmax(x)}", 8 * 12, 4 * 16),
        ("(float[9000, 4] t, int64[B] i) => (y) {y = Gather(t, i)}", 0, 2 * 32 + 16),
        ("(float[B, 4] x) => (y) {y = Transpose(x)}", 0, 64),
        ("(float[B, 4] x) => (y) {y = Flatten(x)}", 0, 0),
        ("(float[B, 4] x) => (y) {y = ReduceSum<keepdims = 0>(x)}", 8, 4 * 9),
    ],
)
def test_operations_and_bytes(graph: str, flops: int, moved: int) -> None:
    found = cost("g " + graph, B=2)
    assert found.unknown == ()
    assert (found.flops, found.bytes) == (flops, moved)


def test_both_layouts_of_attention_cost_the_same() -> None:
    split = "g (float[B, 4, S, 8] q, float[B, 4, T, 8] k, float[B, 4, T, 8] v) => (y) {y = Attention(q, k, v)}"
    joined = (
        "g (float[B, S, 32] q, float[B, T, 32] k, float[B, T, 32] v) => (y) "
        "{y = Attention<q_num_heads = 4, kv_num_heads = 4>(q, k, v)}"
    )
    first, second = (cost(text, B=2, S=3, T=5).flops for text in (split, joined))
    assert first == second == 2 * 2 * (2 * 4 * 3 * 8) * 5 + 12 * 2 * 4 * 3 * 5


def test_past_keys_are_attended_to_as_well() -> None:
    text = (
        "g (float[B, 4, S, 8] q, float[B, 4, S, 8] k, float[B, 4, S, 8] v, "
        "float[B, 4, P, 8] a, float[B, 4, P, 8] b) "
        "=> (y, c, d) {y, c, d = Attention(q, k, v, , a, b)}"
    )
    model = ir.from_onnx_text(HEADER + text)
    model.graph.outputs[0].shape, model.graph.outputs[0].dtype = ir.Shape([2, 4, 1, 8]), ir.DataType.FLOAT
    for value in model.graph.outputs[1:]:
        value.shape, value.dtype = ir.Shape([2, 4, 10, 8]), ir.DataType.FLOAT
    assert cost_table(model, {"B": 2, "S": 1, "P": 9}).flops == 2 * 10 * 2 * 64 + 12 * 8 * 10


def test_outputs_that_nobody_reads_are_not_written() -> None:
    found = cost("g (float[N, 4] x) => (y) {a, b = Split<axis = 1, num_outputs = 2>(x) y = Neg(a)}", N=3)
    work = found.by_operator()["Split"].work
    assert (work.read.size, work.written.size) == (4 * 12, 4 * 6)


def test_what_is_not_known_is_listed_with_its_reason() -> None:
    found = cost("g (float[N] x, float[K] z) => (a, b) {a = Neg(x) b = com.microsoft.Mystery(x) c = Neg(z)}", N=3)
    reasons = {each.op_type: each.reason for each in found.unknown}
    assert found.flops == 3
    assert reasons["Mystery"] == "no formula for this operator"
    assert reasons["Neg"] == "the size K is not known"


def test_subgraphs_and_functions_are_listed_and_not_guessed() -> None:
    text = (
        "g (bool c, float[N] x) => (float[N] y) {z = local.f(x) y = If(c) <"
        "then_branch = t () => (float[N] u) {u = Exp(z)}, else_branch = e () => (float[N] v) {v = Neg(z)}>}"
        '<domain: "local", opset_import: ["": 23]> f (a) => (b) {b = Neg(a)}'
    )
    model = ir.from_onnx_text(HEADER + text)
    model.opset_imports["local"] = 1
    assert [each.op_type for each in cost_table(model, {"N": 3}).unknown] == ["f", "If"]


def test_weights_are_counted_once_each() -> None:
    model = ir.from_onnx_text(
        HEADER + "g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, int64[3] s = {1, 2, 3}> {y = Mul(x, w)}"
    )
    shared = model.graph.initializers["w"].const_value
    model.graph.register_initializer(ir.Value(name="twin", const_value=shared))
    found = cost_table(model, {})
    assert (found.parameters, found.weight_bytes) == (2, 8 + 24)


def test_derived_sizes_follow_from_their_names() -> None:
    model = ir.from_onnx_text(HEADER + "g (float[N] x) => (float[M] y) {y = Neg(x)}")
    for value in (model.graph.inputs[0], model.graph.outputs[0]):
        value.shape = ir.Shape([ir.SymbolicDim("past + seq")])
    assert cost_table(model, {"past": 3, "seq": 4}).flops == 7


def test_the_report_prints_and_is_json() -> None:
    found = cost("g (float[N, 4] x, float[4, 8] w) => (y) {a = MatMul(x, w) y = Neg(a)}", N=3)
    assert list(found.by_operator()) == ["MatMul", "Neg"], "the costliest comes first"
    assert json.loads(json.dumps(found.to_json()))["operators"]["MatMul"]["nodes"] == 1
    assert json.loads(json.dumps(found.to_json()))["bytes"] == 4 * (12 + 32 + 24) + 4 * 48


def formulas(text: str) -> CostReport:
    return cost_table(testing.model(HEADER + text))


def test_without_sizes_figures_are_formulas_that_give_the_same_numbers() -> None:
    text = """g (float[B, S, 4] x, float[B, 4, S] z) => (float[B, S, 8] a, y) <float[4, 8] w>
        {a = MatMul(x, w) y = MatMul(x, z)}"""
    found = formulas(text)
    assert found.dims is None
    assert str(found.total.static_macs) == "32*B*S"
    assert str(found.total.dynamic_macs) == "4*B*S**2"
    assert found.flops == "8*B*S**2 + 64*B*S"
    assert str(found.total.read) == "48*B*S + 128"
    assert str(found.total.written) == "4*B*S**2 + 32*B*S"
    at = found.at({"B": 2, "S": 5})
    assert at.flops == cost(text, B=2, S=5).flops == 8 * 50 + 64 * 10
    assert at.dims == {"B": 2, "S": 5}


def test_a_weight_that_is_computed_from_weights_is_one() -> None:
    integers = "int8[4, 3] q = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}"
    text = f"""g (float[N, 4] x) => (a, b) <float[8, 4] w, float s = {{0.5}}, {integers}>
        {{t = Transpose(w) a = MatMul(x, t) d = DequantizeLinear(q, s) b = Gemm(x, d)}}"""
    work = formulas(text).total
    assert (str(work.static_macs), str(work.dynamic_macs)) == ("44*N", "0")


def test_parameters_are_told_by_the_first_operator_that_reads_them() -> None:
    text = """g (float[N, 2] x) => (y) <float[2, 2] w = {3, 1, 0, 1}, float[2] b = {1, 0}>
        {m = MatMul(x, w) a = Add(m, b) n = MatMul(a, w) y = Mul(n, b)}"""
    found = formulas(text).by_operator()
    assert {name: each.parameters for name, each in found.items()} == {"MatMul": 4, "Add": 2, "Mul": 0}


def test_a_matrix_of_zeros_and_ones_selects_and_is_no_parameter() -> None:
    text = """g (float[N, 2] x) => (y) <float[2, 2] c = {1, 0, 0, 1}, float[2, 2] o = {1, 1, 1, 1}, float[2] v = {1, 0}>
        {m = MatMul(x, c) a = MatMul(m, o) y = Mul(a, v)}"""
    found = formulas(text)
    assert found.parameters == 4 + 2
    assert str(found.total.static_macs) == "8*N"


def test_sizes_that_only_numbers_give_are_counted_at_given_sizes() -> None:
    """The remainder of a name by another has no formula, that of numbers has."""
    text = """g (float[N] x, float[K] z) => (y) <int64[1] zero = {0}>
        {n = Shape(x) k = Shape(z) m = Mod(n, k) p = Concat<axis = 0>(zero, m) w = Pad(x, p) y = Neg(w)}"""
    assert [each.op_type for each in formulas(text).unknown] == ["Pad", "Neg"]
    found = cost(text, N=13, K=5)
    assert found.unknown == ()
    assert found.by_operator()["Neg"].work.flops.size == 13 + 3


def test_padding_to_a_multiple_has_a_formula() -> None:
    text = """g (float[N] x) => (y) <int64[1] eight = {8}, int64[1] zero = {0}>
        {n = Shape(x) o = Neg(n) m = Mod(o, eight) p = Concat<axis = 0>(zero, m) w = Pad(x, p) y = Neg(w)}"""
    # Of the padded numbers, and of the sizes themselves.
    assert formulas(text).flops == "8*((N + 7)//8) + 2"
    assert [cost(text, N=size).flops for size in (1, 8, 13)] == [8 + 2, 8 + 2, 16 + 2]


def test_the_model_is_not_changed() -> None:
    model = ir.from_onnx_text(HEADER + "g (float[N] x) => (y) {a = Neg(x) y = Neg(a)}")
    before = ir.to_proto(model).SerializeToString()
    cost_table(model)
    cost_table(model, {"N": 3})
    assert ir.to_proto(model).SerializeToString() == before
