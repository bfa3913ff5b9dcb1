"""Pack three projections of one input, as the query, key and value of attention, into one product.

Before:                              After:
        +-- MatMul wq -- + bq -- q       x -- MatMul [wq|wk|wv] -- + [bq|bk|bv] -- Split --+-- q
    x --+-- MatMul wk -- + bk -- k                                                         +-- k
        +-- MatMul wv -- + bv -- v                                                         +-- v

Shapes:    x [..., E], weights [E, N] constant, each with its own N; biases [N] constant, all three or none.
Dtypes:    any that MatMul takes; it has one for all.
Refuses:   OPSET below 13; CONSTANT a weight or bias that is not constant; RANK a weight that is no matrix, a
           bias that is no vector; SHAPE a bias whose length is not its weight's columns; SHARED and
           GRAPH_OUTPUT interior values.
Numerics:  the same sums, each in the order that the backend's product takes.
Source:    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2; block matrix product.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.engine.weights import concatenated


def with_biases(op: PatternOps, x: Var, w1: Var, w2: Var, w3: Var, b1: Var, b2: Var, b3: Var) -> tuple[Op, Op, Op]:
    return op.Add(op.MatMul(x, w1), b1), op.Add(op.MatMul(x, w2), b2), op.Add(op.MatMul(x, w3), b3)


def without_biases(op: PatternOps, x: Var, w1: Var, w2: Var, w3: Var) -> tuple[Op, Op, Op]:
    return op.MatMul(x, w1), op.MatMul(x, w2), op.MatMul(x, w3)


def packed(
    op: Builder,
    x: ir.Value,
    w1: ir.Value,
    w2: ir.Value,
    w3: ir.Value,
    b1: ir.Value | None,
    b2: ir.Value | None,
    b3: ir.Value | None,
) -> tuple[ir.Value, ...]:
    weights = [_constant(value, 2) for value in (w1, w2, w3)]
    product = op.MatMul(x, op.constant(concatenated(weights, 1), "packed_weight"))
    if b1 is not None and b2 is not None and b3 is not None:
        biases = [_constant(value, 1) for value in (b1, b2, b3)]
        for bias, weight in zip(biases, weights, strict=True):
            detail = f"the bias {bias.name} has {bias.shape[0]} entries for {weight.shape[1]} columns"
            require(bias.shape[0] == weight.shape[1], Reason.SHAPE, detail)
        product = op.Add(product, op.constant(concatenated(biases, 0), "packed_bias"))
    sizes = [weight.shape.numpy()[1] for weight in weights]
    outputs: tuple[ir.Value, ...] = op.Split(product, sizes, axis=-1, _outputs=3)
    return outputs


def _constant(value: ir.Value, rank: int) -> ir.TensorProtocol:
    tensor = facts.constant(value)
    require(tensor is not None, Reason.CONSTANT, f"{facts.describe(value)} is not a constant")
    assert tensor is not None
    count = len(tensor.shape)
    require(count == rank, Reason.RANK, f"{facts.describe(value)} has {count} axes, needs {rank}")
    return tensor


PACK_QKV = Rule("pack-qkv", (with_biases, without_biases), packed, min_opset=13)
