"""What is claimed of numbers holds; what is not known is not claimed."""

import onnx_ir as ir
import pytest

from graphwright.engine import ranges
from graphwright.testing import model

CONSTS = """bool yes = {1}, bool no = {0}, int64 zero = {0}, int64 one = {1}, int64 minus = {-1},
    int64[1] axes = {0}, int64[2] shape = {2, 1}, float low = {-3.4e38}, float nought = {0},
    float[2] half = {0, 1}"""


def value(body: str, inputs: str = "float[N] x, bool[N] b, int64[N] i") -> ir.Value:
    """Return the value v of a graph that computes it."""
    found = model(
        f'<ir_version: 10, opset_import: ["": 24]> g ({inputs}) => (v) <{CONSTS}> {{ {body} }}', infer=False
    )
    return found.graph.outputs[0]


POSITIONS = "s = Shape(x) n = Squeeze(s) p = Range(zero, n, one)"


@pytest.mark.parametrize(
    "body",
    [
        "v = Identity(yes)",
        "v = And(yes, yes)",
        "v = Or(b, yes)",
        "v = Or(yes, b)",
        "v = Where(b, yes, yes)",
        f"{POSITIONS} v = GreaterOrEqual(p, zero)",
        f"{POSITIONS} v = GreaterOrEqual(p, minus)",
        f"{POSITIONS} u = Unsqueeze(p, axes) g = Gather(u, i) v = GreaterOrEqual(g, zero)",
        f"{POSITIONS} g = GreaterOrEqual(p, zero) c = Cast <to = 9> (g) e = Expand(c, shape) v = And(e, yes)",
        "s = Shape(x) v = ConstantOfShape <value = bool[1] {1}> (s)",
        "s = Size(x) v = GreaterOrEqual(s, zero)",
    ],
)
def test_known_to_be_true(body: str) -> None:
    assert ranges.is_always_true(value(body))


@pytest.mark.parametrize(
    "body",
    [
        "v = Identity(b)",
        "v = Identity(no)",
        "v = And(yes, b)",
        "v = Or(b, b)",
        "v = Xor(yes, no)",
        "v = Not(no)",
        "v = Where(b, yes, no)",
        "v = Where(yes, b, yes)",
        f"{POSITIONS} v = GreaterOrEqual(p, one)",
        f"{POSITIONS} v = GreaterOrEqual(p, p)",
        f"{POSITIONS} v = Greater(p, zero)",
        f"{POSITIONS} v = LessOrEqual(p, zero)",
        f"{POSITIONS} v = GreaterOrEqual(zero, p)",
        "s = Shape(x) n = Squeeze(s) p = Range(minus, n, one) v = GreaterOrEqual(p, zero)",
        "s = Shape(x) n = Squeeze(s) p = Range(n, minus, minus) v = GreaterOrEqual(p, zero)",
        "v = GreaterOrEqual(i, zero)",
        "a = Abs(i) v = GreaterOrEqual(a, zero)",  # the lowest integer stays negative
        "a = Relu(x) v = GreaterOrEqual(a, nought)",  # NaN stays NaN, and is not above zero
        "s = Shape(x) v = ConstantOfShape <value = bool[1] {0}> (s)",
        "s = Shape(x) z = ConstantOfShape(s) v = Cast <to = 9> (z)",
        "c = Cast <to = 6> (yes) v = GreaterOrEqual(c, half)",
    ],
)
def test_not_known_to_be_true(body: str) -> None:
    assert not ranges.is_always_true(value(body))


def test_finite_numbers() -> None:
    for body in (
        "v = Identity(low)",
        "v = Where(b, nought, low)",
        "w = Where(b, low, nought) v = Expand(w, shape)",
    ):
        assert ranges.is_finite(value(body))
    infinite = "inf = Constant <value = float {-inf}> () "
    for body in (
        f"{infinite} v = Where(b, nought, inf)",
        "v = Identity(x)",
        "v = Add(low, low)",
        "v = Where(b, x, low)",
    ):
        assert not ranges.is_finite(value(body))


def test_a_number_that_callers_may_replace_proves_nothing() -> None:
    found = value("v = Identity(yes)", inputs="float[N] x, bool[N] b, int64[N] i, bool yes")
    assert not ranges.is_always_true(found)
    assert not ranges.is_finite(None) and not ranges.is_always_true(None)


def test_an_operator_of_another_domain_proves_nothing() -> None:
    node = ir.node(
        "Where", [ir.Value(name="c"), value("v = Identity(yes)"), value("v = Identity(yes)")], domain="own"
    )
    assert not ranges.is_always_true(node.outputs[0])


def test_a_long_chain_is_not_followed() -> None:
    steps = " ".join(f"a{number + 1} = Identity(a{number})" for number in range(100))
    assert not ranges.is_always_true(value(f"a0 = Identity(yes) {steps} v = Identity(a100)"))


def test_shared_operands_take_no_exponential_time() -> None:
    steps = " ".join(f"a{number + 1} = And(a{number}, a{number})" for number in range(100))
    assert not ranges.is_always_true(value(f"a0 = Or(b, yes) {steps} v = Identity(a100)"))
