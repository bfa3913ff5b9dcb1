"""Spell rotary positions of part of each head in plain operators, in which OpenVINO finds them.

Before:                                            After:
    x -- RotaryEmbedding<rotary_embedding_dim=r>       h = x[..., :r], a = h[..., :r/2], b = h[..., r/2:]
                                                       y = [h * [c c] + [-b a] * [s s], x[..., r:]]

OpenVINO (2026.4) has an operator of its own for rotary positions. It makes it of RotaryEmbedding where whole heads are
turned, and where only the first r of D numbers are, of this spelling alone.

Shapes:    x [B,H,S,D], D a number; c and s [B,S,r/2]; others may be dynamic.
Dtypes:    those of RotaryEmbedding-23.
Refuses:   UNKNOWN head size; RANK heads side by side; ATTRIBUTE pairs of neighbours, or r that is no part of a head.
Numerics:  the same formula; in half precision each step is rounded.
Source:    ONNX operator RotaryEmbedding-23.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Checked, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require


def part_of_head(op: PatternOps, x: Var, cos: Var, sin: Var) -> Checked:
    node = op.RotaryEmbedding(x, cos, sin, rotary_embedding_dim=op.attr("size"), interleaved=op.attr("interleaved"))
    return op.check(node, "only part of each head turned", _is_part)


def _is_part(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and bool(facts.attribute(node, "rotary_embedding_dim"))


def plain(op: Builder, x: ir.Value, cos: ir.Value, sin: ir.Value, size: int, interleaved: int | None) -> ir.Value:
    require(facts.rank(x) == 4, Reason.RANK, f"{facts.describe(x)}; needs [batch, heads, length, size]")
    width = facts.static_dim(x, 3)
    require(width is not None, Reason.UNKNOWN, f"the head size of {facts.describe(x)} is not known")
    assert width is not None
    require(interleaved == 0, Reason.ATTRIBUTE, f"pairs of neighbours of {facts.describe(x)} are turned")
    require(size < width, Reason.ATTRIBUTE, f"{size} numbers of {facts.describe(x)} are no part of its heads")
    head, tail = (op.Slice(x, [start], [end], [3]) for start, end in ((0, size), (size, width)))
    first, second = (op.Slice(head, [start], [end], [3]) for start, end in ((0, size // 2), (size // 2, size)))
    c, s = (op.Unsqueeze(op.Concat(each, each, axis=-1), [1]) for each in (cos, sin))
    turned = op.Add(op.Mul(head, c), op.Mul(op.Concat(op.Neg(second), first, axis=-1), s))
    joined: ir.Value = op.Concat(turned, tail, axis=-1)
    return joined


SPELL_PARTIAL_ROTARY = Rule("spell-partial-rotary", (part_of_head,), plain, min_opset=23)
