"""Fuse attention with sinks, a number for each head that takes part in the softmax alone, into ``Attention``.

Before:                                                        After:
    q, k -- MatMul -- steps -- Concat -- Softmax -- Slice --+      q   Pad(k)   Pad(v)   Concat(mask, sink)
                               |                            |      |   |        |        |
    sink [B,H,S,1] ------------+               v -- MatMul -+      Attention<scale>
                                                      |               |
                                                      y [B,H,S,E]     y

The sink is the score of one more key. That key is 0, so its score is what the mask holds for it; its value is 0, so it
adds nothing to the sum. The greatest score may be subtracted before the softmax.

Shapes:    q [B,H,S,D], k [B,H,T,D] or [B,1,T,D], v alike, sink broadcastable to [B,H,S,1]; steps as in
           ``fuse-attention``.
Dtypes:    float16, bfloat16, float32.
Refuses:   OPSET below 24; DTYPE not listed, or types that differ; RANK not 4; SHAPE and UNKNOWN sizes that differ or
           are not known to be equal; CONSTANT a scale that is not above zero and finite; SHARED and GRAPH_OUTPUT
           interior values.
Numerics:  same sum. Keys and values are copied once, and the mask is made for each head, as the scores were.
Source:    Xiao et al. 2023, arXiv:2309.17453; gpt-oss, arXiv:2508.10925; ONNX operator Attention-24.
"""

from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.facts import Dim
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.engine.shapes import sizes
from graphwright.passes.attention import number, require_same
from graphwright.passes.attention_axes import Axes, leads_of
from graphwright.passes.attention_operands import require_fitting_sizes
from graphwright.passes.attention_pattern import keys, precision_of, product, require_types, scale_of, softmax_of, whole
from graphwright.passes.attention_scores import Scores, fold_steps, raised, steps_from

# One more key behind the last, on the third of four axes.
ONE_KEY = [0, 0, 0, 0, 0, 0, 1, 0]


def with_sink(op: PatternOps, k: Var, sink: Var) -> Op:
    joined = op.Concat(steps_from(op, product(op, k)), sink, axis=-1)
    shifted = op.any_of(op.Sub(joined, op.ReduceMax(joined, op.axes(-1), keepdims=1)), joined)
    weights = op.Slice(softmax_of(op, shifted), [0], [-1], op.axes(-1), [1])
    node: Op = op.MatMul(weights, whole(op, "v"))
    return node


def attention(op: Builder, q: ir.Value, v: ir.Value, sink: ir.Value, softmax: int, **bound: Any) -> ir.Value:
    require_types(q, v)
    require(facts.rank(q) == 4, Reason.RANK, f"{facts.describe(q)}; needs [batch, heads, length, size]")
    k, _ = keys(op, **bound)
    require_fitting_sizes(q, k, v)
    _require_sink(sink, q)
    axes = Axes(leads_of(q), facts.dim(q, 2), facts.dim(k, 2), (q, k, v))
    is_closed = facts.same_dim(facts.dim(k, 2), facts.dim(v, 2))
    scores = fold_steps(op, Scores(q, axes, scale_of(bound)), bound, is_closed=is_closed)
    same = scores.axes.leads_as(axes)
    require(same, Reason.UNKNOWN, "the scores are not known to be of four axes again before the sink")
    mask = number(op, q, 0.0) if scores.mask is None else raised(op, scores.mask, scores.is_raised)
    wide = _spread(op, mask, q, facts.dim(k, 2), op.Shape(k, start=2, end=3))
    joined = op.Concat(wide, _spread(op, sink, q, 1, [1]), axis=-1)
    columns = _one_more(facts.dim(k, 2))
    joined.shape = ir.Shape([*axes.leads, axes.rows, columns])
    attributes = {"scale": scores.factor, "softcap": scores.cap, "softmax_precision": precision_of(softmax, q)}
    longer = (_longer(op, k, columns), _longer(op, v, columns))
    result: ir.Value = op.Attention(scores.queries, *longer, joined, **attributes)
    return result


def _spread(op: Builder, value: ir.Value, q: ir.Value, columns: Dim | None, length: ir.Value | list[int]) -> ir.Value:
    """Repeat a value for every batch, head and query, and for so many columns, unless it is that large."""
    wanted = [*(facts.dim(q, axis) for axis in range(3)), columns]
    is_wide = facts.rank(value) == 4
    if is_wide and all(facts.same_dim(facts.dim(value, axis), size) for axis, size in enumerate(wanted)):
        return value
    wide: ir.Value = op.Expand(value, op.Concat(op.Shape(q, start=0, end=3), length, axis=0))
    wide.shape = ir.Shape(wanted)
    return wide


def _one_more(length: Dim | None) -> int | str | None:
    return sizes.add(length if isinstance(length, int) or length is None else length.value, 1)


def _longer(op: Builder, value: ir.Value, length: int | str | None) -> ir.Value:
    longer: ir.Value = op.Pad(value, ONE_KEY)
    longer.shape = ir.Shape([facts.dim(value, 0), facts.dim(value, 1), length, facts.dim(value, 3)])
    return longer


def _require_sink(sink: ir.Value, q: ir.Value) -> None:
    require(sink.dtype == q.dtype, Reason.DTYPE, f"the sink {sink.name} is {sink.dtype}, {q.name} is {q.dtype}")
    require(facts.rank(sink) == 4, Reason.RANK, f"{facts.describe(sink)}; needs [batch, heads, length, 1]")
    require(facts.dim(sink, 3) == 1, Reason.SHAPE, f"{facts.describe(sink)}; needs one sink on axis 3")
    for axis in range(3):
        if facts.dim(sink, axis) != 1:
            require_same(sink, axis, q, axis)


FUSE_ATTENTION_SINKS = Rule("fuse-attention-sinks", (with_sink,), attention, min_opset=24)
