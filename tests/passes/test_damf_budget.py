"""The ranks that a budget chooses are the smallest that keep the score."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.errors import PipelineError
from graphwright.passes.transform.damf_budget import ranks_within
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply
from tests.passes.damf_layers import Layer, damf, drawn, stacked

EMPTY = ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 24}), ir_version=10)


class Scores:
    """A score of ranks, in place of a model's, and how often it was asked for."""

    def __init__(self, needed: Sequence[int], best: float = 100.0) -> None:
        self.needed, self.best, self.asked = needed, best, 0
        self.ranks: Sequence[int] | None = None

    def replaced(self, ranks: Sequence[int]) -> ir.Model:
        self.ranks = ranks
        return EMPTY

    def evaluate(self, model: ir.Model) -> float:
        self.asked += 1
        if self.ranks is None:
            return self.best
        return self.best - sum(max(0, need - rank) for need, rank in zip(self.needed, self.ranks, strict=True))


@pytest.mark.parametrize("needed", [[1, 1, 1], [3, 1, 8], [8, 8, 8], [0, 5, 0]])
def test_each_layer_gets_the_smallest_rank_that_keeps_all(needed: list[int]) -> None:
    scores = Scores(needed)
    found = ranks_within("0%", scores.evaluate, EMPTY, [8, 8, 8], scores.replaced)
    assert found == [max(1, need) for need in needed]
    assert scores.asked <= 1 + 4 + 3 * 4


def test_a_share_of_the_score_may_be_lost() -> None:
    scores = Scores([4, 4], best=100.0)
    assert sum(ranks_within("2%", scores.evaluate, EMPTY, [8, 8], scores.replaced)) == 6
    assert ranks_within("0.1%", Scores([4, 4]).evaluate, EMPTY, [8, 8], Scores([4, 4]).replaced) == [1, 1]
    scores = Scores([4, 4], best=-100.0)
    assert sum(ranks_within(0.02, scores.evaluate, EMPTY, [8, 8], scores.replaced)) == 6


def test_head_sizes_may_differ() -> None:
    scores = Scores([2, 6])
    assert ranks_within("0%", scores.evaluate, EMPTY, [4, 8], scores.replaced) == [2, 6]


def test_a_budget_that_nobody_can_meet() -> None:
    scores = Scores([9, 9])
    with pytest.raises(PipelineError, match=r"a score of 98 at full rank, of 100 before; needed at least 99\.5"):
        ranks_within("0.5%", scores.evaluate, EMPTY, [8, 8], scores.replaced)


def agreement(before: ir.Model, seed: int = 0):  # type: ignore[no-untyped-def]
    """A score of a model: one less the largest distance of its outputs to those of the source."""
    inputs = drawn(before, {"B": 2, "S": 6}, seed)
    due = evaluate(before, inputs)["total"]

    def score(model: ir.Model) -> float:
        return 1 - float(np.abs(evaluate(model, inputs)["total"] - due).max()) / float(np.abs(due).max())

    return score


def test_the_ranks_of_a_small_model() -> None:
    """The second layer's queries are of rank 1, so it needs no more; the first keeps all."""
    before = stacked(Layer(), Layer())
    name = "wq1"
    value = before.graph.initializers[name]
    weights, bias = value.const_value.numpy(), before.graph.initializers["bq1"]
    flat = np.concatenate([np.repeat(weights[:, at : at + 1], 4, 1) for at in (0, 4)], 1)
    value.const_value = ir.tensor(flat, name=name)
    bias.const_value = ir.tensor(np.zeros(8, np.float32), name="bq1")
    score = agreement(before)
    kept = ir.to_proto(before).SerializeToString(deterministic=True)
    after = apply(before, damf(budget="0.001%", softmax="exact", evaluate=score)).model
    assert ir.to_proto(before).SerializeToString(deterministic=True) == kept
    left = [node.inputs[0].shape[2] // 2 for node in after.graph if node.op_type == "Attention"]
    assert left == [4, 1]
    assert score(after) >= 1 - 1e-5


def test_a_budget_that_the_linear_softmax_cannot_meet_leaves_the_model() -> None:
    before = stacked(Layer())
    kept = ir.to_proto(before).SerializeToString(deterministic=True)
    with pytest.raises(PipelineError, match="at full rank"):
        apply(before, damf(budget="0.01%", evaluate=agreement(before)))
    assert ir.to_proto(before).SerializeToString(deterministic=True) == kept
