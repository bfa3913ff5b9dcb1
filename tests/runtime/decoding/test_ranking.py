"""Rankings: the k best after every edit, from the best alone as from whole rows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.plugins import hars
from graphwright.runtime.decoding import Best, GenerationOptions
from graphwright.runtime.decoding.edits import Add
from graphwright.runtime.decoding.history import of_prompts
from graphwright.runtime.decoding.processors import processors_of
from graphwright.runtime.decoding.ranking import Ranking

WIDTH = 50


def state(rows: int = 3, length: int = 6, seed: int = 0) -> Any:
    ids = np.random.default_rng(seed).integers(0, WIDTH, (rows, length))
    return of_prompts(ids, np.ones_like(ids), np.full(rows, 9), 0)


@given(
    seed=st.integers(0, 1000),
    k=st.integers(1, 60),
    is_log=st.booleans(),
    is_tied=st.booleans(),
    options=st.fixed_dictionaries(
        {},
        optional={
            "repetition_penalty": st.sampled_from([1.3, 4.0]),
            "no_repeat_ngram_size": st.sampled_from([1, 2]),
            "suppress_tokens": st.lists(st.integers(0, WIDTH - 1), min_size=1, max_size=40),
            "forced_bos_token_id": st.integers(0, WIDTH - 1),
        },
    ),
)
def test_the_best_alone_give_what_whole_rows_give(
    seed: int, k: int, is_log: bool, is_tied: bool, options: dict[str, Any]
) -> None:
    forced = options.get("forced_bos_token_id")
    if forced in options.get("suppress_tokens", ()):
        del options["suppress_tokens"]
    history = state(length=1 if forced is not None else 6, seed=seed)
    logits = np.random.default_rng(seed).standard_normal((3, WIDTH)).astype(np.float32) * 3
    logits = np.round(logits) if is_tied else logits
    processors = processors_of(GenerationOptions.from_mapping(**options))
    ranking = Ranking(k, WIDTH, processors, is_log=is_log)
    plan = ranking.plan(history)
    sent = logits if plan.best is None else Best(*hars.softmax_topk(logits, plan.best, mode="logit", stats=True))
    scores, tokens = ranking.ranked(sent, plan)
    rows = logits.copy()
    if is_log:
        _, _, maximum, log_sum = hars.softmax_topk(logits, 1, mode="logit", stats=True)
        rows = (logits - maximum[:, None]) - log_sum[:, None]
    for processor in processors:
        processor.edit(history).on_rows(rows)
    expected = -np.sort(-rows, axis=1)[:, : min(k, WIDTH)]
    # A list's log-sum depends in its last bit on the length of the list.
    tolerance = 1e-6 if is_log else 0
    np.testing.assert_allclose(scores, expected, rtol=tolerance)
    is_real = scores > -np.inf
    of_rows = np.take_along_axis(rows, tokens, axis=1)
    np.testing.assert_allclose(of_rows[is_real], scores[is_real], rtol=tolerance)
    for line, real in zip(tokens, is_real, strict=True):
        assert len(set(line[real].tolist())) == real.sum()


@given(seed=st.integers(0, 1000), k=st.integers(1, 20), named=st.integers(0, 8))
def test_additions_are_those_of_edited_topk(seed: int, k: int, named: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.standard_normal((3, WIDTH)).astype(np.float32)
    tokens = np.stack([random.permutation(WIDTH)[:named] for _ in range(3)])
    changes = -random.exponential(size=tokens.shape).astype(np.float32)
    ranking = Ranking(k, WIDTH, (), is_log=True, spare=named)
    found = ranking.ranked(logits, ranking.plan(state()), Add(tokens, changes))
    expected = hars.edited_topk(logits, k, tokens, changes)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_a_ranking_asks_for_as_many_as_may_be_lowered() -> None:
    history = state(length=6)
    assert 0 < max(len(set(row)) for row in history.tokens.tolist()) + 3 <= 16
    options = GenerationOptions.from_mapping(repetition_penalty=1.5, suppress_tokens=[1, 2, 3])
    assert Ranking(4, WIDTH, processors_of(options)).plan(history).best == 4 + 16
    assert Ranking(4, WIDTH, (), spare=2).plan(history).best == 6
    assert Ranking(4, 8, processors_of(options)).plan(history).best is None
    assert Ranking(None, WIDTH, ()).plan(history).best is None


def test_rows_of_minus_infinity_have_log_probability_minus_infinity() -> None:
    logits = np.full((3, WIDTH), -np.inf, np.float32)
    for users in ((), (lambda tokens, scores: scores,)):
        ranking = Ranking(2, WIDTH, (), users, is_log=True)
        scores, tokens = ranking.ranked(logits, ranking.plan(state()))
        assert np.isneginf(scores).all() and tokens.tolist() == [[0, 1]] * 3


@pytest.mark.parametrize("is_log", [True, False])
def test_a_decoder_may_send_more_than_was_asked_for(is_log: bool) -> None:
    logits = np.random.default_rng(0).standard_normal((3, WIDTH)).astype(np.float32)
    ranking = Ranking(3, WIDTH, (), is_log=is_log)
    plan = ranking.plan(state())
    more = Best(*hars.softmax_topk(logits, 20, mode="logit", stats=True))
    for sent in (more, logits):
        scores, tokens = ranking.ranked(sent, plan)
        assert tokens.tolist() == np.argsort(-logits, axis=1)[:, :3].tolist() and scores.shape == (3, 3)
