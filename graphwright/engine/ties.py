"""Indices of the largest where values tie: which of two equals comes first is no difference.

A rewrite may rank by other numbers that order the same way: logits in place of their rounded probabilities. Where
those are equal, or apart by what rounding does, it may take others among them. So an index that comes out of TopK or
ArgMax is right if what it points at has the value that is due at its place, and no index is there twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.compare import TOLERANCES, Difference, Tolerance, compare
from graphwright.engine.open_order import in_order, open_orders
from graphwright.engine.verification import Evaluator, Inputs
from graphwright.errors import GraphwrightError

Arrays = Mapping[str, np.ndarray]

# Operators behind which indices still lie in the same order.
_ORDER_KEEPERS = frozenset({"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
# Two roundings, of the two numbers that are compared.
_ULPS = 2.0


@dataclass(frozen=True)
class Ranking:
    """A graph output that holds indices of the largest (or smallest) elements of ``data`` along ``axis``."""

    output: str
    data: ir.Value
    axis: int

    @property
    def extra(self) -> str:
        """The name under which ``with_data`` gives the ranked values."""
        return f"{self.output}/ranked"

    def is_same_choice(self, expected: np.ndarray, actual: np.ndarray, data: np.ndarray) -> bool:
        """Tell whether two sets of indices point at the same values, place by place.

        Example:
            >>> ranking = Ranking("i", ir.Value(name="p", type=ir.TensorType(ir.DataType.FLOAT)), -1)
            >>> data = np.float32([[0.5, 0.2, 0.2, 0.1]])
            >>> first, tied, wrong = (np.array([each]) for each in ([0, 1], [0, 2], [0, 3]))
            >>> ranking.is_same_choice(first, tied, data), ranking.is_same_choice(first, wrong, data)
            (True, False)
        """
        if expected.shape != actual.shape or expected.dtype != actual.dtype or not data.size:
            return False
        axis = self.axis % data.ndim
        width = data.shape[axis]
        shape = [*data.shape[:axis], expected.size * width // data.size, *data.shape[axis + 1 :]]
        due, found = (np.moveaxis(each.reshape(shape), axis, -1) for each in (expected, actual))
        if ((found < 0) | (found >= width)).any() or (np.diff(np.sort(found, axis=-1), axis=-1) == 0).any():
            return False
        rows = np.moveaxis(data, axis, -1)
        return self._are_equal(np.take_along_axis(rows, due, -1), np.take_along_axis(rows, found, -1))

    def _are_equal(self, due: np.ndarray, found: np.ndarray) -> bool:
        dtype = self.data.dtype
        if dtype is None or not dtype.is_floating_point():
            return bool(np.all(due == found))
        due, found = due.astype(np.float64), found.astype(np.float64)
        limits = ir.DataType(dtype)
        exponent = np.frexp(np.where(np.isfinite(due), due, 0.0))[1]
        allowed = _ULPS * np.maximum(
            float(limits.eps) * 2.0 ** (exponent - 1.0), float(limits.tiny) * float(limits.eps)
        )
        with np.errstate(invalid="ignore"):
            near = np.abs(due - found) <= allowed
        return bool(np.all(near | (due == found) | (np.isnan(due) & np.isnan(found))))


def rankings(model: ir.Model) -> list[Ranking]:
    """Return the outputs of a model that are indices from a TopK or an ArgMax, as they are or reshaped."""
    found = [_ranking(value) for value in model.graph.outputs]
    return [each for each in found if each is not None]


def _ranking(output: ir.Value) -> Ranking | None:
    value: ir.Value | None = output
    node = output.producer()
    while node is not None and node.domain == "" and node.op_type in _ORDER_KEEPERS:
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    if node is None or value is None or node.domain != "" or node.inputs[0] is None:
        return None
    is_index = (node.op_type, value.index()) in (("TopK", 1), ("ArgMax", 0), ("ArgMin", 0))
    axis = facts.attribute(node, "axis")
    return Ranking(output.name or "", node.inputs[0], axis) if is_index and isinstance(axis, int) else None


def with_data(model: ir.Model) -> ir.Model:
    """Return a copy of a model that also gives what its indices were chosen from."""
    copy = model.clone()
    for each in rankings(copy):
        node = ir.node("Identity", [each.data])
        node.outputs[0].name, node.name = each.extra, each.extra
        node.outputs[0].type, node.outputs[0].shape = each.data.type, each.data.shape
        copy.graph.append(node)
        copy.graph.outputs.append(node.outputs[0])
    return copy


def compare_choices(
    expected: Arrays,
    actual: Arrays,
    ranked: Sequence[Ranking],
    data: Callable[[], Arrays],
    tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
) -> list[Difference]:
    """Compare as ``compare`` does, but take indices that tie as equal; ``data`` is asked for where any differ.

    It returns at least the outputs that ``with_data`` adds, of the run that gave ``expected``.
    """
    found = compare(expected, actual, tolerances)
    by_name = {each.output: each for each in ranked}
    if not any(each.output in by_name and each.kind == "value" for each in found):
        return found
    values = data()

    def is_tie(each: Difference) -> bool:
        ranking = by_name.get(each.output)
        if ranking is None or each.kind != "value" or ranking.extra not in values:
            return False
        return ranking.is_same_choice(expected[each.output], actual[each.output], values[ranking.extra])

    return [each for each in found if not is_tie(each)]


def compare_with_source(
    source: ir.Model,
    inputs: Inputs,
    expected: Arrays,
    actual: Arrays,
    evaluate: Evaluator,
    tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
) -> list[Difference]:
    """Compare what a source gave with what its result gave: indices that tie are equal, an open order is any order."""
    if not compare(expected, actual, tolerances):
        return []
    orders = open_orders(source)

    def data() -> Arrays:
        try:
            return evaluate(with_data(source), inputs)
        except GraphwrightError:
            return {}

    return compare_choices(in_order(orders, expected), in_order(orders, actual), rankings(source), data, tolerances)
