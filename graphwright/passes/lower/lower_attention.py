"""Spell ``Attention`` as products and a softmax, which ONNX Runtime's CPU provider runs faster than its own kernel.

Before:                              After:
    q   k   v   mask                     q [B,H,S,D] -------------+
    |   |   |    |                       k [B,H,T,D] - Transpose -+- MatMul - * scale - + mask - Softmax -+
    Attention<scale>                     v [B,H,T,E] -----------------------------------------------------+- MatMul - y
         |
         y

A boolean mask becomes 0 and -inf. A row whose mask is -inf throughout attends to nothing: Attention makes it 0, so
where a mask is not known to be finite, such rows of the result are set to 0 (``Where(ReduceMax(mask) == -inf, 0, y)``).

Shapes:    q [B,H,S,D], k [B,H,T,D], v [B,H,T,E], mask broadcastable to [B,H,S,T]; D static unless scale is given.
Dtypes:    float16, bfloat16, float32, float64.
Refuses:   RANK inputs that are not of 4 axes; ATTRIBUTE is_causal, softcap, or a softmax precision other than the
           inputs' own; UNKNOWN heads, lengths or head size that are not known; SHAPE grouped heads; DTYPE not listed;
           SHARED and GRAPH_OUTPUT present keys, values or scores that someone uses.
Numerics:  same formula; the scores are scaled after the product.
Source:    ONNX operator Attention-24, its function body; benchmarks/encoder.py for the speed.
"""

import math

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require

FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}


def attention(op: PatternOps, q: Var, k: Var, v: Var, mask: Var | None = None) -> Op:
    return op.Attention(
        q,
        k,
        v,
        mask,
        scale=op.attr("scale"),
        is_causal=op.attr("is_causal"),
        softcap=op.attr("softcap"),
        softmax_precision=op.attr("precision"),
    )


def products_and_softmax(
    op: Builder,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    mask: ir.Value | None,
    scale: float | None,
    is_causal: int,
    softcap: float,
    precision: int | None,
) -> ir.Value:
    require(q.dtype in FLOATS, Reason.DTYPE, f"{q.name} is {q.dtype}; needs floats")
    require(not is_causal, Reason.ATTRIBUTE, "is_causal is set; only masks that are inputs are lowered")
    require(not softcap, Reason.ATTRIBUTE, f"softcap is {softcap}; needs 0")
    assert q.dtype is not None
    require(precision in (None, 0, q.dtype.value), Reason.ATTRIBUTE, f"softmax precision {precision} differs from the inputs'")
    for value in (q, k, v):
        require(facts.rank(value) == 4, Reason.RANK, f"{facts.describe(value)}; needs [batch, heads, length, size]")
    heads, kv_heads = facts.dim(q, 1), facts.dim(k, 1)
    require(heads is not None and kv_heads is not None, Reason.UNKNOWN, "the number of heads is not known")
    require(facts.same_dim(heads, kv_heads), Reason.SHAPE, f"{heads} heads of queries, {kv_heads} of keys; needs as many")
    scores = op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2]))
    scores = op.Mul(scores, _number(op, q, scale or _default_scale(q)))
    if mask is None:
        unmasked: ir.Value = op.MatMul(op.Softmax(scores, axis=-1), v)
        return unmasked
    added = _additive(op, mask, q, k)
    result: ir.Value = op.MatMul(op.Softmax(op.Add(scores, added), axis=-1), v)
    if ranges.is_finite(mask) and mask.dtype != ir.DataType.BOOL:
        return result
    without_key = op.Equal(op.ReduceMax(added, [-1], keepdims=1), _number(op, q, -math.inf))
    cleared: ir.Value = op.Where(without_key, _number(op, q, 0.0), result)
    return cleared


def _number(op: Builder, like: ir.Value, number: float) -> ir.Value:
    assert like.dtype is not None
    return op.constant(np.asarray(number, like.dtype.numpy()), "number")


def _default_scale(q: ir.Value) -> float:
    size = facts.static_dim(q, 3)
    require(size is not None, Reason.UNKNOWN, f"no scale is given and the head size of {facts.describe(q)} is not known")
    return 1 / math.sqrt(size or 1)


def _additive(op: Builder, mask: ir.Value, q: ir.Value, k: ir.Value) -> ir.Value:
    """Return the mask as numbers; Attention pads a short one, so its length must be known to be that of the keys."""
    fits = facts.same_dim(facts.dim(mask, -1), facts.dim(k, 2))
    require(fits, Reason.UNKNOWN, f"the mask {facts.describe(mask)} is not known to be as long as {facts.describe(k)}")
    if mask.dtype != ir.DataType.BOOL:
        return mask
    added: ir.Value = op.Where(mask, _number(op, q, 0.0), _number(op, q, -math.inf))
    return added


LOWER_ATTENTION = Rule("lower-attention", (attention,), products_and_softmax, min_opset=23)
