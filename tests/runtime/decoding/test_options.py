"""Generation options: defaults, what is refused and why, what a configuration adds."""

from typing import Any

import numpy as np
import pytest

from graphwright.errors import UsageError
from graphwright.runtime.decoding import GenerationOptions

read = GenerationOptions.from_mapping


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"num_beam": 2}, "num_beam"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 2.0}, "max_new_tokens"),
        ({"num_beams": True}, "num_beams"),
        ({"num_beams": 0}, "num_beams"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"do_sample": 1}, "do_sample"),
        ({"early_stopping": "always", "num_beams": 2}, "early_stopping"),
        ({"early_stopping": 1, "num_beams": 2}, "early_stopping"),
        ({"do_sample": True, "temperature": 0}, "temperature"),
        ({"do_sample": True, "temperature": float("nan")}, "temperature"),
        ({"do_sample": True, "top_p": 1.5}, "top_p"),
        ({"do_sample": True, "min_p": -0.1}, "min_p"),
        ({"do_sample": True, "top_k": -1}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"temperature": 0.7}, "temperature"),
        ({"top_k": 10}, "top_k"),
        ({"top_p": 0.9}, "top_p"),
        ({"min_p": 0.1}, "min_p"),
        ({"num_beams": 4, "top_k": 1}, "top_k"),
        ({"do_sample": True, "num_beams": 4}, "do_sample"),
        ({"do_sample": True, "num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, "do_sample"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "num_beam_groups"),
        ({"num_beams": 4, "num_beam_groups": 2}, "diversity_penalty"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "diversity_penalty"),
        ({"num_beams": 4, "num_return_sequences": 5}, "num_return_sequences"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"length_penalty": 2.0}, "length_penalty"),
        ({"max_length": 9, "max_new_tokens": 5}, "max_length"),
        ({"min_length": 9, "min_new_tokens": 5}, "min_length"),
        ({"min_new_tokens": 6, "max_new_tokens": 5}, "min_new_tokens"),
        ({"min_length": 6, "max_length": 5}, "min_length"),
        ({"eos_token_id": -1}, "eos_token_id"),
        ({"eos_token_id": []}, "eos_token_id"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"bad_words_ids": [3]}, "bad_words_ids"),
        ({"bad_words_ids": [[]]}, "bad_words_ids"),
        ({"stop_sequences": ["stop"]}, "stop_sequences"),
        ({"suppress_tokens": 4}, "suppress_tokens"),
        ({"suppress_tokens": [1, 2], "forced_eos_token_id": 2}, "forced_eos_token_id"),
        ({"typical_p": 0.5}, "typical_p"),
        ({"max_time": 3.0}, "max_time"),
        ({"guidance_scale": 2.0}, "guidance_scale"),
        ({"stop_strings": ["x"]}, "stop_strings"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(given: dict[str, Any], where: str) -> None:
    with pytest.raises(UsageError) as error:
        read(**given)
    assert error.value.where == where and error.value.needed


def test_a_refusal_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="try: num_beams"):
        read(num_beam=2)
    with pytest.raises(UsageError, match="try: do_sample=True"):
        read(temperature=0.5)
    with pytest.raises(UsageError, match="leave out do_sample"):
        read(do_sample=True, temperature=0.0)


@pytest.mark.parametrize(
    "given",
    [
        {"use_cache": False, "output_scores": True, "return_dict_in_generate": True},
        {"typical_p": 1.0, "guidance_scale": None, "renormalize_logits": False},
        {"temperature": 1.0, "top_k": 50, "top_p": 1.0, "length_penalty": 1.0, "min_p": None},
        {"top_k": 1},
        {"top_k": 0},
        {"seed": 5},
        {"early_stopping": True},
        {"num_beams": None, "max_length": None},
    ],
    ids=str,
)
def test_what_changes_nothing_is_accepted(given: dict[str, Any]) -> None:
    assert read(**given).num_beams == 1


def test_lists_and_numpy_numbers_become_plain() -> None:
    options = read(eos_token_id=np.array([4, 4, 2]), bad_words_ids=[[np.int64(1), 2]], top_p=1, num_beams=np.int32(2))
    assert options.ends == (4, 2) and options.pad == 4
    assert options.bad_words_ids == ((1, 2),) and type(options.num_beams) is int
    assert hash(options) == hash(read(eos_token_id=[4, 4, 2], bad_words_ids=[[1, 2]], num_beams=2))


def test_a_configuration_gives_way_to_the_callers_own() -> None:
    config = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.9,
        "max_length": 512,
        "min_length": 3,
        "length_penalty": 2.0,
        "early_stopping": True,
        "pad_token_id": 0,
        "transformers_version": "5.23.0",
        "unheard_of": 3,
    }
    mine = GenerationOptions.from_config(config, do_sample=False, num_beams=2, max_new_tokens=4, min_new_tokens=1)
    assert mine == read(
        num_beams=2, max_new_tokens=4, min_new_tokens=1, length_penalty=2.0, early_stopping=True, pad_token_id=0
    )
    theirs = GenerationOptions.from_config(config, temperature=None)
    assert (theirs.temperature, theirs.top_p, theirs.length_penalty, theirs.max_length) == (0.6, 0.9, 1.0, 512)
    own_length = GenerationOptions.from_config({"max_new_tokens": 9}, max_length=30)
    assert (own_length.max_length, own_length.max_new_tokens) == (30, None)


def test_a_configuration_that_would_change_the_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="typical_p"):
        GenerationOptions.from_config({"typical_p": 0.3, "do_sample": True})
    with pytest.raises(UsageError, match="unheard_of"):
        GenerationOptions.from_config({}, unheard_of=1)
