"""The spectral penalty: the number of the paper, with gradients that can be trained on."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
from graphwright.damf import collapse, largest_shares, replace_attention, spectral_penalty  # noqa: E402
from graphwright.errors import UsageError  # noqa: E402
from graphwright.plugins.damf.factors import singular_values  # noqa: E402
from tests.damf.models import bert, gpt2, replaced, t5, vit  # noqa: E402


def test_it_is_the_mean_over_heads_of_what_the_largest_value_leaves() -> None:
    model, shares = bert(), []
    for layer in model.encoder.layer:
        attention = layer.attention.self
        parts = [[each.weight.T, each.bias] for each in (attention.query, attention.key)]
        for head in (slice(0, 8), slice(8, 16)):
            query, key = ((w[:, head].detach().numpy(), b[head].detach().numpy()) for w, b in parts)
            values = singular_values(*query, *key, scale=1.0)
            shares.append(values[0] / values.sum())
    assert largest_shares(model).tolist() == pytest.approx(shares, rel=1e-5)
    assert spectral_penalty(model).item() == pytest.approx(1 - sum(shares) / 4, rel=1e-5)


@pytest.mark.parametrize("make", [bert, vit, gpt2, t5])
def test_every_family_has_one(make: Any) -> None:
    assert 0.2 < spectral_penalty(make()).item() < 1 - 1 / 8


@pytest.mark.parametrize("rank", [None, 8])
def test_replacement_at_full_rank_keeps_it(rank: int | None) -> None:
    model = bert()
    before = spectral_penalty(model).item()
    replace_attention(model, rank)
    assert spectral_penalty(model).item() == pytest.approx(before, rel=1e-4)
    collapse(model, 1)
    assert spectral_penalty(model).item() == 0


def test_originals_and_replacements_count_together() -> None:
    model = bert()
    shares = largest_shares(model).tolist()
    replace_attention(model, 1, layers=[0])
    assert largest_shares(model).tolist() == pytest.approx([1, 1, *shares[2:]], rel=1e-5)


@pytest.mark.parametrize("make", [bert, gpt2])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_it_falls_under_training(make: Any, is_replaced: bool) -> None:
    model = make()
    if is_replaced:
        replace_attention(model, 4)
    before = spectral_penalty(model).item()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        spectral_penalty(model).backward()
        optimizer.step()
    assert spectral_penalty(model).item() < before - 0.2


def test_gradients_are_those_of_differences() -> None:
    model = bert().double()
    weight = model.encoder.layer[0].attention.self.query.weight
    spectral_penalty(model).backward()
    step = torch.zeros_like(weight)
    step[3, 5] = 1e-6
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step
            values.append(spectral_penalty(model).item())
            weight -= sign * step
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(weight.grad[3, 5].item(), rel=1e-5)


def test_gradients_are_finite_where_singular_values_are_equal() -> None:
    model = bert()
    with torch.no_grad():
        for layer in model.encoder.layer:
            for each in (layer.attention.self.query, layer.attention.self.key):
                each.weight.copy_(torch.eye(16))
                each.bias.zero_()
    spectral_penalty(model).backward()
    attention = model.encoder.layer[0].attention.self
    assert spectral_penalty(model).item() == pytest.approx(1 - 1 / 8)
    assert attention.query.weight.grad.isfinite().all() and attention.key.bias.grad.isfinite().all()


def test_rank_one_has_no_gradient_to_lose() -> None:
    model = bert()
    replace_attention(model, 1)
    penalty = spectral_penalty(model)
    assert penalty.item() == 0 and all(module.rank == 1 for module in replaced(model))


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(UsageError, match="no attention that is known"):
        spectral_penalty(torch.nn.Linear(2, 2))
