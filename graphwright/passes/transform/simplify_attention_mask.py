"""Make the mask of ``Attention`` from [B,1,1,T] and expand it last: nothing is computed for [B,1,S,T].

Before:                                              After:
    always true [.., S, 1] --+                           keys -- (Where 0, number) -- Expand [S,T] -- mask
    keys [B,1,1,T] ----------+-- And -- (Where 0, number) -- mask

    keys -- Expand -- Where 0, number -- mask            keys -- Where 0, number -- Expand [S,T] -- mask

What only repeats a mask says nothing, but the mask that Attention gets keeps its two lengths
(passes/attention.py); a lowering to products takes the expansion off. An operand is always true where its
nodes prove it: a comparison of positions with zero, a constant, a conjunction of such.

Shapes:    q and k of 4 axes; mask of at most 4 axes whose last one is the key length.
Dtypes:    any that Attention takes.
Refuses:   UNKNOWN a last size that is not known to be the key length; CONSTANT no operand that is always
           true; RANK queries and keys that are not of 4 axes; SHARED and GRAPH_OUTPUT present keys or scores.
Numerics:  the same.
Source:    ONNX operator Attention-24, input attn_mask; the mask of transformers' masking_utils.
"""

import onnx_ir as ir

from graphwright.engine import ranges
from graphwright.engine.pattern import AnyOf, Named, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.attention import require_four_axes, require_mask_as_long_as_keys, spread


def _expanded(op: PatternOps, value: Op) -> Op:
    expanded: Op = op.Expand(value, op.var("_lengths"))
    return op.keep(expanded)


def _attention(op: PatternOps, q: Var, k: Var, v: Var, mask: AnyOf) -> Named:
    return op.named("y", op.Attention(q, k, v, op.named("mask", mask)))


def conjunction(op: PatternOps, q: Var, k: Var, v: Var, a: Var, b: Var) -> Named:
    both = op.keep(op.And(a, b))
    return _attention(op, q, k, v, op.any_of(both, _expanded(op, both)))


def choice(op: PatternOps, q: Var, k: Var, v: Var, a: Var, b: Var, kept: Var, masked: Var) -> Named:
    both = op.keep(op.And(a, b))
    repeated = op.any_of(both, op.keep(op.Expand(op.any_of(both, a), op.var("_size"))))
    chosen = op.keep(op.Where(repeated, kept, masked))
    return _attention(op, q, k, v, op.any_of(chosen, _expanded(op, chosen)))


def smallest_mask(
    op: Builder,
    y: ir.Value,
    q: ir.Value,
    k: ir.Value,
    mask: ir.Value,
    a: ir.Value,
    b: ir.Value | None,
    kept: ir.Value | None,
    masked: ir.Value | None,
) -> ir.Value:
    require_four_axes(q, k)
    require_mask_as_long_as_keys(mask, k)
    smaller = a
    if b is not None:
        useless = ranges.is_always_true(a) or ranges.is_always_true(b)
        require(useless, Reason.CONSTANT, f"neither {a.name} nor {b.name} is known to be true throughout")
        smaller = b if ranges.is_always_true(a) else a
    if kept is not None:
        smaller = op.Where(smaller, kept, masked)
    node = y.producer()
    assert node is not None
    return op.copy(node, [*node.inputs[:3], spread(op, smaller, q, k)])


SIMPLIFY_ATTENTION_MASK = Rule("simplify-attention-mask", (conjunction, choice), smallest_mask, min_opset=23)
