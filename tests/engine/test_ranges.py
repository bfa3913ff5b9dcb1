"""What is claimed of numbers holds; what is not known is not claimed."""

import onnx_ir as ir
import pytest

from graphwright.engine import ranges
from graphwright.testing import model

CONSTS = """bool yes = {1}, bool no = {0}, int64 zero = {0}, int64 one = {1}, int64 minus = {-1},
    int64[1] axes = {0}, int64[2] shape = {2, 1}, float low = {-3.4e38}, float nought = {0},
    float[2] half = {0, 1}"""


def value(body: str, inputs: str = "float[N] x, bool[N] b, int64[N] i", *, infer: bool = False) -> ir.Value:
    """Return the value v of a graph that computes it; its type is known only where it is inferred."""
    found = model(f'<ir_version: 10, opset_import: ["": 24]> g ({inputs}) => (v) <{CONSTS}> {{ {body} }}', infer=infer)
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


def test_known_to_be_zero() -> None:
    for body in (
        "v = Identity(nought)",
        "s = Shape(x) v = ConstantOfShape(s)",
        "s = Shape(x) o = ConstantOfShape <value = float[1] {0}> (s) v = Where(b, o, nought)",
        "e = Expand(nought, shape) v = Transpose <perm = [1, 0]> (e)",
    ):
        assert ranges.is_always_zero(value(body)), body
    for body in (
        "v = Identity(x)",
        "v = Identity(half)",
        "v = Identity(no)",
        "v = Where(b, nought, low)",
        "s = Shape(x) v = ConstantOfShape <value = float[1] {2}> (s)",
    ):
        assert not ranges.is_always_zero(value(body)), body
    assert not ranges.is_always_zero(None)


LOWEST = "lowest = Constant <value = float {-3.4028234663852886e38}> () "


@pytest.mark.parametrize(
    "body",
    [
        "v = Identity(low)",  # -3.4e38, just above
        "v = Identity(half)",
        "v = Where(b, nought, low)",
        "w = Where(b, low, nought) e = Expand(w, shape) v = Transpose <perm = [1, 0]> (e)",
        "v = Constant <value = float {-inf}> ()",
        "v = Constant <value = float {nan}> ()",
        "v = Constant <value = float16 {64510}> ()",  # the bits of -65472
        "v = Constant <value = double {-3.4028234663852886e38}> ()",  # the lowest of a narrower type
    ],
)
def test_known_to_be_free_of_the_lowest_number(body: str) -> None:
    assert ranges.is_free_of_lowest(value(body, infer=True))


@pytest.mark.parametrize(
    "body",
    [
        "v = Identity(x)",
        f"{LOWEST} v = Identity(lowest)",
        f"{LOWEST} v = Where(b, nought, lowest)",
        f"{LOWEST} v = Where(b, lowest, nought)",
        f"{LOWEST} w = Where(b, low, lowest) v = Expand(w, shape)",
        "v = Where(b, x, nought)",
        "v = Constant <value = float[3] {0, -3.4028234663852886e38, 0}> ()",
        "v = Constant <value = float16 {64511}> ()",  # the bits of -65504
        "v = Constant <value = double {-1.7976931348623157e308}> ()",
        "v = Mul(low, nought)",  # arithmetic is not followed
        "v = Add(low, low)",
        f"{LOWEST} v = Max(lowest, low)",
        "v = Cast <to = 10> (low)",
        "v = Identity(yes)",  # no such number in this type: nothing is claimed
        "v = Identity(one)",
    ],
)
def test_not_known_to_be_free_of_the_lowest_number(body: str) -> None:
    assert not ranges.is_free_of_lowest(value(body, infer=True))


def test_a_number_that_callers_may_replace_proves_nothing() -> None:
    found = value("v = Identity(yes)", inputs="float[N] x, bool[N] b, int64[N] i, bool yes")
    assert not ranges.is_always_true(found)
    assert not ranges.is_finite(None) and not ranges.is_always_true(None) and not ranges.is_free_of_lowest(None)
    found = value("v = Identity(low)", inputs="float[N] x, bool[N] b, int64[N] i, float low", infer=True)
    assert not ranges.is_free_of_lowest(found)


def test_a_value_of_no_known_type_is_not_free_of_the_lowest_number() -> None:
    assert not ranges.is_free_of_lowest(value("v = Identity(low)"))


def test_an_operator_of_another_domain_proves_nothing() -> None:
    node = ir.node("Where", [ir.Value(name="c"), value("v = Identity(yes)"), value("v = Identity(yes)")], domain="own")
    assert not ranges.is_always_true(node.outputs[0])


def test_a_long_chain_is_not_followed() -> None:
    steps = " ".join(f"a{number + 1} = Identity(a{number})" for number in range(100))
    assert not ranges.is_always_true(value(f"a0 = Identity(yes) {steps} v = Identity(a100)"))


def test_shared_operands_take_no_exponential_time() -> None:
    steps = " ".join(f"a{number + 1} = And(a{number}, a{number})" for number in range(100))
    assert not ranges.is_always_true(value(f"a0 = Or(b, yes) {steps} v = Identity(a100)"))
