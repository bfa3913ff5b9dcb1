"""What a graph input is for, read from the operators that its values reach: never from its name.

An integer may be an index into a table, a mask, or a size; each must be drawn differently, or the model
cannot run or its mask hides everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

import onnx_ir as ir

from graphwright.engine import facts


class Kind(Enum):
    """What the numbers of an input mean."""

    INDEX = "a position along an axis"
    MASK = "zero or one"
    SIZE = "a shape, an axis or a count"
    POSITIVE = "a number above zero"
    NUMBER = "any number"


@dataclass(frozen=True)
class Extent:
    """An index must stay below the size of this axis, less what the graph adds to it first."""

    data: ir.Value | None
    axis: int
    added: int = 0
    depth: int | None = None


@dataclass
class Role:
    """What a value is used for; an index has one extent for each table it reaches."""

    kinds: set[Kind] = field(default_factory=set)
    extents: list[Extent] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """The use that restricts the numbers most."""
        return next((kind for kind in Kind if kind in self.kinds), Kind.NUMBER)


# Operators whose first output holds numbers of their first input, in other places.
_MOVES = frozenset(
    [
        *("Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice", "Expand", "Tile"),
        *("Gather", "Split", "Pad", "DepthToSpace", "Trilu"),
    ]
)
_FIRST_ONLY = frozenset({"CumSum", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd"})
_ANY_INPUT = frozenset(
    [
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
        *("Not", "And", "Or", "Xor", "BitwiseAnd", "BitwiseOr", "NonZero"),
    ]
)
# (operator, input) pairs that read a shape, an axis or a count.
_SIZES = {
    *(("Reshape", 1), ("Expand", 1), ("ConstantOfShape", 0), ("Tile", 1), ("Unsqueeze", 1), ("Squeeze", 1)),
    *(("Slice", 1), ("Slice", 2), ("Slice", 3), ("Slice", 4), ("Range", 0), ("Range", 1), ("Range", 2)),
    *(("Pad", 1), ("Split", 1), ("TopK", 1), ("CumSum", 1), ("Trilu", 1), ("Loop", 0), ("OneHot", 1)),
    *(("ReduceSum", 1), ("ReduceMax", 1), ("ReduceMin", 1), ("ReduceMean", 1), ("ReduceProd", 1)),
}
_POSITIVE = frozenset({("Sqrt", 0), ("Log", 0)})
# (domain, operator, input) -> the input whose first axis the indices count.
_TABLES = {
    ("com.microsoft", "EmbedLayerNormalization", 0): 2,
    ("com.microsoft", "EmbedLayerNormalization", 1): 4,
    ("com.microsoft", "EmbedLayerNormalization", 8): 3,
}
_MASKS = {
    ("com.microsoft", "EmbedLayerNormalization", 7),
    ("com.microsoft", "Attention", 3),
    ("com.microsoft", "MultiHeadAttention", 4),
}
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def role_of(value: ir.Value, model: ir.Model) -> Role:
    """Return what a value is used for, following it into subgraphs and model-local functions.

    Example:
        >>> text = "g (float[9, 4] t, int64[N] i) => (y) {y = Gather(t, i)}"
        >>> model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 24]> ' + text)
        >>> role_of(model.graph.inputs[1], model).kind
        <Kind.INDEX: 'a position along an axis'>
    """
    role, seen = Role(), {value}
    pending = [(value, 0)]
    while pending:
        current, added = pending.pop()
        for node, index in current.uses():
            _note(role, node, index, added)
            for reached, more in _reached(node, index, model):
                if reached not in seen:
                    seen.add(reached)
                    pending.append((reached, added + more))
    return role


def _note(role: Role, node: ir.Node, index: int, added: int) -> None:
    """Add what one use says."""
    extent = _extent(node, index, added)
    if extent is not None:
        role.kinds.add(Kind.INDEX)
        role.extents.append(extent)
    elif (node.domain, node.op_type, index) in _MASKS:
        role.kinds.add(Kind.MASK)
    elif node.domain:
        return
    elif (node.op_type, index) in _SIZES:
        role.kinds.add(Kind.SIZE)
    elif (node.op_type, index) in _POSITIVE or _is_integer_divisor(node, index):
        role.kinds.add(Kind.POSITIVE)
    elif _is_mask_use(node, index):
        role.kinds.add(Kind.MASK)


def _is_integer_divisor(node: ir.Node, index: int) -> bool:
    divisor = node.inputs[index]
    is_divisor = node.op_type in ("Div", "Mod") and index == 1
    return is_divisor and divisor is not None and divisor.dtype is not None and divisor.dtype.is_integer()


def _is_mask_use(node: ir.Node, index: int) -> bool:
    if node.op_type == "Cast":
        target = ir.DataType(facts.attribute(node, "to") or 0)
        return target == ir.DataType.BOOL or target in _FLOATS
    if node.op_type == "Where" or node.op_type in _FIRST_ONLY:
        return index == 0
    return node.op_type in _ANY_INPUT


def _extent(node: ir.Node, index: int, added: int) -> Extent | None:
    table = _TABLES.get((node.domain, node.op_type, index))
    if table is not None:
        return Extent(node.inputs[table], 0, added)
    if node.domain:
        return None
    if index == 1 and node.op_type in ("Gather", "GatherElements", "ScatterElements"):
        return Extent(node.inputs[0], int(facts.attribute(node, "axis") or 0), added)
    if index == 0 and node.op_type == "OneHot":
        depth = facts.scalar(node.inputs[1])
        return Extent(None, 0, added, int(depth) if depth is not None else None)
    return None


def _reached(node: ir.Node, index: int, model: ir.Model) -> Iterator[tuple[ir.Value, int]]:
    """Yield the values that hold the same numbers behind a node, and what the node adds to them."""
    function = model.functions.get(node.op_identifier())
    if function is not None:
        if index < len(function.inputs):
            yield function.inputs[index], 0
    elif node.domain:
        return
    elif node.op_type in ("Loop", "Scan"):
        inner = next(facts.subgraphs(node), None)
        if inner is not None and index < len(inner.inputs):
            yield inner.inputs[index], 0
    elif (node.op_type in _MOVES and index == 0) or (node.op_type == "Where" and index > 0) or node.op_type == "Concat":
        yield from ((output, 0) for output in node.outputs)
    elif node.op_type == "Cast" and not _is_mask_use(node, index):
        yield node.outputs[0], 0
    elif node.op_type in ("Add", "Sub"):
        other = facts.scalar(node.inputs[1 - index])
        if other is not None and other == int(other) and not (node.op_type == "Sub" and index == 1):
            yield node.outputs[0], int(other) if node.op_type == "Add" else -int(other)
