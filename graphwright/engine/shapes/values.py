"""Answers a rule's questions: what does this shape tensor hold, and what shapes does a new node give?"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes.contents import elements_of
from graphwright.engine.shapes.known import (
    Dims,
    Shapes,
    as_sizes,
    constant_elements,
    has_reference,
    unknown_elements,
)
from graphwright.engine.shapes.sizes import Size
from graphwright.engine.shapes.walk import RULES

# How far back a question goes; a Shape on the way ends it.
DEPTH = 24


class _Asked:
    """Answers from the shapes that the graph carries; contents are traced back on demand."""

    def __init__(self) -> None:
        self._found: dict[ir.Value, Dims | None] = {}
        self._depth = 0

    def shape(self, value: ir.Value | None) -> Dims | None:
        return None if value is None else as_sizes(value.shape)

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        return None if value is None else value.dtype

    def contents(self, value: ir.Value | None) -> Dims | None:
        if value is None or self._depth > DEPTH:
            return None
        if value not in self._found:
            self._depth += 1
            self._found[value] = self._trace(value)
            self._depth -= 1
        return self._found[value]

    def is_length(self, size: Size | None) -> bool:
        """Nobody has looked at the other tensors."""
        return False

    def _trace(self, value: ir.Value) -> Dims | None:
        node = value.producer()
        if facts.constant(value) is not None:
            return constant_elements(value)
        if node is None or value is not node.outputs[0]:
            return unknown_elements(value, self)
        return elements_of(node, self)


def shape_value(value: ir.Value) -> tuple[int | ir.SymbolicDim | None, ...] | None:
    """Return the contents of an integer tensor of rank 0 or 1, as far as shapes tell; None where it is none.

    It reads the shapes that the values carry, so ``infer_shapes`` comes first.

    Example:
        >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (int64[2] y) {y = Shape(x)}'
        >>> model = ir.from_onnx_text(text)
        >>> [str(element) for element in shape_value(model.graph.outputs[0])]
        ['N', '4']
    """
    elements = _Asked().contents(value)
    if elements is None:
        return None
    return tuple(ir.SymbolicDim(element) if isinstance(element, str) else element for element in elements)


def output_shapes(node: ir.Node) -> Shapes:
    """Return the shapes of a node's outputs as far as those of its inputs tell; nothing where there is no rule."""
    rule = RULES.get(node.op_type) if node.domain == "" and not has_reference(node) else None
    return () if rule is None else rule(node, _Asked())
