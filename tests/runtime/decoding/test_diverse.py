"""Diverse beam search against the paper's, written out in plain Python and float64."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphwright.runtime.decoding import GenerationOptions, generate
from tests.runtime.decoding.decoders import TableDecoder, prompts

Hypothesis = tuple[float, list[int]]


def diverse_search(
    decoder: TableDecoder,
    prompt: list[int],
    groups: int,
    width: int,
    penalty: float,
    length: int,
    ends: set[int],
    power: float,
) -> list[Hypothesis]:
    """Vijayakumar et al. 2018, algorithm 1, with the pools of finished hypotheses that beam search has."""
    beams: list[list[Hypothesis]] = [[(0.0, [])] for _ in range(groups)]
    pools: list[list[Hypothesis]] = [[] for _ in range(groups)]
    for step in range(1, length + 1):
        counts: Counter[int] = Counter()
        for group in range(groups):
            if not beams[group]:
                continue
            candidates = [
                (score + logprob - penalty * counts[token], [*row, token])
                for score, row in beams[group]
                for token, logprob in enumerate(decoder.logprobs(prompt + row))
            ]
            candidates = sorted(candidates, key=lambda each: -each[0])[: max(2, 1 + len(ends)) * width]
            done = [(s / len(row) ** power, row) for s, row in candidates[:width] if row[-1] in ends or step == length]
            pools[group] = sorted(pools[group] + done, key=lambda each: -each[0])[:width]
            going = [each for each in candidates if each[1][-1] not in ends][:width]
            counts.update(row[-1] for _, row in going)
            is_full = len(pools[group]) == width
            is_hopeless = is_full and going[0][0] / step**power <= pools[group][-1][0]
            beams[group] = [] if step == length or is_hopeless else going
    return sorted((each for pool in pools for each in pool), key=lambda each: -each[0])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("groups", "width", "penalty", "ends", "power"),
    [
        (2, 1, 0.5, set(), 1.0),
        (2, 2, 1.0, {2, 9, 14}, 1.0),
        (3, 2, 5.0, {2, 9, 14}, 0.0),
        (4, 1, 0.3, {2, 9}, 1.0),
        (3, 1, 50.0, {2}, 2.0),
    ],
)
def test_groups_find_what_the_paper_finds(
    seed: int, groups: int, width: int, penalty: float, ends: set[int], power: float
) -> None:
    decoder = TableDecoder(seed=seed, ranks=True)
    options = GenerationOptions.from_mapping(
        num_beams=groups * width,
        num_beam_groups=groups,
        diversity_penalty=penalty,
        num_return_sequences=groups * width,
        max_new_tokens=6,
        eos_token_id=sorted(ends) or None,
        length_penalty=power,
    )
    ids = prompts(2, seed=seed)
    found = generate(decoder, ids, None, options)
    expected = [diverse_search(decoder, row, groups, width, penalty, 6, ends, power) for row in ids.tolist()]
    flat = [each for one in expected for each in one]
    assert found.new_tokens == [row for _, row in flat]
    np.testing.assert_allclose(found.scores, [score for score, _ in flat], rtol=1e-5)


def test_a_large_penalty_makes_first_tokens_differ() -> None:
    options = GenerationOptions(
        num_beams=4, num_beam_groups=4, diversity_penalty=1e3, num_return_sequences=4, max_new_tokens=5
    )
    for prompt in prompts(5):
        found = generate(TableDecoder(), prompt[None], None, options)
        for step in range(5):
            assert len({row[step] for row in found.new_tokens}) == 4


def test_the_decoder_ranks_once_for_all_groups() -> None:
    decoder = TableDecoder(ranks=True)
    options = GenerationOptions(num_beams=6, num_beam_groups=3, diversity_penalty=0.5, max_new_tokens=3, eos_token_id=2)
    generate(decoder, prompts(2), None, options)
    # 2 * 2 candidates a group, and as many more as the two other groups may have chosen.
    assert decoder.asked == [8, 8, 8]


@pytest.mark.parametrize("rules", [{"repetition_penalty": 1.5}, {"forced_bos_token_id": 7}], ids=str)
def test_other_processors_come_behind_the_penalty(rules: dict[str, Any]) -> None:
    decoder = TableDecoder()
    options = GenerationOptions.from_mapping(
        num_beams=2, num_beam_groups=2, diversity_penalty=3.0, num_return_sequences=2, max_new_tokens=1, **rules
    )
    found = generate(decoder, [[4]], None, options)
    scores = decoder.logprobs([4])
    if "forced_bos_token_id" in rules:
        assert found.new_tokens == [[7], [7]] and found.scores.tolist() == [0, 0]
        return
    first = np.where(np.arange(23) == 4, scores * 1.5, scores)
    second = scores - 3.0 * (np.arange(23) == first.argmax())
    second = np.where(np.arange(23) == 4, second * 1.5, second)
    expected = sorted([(-first.max(), int(first.argmax())), (-second.max(), int(second.argmax()))])
    assert found.new_tokens == [[token] for _, token in expected]
    np.testing.assert_allclose(found.scores, [-score for score, _ in expected], rtol=1e-5)
