"""The same sequences and scores as transformers' own generate, over the same tiny models."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from graphwright.runtime.decoding import GenerationOptions, generate  # noqa: E402
from tests.runtime.decoding.decoders import CachedDecoder, ModelDecoder, prompts  # noqa: E402

VOCABULARY, PAD = 24, 23
ENDS = [0, 6, 21]
COMMON: dict[str, Any] = {"pad_token_id": PAD, "max_new_tokens": 9}
# Scores of two float32 runs with another order of additions.
SCORES = 1e-4


def gpt2() -> Any:
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=VOCABULARY, n_positions=64)
    return perturbed(transformers.GPT2LMHeadModel(config), "transformer.ln_f.weight")


def llama() -> Any:
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        hidden_size=16,
        intermediate_size=24,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
    )
    return perturbed(transformers.LlamaForCausalLM(config), "model.norm.weight")


def perturbed(model: Any, last_norm: str) -> Any:
    """Random weights that are all different, and sharp logits: a random model else repeats one token."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
        model.get_parameter(last_norm).mul_(1.2)
    model.generation_config = transformers.GenerationConfig()
    return model.eval()


@pytest.fixture(scope="module", params=[gpt2, llama])
def model(request: pytest.FixtureRequest) -> Any:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return request.param()


def theirs(model: Any, ids: np.ndarray, **options: Any) -> Any:
    given = {"attention_mask": np.ones_like(ids), "use_cache": False, **COMMON, **options}
    given["attention_mask"] = torch.from_numpy(given["attention_mask"])
    if "max_length" in options:
        del given["max_new_tokens"]
    return model.generate(torch.from_numpy(ids), return_dict_in_generate=True, output_scores=True, **given)


def assert_same(model: Any, ids: np.ndarray, mask: np.ndarray | None = None, **options: Any) -> Any:
    given = {**COMMON, **options}
    if "max_length" in options:
        del given["max_new_tokens"]
    found = generate(ModelDecoder(model), ids, mask, GenerationOptions.from_mapping(**given))
    masked = {} if mask is None else {"attention_mask": mask}
    expected = theirs(model, ids, **masked, **options)
    np.testing.assert_array_equal(found.sequences, expected.sequences.numpy())
    if options.get("num_beams", 1) > 1:
        np.testing.assert_allclose(found.scores, expected.sequences_scores.numpy(), atol=SCORES)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eos_token_id": 7},
        {"eos_token_id": ENDS},
        {"eos_token_id": ENDS, "min_length": 9},
        {"eos_token_id": ENDS, "min_new_tokens": 6},
        {"max_length": 8},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.6},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"bad_words_ids": [[4], [13, 2], [5], [2, 2, 2]], "eos_token_id": 5},
        {"suppress_tokens": list(range(7, 18))},
        {"begin_suppress_tokens": list(range(16))},
        {"forced_eos_token_id": 12},
    ],
    ids=str,
)
def test_greedy_search_is_theirs(model: Any, options: dict[str, Any]) -> None:
    assert_same(model, prompts(vocabulary=VOCABULARY - 1), **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_return_sequences": 2},
        {"eos_token_id": ENDS},
        {"eos_token_id": ENDS, "num_return_sequences": 4},
        {"eos_token_id": ENDS, "length_penalty": 0.0},
        {"eos_token_id": ENDS, "length_penalty": 2.5, "num_return_sequences": 2},
        {"eos_token_id": ENDS, "length_penalty": -1.0},
        {"eos_token_id": ENDS, "early_stopping": True, "num_return_sequences": 4},
        {"eos_token_id": ENDS, "early_stopping": True, "length_penalty": 2.0},
        {"eos_token_id": ENDS, "early_stopping": "never", "num_return_sequences": 3},
        {"eos_token_id": ENDS, "early_stopping": "never", "length_penalty": -0.5},
        {"eos_token_id": ENDS, "min_length": 8},
        {"eos_token_id": ENDS, "min_new_tokens": 5, "early_stopping": True},
        {"eos_token_id": ENDS, "repetition_penalty": 1.4},
        {"eos_token_id": ENDS, "repetition_penalty": 0.7},
        {"eos_token_id": ENDS, "no_repeat_ngram_size": 2},
        {"eos_token_id": 5, "bad_words_ids": [[4], [13, 2], [5], [2, 2, 2]]},
        {"eos_token_id": ENDS, "forced_eos_token_id": 6},
        {"eos_token_id": ENDS, "suppress_tokens": list(range(12, 17)), "begin_suppress_tokens": [1, 2, 3]},
        {"eos_token_id": ENDS, "num_beams": 2},
        {"eos_token_id": ENDS, "max_length": 6, "num_return_sequences": 3},
    ],
    ids=str,
)
def test_beam_search_is_theirs(model: Any, options: dict[str, Any]) -> None:
    assert_same(model, prompts(vocabulary=VOCABULARY - 1), **{"num_beams": 4, **options})


def test_rows_end_at_different_places(model: Any) -> None:
    found = assert_same(model, prompts(8, vocabulary=VOCABULARY - 1), num_beams=3, eos_token_id=ENDS)
    assert len(set(found.lengths.tolist())) > 1 and found.finished.any()


def test_each_rule_of_early_stopping_is_theirs_and_its_own(model: Any) -> None:
    ids = prompts(16, vocabulary=VOCABULARY - 1)
    given: dict[str, Any] = {"num_beams": 3, "length_penalty": 2.0, "eos_token_id": [*ENDS, 2]}
    rows = [assert_same(model, ids, early_stopping=early, **given).new_tokens for early in (True, False, "never")]
    assert rows[0] != rows[1] != rows[2] != rows[0]
    assert_same(model, ids, early_stopping="never", **{**given, "length_penalty": -1.0, "num_return_sequences": 3})


def test_a_forced_bos_comes_behind_a_start_token(model: Any) -> None:
    ids = np.array([[2], [2]])
    options = {"forced_bos_token_id": 21, "begin_suppress_tokens": list(range(15)), "repetition_penalty": 1.3}
    for beams in (1, 4):
        found = assert_same(model, ids, num_beams=beams, **options)
        assert (found.sequences[:, 1] == 21).all()


@pytest.mark.parametrize("beams", [1, 4])
def test_rows_padded_left_are_theirs(model: Any, beams: int) -> None:
    ids = prompts(vocabulary=VOCABULARY - 1)
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    ids = np.where(mask == 1, ids, PAD)
    assert_same(model, ids, mask, num_beams=beams, eos_token_id=ENDS, repetition_penalty=1.3)


@pytest.mark.parametrize("is_left", [True, False])
@pytest.mark.parametrize(
    "way",
    [
        {},
        {"num_beams": 4, "num_return_sequences": 2},
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"do_sample": True, "seed": 2, "num_return_sequences": 3},
    ],
    ids=str,
)
def test_a_cache_that_follows_the_parents_gives_the_same(model: Any, way: dict[str, Any], is_left: bool) -> None:
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    mask = mask if is_left else mask[:, ::-1].copy()
    ids = np.where(mask == 1, prompts(vocabulary=VOCABULARY - 1), PAD)
    options = GenerationOptions.from_mapping(**COMMON, eos_token_id=ENDS, **way)
    cached = generate(CachedDecoder(model), ids, mask, options)
    anew = generate(ModelDecoder(model), ids, mask, options)
    assert cached.new_tokens == anew.new_tokens and cached.finished.any()
    if anew.scores is not None:
        np.testing.assert_allclose(cached.scores, anew.scores, atol=SCORES)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_users_processor_gets_what_theirs_gets(model: Any, beams: int) -> None:
    ids = prompts(vocabulary=VOCABULARY - 1)

    def own(tokens: np.ndarray, scores: np.ndarray) -> np.ndarray:
        return scores - 0.25 * ((np.arange(VOCABULARY) + tokens[:, -1:]) % 3)

    def for_them(tokens: Any, scores: Any) -> Any:
        return torch.from_numpy(own(tokens.numpy(), scores.numpy()).astype(np.float32))

    options: dict[str, Any] = {"num_beams": beams, "eos_token_id": ENDS, "no_repeat_ngram_size": 3}
    found = generate(ModelDecoder(model), ids, None, GenerationOptions.from_mapping(**COMMON, **options), (own,))
    expected = theirs(model, ids, logits_processor=transformers.LogitsProcessorList([for_them]), **options)
    np.testing.assert_array_equal(found.sequences, expected.sequences.numpy())


def test_their_configuration_is_read_by_duck_typing() -> None:
    config = transformers.GenerationConfig(
        temperature=0.7, top_p=0.8, do_sample=True, eos_token_id=[1, 2], max_length=50
    )
    options = GenerationOptions.from_config(config, max_new_tokens=4, seed=3)
    assert (options.temperature, options.top_p, options.ends) == (0.7, 0.8, (1, 2))
    assert (options.max_length, options.max_new_tokens, options.top_k) == (None, 4, 50)
    assert GenerationOptions.from_config(config, do_sample=False).max_length == 50
