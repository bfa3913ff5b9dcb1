"""Count the parameters, the arithmetic and the memory traffic of a model, to rank choices; never to tell what is right.

Figures are formulas in the names of sizes (``batch``, ``seq``), or numbers where sizes are given; how a node counts is
in ``node_cost``, which nodes are one attention in ``attention_cost``. What is not known is listed, never guessed: an
operator without a formula, a size that does not follow from the dimensions given.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.attention_cost import Region, find_attentions, paper_macs
from graphwright.engine.formula import Formula
from graphwright.engine.node_cost import LINEAR, Uncounted, Work, total_work, work_of
from graphwright.engine.sample import size_of
from graphwright.engine.shapes import infer_shapes
from graphwright.engine.shapes.terms import Size

# Larger matrices are not looked into: whoever writes a selection does not write millions of zeros.
_MOST_OF_SELECTION = 2**20


@dataclass(frozen=True)
class NodeCost:
    """What one node computes and moves, and the parameters that it reads."""

    node: str
    op_type: str
    work: Work
    parameters: int = 0


@dataclass(frozen=True)
class UnknownCost:
    """A node that is not counted, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class AttentionCost:
    """One attention with its projections.

    ``work`` counts every product. ``paper_macs`` are dynamic MACs as the paper of DAMF counts them: scores and their
    scale, without the product with the values, and of DAMF two for each pair of positions, as if of one head; None
    where the paper has no such form or the lengths are not seen. ``uncounted`` nodes are not in the sums.
    """

    node: str
    form: str
    nodes: int
    uncounted: int
    parameters: int
    work: Work
    paper_macs: Formula | None


@dataclass(frozen=True)
class OperatorCost:
    """All nodes of one operator. A parameter counts for the first operator that reads it."""

    nodes: int
    parameters: int
    work: Work


@dataclass(frozen=True)
class CostReport:
    """The cost of a model: numbers at given sizes, or formulas in their names where ``dims`` is None.

    ``parameters`` are the floating-point numbers in initializers, without matrices of zeros and ones, which select
    and add up; ``weight_bytes`` are the bytes of all initializers.
    """

    dims: Mapping[str, int] | None
    nodes: tuple[NodeCost, ...]
    attentions: tuple[AttentionCost, ...]
    unknown: tuple[UnknownCost, ...]
    parameters: int
    weight_bytes: int

    @cached_property
    def total(self) -> Work:
        """All that is known."""
        return total_work([each.work for each in self.nodes])

    @property
    def flops(self) -> Size:
        """All operations that are known: a number, or the text of a formula."""
        return self.total.flops.size

    @property
    def bytes(self) -> Size:
        """All bytes read and written that are known."""
        return (self.total.read + self.total.written).size

    def by_operator(self) -> dict[str, OperatorCost]:
        """Return what each operator costs, most operations first."""
        groups: dict[str, list[NodeCost]] = {}
        for each in self.nodes:
            groups.setdefault(each.op_type, []).append(each)
        found = {
            name: OperatorCost(
                len(group), sum(each.parameters for each in group), total_work([one.work for one in group])
            )
            for name, group in groups.items()
        }

        def rank(name: str) -> tuple[int, int, str]:
            work = found[name].work
            return -work.flops.magnitude, -(work.read + work.written).magnitude, name

        return {name: found[name] for name in sorted(found, key=rank)}

    def at(self, dims: Mapping[str, int]) -> "CostReport":
        """Return the report in numbers, at these sizes of the named dimensions."""
        known: list[NodeCost] = []
        unknown = list(self.unknown)
        for each in self.nodes:
            work = _work_at(each.work, dims)
            if isinstance(work, Work):
                known.append(replace(each, work=work))
            else:
                unknown.append(UnknownCost(each.node, each.op_type, f"the size {work} is not known"))
        attentions = tuple(found for each in self.attentions if (found := _attention_at(each, dims)) is not None)
        return replace(self, dims=dict(dims), nodes=tuple(known), attentions=attentions, unknown=tuple(unknown))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON takes them; formulas are texts."""
        operators = {
            name: {"nodes": each.nodes, "parameters": each.parameters, **_as_json(each.work)}
            for name, each in self.by_operator().items()
        }
        return {
            "dims": None if self.dims is None else dict(self.dims),
            "parameters": self.parameters,
            "weight_bytes": self.weight_bytes,
            **_as_json(self.total),
            "operators": operators,
            "attentions": [
                {
                    **{name: getattr(each, name) for name in ("node", "form", "nodes", "uncounted", "parameters")},
                    **_as_json(each.work),
                    "dynamic_macs_as_in_the_paper": None if each.paper_macs is None else each.paper_macs.size,
                }
                for each in self.attentions
            ],
            "unknown": [asdict(each) for each in self.unknown],
        }


def _as_json(work: Work) -> dict[str, Size]:
    names = ("static_macs", "dynamic_macs", "flops", "bytes_read", "bytes_written")
    found = {name: part.size for name, part in zip(names, work.parts(), strict=True)}
    return {**found, "bytes": (work.read + work.written).size}


def cost_table(model: ir.Model, dims: Mapping[str, int] | None = None) -> CostReport:
    """Return the cost of the main graph, in formulas or at these sizes of the named dimensions.

    Nodes that carry graphs and calls of model-local functions, other than graphwright.Linear, are listed as unknown:
    how often a body runs, and at what sizes, is not written in the model.

    Example:
        >>> text = "g (float[N, 4] x, float[4, 8] w) => (float[N, 8] y) {y = MatMul(x, w)}"
        >>> model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 24]> ' + text)
        >>> cost_table(model, {"N": 3}).flops, cost_table(model).flops
        (192, '64*N')
    """
    model = model.clone()
    infer_shapes(model)
    weights = _weights(model.graph)
    # Lengths are told from other sizes by their names, so this comes before they are numbers.
    regions = [(region, paper_macs(region, weights)) for region in find_attentions(model.graph, weights)]
    if dims is not None:
        _bind(model, dims)
        infer_shapes(model)
    works: dict[ir.Node, Work] = {}
    known: list[NodeCost] = []
    unknown: list[UnknownCost] = []
    seen: set[int] = set()
    for node in model.graph:
        try:
            if node.op_identifier() in model.functions and (node.domain, node.op_type) != LINEAR:
                raise Uncounted("calls a function of the model")
            works[node] = work_of(node, weights)
        except Uncounted as why:
            unknown.append(UnknownCost(facts.place(node), node.op_type, str(why)))
        else:
            known.append(NodeCost(facts.place(node), node.op_type, works[node], _parameters([node], seen)))
    attentions = tuple(_attention(region, works, paper) for region, paper in regions)
    tensors = _tensors(value for graph in facts.graphs(model) for value in graph.initializers.values())
    parameters = sum(map(_count, tensors))
    size = sum(tensor.nbytes for tensor in tensors)
    found = CostReport(None, tuple(known), attentions, tuple(unknown), parameters, size)
    return found if dims is None else found.at(dims)


def _bind(model: ir.Model, dims: Mapping[str, int]) -> None:
    """Put numbers in the place of names: inference knows more operators that compute sizes of numbers."""
    for graph in facts.graphs(model):
        for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
            if value.shape is not None:
                found = [(dim, size_of(dim, dims)) for dim in value.shape]
                value.shape = ir.Shape([dim if size is None else size for dim, size in found])


def _weights(graph: ir.Graph) -> set[ir.Value]:
    """Return the values that are weights: initializers, constants, and what is computed from them alone."""
    found = set(graph.initializers.values())
    for node in graph:
        if all(value in found for value in node.inputs if value is not None) and (
            node.inputs or node.op_type == "Constant"
        ):
            found.update(node.outputs)
    return found


def _attention(region: Region, works: Mapping[ir.Node, Work], paper_macs: Formula | None) -> AttentionCost:
    own = [works[node] for node in region.nodes if node in works]
    uncounted = len(region.nodes) - len(own)
    parameters = _parameters(region.nodes, set())
    place = facts.place(region.core)
    return AttentionCost(place, region.form, len(region.nodes), uncounted, parameters, total_work(own), paper_macs)


def _tensors(values: Iterable[ir.Value]) -> list[ir.TensorProtocol]:
    """Return what values hold, each tensor once."""
    found = {id(value.const_value): value.const_value for value in values if value.const_value is not None}
    return list(found.values())


def _parameters(nodes: Collection[ir.Node], seen: set[int]) -> int:
    """Count the parameters that nodes read, without those seen before."""
    values = [value for node in nodes for value in node.inputs if value is not None and value.is_initializer()]
    fresh = [tensor for tensor in _tensors(values) if id(tensor) not in seen]
    seen.update(map(id, fresh))
    return sum(map(_count, fresh))


def _count(tensor: ir.TensorProtocol) -> int:
    return tensor.size if tensor.dtype.is_floating_point() and not _is_selection(tensor) else 0


def _is_selection(tensor: ir.TensorProtocol) -> bool:
    """Tell whether a tensor is a matrix of zeros and ones, with both in it."""
    if len(tensor.shape) != 2 or not 1 < tensor.size <= _MOST_OF_SELECTION:
        return False
    contents = np.asarray(tensor.numpy())
    ones = contents == 1
    return bool(ones.any() and not ones.all() and (ones | (contents == 0)).all())


def _work_at(work: Work, dims: Mapping[str, int]) -> Work | str:
    """Return the work in numbers, or what is not known."""
    found = [part.at(dims) for part in work.parts()]
    if None in found:
        names = sorted(name for part in work.parts() for name in part.names if Formula.of(name).at(dims) is None)
        return names[0]
    return Work(*(Formula.of(number) for number in found if number is not None))


def _attention_at(attention: AttentionCost, dims: Mapping[str, int]) -> AttentionCost | None:
    work = _work_at(attention.work, dims)
    paper = None if attention.paper_macs is None else attention.paper_macs.at(dims)
    if not isinstance(work, Work):
        return None
    return replace(attention, work=work, paper_macs=None if paper is None else Formula.of(paper))
