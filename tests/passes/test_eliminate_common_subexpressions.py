"""eliminate-common-subexpressions: what is the same, and what only looks so."""

import pytest

from graphwright.engine.observe import Reason
from graphwright.passes.lift.eliminate_common_subexpressions import ELIMINATE_COMMON_SUBEXPRESSIONS
from graphwright.testing import assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[N, 4] x) => (float[N, 4] y) "

EXAMPLES = {
    "two nodes": HEAD + SIGNATURE + "{a = Exp(x) b = Exp(x) y = Add(a, b)}",
    "chains": HEAD + SIGNATURE + "{a = Exp(x) b = Exp(x) c = Abs(a) d = Abs(b) y = Add(c, d)}",
    "same attributes": HEAD
    + SIGNATURE
    + "{a = LeakyRelu <alpha = 0.5> (x) b = LeakyRelu <alpha = 0.5> (x) y = Mul(a, b)}",
    "equal constants": HEAD + SIGNATURE + "{a = Constant <value_float = 2.0> () b = Constant <value_float = 2.0> () "
    "c = Mul(x, a) d = Mul(x, b) y = Add(c, d)}",
    "dropout": HEAD + SIGNATURE + "{a = Dropout(x) b = Dropout(x) y = Add(a, b)}",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_equal_nodes_become_one(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, ELIMINATE_COMMON_SUBEXPRESSIONS)
    assert after.graph.num_nodes() < before.graph.num_nodes()
    assert_equivalent(before, after, sizes={"N": 3})


def test_the_result_keeps_the_first_node() -> None:
    after = HEAD + SIGNATURE + "{a = Exp(x) c = Abs(a) y = Add(c, c)}"
    assert_fires(model(EXAMPLES["chains"]), ELIMINATE_COMMON_SUBEXPRESSIONS, after=after)


CALL = '<ir_version: 12, opset_import: ["": 24, "own": 1]> g (float[N] x) => (float[N] y) '
KEPT = {
    "other inputs": HEAD + "(float[N] x, float[N] z) => (float[N] y) {a = Exp(x) b = Exp(z) y = Add(a, b)}",
    "other attributes": HEAD + SIGNATURE + "{a = LeakyRelu <alpha = 0.5> (x) b = LeakyRelu(x) y = Mul(a, b)}",
    "zeros of two signs": HEAD
    + SIGNATURE
    + "{a = LeakyRelu <alpha = 0.0> (x) b = LeakyRelu <alpha = -0.0> (x) y = Div(a, b)}",
    "random numbers": HEAD + SIGNATURE + "{a = Bernoulli(x) b = Bernoulli(x) y = Sub(a, b)}",
    "random like": HEAD + SIGNATURE + "{a = RandomNormalLike(x) b = RandomNormalLike(x) y = Sub(a, b)}",
    "dropout in training": HEAD
    + SIGNATURE
    + "<float r = {0.5}, bool t = {1}> {a = Dropout(x, r, t) b = Dropout(x, r, t) y = Sub(a, b)}",
    "outputs": HEAD + "(float[N] x) => (float[N] y, float[N] z) {y = Exp(x) z = Exp(x)}",
    "other types": HEAD
    + "(float[N] x) => (double[N] y) {a = Cast <to = 11> (x) b = Cast <to = 10> (x) c = Cast <to = 11> (b) "
    "y = Add(a, c)}",
    "two branches": HEAD + "(float[N] x, bool c) => (float[N] y) {y = If (c) <then_branch = t () => (float[N] o) "
    "{a = Exp(x) o = Abs(a)}, else_branch = f () => (float[N] q) {b = Exp(x) q = Neg(b)}>}",
    "calls of functions": CALL + '{a = own.f(x) b = own.f(x) y = Sub(a, b)} <domain: "own", opset_import: ["": 24]> '
    "f (a) => (b) {b = Bernoulli(a)}",
    "other attributes of the caller": CALL
    + '{y = own.f <p = 0.1, q = 0.9> (x)} <domain: "own", opset_import: ["": 24]> '
    "f <p, q> (a) => (d) {b = LeakyRelu <alpha: float = @p> (a) c = LeakyRelu <alpha: float = @q> (a) d "
    "= Sub(b, c)}",
}


@pytest.mark.parametrize("name", KEPT)
def test_what_only_looks_the_same_stays(name: str) -> None:
    assert_refuses(model(KEPT[name], infer="own" not in KEPT[name]), ELIMINATE_COMMON_SUBEXPRESSIONS, Reason.STRUCTURE)


def test_merges_inside_branches_and_functions() -> None:
    branch = HEAD + (
        "(float[N] x, bool c) => (float[N] y) {y = If (c) <then_branch = t () => (float[N] o) "
        "{a = Exp(x) b = Exp(x) o = Add(a, b)}, else_branch = f () => (float[N] q) {q = Neg(x)}>}"
    )
    assert_fires(model(branch), ELIMINATE_COMMON_SUBEXPRESSIONS)
    function = CALL + (
        '{y = own.f <p = 0.1> (x)} <domain: "own", opset_import: ["": 24]> f <p> (a) => (d) '
        "{b = LeakyRelu <alpha: float = @p> (a) c = LeakyRelu <alpha: float = @p> (a) d = Add(b, c)}"
    )
    after = assert_fires(model(function, infer=False), ELIMINATE_COMMON_SUBEXPRESSIONS, regions=False)
    (body,) = after.functions.values()
    assert [node.op_type for node in body] == ["LeakyRelu", "Add"]


def test_a_merged_value_reaches_the_branches_that_captured_it() -> None:
    before = model(
        HEAD + "(float[N] x, bool c) => (float[N] y) {a = Exp(x) b = Exp(x) y = If (c) <then_branch = t () "
        "=> (float[N] o) "
        "{o = Add(a, b)}, else_branch = f () => (float[N] q) {q = Neg(b)}>}"
    )
    assert_equivalent(before, assert_fires(before, ELIMINATE_COMMON_SUBEXPRESSIONS), sizes={"N": 4})
