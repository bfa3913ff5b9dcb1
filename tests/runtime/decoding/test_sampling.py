"""Sampling: the exact distributions, and seeds that do not look at the batch."""

from typing import Any

import numpy as np
import pytest

from graphwright.runtime.decoding import GenerationOptions, generate
from tests.runtime.decoding.decoders import TableDecoder, prompts

DRAWS = 20_000
# Mean plus six standard deviations of chi-square with d degrees of freedom is d + 6 * sqrt(2 d).
SIGMAS = 6.0


def filtered(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """The distribution after the filters, by its definition, in float64."""
    x = logits.astype(np.float64) / temperature
    kept = np.argsort(-x, kind="stable")
    kept = kept[: top_k or None]
    p = np.exp(x[kept] - x.max())
    p /= p.sum()
    count = int(np.searchsorted(np.cumsum(p), top_p)) + 1 if top_p < 1 else len(p)
    count = max(1, min(count, int((p >= min_p * p[0]).sum())))
    result = np.zeros_like(x)
    result[kept[:count]] = p[:count] / p[:count].sum()
    return result


@pytest.mark.parametrize(
    "filters",
    [
        {"top_k": 0},
        {"top_k": 0, "temperature": 1.7},
        {"top_k": 5},
        {"top_k": 0, "top_p": 0.8},
        {"top_k": 0, "min_p": 0.1},
        {"top_k": 9, "top_p": 0.85, "min_p": 0.05, "temperature": 0.8},
        {"top_k": 500},
    ],
    ids=str,
)
def test_draws_follow_the_filtered_distribution(filters: dict[str, Any]) -> None:
    decoder = TableDecoder(sharp=1.2, ranks=True)
    options = GenerationOptions(do_sample=True, max_new_tokens=1, num_return_sequences=DRAWS, seed=11, **filters)
    drawn = generate(decoder, [[3, 7]], None, options).sequences[:, 2]
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **filters}
    expected = DRAWS * filtered(decoder.logits([3, 7]), **values)
    counts = np.bincount(drawn, minlength=23)
    assert not counts[expected == 0].any()
    own = expected > 0
    square = ((counts[own] - expected[own]) ** 2 / expected[own]).sum()
    freedom = own.sum() - 1
    assert freedom > 2 and square < freedom + SIGMAS * np.sqrt(2 * freedom)


def test_processors_come_before_the_filters() -> None:
    decoder = TableDecoder(sharp=1.2, ranks=True)
    best = np.argsort(-decoder.logits([3, 7]))[:3]
    options = GenerationOptions(
        do_sample=True, max_new_tokens=1, num_return_sequences=2000, seed=1, top_k=4, suppress_tokens=tuple(best)
    )
    drawn = generate(decoder, [[3, 7]], None, options).sequences[:, 2]
    assert set(drawn.tolist()) == set(np.argsort(-decoder.logits([3, 7]))[3:7].tolist())


def test_a_seed_repeats_and_another_does_not() -> None:
    def made(seed: int | None) -> Any:
        options = GenerationOptions(do_sample=True, seed=seed, max_new_tokens=10)
        return generate(TableDecoder(sharp=0.5), prompts(), None, options)

    first = made(8)
    np.testing.assert_array_equal(first.sequences, made(8).sequences)
    assert (first.sequences != made(9).sequences).any()
    unseeded = made(None)
    np.testing.assert_array_equal(unseeded.sequences, made(unseeded.seed).sequences)
    assert made(None).seed != unseeded.seed


@pytest.mark.parametrize("filters", [{}, {"top_k": 0}, {"top_k": 0, "top_p": 0.9}], ids=str)
def test_a_row_draws_the_same_whoever_its_neighbours_are(filters: dict[str, Any]) -> None:
    options = GenerationOptions(
        do_sample=True, seed=8, max_new_tokens=10, num_return_sequences=2, eos_token_id=(2, 9, 14), **filters
    )
    ids = prompts(5)
    together = generate(TableDecoder(sharp=0.7), ids, None, options)
    for number in range(5):
        alone = generate(TableDecoder(sharp=0.7), ids[[number]], None, options, row_numbers=[number])
        assert alone.new_tokens == together.new_tokens[2 * number : 2 * number + 2]
    shuffled = np.array([3, 1, 4])
    some = generate(TableDecoder(sharp=0.7), ids[shuffled], None, options, row_numbers=shuffled)
    assert some.new_tokens == [together.new_tokens[2 * n + r] for n in shuffled for r in range(2)]


def test_each_step_draws_anew() -> None:
    # All tokens are equally probable at every step.
    options = GenerationOptions(do_sample=True, seed=8, max_new_tokens=12)
    assert len(set(generate(TableDecoder(sharp=0), [[3]], None, options).new_tokens[0])) > 4


def test_equal_prompts_draw_apart() -> None:
    options = GenerationOptions(do_sample=True, seed=8, max_new_tokens=12, num_return_sequences=3)
    found = generate(TableDecoder(sharp=0.3), [[3, 4], [3, 4]], None, options)
    assert len({tuple(row) for row in found.new_tokens}) == 6
