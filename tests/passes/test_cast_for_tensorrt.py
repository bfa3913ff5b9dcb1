"""Booleans through integers, NonZero through floats: numbers, names, and what stays."""

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.structure import check_onnx
from graphwright.passes.lower.cast_for_tensorrt import CAST_FOR_TENSORRT
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_fires, difference, model


def graph(inputs: str, outputs: str, body: str, consts: str = "") -> ir.Model:
    return model(f'<ir_version: 10, opset_import: ["": 24]> g ({inputs}) => ({outputs}) <{consts}> {{ {body} }}')


EXAMPLES = {
    "pad": '<ir_version: 10, opset_import: ["": 24]> g (float[B,S] x) => (bool[B,M] y) <int64[4] pads = {0, 1, 0, 0}, '
    "float zero = {0}> { keep = Less(x, zero) y = Pad(keep, pads) }",
}


def cast(before: ir.Model) -> ir.Model:
    assert unsupported(before)
    outcome = apply(before, CAST_FOR_TENSORRT)
    assert outcome.applied == 1
    check_onnx(outcome.model)
    assert not unsupported(outcome.model)
    assert [value.name for value in outcome.model.graph.outputs] == [value.name for value in before.graph.outputs]
    assert not apply(outcome.model, CAST_FOR_TENSORRT).applied
    return outcome.model


@pytest.mark.parametrize("operator", ["ReduceMax", "ReduceMin"])
def test_a_reduction_of_booleans(operator: str) -> None:
    before = graph("bool[B,S] x", "bool[B] y", f"y = {operator} <keepdims = 0> (x, axes)", "int64[1] axes = {-1}")
    body = f"i = Cast <to = 6> (x) r = {operator} <keepdims = 0> (i, axes) y = Cast <to = 9> (r)"
    after = cast(before)
    assert not difference(after, graph("bool[B,S] x", "bool[B] y", body, "int64[1] axes = {-1}"))
    x = np.asarray([[0, 0, 0], [1, 0, 1], [1, 1, 1]], bool)
    np.testing.assert_array_equal(evaluate(after, {"x": x})["y"], evaluate(before, {"x": x})["y"])


def test_both_operands_and_no_output_of_the_same_type() -> None:
    before = graph("bool[N] x, bool[N] y", "bool[N] z", "z = Equal(x, y)")
    after = cast(before)
    assert [node.op_type for node in after.graph] == ["Cast", "Cast", "Equal"]
    inputs = {"x": np.asarray([0, 1, 0, 1], bool), "y": np.asarray([0, 0, 1, 1], bool)}
    np.testing.assert_array_equal(evaluate(after, inputs)["z"], [True, False, False, True])


def test_a_value_that_is_read_twice_is_cast_once() -> None:
    after = cast(graph("bool[N] x", "bool[N] z", "z = Equal(x, x)"))
    assert [node.op_type for node in after.graph] == ["Cast", "Equal"]


def test_padding_with_its_number() -> None:
    consts = "int64[4] pads = {0, 1, 0, 0}, bool on = {1}"
    before = graph("bool[B,S] x", "bool[B,M] y", "y = Pad(x, pads, on)", consts)
    x = np.asarray([[0, 1], [1, 0]], bool)
    np.testing.assert_array_equal(evaluate(cast(before), {"x": x})["y"], [[1, 0, 1], [1, 1, 0]])


@pytest.mark.parametrize("kind", ["bool", "int64", "int32"])
def test_places_that_are_not_zero(kind: str) -> None:
    before = graph(f"{kind}[B,S] x", "int64[2,M] y", "y = NonZero(x)")
    x = np.asarray([[0, 2**40 + 1, 0], [1, 0, -1]]).astype({"bool": bool, "int64": np.int64, "int32": np.int32}[kind])
    np.testing.assert_array_equal(evaluate(cast(before), {"x": x})["y"], np.nonzero(x))


def test_inside_a_branch() -> None:
    body = """y = If (on) <then_branch = t () => (bool[N] a) { a = Equal(x, x) },
        else_branch = e () => (bool[N] o) { o = Not(x) }>"""
    after = cast(graph("bool[N] x, bool on", "bool[N] y", body))
    inputs = {"x": np.asarray([True, False]), "on": np.asarray(True)}
    np.testing.assert_array_equal(evaluate(after, inputs)["y"], [True, True])


@pytest.mark.parametrize(
    ("inputs", "outputs", "body"),
    [
        ("float[N] x", "bool[N] y", "y = Equal(x, x)"),
        ("bool[N] x", "bool[M] y", "y = Concat <axis = 0> (x, x)"),
        ("int64[N,4] x", "int64[N,4] y", "t = Transpose <perm = [1, 0]> (x) m = MatMul(x, t) y = MatMul(m, x)"),
    ],
)
def test_what_is_taken_or_not_helped_stays(inputs: str, outputs: str, body: str) -> None:
    assert not apply(graph(inputs, outputs, body), CAST_FOR_TENSORRT).applied


def test_fires_on_its_example() -> None:
    assert_fires(model(EXAMPLES["pad"]), CAST_FOR_TENSORRT, regions=False)


def test_an_output_without_a_type_is_cast_back_too() -> None:
    text = "g (bool[B,S] x) => (bool[B] y) <int64[1] axes = {-1}> { r = ReduceMax <keepdims = 0> (x, axes) y = Not(r) }"
    before = model(f'<ir_version: 10, opset_import: ["": 24]> {text}', infer=False)
    after = cast(before)
    assert [node.op_type for node in after.graph] == ["Cast", "ReduceMax", "Cast", "Not"]
    x = np.asarray([[0, 0], [1, 0]], bool)
    np.testing.assert_array_equal(evaluate(after, {"x": x})["y"], [True, False])
