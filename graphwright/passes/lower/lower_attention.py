"""Spell ``Attention`` as products and a softmax, for runtimes without the operator or with a slow one.

Before:                     After:
    q   k   v   mask            q [B,H,S,D] -------------+
    |   |   |    |              k [B,H,T,D] - Transpose -+- MatMul - * scale - + mask - Softmax -+
    Attention<scale>            v [B,H,T,E] -----------------------------------------------------+- MatMul - y
         |
         y

An expanded mask is taken as it was before, since addition expands too. A boolean mask becomes 0 and -inf. A
row whose mask is -inf throughout attends to nothing: Attention makes it 0, so where a mask is not known to be
finite, such rows of the result are set to 0 (``Where(ReduceMax(mask) == -inf, 0, y)``).

Shapes:    q [B,H,S,D], k [B,H,T,D], v [B,H,T,E], mask broadcastable to [B,H,S,T]; D static unless scale is
           given.
Dtypes:    float16, bfloat16, float32, float64.
Refuses:   RANK inputs that are not of 4 axes; ATTRIBUTE is_causal, softcap, or a softmax precision other than
           the inputs' own; UNKNOWN shapes, heads, lengths or head size; SHAPE grouped heads; DTYPE not
           listed, or values or a mask of another type than the queries; SHARED and GRAPH_OUTPUT present keys,
           values or scores.
Numerics:  same formula; the scores are scaled after the product.
Source:    ONNX operator Attention-24, its function body; docs/design/0004-ort-cpu-defaults.md for the speed.
"""

import math

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.attention import require_four_axes, require_mask_as_long_as_keys, require_same

FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}


def attention(op: PatternOps, q: Var, k: Var, v: Var, full: Var | None = None, small: Var | None = None) -> Op:
    expanded = op.named("full", op.keep(op.Expand(small, op.var("_lengths"))))
    node: Op = op.Attention(
        q,
        k,
        v,
        op.any_of(expanded, full),
        scale=op.attr("scale"),
        is_causal=op.attr("is_causal"),
        softcap=op.attr("softcap"),
        softmax_precision=op.attr("precision"),
    )
    return node


def products_and_softmax(
    op: Builder,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    full: ir.Value | None,
    small: ir.Value | None,
    scale: float | None,
    is_causal: int,
    softcap: float,
    precision: int | None,
) -> ir.Value:
    require(q.dtype in FLOATS, Reason.DTYPE, f"{q.name} is {q.dtype}; needs floats")
    require(v.dtype == q.dtype, Reason.DTYPE, f"{v.name} is {v.dtype}, {q.name} is {q.dtype}")
    require(not is_causal, Reason.ATTRIBUTE, "is_causal is set; only masks that are inputs are lowered")
    require(not softcap, Reason.ATTRIBUTE, f"softcap is {softcap}; needs 0")
    assert q.dtype is not None
    is_own = precision in (None, 0, q.dtype.value)
    require(is_own, Reason.ATTRIBUTE, f"softmax precision {precision} differs from the inputs'")
    require_four_axes(q, k, v)
    require_same(q, 1, k, 1)
    scores = op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2]))
    scores = op.Mul(scores, _number(op, q, _default_scale(q) if scale is None else scale))
    if full is None:
        unmasked: ir.Value = op.MatMul(op.Softmax(scores, axis=-1), v)
        return unmasked
    require_mask_as_long_as_keys(full, k)
    mask = small if small is not None else full
    added = _additive(op, mask, q)
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
    require(size is not None, Reason.UNKNOWN, f"no scale is given and {facts.describe(q)} has no known head size")
    return 1 / math.sqrt(size or 1)


def _additive(op: Builder, mask: ir.Value, q: ir.Value) -> ir.Value:
    if mask.dtype != ir.DataType.BOOL:
        require(mask.dtype == q.dtype, Reason.DTYPE, f"{mask.name} is {mask.dtype}, {q.name} is {q.dtype}")
        return mask
    added: ir.Value = op.Where(mask, _number(op, q, 0.0), _number(op, q, -math.inf))
    return added


LOWER_ATTENTION = Rule("lower-attention", (attention,), products_and_softmax, min_opset=23)
