"""Random numbers against the published answers, and how a row's number is made of them."""

import numpy as np
import pytest

from graphwright.plugins.hars.search.philox import philox4x32, uniform

# Known answers of philox4x32 with 10 rounds, from tests/kat_vectors of Random123 by the authors of the paper.
# Counter and key are all zeros, all ones, and the first digits of pi.
KNOWN = [
    ("00000000 00000000 00000000 00000000 00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("given", "expected"), KNOWN)
def test_known_answers(given: str, expected: str) -> None:
    *counter, left, right = (np.uint64(int(word, 16)) for word in given.split())
    words = philox4x32((counter[0], counter[1], counter[2], counter[3]), (left, right))
    assert " ".join(f"{word:08x}" for word in words) == expected


def test_a_row_takes_the_first_word_of_its_seed_offset_and_number() -> None:
    seed, offset, row = 0x299F31D0A4093822, 0x85A308D3243F6A88, 0x0370734413198A2E
    numbers = [np.array([value], np.uint64) for value in (seed, offset, row)]
    assert uniform(*numbers).tolist() == [0xD16CFE09 / 2**32]


@pytest.mark.parametrize("bit", [0, 31, 32, 63])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_bit_counts(place: int, bit: int) -> None:
    numbers = [np.array([5], np.uint64) for _ in range(3)]
    before = uniform(*numbers)
    numbers[place] = numbers[place] ^ np.uint64(1 << bit)
    assert uniform(*numbers) != before


def test_numbers_are_spread_evenly() -> None:
    rows = np.arange(1 << 16, dtype=np.uint64)
    drawn = uniform(np.full_like(rows, 3), np.full_like(rows, 9), rows)
    counts = np.bincount((drawn * 64).astype(int), minlength=64)
    chi_square = float(((counts - 1024) ** 2 / 1024).sum())
    # 63 degrees of freedom: mean 63, standard deviation 11.2.
    assert 63 - 4 * 11.2 < chi_square < 63 + 4 * 11.2
    assert drawn.min() >= 0 and drawn.max() < 1
