"""Traced patterns as they are recorded: which entries are taken, and what they match."""

import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from graphwright.engine.pattern import Op
from graphwright.engine.rewrite import Builder, Reason, Rule
from graphwright.engine.traced import Traced, graph_patterns, write_recording
from graphwright.engine.traced_pattern import MOST_NODES
from graphwright.errors import LoadError
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model
from tests.engine.traced_formulas import ENTRY, NODES, described, recorded


def tanh_of_sum(op: Builder, x: ir.Value, weight: ir.Value, strength: float) -> Any:
    """The same numbers, said in another way."""
    return op.Mul(weight, op.Tanh(op.Sum(x, x, strength**0.5)))


def with_node(index: int, **changes: Any) -> dict[str, Any]:
    nodes = json.loads(json.dumps(NODES))
    nodes[index].update(changes)
    return {**ENTRY, "nodes": nodes}


HOSTILE = {
    "no entry": None,
    "a text": "Mul",
    "no nodes": {**ENTRY, "nodes": []},
    "too many nodes": {**ENTRY, "nodes": NODES[:1] * 1000},
    "no roots": {**ENTRY, "roots": []},
    "a root that is a variable": {**ENTRY, "roots": ["x"]},
    "a root that is not there": {**ENTRY, "roots": [{"node": 4}]},
    "a node before the first": {**ENTRY, "roots": [{"node": -1}]},
    "a node that reads a later one": with_node(0, inputs=["x", {"node": 3}]),
    "a node that reads itself": with_node(0, inputs=["x", {"node": 0}]),
    "an output that is not there": with_node(1, inputs=[{"node": 0, "output": 1}, "x"]),
    "an unknown variable": with_node(0, inputs=["y", {"literal": 2.0}]),
    "an unknown parameter": with_node(1, inputs=[{"node": 0}, {"parameter": "weakness"}]),
    "an unknown relation": with_node(1, inputs=[{"node": 0}, {"parameter": "strength", "relation": "__class__"}]),
    "an argument without use": with_node(3, inputs=[{"node": 2}, "x"]),
    "two kinds at once": with_node(0, inputs=["x", {"literal": 2.0, "axes": [1]}]),
    "a literal that is a text": with_node(0, inputs=["x", {"literal": "2"}]),
    "an operator that is no text": with_node(0, op=["Mul"]),
    "attributes that are a list": with_node(0, attributes=[1]),
    "an attribute of no kind": with_node(0, attributes={"axis": 1}),
    "an attribute of a nested list": with_node(0, attributes={"axes": {"value": [[1]]}}),
    "an unknown type": with_node(0, attributes={"to": {"dtype": "U"}}),
    "a size of an unknown variable": with_node(0, inputs=["x", {"sizes": [["y", 0, "equal"]]}]),
    "inputs that are a number": with_node(0, inputs=7),
    "a thousand attributes": with_node(0, attributes={f"a{index}": {"value": 1} for index in range(1000)}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_record_that_is_not_of_the_form_is_an_error_and_no_pattern(formulas: Path, name: str) -> None:
    given = described()
    with pytest.raises(LoadError, match="traced pattern formula"):
        recorded(given, HOSTILE[name]).read(given)


HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[B, S, 8] x) => (float[B, S, 8] y) <float[8] w, float two = {2}, float root = {1.5}> "
BODY = "a = Mul(x, two) b = Add(a, root) t = Tanh(b) y = Mul(t, w)"


@pytest.fixture
def rule(formulas: Path) -> Rule:
    given = described()
    write_recording(given.record_path, recorded(given))
    return Rule("sum-in-tanh", (given,), tanh_of_sum)


def text(body: str = BODY, signature: str = SIGNATURE) -> str:
    return HEAD + signature + "{" + body + "}"


def test_a_traced_pattern_matches_and_tells_the_parameter(rule: Rule) -> None:
    before = model(text())
    after = assert_fires(before, rule)
    assert [node.op_type for node in after.graph] == ["Sum", "Tanh", "Mul"]
    for sizes in ({"B": 1, "S": 1}, {"B": 2, "S": 7}):
        assert_equivalent(before, after, sizes=sizes)


def test_operands_may_stand_in_either_order(rule: Rule) -> None:
    swapped = BODY.replace("(x, two)", "(two, x)").replace("(a, root)", "(root, a)").replace("(t, w)", "(w, t)")
    assert_fires(model(text(swapped)), rule)


def test_it_fires_in_another_type_too(rule: Rule) -> None:
    assert_fires(model(text(signature=SIGNATURE.replace("float", "double"))), rule)


NEAR_MISSES = {
    "another constant": text(signature=SIGNATURE.replace("{2}", "{2.01}")),
    "a root below 0": text(signature=SIGNATURE.replace("{1.5}", "{-1.5}")),
    "a root that callers may override": text(
        signature=SIGNATURE.replace("8] x)", "8] x, float root = {1.5})").replace(", float root = {1.5}>", ">")
    ),
    "a weight for each token": text(
        signature=SIGNATURE.replace("float[8] w, ", "").replace("8] x)", "8] x, float[B, S, 8] w)")
    ),
    "a weight of one number": text(signature=SIGNATURE.replace("float[8] w", "float[1] w")),
    "sizes of two names": text(
        signature=SIGNATURE.replace("S, 8]", "S, M]").replace("float[8] w, ", "").replace("M] x)", "M] x, float[N] w)")
    ),
    "sizes that are not known": text(
        signature=SIGNATURE.replace("S, 8]", "S, ?]").replace("float[8] w, ", "").replace("?] x)", "?] x, float[?] w)")
    ),
    "another operator": text(BODY.replace("Tanh", "Sigmoid")),
    "a constant that adds an axis": text(
        signature=SIGNATURE.replace("float two = {2}", "float[1, 1, 1, 1] two = {2}").replace(
            "(float[B, S, 8] y)", "(float[1, B, S, 8] y)"
        )
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_a_near_miss_does_not_match(rule: Rule, name: str) -> None:
    assert_refuses(model(NEAR_MISSES[name]), rule, Reason.STRUCTURE)


def test_what_others_use_is_refused(rule: Rule) -> None:
    signature = SIGNATURE.replace("=> (float[B, S, 8] y)", "=> (float[B, S, 8] y, float[B, S, 8] z)")
    assert_refuses(model(text(BODY + " z = Neg(b)", signature)), rule, Reason.SHARED)
    assert_refuses(model(text(BODY.replace("b", "z"), signature)), rule, Reason.GRAPH_OUTPUT)


def test_a_miss_says_what_was_needed(rule: Rule) -> None:
    outcome = assert_refuses(model(NEAR_MISSES["a weight of one number"]), rule, Reason.STRUCTURE)
    (miss,) = (each for each in outcome.misses if each.matched == len(NODES))
    assert "x and weight of one E" in miss.detail
    assert miss.pattern == "formula@made up"
    outcome = assert_refuses(model(NEAR_MISSES["a root below 0"]), rule, Reason.STRUCTURE)
    assert any("a number for strength (square root)" in each.detail for each in outcome.misses)


def test_the_longest_pattern_matches(formulas: Path) -> None:
    given = Traced("formulas:stranger", {"x": "T[...]"})
    nodes: list[dict[str, Any]] = [{"op": "Neg", "inputs": ["x"]}]
    nodes += [{"op": "Neg", "inputs": [{"node": index}]} for index in range(MOST_NODES - 1)]
    entry = {"exporters": ["made up"], "roots": [{"node": MOST_NODES - 1}], "nodes": nodes}
    write_recording(given.record_path, recorded(given, entry))
    body = " ".join(f"v{index + 1} = Neg(v{index})" for index in range(MOST_NODES))
    chain = f"{HEAD}(float[N] v0) => (float[N] v{MOST_NODES}) {{{body}}}"
    assert_fires(model(chain), Rule("drop-negations", (given,), lambda op, x: op.Abs(x)), regions=False)


# A default of the newest schema, a value that is none, and an attribute that the operator may have but has not.
CAST = {"round_mode": {"default": "up"}, "saturate": {"default": 1}, "to": {"value": 1}}
CASTS = [
    {"op": "Cast", "inputs": ["x"], "attributes": CAST},
    {"op": "Unsqueeze", "inputs": [{"node": 0}, {"literal": [0]}]},
    {"op": "Dropout", "inputs": [{"node": 1}], "attributes": {"seed": {"value": None}}},
]


@pytest.mark.parametrize(
    ("opset", "cast", "dropout", "fires"),
    [
        (24, "", "", True),
        (24, ', round_mode = "up"', "", True),
        (18, "", "", True),
        (19, ", saturate = 1", "", True),
        (19, ", saturate = 0", "", False),
        (24, ', round_mode = "down"', "", False),
        (24, "", "<seed = 1>", False),
    ],
)
def test_all_attributes_count_given_or_not(formulas: Path, opset: int, cast: str, dropout: str, fires: bool) -> None:
    given = Traced("formulas:stranger", {"x": "T[...]"})
    entry = {"exporters": ["made up"], "roots": [{"node": 2}], "nodes": CASTS}
    write_recording(given.record_path, recorded(given, entry))
    tested = Rule("widen", (given,), lambda op, x: op.Unsqueeze(op.Cast(x, to=1), [0]))
    text = (
        f'<ir_version: 12, opset_import: ["": {opset}]> g (float16[N] x) => (float[1, N] y) <int64[1] k = {{0}}> '
        f"{{a = Cast <to = 1{cast}> (x) b = Unsqueeze(a, k) y = Dropout {dropout} (b)}}"
    )
    assert apply(model(text), tested).applied == fires


def constant_of_sizes(rank: int, *terms: object) -> dict[str, Any]:
    return with_node(0, inputs=["x", {"sizes": list(terms), "rank": rank}])


def test_a_constant_may_be_made_of_sizes(formulas: Path) -> None:
    given = described()
    write_recording(given.record_path, recorded(given, constant_of_sizes(0, ["x", -1, "reciprocal square root"])))
    named = Rule("sum-in-tanh", (given,), lambda op, x, weight, strength: op.Mul(weight, op.Tanh(x)))
    right = SIGNATURE.replace("{2}", "{0.35355339}")
    assert [each.op_type for each in assert_fires(model(text(signature=right)), named, regions=False).graph] == [
        "Tanh",
        "Mul",
    ]
    assert_refuses(model(text()), named, Reason.STRUCTURE)
    dynamic = right.replace("S, 8]", "S, E]").replace("float[8] w, ", "").replace("E] x)", "E] x, float[E] w)")
    assert_refuses(model(text(signature=dynamic)), named, Reason.STRUCTURE)


def test_traced_patterns_are_patterns_like_others(rule: Rule) -> None:
    (given,) = rule.patterns
    assert isinstance(given, Traced)
    (pattern,) = graph_patterns(given)
    assert pattern.root_ops == [("", "Mul")]
    assert pattern.size == len(NODES)
    assert isinstance(pattern.roots[0], Op)
