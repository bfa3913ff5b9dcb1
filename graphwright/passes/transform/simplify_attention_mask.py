"""Give ``Attention`` the smallest mask that says the same, so that it is made from [B,1,1,T] and not from [B,1,S,T].

Before:                                          After:
    always true [.., S, 1] --+                       keys [B,1,1,T] -- (Where 0, number) -- Attention mask
    keys [B,1,1,T] ----------+-- And [B,1,S,T] -- (Where 0, number) -- Attention mask

    mask -- Expand ----------- Attention mask        mask ------------ Attention mask

Attention broadcasts its mask to [B,H,S,T], so what only repeats it says nothing. An operand is always true where its
nodes prove it: a comparison of positions with zero, a constant, a conjunction of such.

Shapes:    mask of at most 4 axes whose last one is the key length, before and after.
Dtypes:    any that Attention-24 takes.
Refuses:   UNKNOWN a last size that is not known to be the key length; CONSTANT no operand that is always true;
           RANK more than 4 axes.
Numerics:  the same.
Source:    ONNX operator Attention-24, input attn_mask; the mask of transformers' masking_utils.
"""

import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.pattern import Named, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require


def conjunction(op: PatternOps, q: Var, k: Var, v: Var, a: Var, b: Var) -> Named:
    return op.named("y", op.Attention(q, k, v, op.keep(op.And(a, b))))


def chosen_by_conjunction(op: PatternOps, q: Var, k: Var, v: Var, a: Var, b: Var, kept: Var, masked: Var) -> Named:
    return op.named("y", op.Attention(q, k, v, op.keep(op.Where(op.keep(op.And(a, b)), kept, masked))))


def expansion(op: PatternOps, q: Var, k: Var, v: Var, a: Var, size: Var) -> Named:
    return op.named("y", op.Attention(q, k, v, op.keep(op.Expand(a, size))))


def smallest_mask(
    op: Builder,
    y: ir.Value,
    k: ir.Value,
    a: ir.Value,
    b: ir.Value | None,
    kept: ir.Value | None,
    masked: ir.Value | None,
) -> ir.Value:
    mask = a
    if b is not None:
        useless = ranges.is_always_true(a) or ranges.is_always_true(b)
        require(useless, Reason.CONSTANT, f"neither {a.name} nor {b.name} is known to be true throughout")
        mask = b if ranges.is_always_true(a) else a
    fits = facts.same_dim(facts.dim(mask, -1), facts.dim(k, 2))
    require(fits, Reason.UNKNOWN, f"the last size of {facts.describe(mask)} is not known to be that of {facts.describe(k)}")
    require((facts.rank(mask) or 0) <= 4, Reason.RANK, f"{facts.describe(mask)} has more than 4 axes")
    if kept is not None:
        mask = op.Where(mask, kept, masked)
    node = y.producer()
    assert node is not None
    return op.copy(node, [*node.inputs[:3], mask])


SIMPLIFY_ATTENTION_MASK = Rule(
    "simplify-attention-mask", (conjunction, chosen_by_conjunction, expansion), smallest_mask, min_opset=24
)
