"""What two traces of a function have in common, on graphs written by hand; no PyTorch."""

from typing import Any

import pytest

from graphwright.engine.traced import Traced
from graphwright.testing import model
from graphwright.tracing.generalize import Graph, NotGeneralError, Variant, generalize

# Sizes, parameters and types of the first and the second trace.
SIZES = ({"B": 3, "E": 5, "D": 8}, {"B": 15, "E": 17, "D": 10})
NUMBERS = ({"epsilon": 0.25, "scale": 3.0}, {"epsilon": 0.5, "scale": 7.0})
HALVES = ("float16", "bfloat16")
SINGLES = ("float32", "float32")


def described(arguments: dict[str, str], parameters: tuple[str, ...] = (), dtype: str = "float32") -> Traced:
    examples = {name: (NUMBERS[0][name], NUMBERS[1][name]) for name in parameters}
    return Traced("graphwright.passes.lift.spellings:gelu", arguments, examples, dtype=dtype)


def merged(
    texts: tuple[str, str],
    arguments: dict[str, str] | None = None,
    parameters: tuple[str, ...] = (),
    dtypes: tuple[str, str] = SINGLES,
) -> Any:
    """The pattern of two graphs whose inputs are the arguments."""
    given = described(arguments or {"x": "T[...]"}, parameters)
    graphs = []
    for text, sizes, numbers, dtype in zip(texts, SIZES, NUMBERS, dtypes, strict=True):
        graph = model(f'<ir_version: 12, opset_import: ["": 24]> g {text}').graph
        chosen = {name: numbers[name] for name in parameters}
        values = dict(zip(given.given, graph.inputs, strict=True))
        graphs.append(Graph(Variant(chosen, sizes, dtype), values, list(graph.outputs)))
    return generalize(given, graphs[0], graphs[1], "made up")


def pair(text: str, **changes: tuple[str, str]) -> tuple[str, str]:
    """A text twice, with what differs between the traces filled in."""
    first, second = ({name: each[index] for name, each in changes.items()} for index in (0, 1))
    return text.format(**first), text.format(**second)


UNARY = "(float[{n}] x) => (float[{n}] y) <{constants}> {{{body}}}"
LEADING = ("A, E", "A, B, E")


def unary(constants: str, body: str, **changes: tuple[str, str]) -> tuple[str, str]:
    return pair(UNARY.replace("{constants}", constants).replace("{body}", body), n=LEADING, **changes)


def test_what_both_traces_share_is_the_pattern() -> None:
    entry = merged(unary("float half = {{0.5}}", "a = Exp(x) b = Mul(a, half) y = Add(a, b)"))
    assert [each["op"] for each in entry["nodes"]] == ["Exp", "Mul", "Add"]
    assert entry["nodes"][0] == {"op": "Exp", "inputs": ["x"]}
    assert entry["nodes"][1]["inputs"] == [{"node": 0}, {"literal": 0.5}]
    assert sorted(each["node"] for each in entry["nodes"][2]["inputs"]) == [0, 1]
    assert entry["roots"] == [{"node": 2}]


def test_the_order_of_commutative_operands_does_not_count() -> None:
    texts = unary("", "a = Exp(x) b = Neg(a) y = Add(a, b)")
    swapped = unary("", "a = Exp(x) b = Neg(a) y = Add(b, a)")
    assert merged(texts) == merged(swapped)


@pytest.mark.parametrize(
    ("numbers", "relation"),
    [
        (("0.25", "0.5"), "equal"),
        (("-0.25", "-0.5"), "negated"),
        (("4.0", "2.0"), "reciprocal"),
        (("0.125", "0.25"), "half"),
        (("0.5", "0.70710678"), "square root"),
        (("2.0", "1.41421356"), "reciprocal square root"),
    ],
)
def test_a_constant_that_changes_with_a_parameter_is_the_parameter(numbers: tuple[str, str], relation: str) -> None:
    texts = unary("float c = {{{c}}}", "a = Exp(x) y = Add(a, c)", c=numbers)
    entry = merged(texts, parameters=("epsilon",))
    assert entry["nodes"][1]["inputs"][1] == {"parameter": "epsilon", "relation": relation}


def test_an_attribute_that_changes_with_a_parameter_is_the_parameter() -> None:
    texts = unary("", "a = Exp(x) y = LeakyRelu <alpha = {c}> (a)", c=("0.25", "0.5"))
    entry = merged(texts, parameters=("epsilon",))
    assert entry["nodes"][1]["attributes"] == {"alpha": {"parameter": "epsilon", "relation": "equal"}}


def test_a_constant_that_changes_with_a_size_is_the_size() -> None:
    texts = pair(
        "(float[N, {d}] x) => (float[N, {d}] y) <float c = {{{c}}}> {{a = Exp(x) y = Div(a, c)}}",
        d=("8", "10"),
        c=("2.8284271", "3.1622777"),
    )
    entry = merged(texts, {"x": "T[..., D]"})
    assert entry["nodes"][1]["inputs"][1] == {"sizes": [["x", -1, "square root"]], "rank": 0}


def test_a_shape_with_sizes_is_made_of_them() -> None:
    texts = pair(
        "(float[{b}, {d}] x) => (float[{b}, 2, {h}] y) <int64[3] s = {{0, 2, {h}}}> {{a = Exp(x) y = Reshape(a, s)}}",
        b=("3", "15"),
        d=("8", "10"),
        h=("4", "5"),
    )
    entry = merged(texts, {"x": "T[B, D]"})
    assert entry["nodes"][1]["inputs"][1] == {"sizes": [0, 2, ["x", -1, "half"]], "rank": 1}


def test_a_constant_in_an_operator_that_does_not_broadcast_keeps_its_axes() -> None:
    texts = unary("int64 first = {{0}}", "a = Exp(x) b = Gather(a, first) c = Add(b, a) y = Neg(c)")
    gather = next(each for each in merged(texts)["nodes"] if each["op"] == "Gather")
    assert gather["inputs"][1] == {"literal": 0, "rank": 0}


def test_axes_count_from_where_they_agree() -> None:
    texts = unary("", "a = Exp(x) y = Softmax <axis = {k}> (a)", k=("1", "2"))
    assert merged(texts)["nodes"][1]["attributes"] == {"axis": {"default": -1}}
    texts = unary("", "a = Exp(x) y = Softmax <axis = 0> (a)")
    assert merged(texts)["nodes"][1]["attributes"] == {"axis": {"value": 0}}
    texts = unary(
        "int64[1] k = {{{k}}}", "a = Exp(x) m = ReduceMean <keepdims = 1> (a, k) y = Sub(a, m)", k=("-1", "2")
    )
    assert merged(texts)["nodes"][1]["inputs"][1] == {"axes": [-1]}


def test_a_cast_back_to_the_type_of_the_arguments_is_told_from_one_to_a_fixed_type() -> None:
    text = "({t}[N] x) => (y) {{a = Cast <to = 1> (x) b = Exp(a) c = Neg(b) y = Cast <to = {to}> (c)}}"
    back = merged(pair(text, t=HALVES, to=("10", "16")), dtypes=HALVES)
    assert back["nodes"][3]["attributes"]["to"] == {"dtype": "T"}
    assert back["nodes"][0] | {"kept": True} == back["nodes"][0]
    fixed = merged(pair(text, t=HALVES, to=("10", "10")), dtypes=HALVES)
    assert fixed["nodes"][3]["attributes"]["to"] == {"value": 10}


def test_a_cast_to_one_of_two_types_is_refused() -> None:
    text = (
        "({t}[N] x, {t}[N] z) => ({t}[N] y) {{a = Cast <to = 1> (x) b = Exp(a) c = Cast <to = {to}> (b) y = Mul(c, z)}}"
    )
    texts = pair(text, t=HALVES, to=("10", "16"))
    with pytest.raises(NotGeneralError, match="the type T or U"):
        merged(texts, {"x": "T[...]", "z": "U[...]"}, dtypes=HALVES)


def test_one_operator_is_no_pattern() -> None:
    assert merged(unary("", "y = Exp(x)")) is None
    assert merged(unary("", "a = Cast <to = 1> (x) y = Exp(a)")) is None


def test_two_results_are_two_roots() -> None:
    text = "(float[N] x) => (float[N] y, float[N] z) {{a = Exp(x) y = Neg(a) z = Abs(a)}}"
    assert merged(pair(text))["roots"] == [{"node": 1}, {"node": 2}]


REFUSED = {
    "a constant that nothing explains": (
        unary("float c = {{{c}}}", "a = Exp(x) y = Add(a, c)", c=("1.0", "2.0")),
        "explained by nothing",
    ),
    "a constant that is now and then a parameter": (
        unary("float c = {{{c}}}", "a = Exp(x) y = Add(a, c)", c=("0.25", "0.3")),
        "explained by nothing",
    ),
    "another operator": (unary("", "a = {f}(x) y = Neg(a)", f=("Exp", "Tanh")), "in the other"),
    "one more input": (unary("", "a = Exp(x) y = Clip({i})", i=("a", "a, a")), "in the other"),
    "shared in one": (
        unary("", "a = Exp(x) b = Exp(x) c = {f} y = Neg(c)", f=("Add(a, a)", "Add(a, b)")),
        "is shared in one of two traces",
    ),
    "an axis of both ends": (
        unary("", "a = Exp(x) y = Softmax <axis = {k}> (a)", k=("0", "2")),
        "the axes",
    ),
    "other axes of a Transpose": (
        unary("", "a = Exp(x) y = Transpose <perm = {p}> (a)", p=("[1, 0]", "[2, 0, 1]")),
        "perm",
    ),
    "a constant that is not finite": (
        unary("float c = {{inf}}", "a = Exp(x) y = Add(a, c)"),
        "the constant inf",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_generalized_is_refused(name: str) -> None:
    texts, message = REFUSED[name]
    with pytest.raises(NotGeneralError, match=message):
        merged(texts, parameters=("epsilon",))


def test_a_constant_with_two_explanations_is_refused() -> None:
    # 8 and 10 are the size, 4 and 5 its half: here a parameter has the same examples.
    given = Traced("graphwright.passes.lift.spellings:gelu", {"x": "T[..., D]"}, {"scale": (8.0, 10.0)})
    graphs = []
    for size, sizes in zip((8, 10), SIZES, strict=True):
        text = f"(float[N, {size}] x) => (y) <float c = {{{size}.0}}> {{a = Exp(x) y = Div(a, c)}}"
        graph = model(f'<ir_version: 12, opset_import: ["": 24]> g {text}').graph
        variant = Variant({"scale": float(size)}, sizes, "float32")
        graphs.append(Graph(variant, {"x": graph.inputs[0]}, list(graph.outputs)))
    with pytest.raises(NotGeneralError, match="in 2 ways"):
        generalize(given, graphs[0], graphs[1], "made up")


def test_a_table_is_no_part_of_a_formula() -> None:
    table = ", ".join("1.5" for _ in range(17))
    text = f"(float[N, 17] x) => (float[N, 17] y) <float[17] c = {{{{{table}}}}}> {{{{a = Exp(x) y = Add(a, c)}}}}"
    with pytest.raises(NotGeneralError, match="too many numbers"):
        merged(pair(text))


def test_an_operator_with_a_subgraph_is_refused() -> None:
    text = (
        "(float[N] x, bool c) => (float[N] y) {{a = Exp(x) "
        "y = If (c) <then_branch = t () => (float[N] b) {{b = Neg(a)}}, "
        "else_branch = e () => (float[N] d) {{d = Abs(a)}}>}}"
    )
    with pytest.raises(NotGeneralError, match="branch"):
        merged(pair(text), {"x": "T[...]", "c": "bool[]"})
