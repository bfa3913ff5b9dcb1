"""float64 inside a model: gone, with inputs and outputs as they were, and reported as what it is."""

import numpy as np
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.engine.structure import check_onnx
from graphwright.passes.lower.narrow_doubles import NARROW_DOUBLES
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, model


def graph(inputs: str, outputs: str, body: str, consts: str = "") -> ir.Model:
    return model(f'<ir_version: 10, opset_import: ["": 24]> g ({inputs}) => ({outputs}) <{consts}> {{ {body} }}')


INSIDE = "w = Cast <to = 11> (x) m = Mul(w, number) y = Cast <to = 1> (m)"


def narrowed(before: ir.Model) -> ir.Model:
    outcome = apply(before, NARROW_DOUBLES)
    assert outcome.applied == 1
    check_onnx(outcome.model)
    kinds = [
        [(value.name, value.dtype) for value in (*each.graph.inputs, *each.graph.outputs)]
        for each in (before, outcome.model)
    ]
    assert kinds[0] == kinds[1]
    edges = {*outcome.model.graph.inputs, *outcome.model.graph.outputs}
    doubles = [
        value
        for inner in (outcome.model.graph, *outcome.model.graph.subgraphs())
        for value in (*inner.initializers.values(), *(each for node in inner for each in node.outputs))
        if value.dtype == ir.DataType.DOUBLE and value not in edges
    ]
    assert not doubles
    assert not apply(outcome.model, NARROW_DOUBLES).applied
    return outcome.model


def same(before: ir.Model, after: ir.Model, **inputs: np.ndarray) -> None:
    expected, found = evaluate(before, inputs), evaluate(after, inputs)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name], array, rtol=1e-6)


def test_constants_and_casts_inside() -> None:
    before = graph("float[N] x", "float[N] y", INSIDE, "double number = {0.3}")
    same(before, narrowed(before), x=np.linspace(-2, 2, 7, dtype=np.float32))


@pytest.mark.parametrize(
    "body",
    [
        "c = Constant <value = double {0.3}> () y = Mul(x, c)",
        "s = Shape(x) c = ConstantOfShape <value = double[1] {0.3}> (s) y = Mul(x, c)",
        "y = Identity(x)",
        "a = Mul(x, x) y = Add(a, x)",
    ],
)
def test_inputs_and_outputs_keep_their_type(body: str) -> None:
    before = graph("double[N] x", "double[N] y", body)
    same(before, narrowed(before), x=np.linspace(-2, 2, 7))


def test_an_output_that_is_used_inside_too() -> None:
    before = graph("float[N] x", "double[N] y, double[N] z", "y = Cast <to = 11> (x) z = Mul(y, y)")
    same(before, narrowed(before), x=np.linspace(-2, 2, 7, dtype=np.float32))


def test_inside_a_branch() -> None:
    body = """y = If (on) <then_branch = t () => (double[N] a) { a = Neg(x) },
        else_branch = e () => (double[N] o) { c = Constant <value = double {0.3}> () o = Mul(x, c) }>"""
    before = graph("double[N] x, bool on", "double[N] y", body)
    after = narrowed(before)
    for on in (True, False):
        same(before, after, x=np.linspace(-2, 2, 7), on=np.asarray(on))


def test_what_is_too_large_becomes_the_largest_and_infinity_stays() -> None:
    before = graph(
        "float[3] x", "double[3] y", "w = Cast <to = 11> (x) y = Min(w, c)", "double[3] c = {1e300, -1e300, inf}"
    )
    found = evaluate(narrowed(before), {"x": np.full(3, np.inf, np.float32)})["y"]
    largest = float(np.finfo(np.float32).max)
    assert found.tolist() == [largest, -largest, np.inf]


def test_a_model_without_doubles_stays() -> None:
    before = graph("float[N] x", "double[N] y", "a = Mul(x, x) y = Cast <to = 11> (a)")
    assert not apply(before, NARROW_DOUBLES).applied


def test_the_loss_is_reported_and_not_refused() -> None:
    before = graph("double[N] x", "double[N] y", "y = Mul(x, c)", "double c = {0.3}")
    report = gw.optimize(before, target="tensorrt", progress=False).report
    assert report.verification is not None
    assert dict(report.verification.by_design) == {"narrow-doubles": 1}
    assert 0 < report.verification.deviations[0].absolute < 1e-6


def test_an_input_that_is_an_output_keeps_its_name_and_its_digits() -> None:
    before = graph("double[N] x", "double[N] x, double[N] y", "y = Mul(x, x)")
    found = evaluate(narrowed(before), {"x": np.asarray([0.1])})
    assert found["x"].tolist() == [0.1]


@pytest.mark.parametrize(
    ("outputs", "body"),
    [
        ("double[M] y", "s = SequenceConstruct(x, x) y = ConcatFromSequence <axis = 0> (s)"),
        ("int64[N] y", "y = BitCast <to = 7> (x)"),
    ],
)
def test_what_tensorrt_has_not_stays_and_is_named(outputs: str, body: str) -> None:
    opset = 26 if "BitCast" in body else 24
    before = model(f'<ir_version: 10, opset_import: ["": {opset}]> g (double[N] x) => ({outputs}) {{ {body} }}')
    outcome = apply(before, NARROW_DOUBLES)
    assert not outcome.applied
    check_onnx(outcome.model)
    assert unsupported(outcome.model)


def test_bodies_of_operators_with_a_plugin_stay() -> None:
    """They rank in float64; TensorRT runs the plugin."""
    before = model(
        '<ir_version: 10, opset_import: ["": 24, "hars": 1]> g (float[B, 9] x) => (float[B, 2] y, int64[B, 2] i)'
        "{ y, i = hars.softmax_topk <k = 2> (x) }"
    )
    attach_bodies(before)
    assert not apply(before, NARROW_DOUBLES).applied
