"""Pack the three projections in front of ``MultiHeadAttention`` into it: ONNX Runtime's own ``Attention``.

Before:                                                       After:
        +-- MatMul wq --+                                         x, [wq|wk|wv], bias, mask
    x --+-- MatMul wk --+-- MultiHeadAttention<num_heads> -- y         |
        +-- MatMul wv --+   (bias, mask)                          com.microsoft.Attention<num_heads> -- y

The kernel makes queries, keys and values with one product, whose result needs no Split. The operator's bias is
optional, but ONNX Runtime 1.31.1 on the CPU reads it in any case, so zeros stand for one that is not there.

Shapes:    x [B,S,E], weights [E, N] constant, those of queries and keys of one N; mask as MultiHeadAttention has it.
Dtypes:    float32, float16.
Refuses:   DTYPE not listed; RANK of x not 3, of a weight not 2; CONSTANT a weight that is not constant; SHAPE queries
           and keys of different widths, or ones that the heads do not divide; SHARED and GRAPH_OUTPUT interior values.
Numerics:  the same sums, each in the order that the kernel's product takes.
Source:    ONNX Runtime, ContribOperators.md, com.microsoft.Attention.
"""

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.engine.weights import concatenated
from graphwright.passes.lower.ort_capabilities import CUDA, MICROSOFT, types

FLOATS = types("com.microsoft.Attention", CUDA)
ATTRIBUTES = ("num_heads", "scale", "unidirectional")


def projected(
    op: PatternOps, x: Var, wq: Var, wk: Var, wv: Var, bias: Var | None = None, mask: Var | None = None
) -> Op:
    inputs = (op.MatMul(x, wq), op.MatMul(x, wk), op.MatMul(x, wv), bias, None, mask)
    node: Op = op.MultiHeadAttention(*inputs, _domain=MICROSOFT, **{name: op.attr(name) for name in ATTRIBUTES})
    return node


def attention_of_projections(
    op: Builder,
    x: ir.Value,
    wq: ir.Value,
    wk: ir.Value,
    wv: ir.Value,
    bias: ir.Value | None = None,
    mask: ir.Value | None = None,
    num_heads: int = 0,
    scale: float | None = None,
    unidirectional: int | None = None,
) -> ir.Value:
    require(x.dtype in FLOATS, Reason.DTYPE, f"{x.name} is {x.dtype}; needs float32 or float16")
    require(facts.rank(x) == 3, Reason.RANK, f"{facts.describe(x)}; needs [batch, length, size]")
    weights = [_matrix(value) for value in (wq, wk, wv)]
    widths = [int(weight.shape.numpy()[1]) for weight in weights]
    fits = widths[0] == widths[1] and num_heads > 0 and not any(width % num_heads for width in widths)
    require(fits, Reason.SHAPE, f"{num_heads} heads over widths {widths}; needs queries as wide as keys")
    assert x.dtype is not None
    if bias is None:
        bias = op.constant(np.zeros(sum(widths), x.dtype.numpy()), "no_bias")
    packed = op.constant(concatenated(weights, 1), "packed_weight")
    given = (x, packed, bias) if mask is None else (x, packed, bias, None, None, mask)
    result: ir.Value = op.Attention(
        *given,
        num_heads=num_heads,
        scale=scale or None,
        unidirectional=unidirectional or None,
        qkv_hidden_sizes=widths,
        _domain=MICROSOFT,
    )
    return result


def _matrix(value: ir.Value) -> ir.TensorProtocol:
    tensor = facts.constant(value)
    require(tensor is not None, Reason.CONSTANT, f"{facts.describe(value)} is not a constant")
    assert tensor is not None
    require(len(tensor.shape) == 2, Reason.RANK, f"{facts.describe(value)} has {len(tensor.shape)} axes, needs 2")
    return tensor


FUSE_ATTENTION_PROJECTIONS = Rule("fuse-attention-projections", (projected,), attention_of_projections)
