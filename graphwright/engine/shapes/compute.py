"""The shapes that operators give which compute: element by element, in rows, in matrices."""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes import sizes
from graphwright.engine.shapes.known import (
    Dims,
    Known,
    ShapeRule,
    Shapes,
    as_dims,
    broadcast_shapes,
    fixed,
    is_given,
    normal_axis,
    operand,
    with_size,
)
from graphwright.engine.shapes.sizes import Size

LIKE_FIRST_INPUT = [
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BatchNormalization",
    "BitwiseNot",
    "Cast",
    "CastLike",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "CumSum",
    "DequantizeLinear",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "GroupNormalization",
    "HardSigmoid",
    "HardSwish",
    "Hardmax",
    "Identity",
    "InstanceNormalization",
    "IsInf",
    "IsNaN",
    "LayerNormalization",
    "LeakyRelu",
    "Log",
    "LogSoftmax",
    "LpNormalization",
    "MeanVarianceNormalization",
    "Mish",
    "Neg",
    "Not",
    "PRelu",
    "QuantizeLinear",
    "RMSNormalization",
    "Reciprocal",
    "Relu",
    "ReverseSequence",
    "RotaryEmbedding",
    "Round",
    "ScatterElements",
    "ScatterND",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softmax",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "TensorScatter",
    "ThresholdedRelu",
    "Trilu",
]
BROADCASTING = [
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Sum",
    "Where",
    "Xor",
]
REDUCTIONS = [
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
]


def _same(node: ir.Node, known: Known) -> Shapes:
    return [known.shape(node.inputs[0])]


def _same_for_all(node: ir.Node, known: Known) -> Shapes:
    return [known.shape(node.inputs[0])] * len(node.outputs)


def _broadcast(node: ir.Node, known: Known) -> Shapes:
    return [broadcast_shapes([known.shape(value) for value in node.inputs])]


def _matmul(node: ir.Node, known: Known) -> Shapes:
    first, second = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if not first or not second:
        return [None]
    batch = broadcast_shapes([first[:-2], second[:-2]])
    rows, columns = first[-2:-1], second[-1:] if len(second) > 1 else ()
    return [None if batch is None else (*batch, *rows, *columns)]


def _gemm(node: ir.Node, known: Known) -> Shapes:
    first, second = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    rows = first[1 if facts.attribute(node, "transA") else 0] if first is not None and len(first) == 2 else None
    columns = second[0 if facts.attribute(node, "transB") else 1] if second is not None and len(second) == 2 else None
    return [(rows, columns)]


def _reduce(node: ir.Node, known: Known) -> Shapes:
    data, keep = known.shape(node.inputs[0]), facts.attribute(node, "keepdims")
    if data is None:
        return [None]
    axes = fixed(node, 1, "axes", known) if is_given(node, 1, "axes") else ()
    if axes is None:
        return [(None,) * len(data) if keep else None]
    if not axes and facts.attribute(node, "noop_with_empty_axes"):
        return [data]
    return [_reduced(data, {normal_axis(axis, len(data)) for axis in axes or range(len(data))}, bool(keep))]


def _arg_reduce(node: ir.Node, known: Known) -> Shapes:
    data = known.shape(node.inputs[0])
    if data is None:
        return [None]
    return [
        _reduced(
            data,
            {normal_axis(facts.attribute(node, "axis"), len(data))},
            bool(facts.attribute(node, "keepdims")),
        )
    ]


def _reduced(data: Dims, axes: set[int | None], keep: bool) -> Dims:
    if keep:
        return tuple(1 if axis in axes else size for axis, size in enumerate(data))
    return tuple(size for axis, size in enumerate(data) if axis not in axes)


def _top_k(node: ir.Node, known: Known) -> Shapes:
    data, count = known.shape(node.inputs[0]), as_dims(known.contents(operand(node, 1)), known)
    axis = None if data is None else normal_axis(facts.attribute(node, "axis"), len(data))
    if data is None or axis is None:
        return [None, None]
    return [with_size(data, axis, count[0] if count else None)] * 2


def _attention(node: ir.Node, known: Known) -> Shapes:
    query, key, value = (known.shape(given) for given in node.inputs[:3])
    if query is None or key is None or value is None:
        return [None] * len(node.outputs)
    past = known.shape(operand(node, 4))
    past_length: Size | None = (
        0 if operand(node, 4) is None else past[2] if past is not None and len(past) == 4 else None
    )
    if len(query) == 4 and len(key) == 4 and len(value) == 4:
        batch, heads, length, _ = query
        output: Dims = (batch, heads, length, value[3])
        kept_key, kept_value = key, value
    elif len(query) == 3 and len(key) == 3 and len(value) == 3:
        heads, kept_heads = facts.attribute(node, "q_num_heads"), facts.attribute(node, "kv_num_heads")
        batch, length, _ = query
        width = sizes.quotient(value[2], kept_heads)
        output = (batch, length, sizes.multiply(width, heads) if heads and width is not None else None)
        kept_key = (batch, kept_heads, key[1], sizes.quotient(key[2], kept_heads))
        kept_value = (batch, kept_heads, value[1], width)
    else:
        return [None] * len(node.outputs)
    total = sizes.add(past_length, kept_key[2])
    return [
        output,
        with_size(kept_key, 2, total),
        with_size(kept_value, 2, total),
        (batch, heads, length, total),
    ]


COMPUTE: dict[str, ShapeRule] = {
    **dict.fromkeys(LIKE_FIRST_INPUT, _same),
    **dict.fromkeys(BROADCASTING, _broadcast),
    **dict.fromkeys(REDUCTIONS, _reduce),
    "ArgMax": _arg_reduce,
    "ArgMin": _arg_reduce,
    "Attention": _attention,
    "Dropout": _same_for_all,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "TopK": _top_k,
}
