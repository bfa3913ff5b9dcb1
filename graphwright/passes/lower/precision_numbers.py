"""What a narrower float type does to constants, and how large the other values of a graph get; no rule."""

import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.ranges import MOVES
from graphwright.engine.weights import let_pages_go

# An observed magnitude may be this much larger with other inputs; large activations vary by about two between texts.
HEADROOM = 4.0
# What rounding may take off a constant, in units of the type's roundoff: as a whole (root mean square), a constant of
# normal numbers loses 0.4 of them at most, and one with numbers that underflow loses more.
_MOST_LOST = 2.0
# Elements of a weight that are looked at together: a large one is never whole in memory in float64.
_CHUNK = 1 << 22

# Operators whose result is about as large as the larger operand, or the product of them.
_OF_LARGEST = frozenset(
    {
        *("Add", "Clip", "Concat", "Gather", "GatherElements", "GatherND", "Max", "Min", "Neg", "Abs", "Pad"),
        *("ScatterElements", "ScatterND", "Split", "Sub", "Sum", "Trilu", "Where"),
    }
)
_OF_PRODUCT = frozenset({"Mul"})
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})


def loss(tensor: ir.TensorProtocol, dtype: ir.DataType) -> str | None:
    """Return why a type cannot hold a float32 constant, or None where it can.

    Example:
        >>> half = ir.DataType.FLOAT16
        >>> loss(ir.tensor(np.float32([0.1, -np.inf])), half), loss(ir.tensor(np.float32([-1e9])), half)
        (None, 'holds -1e+09, beyond FLOAT16')
        >>> loss(ir.tensor(np.float32([1e-12])), half)
        'FLOAT16 rounds off 1 of its size'
    """
    flat = tensor.numpy().reshape(-1)
    size = gone = 0.0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        part = part[np.isfinite(part)]
        with np.errstate(over="ignore", under="ignore"):
            narrow = part.astype(dtype.numpy()).astype(np.float64)
        beyond = ~np.isfinite(narrow)
        if beyond.any():
            return f"holds {float(part[beyond][0]):.6g}, beyond {dtype}"
        exact = part.astype(np.float64)
        size += float(exact @ exact)
        gone += float((exact - narrow) @ (exact - narrow))
    let_pages_go(tensor)
    share = math.sqrt(gone / size) if size else 0.0
    return None if share <= _MOST_LOST * roundoff(dtype) else f"{dtype} rounds off {share:.2g} of its size"


def largest(tensor: ir.TensorProtocol) -> float:
    """Return the largest finite magnitude in a constant of floats.

    Example:
        >>> largest(ir.tensor(np.float32([1, -3, np.inf])))
        3.0
    """
    flat, most = tensor.numpy().reshape(-1), 0.0
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        most = max(most, float(np.abs(part[np.isfinite(part)]).max(initial=0.0)))
    let_pages_go(tensor)
    return most


def roundoff(dtype: ir.DataType) -> float:
    """Return the largest relative error of rounding to a type: 4.9e-4 in float16, 3.9e-3 in bfloat16."""
    return float(dtype.eps) / 2


class Magnitudes:
    """How large the values of a graph get: as observed, else as constants alone tell, which may say nothing (zero)."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType, observed: Mapping[str, float]) -> None:
        self.graph = graph
        self.most = float(dtype.max)
        self._observed = observed

    def beyond(self, value: ir.Value) -> str | None:
        """Return why a value may be too large for the type, or None where nothing says so."""
        seen = self._observed.get(value.name or "")
        if seen is not None:
            limit = self.most / HEADROOM
            return (
                None if seen <= limit else f"{value.name} reaches {seen:.3g}; {limit:.3g} leaves room for other inputs"
            )
        made = self._made.get(value, 0.0)
        return None if made <= self.most else f"{value.name} may reach {made:.3g}, as the constants in it do"

    def observed(self, value: ir.Value) -> float | None:
        """Return the largest magnitude that was seen, or None where nobody looked."""
        return self._observed.get(value.name or "")

    @cached_property
    def _made(self) -> dict[ir.Value, float]:
        """What constants tell: it takes a look at each of them, so it waits until a value is asked for unseen."""
        made: dict[ir.Value, float] = {}
        for node in self.graph:
            reach = _reach(node, made)
            for value in node.outputs if reach else ():
                made[value] = reach
        return made


def _reach(node: ir.Node, made: Mapping[ir.Value, float]) -> float:
    """Return how large the result is that a node of small operands makes with the constants among them."""
    if node.domain or node.op_type not in MOVES | _OF_LARGEST | _OF_PRODUCT | {"ConstantOfShape"}:
        return 0.0
    if node.op_type == "ConstantOfShape":
        fill = facts.attribute(node, "value")
        return largest(fill) if fill is not None and fill.dtype in _FLOATS else 0.0
    floats = [value for value in node.inputs if value is not None and value.dtype in _FLOATS]
    constants = [facts.constant(value) for value in floats]
    found = [
        made.get(value, 0.0) if tensor is None else largest(tensor)
        for value, tensor in zip(floats, constants, strict=True)
    ]
    if node.op_type in _OF_PRODUCT:
        return float(np.prod([each or 1.0 for each in found])) if any(found) else 0.0
    return max(found, default=0.0)
