"""fuse-gemm-bias: rank 2 only, and biases that broadcast axis by axis."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lift.fuse_gemm_bias import FUSE_GEMM_BIAS
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[M, 4] a) => (float[M, 5] y) <float[4, 5] b, float[5] c> "
BODY = "{p = MatMul(a, b) y = Add(p, c)}"


def text(body: str = BODY, signature: str = SIGNATURE, head: str = HEAD) -> str:
    return head + signature + body


def with_bias(shape: str) -> str:
    return text(signature=SIGNATURE.replace("float[5] c", f"float{shape} c"))


EXAMPLES = {
    "bias of the columns": text(),
    "bias first": text("{p = MatMul(a, b) y = Add(c, p)}"),
    "bias of rank 2": with_bias("[1, 5]"),
    "one number": with_bias("[1]"),
    "scalar": with_bias(""),
    "bias of the rows": text(signature="(float[M, 4] a, float[M, 1] c) => (float[M, 5] y) <float[4, 5] b> "),
    "bias of both": text(signature="(float[M, 4] a, float[M, 5] c) => (float[M, 5] y) <float[4, 5] b> "),
    "named columns": text(signature="(float[M, 4] a, float[4, E] b, float[E] c) => (float[M, E] y) "),
    "gemm": text("{p = Gemm(a, b) y = Add(p, c)}"),
    "gemm with attributes": text(
        "{p = Gemm <alpha = 0.5, transA = 1, transB = 1> (a, b) y = Add(p, c)}",
        "(float[4, M] a) => (float[M, 5] y) <float[5, 4] b, float[5] c> ",
    ),
    "transposed gemm, bias of the rows": text(
        "{p = Gemm <transA = 1> (a, b) y = Add(p, c)}",
        "(float[4, M] a, float[M, 1] c) => (float[M, 5] y) <float[4, 5] b> ",
    ),
    "half precision": text(signature=SIGNATURE.replace("float", "float16")),
    "double": text(signature=SIGNATURE.replace("float", "double")),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_spelling_becomes_one_operator(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, FUSE_GEMM_BIAS)
    assert [node.op_type for node in after.graph] == ["Gemm"]
    assert_equivalent(before, after, sizes={"M": 3, "E": 2})


def test_the_attributes_of_a_gemm_stay() -> None:
    assert_fires(model(text()), FUSE_GEMM_BIAS, after=text("{y = Gemm(a, b, c)}"))
    after = EXAMPLES["gemm with attributes"].replace("p = Gemm", "y = Gemm")
    after = after.replace("(a, b) y = Add(p, c)", "(a, b, c)")
    assert_fires(model(EXAMPLES["gemm with attributes"]), FUSE_GEMM_BIAS, after=after)


def test_two_in_one_graph_are_two_applications() -> None:
    signature = "(float[M, 4] a) => (float[M, 4] y) <float[4, 4] b, float[4] c> "
    before = text("{p = MatMul(a, b) z = Add(p, c) q = MatMul(z, b) y = Add(c, q)}", signature)
    assert_fires(model(before), FUSE_GEMM_BIAS, 2, text("{z = Gemm(a, b, c) y = Gemm(z, b, c)}", signature))


def test_a_sum_of_two_products_takes_one_as_the_bias() -> None:
    signature = "(float[M, 4] a) => (float[M, 5] y) <float[4, 5] b, float[4, 5] d> "
    before = model(text("{p = MatMul(a, b) q = MatMul(a, d) y = Add(p, q)}", signature))
    assert_equivalent(before, assert_fires(before, FUSE_GEMM_BIAS), sizes={"M": 3})


RANK_3 = "(float[B, M, 4] a) => (float[B, M, 5] y) <float[4, 5] b, float[5] c> "
IN_FUNCTION = (
    '<ir_version: 12, opset_import: ["": 24, "own": 1]> g (float[M, 4] a) => (float[M, 5] y) '
    "<float[4, 5] b, float[5] c> {y = own.scaled <factor = 2.0> (a, b, c)} "
    '<domain: "own", opset_import: ["": 24]> scaled <factor> (a, b, c) => (y) '
    "{p = Gemm <alpha: float = @factor> (a, b) y = Add(p, c)}"
)
REFUSED = {
    "integers": (
        Reason.DTYPE,
        HEAD + "(int32[M, 4] a, int32[4, 5] b, int32[5] c) => (int32[M, 5] y) " + BODY,
    ),
    "unknown rank": (Reason.UNKNOWN, text(signature=SIGNATURE.replace("float[M, 4]", "float[]"))),
    "bias of unknown rank": (
        Reason.UNKNOWN,
        text(signature="(float[M, 4] a, float[] c) => (float[M, 5] y) <float[4, 5] b> "),
    ),
    "bias of unknown size": (
        Reason.UNKNOWN,
        text(signature="(float[M, 4] a, float[?] c) => (float[M, 5] y) <float[4, 5] b> "),
    ),
    "rank 3": (Reason.RANK, text(signature=RANK_3)),
    "rank 3 of size 1": (Reason.RANK, text(signature=RANK_3.replace("B, ", "1, "))),
    "vector": (Reason.RANK, text(signature="(float[4] a) => (float[5] y) <float[4, 5] b, float[5] c> ")),
    "bias of rank 3": (
        Reason.RANK,
        text(signature=SIGNATURE.replace("[M, 5] y", "[1, M, 5] y").replace("float[5] c", "float[1, 1, 5] c")),
    ),
    "bias widens the rows": (
        Reason.SHAPE,
        text(signature="(float[1, 4] a) => (float[3, 5] y) <float[4, 5] b, float[3, 5] c> "),
    ),
    "bias widens the columns": (
        Reason.SHAPE,
        text(signature="(float[M, 4] a) => (float[M, 5] y) <float[4, 1] b, float[5] c> "),
    ),
    "bias of another name": (
        Reason.SHAPE,
        text(signature="(float[M, 4] a, float[N, 5] c) => (float[M, 5] y) <float[4, 5] b> "),
    ),
    "product used elsewhere": (
        Reason.SHARED,
        text("{p = MatMul(a, b) y = Add(p, c) z = Exp(p)}", SIGNATURE.replace("5] y", "5] y, float[M, 5] z")),
    ),
    "product is an output": (
        Reason.GRAPH_OUTPUT,
        text(signature=SIGNATURE.replace("5] y", "5] y, float[M, 5] p")),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    assert_refuses(model(source), FUSE_GEMM_BIAS, reason)


def test_an_attribute_of_the_caller_is_refused() -> None:
    before = model(IN_FUNCTION, infer=False)
    (function,) = before.functions.values()
    wide = {"a": [None, 4], "b": [4, 5], "c": [5]}
    for value in function.inputs:
        value.dtype, value.shape = (
            before.graph.inputs[0].dtype,
            type(before.graph.inputs[0].shape)(wide[value.name]),
        )
    assert_refuses(before, FUSE_GEMM_BIAS, Reason.ATTRIBUTE)


MISSED = {
    "gemm with a bias": text("{p = Gemm(a, b, c) y = Add(p, c)}"),
    "difference": text("{p = MatMul(a, b) y = Sub(p, c)}"),
}


@pytest.mark.parametrize("name", MISSED)
def test_near_misses_do_not_match(name: str) -> None:
    assert_refuses(model(MISSED[name]), FUSE_GEMM_BIAS, Reason.STRUCTURE)


def test_sizes_that_coincide_do_not_confuse_the_axes() -> None:
    square = "(float[4, 4] a) => (float[4, 4] y) <float[4, 4] b, float[4, 1] c> "
    before = model(text(signature=square))
    assert_equivalent(before, assert_fires(before, FUSE_GEMM_BIAS))


@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    rows=st.sampled_from([1, 2, 7]),
    columns=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 9),
)
def test_same_numbers_at_any_size(name: str, rows: int, columns: int, seed: int) -> None:
    before = model(EXAMPLES[name], seed=seed)
    after = apply(before, FUSE_GEMM_BIAS).model
    assert_equivalent(before, after, sizes={"M": rows, "E": columns}, seed=seed)
