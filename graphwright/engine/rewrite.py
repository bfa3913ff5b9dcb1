"""Rules and their driver: the only code that edits a graph for a rule.

A rule is data: a name, pattern functions and a rewrite function that share parameter names. The driver finds the
matches, makes the checks that hold for every rule, lets the rewrite record new nodes, and commits them. A refusal
on any line leaves the graph as it was.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import onnx_ir as ir

from graphwright.engine import facts, pattern
from graphwright.engine.builder import Builder, Names
from graphwright.engine.observe import Application, MissRecord, Observer, Reason, RefusalRecord, Replacement
from graphwright.engine.pattern import GraphPattern, Match, Matcher

__all__ = ["Builder", "Reason", "Refusal", "Rule", "Run", "apply_rule", "require"]

RULE, NUMBER, SOURCES = "graphwright.rule", "graphwright.application", "graphwright.sources"


class Refusal(Exception):  # noqa: N818 - control flow, not an error: it never leaves the driver
    """A rewrite's no, with its reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def require(condition: bool, reason: Reason, detail: str) -> None:
    """Refuse the rewrite unless the condition holds.

    Raises:
        Refusal: the condition is false.
    """
    if not condition:
        raise Refusal(reason, detail)


@dataclass(frozen=True)
class Rule:
    """A named rewrite: patterns, and a function from what they bind to the replacing value or values.

    The rewrite takes a ``Builder`` and any of the names that the patterns bind; a name that the match did not bind
    arrives as the parameter's default, or None, and ``**others`` takes what has no parameter of its own.
    """

    name: str
    patterns: tuple[Callable[..., Any], ...]
    rewrite: Callable[..., Any]
    min_opset: int = 13

    @property
    def doc(self) -> str:
        """The documentation of the file that defines the rule."""
        module = inspect.getmodule(self.rewrite)
        return (module.__doc__ or "") if module else ""


@dataclass
class Run:
    """What one run of a pipeline shares between its passes."""

    model: ir.Model
    observers: Sequence[Observer] = ()
    applied: int = 0
    stopped: bool = False
    refusals: list[RefusalRecord] = field(default_factory=list)
    misses: list[MissRecord] = field(default_factory=list)
    explain: bool = False
    _names: Names | None = None

    @property
    def names(self) -> Names:
        """The names in use; read from the model when first asked for."""
        if self._names is None:
            self._names = Names(self.model)
        return self._names

    def replace_model(self, model: ir.Model) -> None:
        """Go on with another model, which a pass has made."""
        self.model, self._names = model, None

    def may_apply(self) -> bool:
        """Tell whether every observer allows the next application."""
        self.stopped = self.stopped or not all(each.should_apply(self.applied + 1) for each in self.observers)
        return not self.stopped


@lru_cache(maxsize=1024)
def _traced(function: Callable[..., Any]) -> GraphPattern:
    return pattern.trace(function)


@lru_cache(maxsize=1024)
def _parameters(function: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Return the names a rewrite takes with their defaults, and whether it takes all others too."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    named = [each for each in parameters if each.kind is not each.VAR_KEYWORD]
    defaults = {each.name: None if each.default is each.empty else each.default for each in named}
    return defaults, len(named) < len(parameters)


def _arguments(function: Callable[..., Any], bindings: dict[str, Any]) -> dict[str, Any]:
    defaults, takes_all = _parameters(function)
    known = {name: value for name, value in bindings.items() if takes_all or name in defaults}
    return defaults | known


def apply_rule(rule: Rule, run: Run) -> int:
    """Apply a rule wherever it fits, in every graph of the model, until nothing changes.

    Returns:
        The number of applications made. Refusals and misses of the last sweep are added to the run.
    """
    before = run.applied
    for graph in list(facts.graphs(run.model)):
        opset = run.model.opset_imports.get("", 0)
        function = next((each for each in run.model.functions.values() if each.graph is graph), None)
        if function is not None:
            opset = function.opset_imports.get("", opset)
        sweep = _Sweep(rule, run, graph, opset, function is not None)
        while sweep.run_once():
            pass
        run.refusals.extend(sweep.refusals)
        run.misses.extend(sweep.misses)
    return run.applied - before


class _Sweep:
    """One rule on one graph."""

    def __init__(self, rule: Rule, run: Run, graph: ir.Graph, opset: int, is_function: bool) -> None:
        self.rule, self.run, self.graph = rule, run, graph
        self.opset, self.is_function = opset, is_function
        self.refusals: list[RefusalRecord] = []
        self.misses: list[MissRecord] = []
        self.order: dict[ir.Node, int] = {}

    def run_once(self) -> bool:
        """Try each pattern at every node, in order; tell whether an application was made."""
        self.refusals, self.misses = [], []
        self.order = {node: position for position, node in enumerate(self.graph)}
        by_operator: dict[tuple[str, str], list[ir.Node]] = {}
        for node in self.order:
            by_operator.setdefault((node.domain, node.op_type), []).append(node)
        before = self.run.applied
        for each in map(_traced, self.rule.patterns):
            roots = [node for pair in each.root_ops for node in by_operator.get(pair, ())]
            for node in roots:
                if node.graph is self.graph and not self.run.stopped:
                    self._visit(node, each)
        return self.run.applied > before

    def _visit(self, node: ir.Node, graph_pattern: GraphPattern) -> None:
        matcher = Matcher(graph_pattern)
        complete = False
        for match in matcher.matches(node):
            complete = True
            if self._try(graph_pattern, match, node):
                return
        if not complete and self.run.explain and matcher.miss.matched:
            miss, place = matcher.miss, facts.place(node)
            record = MissRecord(
                self.rule.name, graph_pattern.name, place, miss.matched, graph_pattern.size, str(miss)
            )
            self.misses.append(record)

    def _try(self, graph_pattern: GraphPattern, match: Match, node: ir.Node) -> bool:
        try:
            minimum = self.rule.min_opset
            require(self.opset >= minimum, Reason.OPSET, f"needs opset {minimum}, model has {self.opset}")
            _check_interior(match)
            builder, outputs = self._build(match)
            for old, new in zip(match.outputs, outputs, strict=True):
                _check_output(old, new)
            anchor = self._anchor(match, builder, outputs)
        except Refusal as refusal:
            record = RefusalRecord(
                self.rule.name, graph_pattern.name, facts.place(node), refusal.reason, refusal.detail
            )
            self.refusals.append(record)
            return False
        if not self.run.may_apply():
            return False
        self._commit(graph_pattern, match, builder, outputs, anchor)
        return True

    def _build(self, match: Match) -> tuple[Builder, tuple[ir.Value, ...]]:
        opsets = {"": self.opset, "com.microsoft": 1}
        builder = Builder(self.run.names, self.rule.name, opsets, inline_constants=self.is_function)
        result = self.rule.rewrite(builder, **_arguments(self.rule.rewrite, match.bindings))
        return builder, result if isinstance(result, tuple) else (result,)

    def _anchor(self, match: Match, builder: Builder, outputs: Sequence[ir.Value]) -> ir.Node:
        """Return the node before which the replacement goes: behind its inputs and before the outputs' users."""
        roots = [value.producer() for value in match.outputs]
        earliest = min((node for node in roots if node is not None), key=self._position)
        producers = [value.producer() for value in (*_inputs_of(builder.nodes), *outputs)]
        inputs = [node for node in producers if node is not None and node.graph is self.graph]
        last_input = max(map(self._position, inputs), default=-1)
        if last_input < self._position(earliest):
            return earliest
        latest = max((node for node in roots if node is not None), key=self._position)
        users = [user for value in match.outputs for user, _ in value.uses() if user not in match.nodes]
        first_user = min((self._position(user) for user in users), default=len(self.order))
        fits = last_input < self._position(latest) < first_user
        require(fits, Reason.ORDER, f"inputs reach behind {facts.place(earliest)}, users stand before {facts.place(latest)}")
        return latest

    def _position(self, node: ir.Node) -> int:
        while node.graph is not self.graph:  # a user inside a subgraph stands where the node that carries it stands
            carrier = _carrier(node.graph, self.graph)
            if carrier is None:
                return -1
            node = carrier
        return self.order[node]

    def _commit(
        self, graph_pattern: GraphPattern, match: Match, builder: Builder, outputs: tuple[ir.Value, ...], anchor: ir.Node
    ) -> None:
        run = self.run
        names = tuple(facts.place(node) for node in match.nodes)
        application = Application(
            run.applied + 1, self.rule.name, graph_pattern.name, "" if self.graph is run.model.graph else self.graph.name or "", names
        )
        replacement = Replacement(
            tuple(_external(match, builder)),
            (*match.nodes, *match.kept),
            tuple(builder.nodes),
            tuple(builder.constants),
            match.outputs,
            outputs,
        )
        for observer in run.observers:
            observer.before_commit(application, replacement, run.model)
        run.applied += 1
        self._insert(builder, anchor, match, application)
        for old, new in zip(match.outputs, outputs, strict=True):
            self._replace(old, new, anchor, fresh=new.producer() in builder.nodes)
        _remove_dead([*match.nodes, *match.kept])

    def _insert(self, builder: Builder, anchor: ir.Node, match: Match, application: Application) -> None:
        sources = dict.fromkeys(name for node in match.nodes for name in source_names(node))
        for node in builder.nodes:
            node.metadata_props.update(
                {RULE: self.rule.name, NUMBER: str(application.number), SOURCES: "\n".join(sources)}
            )
            self.order[node] = self.order[anchor]
            self.run.model.opset_imports.setdefault(node.domain, 1)
            if node.domain and self.is_function:
                self.graph.opset_imports.setdefault(node.domain, 1)
        for value in builder.constants:
            self.graph.register_initializer(value)
        self.graph.insert_before(anchor, builder.nodes)

    def _replace(self, old: ir.Value, new: ir.Value, anchor: ir.Node, *, fresh: bool) -> None:
        if old.is_graph_output() and (not fresh or new.is_graph_output()):
            identity = ir.node("Identity", [new])
            identity.name = self.run.names.fresh(f"{self.rule.name}/Identity")
            self.graph.insert_before(anchor, identity)
            self.order[identity] = self.order[anchor]
            new, fresh = identity.outputs[0], True
        if fresh:
            new.type = new.type or old.type
            new.shape = old.shape if old.shape is not None else new.shape
            new.name, old.name = old.name, self.run.names.fresh(f"{old.name}/replaced")
        old.replace_all_uses_with(new, replace_graph_outputs=True)


def source_names(node: ir.Node) -> list[str]:
    """Return the names of the source model's nodes that a node stands for."""
    recorded = node.metadata_props.get(SOURCES)
    return recorded.split("\n") if recorded else [facts.place(node)]


def _check_interior(match: Match) -> None:
    """Refuse where a value that would vanish is needed by someone else."""
    inside = set(match.nodes) | set(match.kept)
    outputs = set(match.outputs)
    for node in match.nodes:
        for value in node.outputs:
            if value in outputs:
                continue
            require(not value.is_graph_output(), Reason.GRAPH_OUTPUT, f"{value.name} is a graph output")
            other = next((user for user, _ in value.uses() if user not in inside), None)
            require(other is None, Reason.SHARED, f"{value.name} is used by {facts.place(other)} too")


def _check_output(old: ir.Value, new: ir.Value) -> None:
    """Refuse where dtype or shape would change; what is unknown on one side is taken from the other."""
    known = old.dtype is not None and new.dtype is not None
    require(not known or old.dtype == new.dtype, Reason.OUTPUT_TYPE, f"{old.name} is {old.dtype}, would be {new.dtype}")
    if old.shape is None or new.shape is None:
        return
    detail = f"{facts.describe(old)} would become {facts.describe(new)}"
    require(facts.rank(old) == facts.rank(new), Reason.OUTPUT_TYPE, detail)
    for axis in range(old.shape.rank()):
        before, after = facts.static_dim(old, axis), facts.static_dim(new, axis)
        require(before is None or after is None or before == after, Reason.OUTPUT_TYPE, detail)


def _inputs_of(nodes: Sequence[ir.Node]) -> Iterator[ir.Value]:
    own = set(nodes)
    for node in nodes:
        for value in node.inputs:
            if value is not None and value.producer() not in own:
                yield value


def _external(match: Match, builder: Builder) -> Iterator[ir.Value]:
    """Yield the values that a region takes from outside: those of the old nodes, then those only the new ones read."""
    inside = set(match.nodes) | set(match.kept)
    constants = set(builder.constants)
    seen: set[ir.Value] = set()
    for value in (*_inputs_of([*match.nodes, *match.kept]), *_inputs_of(builder.nodes)):
        if value not in seen and value.producer() not in inside and value not in constants:
            seen.add(value)
            yield value


def _carrier(inner: ir.Graph | None, outer: ir.Graph) -> ir.Node | None:
    for node in outer:
        if any(graph is inner or _carrier(inner, graph) is not None for graph in facts.subgraphs(node)):
            return node
    return None


def _remove_dead(nodes: Sequence[ir.Node]) -> None:
    """Remove those of the nodes whose outputs nobody uses, users first."""
    pending = list(nodes)
    while True:
        dead = [n for n in pending if not any(v.uses() or v.is_graph_output() for v in n.outputs)]
        if not dead:
            return
        for node in dead:
            assert node.graph is not None
            node.graph.remove(node, safe=True)
        pending = [node for node in pending if node.graph is not None]
