"""Regions that a choice is about: found in a graph, cut out as models, told apart by what their speed depends on."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.match import Match, Matcher
from graphwright.engine.observe import Replacement
from graphwright.engine.region import region_models
from graphwright.engine.rewrite import check_interior, source_names
from graphwright.engine.rule import Refusal, Rule, graph_patterns
from graphwright.errors import RequestError
from graphwright.tuning.choices import Choice

# Integers of a constant that decide what a region computes, as shapes and axes do; longer ones are data.
_MOST_INTEGERS = 64


@dataclass(frozen=True)
class Region:
    """One region: the names of the source nodes in it, the model cut out of the graph, and what tells it apart.

    ``kind`` is equal for regions of the same operators, attributes, constants' shapes and inputs' dimensions.
    """

    choice: Choice
    node: str
    sources: frozenset[str]
    model: ir.Model
    kind: str


def find_regions(model: ir.Model, choices: Sequence[Choice]) -> list[Region]:
    """Return the regions of a model's main graph, in the order of the choices and of the graph.

    One that cannot be cut out is left out: it keeps the default.
    """
    return [
        region
        for choice in choices
        for match in _matches(model, choice)
        if (region := _cut(choice, match, model)) is not None
    ]


def _matches(model: ir.Model, choice: Choice) -> Iterator[Match]:
    """Yield matches that share no node; patterns that come first have the first pick."""
    taken: set[ir.Node] = set()
    for pattern in graph_patterns(Rule(choice.name, choice.patterns, _never)):
        for node in model.graph:
            if (node.domain, node.op_type) not in pattern.root_ops or node in taken:
                continue
            match = next(filter(_is_closed, Matcher(pattern).matches(node)), None)
            if match is not None and taken.isdisjoint(match.nodes):
                taken.update(match.nodes)
                yield match


def _never(op: object) -> None:
    """Stand for the rewrite of a rule that is only matched."""


def _is_closed(match: Match) -> bool:
    """Tell whether nobody outside needs a value that some spelling would not compute."""
    try:
        check_interior(match)
    except Refusal:
        return False
    return True


def _cut(choice: Choice, match: Match, model: ir.Model) -> Region | None:
    nodes = (*match.nodes, *match.kept)
    whole = Replacement((), nodes, (), (), match.outputs, match.outputs)
    try:
        alone, _ = region_models(whole, model)
    except RequestError:
        return None
    sources = frozenset(name for node in match.nodes for name in source_names(node))
    dims = [str(value.shape) for value in alone.graph.inputs]
    last = match.outputs[0].producer()
    return Region(choice, facts.place(last), sources, alone, f"{fingerprint(alone)} {dims}")


def fingerprint(model: ir.Model) -> str:
    """Return a digest of what a model's speed depends on besides its inputs' sizes.

    Operators, attributes, how they are wired, types and shapes of constants; of small integer constants, which say how
    axes are split, the numbers as well. No names, and no weights.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y) {h = Exp(x) y = Neg(h)}'
        >>> same = [fingerprint(ir.from_onnx_text(text.replace("h", name))) for name in "hi"]
        >>> same[0] == same[1], same[0] == fingerprint(ir.from_onnx_text(text.replace("Exp", "Abs")))
        (True, False)
    """
    content = [_graph(model.graph), [_graph(each.graph) for _, each in sorted(model.functions.items())]]
    versions = sorted((domain, version) for domain, version in model.opset_imports.items())
    return hashlib.sha256(json.dumps([content, versions], default=str).encode()).hexdigest()


def _graph(graph: ir.Graph) -> list[Any]:
    numbers: dict[ir.Value, int] = {}

    def number(value: ir.Value | None) -> Any:
        tensor = facts.constant(value)
        if value is None or tensor is None:
            return None if value is None else numbers.setdefault(value, len(numbers))
        return _constant(tensor)

    inputs = [[number(value), str(value.dtype), facts.rank(value)] for value in graph.inputs]
    nodes: list[Any] = []
    for node in graph:
        if node.op_type != "Constant":
            read = [number(value) for value in node.inputs]
            nodes.append([node.domain, node.op_type, _attributes(node), read, [number(each) for each in node.outputs]])
    return [inputs, nodes, [number(value) for value in graph.outputs]]


def _attributes(node: ir.Node) -> list[Any]:
    found: list[Any] = []
    for name, given in sorted(node.attributes.items()):
        if given.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
            found.append([name, [_graph(graph) for graph in facts.subgraphs(node)]])
        elif given.type == ir.AttributeType.TENSOR and not given.is_ref():
            found.append([name, _constant(given.as_tensor())])
        else:
            found.append([name, str(given.ref_attr_name if given.is_ref() else given.value)])
    return found


def _constant(tensor: ir.TensorProtocol) -> list[Any]:
    described: list[Any] = [tensor.dtype.name, [int(size) for size in tensor.shape.numpy()]]
    if tensor.dtype.is_integer() and tensor.size <= _MOST_INTEGERS:
        described.append(tensor.numpy().reshape(-1).tolist())
    return described
