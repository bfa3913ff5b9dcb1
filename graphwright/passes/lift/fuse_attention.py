"""Fuse scaled dot-product attention, in each spelling of the exporters, into ``Attention``.

Before:                                                                    After:
    q [B,H,S,D] -------- * a --+                                               q   k   v   mask
    k [B,H,T,D] - T ---- * b --+-- MatMul -- steps -- Softmax --+              |   |   |    |
    v [B,H,T,E] ------------------------------------------------+-- MatMul     Attention<scale, softcap>
                                                                     |                |
                                                                     y [B,H,S,E]      y

A scale is a multiplication or a division; the steps are scales, masks, a soft cap and Reshapes in any order and
number (``passes/attention_scores.py``). The key's transpose T may be one Transpose, one that also splits the heads
([B,T,H,D] -> [B,H,D,T]), or the Reshape, Transpose, Reshape of torch at opset 18. All heads may share one key and one
value, [B,1,T,D]. Queries, keys and values may have three axes: folded from [B,H,S,D] they are taken as they were
before, others become [N,1,S,D]. Softmax may be computed in float32 between two Casts, and rows without any key may be
set to zero (``Where(IsNaN(p), 0, p)``).

Shapes:    q [B,H,S,D], k [B,H,T,D] or [B,1,T,D], v [B,H,T,E] or [B,1,T,E], or q [N,S,D], k [N,T,D], v [N,T,E]; masks
           broadcastable to the scores that they are added to; any size may be dynamic. ONNX Runtime runs Attention
           only where none of B, S and T is 0.
Dtypes:    float16, bfloat16, float32; a mask that selects: not float16.
Refuses:   OPSET below 24; DTYPE not listed (float64: the operator's scale is single), or types that differ;
           RANK neither 3 nor 4, or a mask or number that adds axes; SHAPE batch, heads, lengths or head sizes that
           differ; UNKNOWN sizes not known to be equal, or a Reshape not known to keep rows; CONSTANT a scale that is
           not above zero and finite, a Tanh of masked scores; SHARED and GRAPH_OUTPUT interior values.
Numerics:  same sum; a backend scales before or after the product, and several masks are added up before they meet the
           scores. A row whose mask is -inf throughout is 0 after and NaN before, unless the source guards it as
           above. One of the lowest number throughout gives the mean of v; ONNX Runtime's kernel (1.31) gives 0, so
           that number is raised by 1 %.
Source:    Vaswani et al. 2017, arXiv:1706.03762; ONNX operator Attention-24; soft cap: Gemma 2, arXiv:2408.00118.
"""

from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, PatternOps, Var
from graphwright.engine.rewrite import Builder, Rule
from graphwright.passes.attention import spread
from graphwright.passes.attention_axes import Axes, leads_of
from graphwright.passes.attention_operands import Apart, Operands, at_four_axes, require_fitting_sizes
from graphwright.passes.attention_pattern import keys, precision_of, product, require_types, scale_of, softmax_of, whole
from graphwright.passes.attention_scores import Scores, fold_steps, moved_to, raised, steps_from


def scaled_dot_product(op: PatternOps, k: Var) -> Named:
    softmax = softmax_of(op, steps_from(op, product(op, k)))
    guarded = op.any_of(op.Where(op.IsNaN(softmax), 0.0, softmax), softmax)
    weights = op.any_of(op.named("seen", op.Reshape(guarded, op.var("_seen"))), guarded)
    return op.named("y", op.MatMul(weights, whole(op, "v")))


def scaled_dot_product_of_folded_heads(op: PatternOps, k: Var) -> Named:
    folded = op.check(scaled_dot_product(op, k), "three axes", lambda value: facts.rank(value) == 3)
    return op.named("y_apart", op.Reshape(folded, op.var("_y_apart")))


def attention(
    op: Builder,
    q: ir.Value,
    v: ir.Value,
    softmax: int,
    seen: ir.Value | None,
    y_apart: ir.Value | None,
    **bound: Any,
) -> ir.Value:
    require_types(q, v)
    k, k_apart = keys(op, **bound)
    require_fitting_sizes(q, k, v)
    apart = Apart(bound.get("q_apart"), k_apart, bound.get("v_apart"))
    sources = tuple(value for value in (*apart, q, k, v) if value is not None)
    axes = Axes(leads_of(q), facts.dim(q, -2), facts.dim(k, -2), sources)
    is_closed = facts.same_dim(facts.dim(k, -2), facts.dim(v, -2))
    scores = fold_steps(op, Scores(q, axes, scale_of(bound)), bound, is_closed=is_closed)
    if seen is not None:
        scores = moved_to(op, scores, scores.axes.seen_as(seen))
    given = Operands(scores.queries, k, v)
    operands, unfold = at_four_axes(op, given, apart.operands() if scores.queries is q else None, y_apart)
    scores = moved_to(op, scores, Axes(leads_of(operands.q), axes.rows, axes.columns, (*sources, *operands)))
    mask = scores.mask
    if mask is not None:
        mask = spread(op, raised(op, mask, scores.is_raised), operands.q, operands.k)
    attributes = {"scale": scores.factor, "softcap": scores.cap, "softmax_precision": precision_of(softmax, q)}
    return unfold(op.Attention(*operands, mask, **attributes))


FUSE_ATTENTION = Rule(
    "fuse-attention", (scaled_dot_product_of_folded_heads, scaled_dot_product), attention, min_opset=24
)
