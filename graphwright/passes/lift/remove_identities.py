"""Remove nodes that give back their input as it is.

Before:                          After:
    x -- Identity -- Relu -- y       x -- Relu -- y

Besides Identity: Cast to the type that the input has, Dropout outside training, Transpose into the same
order, Concat and Sum of one input, and products with and quotients by the constant 1.

Shapes:    none is read. A name, dtype and shape that the graph promises for an output stay.
Dtypes:    all, and sequences and optionals.
Refuses:   a node whose output is an output of its graph while its input is an input, an initializer,
           another output, or of an outer graph: ONNX has no other way to say so. A Cast of unknown input
           type, or behind an operator that is not ONNX's own: a plugin for it may give another type than its
           meaning says, as those for TensorRT give int32 indices. A Dropout with a training flag that is not
           constantly false, or whose mask is used; a 1 that may add axes.
Numerics:  the same bits.
Source:    ONNX operators Identity, Cast, Dropout, Transpose, Concat, Mul. onnx_ir's IdentityEliminationPass is
           not used: of two outputs that are one value it loses the first one's name, it moves values of
           outer graphs into the outputs of subgraphs, and it narrows the declared shapes of graph inputs
           (version 1.1).
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pipeline import FunctionPass


def remove_identities(model: ir.Model) -> bool:
    """Remove such nodes from every graph in place; tell whether there were any.

    Example:
        >>> model = ir.from_onnx_text(
        ...     '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y)'
        ...     '{a = Identity(x) y = Relu(a)}'
        ... )
        >>> remove_identities(model), [node.op_type for node in model.graph]
        (True, ['Relu'])
    """
    changed = False
    for graph in list(facts.graphs(model)):
        for node in list(graph):
            if _is_identity(node) and _is_removable(node, graph):
                _remove(node, graph)
                changed = True
    return changed


def _source(node: ir.Node) -> ir.Value | None:
    """Return the input that a node would give back."""
    if not node.domain and node.op_type == "Mul" and facts.scalar(node.inputs[0]) == 1:
        return node.inputs[1]
    return node.inputs[0] if node.inputs else None


def _is_identity(node: ir.Node) -> bool:
    source = _source(node)
    if node.domain or source is None:
        return False
    if node.op_type == "Identity":
        return True
    if node.op_type == "Cast":
        producer = source.producer()
        is_foreign = producer is not None and producer.domain != ""
        return not is_foreign and source.dtype is not None and facts.attribute(node, "to") == source.dtype
    if node.op_type == "Transpose":
        order = facts.attribute(node, "perm")
        return order is not None and order == tuple(range(len(order)))
    if node.op_type in ("Concat", "Sum"):
        return len(node.inputs) == 1
    if node.op_type in ("Mul", "Div"):
        return _is_one(node.inputs[0] if source is node.inputs[1] else node.inputs[1], source)
    return node.op_type == "Dropout" and _is_inference(node)


def _is_one(value: ir.Value | None, source: ir.Value) -> bool:
    """Tell whether a factor is 1 throughout and adds no axes to what it is multiplied with."""
    if facts.scalar(value) != 1 or facts.constant(source) is not None:
        return False
    count = facts.rank(value) or 0
    return count == 0 or count <= (facts.rank(source) or 0)


def _is_inference(node: ir.Node) -> bool:
    """Tell whether a Dropout only copies: no training, and nobody asks for the mask."""
    training = node.inputs[2] if len(node.inputs) > 2 else None
    off = training is None or facts.scalar(training) == 0.0
    return off and not any(mask.uses() or mask.is_graph_output() for mask in node.outputs[1:])


def _is_removable(node: ir.Node, graph: ir.Graph) -> bool:
    source, result = _source(node), node.outputs[0]
    assert source is not None
    if not result.is_graph_output():
        return True
    producer = source.producer()
    own = producer is not None and producer.graph is graph
    return own and not source.is_graph_output()


def _remove(node: ir.Node, graph: ir.Graph) -> None:
    source, result = _source(node), node.outputs[0]
    assert source is not None
    if source.producer() is not None:
        source.type = source.type or result.type
        source.shape = source.shape if source.shape is not None else result.shape
    promised = result.is_graph_output()
    result.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    if promised:
        source.name, result.name = result.name, None
        source.type, source.shape = result.type or source.type, result.shape or source.shape


REMOVE_IDENTITIES = FunctionPass("remove-identities", remove_identities)
