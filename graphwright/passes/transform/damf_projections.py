"""Where an attention's queries, keys and values come from, which damf needs to know: input and weights; no rule.

A projection is followed from the attention back to its weights, through what exporters put between them: the split into
heads, the Split of a packed projection, the Reshape around a Gemm, the bias and a constant factor. Anything else on the
way, such as the rotation of rotary positions, keeps the weights of queries and keys from meeting.
"""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.rewrite import Builder, Reason, require
from graphwright.engine.weights import let_pages_go, static_shape
from graphwright.passes.attention import require_same, require_splits_last_axis

QUANTISED = frozenset({"DequantizeLinear", "MatMulNBits", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul"})


@dataclass(frozen=True)
class Projection:
    """``factor * (x W + b)``, some columns of it: ``x`` [B,S,E], ``W`` [E,N] or its transpose, ``b`` [N] or None."""

    x: ir.Value
    weight: ir.Value
    is_transposed: bool
    weight_factor: float
    bias: ir.Value | None
    bias_factor: float
    start: int
    width: int

    @property
    def inputs(self) -> int:
        """E, the size of what is projected."""
        return static_shape(_tensor(self.weight))[int(self.is_transposed)]

    def matrix(self) -> np.ndarray:
        """Return the weights [E, width] in float64."""
        tensor = _tensor(self.weight)
        contents = tensor.numpy().T if self.is_transposed else tensor.numpy()
        chosen = contents[:, self.start : self.start + self.width].astype(np.float64) * self.weight_factor
        let_pages_go(tensor)
        return np.asarray(chosen)

    def offset(self) -> np.ndarray | None:
        """Return the bias [width] in float64, or None where there is none."""
        if self.bias is None:
            return None
        contents = _tensor(self.bias).numpy().reshape(-1)[self.start : self.start + self.width]
        return np.asarray(contents.astype(np.float64) * self.bias_factor)

    def columns(self, start: int, width: int) -> "Projection":
        """Return the projection to some of its columns."""
        return replace(self, start=self.start + start, width=width)

    def weight_value(self, op: Builder) -> ir.Value:
        """Return the weights [E, width] as a constant of the graph: the one that is there, if it is all of it."""
        tensor = _tensor(self.weight)
        is_whole = static_shape(tensor)[int(not self.is_transposed)] == self.width and self.weight_factor == 1
        if is_whole and not self.is_transposed:
            return self.weight

        def compute() -> ir.TensorProtocol:
            return ir.tensor(self.matrix().astype(tensor.dtype.numpy()), dtype=tensor.dtype)

        shape = ir.Shape([self.inputs, self.width])
        return op.constant(ir.LazyTensor(compute, dtype=tensor.dtype, shape=shape), "weight")

    def bias_value(self, op: Builder) -> ir.Value | None:
        """Return the bias [width] as a constant of the graph, or None where there is none."""
        offset = self.offset()
        if offset is None:
            return None
        return op.constant(offset.astype(_tensor(self.weight).dtype.numpy()), "bias")

    def spelled(self, op: Builder) -> ir.Value:
        """Return the projection's result [B,S,width], computed anew."""
        product: ir.Value = op.MatMul(self.x, self.weight_value(op))
        bias = self.bias_value(op)
        return product if bias is None else op.Add(product, bias)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    tensor = facts.constant(value)
    assert tensor is not None
    return tensor


def heads_together(value: ir.Value, what: str) -> ir.Value:
    """Return [B,S,H*D] for what the attention takes, [B,H,S,D] or itself of three axes."""
    if facts.rank(value) == 3:
        return value
    transpose = value.producer()
    is_split = transpose is not None and transpose.op_type == "Transpose" and not transpose.domain
    swaps = is_split and transpose is not None and facts.attribute(transpose, "perm") == (0, 2, 1, 3)
    split = transpose.inputs[0] if transpose is not None and swaps else None
    reshape = split.producer() if split is not None else None
    found = f"the {what} {facts.describe(value)} of {facts.place(value.producer())}"
    needed = "the result of a projection, split into heads: what stands between (rotary positions?) needs both whole"
    is_reshape = reshape is not None and reshape.op_type == "Reshape" and not reshape.domain
    require(is_reshape, Reason.STRUCTURE, f"{found}; needs {needed}")
    assert reshape is not None and split is not None and reshape.inputs[0] is not None
    for interior in (value, split):
        require_own(interior)
    require_splits_last_axis(reshape.inputs[0], split, axes=(0, 1, 2, 3))
    return reshape.inputs[0]


def require_own(value: ir.Value) -> None:
    """Refuse a value that someone else needs too: its projection would stay beside the new one."""
    require(not value.is_graph_output(), Reason.GRAPH_OUTPUT, f"{value.name} is a graph output")
    users = [facts.place(node) for node, _ in value.uses()]
    require(len(users) == 1, Reason.SHARED, f"{value.name} is used by {', '.join(users)}; needs one user")


def projection(value: ir.Value, what: str) -> Projection:
    """Return the projection that makes a value [B,S,N]; refuse one that cannot be read or has other users."""
    width = facts.static_dim(value, 2)
    require(width is not None, Reason.UNKNOWN, f"the last size of the {what} {facts.describe(value)} is not known")
    assert width is not None
    start, factor, inner = 0, 1.0, value
    while True:
        require_own(inner)
        node = inner.producer()
        if node is not None and node.op_type == "Split" and not node.domain:
            start, inner = start + _split_start(inner, node), _input(node, 0)
        elif node is not None and node.op_type == "Mul" and _factor(node) is not None:
            number, inner = _factor(node) or (0.0, inner)
            factor *= number
        elif node is not None and node.op_type == "Reshape" and facts.rank(inner) == 3:
            flat = _input(node, 0)
            keeps = facts.rank(flat) == 2 and facts.same_dim(facts.dim(flat, 1), facts.dim(inner, 2))
            require(keeps, Reason.STRUCTURE, f"{facts.place(node)} reshapes more of the {what} than batch and length")
            inner = flat
        else:
            return _of_product(inner, value, what, replace_at=(start, width, factor))


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _split_start(part: ir.Value, node: ir.Node) -> int:
    """Return where in the last axis a part of a Split begins."""
    whole = _input(node, 0)
    axis, count = facts.attribute(node, "axis"), facts.rank(whole) or 0
    require(axis in (-1, count - 1), Reason.STRUCTURE, f"{facts.place(node)} splits axis {axis}, not the last")
    index = node.outputs.index(part)
    widths = [facts.static_dim(each, -1) for each in node.outputs[:index]]
    require(None not in widths, Reason.UNKNOWN, f"the sizes of {facts.place(node)} are not known")
    return sum(size or 0 for size in widths)


def _factor(node: ir.Node) -> tuple[float, ir.Value] | None:
    """Return the constant number of a multiplication, and the other operand."""
    for index in (0, 1):
        number, other = facts.scalar(node.inputs[index]), node.inputs[1 - index]
        if number is not None and other is not None and (facts.rank(node.inputs[index]) or 0) <= 1:
            return number, other
    return None


def _of_product(inner: ir.Value, value: ir.Value, what: str, replace_at: tuple[int, int, float]) -> Projection:
    """Read ``x W``, ``x W + b`` or Gemm."""
    start, width, factor = replace_at
    node, bias = inner.producer(), None
    if node is not None and node.op_type == "Add" and not node.domain:
        side = next((index for index in (0, 1) if _is_product(node.inputs[1 - index])), 1)
        bias, inner = _input(node, side), _input(node, 1 - side)
        node = inner.producer()
        require_own(inner)
    op_type = node.op_type if node is not None else "a graph input"
    require(op_type not in QUANTISED, Reason.CONSTANT, f"the {what} come from {facts.place(node)}: quantised weights")
    detail = f"the {what} come from {facts.place(node)}; needs MatMul or Gemm with constant weights"
    require(_is_product(inner), Reason.STRUCTURE, f"{detail}; rotary positions keep the projections apart")
    assert node is not None
    alpha, beta, transposed = 1.0, 1.0, False
    if op_type == "Gemm":
        require(bias is None and not facts.attribute(node, "transA"), Reason.STRUCTURE, detail)
        alpha, beta = float(facts.attribute(node, "alpha")), float(facts.attribute(node, "beta"))
        transposed, bias = bool(facts.attribute(node, "transB")), node.inputs[2] if len(node.inputs) > 2 else None
    weight = _input(node, 1)
    _require_weights(weight, bias, transposed, what)
    x = _unflattened(_input(node, 0), value, what)
    rows = static_shape(_tensor(weight))[int(transposed)]
    require(facts.static_dim(x, 2) == rows, Reason.UNKNOWN, f"{facts.describe(x)} is not known to have {rows} columns")
    return Projection(x, weight, transposed, alpha * factor, bias, beta * factor, start, width)


def _is_product(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    return node is not None and not node.domain and node.op_type in ("MatMul", "Gemm")


def _require_weights(weight: ir.Value, bias: ir.Value | None, is_transposed: bool, what: str) -> None:
    """Refuse weights and biases that are not constant, or not one for each column."""
    maker = weight.producer()
    is_quantised = maker is not None and maker.op_type in QUANTISED
    require(not is_quantised, Reason.CONSTANT, f"the weight {weight.name} of the {what} is quantised")
    tensor = facts.constant(weight)
    require(tensor is not None, Reason.CONSTANT, f"the weight {facts.describe(weight)} of the {what} is not constant")
    assert tensor is not None
    shape = static_shape(tensor)
    require(len(shape) == 2, Reason.RANK, f"the weight {facts.describe(weight)} of the {what} is no matrix")
    if bias is not None:
        offset = facts.constant(bias)
        detail = f"the bias {facts.describe(bias)} of the {what} is not constant, or not one number for each column"
        columns = shape[int(not is_transposed)]
        fits = offset is not None and offset.size == columns and static_shape(offset)[-1:] == (columns,)
        require(fits, Reason.CONSTANT, detail)


def _unflattened(x: ir.Value, value: ir.Value, what: str) -> ir.Value:
    """Return what is projected as [B,S,E]: a Gemm takes it reshaped to [B*S,E]."""
    node = x.producer()
    if facts.rank(x) == 2 and node is not None and node.op_type == "Reshape":
        x = _input(node, 0)
    require(
        facts.rank(x) == 3, Reason.RANK, f"the input {facts.describe(x)} of the {what} is not [batch, length, size]"
    )
    for axis in (0, 1):
        require_same(x, axis, value, axis)
    return x
