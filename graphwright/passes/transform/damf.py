"""Replace the query and key projections of attention by few vectors a head; its softmax by one of linear time.

Before:                                                       After:
    x -- MatMul Wq -- (+ bq) -- q --+                             x -- MatMul u -- (+ bu) -- p --+
    y -- MatMul Wk -- (+ bk) -- k --+-- Attention -- z            y -- MatMul v -- (+ bv) -- n --+-- softmax -- z
    y -- MatMul Wv -- (+ bv) -- v --+   (mask)                    y -- MatMul Wv -- (+ bv) -- v -+   (mask)

u and v are the best approximation of ``scale * [x,1] Wq~ Wk~^T [y,1]^T`` by a rank, head by head
(plugins/damf/factors.py); scores are p n^T. Options:

* ``rank``: 1 to the head size, the head size alone is exact. Text such as "1,4" gives one for each chosen layer, and
  "1:1:4,2" one for each chosen head of the first of two: heads of equal rank are made together, and the following
  product joins in only where all heads have one rank.
* ``softmax``: ``exact`` keeps Attention, with heads of size rank. ``maclaurin`` weighs with c + p n instead of
  exp(p n): one product of sums over keys (damf_linear.py), no S x T matrix. ``shift`` rounds scores to powers of two,
  for studies of hardware (damf_shift.py).
* ``layers`` and ``heads``: which, counted from 0 in the order of the graph: ``all``, or text such as "0,2-5".
* ``budget`` and ``evaluate``: a share such as "0.5%" that a score may lose, and ``evaluate(model)``, which gives the
  score. The cheapest ranks by head that keep it are chosen (damf_budget.py); ``rank`` is not read. From Python only:
  ``dataclasses.replace(DAMF, make=partial(DAMF.make, budget="0.5%", evaluate=score))`` stands in a list of passes.

The weights stay what they were trained for, so small ranks need tuning afterwards (graphwright.damf).

Shapes:    x [B,S,E], y [B,T,F], Attention of 3 or 4 axes; heads and all widths static, B, S and T may be dynamic.
Dtypes:    float32, float64; ``exact`` also float16 and bfloat16.
Refuses:   OPSET below 23; DTYPE not listed; RANK inputs that are not [B,S,E]; UNKNOWN sizes; SHAPE grouped heads, or
           causality where S and T differ; STRUCTURE another operator between a projection and the attention, as rotary
           positions are, and for maclaurin and shift a mask that is not known to be of keys, or causal; CONSTANT
           weights that are not constant or quantised; ATTRIBUTE softcap, but for ``exact``; SHARED and GRAPH_OUTPUT
           projections, present keys or scores that others need. An attention that is refused stays. Where none is
           left, a rank above the head size, weights that are NaN or infinite, and a layer that is named and refused
           are errors, before anything changes.
Numerics:  changes the numbers: an approximation but for rank = head size and ``exact``. An additive mask of keys is
           read as one: keys with less than -1000 leave, other numbers in it are not added.
Source:    Yang et al., "Hardware Friendly Transformer Optimization with Dynamic Attention Matrix Fusion", eq. 5-17;
           plugins/damf/reference.py for what the paper leaves open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, Op, PatternOps, Var
from graphwright.engine.pipeline import Pipeline, RuleMaker, Step, run_pipeline
from graphwright.engine.rewrite import Builder, Reason, Refusal, Rule, Run, require
from graphwright.errors import PipelineError
from graphwright.passes.attention import require_splits_last_axis
from graphwright.passes.transform.damf_budget import Evaluate, ranks_within
from graphwright.passes.transform.damf_layers import Layer, emit, read_layer
from graphwright.passes.transform.damf_options import chosen, chosen_ranks, ranks_text, require_softmax

# What a replaced attention is marked with: its number, so that others keep theirs and it is not replaced again.
MARK = "graphwright.damf"
# How many refusals an error names.
MOST_NAMED = 3


def _attention(op: PatternOps, q: Var, k: Var, v: Var, mask: Var | None) -> Named:
    is_left = op.check(op.Attention(q, k, v, mask), "attention that was not replaced", _is_left)
    return op.named("attention", is_left)


def _heads_merged(op: PatternOps, attention: Named) -> Named:
    return op.named("merged", op.Reshape(op.Transpose(attention, perm=[0, 2, 1, 3]), op.var("shape")))


def projected(op: PatternOps, q: Var, k: Var, v: Var, mask: Var | None = None) -> Op:
    one = _attention(op, q, k, v, mask)
    following = op.check(op.var("following"), "a constant matrix", _is_constant_matrix)
    node: Op = op.MatMul(op.any_of(_heads_merged(op, one), one), following)
    return node


def merged(op: PatternOps, q: Var, k: Var, v: Var, mask: Var | None = None) -> Named:
    return _heads_merged(op, _attention(op, q, k, v, mask))


def alone(op: PatternOps, q: Var, k: Var, v: Var, mask: Var | None = None) -> Named:
    return _attention(op, q, k, v, mask)


def _is_left(value: ir.Value) -> bool:
    node = value.producer()
    return node is not None and MARK not in node.metadata_props


def _is_constant_matrix(value: ir.Value) -> bool:
    tensor = facts.constant(value)
    return tensor is not None and len(tensor.shape) == 2


@dataclass(frozen=True)
class Choice:
    """What is done: the number of each chosen attention, the heads and, of those that fit, their ranks; the softmax."""

    numbers: Mapping[ir.Node, int]
    ranks: Mapping[int, Sequence[int]]
    heads: str | int
    softmax: str

    def rewrite(
        self,
        op: Builder,
        attention: ir.Value,
        merged: ir.Value | None,
        shape: ir.Value | None,
        following: ir.Value | None,
    ) -> ir.Value:
        """Replace one attention."""
        node = attention.producer()
        assert node is not None
        number = self.numbers.get(node)
        require(number is not None, Reason.STRUCTURE, f"{facts.place(node)} is not chosen")
        assert number is not None
        is_flat = merged is not None and facts.rank(merged) == 2 and following is None
        if merged is not None and not is_flat:
            require_splits_last_axis(merged, attention, axes=(0, 2, 1, 3))
        layer = read_layer(node, self.softmax)
        heads = chosen(self.heads, layer.heads, "heads")
        ranks = dict(zip(heads, self.ranks[number], strict=True))
        result = emit(op, layer, self.softmax, ranks, following)
        if is_flat:
            result = op.Reshape(result, shape)
        elif merged is None and following is None and facts.rank(attention) == 4:
            split = op.Reshape(result, [0, 0, layer.heads, layer.value_size])
            result = op.Transpose(split, perm=[0, 2, 1, 3])
        for made in op.nodes:
            if made.op_type == "Attention" or made is result.producer():
                made.metadata_props[MARK] = str(number)
        return result


def make(
    model: ir.Model,
    rank: int | str = 1,
    softmax: str = "maclaurin",
    layers: str | int = "all",
    heads: str | int = "all",
    budget: str | float | None = None,
    evaluate: Evaluate | None = None,
) -> Rule:
    """Return the rule that replaces what the options choose in a model, which is not changed.

    Raises:
        PipelineError: options that are wrong or do not fit the model, a model without attention that can be replaced,
            weights that are NaN or infinite, a budget that no rank keeps.
    """
    require_softmax(softmax)
    numbers, done = _numbers(model)
    total = 1 + max((*numbers.values(), *done), default=-1)
    if not total:
        raise PipelineError("damf", "a model without attention", needed="Attention, which the lift passes make")
    wanted = chosen(layers, total, "layers")
    numbers = {node: number for node, number in numbers.items() if number in wanted}
    found = _readable(numbers, softmax, must_all=layers != "all")
    shapes = [(len(chosen(heads, layer.heads, "heads")), layer.size) for layer in found.values()]
    if budget is None:
        ranks = chosen_ranks(rank, [count for count, _ in shapes])
    else:
        options = {"softmax": softmax, "layers": layers, "heads": heads}
        ranks = ranks_within(budget, evaluate, model, shapes, partial(_replaced, model, options))
    for layer, own in zip(found.values(), ranks, strict=True):
        if max(own) > layer.size:
            raise PipelineError(f"{facts.place(layer.node)}: damf", f"rank {max(own)}", needed=f"1 to {layer.size}")
    choice = Choice(numbers, dict(zip(found, ranks, strict=True)), heads, softmax)
    is_exact = softmax == "exact" and all(min(own) == size for own, (_, size) in zip(ranks, shapes, strict=True))
    patterns = (projected, merged, alone)
    return Rule("damf", patterns, choice.rewrite, min_opset=23, changes_numbers=not is_exact)


def _numbers(model: ir.Model) -> tuple[dict[ir.Node, int], set[int]]:
    """Return the number of each attention that is left, in the order of the graph, and those that were replaced."""
    nodes = [node for graph in facts.graphs(model) for node in graph]
    done = {int(node.metadata_props[MARK]) for node in nodes if MARK in node.metadata_props}
    free = (number for number in count() if number not in done)
    left = (node for node in nodes if node.op_type == "Attention" and not node.domain)
    return {node: next(free) for node in left if MARK not in node.metadata_props}, done


def _readable(numbers: Mapping[ir.Node, int], softmax: str, *, must_all: bool) -> dict[int, Layer]:
    """Return the layers that can be replaced, by number; raise where none can, or one cannot that must."""
    found, refused = {}, []
    for node, number in numbers.items():
        try:
            found[number] = read_layer(node, softmax)
        except Refusal as refusal:
            refused.append(f"{facts.place(node)}: {refusal.reason.name}, {refusal.detail}")
    if refused and (must_all or not found):
        more = f", and {len(refused) - MOST_NAMED} more" if len(refused) > MOST_NAMED else ""
        hint = "layers=... without them" if found else ""
        text = "; ".join(refused[:MOST_NAMED]) + more
        raise PipelineError("damf", f"attention that has no such form: {text}", needed=f"softmax={softmax}", hint=hint)
    return found


def _replaced(model: ir.Model, options: Mapping[str, Any], ranks: Sequence[Sequence[int]]) -> ir.Model:
    """Return a copy of the model with these ranks."""
    step = Step(DAMF, "transform", {**options, "rank": ranks_text(ranks)})
    return run_pipeline(Run(model.clone()), Pipeline((step,)))


DAMF = RuleMaker("damf", make, changes_numbers=True)
