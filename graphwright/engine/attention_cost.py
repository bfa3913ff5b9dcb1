"""Find the attentions of a graph, each with its projections, so that their cost can be told apart from the rest.

Four forms are known: the operators ``Attention`` and ``MultiHeadAttention``; products around a Softmax; what the rule
``damf`` has made, by the marks that it leaves on its nodes; and linear attention, a product with a product of
activations. To each belong the projections that make its queries, keys and values, where they are its alone, and the
one that follows.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.formula import Formula, product_of, sum_of
from graphwright.engine.node_cost import (
    PRODUCTS,
    Uncounted,
    attention_sizes,
    is_product_with_weight,
    shape_of,
    work_of,
)
from graphwright.engine.rewrite import NUMBER, RULE, SOURCES

# The rule, and the form of what it makes; the form where some heads keep their softmax.
DAMF = "damf"
DAMF_AND_SOFTMAX = "damf and softmax"
_OPERATORS = ("Attention", "MultiHeadAttention")
# What stands between a projection and the attention: layout, bias, scale, rotary positions, past keys.
_LAYOUT = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Cast", "Flatten"})
_BEFORE = _LAYOUT | {"Split", "Slice", "Concat", "Expand", "Mul", "Div", "Neg", "Add", "RotaryEmbedding"}
_NORMS = frozenset({"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"})
# Between the scores and the softmax: scale, mask, cap. Between the softmax and the values: dropout, rows without keys.
_SCORES = _LAYOUT | {"Add", "Sub", "Mul", "Div", "Where", "Max", "Min", "Clip", "Tanh"}
_WEIGHTED = _LAYOUT | {"Where", "IsNaN", "Dropout", "Mul"}
# Around the sums of linear attention: bounds, norms, counts, and cumulative forms of them.
_LINEAR = (_BEFORE | _SCORES) | {
    *("Abs", "Sqrt", "Pow", "Reciprocal", "Pad", "Gather", "CumSum", "Trilu", "MatMul", "FusedMatMul"),
    *("ReduceSum", "ReduceMax", "ReduceL2", "ReduceSumSquare", "ReduceMean", "Exp", "Relu", "Elu"),
}
_AFTER_LINEAR = _LAYOUT | {"Slice", "Split", "Where", "Div", "Mul", "Max", "Equal", "Reciprocal", "Add"}

Allowed = Callable[[ir.Node], bool]


@dataclass(frozen=True)
class Region:
    """The nodes of one attention; ``core`` is the one that it is named by."""

    core: ir.Node
    form: str
    nodes: tuple[ir.Node, ...]


@dataclass
class _Finder:
    graph: ir.Graph
    weights: Collection[ir.Value]
    order: Mapping[ir.Node, int]
    claimed: set[ir.Node] = field(default_factory=set)

    def is_projection(self, node: ir.Node) -> bool:
        return is_product_with_weight(node, self.weights)

    def is_dynamic(self, node: ir.Node) -> bool:
        return node.op_type in PRODUCTS and not self.is_projection(node)

    def back(self, values: Iterable[ir.Value | None], is_goal: Allowed, is_allowed: Allowed) -> set[ir.Node]:
        """Return the goals that values come from, and the nodes on the ways from there."""
        seen: set[ir.Node] = set()
        waiting = list(values)
        while waiting:
            value = waiting.pop()
            node = value.producer() if value is not None and value not in self.weights and _is_float(value) else None
            if node is None or node in seen or node not in self.order or not (is_goal(node) or is_allowed(node)):
                continue
            seen.add(node)
            waiting += [] if is_goal(node) else node.inputs
        kept: set[ir.Node] = set()
        for node in sorted(seen, key=self.order.__getitem__):
            if is_goal(node) or any(value is not None and value.producer() in kept for value in node.inputs):
                kept.add(node)
        return kept

    def forward(self, value: ir.Value, is_goal: Allowed, is_allowed: Allowed) -> set[ir.Node]:
        """Return the goals that a value leads to and what stands before them, or nothing where none is reached."""
        seen: set[ir.Node] = set()
        waiting = [value]
        while waiting:
            for node, _ in waiting.pop().uses():
                if node not in seen and node in self.order and (is_goal(node) or is_allowed(node)):
                    seen.add(node)
                    waiting += [] if is_goal(node) else node.outputs
        return seen if any(map(is_goal, seen)) else set()

    def projections(self, values: Iterable[ir.Value | None]) -> set[ir.Node]:
        """Return the projections that make values, with what stands between."""
        return self.back(values, self.is_projection, self.stands_before)

    def stands_before(self, node: ir.Node) -> bool:
        """Tell whether an operator may stand between a projection and its attention: a residual sum may not."""
        if node.op_type in _NORMS or (node.op_type == "Add" and not any(each in self.weights for each in node.inputs)):
            return facts.rank(node.outputs[0]) == 4
        return node.op_type in _BEFORE

    def following(self, value: ir.Value, between: Collection[str] = _LAYOUT) -> set[ir.Node]:
        """Return the projection that follows, with what stands before it, and its bias."""
        found = self.forward(value, self.is_projection, lambda node: node.op_type in between)
        last = next((node for node in found if self.is_projection(node)), None)
        return found | self.bias_of(last) if last is not None else found

    def bias_of(self, product: ir.Node) -> set[ir.Node]:
        """Return the Add of a weight to a product that nobody else needs."""
        users = [node for node, _ in product.outputs[0].uses()]
        has_bias = (
            len(users) == 1 and users[0].op_type == "Add" and any(each in self.weights for each in users[0].inputs)
        )
        return set(users) if has_bias else set()

    def region(self, core: ir.Node, form: str, nodes: Iterable[ir.Node]) -> Region:
        """Return an attention with those nodes that belong to no other."""
        own = sorted(set(nodes) - self.claimed, key=self.order.__getitem__)
        self.claimed.update(own)
        return Region(core, form, tuple(own))


def find_attentions(graph: ir.Graph, weights: Collection[ir.Value]) -> list[Region]:
    """Return the attentions of one graph in its order, given its values that are weights."""
    finder = _Finder(graph, weights, {node: index for index, node in enumerate(graph)})
    found = [*_by_damf(finder), *_by_operator(finder), *_by_softmax(finder), *_by_linear_form(finder)]
    return sorted(found, key=lambda region: finder.order[region.core])


def _by_damf(finder: _Finder) -> Iterable[Region]:
    groups: dict[str, list[ir.Node]] = {}
    for node in finder.graph:
        if node.metadata_props.get(RULE) == DAMF:
            groups.setdefault(node.metadata_props.get(NUMBER, ""), []).append(node)
    for group in groups.values():
        nodes = set(group) | _made_of(finder, group)
        inputs = {
            value for node in nodes if not finder.is_projection(node) for value in node.inputs if value is not None
        }
        own = [value for value in inputs if all(user in nodes for user, _ in value.uses())]
        last = max(nodes, key=finder.order.__getitem__)
        nodes |= finder.projections(value for value in own if value.producer() not in nodes)
        nodes |= finder.bias_of(last)
        nodes |= set() if finder.is_projection(last) else finder.following(last.outputs[0])
        core = next((node for node in group if node.op_type == "Attention"), last)
        is_linear = any(map(finder.is_dynamic, group))
        with_softmax = DAMF_AND_SOFTMAX if is_linear else f"{DAMF}, softmax"
        yield finder.region(core, with_softmax if core.op_type == "Attention" else DAMF, nodes)


def _made_of(finder: _Finder, group: Iterable[ir.Node]) -> set[ir.Node]:
    """Return the nodes that later rules made of a group's: they keep its sources."""
    sources = {name for node in group for name in node.metadata_props.get(SOURCES, "").split("\n") if name}
    kept = {node: {*node.metadata_props.get(SOURCES, "").split("\n")} for node in finder.graph}
    return {node for node, names in kept.items() if sources & names}


def _by_operator(finder: _Finder) -> Iterable[Region]:
    for node in finder.graph:
        is_attention = node.op_type == "Attention" and node.domain == ""
        if (is_attention or node.op_type == "MultiHeadAttention") and node not in finder.claimed:
            axes = facts.rank(node.inputs[0])
            form = f"{node.op_type} {axes}-D" if is_attention and axes else node.op_type
            parts = finder.projections(node.inputs[:3]) | finder.following(node.outputs[0])
            yield finder.region(node, form, {node} | parts)


def _by_softmax(finder: _Finder) -> Iterable[Region]:
    for node in finder.graph:
        if node.op_type != "Softmax" or node.domain:
            continue
        scores = finder.back(node.inputs[:1], finder.is_dynamic, lambda each: each.op_type in _SCORES)
        weighted = finder.forward(node.outputs[0], finder.is_dynamic, lambda each: each.op_type in _WEIGHTED)
        first = [each for each in scores if finder.is_dynamic(each)]
        last = [each for each in weighted if finder.is_dynamic(each)]
        if len(first) == 1 and len(last) == 1:
            parts = finder.projections([*first[0].inputs, last[0].inputs[1]]) | finder.following(last[0].outputs[0])
            yield finder.region(node, "products", {node} | scores | weighted | parts)


def _by_linear_form(finder: _Finder) -> Iterable[Region]:
    def is_sum(node: ir.Node) -> bool:
        return finder.is_dynamic(node) or node.op_type == "CumSum"

    def is_part(node: ir.Node) -> bool:
        return node.op_type in _LINEAR and (node.op_type not in ("Add", "Mul") or finder.stands_before(node))

    for node in finder.graph:
        if node in finder.claimed or not finder.is_dynamic(node):
            continue
        sums = finder.back(
            node.inputs[1:2], is_sum, lambda each: each.op_type in _LINEAR and not finder.is_projection(each)
        )
        if sums and not sums & finder.claimed:
            parts = finder.back(node.inputs, finder.is_projection, is_part)
            after = finder.following(node.outputs[0], _AFTER_LINEAR)
            yield finder.region(node, "linear", {node} | sums | parts | after)


def paper_macs(region: Region, weights: Collection[ir.Value]) -> Formula | None:
    """Return the paper's count: ``S T (D + 1)`` of each head, for scores and scale; of damf ``2 S T``, one head."""
    products = [node for node in region.nodes if node.op_type in PRODUCTS and not is_product_with_weight(node, weights)]
    attentions = [node for node in region.nodes if node.op_type in _OPERATORS]
    try:
        if region.core.op_type == "Softmax":
            return work_of(products[0], weights).dynamic_macs + product_of(shape_of(region.core.inputs[0]))
        # damf makes an operator for each rank of a layer's heads.
        whole = sum_of(keys * (query + rows) for query, rows, keys in map(attention_sizes, attentions))
        if region.form not in (DAMF, DAMF_AND_SOFTMAX):
            return whole if attentions else None
        lengths = [size for node in products if (size := shape_of(node.inputs[0])[-1]).names]
        if not lengths:
            return None
        shape = shape_of(products[-1].outputs[0])
        return whole + shape[0] * shape[-2] * lengths[0] * 2
    except Uncounted:
        return None


def _is_float(value: ir.Value) -> bool:
    return value.dtype is None or value.dtype.is_floating_point()
