"""fuse-rms-norm: spellings it takes, what it refuses, and the numbers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lift.fuse_rms_norm import FUSE_RMS_NORM
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[B, S, 8] x) => (float[B, S, 8] y) <float[8] w, {constants}> "
CONSTANTS = "int64[1] last = {-1}, float two = {2}, float eps = {0.00001}"
BODY = (
    "p = Pow(x, two) v = ReduceMean(p, last) e = Add(v, eps) r = Sqrt(e) i = Reciprocal(r) n = Mul(x, i) y = Mul(n, w)"
)


def text(body: str = BODY, constants: str = CONSTANTS, signature: str = SIGNATURE, head: str = HEAD) -> str:
    return head + signature.replace("{constants}", constants) + "{" + body + "}"


HALF = (
    "(float16[B, S, 8] h) => (float16[B, S, 8] y) <float16[8] w, {constants}> ",
    "x = Cast <to = 1> (h) " + BODY.replace("y = Mul(n, w)", "c = Cast <to = 10> (n) y = Mul(w, c)"),
)

EXAMPLES = {
    "reciprocal": text(),
    "division": text(BODY.replace("i = Reciprocal(r) n = Mul(x, i)", "n = Div(x, r)")),
    "one over root": text(BODY.replace("Reciprocal(r)", "Div(one, r)"), CONSTANTS + ", float one = {1}"),
    "inverse power": text(
        BODY.replace("r = Sqrt(e) i = Reciprocal(r)", "i = Pow(e, half)"), CONSTANTS + ", float half = {-0.5}"
    ),
    "product": text(BODY.replace("Pow(x, two)", "Mul(x, x)")),
    "swapped": text(BODY.replace("Mul(n, w)", "Mul(w, n)").replace("Mul(x, i)", "Mul(i, x)")),
    "two axes": text(
        BODY,
        "int64[2] last = {-1, -2}, float two = {2}, float eps = {0.00001}",
        SIGNATURE.replace("S, 8]", "4, 8]").replace("float[8]", "float[4, 8]"),
    ),
    "half precision": text(HALF[1], CONSTANTS, HALF[0]),
    "no scale": text(BODY.replace("y = Mul(n, w)", "y = Neg(n)")).replace(" float[8] w,", ""),
    "half precision without a scale": text(HALF[1].replace("y = Mul(w, c)", "y = Neg(c)"), CONSTANTS, HALF[0]),
    "scale is an input": text(BODY, CONSTANTS, "(float[B, S, E] x, float[E] w) => (float[B, S, E] y) <{constants}> "),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_spelling_becomes_one_operator(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, FUSE_RMS_NORM)
    assert [node.op_type for node in after.graph if node.op_type != "Neg"] == ["RMSNormalization"]
    assert_equivalent(before, after, sizes={"B": 2, "S": 3, "E": 5})


def test_the_result_has_axis_and_epsilon() -> None:
    after = text("y = RMSNormalization <axis = -1, epsilon = 0.00001> (x, w)")
    assert_fires(model(text()), FUSE_RMS_NORM, after=after)


def test_two_in_one_graph_are_two_applications() -> None:
    second = re.sub(r"\b([pverny]|i)\b", r"\g<1>2", BODY).replace("(x,", "(z,").replace("y2 = ", "y = ")
    both = BODY.replace("y = ", "z = ") + " " + second
    after = "z = RMSNormalization <epsilon = 0.00001> (x, w) y = RMSNormalization <epsilon = 0.00001> (z, w)"
    assert_fires(model(text(both)), FUSE_RMS_NORM, 2, text(after))


def test_llama_keeps_its_cast_where_the_residual_uses_it() -> None:
    signature = HALF[0].replace("(float16[B, S, 8] y)", "(float16[B, S, 8] y, float[B, S, 8] x)")
    after = assert_fires(model(text(HALF[1], CONSTANTS, signature)), FUSE_RMS_NORM)
    assert sorted(node.op_type for node in after.graph) == ["Cast", "RMSNormalization"]


def test_a_scale_in_float32_keeps_the_casts_around() -> None:
    body = "x = Cast <to = 1> (h) " + BODY.replace("y = Mul(n, w)", "s = Mul(n, w) y = Cast <to = 10> (s)")
    signature = HALF[0].replace("float16[8] w", "float[8] w")
    after = assert_fires(model(text(body, CONSTANTS, signature)), FUSE_RMS_NORM)
    assert [node.op_type for node in after.graph] == ["Cast", "RMSNormalization", "Cast"]


OUTSIDE = {
    "scale of one": text(signature=SIGNATURE.replace("float[8] w", "float[1] w")),
    "scale of each head": text(
        signature=SIGNATURE.replace("float[B, S, 8]", "float[B, S, 2, 8]").replace("float[8] w", "float[2, 8] w")
    ),
    "scale over another axis": text(
        signature=SIGNATURE.replace("S, 8]", "8, 8]").replace("float[8] w", "float[8, 1] w")
    ),
    "residual": text(BODY.replace("y = Mul(n, w)", "y = Add(n, w)")),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_no_scale_of_the_operator_stays_behind_it(name: str) -> None:
    before = model(OUTSIDE[name])
    after = assert_fires(before, FUSE_RMS_NORM)
    assert [node.op_type for node in after.graph] == ["RMSNormalization", "Add" if name == "residual" else "Mul"]
    assert_equivalent(before, after, sizes={"B": 2, "S": 3})


def test_a_cast_to_another_half_stays() -> None:
    signature = HALF[0].replace("float16[8]", "bfloat16[8]").replace("=> (float16", "=> (bfloat16")
    after = assert_fires(model(text(HALF[1].replace("to = 10", "to = 16"), CONSTANTS, signature)), FUSE_RMS_NORM)
    assert [node.op_type for node in after.graph] == ["Cast", "RMSNormalization", "Cast", "Mul"]


def test_without_a_scale_the_size_must_be_a_number() -> None:
    signature = "(float[B, S, E] x) => (float[B, S, E] y) <{constants}> "
    before = text(BODY.replace("y = Mul(n, w)", "y = Neg(n)"), CONSTANTS, signature)
    assert_refuses(model(before), FUSE_RMS_NORM, Reason.UNKNOWN)


DOUBLE = text().replace("float[", "double[").replace("float two", "double two").replace("float eps", "double eps")

REFUSED = {
    "old opset": (Reason.OPSET, text(head=HEAD.replace("24", "22"))),
    "double": (Reason.DTYPE, DOUBLE),
    "unknown rank": (Reason.UNKNOWN, text(signature=SIGNATURE.replace("float[B, S, 8] x", "float[] x"))),
    "unknown size": (Reason.UNKNOWN, text(signature=SIGNATURE.replace("S, 8] x", "S, ?] x"))),
    "another name": (Reason.SHAPE, text(signature=SIGNATURE.replace("S, 8] x", "S, E] x"))),
    "middle axis": (
        Reason.ATTRIBUTE,
        text(BODY, CONSTANTS.replace("{-1}", "{1}"), SIGNATURE.replace("S, 8]", "8, 8]")),
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
    "root used elsewhere": (
        Reason.SHARED,
        text(BODY + " z = Exp(r)", signature=SIGNATURE.replace("8] y)", "8] y, float[B, S, 1] z)")),
    ),
    "mean is an output": (
        Reason.GRAPH_OUTPUT,
        text(signature=SIGNATURE.replace("8] y)", "8] y, float[B, S, 1] v)")),
    ),
    "captured by a branch": (
        Reason.SHARED,
        text(
            BODY + " z = If (flag) <then_branch = t () => (float[B, S, 1] o) {o = Exp(r)},"
            " else_branch = f () => (float[B, S, 1] q) {q = Exp(e)}>",
            signature=SIGNATURE.replace("8] x", "8] x, bool flag").replace("8] y)", "8] y, float[B, S, 1] z)"),
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    assert_refuses(model(source), FUSE_RMS_NORM, reason)


def test_a_cast_whose_type_the_caller_sets_is_refused() -> None:
    body = HALF[1].replace("to = 10", "to: int = @to")
    constants = "".join(
        f"{name} = Constant <{value}> () "
        for name, value in {
            "two": "value_float = 2.0",
            "eps": "value_float = 0.00001",
            "last": "value_ints = [-1]",
        }.items()
    )
    source = (
        HEAD.replace("24]", '24, "own": 1]') + "(float16[B, S, 8] h, float16[8] w) => (float16[B, S, 8] y) "
        "{y = own.norm <to = 10> (h, w)} "
        f'<domain: "own", opset_import: ["": 24]> norm <to> (h, w) => (y) {{{constants}{body}}}'
    )
    before = model(source, infer=False)
    (function,) = before.functions.values()
    for inside, outside in zip(function.inputs, before.graph.inputs, strict=True):
        inside.type, inside.shape = outside.type, outside.shape
    assert_refuses(before, FUSE_RMS_NORM, Reason.DTYPE)


MISSED = {
    "exponent slightly off": text(BODY, CONSTANTS.replace("two = {2}", "two = {1.999}")),
    "another power of the mean": text(
        BODY.replace("r = Sqrt(e) i = Reciprocal(r)", "i = Pow(e, half)"),
        CONSTANTS + ", float half = {-0.501}",
    ),
    "root over x": text(BODY.replace("i = Reciprocal(r) n = Mul(x, i)", "n = Div(r, x)")),
    "root is not inverted": text(BODY.replace("i = Reciprocal(r) n = Mul(x, i)", "n = Mul(x, r)")),
    "mean of x itself": text(BODY.replace("ReduceMean(p, last)", "ReduceMean(x, last)")),
    "another value is normalized": text(BODY.replace("n = Mul(x, i)", "q = Exp(x) n = Mul(q, i)")),
    "sum and not mean": text(BODY.replace("ReduceMean", "ReduceSum")),
}


@pytest.mark.parametrize("name", MISSED)
def test_near_misses_do_not_match(name: str) -> None:
    assert_refuses(model(MISSED[name]), FUSE_RMS_NORM, Reason.STRUCTURE)


def test_epsilon_with_more_axes_than_x_is_refused() -> None:
    constants = CONSTANTS.replace("float eps = {0.00001}", "float[1, 1, 1, 1] eps = {0.00001}")
    signature = SIGNATURE.replace("=> (float[B, S, 8] y)", "=> (float[A, B, S, 8] y)")
    assert_refuses(model(text(BODY, constants, signature)), FUSE_RMS_NORM, Reason.RANK)


def test_a_square_of_higher_rank_is_no_square_of_x() -> None:
    constants = CONSTANTS.replace("float two = {2}", "float[1, 1, 1, 1] two = {2}")
    signature = SIGNATURE.replace("=> (float[B, S, 8] y)", "=> (float[A, B, S, 8] y)")
    assert_refuses(model(text(BODY, constants, signature)), FUSE_RMS_NORM, Reason.STRUCTURE)


@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    batch=st.sampled_from([1, 2, 3]),
    length=st.sampled_from([1, 2, 7]),
    width=st.sampled_from([2, 5]),
    seed=st.integers(0, 9),
)
def test_same_numbers_at_any_size(name: str, batch: int, length: int, width: int, seed: int) -> None:
    before = model(EXAMPLES[name], seed=seed)
    after = apply(before, FUSE_RMS_NORM).model
    assert_equivalent(before, after, sizes={"B": batch, "S": length, "E": width}, seed=seed)
