"""Spell ``Attention`` as products and a softmax, for runtimes without the operator or with a slow one.

Before:                     After:
    q   k   v   mask            q [B,H,S,D] -------------+
    |   |   |    |              k [B,H,T,D] - Transpose -+- MatMul - * scale - + mask - Softmax -+
    Attention<scale>            v [B,H,T,E] -----------------------------------------------------+- MatMul - y
         |
         y

An expanded mask is taken as it was before, since addition expands too. A boolean mask becomes 0 and -inf. A
row whose mask is -inf throughout attends to nothing: Attention makes it 0, so where a mask is not known to be
finite, such rows of the result are set to 0 (``Where(ReduceMax(mask) == -inf, 0, y)``). A soft cap c makes
``Tanh(scores / c) * c`` of the scores before the mask. Where H heads share K of keys and values, each of those is
repeated H/K times, as exporters do; one for all needs no copy, since a product repeats it.

Shapes:    q [B,H,S,D], k [B,K,T,D], v [B,K,T,E] with K a divisor of H, mask broadcastable to [B,H,S,T]; D static
           unless scale is given, H and K static unless they are equal.
Dtypes:    float16, bfloat16, float32, float64.
Refuses:   RANK inputs that are not of 4 axes; ATTRIBUTE is_causal, a window, or a softmax precision other than
           the inputs' own; UNKNOWN shapes, heads, lengths or head size; SHAPE heads that are no multiple of those
           of keys and values; DTYPE not listed, or values or a mask of another type than the queries; SHARED and
           GRAPH_OUTPUT present keys, values or scores.
Numerics:  same formula; the scores are scaled after the product.
Source:    ONNX operator Attention-24, its function body; docs/design/0004-ort-cpu-defaults.md for the speed.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.attention import (
    additive,
    cleared,
    default_scale,
    number,
    require_four_axes,
    require_mask_as_long_as_keys,
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
        left_window_size=op.attr("left"),
        right_window_size=op.attr("right"),
    )
    return node


def _times(op: Builder, x: ir.Value, like: ir.Value, scale: float) -> ir.Value:
    product: ir.Value = x if scale == 1 else op.Mul(x, number(op, like, scale))
    return product


def products_and_softmax(
    op: Builder,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    full: ir.Value | None = None,
    small: ir.Value | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    *,
    scale_queries: bool = False,
    **attributes: int | None,
) -> ir.Value:
    _require_spelled(q, v, **attributes)
    require_four_axes(q, k, v)
    keys, values = _repeated(op, q, k), _repeated(op, q, v)
    scale = default_scale(q) if scale is None else scale
    queries = _times(op, q, q, scale) if scale_queries else q
    scores = op.MatMul(queries, op.Transpose(keys, perm=[0, 1, 3, 2]))
    scores = scores if scale_queries else _times(op, scores, q, scale)
    if softcap:
        cap = number(op, q, softcap)
        scores = op.Mul(op.Tanh(op.Div(scores, cap)), cap)
    if full is None:
        unmasked: ir.Value = op.MatMul(op.Softmax(scores, axis=-1), values)
        return unmasked
    require_mask_as_long_as_keys(full, k)
    mask = small if small is not None else full
    added = additive(op, mask, q)
    result: ir.Value = op.MatMul(op.Softmax(op.Add(scores, added), axis=-1), values)
    return cleared(op, mask, added, q, result)


def _require_spelled(
    q: ir.Value,
    v: ir.Value,
    is_causal: int | None = 0,
    precision: int | None = None,
    left: int | None = None,
    right: int | None = None,
    **_: int | None,
) -> None:
    require(q.dtype in FLOATS, Reason.DTYPE, f"{q.name} is {q.dtype}; needs floats")
    require(v.dtype == q.dtype, Reason.DTYPE, f"{v.name} is {v.dtype}, {q.name} is {q.dtype}")
    require(not is_causal, Reason.ATTRIBUTE, "is_causal is set; only masks that are inputs are lowered")
    # Attention-25: -1 leaves a side open; before, there was no such attribute.
    is_open = left in (None, -1) and right in (None, -1)
    require(is_open, Reason.ATTRIBUTE, f"a window of {left} and {right} keys; only masks that are inputs are lowered")
    assert q.dtype is not None
    is_own = precision in (None, 0, q.dtype.value)
    require(is_own, Reason.ATTRIBUTE, f"softmax precision {precision} differs from the inputs'")


def _repeated(op: Builder, q: ir.Value, x: ir.Value) -> ir.Value:
    """[B,K,T,D] -> [B,H,T,D], each head H/K times; as it is where a product does that."""
    heads, own = facts.static_dim(q, 1), facts.static_dim(x, 1)
    if own == 1 or facts.same_dim(facts.dim(q, 1), facts.dim(x, 1)):
        return x
    detail = f"heads of {facts.describe(q)} and {facts.describe(x)}"
    require(heads is not None and own is not None, Reason.UNKNOWN, f"the {detail} are not known")
    assert heads is not None and own is not None
    require(own > 0 and heads % own == 0, Reason.SHAPE, f"the {detail}: the first are no multiple of the second")
    wide = op.Expand(op.Unsqueeze(x, [2]), [1, 1, heads // own, 1, 1])
    size = facts.static_dim(x, 3)
    last = [size] if size is not None else op.Shape(x, start=3, end=4)
    repeated: ir.Value = op.Reshape(wide, op.Concat([0, heads], op.Shape(x, start=2, end=3), last, axis=0))
    repeated.shape = ir.Shape([facts.dim(x, 0), heads, facts.dim(x, 2), facts.dim(x, 3)])
    return repeated


LOWER_ATTENTION = Rule("lower-attention", (attention,), products_and_softmax, min_opset=23)
