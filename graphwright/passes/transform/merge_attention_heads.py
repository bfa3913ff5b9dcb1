"""Give ``Attention`` its inputs as the projections make them, [B,S,H*D], without splitting and transposing heads.

Before:                                                                       After:
    q [B,S,H*D] -- Reshape [B,S,H,D] -- Transpose --+                             q   k   v   mask
    k [B,T,K*D] -- Reshape [B,T,K,D] -- Transpose --+-- Attention --+             |   |   |    |
    v [B,T,K*E] -- Reshape [B,T,K,E] -- Transpose --+   (mask)      |             Attention<q_num_heads=H,
                                                                    |                       kv_num_heads=K>
    y [B,S,H*E] -- Reshape -- Transpose ----------------------------+                      |
                                                                                           y [B,S,H*E]

Attention takes either form. The one of three axes saves eight nodes a layer, and ONNX Runtime's CPU kernel (1.31) reads
it with strides instead of copies, in 0.6 to 0.9 of the time (docs/design/0004-ort-cpu-defaults.md).

Shapes:    as drawn; H, K, D and E static, B, S and T may be dynamic.
Dtypes:    those of Attention-24.
Refuses:   RANK inputs or a result that are not of three axes; UNKNOWN or SHAPE a Reshape of which it is not known that
           it splits the last axis into heads and keeps the others; SHARED and GRAPH_OUTPUT interior values.
Numerics:  the same.
Source:    ONNX operator Attention-24, inputs of three axes.
"""

from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Rule
from graphwright.passes.attention import require_splits_last_axis


def _heads(op: PatternOps, x: Var) -> Op:
    """Split the last axis of ``x`` and put the heads before the length."""
    split: Named = op.named(f"{x.name}_split", op.Reshape(x, op.var(f"_{x.name}_shape")))
    node: Op = op.Transpose(split, perm=[0, 2, 1, 3])
    return node


def heads_apart(op: PatternOps, q: Var, k: Var, v: Var, mask: Var | None = None) -> Named:
    attention = op.named("attention", op.Attention(_heads(op, q), _heads(op, k), _heads(op, v), mask))
    return op.named("y", op.Reshape(op.Transpose(attention, perm=[0, 2, 1, 3]), op.var("_y_shape")))


def heads_together(
    op: Builder,
    q: ir.Value,
    k: ir.Value,
    v: ir.Value,
    mask: ir.Value | None,
    q_split: ir.Value,
    k_split: ir.Value,
    v_split: ir.Value,
    attention: ir.Value,
    y: ir.Value,
) -> ir.Value:
    for whole, split in ((q, q_split), (k, k_split), (v, v_split)):
        require_splits_last_axis(whole, split, axes=(0, 1, 2, 3))
    require_splits_last_axis(y, attention, axes=(0, 2, 1, 3))
    node = attention.producer()
    assert node is not None
    heads = {"q_num_heads": facts.static_dim(q_split, 2), "kv_num_heads": facts.static_dim(k_split, 2)}
    # The attributes as they are, not their values: one may refer to an attribute of the enclosing function.
    attributes: dict[str, Any] = {**node.attributes, **heads}
    result: ir.Value = op.Attention(q, k, v, mask, **attributes)
    return result


MERGE_ATTENTION_HEADS = Rule("merge-attention-heads", (heads_apart,), heads_together, min_opset=23)
