"""Beam search against the kernels' own step, against all sequences there are, and where candidates run out."""

import itertools
from typing import Any

import numpy as np
import pytest

from graphwright.plugins import hars
from graphwright.runtime.decoding import GenerationOptions, generate
from tests.runtime.decoding.decoders import TableDecoder, prompts


def all_hypotheses(
    decoder: TableDecoder, prompt: list[int], length: int, end: int, power: float
) -> list[tuple[float, Any]]:
    found = []
    for size in range(1, length + 1):
        for row in itertools.product(range(decoder.vocabulary), repeat=size):
            if end in row[:-1] or (row[-1] != end and size < length):
                continue
            steps = [decoder.logprobs([*prompt, *row[:at]])[token] for at, token in enumerate(row)]
            found.append((sum(steps) / size**power, list(row)))
    return sorted(found, key=lambda each: -each[0])


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, -1.0])
def test_enough_beams_find_the_best_of_all(power: float) -> None:
    decoder = TableDecoder(vocabulary=5, sharp=1.0)
    options = GenerationOptions(
        num_beams=125,
        num_return_sequences=6,
        max_new_tokens=4,
        eos_token_id=2,
        length_penalty=power,
        early_stopping="never",
    )
    found = generate(decoder, [[3, 1]], None, options)
    best = all_hypotheses(decoder, [3, 1], 4, 2, power)[:6]
    assert found.new_tokens == [row for _, row in best]
    np.testing.assert_allclose(found.scores, [score for score, _ in best], rtol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_step_is_the_kernels_step(groups: int) -> None:
    decoder, ids, beams = TableDecoder(), prompts(3), 4
    penalty = 0.7 if groups > 1 else 0.0
    options = GenerationOptions(
        num_beams=beams, num_return_sequences=beams, max_new_tokens=1, num_beam_groups=groups, diversity_penalty=penalty
    )
    found = generate(decoder, ids, None, options)
    rows = np.stack([decoder.logits(row) for row in ids.tolist()]).repeat(beams, axis=0)
    begun = np.full((3, beams), -np.inf, np.float32)
    begun[:, :: beams // groups] = 0
    expected = hars.diverse_beam_step(rows, begun, beams=beams, groups=groups, penalty=penalty)
    each = beams // groups
    scores, tokens = (array[:, :, :each].reshape(3, beams) for array in (expected[0], expected[2]))
    order = np.argsort(-scores, axis=1, kind="stable")
    np.testing.assert_array_equal(found.sequences[:, -1].reshape(3, beams), np.take_along_axis(tokens, order, axis=1))
    np.testing.assert_array_equal(found.scores.reshape(3, beams), np.take_along_axis(scores, order, axis=1))


def test_a_score_is_the_sum_over_the_new_tokens() -> None:
    decoder = TableDecoder()
    options = GenerationOptions(
        num_beams=4, num_return_sequences=4, max_new_tokens=7, length_penalty=0.6, eos_token_id=(2, 9)
    )
    found = generate(decoder, prompts(3), None, options)
    for row, tokens, score in zip(found.sequences.tolist(), found.new_tokens, found.scores, strict=True):
        steps = [decoder.logprobs(row[: 4 + at])[token] for at, token in enumerate(tokens)]
        np.testing.assert_allclose(score, sum(steps) / len(tokens) ** 0.6, rtol=1e-5)


def test_results_are_best_first_and_distinct() -> None:
    options = GenerationOptions(num_beams=6, num_return_sequences=6, max_new_tokens=8, eos_token_id=(2, 9, 14))
    found = generate(TableDecoder(), prompts(3), None, options)
    for at in range(0, 18, 6):
        assert (np.diff(found.scores[at : at + 6]) <= 0).all()
        assert len({tuple(row) for row in found.new_tokens[at : at + 6]}) == 6


def test_what_there_is_not_has_length_zero() -> None:
    options = GenerationOptions(num_beams=5, num_return_sequences=5, max_new_tokens=1, pad_token_id=2)
    found = generate(TableDecoder(vocabulary=3), [[1, 2]], None, options)
    assert found.lengths.tolist() == [1, 1, 1, 0, 0]
    assert np.isneginf(found.scores[3:]).all() and (found.sequences[3:, 2] == 2).all()


def test_a_hypothesis_that_is_not_there_has_not_finished() -> None:
    options = GenerationOptions(
        num_beams=2, num_return_sequences=2, max_new_tokens=3, eos_token_id=1, suppress_tokens=(0, 2)
    )
    found = generate(TableDecoder(vocabulary=3), [[2]], None, options)
    assert found.new_tokens == [[1], []] and found.finished.tolist() == [True, False]


def test_few_tokens_do_for_many_beams() -> None:
    options = GenerationOptions(num_beams=8, num_return_sequences=8, max_new_tokens=3)
    found = generate(TableDecoder(vocabulary=2), [[1]], None, options)
    assert sorted(map(tuple, found.new_tokens)) == sorted(itertools.product(range(2), repeat=3))


def test_a_vocabulary_of_one_token_ends_at_its_length() -> None:
    found = generate(TableDecoder(vocabulary=1), [[0]], None, GenerationOptions(num_beams=3, max_new_tokens=4))
    assert found.new_tokens == [[0, 0, 0, 0]] and found.scores[0] == 0


@pytest.mark.parametrize("early", [True, False, "never"])
def test_a_prompt_that_is_done_leaves_the_batch(early: Any) -> None:
    decoder = TableDecoder(sharp=3.0)
    options = GenerationOptions(num_beams=2, max_new_tokens=12, eos_token_id=(1, 2, 3, 9, 14), early_stopping=early)
    generate(decoder, prompts(6), None, options)
    sizes = [len(tokens) for tokens, _ in decoder.calls]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]


def test_a_negative_length_penalty_does_not_look_at_the_largest_length() -> None:
    class EndsAtThree(TableDecoder):
        def logits(self, row: list[int]) -> np.ndarray:
            chances = [1e-6, 1.0, 1e-6] if len(row) == 3 else [0.9, 0.06, 0.04]
            return np.log(np.float32(chances))

    options = GenerationOptions(
        num_beams=2, max_new_tokens=100, eos_token_id=1, length_penalty=-1.0, early_stopping="never"
    )
    # After two steps the pool is full, and 100 times the open beam's score is below all that it holds.
    assert generate(EndsAtThree(vocabulary=3), [[2]], None, options).new_tokens == [[0, 0, 1]]
