"""Fuse softmax and the choice of the likeliest class, with its probability or without, into ``hars.softmax_topk``.

Before:                                               After:
    x -- Softmax or LogSoftmax --+-- ArgMax ---- i        x -- softmax_topk<k=1, mode="prob"> --+-- i
                                 +-- ReduceMax -- y                                             +-- y

    x -- Softmax or LogSoftmax -- ArgMax -- i             x -- softmax_topk<k=1, mode="logit"> -- i

Either may be there alone; a label without its probability needs no softmax at all. Where a dimension is not kept, it
is squeezed from the result. The logits may be cast to float32 before, the probabilities cast after.

Shapes:    x [..., V, ...] with V on any axis; i and y [..., 1, ...], or without that axis; all may be dynamic.
Dtypes:    x float32, float16, bfloat16; y the same three.
Refuses:   OPSET below 20; DTYPE not listed; UNKNOWN a type or axes that are not known; ATTRIBUTE softmax, label or
           probability over different axes, or over several; SHARED and GRAPH_OUTPUT interior values, such as the
           probabilities of all classes.
Numerics:  ranks logits, not rounded probabilities: where those tie, the label may differ. The same formula for the
           probability.
Source:    Milakov and Gimelshein 2018 (online softmax), arXiv:1805.02867, section 3.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Named, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.selection import (
    MIN_OPSET,
    MODES,
    cast_like,
    in_float32,
    require_axis,
    require_float,
    require_logits,
    softmax,
)
from graphwright.plugins.hars.meaning import call_softmax_topk


def _shares(op: PatternOps, logits: Var) -> Named:
    shares: AnyOf = softmax(op, in_float32(op, logits))
    return op.named("ranked", op.any_of(op.Cast(shares, to=op.attr("_to")), shares))


def _label(op: PatternOps, shares: Named) -> Named:
    options = {"axis": op.attr("axis"), "keepdims": op.attr("label_keeps"), "select_last_index": 0}
    return op.named("label", op.ArgMax(shares, **options))


def _score(op: PatternOps, shares: Named) -> Named:
    return op.named("score", op.ReduceMax(shares, op.var("axes"), keepdims=op.attr("score_keeps")))


def label_and_score(op: PatternOps, logits: Var) -> tuple[Named, Named]:
    shares = _shares(op, logits)
    return _label(op, shares), _score(op, shares)


def score_alone(op: PatternOps, logits: Var) -> Named:
    return _score(op, _shares(op, logits))


def label_alone(op: PatternOps, logits: Var) -> Named:
    return _label(op, _shares(op, logits))


def likeliest(
    op: Builder,
    logits: ir.Value,
    ranked: ir.Value,
    softmax_axis: int,
    kind: int,
    label: ir.Value | None,
    axis: int,
    label_keeps: int,
    score: ir.Value | None,
    axes: ir.Value | None,
    score_keeps: int,
) -> tuple[ir.Value, ...]:
    require_logits(logits)
    require_float(ranked)
    place = require_axis(ranked, softmax_axis, softmax_axis if label is None else axis)
    if score is not None:
        found = facts.integers(axes)
        one = found is not None and len(found) == 1
        require(one, Reason.ATTRIBUTE, f"{facts.describe(axes)} is no constant axis")
        assert found is not None
        require_axis(ranked, softmax_axis, found[0])
    mode = "logit" if score is None else MODES[kind]
    value, index = call_softmax_topk(op, logits, k=1, axis=place, mode=mode)
    results = [] if label is None else [index if label_keeps else op.Squeeze(index, [place])]
    if score is not None:
        value = cast_like(op, value, score)
        results.append(value if score_keeps else op.Squeeze(value, [place]))
    return tuple(results)


FUSE_SOFTMAX_ARGMAX = Rule(
    "fuse-softmax-argmax", (label_and_score, score_alone, label_alone), likeliest, min_opset=MIN_OPSET
)
