"""The matcher, on graphs small enough to see what must and must not match."""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest

from graphwright.engine import pattern
from graphwright.engine.match import Matcher, Miss
from graphwright.engine.pattern import AnyOf, Op, Output, PatternOps, Var
from graphwright.testing import model

HEAD = '<ir_version: 10, opset_import: ["" : 21]> g (float[N, 4] x, float[N, 4] z) => (float[N, 4] y)'


def graph(body: str, head: str = HEAD) -> ir.Model:
    return model(f"{head} {{ {body} }}")


def count(function: Callable[..., Any], given: ir.Model) -> int:
    """Count the roots at which the pattern matches."""
    traced = pattern.trace(function)
    return sum(any(True for _ in Matcher(traced).matches(node)) for node in given.graph)


def bindings(function: Callable[..., Any], given: ir.Model) -> list[dict[str, Any]]:
    traced = pattern.trace(function)
    return [dict(match.bindings) for node in given.graph for match in Matcher(traced).matches(node)]


def miss(function: Callable[..., Any], given: ir.Model, index: int) -> Miss:
    matcher = Matcher(pattern.trace(function))
    assert not list(matcher.matches(given.graph[index]))
    return matcher.miss


def own_sigmoid(op: PatternOps, x: Var) -> Op:
    return op.Mul(x, op.Sigmoid(x))


def test_a_repeated_variable_must_be_one_value() -> None:
    assert count(own_sigmoid, graph("s = Sigmoid(x) y = Mul(x, s)")) == 1
    assert count(own_sigmoid, graph("s = Sigmoid(x) y = Mul(z, s)")) == 0


def test_commutative_operators_match_in_both_orders_and_others_do_not() -> None:
    assert count(own_sigmoid, graph("s = Sigmoid(x) y = Mul(s, x)")) == 1

    def difference(op: PatternOps, x: Var) -> Op:
        return op.Sub(x, op.Sigmoid(x))

    assert count(difference, graph("s = Sigmoid(x) y = Sub(x, s)")) == 1
    assert count(difference, graph("s = Sigmoid(x) y = Sub(s, x)")) == 0


def test_nested_commutative_operators_need_no_expanded_rules() -> None:
    def chain(op: PatternOps, x: Var, z: Var) -> Op:
        return op.Add(op.Mul(op.Add(op.Relu(x), z), x), op.Tanh(z))

    for inner in ("Add(r, z)", "Add(z, r)"):
        for middle in ("Mul(a, x)", "Mul(x, a)"):
            for outer in ("Add(m, t)", "Add(t, m)"):
                body = f"r = Relu(x) t = Tanh(z) a = {inner} m = {middle} y = {outer}"
                assert count(chain, graph(body)) == 1, body


def test_max_of_three_is_not_a_binary_max() -> None:
    def binary(op: PatternOps, x: Var, z: Var) -> Op:
        return op.Max(x, op.Relu(z))

    assert count(binary, graph("r = Relu(z) y = Max(r, x)")) == 1
    assert count(binary, graph("r = Relu(z) y = Max(x, r, z)")) == 0


def test_schema_defaults_count_as_given() -> None:
    def last_axis(op: PatternOps, x: Var) -> Op:
        return op.Softmax(x, axis=-1)

    assert count(last_axis, graph("y = Softmax(x)")) == 1
    assert count(last_axis, graph("y = Softmax<axis = -1>(x)")) == 1
    assert count(last_axis, graph("y = Softmax<axis = 0>(x)")) == 0


def test_axes_are_equal_after_negative_ones_are_resolved() -> None:
    def last_axis(op: PatternOps, x: Var) -> Op:
        return op.Softmax(x, axis=-1)

    assert count(last_axis, graph("y = Softmax<axis = 1>(x)")) == 1
    unknown_rank = graph("y = Softmax<axis = 1>(x)")
    unknown_rank.graph.inputs[0].shape = None
    assert count(last_axis, unknown_rank) == 0


@pytest.mark.parametrize("shape", ["", "1", "1, 1"])
def test_a_number_matches_one_element_of_any_rank(shape: str) -> None:
    def half(op: PatternOps, x: Var) -> Op:
        return op.Mul(x, 0.5)

    dims = f"[{shape}]" if shape else ""
    assert count(half, graph(f"c = Constant<value = float{dims} {{0.5}}>() y = Mul(x, c)")) == 1
    assert count(half, graph(f"c = Constant<value = float{dims} {{0.50001}}>() y = Mul(x, c)")) == 0
    assert count(half, graph("c = Constant<value = float[4] {0.5, 0.5, 0.5, 0.5}>() y = Mul(x, c)")) == 0


def test_a_number_matches_an_initializer_but_never_an_overridable_one() -> None:
    def half(op: PatternOps, x: Var) -> Op:
        return op.Mul(x, 0.5)

    head = '<ir_version: 10, opset_import: ["" : 21]> g (float[N, 4] x{more}) => (float[N, 4] y) <float c = {{0.5}}>'
    assert count(half, graph("y = Mul(x, c)", head.format(more=""))) == 1
    assert count(half, graph("y = Mul(x, c)", head.format(more=", float c"))) == 0


def test_alternatives_are_searched_with_backtracking() -> None:
    def either(op: PatternOps, x: Var, z: Var) -> Op:
        return op.Add(op.any_of(op.Relu(x), op.Tanh(x), x, tag="which"), op.Sigmoid(x))

    assert [found["which"] for found in bindings(either, graph("r = Relu(x) s = Sigmoid(x) y = Add(r, s)"))] == [0]
    assert [found["which"] for found in bindings(either, graph("r = Tanh(x) s = Sigmoid(x) y = Add(r, s)"))] == [1]
    # The third alternative binds x to the Relu itself, and then Sigmoid must read the Relu.
    assert [found["which"] for found in bindings(either, graph("r = Relu(x) s = Sigmoid(r) y = Add(r, s)"))] == [2]


def test_an_alternative_may_be_the_output_of_the_pattern() -> None:
    def maybe_cast(op: PatternOps, x: Var) -> AnyOf:
        return op.any_of(op.Neg(op.Relu(x)), op.Relu(x))

    assert count(maybe_cast, graph("r = Relu(x) y = Neg(r)")) == 2
    assert pattern.trace(maybe_cast).root_ops == [("", "Neg"), ("", "Relu")]


def test_checks_inside_alternatives_are_honoured() -> None:
    def is_constant(value: ir.Value) -> bool:
        return value.is_initializer()

    def scaled(op: PatternOps, x: Var, s: Var) -> Op:
        return op.Relu(op.any_of(op.Mul(x, op.check(s, "an initializer", is_constant)), x, tag="which"))

    assert [found["which"] for found in bindings(scaled, graph("m = Mul(x, z) y = Relu(m)"))] == [1]


def test_two_operators_of_a_pattern_never_bind_one_node() -> None:
    def two_products(op: PatternOps, x: Var, a: Var, b: Var) -> tuple[Op, Op]:
        return op.Mul(x, a), op.Mul(x, b)

    assert count(two_products, graph("y = Mul(x, z)")) == 0
    assert count(two_products, graph("m = Mul(x, z) n = Mul(x, x) y = Add(m, n)")) == 2


def test_siblings_are_found_through_the_input_they_share() -> None:
    def siblings(op: PatternOps, x: Var, a: Var, b: Var, c: Var) -> tuple[Op, Op, Op]:
        return op.Relu(op.Mul(x, a)), op.Relu(op.Mul(x, b)), op.Relu(op.Mul(x, c))

    body = "m = Mul(x, z) n = Mul(x, x) o = Mul(x, m) a = Relu(m) b = Relu(n) c = Relu(o) y = Sum(a, b, c)"
    matches = bindings(siblings, graph(body))
    assert len({(found["a"].name, found["b"].name, found["c"].name) for found in matches}) > 0
    assert count(siblings, graph(body.replace("Mul(x, m)", "Mul(z, m)"))) == 0


def test_several_outputs_of_one_node_are_told_apart() -> None:
    def second_half(op: PatternOps, x: Var, sizes: Var) -> Op:
        _, second = op.Split(x, sizes, axis=0, _outputs=2)
        assert isinstance(second, Output)
        return op.Relu(second)

    text = "s = Constant<value_ints = [1, 1]>() a, b = Split<axis = 0>(x, s) y = Relu({})"
    assert count(second_half, graph(text.format("b"))) == 1
    assert count(second_half, graph(text.format("a"))) == 0


def test_an_optional_variable_binds_a_missing_input() -> None:
    def clip(op: PatternOps, x: Var, low: Var | None = None, high: Var | None = None) -> Op:
        return op.Clip(x, low, high)

    (found,) = bindings(clip, graph("y = Clip(x)"))
    assert found["low"] is None and found["high"] is None
    assert count(lambda op, x: op.Clip(x), graph("c = Constant<value_float = 0.0>() y = Clip(x, c)")) == 0


def test_an_attribute_may_be_bound() -> None:
    def leaky(op: PatternOps, x: Var) -> Op:
        return op.LeakyRelu(x, alpha=op.attr("slope"))

    assert bindings(leaky, graph("y = LeakyRelu<alpha = 0.25>(x)"))[0]["slope"] == 0.25
    assert bindings(leaky, graph("y = LeakyRelu(x)"))[0]["slope"] == pytest.approx(0.01)


def test_an_attribute_that_refers_to_the_enclosing_function_matches_nothing() -> None:
    given = graph("y = LeakyRelu<alpha = 0.25>(x)")
    node = given.graph[0]
    node.attributes["alpha"] = ir.RefAttr("alpha", "slope", ir.AttributeType.FLOAT)
    assert count(lambda op, x: op.LeakyRelu(x, alpha=0.25), given) == 0


def test_the_same_operator_of_another_domain_does_not_match() -> None:
    given = graph("y = Relu(x)")
    given.graph[0].domain = "com.example"
    assert count(lambda op, x: op.Relu(x), given) == 0
    assert count(lambda op, x: op.Relu(x, _domain="com.example"), given) == 1


def test_a_match_does_not_cross_into_another_graph() -> None:
    head = '<ir_version: 10, opset_import: ["" : 21]> g (float[N, 4] x, bool c) => (float[N, 4] y)'
    body = "s = Sigmoid(x) y = If<then_branch = a () => (float[N, 4] p) {p = Mul(x, s)}, "
    body += "else_branch = b () => (float[N, 4] q) {t = Sigmoid(x) q = Mul(x, t)}>(c)"
    given = graph(body, head)
    carrier = given.graph[1]
    inside = {name: carrier.attributes[name].as_graph() for name in ("then_branch", "else_branch")}
    traced = pattern.trace(own_sigmoid)
    found = {name: sum(1 for node in branch for _ in Matcher(traced).matches(node)) for name, branch in inside.items()}
    assert found == {"then_branch": 0, "else_branch": 1}


def test_the_nearest_miss_says_where_what_was_needed_and_what_was_there() -> None:
    def three(op: PatternOps, x: Var) -> Op:
        return op.Mul(op.Relu(op.Tanh(x)), 2.0)

    found = miss(three, graph("t = Sigmoid(x) r = Relu(t) c = Constant<value_float = 2.0>() y = Mul(r, c)"), 3)
    assert found.matched == 2
    assert "needs Tanh" in str(found) and "Sigmoid" in str(found)


def test_a_pattern_without_operators_is_refused() -> None:
    with pytest.raises(TypeError, match="returns no operator"):
        pattern.trace(lambda op, x: x)


def test_a_tag_survives_an_alternative_that_does_not_match() -> None:
    """The shared part stands in an alternative too, which fails after it has bound the tag once more."""

    def either(op: PatternOps, x: Var) -> Op:
        shared = op.any_of(op.Relu(x), op.Tanh(x), tag="which")
        return op.Sub(shared, op.any_of(op.Mul(shared, op.Exp(x)), op.Neg(x)))

    (found,) = bindings(either, graph("t = Tanh(x) n = Neg(x) y = Sub(t, n)"))
    assert found["which"] == 1
    (found,) = bindings(either, graph("t = Tanh(x) e = Exp(x) m = Mul(t, e) y = Sub(t, m)"))
    assert found["which"] == 1

    def after_a_failure(op: PatternOps, x: Var, z: Var) -> Op:
        shared = op.any_of(op.Relu(x), op.Tanh(x), tag="which")
        return op.Sub(shared, op.any_of(op.Div(shared, op.Exp(z)), op.Div(op.var("other"), op.Abs(z))))

    (found,) = bindings(after_a_failure, graph("t = Tanh(x) a = Abs(z) d = Div(t, a) y = Sub(t, d)"))
    assert found["which"] == 1
