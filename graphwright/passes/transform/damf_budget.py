"""The smallest ranks of damf that keep a score: one for all layers first, then each layer's own; no rule.

The heads of a layer share one product, which the largest of their ranks sizes, so ranks are chosen by layer. The score
is taken for one that falls with the rank, so that each choice is a bisection: about log2(head size) evaluations for all
layers and as many for each. Only ranks whose score was seen to keep the budget are answered with.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import onnx_ir as ir

from graphwright.errors import PipelineError

# Gives a model's score, of which more is better. It may not change the model.
Evaluate = Callable[[ir.Model], float]


def ranks_within(
    budget: str | float,
    evaluate: Evaluate | None,
    model: ir.Model,
    sizes: Sequence[int],
    replaced: Callable[[Sequence[int]], ir.Model],
) -> list[int]:
    """Return a rank for each layer, of head sizes ``sizes``; ``replaced`` makes a copy of the model with some ranks.

    Raises:
        PipelineError: a budget that cannot be read, nothing to evaluate with, a score that is no finite number, or no
            ranks that keep the budget.
    """
    share = read_share(budget)
    if evaluate is None:
        hint = "rank=..., or from Python RuleMaker options with evaluate=..."
        raise PipelineError("damf(budget)", "no evaluate", needed="a function from a model to its score", hint=hint)
    start = _score(evaluate, model.clone())
    least = start - share * abs(start)
    scores: dict[tuple[int, ...], float] = {}

    def keeps(ranks: Sequence[int]) -> bool:
        key = tuple(ranks)
        if key not in scores:
            scores[key] = _score(evaluate, replaced(key))
        return scores[key] >= least

    ranks = list(sizes)
    if not keeps(ranks):
        found = f"a score of {scores[tuple(ranks)]:.6g} at full rank, of {start:.6g} before"
        hint = "softmax=exact, fewer layers, or a larger budget; a tuned model keeps more"
        raise PipelineError("damf(budget)", found, needed=f"at least {least:.6g}", hint=hint)
    if sizes:
        common = _smallest(max(sizes), lambda rank: keeps([min(rank, size) for size in sizes]))
        ranks = [min(common, size) for size in sizes]
    for place, rank in enumerate(list(ranks)):
        before, behind = ranks[:place], ranks[place + 1 :]
        ranks[place] = _smallest(rank, partial(_keeps_at, keeps, before, behind))
    return ranks


def _keeps_at(keeps: Callable[[Sequence[int]], bool], before: list[int], behind: list[int], rank: int) -> bool:
    return keeps([*before, rank, *behind])


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


def _smallest(most: int, keeps: Callable[[int], bool]) -> int:
    """Return the smallest rank that keeps the budget, by bisection; the largest does."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


def _score(evaluate: Evaluate, model: ir.Model) -> float:
    score = float(evaluate(model))
    if not math.isfinite(score):
        raise PipelineError("damf(evaluate)", f"the score {score}", needed="a finite number")
    return score
