"""Count the arithmetic and the memory traffic of a model. It ranks choices; it never decides what is right.

A multiplication and an addition count as two operations; a transcendental function as eight, which is about
what a vectorized one takes. Traffic is what each node reads and writes if nothing stays in a cache. What is
not known is listed, never guessed: an operator without a formula, a size that does not follow from the
dimensions given.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.sample import size_of

if TYPE_CHECKING:
    from rich.table import Table

Shape = tuple[int, ...]
_TRANSCENDENTAL = 8

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
class NodeCost:
    """Operations and bytes of one node."""

    node: str
    op_type: str
    flops: int
    bytes: int


@dataclass(frozen=True)
class UnknownCost:
    """A node that is not counted, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class CostReport:
    """The cost of a model at given sizes."""

    dims: Mapping[str, int]
    nodes: tuple[NodeCost, ...]
    unknown: tuple[UnknownCost, ...]
    parameters: int
    weight_bytes: int

    @property
    def flops(self) -> int:
        """All operations that are known."""
        return sum(each.flops for each in self.nodes)

    @property
    def bytes(self) -> int:
        """All bytes read and written that are known."""
        return sum(each.bytes for each in self.nodes)

    def by_operator(self) -> dict[str, tuple[int, int, int]]:
        """Return nodes, operations and bytes of each operator, most operations first."""
        sums: dict[str, tuple[int, int, int]] = {}
        for each in self.nodes:
            count, flops, moved = sums.get(each.op_type, (0, 0, 0))
            sums[each.op_type] = (count + 1, flops + each.flops, moved + each.bytes)
        return dict(sorted(sums.items(), key=lambda item: (-item[1][1], -item[1][2], item[0])))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        operators = {
            name: {"nodes": count, "flops": flops, "bytes": moved}
            for name, (count, flops, moved) in self.by_operator().items()
        }
        totals = {"flops": self.flops, "bytes": self.bytes, "parameters": self.parameters}
        unknown = [asdict(each) for each in self.unknown]
        sizes = {"dims": dict(self.dims), "weight_bytes": self.weight_bytes}
        return {**totals, **sizes, "operators": operators, "unknown": unknown}

    def table(self) -> "Table":
        """Return a row an operator as a table for a terminal."""
        from rich.table import Table

        sizes = ", ".join(f"{name}={size}" for name, size in self.dims.items())
        table = Table("operator", "nodes", "Mflop", "MB", title=f"Cost at {sizes}" if sizes else "Cost")
        for name, (count, flops, moved) in self.by_operator().items():
            table.add_row(name, str(count), f"{flops / 1e6:.2f}", f"{moved / 1e6:.2f}")
        table.add_row("all", str(len(self.nodes)), f"{self.flops / 1e6:.2f}", f"{self.bytes / 1e6:.2f}")
        if self.unknown:
            table.caption = f"{len(self.unknown)} nodes are not counted: {self.unknown[0].reason}, ..."
        return table


class _Uncounted(Exception):
    """Why a node's cost is not known: control flow that never leaves this module."""


def cost_table(model: ir.Model, dims: Mapping[str, int]) -> CostReport:
    """Return the cost of the main graph at these sizes of the named dimensions.

    Nodes that carry graphs and calls of model-local functions are listed as unknown: how often a body runs,
    and at what sizes, is not written in the model.

    Example:
        >>> text = "g (float[N, 4] x, float[4, 8] w) => (float[N, 8] y) {y = MatMul(x, w)}"
        >>> model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 24]> ' + text)
        >>> cost_table(model, {"N": 3}).flops
        192
    """
    known: list[NodeCost] = []
    unknown: list[UnknownCost] = []
    for node in model.graph:
        try:
            flops, moved = _cost(node, model, dims)
        except _Uncounted as why:
            unknown.append(UnknownCost(facts.place(node), node.op_type, str(why)))
        else:
            known.append(NodeCost(facts.place(node), node.op_type, flops, moved))
    parameters, weight_bytes = _weights(model)
    return CostReport(dict(dims), tuple(known), tuple(unknown), parameters, weight_bytes)


def _weights(model: ir.Model) -> tuple[int, int]:
    """Count the floating-point numbers in initializers, and the bytes of all, each tensor once."""
    values = [value for graph in facts.graphs(model) for value in graph.initializers.values()]
    tensors = {id(value.const_value): value.const_value for value in values if value.const_value is not None}
    floats = sum(tensor.size for tensor in tensors.values() if tensor.dtype.is_floating_point())
    return floats, sum(tensor.nbytes for tensor in tensors.values())


def _cost(node: ir.Node, model: ir.Model, dims: Mapping[str, int]) -> tuple[int, int]:
    if node.op_identifier() in model.functions:
        raise _Uncounted("calls a function of the model")
    if next(facts.subgraphs(node), None) is not None:
        raise _Uncounted("carries a graph that runs an unknown number of times")
    if node.op_type in _VIEWS:
        return 0, 0
    formula = _FORMULAS.get(node.op_type, _by_element)
    return formula(node, dims), _traffic(node, dims)


def _traffic(node: ir.Node, dims: Mapping[str, int]) -> int:
    written = sum(_bytes(value, dims) for value in node.outputs if value.uses() or value.is_graph_output())
    if node.op_type in ("Gather", "GatherElements", "GatherND"):
        # Of the table only the rows that are asked for are read.
        return 2 * written + _bytes(node.inputs[1], dims)
    return written + sum(_bytes(value, dims) for value in dict.fromkeys(node.inputs) if value is not None)


def _bytes(value: ir.Value | None, dims: Mapping[str, int]) -> int:
    if value is None or value.dtype is None:
        raise _Uncounted(f"the type of {value.name if value is not None else 'an input'} is not known")
    return math.ceil(math.prod(_shape(value, dims)) * value.dtype.bitwidth / 8)


def _shape(value: ir.Value | None, dims: Mapping[str, int]) -> Shape:
    if value is None or value.shape is None:
        raise _Uncounted(f"the shape of {value.name if value is not None else 'an input'} is not known")
    found = [size_of(dim, dims) for dim in value.shape]
    if any(size is None for size in found):
        raise _Uncounted(f"a size of {facts.describe(value)} is not known")
    return tuple(size for size in found if size is not None)


def _by_element(node: ir.Node, dims: Mapping[str, int]) -> int:
    if node.op_type in _MOVES:
        return 0
    if node.op_type in _REDUCTIONS:
        return math.prod(_shape(node.inputs[0], dims))
    if node.op_type in _PER_OUTPUT:
        return _PER_OUTPUT[node.op_type] * math.prod(_shape(node.outputs[0], dims))
    raise _Uncounted("no formula for this operator")


def _matmul(node: ir.Node, dims: Mapping[str, int]) -> int:
    first = _shape(node.inputs[0], dims)
    inner = -2 if facts.attribute(node, "transA") and len(first) > 1 else -1
    biased = node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None
    return math.prod(_shape(node.outputs[0], dims)) * (2 * first[inner] + biased)


def _conv(node: ir.Node, dims: Mapping[str, int]) -> int:
    biased = len(node.inputs) > 2 and node.inputs[2] is not None
    taps = math.prod(_shape(node.inputs[1], dims)[1:])
    return math.prod(_shape(node.outputs[0], dims)) * (2 * taps + biased)


def _attention(node: ir.Node, dims: Mapping[str, int]) -> int:
    """Both products and the softmax between them; a causal mask saves nothing here, as in most kernels."""
    if node.domain and (node.op_type != "MultiHeadAttention" or len(node.inputs) < 3 or node.inputs[2] is None):
        raise _Uncounted("no formula for this form of the operator")
    query, output = _shape(node.inputs[0], dims), _shape(node.outputs[0], dims)
    keys = _shape(node.inputs[1], dims)[-2]
    past = node.inputs[4] if not node.domain and len(node.inputs) > 4 else None
    keys += _shape(past, dims)[-2] if past is not None else 0
    heads = facts.attribute(node, "num_heads" if node.domain else "q_num_heads")
    rows = math.prod(query[:-1]) * (int(heads or 0) if len(query) == 3 else 1)
    products = 2 * keys * (math.prod(query) + math.prod(output))
    return products + (_TRANSCENDENTAL + 4) * rows * keys


_FORMULAS: dict[str, Callable[[ir.Node, Mapping[str, int]], int]] = {
    **dict.fromkeys(("MatMul", "FusedMatMul", "Gemm"), _matmul),
    "Conv": _conv,
    **dict.fromkeys(("Attention", "MultiHeadAttention"), _attention),
}
