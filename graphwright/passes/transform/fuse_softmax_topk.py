"""Fuse softmax and the choice of the k largest into one read of the logits, ``hars.softmax_topk``.

Before:                                          After:
    x -- Softmax or LogSoftmax -- TopK --+-- y       x -- softmax_topk<k, mode> --+-- y
                                         +-- i                                    +-- i

    x -- / c -- Softmax -- TopK --+-- y              x -- softmax_topk<k, temperature=c> --+-- y
                                  +-- i                                                    +-- i

    x -- Softmax -- TopK --+------------- / -- y     x -- softmax_topk<mode="prob_renorm"> --+-- y
                           +-- ReduceSum -+                                                  +-- i
                           +-- i

    x -- TopK --+-- Softmax -- y                     x -- softmax_topk<mode="prob_renorm"> --+-- y
                +-- i                                                                        +-- i

The division may be a multiplication. The logits may be cast to float32 before, the probabilities cast after: the
operator computes in float32, and only the chosen are cast. The sum that divides the chosen may have up to 1e-12
added to it. Where nobody uses the values, mode is "logit", which computes no softmax. An unsorted TopK becomes sorted.

Shapes:    x [..., V, ...] with V on any axis; y and i [..., k, ...]; other sizes may be dynamic, V may be unknown.
Dtypes:    x float32, float16, bfloat16; y the same three.
Refuses:   OPSET below 20; DTYPE not listed, or a temperature below float32; UNKNOWN k that is no constant, a type or
           axes that are not known; SHAPE k above V or below 1; ATTRIBUTE TopK, Softmax or sum over different axes;
           CONSTANT a temperature that is not above zero, finite, and with a reciprocal in float32; RANK a temperature
           that adds axes; SHARED and GRAPH_OUTPUT interior values, such as the probabilities of all classes. A
           temperature or sum that is refused stays where it is, and the rest is fused.
Numerics:  ranks logits, not rounded probabilities: where those tie, indices may differ. x / c is x times float32(1/c),
           off by 2e-7 of x at most; the rest is the same formula.
Source:    Wang et al. 2021 (LightSeq), arXiv:2010.13887, section 2.2; Shazeer et al. 2017, arXiv:1701.06538.
"""

import math

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Named, Output, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.selection import (
    FLOAT,
    MIN_OPSET,
    MODES,
    cast_like,
    in_float32,
    require_axis,
    require_count,
    require_float,
    require_logits,
    softmax,
)
from graphwright.plugins.hars.meaning import call_softmax_topk

# The chosen probabilities add up to at least 1/V, of which this is no more than 1e-6 for any V below a million.
VANISHES = 1e-12
# Two units in the last place of float32.
TWO_ULP = 2.0**-22


def _tempered(op: PatternOps, logits: Var) -> AnyOf:
    single = in_float32(op, logits)
    over, times = (
        op.check(op.var(name), "a constant number", lambda value: facts.scalar(value) is not None)
        for name in ("over", "times")
    )
    return op.any_of(op.named("tempered", op.any_of(op.Div(single, over), op.Mul(single, times))), single)


def _largest_shares(op: PatternOps, logits: Var, k: Var) -> tuple[Output, Output]:
    shares = softmax(op, _tempered(op, logits))
    between = op.any_of(op.Cast(shares, to=op.attr("_to")), shares)
    best, indices = op.TopK(op.named("ranked", between), k, axis=op.attr("axis"), largest=1, _outputs=2)
    return best, indices


def shares_of_their_sum(op: PatternOps, logits: Var, k: Var) -> tuple[Named, Output]:
    best, indices = _largest_shares(op, logits, k)
    total = op.ReduceSum(best, op.var("sum_axes"), keepdims=1)
    tiny = op.check(op.var("_tiny"), f"a constant of at most {VANISHES}", _vanishes)
    return op.named("y", op.Div(best, op.any_of(op.Add(total, tiny), total))), indices


def softmax_of_largest(op: PatternOps, logits: Var, k: Var) -> tuple[Named, Output]:
    ranked = op.named("ranked", in_float32(op, logits))
    best, indices = op.TopK(ranked, k, axis=op.attr("axis"), largest=1, _outputs=2)
    return op.named("y", op.Softmax(in_float32(op, best), axis=op.attr("softmax_axis"))), indices


def largest_of_softmax(op: PatternOps, logits: Var, k: Var) -> tuple[Named, Output]:
    best, indices = _largest_shares(op, logits, k)
    return op.named("y", best), indices


def _vanishes(value: ir.Value) -> bool:
    # The sum has at least one axis, so a constant of one adds none to it.
    number = facts.scalar(value) if (facts.rank(value) or 0) <= 1 else None
    return number is not None and 0 <= number <= VANISHES


def chosen(
    op: Builder,
    logits: ir.Value,
    k: ir.Value,
    ranked: ir.Value,
    y: ir.Value,
    axis: int,
    softmax_axis: int,
    kind: int | None,
    sum_axes: ir.Value | None,
    tempered: ir.Value | None,
    over: ir.Value | None,
    times: ir.Value | None,
) -> tuple[ir.Value, ir.Value]:
    require_logits(logits)
    require_float(y)
    temperature = 1.0 if tempered is None else _temperature(tempered, logits, over, times)
    place = require_axis(ranked, axis, softmax_axis)
    count = require_count(k, ranked, axis)
    mode = "prob_renorm" if kind is None else MODES[kind]
    if sum_axes is not None:
        require(mode == "prob", Reason.ATTRIBUTE, f"{y.name} divides logarithms by their sum")
        _require_sum_over(sum_axes, ranked, axis)
        mode = "prob_renorm"
    if not y.uses() and not y.is_graph_output():
        mode = "logit"
    values, indices = call_softmax_topk(op, logits, k=count, axis=place, mode=mode, temperature=temperature)
    return cast_like(op, values, y), indices


def _require_sum_over(sum_axes: ir.Value, ranked: ir.Value, axis: int) -> None:
    found = facts.integers(sum_axes)
    one = found is not None and len(found) == 1
    require(one, Reason.ATTRIBUTE, f"{facts.describe(sum_axes)} is no constant axis")
    assert found is not None
    require_axis(ranked, found[0], axis)


def _temperature(tempered: ir.Value, logits: ir.Value, over: ir.Value | None, times: ir.Value | None) -> float:
    """Return c of ``x / c`` or ``x * (1 / c)``."""
    given = over if over is not None else times
    number = facts.scalar(given)
    assert given is not None
    assert number is not None
    require(tempered.dtype == FLOAT, Reason.DTYPE, f"{tempered.name} is {tempered.dtype}, rounded before the choice")
    adds_axes = facts.rank(given) != 0 and facts.rank(tempered) != facts.rank(logits)
    require(not adds_axes, Reason.RANK, f"{facts.describe(given)} adds axes to {facts.describe(logits)}")
    usable = number > 0 and math.isfinite(number)
    require(usable, Reason.CONSTANT, f"{given.name} is {number}, no temperature")
    wanted = 1 / number if over is not None else number
    with np.errstate(all="ignore"):
        degrees = np.float32(1 / wanted)
        factor = float(np.float32(1) / degrees)
    detail = f"{given.name} is {number}, which has no reciprocal in float32"
    require(abs(factor - wanted) <= TWO_ULP * wanted, Reason.CONSTANT, detail)
    return float(degrees)


FUSE_SOFTMAX_TOPK = Rule(
    "fuse-softmax-topk", (shares_of_their_sum, softmax_of_largest, largest_of_softmax), chosen, min_opset=MIN_OPSET
)
