"""Processors: what each bans or changes, row by row, whatever the padding."""

from typing import Any

import numpy as np
import pytest

from graphwright.runtime.decoding.history import History, of_prompts
from graphwright.runtime.decoding.options import GenerationOptions
from graphwright.runtime.decoding.processors import processors_of

PAD = 1


def history(*rows: list[int], new: int = 0, room: int = 9) -> History:
    width = max(map(len, rows))
    ids = np.array([[PAD] * (width - len(row)) + row for row in rows])
    mask = np.array([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    made = of_prompts(ids, mask, np.full(len(rows), room), PAD)
    return History(made.tokens, made.starts, made.room, prompt=width - new)


def scores(state: History, width: int = 8, start: float = -1.0, **options: Any) -> np.ndarray:
    rows = np.full((len(state), width), start, np.float32)
    for processor in processors_of(GenerationOptions.from_mapping(**options)):
        processor.edit(state).on_rows(rows)
    return rows


def banned(state: History, **options: Any) -> list[list[int]]:
    return [np.flatnonzero(np.isneginf(row)).tolist() for row in scores(state, **options)]


def test_repetition_looks_at_prompts_and_not_at_padding() -> None:
    found = scores(history([5], [2, 3, 3]), repetition_penalty=2.0)
    assert found.tolist() == [[-1, -1, -1, -1, -1, -2, -1, -1], [-1, -1, -2, -2, -1, -1, -1, -1]]
    assert scores(history([5]), start=1.0, repetition_penalty=2.0)[0, 5] == 0.5


def test_presence_and_frequency_count_new_tokens() -> None:
    state = history([4, 4, 4, 2, 2, 3], [7, 7, 7, 6, 5, 4], new=3)
    found = scores(state, start=0.0, presence_penalty=0.5, frequency_penalty=0.25)
    assert found[0].tolist() == [0, 0, -1.0, -0.75, 0, 0, 0, 0]
    assert found[1].tolist() == [0, 0, 0, 0, -0.75, -0.75, -0.75, 0]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 20])
def test_no_ngram_comes_twice(size: int) -> None:
    rows = [[2, 3, 2, 4, 3, 2, 3, 2], [5], [6, 6, 6], [4, 7, 4, 7, 4]]
    expected = []
    for row in rows:
        begin = row[len(row) - size + 1 :] if size > 1 else []
        ngrams = [row[at : at + size] for at in range(len(row) - size + 1)]
        expected.append(sorted({last for *first, last in ngrams if first == begin}))
    assert banned(history(*rows), no_repeat_ngram_size=size) == expected


def test_a_bad_word_is_banned_where_it_would_be_complete() -> None:
    rows = history([2, 3, 4], [4], [3, 4])
    words = [[5], [4, 6], [3, 4, 7], [2, 2]]
    assert banned(rows, bad_words_ids=words) == [[5, 6, 7], [5, 6], [5, 6, 7]]


def test_padding_is_no_part_of_a_bad_word() -> None:
    assert banned(history([4], [2, 2, 4]), bad_words_ids=[[PAD, 4, 6]]) == [[], []]


def test_an_end_token_alone_is_no_bad_word() -> None:
    assert banned(history([4]), bad_words_ids=[[3], [4, 3]], eos_token_id=3) == [[3]]
    assert banned(history([5]), bad_words_ids=[[3], [4, 3]], eos_token_id=3) == [[]]


def test_lengths_are_a_rows_own() -> None:
    rows = history([5, 5], [5, 5, 5, 5], new=1)
    assert banned(rows, min_length=3, eos_token_id=[2, 3]) == [[2, 3], []]
    assert banned(rows, min_length=4, eos_token_id=2) == [[2], []]
    assert banned(rows, min_new_tokens=1, eos_token_id=2) == [[], []]
    assert banned(rows, min_new_tokens=2, eos_token_id=2) == [[2], [2]]
    assert banned(rows, min_new_tokens=2) == [[], []]


def test_a_forced_bos_stands_behind_one_token() -> None:
    found = scores(history([5], [5, 5]), forced_bos_token_id=2)
    assert found[0].tolist() == [-np.inf, -np.inf, 0, *[-np.inf] * 5] and (found[1] == -1).all()


def test_forced_ends_stand_where_room_ends() -> None:
    found = scores(history([5, 5], new=1, room=2), forced_eos_token_id=[6, 2])
    assert np.flatnonzero(found[0] == 0).tolist() == [2, 6]
    assert (scores(history([5, 5], new=1, room=3), forced_eos_token_id=[6, 2]) == -1).all()


def test_tokens_are_suppressed_everywhere_or_at_the_beginning() -> None:
    assert banned(history([5], [5, 5]), suppress_tokens=[2, 7]) == [[2, 7], [2, 7]]
    assert banned(history([5], [5, 5]), begin_suppress_tokens=[2]) == [[2], [2]]
    assert banned(history([5, 5, 5], new=1), begin_suppress_tokens=[2]) == [[]]


def test_the_beginning_is_behind_a_forced_bos() -> None:
    given: dict[str, Any] = {"begin_suppress_tokens": [2], "forced_bos_token_id": 4}
    assert 2 not in np.flatnonzero(scores(history([5]), **given)[0] == 0)
    assert banned(history([5, 4], new=1), **given) == [[2]]
    assert banned(history([5, 5, 5]), **given) == [[2]]


@pytest.mark.parametrize(
    ("options", "raises"),
    [
        ({"repetition_penalty": 1.2}, False),
        ({"repetition_penalty": 0.8}, True),
        ({"presence_penalty": 0.2}, False),
        ({"presence_penalty": -0.2, "frequency_penalty": 1.0}, True),
        ({"frequency_penalty": -0.2}, True),
        ({"no_repeat_ngram_size": 2, "suppress_tokens": [1], "forced_bos_token_id": 2}, False),
    ],
    ids=str,
)
def test_only_what_raises_a_score_needs_whole_rows(options: dict[str, Any], raises: bool) -> None:
    assert any(each.raises for each in processors_of(GenerationOptions.from_mapping(**options))) == raises


def test_the_order_is_that_of_transformers() -> None:
    options = GenerationOptions.from_mapping(
        begin_suppress_tokens=[1],
        suppress_tokens=[1],
        forced_eos_token_id=2,
        forced_bos_token_id=3,
        min_length=2,
        eos_token_id=2,
        bad_words_ids=[[1]],
        no_repeat_ngram_size=2,
        presence_penalty=1.0,
        repetition_penalty=1.5,
    )
    names = [type(each).__name__ for each in processors_of(options)]
    lengths = ["BadWords", "MinLength", "ForcedBos", "ForcedEos", "Suppress", "Suppress"]
    assert names == ["RepetitionPenalty", "CountPenalty", "NoRepeatNGram", *lengths]
