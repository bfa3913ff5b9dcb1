"""The ranks that a budget chooses are the smallest that keep the score."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.errors import PipelineError
from graphwright.passes.transform.damf_budget import ranks_within
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, same_graph
from tests.passes.damf_layers import Layer, damf, drawn, stacked

EMPTY = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 24}), ir_version=10)


class Scores:
    """A score of ranks, in place of a model's, and what it was asked for: it falls by 1 with each rank too few."""

    def __init__(self, needed: Sequence[Sequence[int]], best: float = 100.0) -> None:
        self.needed, self.best = needed, best
        self.asked: list[Sequence[Sequence[int]]] = []
        self.ranks: Sequence[Sequence[int]] | None = None

    def replaced(self, ranks: Sequence[Sequence[int]]) -> ir.Model:
        assert [len(own) for own in ranks] == [len(own) for own in self.needed]
        self.ranks = ranks
        return EMPTY

    def lost(self, ranks: Sequence[Sequence[int]]) -> int:
        pairs = zip(chain(*self.needed), chain(*ranks), strict=True)
        return sum(max(0, need - rank) for need, rank in pairs)

    def evaluate(self, model: ir.Model) -> float:
        if self.ranks is None:
            return self.best
        self.asked.append(self.ranks)
        return self.best - self.lost(self.ranks)

    def within(self, budget: str | float, *sizes: int) -> list[tuple[int, ...]]:
        """The ranks within a budget, for layers of these head sizes."""
        shapes = [(len(own), size) for own, size in zip(self.needed, sizes, strict=True)]
        found = ranks_within(budget, self.evaluate, EMPTY, shapes, self.replaced)
        assert tuple(found) in self.asked, "ranks whose score was not seen"
        return found


@pytest.mark.parametrize("needed", [[1, 1, 1], [3, 1, 8], [8, 8, 8], [0, 5, 0]])
def test_each_layer_gets_the_smallest_rank_that_keeps_all(needed: list[int]) -> None:
    scores = Scores([[need, need] for need in needed])
    assert scores.within("0%", 8, 8, 8) == [(max(1, need),) * 2 for need in needed]


@pytest.mark.parametrize(
    "needed", [[[1, 1], [1, 1]], [[1, 6], [2, 2]], [[8, 1], [1, 8]], [[8, 8], [8, 7]], [[0, 5], [3]]]
)
def test_each_head_gets_the_smallest_rank_that_keeps_all(needed: list[list[int]]) -> None:
    scores = Scores(needed)
    assert scores.within("0%", 8, 8) == [tuple(max(1, need) for need in own) for own in needed]
    heads = sum(len(own) for own in needed)
    assert 1 + len(scores.asked) <= 2 + (1 + 2 + heads) * 3 + 2
    assert len(scores.asked) == len(set(scores.asked)), "the same ranks twice"


def test_heads_of_a_layer_at_rank_1_are_not_asked_for() -> None:
    scores = Scores([[1] * 12, [1] * 12])
    assert scores.within("0%", 64, 64) == [(1,) * 12] * 2
    assert len(scores.asked) == 1 + 6


def test_one_head_that_needs_more_does_not_cost_the_others() -> None:
    scores = Scores([[1] * 4, [1, 1, 13, 1]])
    assert scores.within("0%", 16, 16) == [(1, 1, 1, 1), (1, 1, 13, 1)]
    assert 1 + len(scores.asked) <= 2 + (1 + 2 + 8) * 4


def test_a_share_of_the_score_may_be_lost() -> None:
    def total(needed: Sequence[Sequence[int]], budget: str | float, best: float) -> int:
        return sum(chain(*Scores(needed, best).within(budget, *[8] * len(needed))))

    assert total([[4], [4]], "2%", 100.0) == total([[4, 4]], "2%", 100.0) == 6
    assert total([[4], [4]], 0.02, -100.0) == 6
    assert total([[4], [4]], "0.1%", 100.0) == 8


def test_of_ranks_that_cost_the_same_fewer_are_better() -> None:
    """2 may be lost: the first head would take it, and three ranks be left in the layer; the mean leaves two."""
    assert Scores([[3, 3, 4, 4, 4]]).within("2%", 8) == [(2, 2, 4, 4, 4)]
    # A mean that a head does not bear stays away, and so does one that is no whole number.
    assert Scores([[1, 3, 4]]).within("0%", 8) == [(1, 3, 4)]
    assert Scores([[3, 4, 4, 4]]).within("2%", 8) == [(1, 4, 4, 4)]


def test_head_sizes_may_differ() -> None:
    assert Scores([[2, 2], [6]]).within("0%", 4, 8) == [(2, 2), (6,)]


def test_a_budget_that_nobody_can_meet() -> None:
    with pytest.raises(PipelineError, match=r"a score of 98 at full rank, of 100 before; needed at least 99\.5"):
        Scores([[9], [9]]).within("0.5%", 8, 8)


def agreement(before: ir.Model, seed: int = 0):  # type: ignore[no-untyped-def]
    """A score of a model: one less the largest distance of its outputs to those of the source."""
    inputs = drawn(before, {"B": 2, "S": 6}, seed)
    due = evaluate(before, inputs)["total"]

    def score(model: ir.Model) -> float:
        return 1 - float(np.abs(evaluate(model, inputs)["total"] - due).max()) / float(np.abs(due).max())

    return score


def with_plain_heads(layer: Layer, *plain: tuple[int, int]) -> ir.Model:
    """A model of two layers, of which these heads have scores of rank 1: all columns of their queries are the same."""
    before = stacked(layer, layer)
    for number in (0, 1):
        weights, bias = (before.graph.initializers[f"{name}q{number}"] for name in "wb")
        changed, offset = weights.const_value.numpy().copy(), bias.const_value.numpy().copy()
        for at in [head * layer.size for of, head in plain if of == number]:
            changed[:, at : at + layer.size] = changed[:, at : at + 1]
            offset[at : at + layer.size] = 0
        weights.const_value = ir.tensor(changed, name=weights.name)
        bias.const_value = ir.tensor(offset, name=bias.name)
    return before


def ranks_of(model: ir.Model) -> list[tuple[int, int]]:
    """Heads and rank of each attention with an exact softmax."""
    nodes = [node for node in model.graph if node.op_type == "Attention"]
    heads = [node.attributes["q_num_heads"].as_int() for node in nodes]
    return [(count, node.inputs[0].shape[2] // count) for count, node in zip(heads, nodes, strict=True)]


def test_the_ranks_of_a_small_model() -> None:
    """The second layer's queries are of rank 1, so it needs no more; the first keeps all."""
    before = with_plain_heads(Layer(), (1, 0), (1, 1))
    score = agreement(before)
    kept = ir.to_proto(before).SerializeToString(deterministic=True)
    after = apply(before, damf(budget="0.001%", softmax="exact", evaluate=score)).model
    assert ir.to_proto(before).SerializeToString(deterministic=True) == kept
    assert ranks_of(after) == [(2, 4), (2, 1)]
    assert score(after) >= 1 - 1e-5


@pytest.mark.parametrize("softmax", ["exact", "maclaurin"])
def test_one_head_of_a_model_needs_a_high_rank(softmax: str) -> None:
    """The score of the linear form is how near it is to itself at full rank."""
    before = with_plain_heads(
        Layer(heads=3), *((of, head) for of in (0, 1) for head in range(3) if (of, head) != (1, 1))
    )
    best = apply(before, damf(rank=4, softmax=softmax)).model
    due, asked = agreement(best), []

    def score(model: ir.Model) -> float:
        asked.append(model)
        return 1.0 if len(asked) == 1 else due(model)

    after = apply(before, damf(budget="0.001%", softmax=softmax, evaluate=score)).model
    assert due(after) >= 1 - 1e-5
    assert len(asked) <= 2 + (1 + 2 + 6) * 2
    if softmax == "exact":
        assert ranks_of(after) == [(3, 1), (2, 1), (1, 4)]
    same = apply(before, damf(rank="1,1:4:1", softmax=softmax)).model
    assert same_graph(after, same)


def test_a_budget_that_the_linear_softmax_cannot_meet_leaves_the_model() -> None:
    before = stacked(Layer())
    kept = ir.to_proto(before).SerializeToString(deterministic=True)
    with pytest.raises(PipelineError, match="at full rank"):
        apply(before, damf(budget="0.01%", evaluate=agreement(before)))
    assert ir.to_proto(before).SerializeToString(deterministic=True) == kept
