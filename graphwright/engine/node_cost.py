"""What one node costs, as formulas in the names of sizes: products, operations, and bytes read and written.

A multiplication and an addition count as two operations; a transcendental function as eight, which is about
what a vectorized one takes. Traffic is what a node reads and writes if nothing stays in a cache.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.formula import ZERO, Formula, product_of, sum_of
from graphwright.engine.shapes import sizes

Shape = tuple[Formula, ...]
_TRANSCENDENTAL = 8
# Operators that are a matrix product, of activations with each other or with weights.
PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Linear"})
# A function of graphwright's own that counts as one node, by domain and name (plugins/linear).
LINEAR = ("graphwright", "Linear")

# Operations per element of the output.
_PER_OUTPUT: dict[str, int] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Max", "Min", "Relu", "Where", "Clip"), 1),
    **dict.fromkeys(("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor", "Not"), 1),
    **dict.fromkeys(("Ceil", "Floor", "Round", "Sign", "Mod", "Reciprocal", "LeakyRelu", "IsNaN", "IsInf"), 1),
    **dict.fromkeys(("Exp", "Log", "Sqrt", "Erf", "Tanh", "Sigmoid", "Pow", "Sin", "Cos"), _TRANSCENDENTAL),
    **dict.fromkeys(("Softplus", "Elu"), _TRANSCENDENTAL + 1),
    # Largest, difference, exponential, sum, quotient.
    **dict.fromkeys(("Softmax", "LogSoftmax"), _TRANSCENDENTAL + 4),
    # Mean, difference, square, sum, scale, weight, bias.
    **dict.fromkeys(("LayerNormalization", "BatchNormalization"), 7),
    **dict.fromkeys(("RMSNormalization", "SimplifiedLayerNormalization", "RotaryEmbedding"), 4),
    **dict.fromkeys(("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"), 8),
    # Erf or tanh, then the polynomial around it.
    **dict.fromkeys(("Gelu", "BiasGelu", "FastGelu"), _TRANSCENDENTAL + 4),
    **dict.fromkeys(("Swish", "QuickGelu"), _TRANSCENDENTAL + 2),
}
_REDUCTIONS = frozenset(
    [
        *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2"),
        *("ArgMax", "ArgMin", "CumSum"),
    ]
)
# No arithmetic: these move numbers, or only change how they are read.
_MOVES = frozenset(
    [
        *("Transpose", "Concat", "Slice", "Split", "Expand", "Pad", "Tile", "Trilu", "Cast", "CastLike"),
        *("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "OneHot"),
        *("ConstantOfShape", "Range"),
    ]
)
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Size", "Constant"})


@dataclass(frozen=True)
class Work:
    """What is computed and moved. Products of two numbers that are added up count as one MAC.

    Static MACs have a weight as one operand, dynamic ones have none. ``flops`` are all operations, two for each MAC.
    """

    static_macs: Formula = ZERO
    dynamic_macs: Formula = ZERO
    flops: Formula = ZERO
    read: Formula = ZERO
    written: Formula = ZERO

    def parts(self) -> tuple[Formula, ...]:
        """Return the five figures in their order."""
        return self.static_macs, self.dynamic_macs, self.flops, self.read, self.written


def total_work(works: Collection[Work]) -> Work:
    """Return the sum of all."""
    return Work(*(sum_of(column) for column in zip(*(work.parts() for work in works), strict=True)))


class Uncounted(Exception):
    """Why a node's cost is not known: control flow that never leaves the modules of costs."""


def work_of(node: ir.Node, weights: Collection[ir.Value]) -> Work:
    """Return what a node costs, where the values that are weights are known.

    Raises:
        Uncounted: there is no formula for the operator, or a size is not known.

    Example:
        >>> text = "g (float[N, 4] x, float[4, 8] w) => (float[N, 8] y) {y = MatMul(x, w)}"
        >>> model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 24]> ' + text)
        >>> found = work_of(model.graph[0], {model.graph.inputs[1]})
        >>> str(found.static_macs), str(found.dynamic_macs), str(found.read)
        ('32*N', '0', '16*N + 128')
    """
    if next(facts.subgraphs(node), None) is not None:
        raise Uncounted("carries a graph that runs an unknown number of times")
    if node.op_type in _VIEWS:
        return Work()
    counted = _FORMULAS.get(node.op_type)
    macs, others = counted(node) if counted is not None else (ZERO, _by_element(node))
    read, written = _traffic(node)
    is_static = node.op_type not in _ATTENTIONS and is_product_with_weight(node, weights)
    static, dynamic = (macs, ZERO) if is_static else (ZERO, macs)
    return Work(static, dynamic, macs * 2 + others, read, written)


def is_product_with_weight(node: ir.Node, weights: Collection[ir.Value]) -> bool:
    """Tell whether a product has a weight as one of its operands."""
    return node.op_type in (*PRODUCTS, "Conv") and any(value in weights for value in node.inputs[:2])


def _traffic(node: ir.Node) -> tuple[Formula, Formula]:
    written = sum_of(_bytes(value) for value in node.outputs if value.uses() or value.is_graph_output())
    if node.op_type in ("Gather", "GatherElements", "GatherND"):
        # Of the table only the rows that are asked for are read.
        return written + _bytes(node.inputs[1]), written
    return sum_of(_bytes(value) for value in dict.fromkeys(node.inputs) if value is not None), written


def _bytes(value: ir.Value | None) -> Formula:
    if value is None or value.dtype is None:
        raise Uncounted(f"the type of {value.name if value is not None else 'an input'} is not known")
    count, bits = product_of(shape_of(value)), value.dtype.bitwidth
    if bits % 8 == 0:
        return count * (bits // 8)
    whole = sizes.floor_divide((count * bits + 7).size, 8)
    if whole is None:
        raise Uncounted(f"the bytes of {facts.describe(value)} are not known")
    return Formula.of(whole)


def shape_of(value: ir.Value | None) -> Shape:
    """Return a value's shape.

    Raises:
        Uncounted: it is not known.
    """
    if value is None or value.shape is None:
        raise Uncounted(f"the shape of {value.name if value is not None else 'an input'} is not known")
    found = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    if any(size is None for size in found):
        raise Uncounted(f"a size of {facts.describe(value)} is not known")
    return tuple(Formula.of(size) for size in found if size is not None)


def _by_element(node: ir.Node) -> Formula:
    if node.op_type in _MOVES:
        return ZERO
    if node.op_type in _REDUCTIONS:
        return product_of(shape_of(node.inputs[0]))
    if node.op_type in ("Sum", "Mean"):
        return product_of(shape_of(node.outputs[0])) * len(node.inputs)
    if node.op_type in _PER_OUTPUT:
        return product_of(shape_of(node.outputs[0])) * _PER_OUTPUT[node.op_type]
    raise Uncounted("no formula for this operator")


def _matmul(node: ir.Node) -> tuple[Formula, Formula]:
    first, count = shape_of(node.inputs[0]), product_of(shape_of(node.outputs[0]))
    inner = -2 if facts.attribute(node, "transA") and len(first) > 1 else -1
    biased = node.op_type in ("Gemm", "FusedGemm") and len(node.inputs) > 2 and node.inputs[2] is not None
    return count * first[inner], count * int(biased)


def _linear(node: ir.Node) -> tuple[Formula, Formula]:
    """The product, and for each number of the result what its epilogue takes: bias, activation, residual."""
    inner, count = shape_of(node.inputs[0])[-1], product_of(shape_of(node.outputs[0]))
    added = sum(value is not None for value in node.inputs[2:])
    activation = str(facts.attribute(node, "activation") or "none")
    # gelu_tanh is a Gelu too; none is no operator.
    operator = activation.removesuffix("_tanh").capitalize()
    return count * inner, count * (added + _PER_OUTPUT.get(operator, 0))


def _fused_gemm(node: ir.Node) -> tuple[Formula, Formula]:
    macs, others = _matmul(node)
    activation = _PER_OUTPUT.get(str(facts.attribute(node, "activation")), 0)
    return macs, others + product_of(shape_of(node.outputs[0])) * activation


def _conv(node: ir.Node) -> tuple[Formula, Formula]:
    biased = len(node.inputs) > 2 and node.inputs[2] is not None
    count = product_of(shape_of(node.outputs[0]))
    return count * product_of(shape_of(node.inputs[1])[1:]), count * int(biased)


def _attention(node: ir.Node) -> tuple[Formula, Formula]:
    """Both products and the softmax between them; a causal mask saves nothing here, as in most kernels."""
    query, rows, keys = attention_sizes(node)
    output = product_of(shape_of(node.outputs[0]))
    return keys * (query + output), rows * keys * (_TRANSCENDENTAL + 4)


def attention_sizes(node: ir.Node) -> tuple[Formula, Formula, Formula]:
    """Return the elements of the queries, their rows (of all heads and batch entries), and the number of keys.

    Raises:
        Uncounted: the form of the operator is another one, or a size is not known.
    """
    if node.domain and (node.op_type != "MultiHeadAttention" or len(node.inputs) < 3 or node.inputs[2] is None):
        raise Uncounted("no formula for this form of the operator")
    query = shape_of(node.inputs[0])
    keys = shape_of(node.inputs[1])[-2]
    past = node.inputs[4] if not node.domain and len(node.inputs) > 4 else None
    keys = keys + (shape_of(past)[-2] if past is not None else 0)
    heads = facts.attribute(node, "num_heads" if node.domain else "q_num_heads")
    rows = product_of(query[:-1]) * (int(heads or 0) if len(query) == 3 else 1)
    return product_of(query), rows, keys


_ATTENTIONS = ("Attention", "MultiHeadAttention")
_FORMULAS: dict[str, Callable[[ir.Node], tuple[Formula, Formula]]] = {
    **dict.fromkeys(PRODUCTS, _matmul),
    "FusedGemm": _fused_gemm,
    "Linear": _linear,
    "Conv": _conv,
    **dict.fromkeys(_ATTENTIONS, _attention),
}
