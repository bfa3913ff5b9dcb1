"""Traced patterns as JSON text and as patterns: nodes in an order in which each comes behind its inputs.

A node is ``{"op": "Mul", "inputs": ["x", {"node": 0}], "attributes": {"axis": {"value": -1}}}``. An input is the name
of an argument, null where it is missing, or an object with one of these keys, which the functions below read::

    node, output    an output of an earlier node           literal, rank    a constant of these contents
    axes            a constant list of axes                parameter, relation    a number of the rule
    sizes, rank     a constant made of sizes: each a number, or [argument, axis, relation]

What was read from a file is checked before anything is made of it, since a cache may be damaged or hostile.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from graphwright.engine import facts
from graphwright.engine.pattern import (
    RELATIONS,
    AttrVar,
    Axes,
    Condition,
    Default,
    GraphPattern,
    Literal,
    Op,
    Output,
    Parameter,
    Pattern,
    Var,
    size_of,
)
from graphwright.engine.traced_arguments import Argument, argument_conditions
from graphwright.errors import LoadError

# A pattern of more nodes than this is no pattern, but a model; the matcher goes as deep as a pattern does.
MOST_NODES = 64

# The most inputs and attributes of one node.
MOST_OF_A_NODE = 24

Entry = Mapping[str, Any]


def read_pattern(
    name: str, entry: Any, arguments: Mapping[str, Argument], parameters: Mapping[str, Any], bound: Mapping[str, Any]
) -> GraphPattern:
    """Return the pattern that an entry tells of.

    Raises:
        LoadError: the entry is not of the form, or does not fit the arguments and parameters.
    """
    reader = _Reader(name, arguments, parameters)
    try:
        roots = reader.roots(entry)
        exporters = "+".join(str(each) for each in entry["exporters"])
    except (TypeError, KeyError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise reader.error(f"{type(error).__name__}: {error}") from error
    conditions = (*argument_conditions(arguments), *reader.conditions)
    variables = tuple(reader.variables.values())
    return GraphPattern(f"{name}@{exporters}", roots, variables, size_of(roots), conditions, dict(bound))


class _Reader:
    """Makes the nodes of one entry, in order; shared ones are made once."""

    def __init__(self, name: str, arguments: Mapping[str, Argument], parameters: Mapping[str, Any]) -> None:
        self.name, self.parameters = name, parameters
        self.arguments = arguments
        self.variables = {each: Var(each) for each in arguments}
        self.seen: set[str] = set()
        self.nodes: list[Op] = []
        self.conditions: list[Condition] = []

    def error(self, found: str) -> LoadError:
        return LoadError(f"traced pattern {self.name}", found, needed="a pattern as graphwright.tracing writes it")

    def roots(self, entry: Entry) -> tuple[Pattern, ...]:
        nodes = entry["nodes"]
        if not isinstance(nodes, list) or not 0 < len(nodes) <= MOST_NODES:
            raise self.error(f"no list of 1 to {MOST_NODES} nodes")
        for each in nodes:
            self.nodes.append(self._node(each))
        roots = tuple(self._input(each) for each in entry["roots"])
        if not roots or not all(isinstance(each, Op | Output) for each in roots):
            raise self.error("a root that is no node")
        unused = {*self.arguments, *self.parameters} - self.seen
        if unused:
            raise self.error(f"no use of {', '.join(sorted(unused))}")
        return tuple(each for each in roots if each is not None)

    def _node(self, entry: Entry) -> Op:
        if max(len(entry["inputs"]), len(entry.get("attributes", {}))) > MOST_OF_A_NODE:
            raise self.error(f"a node of more than {MOST_OF_A_NODE} inputs or attributes")
        inputs = tuple(self._input(each) for each in entry["inputs"])
        attributes = {_text(key): self._attribute(value) for key, value in entry.get("attributes", {}).items()}
        outputs = _whole(entry.get("outputs", 1))
        return Op(_text(entry["op"]), inputs, attributes, _text(entry.get("domain", "")), outputs, "kept" in entry)

    def _input(self, entry: Any) -> Pattern | None:
        if entry is None:
            return None
        if isinstance(entry, str):
            self.seen.add(entry)
            return self.variables[entry]
        makers: dict[str, Callable[[Entry], Pattern]] = {
            "node": self._output,
            "literal": lambda each: Literal(_numbers(each["literal"]), each.get("rank")),
            "axes": lambda each: Axes(tuple(_whole(axis) for axis in each["axes"])),
            "parameter": self._parameter,
            "sizes": self._sizes,
        }
        (kind,) = makers.keys() & entry.keys()
        return makers[kind](entry)

    def _output(self, entry: Entry) -> Pattern:
        index, output = _whole(entry["node"]), _whole(entry.get("output", 0))
        node = self.nodes[index]
        if index < 0 or not 0 <= output < node.outputs:
            raise self.error(f"output {output} of node {index}")
        return node if node.outputs == 1 else Output(node, output)

    def _parameter(self, entry: Entry) -> Parameter:
        name, relation = entry["parameter"], entry.get("relation", "equal")
        if name not in self.parameters or relation not in RELATIONS:
            raise self.error(f"the parameter {name!r} ({relation})")
        self.seen.add(name)
        return Parameter(name, relation)

    def _sizes(self, entry: Entry) -> Var:
        terms = [each if isinstance(each, int | float) else _term(each, self.arguments) for each in entry["sizes"]]
        name = f"sizes {len(self.conditions)}"
        needed = f"a constant made of the sizes {entry['sizes']}"
        self.conditions.append(Condition(needed, partial(_is_made_of, name, terms, entry.get("rank"))))
        return Var(name)

    def _attribute(self, entry: Entry) -> Any:
        if "parameter" in entry:
            return self._parameter(entry)
        if "dtype" in entry:
            variable = _text(entry["dtype"])
            if all(each.dtype != variable for each in self.arguments.values()):
                raise self.error(f"the type {variable!r}")
            return AttrVar(variable)
        (kind,) = entry.keys() & {"value", "default"}
        contents = _plain(entry[kind])
        return Default(contents) if kind == "default" else contents


def _term(entry: Any, arguments: Mapping[str, Argument]) -> tuple[str, int, str]:
    name, axis, relation = entry
    if name not in arguments or relation not in RELATIONS:
        raise ValueError(f"the size {entry}")
    return name, _whole(axis), relation


def _is_made_of(name: str, terms: list[Any], rank: int | None, values: Mapping[str, Any]) -> bool:
    """Tell whether the constant bound to a name holds these sizes of the bound arguments, all of them known."""
    contents = facts.array(values[name])
    if contents is None or contents.size != len(terms) or rank not in (None, contents.ndim):
        return False
    wanted = []
    for term in terms:
        if isinstance(term, tuple):
            size = facts.static_dim(values[term[0]], term[1])
            if not size:
                return False
            term = RELATIONS[term[2]][0](size)
        wanted.append(float(term))
    # As wide as float32 rounds: sizes are exact, their roots are not.
    return bool(np.allclose(contents.reshape(-1).astype(np.float64), wanted, rtol=1e-6, atol=0))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _numbers(value: Any) -> Any:
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, int | float) or not math.isfinite(each):
            raise TypeError(f"{each!r} is no number")
    return value


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    return tuple(_numbers(value)) if isinstance(value, list) else _numbers(value)
