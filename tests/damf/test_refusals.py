"""Models that cannot be replaced are refused with the reason, and stay as they were."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from graphwright.damf import collapse, replace_attention  # noqa: E402
from graphwright.errors import RequestError, UsageError  # noqa: E402
from tests.damf.models import SMALL, bert, gpt2, ids, t5  # noqa: E402


def refused(model: Any, kind: type[Exception], text: str, **options: Any) -> None:
    """The error says so, and the model is as it was."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    with pytest.raises(kind, match=text):
        replace_attention(model, **options)
    after = model.state_dict()
    assert list(before) == list(after) and dict(model.named_modules()) == modules
    assert all(torch.equal(before[name], after[name]) or before[name].isnan().any() for name in before)


@pytest.mark.parametrize("rank", [0, -1, 9])
def test_a_rank_that_no_head_has_is_refused(rank: int) -> None:
    refused(bert(), RequestError, r"attention\.self: damf: rank: found .*needed 1 to the head size, 8", rank=rank)


@pytest.mark.parametrize("rank", [None, 1])
def test_weights_that_are_no_numbers_are_refused(rank: int | None) -> None:
    model = bert()
    with torch.no_grad():
        model.encoder.layer[1].attention.self.key.weight[0, 0] = torch.nan
    refused(model, RequestError, "layer.1.attention.self: .*NaN or infinite", rank=rank)


def test_rotary_models_are_refused() -> None:
    config = transformers.LlamaConfig(**SMALL, num_key_value_heads=2, vocab_size=50)
    refused(transformers.LlamaModel(config), UsageError, "rotary positions between")


def test_a_model_without_attention_is_refused() -> None:
    refused(torch.nn.Sequential(torch.nn.Linear(3, 3)), UsageError, "found no attention;")


def test_an_attention_that_is_not_known_is_refused() -> None:
    refused(torch.nn.Sequential(torch.nn.MultiheadAttention(8, 2)), UsageError, "no attention but MultiheadAttention")


def test_a_second_replacement_is_refused() -> None:
    model = bert()
    replace_attention(model, 1)
    refused(model, UsageError, "DamfAttention alone")


def test_an_unknown_softmax_is_refused() -> None:
    refused(bert(), UsageError, "damf: softmax.*exact, maclaurin, shift", softmax="taylor")


def test_quantised_projections_are_refused() -> None:
    class Quantised(torch.nn.Linear):
        """Stands for the layers of a quantisation library, which derive from Linear."""

    model = bert()
    model.encoder.layer[1].attention.self.query = Quantised(16, 16)
    refused(model, RequestError, "layer.1.attention.self.query: found a layer .*Quantised")


def test_shared_projections_are_refused() -> None:
    model = bert()
    first, second = (layer.attention.self for layer in model.encoder.layer)
    second.key.weight = first.key.weight
    refused(model, RequestError, "weights shared by encoder.layer.0.*encoder.layer.1")


@pytest.mark.parametrize("softmax", ["maclaurin", "shift"])
def test_biases_of_pairs_of_positions_are_refused(softmax: Any) -> None:
    refused(t5(), RequestError, "SelfAttention.*a bias for each pair.*layers", softmax=softmax)


def test_a_mask_of_pairs_is_refused_where_only_keys_can_be_masked() -> None:
    model = bert()
    replace_attention(model, 1)
    pairs = torch.ones(3, 1, 7, 7, dtype=torch.bool).tril()
    with pytest.raises(RequestError, match="a mask that depends on the query"):
        model(ids(), attention_mask=pairs)


def test_the_linear_form_does_not_go_on_from_a_cache() -> None:
    model = gpt2()
    replace_attention(model, 1)
    cache = model(ids(), use_cache=True).past_key_values
    with pytest.raises(RequestError, match=r"keys from a cache.*use_cache=False"):
        model(ids(3, 1), past_key_values=cache, use_cache=True)


@pytest.mark.parametrize("layers", [[2], [-1], ["encoder"], []])
def test_layers_that_are_not_there_are_refused(layers: list[int | str]) -> None:
    with pytest.raises(UsageError, match=r"damf: layers.*numbers from 0 to 1"):
        replace_attention(bert(), 1, layers=layers)


def test_collapse_needs_factors() -> None:
    with pytest.raises(UsageError, match=r"no DamfAttention.*replace_attention"):
        collapse(bert())
