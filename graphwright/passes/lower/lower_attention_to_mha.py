"""Spell ``Attention`` on heads together as ONNX Runtime's ``MultiHeadAttention``, with the projections' biases inside.

Before:                                                   After:
    q [B,S,H*D] -- + bq --+                                   q, k, v, [bq|bk|bv], mask
    k [B,T,H*D] -- + bk --+-- Attention<scale> -- y                 |
    v [B,T,H*E] -- + bv --+   (mask)                          MultiHeadAttention<num_heads=H, scale> -- y

The mask goes to the operator as what is added to the scores, so a boolean one becomes 0 and -inf. A row whose mask is
-inf throughout attends to nothing: Attention makes it 0, MultiHeadAttention NaN. So where a mask is not known to be
finite, such rows are set to 0, which takes one node a layer; whether a row has a key is computed once for all layers.

Shapes:    q [B,S,H*D], k [B,T,H*D], v [B,T,H*E]; mask [B or 1, H or 1, S, T]; biases as long as the last axis.
Dtypes:    float32, float16, bfloat16.
Refuses:   DTYPE not listed, or values or a mask of another type; RANK inputs that are not of 3 axes, a mask that is
           not of 4; ATTRIBUTE softcap, or a softmax precision other than the inputs' own; SHAPE grouped
           heads, a mask of other sizes, or one that may leave out a row in some heads only; UNKNOWN whether sizes are
           equal, or is_causal with lengths that are not known to be; CONSTANT biases that are not constant; SHARED
           and GRAPH_OUTPUT interior values.
Numerics:  same formula.
Source:    ONNX Runtime, ContribOperators.md, com.microsoft.MultiHeadAttention; ONNX operator Attention-24.
"""

import math

import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.engine.weights import concatenated
from graphwright.passes.attention import additive, number, require_same
from graphwright.passes.lower.ort_capabilities import CUDA, MICROSOFT, types

# The CPU has a kernel for float32 alone: what it cannot load is no choice there.
FLOATS = types("com.microsoft.MultiHeadAttention", CUDA)
ATTRIBUTES = ("q_num_heads", "kv_num_heads", "scale", "is_causal", "softcap", "softmax_precision")


def with_biases(op: PatternOps, q: Var, k: Var, v: Var, bq: Var, bk: Var, bv: Var, mask: Var | None = None) -> Op:
    return _attention(op, op.Add(q, bq), op.Add(k, bk), op.Add(v, bv), mask)


def without_biases(op: PatternOps, q: Var, k: Var, v: Var, mask: Var | None = None) -> Op:
    return _attention(op, q, k, v, mask)


def _attention(op: PatternOps, q: Op | Var, k: Op | Var, v: Op | Var, mask: Var | None) -> Op:
    node: Op = op.Attention(q, k, v, mask, **{name: op.attr(name) for name in ATTRIBUTES})
    return node


def multi_head_attention(
    op: Builder,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    bq: ir.Value | None = None,
    bk: ir.Value | None = None,
    bv: ir.Value | None = None,
    mask: ir.Value | None = None,
    q_num_heads: int | None = None,
    kv_num_heads: int | None = None,
    scale: float | None = None,
    is_causal: int = 0,
    softcap: float = 0.0,
    softmax_precision: int | None = None,
) -> ir.Value:
    _require_inputs(q, k, v)
    assert q.dtype is not None
    same = bool(q_num_heads) and q_num_heads == kv_num_heads
    require(same, Reason.SHAPE, f"{q_num_heads} heads over {kv_num_heads}; needs as many")
    require(not softcap, Reason.ATTRIBUTE, f"softcap is {softcap}; needs 0")
    is_own = softmax_precision in (None, 0, q.dtype.value)
    require(is_own, Reason.ATTRIBUTE, f"softmax precision {softmax_precision} differs from the inputs'")
    if is_causal:
        # Attention counts a query's keys from the first one, MultiHeadAttention from the last.
        require_same(q, 1, k, 1)
    if mask is not None:
        _require_mask(mask, q, k, q_num_heads or 0)
    bias = None if bq is None else _packed_bias(op, (q, k, v), (bq, bk, bv))
    added = additive(op, mask, q) if mask is not None else None
    causal = 1 if is_causal else None
    attributes = {"num_heads": q_num_heads, "scale": scale, "unidirectional": causal, "_domain": MICROSOFT}
    # Inputs that are left out at the end are not written down.
    given = (q, k, v, bias, None, added) if added is not None else (q, k, v, *(() if bias is None else (bias,)))
    result: ir.Value = op.MultiHeadAttention(*given, **attributes)
    result.type = q.type
    result.shape = ir.Shape([*(q.shape or ())][:2] + [*(v.shape or ())][2:])
    return result if mask is None or added is None else _cleared(op, mask, added, q, result)


def _require_inputs(q: ir.Value, k: ir.Value, v: ir.Value) -> None:
    for value in (q, k, v):
        require(value.dtype in FLOATS, Reason.DTYPE, f"{value.name} is {value.dtype}; needs float32 or narrower")
        require(value.dtype == q.dtype, Reason.DTYPE, f"{value.name} is {value.dtype}, {q.name} is {q.dtype}")
        require(facts.rank(value) == 3, Reason.RANK, f"{facts.describe(value)}; needs [batch, length, heads*size]")


def _require_mask(mask: ir.Value, q: ir.Value, k: ir.Value, heads: int) -> None:
    require(facts.rank(mask) == 4, Reason.RANK, f"{facts.describe(mask)}; needs [batch, heads, length, length]")
    if facts.static_dim(mask, 0) != 1:
        require_same(mask, 0, q, 0)
    fits = facts.static_dim(mask, 1) in (1, heads)
    require(fits, Reason.SHAPE, f"{facts.describe(mask)}; needs 1 or {heads} on axis 1")
    require_same(mask, 2, q, 1)
    require_same(mask, 3, k, 1)


def _packed_bias(op: Builder, inputs: tuple[ir.Value, ...], biases: tuple[ir.Value | None, ...]) -> ir.Value:
    parts = []
    for value, bias in zip(inputs, biases, strict=True):
        tensor = facts.constant(bias)
        require(tensor is not None, Reason.CONSTANT, f"{facts.describe(bias)} is no constant, so no bias")
        assert tensor is not None
        fits = facts.rank(bias) == 1 and facts.static_dim(bias, 0) == facts.static_dim(value, 2)
        require(fits, Reason.SHAPE, f"{facts.describe(bias)} is no bias of {facts.describe(value)}")
        parts.append(tensor)
    return op.constant(concatenated(parts, 0), "packed_bias")


def _cleared(op: Builder, mask: ir.Value, added: ir.Value, q: ir.Value, result: ir.Value) -> ir.Value:
    """Return the result [B,S,H*E] with rows of 0 where a row of the mask has no key."""
    if ranges.is_finite(mask) and mask.dtype != ir.DataType.BOOL:
        return result
    detail = f"{facts.describe(mask)} may leave a row without a key in some heads only"
    require(facts.static_dim(mask, 1) == 1, Reason.SHAPE, detail)
    without_key = op.Equal(op.ReduceMax(added, [-1], keepdims=0), number(op, q, -math.inf))
    rows = op.Transpose(without_key, perm=[0, 2, 1])
    kept: ir.Value = op.Where(rows, number(op, q, 0.0), result)
    return kept


LOWER_ATTENTION_TO_MHA = Rule(
    "lower-attention-to-mha", (with_biases, without_biases), multi_head_attention, min_opset=23
)
