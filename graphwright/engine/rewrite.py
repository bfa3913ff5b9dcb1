"""The driver of rules: the only code that edits a graph for a rule.

It finds the matches, makes the checks that hold for every rule, lets the rewrite record new nodes, and commits
them. A refusal on any line leaves the graph as it was.
"""

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Builder
from graphwright.engine.match import Match, Matcher
from graphwright.engine.observe import Application, MissRecord, Reason, RefusalRecord, Replacement
from graphwright.engine.pattern import GraphPattern
from graphwright.engine.rule import Refusal, Rule, Run, arguments, graph_patterns, require
from graphwright.engine.shapes import infer_function
from graphwright.errors import CheckError

__all__ = ["Builder", "Reason", "Refusal", "Rule", "Run", "apply_rule", "require"]

RULE, NUMBER, SOURCES = "graphwright.rule", "graphwright.application", "graphwright.sources"

# A rule makes a graph smaller with each application, so it cannot apply more often than this for each node.
MOST_PER_NODE = 4


def apply_rule(rule: Rule, run: Run) -> int:
    """Apply a rule wherever it fits, in every graph of the model, until nothing changes.

    Returns:
        The number of applications made. Refusals and misses of the last sweep are added to the run.
    """
    before = run.applied
    for scope in list(facts.scopes(run.model)):
        limit = run.applied + MOST_PER_NODE * (scope.graph.num_nodes() + 1)
        sweep = _Sweep(rule, run, scope)
        while sweep.run_once():
            if run.applied > limit:
                found = f"{run.applied - before} applications to a graph of {scope.graph.num_nodes()} nodes"
                raise CheckError(f"pass {rule.name}", found, needed="a rule that ends")
        run.refusals.extend(sweep.refusals)
        run.misses.extend(sweep.misses)
    return run.applied - before


class _Sweep:
    """One rule on one graph."""

    def __init__(self, rule: Rule, run: Run, scope: facts.Scope) -> None:
        self.rule, self.run, self.graph = rule, run, scope.graph
        self.opset, self.is_function = scope.opsets.get("", 0), scope.is_function
        self.opsets = scope.opsets
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
        for each in graph_patterns(self.rule):
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
            record = MissRecord(self.rule.name, graph_pattern.name, place, miss.matched, graph_pattern.size, str(miss))
            self.misses.append(record)

    def _try(self, graph_pattern: GraphPattern, match: Match, node: ir.Node) -> bool:
        opsets = {"com.microsoft": 1, **self.opsets}
        builder = Builder(self.run.names, self.rule.name, opsets, inline_constants=self.is_function)
        try:
            minimum = self.rule.min_opset
            require(self.opset >= minimum, Reason.OPSET, f"needs opset {minimum}, model has {self.opset}")
            check_interior(match)
            self._check_lowered(match)
            self._check_speed(match)
            outputs = self._build(match, builder)
            for old, new in zip(match.outputs, outputs, strict=True):
                _check_output(old, new)
            anchor = self._anchor(match, builder, outputs)
        except Refusal as refusal:
            record = RefusalRecord(
                self.rule.name, graph_pattern.name, facts.place(node), refusal.reason, refusal.detail
            )
            # Patterns are many, the rewrite that was not made is one.
            if not any((each.node, each.reason) == (record.node, record.reason) for each in self.refusals):
                self.refusals.append(record)
            builder.discard()
            return False
        if not self.run.may_apply():
            builder.discard()
            return False
        self._commit(graph_pattern, match, builder, outputs, anchor)
        return True

    def _check_lowered(self, match: Match) -> None:
        for node in match.nodes:
            maker = node.metadata_props.get(RULE)
            detail = f"{facts.place(node)} comes from {maker}, which would make it again"
            require(maker not in self.run.to_come, Reason.LOWERED, detail)

    def _check_speed(self, match: Match) -> None:
        for observer in self.run.observers:
            faster = observer.slower_than(self.rule.name, match.nodes)
            require(not faster, Reason.SLOWER, faster)

    def _build(self, match: Match, builder: Builder) -> tuple[ir.Value, ...]:
        result = self.rule.rewrite(builder, **arguments(self.rule.rewrite, match.bindings))
        return result if isinstance(result, tuple) else (result,)

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
        require(
            fits,
            Reason.ORDER,
            f"inputs reach behind {facts.place(earliest)}, users stand before {facts.place(latest)}",
        )
        return latest

    def _position(self, node: ir.Node) -> int:
        while node.graph is not self.graph:  # a user inside a subgraph stands where the node that carries it stands
            carrier = _carrier(node.graph, self.graph)
            if carrier is None:
                return -1
            node = carrier
        return self.order[node]

    def _commit(
        self,
        graph_pattern: GraphPattern,
        match: Match,
        builder: Builder,
        outputs: tuple[ir.Value, ...],
        anchor: ir.Node,
    ) -> None:
        run = self.run
        names = tuple(facts.place(node) for node in match.nodes)
        application = Application(
            run.applied + 1,
            self.rule.name,
            graph_pattern.name,
            "" if self.graph is run.model.graph else self.graph.name or "",
            names,
            self.rule.changes_numbers,
        )
        replacement = Replacement(
            tuple(_external(match, builder)),
            (*match.nodes, *match.kept),
            tuple(builder.nodes),
            tuple(builder.constants),
            match.outputs,
            outputs,
            tuple(builder.functions.values()),
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
            self.opsets.setdefault(node.domain, 1)
        for value in builder.constants:
            self.graph.register_initializer(value)
        for identifier, function in builder.functions.items():
            if identifier not in self.run.model.functions:
                self.run.model.functions[identifier] = function
                infer_function(self.run.model, function)
            self.run.model.opset_imports.setdefault(function.domain, 1)
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


def check_interior(match: Match) -> None:
    """Refuse where a value that would vanish is needed by someone else.

    Raises:
        Refusal: SHARED or GRAPH_OUTPUT.
    """
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
    require(
        not known or old.dtype == new.dtype,
        Reason.OUTPUT_TYPE,
        f"{old.name} is {old.dtype}, would be {new.dtype}",
    )
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
