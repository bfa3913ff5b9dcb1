"""Requests: ragged prompts, rows that leave, callbacks, cancellation, bad input."""

from typing import Any

import numpy as np
import pytest

from graphwright.errors import RequestError
from graphwright.runtime.decoding import Best, GenerationOptions, generate
from tests.runtime.decoding.decoders import TableDecoder, prompts

WAYS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "seed": 3, "top_k": 6},
    {"do_sample": True, "seed": 3, "top_k": 0, "top_p": 0.9},
    {"num_beams": 4},
    {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.8},
]
RULES: dict[str, Any] = {
    "eos_token_id": [2, 9],
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 2,
    "min_length": 7,
    "max_length": 14,
    "bad_words_ids": [[4, 5], [6]],
    "begin_suppress_tokens": [7],
    "forced_eos_token_id": 2,
    "presence_penalty": 0.3,
    "frequency_penalty": 0.2,
    "stop_sequences": [[8, 3], [14]],
}
PAD = 22


def options(**given: Any) -> GenerationOptions:
    return GenerationOptions.from_mapping(**{"pad_token_id": PAD, **given})


def padded(rows: list[list[int]], is_left: bool, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    fill = [[PAD] * (width - len(row)) for row in rows]
    ids = [pad + row if is_left else row + pad for pad, row in zip(fill, rows, strict=True)]
    mask = [
        [0] * len(pad) + [1] * len(row) if is_left else [1] * len(row) + [0] * len(pad)
        for pad, row in zip(fill, rows, strict=True)
    ]
    return np.array(ids), np.array(mask)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("is_left", [True, False])
def test_a_row_gives_the_same_alone_and_in_a_ragged_batch(way: dict[str, Any], is_left: bool) -> None:
    rows = [[3, 4, 5, 6, 7], [9], [1, 2, 1, 2, 1, 2, 5, 8], [4, 11]]
    together = generate(TableDecoder(), *padded(rows, is_left), options(**RULES, **way))
    scores = []
    for number, row in enumerate(rows):
        alone = generate(TableDecoder(), [row], None, options(**RULES, **way), row_numbers=[number])
        assert together.new_tokens[number] == alone.new_tokens[0]
        assert together.finished[number] == alone.finished[0]
        scores.append(alone.scores)
    if together.scores is not None:
        # The lists are as long as the longest row needs, and a log-sum's last bit depends on that.
        np.testing.assert_allclose(together.scores, np.concatenate(scores), rtol=1e-6)
    assert len(set(together.lengths.tolist())) > 1


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("rules", [{}, RULES], ids=["plain", "rules"])
def test_a_decoder_that_ranks_gives_the_same_as_whole_rows(way: dict[str, Any], rules: dict[str, Any]) -> None:
    returned = way.get("num_beams", 1)
    given = options(**{"max_new_tokens": 9, **rules, "max_length": None}, **way, num_return_sequences=returned)
    whole = generate(TableDecoder(300, sharp=1.0), prompts(), None, given)
    decoder = TableDecoder(300, sharp=1.0, ranks=True)
    ranked = generate(decoder, prompts(), None, given)
    np.testing.assert_array_equal(ranked.sequences, whole.sequences)
    if whole.scores is not None:
        np.testing.assert_array_equal(ranked.scores, whole.scores)
    assert all(best is None for best in decoder.asked) == (way.get("top_k") == 0)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_users_processor_that_changes_nothing_gives_the_same(way: dict[str, Any]) -> None:
    given = options(max_new_tokens=9, eos_token_id=2, **way, num_return_sequences=way.get("num_beams", 1))
    plain = generate(TableDecoder(), prompts(), None, given)
    seen: list[tuple[int, ...]] = []

    def own(tokens: np.ndarray, scores: np.ndarray) -> np.ndarray:
        seen.append((*tokens.shape, *scores.shape))
        return scores

    decoder = TableDecoder(ranks=True)
    same = generate(decoder, prompts(), None, given, [own])
    np.testing.assert_array_equal(same.sequences, plain.sequences)
    assert set(decoder.asked) == {None}
    assert all(rows == lines and width == 23 for rows, _, lines, width in seen)


def test_rows_that_ended_leave_the_batch() -> None:
    decoder = TableDecoder()
    found = generate(decoder, prompts(6), None, options(max_new_tokens=12, eos_token_id=[2, 9, 14]))
    sizes = [len(tokens) for tokens, _ in decoder.calls]
    assert sizes == [int((found.lengths > step).sum()) for step in range(1, len(sizes) + 1)]
    assert 0 < sizes[-1] < 6 and found.steps == len(sizes) + 1


def test_several_sequences_start_from_one_prefill() -> None:
    decoder = TableDecoder(ranks=True)
    generate(decoder, prompts(2), None, options(max_new_tokens=3, do_sample=True, num_return_sequences=3, top_k=5))
    assert decoder.calls[0][1] == [0, 0, 0, 1, 1, 1] and decoder.calls[1][1] == [0, 1, 2, 3, 4, 5]
    assert decoder.asked == [5, 5, 5]


def test_beams_follow_their_parents() -> None:
    decoder = TableDecoder(ranks=True)
    generate(decoder, prompts(2), None, options(max_new_tokens=4, num_beams=3))
    assert decoder.calls[0][1] == [0, 0, 0, 1, 1, 1]
    for _, parents in decoder.calls[1:]:
        assert max(parents[:3]) < 3 <= min(parents[3:])
    assert decoder.asked == [6, 6, 6, 6]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_callback_sees_each_step(way: dict[str, Any]) -> None:
    told: list[np.ndarray] = []
    found = generate(TableDecoder(), prompts(), None, options(max_new_tokens=6, eos_token_id=2, **way), (), told.append)
    assert len(told) == found.steps and not found.cancelled
    if way.get("num_beams"):
        assert {each.shape for each in told} == {(3, 4)}
    else:
        streamed = [[int(t) for t in row if t >= 0] for row in np.stack(told, axis=1)]
        assert streamed == found.new_tokens


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("is_raised", [True, False])
def test_a_callback_cancels_and_gets_what_there_was(way: dict[str, Any], is_raised: bool) -> None:
    steps = 0

    def enough(tokens: np.ndarray) -> bool:
        nonlocal steps
        steps += 1
        if steps == 3 and is_raised:
            raise StopIteration
        return steps == 3

    found = generate(TableDecoder(), prompts(), None, options(max_new_tokens=9, **way), (), enough)
    assert found.cancelled and found.steps == 3
    assert found.lengths.tolist() == [3, 3, 3] and not found.finished.any()
    if not way.get("num_beams"):
        whole = generate(TableDecoder(), prompts(), None, options(max_new_tokens=9, **way))
        np.testing.assert_array_equal(found.sequences, whole.sequences[:, :7])


def test_a_request_that_was_done_anyway_is_not_cancelled() -> None:
    found = generate(TableDecoder(), prompts(), None, options(max_new_tokens=1), (), lambda tokens: True)
    assert not found.cancelled


def test_errors_of_a_callback_come_through() -> None:
    def broken(tokens: np.ndarray) -> bool:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate(TableDecoder(), prompts(), None, options(), (), broken)


def test_twenty_tokens_are_made_where_no_length_is_given() -> None:
    assert generate(TableDecoder(), prompts()).lengths.tolist() == [20, 20, 20]


@pytest.mark.parametrize(
    ("ids", "mask", "given", "where", "found"),
    [
        ([1, 2], None, {}, "input_ids", r"shape \[2\]"),
        ([[]], None, {}, "input_ids", r"shape \[1, 0\]|dtype"),
        ([[1.5]], None, {}, "input_ids", "float64"),
        ([[-1]], None, {}, "input_ids", "token -1"),
        ([[1, 2]], [[1]], {}, "attention_mask", r"\[1, 1\]"),
        ([[1, 2]], [[1, 2]], {}, "attention_mask", "zeros and ones"),
        ([[1, 2]], [[0, 0]], {}, "attention_mask, row 0", "no 1"),
        ([[1, 2, 3]], [[1, 0, 1]], {}, "attention_mask, row 0", "gaps"),
        ([[1, 2, 3]], [[0, 1, 0]], {}, "attention_mask, row 0", "gaps"),
        ([[1, 2, 3]], None, {"max_length": 3}, "max_length", "3 with a prompt of 3"),
        ([[1]], None, {"suppress_tokens": [23]}, "suppress_tokens", "token 23"),
        ([[1]], None, {"bad_words_ids": [[1, 99]]}, "bad_words_ids", "token 99"),
        ([[1]], None, {"forced_eos_token_id": 40}, "forced_eos_token_id", "token 40"),
    ],
)
def test_bad_requests_say_why(ids: Any, mask: Any, given: dict[str, Any], where: str, found: str) -> None:
    with pytest.raises(RequestError, match=found) as error:
        generate(TableDecoder(), ids, mask, options(**given))
    assert error.value.where == where


def test_row_numbers_are_one_a_row() -> None:
    with pytest.raises(RequestError, match="row_numbers"):
        generate(TableDecoder(), prompts(3), None, options(), row_numbers=[1, 2])


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_nan_from_the_decoder_is_an_error(way: dict[str, Any]) -> None:
    class Broken(TableDecoder):
        def logits(self, row: list[int]) -> np.ndarray:
            logits = super().logits(row).copy()
            logits[4] = np.nan if len(row) > 5 else logits[4]
            return logits

    with pytest.raises(RequestError, match="step 3, row 0: found NaN"):
        generate(Broken(), prompts(), None, options(**way))


@pytest.mark.parametrize("users", [(), (lambda tokens, scores: scores,)], ids=["ranked", "whole"])
def test_beams_have_no_scores_where_a_logit_is_infinite(users: Any) -> None:
    class Infinite(TableDecoder):
        def logits(self, row: list[int]) -> np.ndarray:
            return np.where(np.arange(23) == 4, np.float32(np.inf), super().logits(row))

    with pytest.raises(RequestError, match="step 1, row 0: found NaN"):
        generate(Infinite(), prompts(), None, options(num_beams=2), users)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_row_without_a_token_left_is_an_error(way: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="every token banned"):
        generate(TableDecoder(), prompts(), None, options(suppress_tokens=range(23), **way))


@pytest.mark.parametrize("wrong", [lambda t, s: s[:, :4], lambda t, s: s.astype(int), lambda t, s: None])
def test_a_processor_that_returns_something_else_is_an_error(wrong: Any) -> None:
    with pytest.raises(RequestError, match="processors"):
        generate(TableDecoder(), prompts(), None, options(), [wrong])


def test_a_decoder_that_sends_too_little_is_an_error() -> None:
    class Short(TableDecoder):
        def prefill(self, ids: np.ndarray, mask: np.ndarray, best: int | None) -> Any:
            rows = np.zeros((len(ids), 1), np.float32)
            return Best(rows, rows.astype(np.int64), rows[:, 0], rows[:, 0])

    with pytest.raises(RequestError, match="1 tokens a row from the decoder; needed 8 or more"):
        generate(Short(), prompts(), None, options(num_beams=4))
    with pytest.raises(RequestError, match="needed whole rows"):
        generate(Short(), prompts(), None, options(do_sample=True, top_k=0))


def test_logits_of_half_precision_do() -> None:
    class Half(TableDecoder):
        def logits(self, row: list[int]) -> np.ndarray:
            return super().logits(row).astype(np.float16)

    for way in WAYS:
        found = generate(Half(), prompts(), None, options(max_new_tokens=4, **way))
        assert found.lengths.tolist() == [4, 4, 4]
