"""Ends of rows: end tokens and stop sequences, in every way to decode."""

from typing import Any

import numpy as np
import pytest

from graphwright.runtime.decoding import GenerationOptions, generate
from graphwright.runtime.decoding.history import History
from graphwright.runtime.decoding.stopping import Stops, is_cancelled
from tests.runtime.decoding.decoders import TableDecoder, prompts


def test_a_stop_sequence_ends_a_row_with_the_tokens_that_stand_there() -> None:
    free = generate(TableDecoder(), prompts(1), None, GenerationOptions(max_new_tokens=12)).new_tokens[0]
    for length in (1, 2, 3):
        for start in range(3, 7):
            stop = tuple(free[start : start + length])
            places = [at for at in range(len(free)) if tuple(free[max(0, at - length + 1) : at + 1]) == stop]
            options = GenerationOptions(max_new_tokens=12, stop_sequences=(stop, (21, 21, 21, 21)))
            found = generate(TableDecoder(), prompts(1), None, options)
            assert found.new_tokens[0] == free[: places[0] + 1] and found.finished.all()


def test_a_stop_sequence_does_not_begin_in_the_prompt() -> None:
    history = History(np.array([[6, 7, 8]]), np.array([0]), np.array([9]), prompt=2)
    tokens = np.array([9])
    assert not Stops((), ((7, 8, 9),)).ends(history, np.array([0]), tokens).any()
    assert Stops((), ((8, 9),)).ends(history, np.array([0]), tokens).all()


@pytest.mark.parametrize("way", [{}, {"num_beam_groups": 2, "diversity_penalty": 0.5}], ids=str)
def test_beams_end_at_stop_sequences(way: dict[str, Any]) -> None:
    stops = ((4,), (9, 2), (11,), (17, 3))
    options = GenerationOptions(num_beams=4, num_return_sequences=4, max_new_tokens=15, stop_sequences=stops, **way)
    found = generate(TableDecoder(), prompts(4), None, options)
    assert found.finished.any()
    for row, finished in zip(found.new_tokens, found.finished, strict=True):
        ends = [at for at in range(1, len(row) + 1) if any(tuple(row[:at])[-len(stop) :] == stop for stop in stops)]
        assert ends == [len(row)] if finished else not ends and len(row) == 15


def test_single_stop_tokens_are_end_tokens_to_beams() -> None:
    ends = (4, 9, 11)
    one = GenerationOptions(num_beams=3, max_new_tokens=9, eos_token_id=ends, pad_token_id=0)
    two = GenerationOptions(num_beams=3, max_new_tokens=9, stop_sequences=tuple((end,) for end in ends), pad_token_id=0)
    first, second = (generate(TableDecoder(), prompts(4), None, options) for options in (one, two))
    np.testing.assert_array_equal(first.sequences, second.sequences)
    np.testing.assert_array_equal(first.scores, second.scores)


@pytest.mark.parametrize(("answer", "expected"), [(None, False), (False, False), (True, True), (np.True_, True)])
def test_only_true_cancels(answer: Any, expected: bool) -> None:
    assert is_cancelled(lambda tokens: answer, np.zeros(1)) is expected
