"""Attentions of four families replaced: nothing changes at full rank, and what cannot be replaced is refused."""

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from graphwright.damf import DamfAttention, FactorableAttention, collapse, replace_attention  # noqa: E402
from tests.damf.models import bert, gpt2, ids, padding, replaced, t5, vit  # noqa: E402

PADDINGS = ["none", "left", "right"]


def last(model: Any, **inputs: Any) -> Any:
    with torch.no_grad():
        return model(**inputs).last_hidden_state


def same(found: Any, expected: Any, mask: Any = None, tolerance: float = 1e-5) -> None:
    """Equal where a token is; what stands at padding is nobody's."""
    assert found.shape == expected.shape and found.isfinite().all()
    if mask is not None:
        found, expected = found[mask.bool()], expected[mask.bool()]
    assert (found - expected).abs().max() <= tolerance


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("side", PADDINGS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Electra", "XLMRoberta"])
def test_an_encoder_stays_the_same_at_full_rank(kind: str, implementation: str, side: str, rank: int | None) -> None:
    model, mask = bert(kind, implementation), padding(side)
    expected = last(model, input_ids=ids(), attention_mask=mask)
    assert len(replace_attention(model, rank, "exact")) == 2
    same(last(model, input_ids=ids(), attention_mask=mask), expected, mask)


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("side", PADDINGS)
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_decoder_stays_the_same_at_full_rank(implementation: str, side: str, rank: int | None) -> None:
    model, mask = gpt2(implementation, scale_attn_by_inverse_layer_idx=True), padding(side)
    expected = last(model, input_ids=ids(), attention_mask=mask)
    assert replace_attention(model, rank, "exact") == ["h.0.attn", "h.1.attn"]
    same(last(model, input_ids=ids(), attention_mask=mask), expected, mask)


@pytest.mark.parametrize("rank", [None, 8])
def test_an_image_model_stays_the_same_at_full_rank(rank: int | None) -> None:
    model, pixels = vit(), torch.rand(2, 1, 8, 8)
    expected = last(model, pixel_values=pixels)
    assert len(replace_attention(model, rank, "exact")) == 2
    same(last(model, pixel_values=pixels), expected)


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("side", PADDINGS)
def test_an_encoder_with_a_decoder_stays_the_same_at_full_rank(side: str, rank: int | None) -> None:
    model, mask = t5(), padding(side)
    inputs = {"input_ids": ids(), "attention_mask": mask, "decoder_input_ids": ids(3, 5, seed=1)}
    expected = last(model, **inputs)
    assert len(replace_attention(model, rank, "exact")) == 6
    same(last(model, **inputs), expected, tolerance=5e-5)


def test_cross_attention_of_an_encoder_with_a_decoder_takes_the_linear_form() -> None:
    model = t5()
    cross = [name for name, _ in model.named_modules() if name.endswith("EncDecAttention")]
    assert replace_attention(model, 2, layers=cross) == cross
    short, long = ids(), torch.cat([ids(), ids(3, 2, seed=2)], dim=1)
    mask = torch.cat([torch.ones(3, 7), torch.zeros(3, 2)], dim=1).long()
    other = {"decoder_input_ids": ids(3, 5, seed=1)}
    same(last(model, input_ids=long, attention_mask=mask, **other), last(model, input_ids=short, **other))


def test_cross_attention_of_bert_and_gpt2_stays_the_same() -> None:
    encoded, mask = torch.randn(3, 4, 16), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    inputs = {"input_ids": ids(), "encoder_hidden_states": encoded, "encoder_attention_mask": mask}
    for model in (bert(is_decoder=True, add_cross_attention=True), gpt2(add_cross_attention=True)):
        expected = last(model, **inputs)
        assert len(replace_attention(model, None, "exact")) == 4
        same(last(model, **inputs), expected)


@pytest.mark.parametrize("softmax", ["maclaurin", "shift"])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", [bert, gpt2])
def test_padding_changes_nothing(make: Any, side: str, implementation: str, softmax: Any) -> None:
    """A row with padding is that row alone without."""
    model = make(implementation=implementation)
    replace_attention(model, 3, softmax)
    mask = padding(side)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    found = last(model, input_ids=ids(), attention_mask=mask, position_ids=positions)
    for row in range(3):
        alone = last(model, input_ids=ids()[row : row + 1, mask[row].bool()])
        same(found[row, mask[row].bool()][None], alone, tolerance=1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_mask_of_pairs_reaches_the_linear_form_as_a_mask_of_keys(implementation: str) -> None:
    """With one layer left as it was, the model makes masks of all pairs for both."""
    mask = padding("right")
    model = bert(implementation=implementation)
    replace_attention(model, 3, layers=[1])
    assert [len(replaced(model)), mask.ndim] == [1, 2]
    found = last(model, input_ids=ids(), attention_mask=mask)
    for row in range(3):
        same(
            found[row, mask[row].bool()][None],
            last(model, input_ids=ids()[row : row + 1, mask[row].bool()]),
            None,
            1e-4,
        )


@pytest.mark.parametrize("softmax", ["exact", "maclaurin", "shift"])
def test_a_decoder_does_not_look_ahead(softmax: Any) -> None:
    model = gpt2()
    replace_attention(model, 2, softmax)
    same(last(model, input_ids=ids())[:, :4], last(model, input_ids=ids()[:, :4]))


def test_a_decoder_of_both_forms_does_not_look_ahead() -> None:
    """The exact layer needs the mask of all pairs, which the other one can do without."""
    model = gpt2()
    replace_attention(model, 2, "exact", layers=[0])
    replace_attention(model, 2, "maclaurin")
    for mask in (None, padding("right")):
        found = last(model, input_ids=ids(), attention_mask=mask)
        shorter = last(model, input_ids=ids()[:, :4], attention_mask=None if mask is None else mask[:, :4])
        same(found[:, :4], shorter)


def test_a_copy_of_a_replaced_model_answers_the_same() -> None:
    model, mask = bert(), padding("right")
    replace_attention(model, 2)
    found = last(copy.deepcopy(model), input_ids=ids(), attention_mask=mask)
    same(found, last(model, input_ids=ids(), attention_mask=mask))


def test_a_decoder_goes_on_from_both_caches() -> None:
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(t5().config).eval()
    names = replace_attention(model, 8, "exact")
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    assert len(names) == 6
    found = model.generate(ids(2), **options)
    assert found.tolist() == model.generate(ids(2), use_cache=False, **options).tolist()


def test_generation_with_a_cache_is_that_without() -> None:
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(gpt2().config).eval()
    replace_attention(model, 3, "exact")
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    found = model.generate(ids(1), **options)
    assert found.tolist() == model.generate(ids(1), use_cache=False, **options).tolist()


def test_layers_are_named_or_numbered() -> None:
    names = replace_attention(bert(), 1)
    assert names == [f"encoder.layer.{number}.attention.self" for number in (0, 1)]
    for layers in ([1], [names[1]], {1, names[1]}):
        assert replace_attention(bert(), 1, layers=layers) == [names[1]]


def test_parameters_of_queries_and_keys_fall_to_the_rank() -> None:
    model = bert()
    replace_attention(model, 1)
    for attention in replaced(model):
        assert sum(each.numel() for each in [*attention.query.parameters(), *attention.key.parameters()]) == 2 * 2 * 17


@pytest.mark.parametrize("softmax", ["exact", "maclaurin", "shift"])
@pytest.mark.parametrize("make", [bert, gpt2])
def test_gradients_reach_every_factor(make: Any, softmax: Any) -> None:
    model = make().train()
    replace_attention(model, 2, softmax)
    model(ids(), attention_mask=padding("right")).last_hidden_state[..., 0].sum().backward()
    for attention in replaced(model):
        for parameter in (attention.query.weight, attention.key.weight, attention.value.weight):
            assert parameter.grad.isfinite().all() and (parameter.grad != 0).any()


def test_a_model_in_other_floats_stays_in_them() -> None:
    model = bert().double()
    expected = last(model, input_ids=ids())
    replace_attention(model, 8, "exact")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    same(last(model, input_ids=ids()), expected, tolerance=1e-12)


@pytest.mark.parametrize("rank", [None, 8])
@pytest.mark.parametrize("make", [bert, gpt2, vit])
def test_collapse_to_the_rank_that_is_there_keeps_the_outputs(make: Any, rank: int | None) -> None:
    model = make()
    inputs = {"pixel_values": torch.rand(2, 1, 8, 8)} if make is vit else {"input_ids": ids()}
    names = replace_attention(model, rank, "exact")
    expected = last(model, **inputs)
    assert collapse(model, 8) == []
    direct = copy.deepcopy(model)
    assert collapse(model, 7) == names and collapse(model, 3) == names
    assert collapse(direct, 3) == names
    assert {module.rank for module in replaced(model)} == {3}
    same(last(model, **inputs), last(direct, **inputs))
    assert (last(model, **inputs) - expected).abs().max() > 1e-3


def test_collapse_of_trained_factors_is_the_best_approximation() -> None:
    model = bert()
    replace_attention(model, 4, "exact")
    module = replaced(model)[0]
    with torch.no_grad():
        module.query.weight.normal_()
        module.key.weight.normal_()
    u, v = module.factors()
    whole = (u @ v.transpose(-1, -2)).detach()
    collapse(model, 2)
    u, v = module.factors()
    values = torch.linalg.svdvals(whole)[:, 2:4].square().sum(-1).sqrt()
    torch.testing.assert_close(torch.linalg.matrix_norm(whole - u @ v.transpose(-1, -2)), values, rtol=1e-4, atol=1e-5)


class Own(torch.nn.Module):
    """An attention by the protocol."""

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value = (torch.nn.Linear(6, 8) for _ in range(3))
        self.output = torch.nn.Linear(8, 6)
        self.num_heads, self.scaling, self.is_causal, self.is_cross_attention = 2, 0.7, causal, False

    def forward(self, hidden_states: Any, attention_mask: Any = None, key_value_states: Any = None) -> Any:
        q, k, v = (
            each(hidden_states).unflatten(-1, (2, 4)).transpose(1, 2) for each in (self.query, self.key, self.value)
        )
        mask = None if attention_mask is None else attention_mask[:, None, None].bool()
        context = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=self.is_causal, scale=self.scaling
        )
        return self.output(context.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("causal", [False, True])
def test_an_attention_of_ones_own_follows_the_protocol(causal: bool) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(Own(causal))
    assert isinstance(model[0], FactorableAttention)
    x = torch.randn(3, 7, 6)
    expected = model(x)
    assert replace_attention(model, 4, "exact") == ["0"] and isinstance(model[0], DamfAttention)
    same(model(x), expected)
