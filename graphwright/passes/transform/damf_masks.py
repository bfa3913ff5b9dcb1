"""What damf reads from a mask: which keys are valid, and whether it is causal. Nothing else has a linear form; no rule.

A mask of [B,1,S,T] is a mask of keys where it is one of [B,1,1,T], expanded, or one of those and conditions on queries
that always hold. It is causal where it compares the positions of keys and queries, or is a triangle of constants.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.rewrite import Builder, Reason, require
from graphwright.passes.attention import require_same

# A number that is added to scores and this low masks them: exp(-1000) is 0 in every type. Exporters write -inf, the
# lowest number of a type, -65504 or -10000.
MASKS = -1000.0

# Operators that keep what they are given in its order.
_VIEWS = frozenset({"Identity", "Unsqueeze", "Squeeze", "Reshape"})


@dataclass(frozen=True)
class KeyMask:
    """A condition on keys: a boolean or additive value [B|1,1,1,T], or with fewer leading axes; maybe inverted."""

    value: ir.Value
    is_inverted: bool = False


@dataclass(frozen=True)
class Mask:
    """Which keys each query sees: those that hold all conditions, up to its own position where it is causal."""

    keys: tuple[KeyMask, ...] = ()
    is_causal: bool = False


def read_mask(mask: ir.Value | None, is_causal: bool, queries: ir.Value, keys: ir.Value) -> Mask:
    """Return what a mask says; refuse one that says more than which keys are valid, and causality.

    Shapes: queries [B,S,E], keys [B,T,E]; of them only the sizes are read.
    """
    found = Mask((), is_causal) if mask is None else _read(mask, queries, keys)
    found = Mask(found.keys, found.is_causal or is_causal)
    if found.is_causal:
        require_same(queries, 1, keys, 1)
    return found


def valid_keys(op: Builder, mask: Mask, dtype: ir.DataType) -> ir.Value | None:
    """Return 1 for each valid key and 0 for the others, [B|1,T,1], or None where all are valid."""
    valid: ir.Value | None = None
    for each in mask.keys:
        this = each.value
        if this.dtype != ir.DataType.BOOL:
            assert this.dtype is not None
            this = op.Greater(this, np.asarray(MASKS, this.dtype.numpy()))
        if each.is_inverted:
            this = op.Not(this)
        count = facts.rank(this) or 0
        squeezed = op.Squeeze(this, list(range(int(count == 4), count - 1))) if count > 1 else this
        column = op.Unsqueeze(squeezed, [-1] if count == 4 else [0, 2])
        valid = column if valid is None else op.And(valid, column)
    return None if valid is None else op.Cast(valid, to=dtype.value)


def _read(mask: ir.Value, queries: ir.Value, keys: ir.Value) -> Mask:
    if ranges.is_always_true(mask) or ranges.is_always_zero(mask):
        return Mask()
    node = mask.producer()
    op_type = node.op_type if node is not None and not node.domain else ""
    # A choice is looked into even where it is of keys: its numbers may be no mask.
    if _is_of_keys(mask) and op_type != "Where":
        _require_fits(mask, queries, keys)
        return Mask((KeyMask(mask),))
    if _is_causal(mask):
        require_same(mask, -1, keys, 1)
        return Mask(is_causal=True)
    parts: list[Mask] = []
    if node is not None and op_type in ("Expand", "Identity"):
        parts = [_read(_operand(node, 0), queries, keys)]
    elif node is not None and (op_type == "And" or (op_type == "Add" and mask.dtype != ir.DataType.BOOL)):
        parts = [_read(_operand(node, index), queries, keys) for index in (0, 1)]
    elif node is not None and op_type == "Where":
        parts = [_read_choice(node, queries, keys)]
    detail = f"the mask {facts.describe(mask)} of {facts.place(node)} is not known to be a mask of keys, or causal"
    require(bool(parts), Reason.STRUCTURE, detail)
    return Mask(tuple(key for part in parts for key in part.keys), any(part.is_causal for part in parts))


def _operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _read_choice(node: ir.Node, queries: ir.Value, keys: ir.Value) -> Mask:
    """``Where(c, 0, low)`` is c; ``Where(c, low, 0)`` is its inverse, which must be a mask of keys."""
    chooser, kept, masked = (_operand(node, index) for index in range(3))
    numbers = [facts.scalar(value) for value in (kept, masked)]
    masks = [number is not None and number <= MASKS for number in numbers]
    keeps = [ranges.is_always_zero(value) for value in (kept, masked)]
    detail = (
        f"{facts.place(node)} chooses between {facts.describe(kept)} and {facts.describe(masked)}; needs 0 and -inf"
    )
    require(any(keeps) and any(masks), Reason.CONSTANT, detail)
    found = _read(chooser, queries, keys)
    if masks[1]:
        return found
    require(len(found.keys) == 1 and not found.is_causal, Reason.STRUCTURE, f"{detail}, chosen by a mask of keys")
    (key,) = found.keys
    return Mask((KeyMask(key.value, not key.is_inverted),))


def _is_of_keys(mask: ir.Value) -> bool:
    count = facts.rank(mask)
    return count is not None and 1 <= count <= 4 and all(facts.dim(mask, axis) == 1 for axis in (-2, -3)[: count - 1])


def _require_fits(mask: ir.Value, queries: ir.Value, keys: ir.Value) -> None:
    require_same(mask, -1, keys, 1)
    if facts.rank(mask) == 4 and facts.dim(mask, 0) != 1:
        require_same(mask, 0, queries, 0)


def _is_causal(mask: ir.Value) -> bool:
    """Tell whether a mask is known to let each query see the keys up to its own position."""
    if facts.dim(mask, -3) not in (1, None) or facts.dim(mask, -4) not in (1, None):
        return False
    node = mask.producer()
    if node is not None and not node.domain and node.op_type in ("LessOrEqual", "GreaterOrEqual"):
        lower, higher = node.inputs if node.op_type == "LessOrEqual" else reversed(node.inputs)
        return _is_position(lower, -1) and _is_position(higher, -2)
    if node is not None and node.op_type == "Trilu" and len(node.inputs) < 2 and not facts.attribute(node, "upper"):
        return ranges.is_always_true(node.inputs[0])
    return _is_triangle(mask)


def _is_position(value: ir.Value | None, axis: int) -> bool:
    """Tell whether each number is known to be its own place on an axis, the only one that is not of size 1."""
    others = [size for at in range(-(facts.rank(value) or 0), 0) if at != axis and (size := facts.dim(value, at)) != 1]
    if others or facts.rank(value) is None or (axis == -2 and facts.rank(value) == 1):
        return False
    node = value.producer() if value is not None else None
    while node is not None and not node.domain and (node.op_type in _VIEWS or _is_wide_cast(node)):
        inner = node.inputs[0]
        node = inner.producer() if inner is not None else None
    if node is None or node.domain or node.op_type != "Range":
        return False
    return facts.scalar(node.inputs[0]) == 0 and facts.scalar(node.inputs[2]) == 1


def _is_wide_cast(node: ir.Node) -> bool:
    wide = (ir.DataType.INT32, ir.DataType.INT64, ir.DataType.FLOAT, ir.DataType.DOUBLE)
    return node.op_type == "Cast" and facts.attribute(node, "to") in {each.value for each in wide}


def _is_triangle(mask: ir.Value) -> bool:
    """Tell whether a mask is a triangle of constants: true, or 0, up to the diagonal, and false, or low, behind it."""
    tensor = facts.constant(mask)
    if tensor is None or tensor.dtype == ir.DataType.STRING or len(tensor.shape) < 2:
        return False
    contents = tensor.numpy()
    length = contents.shape[-1]
    if contents.shape[-2] != length or contents.size != length**2:
        return False
    plane, lower = contents.reshape(length, length), np.tri(length, dtype=bool)
    if plane.dtype == np.bool_:
        return bool((plane == lower).all())
    is_float = tensor.dtype.is_floating_point()
    return is_float and bool((plane[lower] == 0).all() and (plane[~lower] <= MASKS).all())
