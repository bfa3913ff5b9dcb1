"""Constants and attributes of a graph against those of a pattern: which differences count."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import (
    COMMUTATIVE,
    COMMUTATIVE_PAIRS,
    RELATIONS,
    Axes,
    Default,
    Literal,
    Parameter,
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


def is_literal(pattern: Literal | Axes, value: ir.Value | None, node: ir.Node | None) -> bool:
    """Tell whether a node's input is the constant that a pattern asks for."""
    contents = facts.array(value)
    if contents is None or value is None or contents.dtype.kind not in "iufbV":
        return False
    if isinstance(pattern, Axes):
        count = facts.rank(node.inputs[0]) if node is not None else None
        return _same_axes(pattern.axes, tuple(contents.reshape(-1).tolist()), count)
    wanted = np.asarray(pattern.contents, np.float64)
    if contents.size != wanted.size or (wanted.ndim and contents.ndim != wanted.ndim):
        return False
    if pattern.rank not in (None, contents.ndim) or (not wanted.ndim and _adds_axes(value, contents.ndim, node)):
        return False
    tolerance = _tolerance(value)
    found = contents.astype(np.float64).reshape(wanted.shape)
    return bool(np.all(np.abs(found - wanted) <= tolerance * np.abs(wanted)))


def parameter_of(pattern: Parameter, found: Any, node: ir.Node | None) -> float | None:
    """Return the number of the rule that a constant or an attribute tells, or None where it is no number."""
    number = found if isinstance(found, int | float) else None
    if isinstance(found, ir.Value):
        contents = facts.array(found)
        if contents is None or contents.size != 1 or _adds_axes(found, contents.ndim, node):
            return None
        number = float(contents.reshape(()))
    if number is None or not math.isfinite(number):
        return None
    if (number < 0 and "root" in pattern.relation) or (number == 0 and "reciprocal" in pattern.relation):
        return None
    return RELATIONS[pattern.relation][1](number)


def is_near(first: float, second: float, found: Any) -> bool:
    """Tell whether two numbers of a rule, the second told by ``found``, are one up to rounding."""
    # Twice: a square root's square is off by twice the rounding, and each of the two constants was rounded.
    tolerance = 4 * (_tolerance(found) if isinstance(found, ir.Value) else LITERAL_TOLERANCE[ir.DataType.FLOAT])
    return abs(first - second) <= tolerance * abs(first)


def _tolerance(value: ir.Value) -> float:
    tensor = facts.constant(value)
    return LITERAL_TOLERANCE.get(tensor.dtype, 0.0) if tensor is not None else 0.0


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


def same_attribute(name: str, wanted: Any, found: Any, node: ir.Node) -> bool:
    """Tell whether an attribute is what a pattern asks for; ``found`` is None where it is not known."""
    if isinstance(wanted, Default):
        if found is None and name not in node.attributes:
            return True
        wanted = wanted.contents
    if found is None or wanted is None:
        return wanted is None and found is None and name not in node.attributes
    if name in ("axis", "axes"):
        wanted_axes, found_axes = np.atleast_1d(wanted).tolist(), np.atleast_1d(found).tolist()
        return _same_axes(wanted_axes, found_axes, facts.rank(node.inputs[0]))
    if isinstance(wanted, float):
        return bool(abs(wanted - found) <= LITERAL_TOLERANCE[ir.DataType.FLOAT] * abs(wanted))
    if isinstance(wanted, list | tuple):
        return tuple(wanted) == tuple(found)
    return bool(wanted == found)
