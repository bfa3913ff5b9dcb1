"""The cheapest ranks of damf that keep a score: one for all heads first, then each layer's, then each head's; no rule.

Cheapest means fewest parameters and MACs of u and v, which are the sum of the ranks in each layer. Heads of equal rank
share their products, so of choices that cost the same the one with fewer ranks in a layer is better: last, heads of two
ranks take the mean of them where that is a whole number.

The score is taken for one that falls with the rank, so that each choice is a bisection. At head size D, of L layers
with H chosen heads, it takes at most ``2 + (1 + L + L H) ceil(log2 D)`` evaluations, and one for each two ranks in a
layer that have such a mean; a head whose layer is at rank 1 takes none. Layers and heads are lowered in their order,
each as far as those before have left room, so that other ranks may be cheaper still. Only ranks whose score was seen to
keep the budget are answered with.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import onnx_ir as ir

from graphwright.errors import PipelineError

# Gives a model's score, of which more is better. It may not change the model.
Evaluate = Callable[[ir.Model], float]
# Of each head by its layer and its place there: the rank.
Ranks = Mapping[tuple[int, int], int]
Keeps = Callable[[Ranks], bool]


def ranks_within(
    budget: str | float,
    evaluate: Evaluate | None,
    model: ir.Model,
    shapes: Sequence[tuple[int, int]],
    replaced: Callable[[Sequence[Sequence[int]]], ir.Model],
) -> list[tuple[int, ...]]:
    """Return the ranks of each layer's heads, of which ``shapes`` gives the number and the size.

    ``replaced`` makes a copy of the model with some ranks.

    Raises:
        PipelineError: a budget that cannot be read, nothing to evaluate with, a score that is no finite number, or no
            ranks that keep the budget.
    """
    share = read_share(budget)
    if evaluate is None:
        hint = "rank=..., or from Python replace(DAMF, make=partial(DAMF.make, budget=..., evaluate=...))"
        raise PipelineError("damf(budget)", "no evaluate", needed="a function from a model to its score", hint=hint)
    start = _score(evaluate, model.clone())
    least = start - share * abs(start)
    scores: dict[tuple[tuple[int, ...], ...], float] = {}

    def score(ranks: Ranks) -> float:
        key = tuple(_by_layer(ranks, shapes))
        if key not in scores:
            scores[key] = _score(evaluate, replaced(key))
        return scores[key]

    full = {(layer, head): size for layer, (heads, size) in enumerate(shapes) for head in range(heads)}
    if score(full) < least:
        found = f"a score of {score(full):.6g} at full rank, of {start:.6g} before"
        hint = "softmax=exact, fewer layers, or a larger budget; a tuned model keeps more"
        raise PipelineError("damf(budget)", found, needed=f"at least {least:.6g}", hint=hint)
    return _by_layer(_cheapest(full, len(shapes), lambda ranks: score(ranks) >= least), shapes)


def _by_layer(ranks: Ranks, shapes: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    return [tuple(ranks[layer, head] for head in range(heads)) for layer, (heads, _) in enumerate(shapes)]


def _cheapest(ranks: Ranks, layers: int, keeps: Keeps) -> Ranks:
    """Return ranks that keep the budget, as these do."""
    by_layer = [[place for place in ranks if place[0] == layer] for layer in range(layers)]
    for together in ([*ranks], *by_layer, *([place] for place in ranks)):
        ranks = _lowered(ranks, together, keeps)
    for together in by_layer:
        ranks = _joined(ranks, together, keeps)
    return ranks


def _lowered(ranks: Ranks, together: Sequence[tuple[int, int]], keeps: Keeps) -> Ranks:
    """Return the ranks with those of some heads cut at the smallest number that keeps the budget, by bisection."""

    def cut(most: int) -> Ranks:
        return {**ranks, **{place: min(most, ranks[place]) for place in together}}

    low, high = 0, max((ranks[place] for place in together), default=0)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(cut(middle)) else (middle, high)
    return cut(high)


def _joined(ranks: Ranks, together: Sequence[tuple[int, int]], keeps: Keeps) -> Ranks:
    """Return the ranks with those of two groups of heads made one that costs the same, where it keeps the budget."""
    for pair in combinations(sorted({ranks[place] for place in together}), 2):
        both = [place for place in together if ranks[place] in pair]
        total = sum(ranks[place] for place in both)
        joined = {**ranks, **dict.fromkeys(both, total // max(1, len(both)))}
        if sum(joined[place] for place in both) == total and keeps(joined):
            ranks = joined
    return ranks


def read_share(budget: str | float) -> float:
    """Return the share that a budget such as ``0.5%`` or ``0.005`` stands for.

    Raises:
        PipelineError: neither, or not from 0 to 100 %.

    Example:
        >>> read_share("0.5%"), read_share(0.25)
        (0.005, 0.25)
    """
    text = str(budget).strip()
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise PipelineError("damf(budget)", repr(budget), needed='a share of the score, such as "0.5%"')
    return share


def _score(evaluate: Evaluate, model: ir.Model) -> float:
    score = float(evaluate(model))
    if not math.isfinite(score):
        raise PipelineError("damf(evaluate)", f"the score {score}", needed="a finite number")
    return score
