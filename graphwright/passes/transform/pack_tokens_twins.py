"""The same operators on kept tokens alone: [N,...] in place of [B,S,...]; no rule.

What stands behind the first axes keeps its place, so an operator becomes itself with axes counted from the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Builder
from graphwright.passes.transform.pack_tokens_flow import (
    ELEMENTWISE,
    NORMS,
    REDUCTIONS,
    RESHAPES,
    SOFTMAXES,
    Layouts,
    Sizes,
    behind,
    is_canonical,
    reduced_axes,
)


class Packed(Protocol):
    """What twins are made of: kept tokens of a value, and where the tokens were."""

    op: Builder

    def packed(self, value: ir.Value) -> ir.Value:
        """Return the kept tokens of a value."""

    def chosen(self, value: ir.Value, axes: str) -> ir.Value:
        """Return what belongs to each kept token of a value with rows ("B"), positions ("S"), both ("BS"), or one axis
        for both ("merged") first."""

    def index(self, name: str) -> ir.Value:
        """Return indices; "length" is the number of positions."""


def rest_of(value: ir.Value, layout: Sequence[int]) -> list[int] | None:
    """Return the sizes behind the tokens, or None where one is no number."""
    sizes = [facts.static_dim(value, axis) for axis in range(len(layout) - (facts.rank(value) or 0), 0)]
    return None if any(size is None for size in sizes) else [size for size in sizes if size is not None]


def has_twin(node: ir.Node, layouts: Layouts, layout: Sequence[int], sizes: Sizes) -> bool:
    """Tell whether a node that works token by token can work on kept ones alone, given the layout of its outputs."""
    for value in node.inputs:
        if value is not None and value in layouts and not is_canonical(value, layouts[value]):
            return False
    for value in node.outputs:
        if not is_canonical(value, tuple(layout)) or rest_of(value, layout) is None:
            return False
    if node.op_type in ELEMENTWISE:
        return all(_way(value, node, layouts, layout, sizes) is not None for value in node.inputs if value is not None)
    return node.op_type in _TWINS


def twins(node: ir.Node, layouts: Layouts, layout: Sequence[int], sizes: Sizes, tokens: Packed) -> Sequence[ir.Value]:
    """Record a node on kept tokens and return its outputs; ``has_twin`` holds."""
    if node.op_type in ELEMENTWISE:
        return _copy(tokens.op, node, [_operand(value, node, layouts, layout, sizes, tokens) for value in node.inputs])
    return _TWINS[node.op_type](node, layouts, tokens)


def _copy(op: Builder, node: ir.Node, inputs: Sequence[ir.Value | None], **changed: int) -> Sequence[ir.Value]:
    twin = op.copy(node, inputs).producer()
    assert twin is not None
    for name, number in changed.items():
        twin.attributes[name] = ir.AttrInt64(name, number)
    return twin.outputs


@dataclass(frozen=True)
class _Way:
    """How to get an operand's kept tokens: the tokens' axes that it has ("BS", "S", "B", ""), those of size 1 that go.

    ``is_repeated``: its positions may be one for all, as far as is known.
    """

    axes: str
    ones: tuple[int, ...] = ()
    is_repeated: bool = False


_OF_TOKENS = _Way("tokens")


def _way(value: ir.Value, node: ir.Node, layouts: Layouts, layout: Sequence[int], sizes: Sizes) -> _Way | None:
    """Return how an operand of an elementwise operator is read, or None where that is not known."""
    if value in layouts:
        return _OF_TOKENS
    count = facts.rank(value)
    if count is None:
        return None
    places = [axis + count for axis in layout if axis + count >= 0]
    found = [facts.dim(value, place) for place in places]
    if len(layout) == 1:
        if all(size == 1 for size in found):
            return _Way("")
        return _Way("merged") if facts.same_dim(found[0], facts.dim(node.outputs[0], 0)) else None
    limits, names = sizes[2 - len(found) :], "BS"[2 - len(found) :]
    has_tokens = [size != 1 for size in found]
    is_known = [size == 1 or facts.same_dim(size, limit) for size, limit in zip(found, limits, strict=True)]
    # Positions that broadcast to those of the tokens are as many, or one: Expand makes them as many.
    is_repeated = bool(found) and not is_known[-1]
    if not all(is_known[:-1]) or (is_repeated and len(found) == 2 and has_tokens[0]):
        return None
    ones = [place for place, has in zip(places, has_tokens, strict=True) if not has]
    axes = "".join(name for name, has in zip(names, has_tokens, strict=True) if has)
    # One axis stays for the tokens.
    return _Way(axes, tuple(ones if axes else ones[1:]), is_repeated)


def _operand(
    value: ir.Value | None, node: ir.Node, layouts: Layouts, layout: Sequence[int], sizes: Sizes, tokens: Packed
) -> ir.Value | None:
    if value is None:
        return None
    way = _way(value, node, layouts, layout, sizes)
    assert way is not None
    if way is _OF_TOKENS:
        return tokens.packed(value)
    read = tokens.op.Squeeze(value, list(way.ones)) if way.ones else value
    if way.is_repeated:
        rest = (facts.rank(read) or 1) - 1
        length = tokens.index("length")
        read = tokens.op.Expand(read, tokens.op.Concat(length, [1] * rest, axis=0) if rest else length)
    return tokens.chosen(read, way.axes) if way.axes else read


def _with_first(node: ir.Node, layouts: Layouts, tokens: Packed) -> Sequence[ir.Value]:
    """MatMul and Gemm: the weights have no tokens."""
    return _copy(tokens.op, node, [tokens.packed(_tokens(node)), *node.inputs[1:]])


def _tokens(node: ir.Node, place: int = 0) -> ir.Value:
    value = node.inputs[place]
    assert value is not None
    return value


def _along_axis(node: ir.Node, layouts: Layouts, tokens: Packed) -> Sequence[ir.Value]:
    axis = behind(node, _tokens(node), facts.attribute(node, "axis"))
    assert axis is not None
    return _copy(tokens.op, node, [tokens.packed(_tokens(node)), *node.inputs[1:]], axis=axis)


def _concat(node: ir.Node, layouts: Layouts, tokens: Packed) -> Sequence[ir.Value]:
    axis = behind(node, node.outputs[0], facts.attribute(node, "axis"))
    assert axis is not None
    parts = [tokens.packed(value) for value in node.inputs if value is not None]
    return _copy(tokens.op, node, parts, axis=axis)


def _along_axes(node: ir.Node, layouts: Layouts, tokens: Packed) -> Sequence[ir.Value]:
    """Reductions and Slice: their axes are an input."""
    value = _tokens(node)
    inputs: list[ir.Value | None] = [tokens.packed(value), *node.inputs[1:]]
    axes = reduced_axes(node, value)
    assert axes is not None
    inputs[3 if node.op_type == "Slice" else 1] = tokens.op.constant(np.asarray(axes, np.int64))
    return _copy(tokens.op, node, inputs)


def _reshape(node: ir.Node, layouts: Layouts, tokens: Packed) -> Sequence[ir.Value]:
    value, after = _tokens(node), node.outputs[0]
    packed = tokens.packed(value)
    old = rest_of(value, layouts[value])
    new = rest_of(after, layouts[after])
    assert new is not None
    return [packed if old == new else tokens.op.Reshape(packed, [0, *new] if new else [-1])]


def _gather(node: ir.Node, layouts: Layouts, tokens: Packed) -> Sequence[ir.Value]:
    return _copy(tokens.op, node, [node.inputs[0], tokens.packed(_tokens(node, 1))])


_TWINS: dict[str, Callable[[ir.Node, Layouts, Packed], Sequence[ir.Value]]] = {
    **dict.fromkeys((*NORMS, *SOFTMAXES, "Split"), _along_axis),
    **dict.fromkeys((*REDUCTIONS, "Slice"), _along_axes),
    **dict.fromkeys(RESHAPES, _reshape),
    "Concat": _concat,
    "Gather": _gather,
    "Gemm": _with_first,
    "MatMul": _with_first,
}
