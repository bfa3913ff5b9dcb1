"""The matcher: finds what a pattern binds in a graph, by depth-first search with backtracking. It never edits a graph.

Each method that binds is a generator: it yields once for every way in which its part of the pattern can bind, and
undoes the binding when it is resumed. So alternatives, orders of operands and checks backtrack by themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.literal import is_literal, is_near, parameter_of, same_attribute
from graphwright.engine.pattern import (
    AnyOf,
    AttrVar,
    Axes,
    Checked,
    GraphPattern,
    Literal,
    Named,
    Op,
    Output,
    Parameter,
    Pattern,
    Var,
    describe,
)


@dataclass(frozen=True)
class Match:
    """What a pattern bound in a graph."""

    bindings: dict[str, Any]
    nodes: tuple[ir.Node, ...]
    kept: tuple[ir.Node, ...]
    outputs: tuple[ir.Value, ...]


@dataclass
class Miss:
    """The furthest that a pattern came from one root: what was needed where, and what was found."""

    matched: int = 0
    node: ir.Node | None = None
    needed: Any = ""
    found: Any = ""

    def __str__(self) -> str:
        found = self.found
        if isinstance(found, ir.Value):
            node = found.producer()
            found = facts.describe(found) if node is None else f"{facts.describe(found)} of {facts.place(node)}"
        return f"{facts.place(self.node)} needs {describe(self.needed)}, has {found or 'nothing'}"


@dataclass
class Matcher:
    """Finds the matches of one pattern that start at one node, by depth-first search with backtracking."""

    pattern: GraphPattern
    values: dict[str, Any] = field(default_factory=dict)
    nodes: dict[Op, ir.Node] = field(default_factory=dict)
    taken: set[ir.Node] = field(default_factory=set)
    miss: Miss = field(default_factory=Miss)
    graph: ir.Graph | None = None

    def matches(self, root: ir.Node) -> Iterator[Match]:
        """Yield every way in which the pattern's first root binds this node."""
        self.graph = root.graph
        first, *others = self.pattern.roots
        for output in root.outputs:
            for _ in self._value(first, output, root):
                yield from self._others(others, (output,))

    def _others(self, roots: Sequence[Pattern], outputs: tuple[ir.Value, ...]) -> Iterator[Match]:
        if not roots:
            broken = next((each for each in self.pattern.conditions if not each.holds(self.values)), None)
            if broken is None:
                yield self._result(outputs)
            else:
                self._missed(outputs[0].producer(), broken.needed, "another")
            return
        candidates = self._reach(roots[0]) or []
        if not candidates:
            self._missed(outputs[0].producer(), roots[0], None)
        for value in candidates:
            for _ in self._value(roots[0], value, value.producer()):
                yield from self._others(roots[1:], (*outputs, value))

    def _result(self, outputs: tuple[ir.Value, ...]) -> Match:
        kept = tuple(node for op, node in self.nodes.items() if op.kept)
        nodes = tuple(node for op, node in self.nodes.items() if not op.kept)
        missing = {variable.name: None for variable in self.pattern.variables}
        bindings = missing | dict(self.pattern.bound) | self.values
        return Match(bindings, nodes, kept, outputs)

    def _reach(self, pattern: Pattern | None) -> list[ir.Value] | None:
        """Return the values a pattern may bind, found from what is bound already; None where nothing leads to it."""
        if isinstance(pattern, Var):
            bound = self.values.get(pattern.name)
            return [bound] if isinstance(bound, ir.Value) else None
        if isinstance(pattern, Checked | Named):
            return self._reach(pattern.pattern)
        if isinstance(pattern, AnyOf):
            found = [self._reach(alternative) for alternative in pattern.alternatives]
            return list(dict.fromkeys(value for values in found for value in values or ()))
        op, index = (pattern.op, pattern.index) if isinstance(pattern, Output) else (pattern, 0)
        if not isinstance(op, Op):
            return None
        if op in self.nodes:
            return [self.nodes[op].outputs[index]]
        for each in op.inputs:
            below = self._reach(each)
            if below is not None:
                users = (user for value in below for user, _ in value.uses())
                same = (node for node in users if (node.domain, node.op_type) == (op.domain, op.op_type))
                return [node.outputs[index] for node in dict.fromkeys(same) if len(node.outputs) > index]
        return None

    def _value(self, pattern: Pattern | None, value: ir.Value | None, user: ir.Node | None) -> Iterator[None]:
        """Bind a pattern to a value; yields once for each way, and undoes it afterwards."""
        if isinstance(pattern, Var):
            yield from self._bind(pattern.name, value, user, pattern.optional)
        elif isinstance(pattern, Literal | Axes):
            if is_literal(pattern, value, user):
                yield
            else:
                self._missed(user, pattern, value)
        elif isinstance(pattern, Parameter):
            yield from self._parameter(pattern, parameter_of(pattern, value, user), user, value)
        elif isinstance(pattern, Checked):
            for _ in self._value(pattern.pattern, value, user):
                if value is not None and pattern.predicate(value):
                    yield
                else:
                    self._missed(user, pattern.needed, value)
        elif isinstance(pattern, Named):
            for _ in self._value(pattern.pattern, value, user):
                yield from self._bind(pattern.name, value, user)
        elif isinstance(pattern, AnyOf):
            yield from self._any_of(pattern, value, user)
        elif isinstance(pattern, Op):
            yield from self._node(pattern, value, 0, user)
        elif isinstance(pattern, Output):
            yield from self._node(pattern.op, value, pattern.index, user)
        elif value is None:
            yield
        else:
            self._missed(user, "no input here", value)

    def _bind(self, name: str, value: Any, user: ir.Node | None, optional: bool = False) -> Iterator[None]:
        if value is None and not optional:
            self._missed(user, f"a value for {name}", value)
        elif name in self.values:
            if self.values[name] is value:
                yield
            else:
                self._missed(user, f"the same value as {name}", value)
        else:
            self.values[name] = value
            yield
            del self.values[name]

    def _parameter(self, pattern: Parameter, number: float | None, user: ir.Node | None, found: Any) -> Iterator[None]:
        if number is None:
            self._missed(user, pattern, found)
        elif pattern.name not in self.values:
            self.values[pattern.name] = number
            yield
            del self.values[pattern.name]
        elif is_near(self.values[pattern.name], number, found):
            yield
        else:
            self._missed(user, f"{pattern.name} to be {self.values[pattern.name]:g} here too", found)

    def _any_of(self, pattern: AnyOf, value: ir.Value | None, user: ir.Node | None) -> Iterator[None]:
        # A pattern that stands at two places has two turns at its tag: the inner one leaves it as the outer one set it.
        earlier = None if pattern.tag is None else self.values.get(pattern.tag)
        for index, alternative in enumerate(pattern.alternatives):
            if pattern.tag is not None:
                self.values[pattern.tag] = index
            yield from self._value(alternative, value, user)
        if pattern.tag is not None:
            self.values[pattern.tag] = earlier
            if earlier is None:
                del self.values[pattern.tag]

    def _node(self, op: Op, value: ir.Value | None, index: int, user: ir.Node | None) -> Iterator[None]:
        node = value.producer() if value is not None else None
        bound = self.nodes.get(op)
        if node is None or value is None or not _is_like(op, node) or value.index() != index:
            self._missed(user, op, value)
        elif bound is not None:
            if bound is node:
                yield
            else:
                self._missed(user, "the same node again", value)
        elif node in self.taken or node.graph is not self.graph:
            self._missed(user, "a node of this graph that the match does not use yet", value)
        else:
            self.nodes[op] = node
            self.taken.add(node)
            yield from self._attributes(op, node, list(op.attributes.items()))
            del self.nodes[op]
            self.taken.remove(node)

    def _attributes(self, op: Op, node: ir.Node, attributes: Sequence[tuple[str, Any]]) -> Iterator[None]:
        if not attributes:
            yield from self._either_order(op, node)
            return
        (name, wanted), *others = attributes
        found = facts.attribute(node, name)
        if isinstance(wanted, AttrVar) and wanted.name not in self.values:
            self.values[wanted.name] = found
            yield from self._attributes(op, node, others)
            del self.values[wanted.name]
        elif isinstance(wanted, AttrVar):
            if self.values[wanted.name] == found:
                yield from self._attributes(op, node, others)
            else:
                self._missed(node, f"{name}={self.values[wanted.name]}", f"{name}={found}")
        elif isinstance(wanted, Parameter):
            for _ in self._parameter(wanted, parameter_of(wanted, found, node), node, f"{name}={found}"):
                yield from self._attributes(op, node, others)
        elif same_attribute(name, wanted, found, node):
            yield from self._attributes(op, node, others)
        else:
            self._missed(node, f"{name}={wanted}", f"{name}={found}")

    def _either_order(self, op: Op, node: ir.Node) -> Iterator[None]:
        inputs = list(node.inputs) + [None] * (len(op.inputs) - len(node.inputs))
        if any(value is not None for value in inputs[len(op.inputs) :]):
            self._missed(node, f"{len(op.inputs)} inputs", f"{len(inputs)}")
            return
        yield from self._inputs(op.inputs, inputs, node)
        if op.is_commutative and inputs[0] is not inputs[1]:
            yield from self._inputs(op.inputs, [inputs[1], inputs[0]], node)

    def _inputs(self, patterns: Sequence[Any], values: Sequence[Any], node: ir.Node) -> Iterator[None]:
        if not patterns:
            yield
            return
        for _ in self._value(patterns[0], values[0], node):
            yield from self._inputs(patterns[1:], values[1:], node)

    def _missed(self, node: ir.Node | None, needed: Any, found: Any) -> None:
        if len(self.nodes) > self.miss.matched:
            self.miss = Miss(len(self.nodes), node, needed, found)


def _is_like(op: Op, node: ir.Node) -> bool:
    return node.op_type == op.op_type and node.domain == op.domain and len(node.outputs) >= op.outputs
