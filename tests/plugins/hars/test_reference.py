"""The NumPy reference against definitions: a plain sort, float64 sums, torch's own numbers."""

import math

import numpy as np
import pytest
import torch

from graphwright.plugins.hars import reference

RANDOM = np.random.default_rng(0)


def best(row: np.ndarray, k: int) -> list[int]:
    """The definition, by Python's stable sort: NaN first, larger first, then the lower index."""
    order = sorted(range(len(row)), key=lambda i: (not math.isnan(row[i]), 0 if math.isnan(row[i]) else -row[i], i))
    return order[:k]


@pytest.mark.parametrize(
    "row",
    [
        RANDOM.normal(size=50),
        np.round(RANDOM.normal(size=50)),
        np.zeros(9),
        np.array([0.0, -0.0, 0.0, -0.0, 1e-45, -1e-45]),
        np.array([np.nan, np.inf, -np.inf, 3e38, np.nan, np.inf, 1.0]),
        np.full(7, -np.inf),
        np.full(7, np.nan),
        np.array([5.0]),
    ],
)
def test_the_order_is_by_value_then_index_and_nan_is_first(row: np.ndarray) -> None:
    row = row.astype(np.float32)
    for k in {1, len(row) // 2 or 1, len(row)}:
        _, indices = reference.softmax_topk(row, k, mode="logit")
        assert indices.tolist() == best(row, k)


def test_log_probabilities_are_those_of_float64() -> None:
    logits = (RANDOM.normal(size=(3, 50257)) * 4 + 1e4).astype(np.float32)
    values, indices, maximum, log_sum = reference.softmax_topk(logits, 9, stats=True)
    exact = torch.log_softmax(torch.from_numpy(logits).double(), -1).numpy()
    np.testing.assert_allclose(values, np.take_along_axis(exact, indices, -1), rtol=0, atol=3e-6)
    np.testing.assert_array_equal(maximum, logits.max(-1))
    whole = torch.logsumexp(torch.from_numpy(logits).double(), -1).numpy()
    np.testing.assert_allclose(maximum.astype(np.float64) + log_sum, whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("mode", "empty"), [("logprob", -np.inf), ("prob", 0.0), ("prob_renorm", 0.0)])
def test_a_row_of_minus_infinity_is_empty(mode: str, empty: float) -> None:
    values, indices, maximum, log_sum = reference.softmax_topk(
        np.full((1, 4), -np.inf, np.float32), 2, mode=mode, stats=True
    )
    assert values.tolist() == [[empty, empty]]
    assert indices.tolist() == [[0, 1]]
    assert maximum.tolist() == log_sum.tolist() == [-np.inf]


@pytest.mark.parametrize("odd", [np.nan, np.inf])
@pytest.mark.parametrize("mode", ["logprob", "prob", "prob_renorm"])
def test_nan_and_infinity_make_nan_as_in_torch(odd: float, mode: str) -> None:
    logits = np.array([[1.0, odd, 2.0]], np.float32)
    values, indices, _, log_sum = reference.softmax_topk(logits, 2, mode=mode, stats=True)
    assert np.isnan(values).all() and np.isnan(log_sum).all()
    assert indices.tolist() == [[1, 2]]
    assert torch.log_softmax(torch.from_numpy(logits), -1).isnan().all()


def test_bias_comes_before_the_temperature() -> None:
    logits, bias = np.array([1.0, 2.0], np.float32), np.array([4.0, 0.0], np.float32)
    values, _ = reference.softmax_topk(logits, 2, mode="logit", bias=bias, temperature=0.5)
    assert values.tolist() == [10.0, 4.0]


def mixtral(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    weights, experts = torch.softmax(scores, -1).topk(k, -1)
    return weights / weights.sum(-1, keepdim=True), experts


def deepseek(
    scores: torch.Tensor, bias: torch.Tensor, k: int, groups: int, top: int
) -> tuple[torch.Tensor, torch.Tensor]:
    shares = scores.sigmoid()
    key = shares + bias
    rank = key.view(len(key), groups, -1).topk(2, -1)[0].sum(-1)
    closed = torch.ones_like(rank, dtype=torch.bool).scatter_(1, rank.topk(top, -1)[1], False)
    key = key.masked_fill(closed.repeat_interleave(key.shape[-1] // groups, -1), -torch.inf)
    experts = key.topk(k, -1)[1]
    weights = shares.gather(1, experts)
    return weights / (weights.sum(-1, keepdim=True) + 1e-20) * 2.5, experts


def test_routers_agree_with_torch() -> None:
    scores = RANDOM.normal(size=(64, 32)).astype(np.float32) * 2
    bias = RANDOM.normal(size=32).astype(np.float32)
    weights, experts, identity = reference.router_topk(scores, 3, renormalize=True)
    expected = mixtral(torch.from_numpy(scores), 3)
    np.testing.assert_array_equal(experts, expected[1].numpy())
    np.testing.assert_allclose(weights, expected[0].numpy(), rtol=2e-6)
    assert not identity.any()
    weights, experts, _ = reference.router_topk(
        scores, 4, bias=bias, scoring="sigmoid", renormalize=True, scale=2.5, groups=8, top_groups=3
    )
    expected = deepseek(torch.from_numpy(scores), torch.from_numpy(bias), 4, 8, 3)
    np.testing.assert_array_equal(experts, expected[1].numpy())
    np.testing.assert_allclose(weights, expected[0].numpy(), rtol=2e-6)


@pytest.mark.parametrize("scaled", [True, False])
def test_identity_experts_are_added_up_apart(scaled: bool) -> None:
    scores = RANDOM.normal(size=(50, 12)).astype(np.float32)
    plain, all_experts, _ = reference.router_topk(scores, 5)
    weights, experts, identity = reference.router_topk(scores, 5, scale=6.0, zero_experts=4, scale_zero_experts=scaled)
    is_identity = all_experts >= 8
    assert is_identity.any() and not is_identity.all()
    np.testing.assert_array_equal(experts, np.where(is_identity, -1, all_experts))
    np.testing.assert_allclose(weights, np.where(is_identity, 0, 6 * plain), rtol=1e-6)
    apart = (np.where(is_identity, plain, 0) * (6 if scaled else 1)).sum(-1)
    np.testing.assert_allclose(identity, apart, rtol=1e-6)


@pytest.mark.parametrize("scoring", ["softmax", "sigmoid"])
def test_a_token_of_nan_gets_distinct_experts_of_weight_0(scoring: str) -> None:
    weights, experts, identity = reference.router_topk(
        np.full((1, 6), np.nan, np.float32), 3, scoring=scoring, renormalize=True
    )
    assert weights.tolist() == [[0, 0, 0]] and experts.tolist() == [[0, 1, 2]] and identity.tolist() == [0]
