"""A model's copy that runs float16 and bfloat16 nodes in float32 and rounds what they give.

ONNX Runtime's CPU provider has few kernels for the two types (docs/design, "Narrower floats"). It runs a float16 node
without one in float32, which is as well; but of the casts that it puts around such nodes it takes out every pair
between two of them, also with all optimizations off, so that nothing is rounded there and nothing overflows at 65504.
A bfloat16 node without a kernel it does not load. Casts that stand in the graph it leaves alone, so the copy has them:
what it gives is off by each node's rounding, as on a device that has kernels which add up in float32.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes import infer_shapes
from graphwright.runtime.double import inlined

NARROW = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

# They make no new numbers, and the CPU provider has kernels of both types for them (1.31.1).
_MOVES = frozenset(
    {
        *("Cast", "Compress", "Concat", "Constant", "ConstantOfShape", "Flatten", "Gather", "GatherElements"),
        *("GatherND", "Identity", "If", "Loop", "Reshape", "Scan", "ScatterElements", "ScatterND", "SequenceAt"),
        *("SequenceConstruct", "Shape", "Size", "Slice", "Split", "Squeeze", "TensorScatter", "Transpose", "Unsqueeze"),
    }
)
# Attributes that name a type in which a node computes or answers.
_TYPE_ATTRIBUTES = ("dtype", "output_dtype", "softmax_precision")


def types_of(model: ir.Model) -> frozenset[ir.DataType]:
    """Return every type of number that a model has: in inputs, weights, casts or results."""
    graphs = list(facts.graphs(model))
    values = [value for graph in graphs for value in (*graph.inputs, *graph.initializers.values())]
    nodes = [node for graph in graphs for node in graph]
    found = {value.dtype for value in (*values, *(value for node in nodes for value in node.outputs))}
    casts = {facts.attribute(node, "to") for node in nodes if node.op_type == "Cast"}
    found |= {ir.DataType(each) for each in casts if each is not None}
    return frozenset(each for each in found if each is not None)


def rounded(model: ir.Model) -> ir.Model:
    """Return the copy; functions are inlined.

    Dtypes: float16 and bfloat16 nodes compute in float32; the types of all their results stay.

    Example:
        >>> text = "g (bfloat16[N] x) => (bfloat16[N] y) {y = Neg(x)}"
        >>> copy = rounded(ir.from_onnx_text('<ir_version: 10, opset_import: ["": 24]> ' + text))
        >>> [node.op_type for node in copy.graph], copy.graph.outputs[0].dtype
        (['Cast', 'Neg', 'Cast'], BFLOAT16)
    """
    copy = inlined(model)
    if any(value.dtype is None for node in copy.graph.all_nodes() for value in node.outputs if value.name):
        infer_shapes(copy)
    edit = _Edit()
    for graph in list(copy.graphs()):
        for node in list(graph):
            if not _is_move(node):
                edit.wrap(graph, node)
    return copy


def _is_move(node: ir.Node) -> bool:
    # Scatter operators may add up what meets at one place, for which there is no kernel of either type.
    return node.op_type in _MOVES and not node.domain and facts.attribute(node, "reduction") in (None, "none")


class _Edit:
    """Puts casts around nodes; a value is cast once in each graph."""

    def __init__(self) -> None:
        self._count = 0
        self._wide: dict[tuple[ir.Graph, ir.Value], ir.Value] = {}

    def wrap(self, graph: ir.Graph, node: ir.Node) -> None:
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in NARROW:
                node.replace_input_with(index, self._widened(graph, node, value))
        for name in _TYPE_ATTRIBUTES:
            given = node.attributes.get(name)
            if given is not None and given.type == ir.AttributeType.INT and given.value in NARROW:
                node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT.value)
        for value in node.outputs:
            if value.dtype in NARROW:
                self._round(graph, node, value)

    def _widened(self, graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
        if (graph, value) not in self._wide:
            cast = self._cast(value, ir.DataType.FLOAT)
            graph.insert_before(node, cast)
            self._wide[graph, value] = cast.outputs[0]
        return self._wide[graph, value]

    def _round(self, graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
        """Let the node give float32, and a Cast behind it what it gave."""
        dtype = value.dtype
        assert dtype is not None
        uses = list(value.uses())
        places = [place for place, output in enumerate(graph.outputs) if output is value]
        name = value.name
        value.type, value.name = ir.TensorType(ir.DataType.FLOAT), self._name(name)
        cast = self._cast(value, dtype)
        cast.outputs[0].name = name
        graph.insert_after(node, cast)
        for user, index in uses:
            user.replace_input_with(index, cast.outputs[0])
        for place in places:
            graph.outputs[place] = cast.outputs[0]

    def _cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Node:
        made = ir.Value(name=self._name(value.name), type=ir.TensorType(dtype), shape=value.shape)
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype.value)], outputs=[made])
        node.name = made.name
        return node

    def _name(self, name: str | None) -> str:
        self._count += 1
        # No graph's own name has a space and a number of ours behind it.
        return f"{name} rounded {self._count}"
