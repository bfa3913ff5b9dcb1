"""Choose the candidates of a beam step from the k best tokens of each beam, instead of from all tokens of all beams.

Before:
    x [B*W,V] -- LogSoftmax -- + scores -- Reshape [B,W*V] -- TopK<k> --+-- y [B,k]
                                                                        +-- i [B,k]
After:
    x -- softmax_topk<k> --+-- values -- + scores -- Reshape [B,W*k] -- TopK<k> --+-- y
                           +-- tokens -- Reshape [B,W*k] ------- Gather (place) --+-- place
    i = place / k * V + token

The k best of each beam suffice. A score is the same number for all tokens of its beam and addition keeps order, so
tokens of one beam are ordered after the addition as before it. A token that is not among the k best of its beam has k
tokens of its own beam before it, and so cannot be among the k best of all. Ties: TopK puts the lower of two equal
places first. Places count beam after beam in both forms, and inside a beam equal tokens stand by lowest index, so
equals come in the same order. Only where addition or LogSoftmax rounds different tokens to one number may the two
forms take another of them; the number is the same.

Shapes:    x [B*W,V] or [B,W,V]; scores [B*W,1] or [B,W,1] or a part of it; V and k fixed, B may be dynamic, W too if
           x has it as an axis. A Reshape may split [B*W,V] into [B,W,V] before the scores are added. Tokens are
           expanded where the scores may have more rows than x.
Dtypes:    x float32, float16, bfloat16; scores and y the same three.
Refuses:   OPSET below 20; DTYPE not listed; UNKNOWN k, V, a rank, or rows that are not known to be whole; SHAPE k
           above V, or scores that differ between tokens, or rows that are cut elsewhere; RANK scores that add axes, a
           result of more than two axes; ATTRIBUTE softmax or choice over another axis than the last; SHARED and
           GRAPH_OUTPUT interior values.
Numerics:  the same sums in the same order; ends because each application removes a LogSoftmax and makes none.
Source:    Wang et al. 2021 (LightSeq), arXiv:2010.13887, section 2.2.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, Output, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.selection import (
    MIN_OPSET,
    cast_like,
    in_float32,
    require_axis,
    require_count,
    require_float,
    require_logits,
)
from graphwright.plugins.hars.meaning import call_softmax_topk


def best_of_all_beams(op: PatternOps, logits: Var, scores: Var, k: Var) -> tuple[Output, Output]:
    logprobs = op.named("logprobs", op.LogSoftmax(in_float32(op, logits), axis=op.attr("softmax_axis")))
    by_beam: Named = op.named("by_beam", op.any_of(op.Reshape(logprobs, op.var("_split")), logprobs))
    total = op.Add(by_beam, scores)
    flat = op.named("flat", op.Reshape(total, op.var("_joined")))
    best, indices = op.TopK(flat, k, axis=op.attr("axis"), largest=1, _outputs=2)
    return best, indices


def candidates(
    op: Builder,
    logits: ir.Value,
    scores: ir.Value,
    k: ir.Value,
    logprobs: ir.Value,
    by_beam: ir.Value,
    flat: ir.Value,
    softmax_axis: int,
    axis: int,
) -> tuple[ir.Value, ir.Value]:
    require_logits(logits)
    require_float(logprobs)
    require_axis(logprobs, softmax_axis, -1)
    require_axis(flat, axis, -1)
    vocabulary = facts.static_dim(logprobs, -1)
    require(vocabulary is not None, Reason.UNKNOWN, f"the last size of {facts.describe(logprobs)} is not known")
    assert vocabulary is not None
    count = require_count(k, logprobs, -1)
    is_as_large = _require_one_score_a_beam(scores, by_beam)
    joined = _joined(by_beam, flat, vocabulary, count)
    values, tokens = call_softmax_topk(op, logits, k=count)
    values = cast_like(op, values, logprobs)
    if by_beam is not logprobs:
        split = _split(op, by_beam, scores, vocabulary, count)
        values, tokens = op.Reshape(values, split), op.Reshape(tokens, split)
    total = op.Add(values, scores)
    if not is_as_large:
        tokens = op.Expand(tokens, op.Shape(total))
    best, place = op.TopK(op.Reshape(total, joined), k, axis=-1, _outputs=2)
    token = op.GatherElements(op.Reshape(tokens, joined), place, axis=-1)
    return best, op.Add(op.Mul(op.Div(place, count), vocabulary), token)


def _require_one_score_a_beam(scores: ir.Value, by_beam: ir.Value) -> bool:
    """Refuse scores that differ between tokens; tell whether the sum is known to have the shape of ``by_beam``."""
    rank, count = facts.rank(scores), facts.rank(by_beam)
    detail = f"the scores {facts.describe(scores)} must be one for each row of {facts.describe(by_beam)}"
    require(rank is not None and count is not None, Reason.UNKNOWN, detail)
    assert rank is not None
    assert count is not None
    require(rank <= count, Reason.RANK, detail)
    last = facts.dim(scores, -1) if rank else 1
    require(not isinstance(last, int) or last == 1, Reason.SHAPE, detail)
    require(last == 1, Reason.UNKNOWN, detail)
    pairs = [(facts.dim(scores, axis), facts.dim(by_beam, axis)) for axis in range(-rank, -1)]
    return all(size == 1 or facts.same_dim(size, rows) for size, rows in pairs)


def _joined(by_beam: ir.Value, flat: ir.Value, vocabulary: int, count: int) -> list[int]:
    """Return the shape in which the candidates of all beams of one item stand in a row."""
    rank = facts.rank(flat)
    detail = f"{facts.describe(flat)} must have whole rows of {facts.describe(by_beam)}"
    require(rank is not None, Reason.UNKNOWN, detail)
    assert rank is not None
    require(rank <= 2, Reason.RANK, detail)
    kept = facts.static_dim(by_beam, -1)
    require(kept == vocabulary, Reason.UNKNOWN if kept is None else Reason.SHAPE, detail)
    width = facts.static_dim(flat, -1)
    if width is not None:
        require(width % vocabulary == 0, Reason.SHAPE, detail)
        return [-1, width // vocabulary * count][-rank:]
    keeps_items = rank == 2 and facts.rank(by_beam) == 3 and facts.same_dim(facts.dim(by_beam, 0), facts.dim(flat, 0))
    require(keeps_items, Reason.UNKNOWN, detail)
    return [0, -1]


def _split(op: Builder, by_beam: ir.Value, scores: ir.Value, vocabulary: int, count: int) -> ir.Value | list[int]:
    """Return the shape of ``by_beam`` with k in place of V."""
    rank = facts.rank(by_beam) or 0
    leading = [facts.static_dim(by_beam, axis) for axis in range(rank - 1)]
    if leading.count(None) <= 1:
        return [*(-1 if size is None else size for size in leading), count]
    detail = f"the leading sizes of {facts.describe(by_beam)} must be those of {facts.describe(scores)}"
    same = facts.rank(scores) == rank
    same = same and all(facts.same_dim(facts.dim(scores, axis), facts.dim(by_beam, axis)) for axis in range(rank - 1))
    require(same, Reason.UNKNOWN, detail)
    shape: ir.Value = op.Concat(op.Shape(scores, start=0, end=-1), [count], axis=0)
    return shape


FUSE_BEAM_CANDIDATES = Rule("fuse-beam-candidates", (best_of_all_beams,), candidates, min_opset=MIN_OPSET)
