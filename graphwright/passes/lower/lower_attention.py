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

import onnx_ir as ir

from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.attention import (
    additive,
    cleared,
    default_scale,
    number,
    require_four_axes,
    require_mask_as_long_as_keys,
    require_same,
)

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
    full: ir.Value | None = None,
    small: ir.Value | None = None,
    scale: float | None = None,
    is_causal: int = 0,
    softcap: float = 0.0,
    precision: int | None = None,
    *,
    scale_queries: bool = False,
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
    factor = number(op, q, default_scale(q) if scale is None else scale)
    queries = op.Mul(q, factor) if scale_queries else q
    scores = op.MatMul(queries, op.Transpose(k, perm=[0, 1, 3, 2]))
    scores = scores if scale_queries else op.Mul(scores, factor)
    if full is None:
        unmasked: ir.Value = op.MatMul(op.Softmax(scores, axis=-1), v)
        return unmasked
    require_mask_as_long_as_keys(full, k)
    mask = small if small is not None else full
    added = additive(op, mask, q)
    result: ir.Value = op.MatMul(op.Softmax(op.Add(scores, added), axis=-1), v)
    return cleared(op, mask, added, q, result)


LOWER_ATTENTION = Rule("lower-attention", (attention,), products_and_softmax, min_opset=23)
