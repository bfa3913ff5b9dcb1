"""TopK with ``sorted=0`` may give its results in any order: no order among them is a difference.

Where both models can be changed, both are run sorted. Where only their outputs are there, those that lie in an open
order are put into one before they are compared, indices and what was taken by them alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts

# Operators that give, at each place, what their inputs have at that place, so that an order passes through them.
_BY_PLACE = frozenset(
    {"Identity", "Cast", "Neg", "Add", "Sub", "Mul", "Div", "Where", "Sigmoid", "Exp", "Log", "GatherElements"}
)


@dataclass(frozen=True)
class OpenOrder:
    """Graph outputs that lie in the order of one unsorted TopK along ``axis``; the first tells their order."""

    outputs: tuple[str, ...]
    axis: int


def has_unsorted(model: ir.Model) -> bool:
    """Tell whether a TopK of the model leaves its order open."""
    return any(_is_unsorted(node) for graph in facts.graphs(model) for node in graph)


def with_sorted(model: ir.Model) -> ir.Model:
    """Return the model with every TopK sorted: a copy, or itself where there is nothing to do."""
    if not has_unsorted(model):
        return model
    copy = model.clone()
    for node in (node for graph in facts.graphs(copy) for node in graph):
        if _is_unsorted(node):
            node.attributes["sorted"] = ir.AttrInt64("sorted", 1)
    return copy


def _is_unsorted(node: ir.Node) -> bool:
    return node.op_type == "TopK" and node.domain == "" and facts.attribute(node, "sorted") == 0


def open_orders(model: ir.Model) -> list[OpenOrder]:
    """Return the outputs of a model that lie in an open order."""
    found = [_follow(node, model) for node in model.graph if _is_unsorted(node)]
    return [each for each in found if each.outputs]


def _follow(topk: ir.Node, model: ir.Model) -> OpenOrder:
    reached = set(topk.outputs)
    indices = {topk.outputs[1]}
    for node in model.graph:
        if node.domain == "" and node.op_type in _BY_PLACE and reached.intersection(node.inputs):
            reached.update(node.outputs)
            is_index = node.op_type in ("Identity", "Cast") and node.inputs[0] in indices
            indices.update(node.outputs if is_index else ())
    outputs = [value for value in model.graph.outputs if value in reached]
    # Weights may tie where indices do not.
    outputs.sort(key=lambda value: value not in indices)
    axis = facts.attribute(topk, "axis")
    return OpenOrder(tuple(value.name or "" for value in outputs), -1 if axis is None else axis)


def in_order(orders: Sequence[OpenOrder], arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a model's outputs with those of open order sorted by their indices, or by themselves without any.

    Example:
        >>> order = OpenOrder(("experts", "weights"), -1)
        >>> outputs = {"experts": np.array([[7, 2]]), "weights": np.array([[0.25, 0.75]])}
        >>> {name: array.tolist() for name, array in in_order([order], outputs).items()}
        {'experts': [[2, 7]], 'weights': [[0.75, 0.25]]}
    """
    result = dict(arrays)
    for each in orders:
        present = [name for name in each.outputs if name in arrays]
        if not present or not -arrays[present[0]].ndim <= each.axis < arrays[present[0]].ndim:
            continue
        places = np.argsort(arrays[present[0]], axis=each.axis, kind="stable")
        for name in present:
            if arrays[name].shape == places.shape:
                result[name] = np.take_along_axis(arrays[name], places, each.axis)
    return result
