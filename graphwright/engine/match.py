"""The matcher: finds what a pattern binds in a graph, by depth-first search with backtracking. It never edits a graph.

Each method that binds is a generator: it yields once for every way in which its part of the pattern can bind, and
undoes the binding when it is resumed. So alternatives, orders of operands and checks backtrack by themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import (
    COMMUTATIVE,
    COMMUTATIVE_PAIRS,
    AnyOf,
    AttrVar,
    Axes,
    Checked,
    GraphPattern,
    Literal,
    Named,
    Op,
    Output,
    Pattern,
    Var,
    describe,
)

# Operators that broadcast: there a constant of one element but of more axes than the other inputs adds axes.
BROADCASTING = (
    COMMUTATIVE
    | COMMUTATIVE_PAIRS
    | {
        *("Sub", "Div", "Pow", "Mod", "PRelu", "Where", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    }
)

# Largest relative difference at which a stored constant is the literal of the pattern, per dtype: a few units in the
# last place, since exporters compute 1/sqrt(2) and the like in different precisions.
LITERAL_TOLERANCE = {
    ir.DataType.FLOAT16: 2e-3,
    ir.DataType.BFLOAT16: 1e-2,
    ir.DataType.FLOAT: 1e-6,
    ir.DataType.DOUBLE: 1e-12,
}


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
            yield self._result(outputs)
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
        bindings = {variable.name: None for variable in self.pattern.variables} | self.values
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
            if _is_literal(pattern, value, user):
                yield
            else:
                self._missed(user, pattern, value)
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
        elif _same_attribute(name, wanted, found, node):
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


def _is_literal(pattern: Literal | Axes, value: ir.Value | None, node: ir.Node | None) -> bool:
    contents = facts.array(value)
    if contents is None or value is None or contents.dtype.kind not in "iufbV":
        return False
    if isinstance(pattern, Axes):
        count = facts.rank(node.inputs[0]) if node is not None else None
        return _same_axes(pattern.axes, tuple(contents.reshape(-1).tolist()), count)
    wanted = np.asarray(pattern.contents, np.float64)
    if contents.size != wanted.size or (wanted.ndim and contents.ndim != wanted.ndim):
        return False
    if not wanted.ndim and _adds_axes(value, contents.ndim, node):
        return False
    tensor = facts.constant(value)
    tolerance = LITERAL_TOLERANCE.get(tensor.dtype, 0.0) if tensor is not None else 0.0
    found = contents.astype(np.float64).reshape(wanted.shape)
    return bool(np.all(np.abs(found - wanted) <= tolerance * np.abs(wanted)))


def _adds_axes(value: ir.Value, count: int, node: ir.Node | None) -> bool:
    if count == 0 or node is None or node.domain or node.op_type not in BROADCASTING:
        return False
    ranks = (facts.rank(other) for other in node.inputs if other is not value)
    return count > max((each for each in ranks if each is not None), default=0)


def _same_axes(wanted: Sequence[int], found: Sequence[int], count: int | None) -> bool:
    if tuple(wanted) == tuple(found):
        return True
    if count is None or len(wanted) != len(found):
        return False
    return sorted(axis % count for axis in wanted) == sorted(axis % count for axis in found)


def _same_attribute(name: str, wanted: Any, found: Any, node: ir.Node) -> bool:
    if found is None:
        return wanted is None
    if name in ("axis", "axes"):
        wanted_axes, found_axes = np.atleast_1d(wanted).tolist(), np.atleast_1d(found).tolist()
        return _same_axes(wanted_axes, found_axes, facts.rank(node.inputs[0]))
    if isinstance(wanted, float):
        return bool(abs(wanted - found) <= LITERAL_TOLERANCE[ir.DataType.FLOAT] * abs(wanted))
    if isinstance(wanted, list | tuple):
        return tuple(wanted) == tuple(found)
    return bool(wanted == found)
