"""fuse-layer-norm: spellings it takes, what it refuses, and the numbers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lift.fuse_layer_norm import FUSE_LAYER_NORM
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[B, S, 8] x) => (float[B, S, 8] y) <float[8] w, float[8] b, {constants}> "
CONSTANTS = "int64[1] last = {-1}, float two = {2}, float eps = {0.00001}"
MEAN = "m = ReduceMean(x, last) "
SQUARE = "p = Pow(d, two) "
ROOT = "v = ReduceMean(p, last) e = Add(v, eps) r = Sqrt(e) "
TAIL = "s = Mul(n, w) y = Add(s, b)"
BODY = MEAN + "d = Sub(x, m) " + SQUARE + ROOT + "n = Div(d, r) " + TAIL


def text(body: str = BODY, constants: str = CONSTANTS, signature: str = SIGNATURE, head: str = HEAD) -> str:
    return head + signature.replace("{constants}", constants) + "{" + body + "}"


HALF = (
    "(float16[B, S, 8] h) => (float16[B, S, 8] y) <float16[8] w, float16[8] b, {constants}> ",
    "x = Cast <to = 1> (h) " + BODY.replace(TAIL, "c = Cast <to = 10> (n) s = Mul(c, w) y = Add(s, b)"),
)
DOUBLE = {"float[": "double[", "float two": "double two", "float eps": "double eps"}

EXAMPLES = {
    "power": text(),
    "product": text(BODY.replace(SQUARE, "p = Mul(d, d) ")),
    "reciprocal": text(BODY.replace("n = Div(d, r)", "i = Reciprocal(r) n = Mul(d, i)")),
    "one over root": text(
        BODY.replace("n = Div(d, r)", "i = Div(one, r) n = Mul(i, d)"), CONSTANTS + ", float one = {1}"
    ),
    "inverse power": text(
        BODY.replace("r = Sqrt(e) n = Div(d, r)", "i = Pow(e, half) n = Mul(d, i)"),
        CONSTANTS + ", float half = {-0.5}",
    ),
    "root by power": text(BODY.replace("Sqrt(e)", "Pow(e, half)"), CONSTANTS + ", float half = {0.5}"),
    "two subtractions": text(BODY.replace(SQUARE, "d2 = Sub(x, m) p = Pow(d2, two) ")),
    "swapped": text(BODY.replace("Mul(n, w)", "Mul(w, n)").replace("Add(s, b)", "Add(b, s)")),
    "epsilon first": text(BODY.replace("Add(v, eps)", "Add(eps, v)")),
    "without bias": text(BODY.replace(TAIL, "y = Mul(n, w)")),
    "two axes": text(
        BODY,
        "int64[2] last = {-2, -1}, float two = {2}, float eps = {0.00001}",
        SIGNATURE.replace("S, 8]", "4, 8]").replace("float[8]", "float[4, 8]"),
    ),
    "half precision": text(HALF[1], CONSTANTS, HALF[0]),
    "exponent of int64": text(BODY, CONSTANTS.replace("float two", "int64 two")),
    "axes from the front": text(BODY, CONSTANTS.replace("{-1}", "{2}")),
    "parameters are inputs": text(
        BODY, CONSTANTS, "(float[B, S, E] x, float[E] w, float[E] b) => (float[B, S, E] y) <{constants}> "
    ),
    "axes as attributes": text(
        BODY.replace("ReduceMean(x, last)", "ReduceMean <axes = [-1]> (x)").replace(
            "ReduceMean(p, last)", "ReduceMean <axes = [2]> (p)"
        ),
        CONSTANTS.removeprefix("int64[1] last = {-1}, "),
        head=HEAD.replace("24", "17"),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_spelling_becomes_one_operator(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, FUSE_LAYER_NORM)
    operators = [node.op_type for node in after.graph if node.op_type != "Constant"]
    assert operators == ["LayerNormalization"]
    assert_equivalent(before, after, sizes={"B": 2, "S": 3, "E": 5})


def test_the_result_has_axis_epsilon_scale_and_bias() -> None:
    after = text("y = LayerNormalization <axis = -1, epsilon = 0.00001> (x, w, b)")
    assert_fires(model(EXAMPLES["power"]), FUSE_LAYER_NORM, after=after)
    after = text("y = LayerNormalization <axis = -1, epsilon = 0.00001> (x, w)")
    assert_fires(model(EXAMPLES["without bias"]), FUSE_LAYER_NORM, after=after)


def test_two_in_one_graph_are_two_applications() -> None:
    second = re.sub(r"\b([mdpvernsy])\b", r"\g<1>2", BODY).replace("(x,", "(z,").replace("y2 = ", "y = ")
    both = BODY.replace("y = ", "z = ") + " " + second
    after = text(
        "z = LayerNormalization <epsilon = 0.00001> (x, w, b) y = LayerNormalization <epsilon = 0.00001> (z, w, b)"
    )
    assert_fires(model(text(both)), FUSE_LAYER_NORM, 2, after)


def test_a_residual_behind_the_scale_is_no_bias() -> None:
    body = BODY.replace(TAIL, "s = Mul(n, w) y = Add(s, x)")
    after = text("s = LayerNormalization <epsilon = 0.00001> (x, w) y = Add(s, x)")
    assert_fires(model(text(body)), FUSE_LAYER_NORM, after=after)


def test_a_bias_of_one_number_stays_a_sum() -> None:
    signature = SIGNATURE.replace("float[8] b", "float[1] b")
    after = text("s = LayerNormalization <epsilon = 0.00001> (x, w) y = Add(s, b)", signature=signature)
    assert_fires(model(text(signature=signature)), FUSE_LAYER_NORM, after=after)


def test_a_scaled_value_with_other_users_keeps_its_sum() -> None:
    signature = SIGNATURE.replace("8] y)", "8] y, float[B, S, 8] z)")
    after = text("s = LayerNormalization <epsilon = 0.00001> (x, w) y = Add(s, b) z = Exp(s)", signature=signature)
    assert_fires(model(text(BODY + " z = Exp(s)", signature=signature)), FUSE_LAYER_NORM, after=after)


def test_the_cast_in_front_stays_for_its_other_users() -> None:
    signature = HALF[0].replace("(float16[B, S, 8] y)", "(float16[B, S, 8] y, float[B, S, 8] x)")
    assert_fires(model(text(HALF[1], CONSTANTS, signature)), FUSE_LAYER_NORM)


def test_a_float32_region_between_casts_keeps_them() -> None:
    body = "x = Cast <to = 1> (h) " + BODY.replace("y = Add(s, b)", "a = Add(s, b) y = Cast <to = 10> (a)")
    signature = "(float16[B, S, 8] h) => (float16[B, S, 8] y) <float[8] w, float[8] b, {constants}> "
    after = assert_fires(model(text(body, CONSTANTS, signature)), FUSE_LAYER_NORM)
    assert [node.op_type for node in after.graph] == ["Cast", "LayerNormalization", "Cast"]


def as_double(source: str) -> str:
    for single, double in DOUBLE.items():
        source = source.replace(single, double)
    return source


OUTSIDE = {
    "no scale": text(BODY.replace(TAIL, "y = Neg(n)")),
    "no scale, but a bias": text(BODY.replace(TAIL, "y = Add(n, b)")),
    "scale of one": text(BODY.replace(TAIL, "y = Mul(n, w)"), signature=SIGNATURE.replace("float[8] w", "float[1] w")),
    "scale of two axes": text(signature=SIGNATURE.replace("float[8] w", "float[1, 8] w")),
    "scale of each head": text(
        BODY.replace(TAIL, "y = Mul(n, w)"),
        signature=SIGNATURE.replace("float[B, S, 8]", "float[B, S, 2, 8]").replace("float[8] w", "float[2, 8] w"),
    ),
    "scale of rank 0": text(signature=SIGNATURE.replace("float[8] w", "float w")),
    "scale over another axis": text(
        signature=SIGNATURE.replace("S, 8]", "8, 8]").replace("float[8] w", "float[8, 1] w")
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_no_scale_of_the_operator_stays_behind_it(name: str) -> None:
    before = model(OUTSIDE[name])
    after = assert_fires(before, FUSE_LAYER_NORM)
    assert next(iter(after.graph)).op_type == "LayerNormalization"
    assert {node.op_type for node in after.graph} <= {"LayerNormalization", "Mul", "Add", "Neg"}
    assert_equivalent(before, after, sizes={"B": 2, "S": 3})


def test_a_cast_to_another_half_stays() -> None:
    signature = HALF[0].replace("float16[8]", "bfloat16[8]").replace("=> (float16", "=> (bfloat16")
    after = assert_fires(model(text(HALF[1].replace("to = 10", "to = 16"), CONSTANTS, signature)), FUSE_LAYER_NORM)
    assert [node.op_type for node in after.graph] == ["Cast", "LayerNormalization", "Cast", "Mul", "Add"]


REFUSED = {
    "old opset": (Reason.OPSET, EXAMPLES["axes as attributes"].replace("17", "16")),
    "double": (Reason.DTYPE, as_double(text())),
    "unknown rank": (Reason.UNKNOWN, text(signature=SIGNATURE.replace("float[B, S, 8] x", "float[] x"))),
    "unknown size": (Reason.UNKNOWN, text(signature=SIGNATURE.replace("S, 8] x", "S, ?] x"))),
    "another name": (Reason.SHAPE, text(signature=SIGNATURE.replace("S, 8] x", "S, E] x"))),
    "middle axis": (
        Reason.ATTRIBUTE,
        text(BODY, CONSTANTS.replace("{-1}", "{1}"), SIGNATURE.replace("S, 8]", "8, 8]")),
    ),
    "means over different axes": (
        Reason.ATTRIBUTE,
        text(
            BODY.replace("ReduceMean(p, last)", "ReduceMean(p, all)"),
            CONSTANTS + ", int64[2] all = {1, 2}",
            SIGNATURE.replace("S, 8]", "8, 8]"),
        ),
    ),
    "axes are not constant": (
        Reason.CONSTANT,
        text(BODY, "float two = {2}, float eps = {0.00001}", SIGNATURE.replace("8] x", "8] x, int64[1] last")),
    ),
    "epsilon is an input": (
        Reason.CONSTANT,
        text(BODY, "int64[1] last = {-1}, float two = {2}", SIGNATURE.replace("8] x", "8] x, float eps")),
    ),
    "epsilon may be overridden": (
        Reason.CONSTANT,
        text(BODY, "int64[1] last = {-1}, float two = {2}", SIGNATURE.replace("8] x", "8] x, float eps = {1}")),
    ),
    "epsilon below 0": (Reason.CONSTANT, text(BODY, CONSTANTS.replace("0.00001", "-0.00001"))),
    "epsilon with more axes than x": (
        Reason.RANK,
        text(
            BODY,
            CONSTANTS.replace("float eps = {0.00001}", "float[1, 1, 1, 1] eps = {0.00001}"),
            SIGNATURE.replace("=> (float[B, S, 8] y)", "=> (float[A, B, S, 8] y)"),
        ),
    ),
    "deviation used elsewhere": (
        Reason.SHARED,
        text(BODY + " z = Exp(d)", signature=SIGNATURE.replace("8] y)", "8] y, float[B, S, 8] z)")),
    ),
    "deviation is an output": (
        Reason.GRAPH_OUTPUT,
        text(signature=SIGNATURE.replace("8] y)", "8] y, float[B, S, 8] d)")),
    ),
    "captured by a branch": (
        Reason.SHARED,
        text(
            BODY + " z = If (flag) <then_branch = t () => (float[B, S, 8] o) {o = Exp(d)},"
            " else_branch = f () => (float[B, S, 8] q) {q = Exp(x)}>",
            signature=SIGNATURE.replace("8] x", "8] x, bool flag").replace("8] y)", "8] y, float[B, S, 8] z)"),
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    assert_refuses(model(source), FUSE_LAYER_NORM, reason)


MISSED = {
    "exponent slightly off": text(BODY, CONSTANTS.replace("two = {2}", "two = {2.001}")),
    "exponent may be overridden": text(
        BODY,
        "int64[1] last = {-1}, float eps = {0.00001}",
        SIGNATURE.replace("8] x", "8] x, float two = {2}"),
    ),
    "another deviation in front": text(BODY.replace("n = Div(d, r)", "n = Div(x, r)")),
    "root over deviation": text(BODY.replace("Div(d, r)", "Div(r, d)")),
    "mean minus x": text(BODY.replace("Sub(x, m)", "Sub(m, x)")),
    "mean drops the axis": text(
        BODY.replace("ReduceMean(x, last)", "ReduceMean <keepdims = 0> (x, last)"),
        signature=SIGNATURE.replace("B, S, 8]", "8, 8, 8]"),
    ),
    "variance of something else": text(BODY.replace("ReduceMean(p, last)", "ReduceMean(x, last)")),
}


@pytest.mark.parametrize("name", MISSED)
def test_near_misses_do_not_match(name: str) -> None:
    assert_refuses(model(MISSED[name]), FUSE_LAYER_NORM, Reason.STRUCTURE)


def test_explains_the_nearest_miss() -> None:
    outcome = apply(model(MISSED["exponent slightly off"]), FUSE_LAYER_NORM)
    assert any("the constant 2.0" in miss.detail for miss in outcome.misses)


@pytest.mark.parametrize("size", [1, 3])
def test_sizes_that_coincide_do_not_confuse_the_axes(size: int) -> None:
    signature = SIGNATURE.replace("B, S, 8]", f"{size}, {size}, {size}]").replace("float[8]", f"float[{size}]")
    before = model(text(signature=signature))
    after = assert_fires(before, FUSE_LAYER_NORM, regions=False)
    if size > 1:  # one number normalizes to zero, which proves nothing
        assert_equivalent(before, after)


@given(
    name=st.sampled_from(sorted(set(EXAMPLES) - {"half precision"})),
    batch=st.sampled_from([1, 2, 3]),
    length=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 9),
)
def test_same_numbers_at_any_size(name: str, batch: int, length: int, seed: int) -> None:
    before = model(EXAMPLES[name], seed=seed)
    after = apply(before, FUSE_LAYER_NORM).model
    assert_equivalent(before, after, sizes={"B": batch, "S": length, "E": 5}, seed=seed)
