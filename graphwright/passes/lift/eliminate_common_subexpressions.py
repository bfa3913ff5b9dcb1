"""Keep one of several nodes that compute the same from the same inputs.

Before:                     After:
    x --+-- Exp -- a            x -- Exp --+-- a
        +-- Exp -- b                       +-- b

Shapes:    none is read; what is known of either result is known of the one that stays.
Dtypes:    all.
Refuses:   operators that draw random numbers, and Dropout with a training flag; operators outside ONNX,
           whose meaning is not known; nodes that carry graphs; nodes that make an output of their graph;
           nodes of different graphs; attribute tensors of more than 1,024 elements.
Numerics:  the same bits.
Source:    Cocke 1970, doi:10.1145/390013.808480. onnx_ir's CommonSubexpressionEliminationPass is not used:
           it takes two Bernoulli nodes, two Dropouts in training, and the attributes 0.0 and -0.0 for the
           same, and visits no subgraph or function (version 1.1).
"""

from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pipeline import FunctionPass

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def eliminate_common_subexpressions(model: ir.Model) -> bool:
    """Merge equal nodes in every graph in place; tell whether there were any.

    Example:
        >>> model = ir.from_onnx_text(
        ...     '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y)'
        ...     '{a = Exp(x) b = Exp(x) y = Add(a, b)}'
        ... )
        >>> eliminate_common_subexpressions(model), [node.op_type for node in model.graph]
        (True, ['Exp', 'Add'])
    """
    merged = [_merge(graph) for graph in list(facts.graphs(model))]
    return any(merged)


def _merge(graph: ir.Graph) -> bool:
    first: dict[tuple[Any, ...], ir.Node] = {}
    changed = False
    for node in list(graph):
        if not _is_pure(node):
            continue
        key = _key(node)
        if key is None:
            continue
        kept = first.setdefault(key, node)
        if kept is not node and not any(value.is_graph_output() for value in node.outputs):
            _replace(node, kept, graph)
            changed = True
    return changed


def _is_pure(node: ir.Node) -> bool:
    if node.domain or node.op_type in RANDOM or any(True for _ in facts.subgraphs(node)):
        return False
    return node.op_type != "Dropout" or len(node.inputs) < 3


def _key(node: ir.Node) -> tuple[Any, ...] | None:
    """Return what two nodes must have in common, or None for a node that is not compared."""
    attributes = []
    for name in sorted(node.attributes):
        contents = _contents(node.attributes[name])
        if contents is None:
            return None
        attributes.append((name, contents))
    present = tuple(bool(value.name) for value in node.outputs)
    inputs = tuple(id(value) for value in node.inputs)
    return node.op_type, node.version, present, inputs, tuple(attributes)


def _contents(attribute: ir.Attr) -> tuple[Any, ...] | None:
    if attribute.is_ref():
        return "reference", attribute.type, attribute.ref_attr_name
    if attribute.type == ir.AttributeType.TENSOR:
        return _tensor_contents(attribute.as_tensor())
    if attribute.type in (ir.AttributeType.FLOAT, ir.AttributeType.FLOATS):
        # 0.0 and -0.0 are equal as numbers, not as text; no NaN equals another, but its text does.
        return attribute.type, repr(attribute.value)
    if attribute.type in (ir.AttributeType.INT, ir.AttributeType.STRING):
        return attribute.type, attribute.value
    if attribute.type in (ir.AttributeType.INTS, ir.AttributeType.STRINGS):
        return attribute.type, tuple(attribute.value)
    return None


def _tensor_contents(tensor: ir.TensorProtocol) -> tuple[Any, ...] | None:
    if tensor.size > facts.SMALL_CONSTANT:
        return None
    if isinstance(tensor, ir.StringTensor):
        return tensor.dtype, tuple(tensor.shape), tuple(tensor.string_data())
    return tensor.dtype, tuple(tensor.shape), tensor.tobytes()


def _replace(node: ir.Node, kept: ir.Node, graph: ir.Graph) -> None:
    for old, new in zip(node.outputs, kept.outputs, strict=True):
        new.type = new.type or old.type
        new.shape = new.shape if new.shape is not None else old.shape
        old.replace_all_uses_with(new)
    graph.remove(node, safe=True)


ELIMINATE_COMMON_SUBEXPRESSIONS = FunctionPass("eliminate-common-subexpressions", eliminate_common_subexpressions)
