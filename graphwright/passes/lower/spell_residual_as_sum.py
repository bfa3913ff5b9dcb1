"""Spell the residual sum before a norm as ``Sum``, out of reach of ONNX Runtime's slower fused operator.

Before:                                          After:
    x ----+                                          x ----+
    skip -+-- Add -- LayerNormalization -- y         skip -+-- Sum -- LayerNormalization -- y
               +---- total                                      +---- total

ONNX Runtime fuses ``Add`` and ``LayerNormalization`` into ``SkipLayerNormalization`` by itself, whose CPU kernel (1.31)
takes two to five times as long as the two at every shape that was measured (docs/design/0004-ort-cpu-defaults.md). It
does not look at ``Sum``, which adds the same two numbers.

Shapes:    x and skip [...] of the same shape, which may be dynamic.
Dtypes:    those of LayerNormalization-17; Sum-13 takes them all.
Refuses:   SHAPE or UNKNOWN x and skip of which equal shapes are not known: there ``Sum`` is slower.
Numerics:  the same.
Source:    ONNX operators Sum-13 and Add-14; benchmarks/operators.py.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require


def norm_of_sum(op: PatternOps, x: Var, skip: Var, scale: Var, shift: Var | None = None) -> tuple[Named, Op]:
    total = op.Add(x, skip)
    return op.named("y", op.LayerNormalization(total, scale, shift)), total


def with_sum(
    op: Builder, x: ir.Value, skip: ir.Value, scale: ir.Value, shift: ir.Value | None, y: ir.Value
) -> tuple[ir.Value, ir.Value]:
    detail = f"{facts.describe(x)} and {facts.describe(skip)} must be of one shape"
    require(facts.rank(x) == facts.rank(skip), Reason.SHAPE, detail)
    require(facts.same_shape(x, skip), Reason.UNKNOWN, detail)
    norm = y.producer()
    assert norm is not None
    total = op.Sum(x, skip)
    return op.copy(norm, [total, scale, shift]), total


SPELL_RESIDUAL_AS_SUM = Rule("spell-residual-as-sum", (norm_of_sum,), with_sum, min_opset=17)
