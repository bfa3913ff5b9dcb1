"""Fuse scaled dot-product attention, in each spelling of the exporters, into ``Attention``.

Before:                                                                    After:
    q [B,H,S,D] -------- * a --+                                               q   k   v   mask
    k [B,H,T,D] - T ---- * b --+-- MatMul -- * c -- + mask -- Softmax --+      |   |   |    |
    v [B,H,T,E] --------------------------------------------------------+      Attention<scale=abc>
                                                              MatMul ---+             |
                                                                 |                    |
                                                                 y [B,H,S,E]          y

Each scale may be missing, a multiplication or a division. The key's transpose T may be one Transpose, one that also
splits the heads ([B,T,H,D] -> [B,H,D,T]), or the Reshape, Transpose, Reshape of torch at opset 18. The mask may be
added, or select between the scores and a number of at most -1e30. Softmax may be computed in float32 between two
Casts, and rows without any key may be set to zero (``Where(IsNaN(p), 0, p)``).

Shapes:    q [B,H,S,D], k [B,H,T,D], v [B,H,T,E], mask broadcastable to [B,H,S,T]; any of them may be dynamic.
Dtypes:    float16, bfloat16, float32, float64; a mask that selects: not float16.
Refuses:   OPSET below 24; DTYPE not listed, or an added mask of another type; RANK not 4, or a mask of rank above 4;
           SHAPE batch, heads, lengths or head sizes that differ; UNKNOWN sizes not known to be equal;
           CONSTANT a scale that is not above zero; SHARED and GRAPH_OUTPUT interior values.
Numerics:  same sum; a backend scales before or after the product. A row whose mask is -inf throughout is 0 after
           and NaN before, unless the source guards it as above. A mask whose last size may be 1 is expanded
           first, since Attention pads a short mask with -inf where addition would broadcast it.
Source:    Vaswani et al. 2017, arXiv:1706.03762; ONNX operator Attention-24.
"""

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Op, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require

# The input types of Attention-24.
FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}

# A masking number this low swallows any score that is added to it, in every type but float16.
SWALLOWS = -1e30

# What the tags of the pattern's alternatives stand for.
SELECTS_SCORES, SELECTS_NUMBER = 1, 2
IN_FLOAT32 = 0


def _is_number(value: ir.Value) -> bool:
    return facts.scalar(value) is not None


def _swallows(value: ir.Value) -> bool:
    number = facts.scalar(value)
    return number is not None and number <= SWALLOWS


def _scaled(op: PatternOps, value: Pattern, name: str) -> AnyOf:
    """``value``, or ``value`` times or divided by a constant number."""
    times = op.check(op.var(f"times_{name}"), "a constant number", _is_number)
    over = op.check(op.var(f"over_{name}"), "a constant number", _is_number)
    return op.any_of(op.Mul(value, times), op.Div(value, over), value)


def _transposed(op: PatternOps, k: Var) -> AnyOf:
    flat = op.named("k_flat", op.Transpose(op.Reshape(k, op.var("_flat")), perm=[0, 2, 1]))
    return op.any_of(
        op.Transpose(k, perm=[0, 1, 3, 2]),
        op.Transpose(op.var("k_by_length"), perm=[0, 2, 3, 1]),
        op.named("k_swapped", op.Reshape(flat, op.var("_swapped"))),
        op.var("k_transposed"),
    )


def scaled_dot_product(op: PatternOps, q: Var, k: Var, v: Var, mask: Var, below: Var) -> Op:
    product = op.MatMul(_scaled(op, q, "q"), _scaled(op, _transposed(op, k), "k"))
    scores = _scaled(op, product, "scores")
    number = op.check(below, f"a constant of at most {SWALLOWS}", _swallows)
    masked = op.any_of(
        op.Add(scores, mask),
        op.Where(mask, scores, number),
        op.Where(mask, number, scores),
        scores,
        tag="masking",
    )
    in_float32 = op.Softmax(op.Cast(masked, to=ir.DataType.FLOAT.value), axis=-1)
    softmax = op.any_of(op.Cast(in_float32, to=op.attr("_to")), op.Softmax(masked, axis=-1), tag="softmax")
    return op.MatMul(op.any_of(op.Where(op.IsNaN(softmax), 0.0, softmax), softmax), v)


def attention(
    op: Builder,
    q: ir.Value,
    k: ir.Value | None,
    v: ir.Value,
    mask: ir.Value | None,
    below: ir.Value | None,
    masking: int,
    softmax: int,
    k_by_length: ir.Value | None,
    k_transposed: ir.Value | None,
    k_flat: ir.Value | None,
    k_swapped: ir.Value | None,
    **scales: ir.Value,
) -> ir.Value:
    require(q.dtype in FLOATS, Reason.DTYPE, f"{q.name} is {q.dtype}; Attention takes floats")
    if k_by_length is not None:
        k = op.Transpose(k_by_length, perm=[0, 2, 1, 3])
    elif k_transposed is not None:
        k = op.Transpose(k_transposed, perm=[0, 1, 3, 2])
    assert k is not None
    _require_attention_shapes(q, k, v)
    if k_flat is not None and k_swapped is not None:
        _require_swaps_last_axes(k, k_flat, k_swapped)
    scale = _product_of(scales)
    if mask is not None and below is not None:
        mask = _additive(op, mask, below, masking, q)
    if mask is not None:
        mask = _as_long_as_keys(op, mask, q, k)
    precision = ir.DataType.FLOAT.value if softmax == IN_FLOAT32 and q.dtype != ir.DataType.FLOAT else None
    result: ir.Value = op.Attention(q, k, v, mask, scale=scale, softmax_precision=precision)
    return result


def _product_of(scales: dict[str, ir.Value]) -> float:
    """``times_q * times_k * times_scores / (over_q * over_k * over_scores)``, of those that were matched."""
    scale = 1.0
    for name, value in scales.items():
        number = facts.scalar(value)
        if number is not None and name.startswith(("times_", "over_")):
            require(
                number > 0,
                Reason.CONSTANT,
                f"the scale {value.name} is {number}; Attention takes one above zero",
            )
            scale = scale * number if name.startswith("times_") else scale / number
    return scale


def _require_attention_shapes(q: ir.Value, k: ir.Value, v: ir.Value) -> None:
    """MatMul broadcasts batch and heads and Attention does not, so each pair of sizes must be known to be equal."""
    for value in (q, k, v):
        require(value.shape is not None, Reason.UNKNOWN, f"the rank of {value.name} is not known; needs 4")
        require(
            facts.rank(value) == 4,
            Reason.RANK,
            f"{facts.describe(value)}; needs [batch, heads, length, size]",
        )
    for first, axis, second, other in (
        (q, 0, k, 0),
        (q, 1, k, 1),
        (q, 3, k, 3),
        (k, 0, v, 0),
        (k, 1, v, 1),
        (k, 2, v, 2),
    ):
        _require_same(first, axis, second, other)


def _require_same(first: ir.Value, axis: int, second: ir.Value, other: int) -> None:
    here, there = facts.dim(first, axis), facts.dim(second, other)
    detail = f"axis {axis} of {facts.describe(first)} must equal axis {other} of {facts.describe(second)}"
    differ = isinstance(here, int) and isinstance(there, int) and here != there
    require(not differ, Reason.SHAPE, detail)
    require(facts.same_dim(here, there), Reason.UNKNOWN, detail)


def _require_swaps_last_axes(k: ir.Value, flat: ir.Value, swapped: ir.Value) -> None:
    """[B,H,T,D] -> [B*H,T,D] -> [B*H,D,T] -> [B,H,D,T]: the two Reshapes touch batch and heads only."""
    require(
        facts.rank(flat) == 3 and facts.rank(swapped) == 4,
        Reason.RANK,
        f"{facts.describe(swapped)}; needs 4 axes",
    )
    for value, axis, other in (
        (flat, 1, 3),
        (flat, 2, 2),
        (swapped, 0, 0),
        (swapped, 1, 1),
        (swapped, 2, 3),
        (swapped, 3, 2),
    ):
        _require_same(value, axis, k, other)


def _additive(op: Builder, mask: ir.Value, below: ir.Value, masking: int, q: ir.Value) -> ir.Value:
    """``Where(mask, scores, below)`` -> ``scores + Where(mask, 0, below)``."""
    require(
        q.dtype != ir.DataType.FLOAT16, Reason.DTYPE, f"{q.name} is float16, too narrow to add {below.name}"
    )
    assert q.dtype is not None
    zero = op.constant(np.zeros((), q.dtype.numpy()), "zero")
    require(below.dtype == q.dtype, Reason.DTYPE, f"{below.name} is {below.dtype}, {q.name} is {q.dtype}")
    added: ir.Value = (
        op.Where(mask, below, zero) if masking == SELECTS_NUMBER else op.Where(mask, zero, below)
    )
    return added


def _as_long_as_keys(op: Builder, mask: ir.Value, q: ir.Value, k: ir.Value) -> ir.Value:
    require(mask.shape is not None, Reason.UNKNOWN, f"the rank of the mask {mask.name} is not known")
    require(
        (facts.rank(mask) or 0) <= 4, Reason.RANK, f"the mask {facts.describe(mask)} has more than 4 axes"
    )
    require(
        mask.dtype == q.dtype, Reason.DTYPE, f"the mask {mask.name} is {mask.dtype}, {q.name} is {q.dtype}"
    )
    if facts.same_dim(facts.dim(mask, -1), facts.dim(k, 2)):
        return mask
    expanded: ir.Value = op.Expand(mask, op.Shape(k, start=2, end=3))
    return expanded


FUSE_ATTENTION = Rule("fuse-attention", (scaled_dot_product,), attention, min_opset=24)
