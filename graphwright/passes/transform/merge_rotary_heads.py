"""Turn positions before heads are split and transposed, so that the layout stands right before ``Attention``.

Before:                                            After:
    x [B,S,H*D] -- Reshape -- Transpose --+            x -- RotaryEmbedding<num_heads=H> -- Reshape -- Transpose -- y
                        RotaryEmbedding --+-- y

RotaryEmbedding takes heads apart or side by side. Side by side, Reshape and Transpose come behind it, where
``merge-attention-heads`` takes both out. Heads that are normalized one by one, or that no Reshape is known to have
split, are laid side by side for it, which copies nothing.

Shapes:    x [B,S,H*D] or [B,S,H,D], y [B,H,S,D]; H and D are numbers, B and S may be dynamic.
Dtypes:    those of RotaryEmbedding-23.
Refuses:   UNKNOWN heads or head size that are no numbers; SHARED and GRAPH_OUTPUT interior values.
Numerics:  the same.
Source:    ONNX operator RotaryEmbedding-23, input of three axes.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, Op, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.attention import require_splits_last_axis


def _turned(op: PatternOps, x: Pattern, cos: Var, sin: Var, positions: Var | None) -> Named:
    return op.named("y", op.RotaryEmbedding(x, cos, sin, positions))


def _transposed(op: PatternOps, x: Pattern) -> Op:
    node: Op = op.Transpose(x, perm=[0, 2, 1, 3])
    return node


def of_projection(op: PatternOps, x: Var, cos: Var, sin: Var, positions: Var | None = None) -> Named:
    split = op.named("split", op.Reshape(x, op.var("_shape")))
    return _turned(op, _transposed(op, split), cos, sin, positions)


def of_heads(op: PatternOps, split: Var, cos: Var, sin: Var, positions: Var | None = None) -> Named:
    return _turned(op, _transposed(op, split), cos, sin, positions)


def of_normalized_heads(
    op: PatternOps, split: Var, scale: Var, cos: Var, sin: Var, positions: Var | None = None
) -> Named:
    norm = op.named("norm", op.RMSNormalization(_transposed(op, split), scale, axis=-1))
    return _turned(op, norm, cos, sin, positions)


def heads_together(
    op: Builder,
    x: ir.Value | None,
    split: ir.Value,
    cos: ir.Value,
    sin: ir.Value,
    positions: ir.Value | None,
    y: ir.Value,
    norm: ir.Value | None = None,
    scale: ir.Value | None = None,
) -> ir.Value:
    heads, size = facts.static_dim(split, 2), facts.static_dim(split, 3)
    known = heads is not None and size is not None
    require(known, Reason.UNKNOWN, f"{facts.describe(split)}; heads and their size must be numbers")
    assert heads is not None
    assert size is not None
    if x is not None:
        require_splits_last_axis(x, split, axes=(0, 1, 2, 3))
    elif norm is not None:
        node = norm.producer()
        assert node is not None
        x = op.Reshape(op.copy(node, [split, scale]), [0, 0, heads * size])
    else:
        x = op.Reshape(split, [0, 0, heads * size])
    rotary = y.producer()
    assert rotary is not None
    # The attributes as they are, not their values: one may refer to an attribute of the enclosing function.
    turned = op.RotaryEmbedding(x, cos, sin, positions, **{**rotary.attributes, "num_heads": heads})
    apart: ir.Value = op.Transpose(op.Reshape(turned, [0, 0, heads, size]), perm=[0, 2, 1, 3])
    return apart


MERGE_ROTARY_HEADS = Rule(
    "merge-rotary-heads", (of_projection, of_normalized_heads, of_heads), heads_together, min_opset=23
)
