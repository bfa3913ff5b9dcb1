"""Fuse scaled dot-product attention, in each spelling of the exporters, into ``Attention``.

Before:                                                                    After:
    q [B,H,S,D] -------- * a --+                                               q   k   v   mask
    k [B,H,T,D] - T ---- * b --+-- MatMul -- * c -- + mask -- Softmax --+      |   |   |    |
    v [B,H,T,E] --------------------------------------------------------+      Attention<scale=abc>
                                                              MatMul ---+             |
                                                                 |                    |
                                                                 y [B,H,S,E]          y

Each scale may be missing, a multiplication or a division. The key's transpose T may be one Transpose, one
that also splits the heads ([B,T,H,D] -> [B,H,D,T]), or the Reshape, Transpose, Reshape of torch at opset 18.
The mask may be added, or select between the scores and a number of at most -1e30. Softmax may be computed in
float32 between two Casts, and rows without any key may be set to zero (``Where(IsNaN(p), 0, p)``).

Shapes:    q [B,H,S,D], k [B,H,T,D], v [B,H,T,E], mask broadcastable to [B,H,S,T]; any of them may be dynamic.
           ONNX Runtime runs Attention only where none of B, S and T is 0.
Dtypes:    float16, bfloat16, float32; a mask that selects: not float16.
Refuses:   OPSET below 24; DTYPE not listed (float64: the operator's scale is single), or types that differ;
           RANK not 4, or a mask or number of rank above 4; SHAPE batch, heads, lengths or head sizes that
           differ; UNKNOWN sizes not known to be equal; CONSTANT a scale that is not above zero and finite;
           SHARED and GRAPH_OUTPUT interior values.
Numerics:  same sum; a backend scales before or after the product. A row whose mask is -inf throughout is 0
           after and NaN before, unless the source guards it as above. One of the lowest number throughout
           gives the mean of v; ONNX Runtime's kernel (1.31) gives 0, so that number is raised by 1 %.
Source:    Vaswani et al. 2017, arXiv:1706.03762; ONNX operator Attention-24.
"""

import math

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.pattern import AnyOf, Checked, Op, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.attention import (
    require_broadcasts,
    require_no_new_axes,
    require_sizes,
    require_swaps_last_axes,
    spread,
)

FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT}

# A masking number this low swallows any score that is added to it, in every type but float16.
SWALLOWS = -1e30
# The lowest number times this is still as far below any score, in every type.
RAISED = 0.99

# What the tags of the pattern's alternatives stand for.
CHOSEN_LOWEST, SELECTS_NUMBER = 0, 3
IN_FLOAT32 = 0


def _number(op: PatternOps, name: str) -> Checked:
    return op.check(op.var(name), "a constant number", lambda value: facts.scalar(value) is not None)


def _swallows(value: ir.Value) -> bool:
    number = facts.scalar(value)
    return number is not None and number <= SWALLOWS


def _is_lowest(value: ir.Value) -> bool:
    return value.dtype in FLOATS and facts.scalar(value) == float(value.dtype.min)


def _scaled(op: PatternOps, value: Pattern, name: str) -> AnyOf:
    """``value``, or ``value`` times or divided by a constant number."""
    times, over = _number(op, f"times_{name}"), _number(op, f"over_{name}")
    return op.any_of(op.Mul(value, times), op.Div(value, over), value)


def _transposed(op: PatternOps, k: Var) -> AnyOf:
    flat = op.named("k_flat", op.Transpose(op.Reshape(k, op.var("_flat")), perm=[0, 2, 1]))
    return op.any_of(
        op.Transpose(k, perm=[0, 1, 3, 2]),
        op.Transpose(op.var("k_by_length"), perm=[0, 2, 3, 1]),
        op.named("k_swapped", op.Reshape(flat, op.var("_swapped"))),
        op.var("k_transposed"),
    )


def _masked(op: PatternOps, scores: Pattern, mask: Var, kept: Var, below: Var) -> AnyOf:
    lowest = op.check(below, "the lowest number of its type", _is_lowest)
    number = op.check(below, f"a constant of at most {SWALLOWS}", _swallows)
    return op.any_of(
        op.Add(scores, op.keep(op.Where(mask, kept, lowest))),
        op.Add(scores, mask),
        op.Where(mask, scores, number),
        op.Where(mask, number, scores),
        scores,
        tag="masking",
    )


def scaled_dot_product(op: PatternOps, q: Var, k: Var, v: Var, mask: Var, kept: Var, below: Var) -> Op:
    product = op.MatMul(_scaled(op, q, "q"), _scaled(op, _transposed(op, k), "k"))
    masked = _masked(op, _scaled(op, product, "scores"), mask, kept, below)
    in_float32 = op.Softmax(op.Cast(masked, to=ir.DataType.FLOAT.value), axis=-1)
    softmax = op.any_of(op.Cast(in_float32, to=op.attr("_to")), op.Softmax(masked, axis=-1), tag="softmax")
    node: Op = op.MatMul(op.any_of(op.Where(op.IsNaN(softmax), 0.0, softmax), softmax), v)
    return node


def attention(
    op: Builder,
    q: ir.Value,
    k: ir.Value | None,
    v: ir.Value,
    mask: ir.Value | None,
    kept: ir.Value | None,
    below: ir.Value | None,
    masking: int,
    softmax: int,
    k_by_length: ir.Value | None,
    k_transposed: ir.Value | None,
    k_flat: ir.Value | None,
    k_swapped: ir.Value | None,
    **scales: ir.Value,
) -> ir.Value:
    require(q.dtype in FLOATS, Reason.DTYPE, f"{q.name} is {q.dtype}; needs float32, float16 or bfloat16")
    require(v.dtype == q.dtype, Reason.DTYPE, f"{v.name} is {v.dtype}, {q.name} is {q.dtype}")
    if k_by_length is not None:
        k = op.Transpose(k_by_length, perm=[0, 2, 1, 3])
    elif k_transposed is not None:
        k = op.Transpose(k_transposed, perm=[0, 1, 3, 2])
    assert k is not None
    require_sizes(q, k, v)
    if k_flat is not None and k_swapped is not None:
        require_swaps_last_axes(k, k_flat, k_swapped)
    scale = _product_of(scales)
    if mask is not None and below is not None:
        mask = _chosen(op, mask, kept, below, masking, q)
    if mask is not None:
        require(
            mask.dtype == q.dtype,
            Reason.DTYPE,
            f"the mask {mask.name} is {mask.dtype}, {q.name} is {q.dtype}",
        )
        require_broadcasts(mask, q)
        mask = spread(op, _raised(op, mask), q, k)
    precision = ir.DataType.FLOAT.value if softmax == IN_FLOAT32 and q.dtype != ir.DataType.FLOAT else None
    result: ir.Value = op.Attention(q, k, v, mask, scale=scale, softmax_precision=precision)
    return result


def _product_of(scales: dict[str, ir.Value]) -> float:
    """``times_q * times_k * times_scores / (over_q * over_k * over_scores)``, of those that were matched."""
    scale = 1.0
    for name, value in scales.items():
        number = facts.scalar(value) if name.startswith(("times_", "over_")) else None
        if number is not None:
            require_no_new_axes(value)
            fits = 0 < number < math.inf
            require(fits, Reason.CONSTANT, f"the scale {value.name} is {number}; needs a finite one above zero")
            scale = scale * number if name.startswith("times_") else scale / number
    return scale


def _raised(op: Builder, mask: ir.Value) -> ir.Value:
    """Raise the lowest number by 1 %, which kernels take for -inf where a softmax of it throughout is uniform."""
    if ranges.is_free_of_lowest(mask):
        return mask
    assert mask.dtype is not None
    lowest = float(mask.dtype.min)
    raised: ir.Value = op.Where(op.Equal(mask, lowest), lowest * RAISED, mask)
    return raised


def _chosen(
    op: Builder, chooser: ir.Value, kept: ir.Value | None, below: ir.Value, masking: int, q: ir.Value
) -> ir.Value:
    """``Where(chooser, scores, below)`` -> ``scores + Where(chooser, 0, below)``."""
    require_no_new_axes(below)
    assert q.dtype is not None
    dtype = q.dtype.numpy()
    if _is_lowest(below):
        below = op.constant(np.asarray(float(q.dtype.min) * RAISED, dtype), "low")
    if masking == CHOSEN_LOWEST:
        added: ir.Value = op.Where(chooser, kept, below)
        return added
    is_narrow = q.dtype == ir.DataType.FLOAT16
    require(not is_narrow, Reason.DTYPE, f"{q.name} is float16, too narrow to add {below.name}")
    zero = op.constant(np.zeros((), dtype), "zero")
    added = op.Where(chooser, *((below, zero) if masking == SELECTS_NUMBER else (zero, below)))
    return added


FUSE_ATTENTION = Rule("fuse-attention", (scaled_dot_product,), attention, min_opset=24)
