"""Philox4x32-10: random numbers that are a function of a counter and a key, so that nothing has a state.

Source: Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11,
doi:10.1145/2063384.2063405.
"""

import numpy as np

# The multipliers and the Weyl sequence of the paper, section 4.3.
MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def philox4x32(counter: Words, key: tuple[np.ndarray, np.ndarray]) -> Words:
    """Return four random words for each counter and key.

    Shapes: all words have one shape, or shapes that broadcast.
    Dtypes: uint64 in and out, values below 2**32.

    Example:
        >>> zero = np.uint64(0)
        >>> [f"{word:08x}" for word in philox4x32((zero, zero, zero, zero), (zero, zero))]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']
    """
    first, second, third, fourth = counter
    left, right = key
    for _ in range(ROUNDS):
        product, other = MULTIPLIERS[0] * first, MULTIPLIERS[1] * third
        first, third = (other >> _HALF) ^ second ^ left, (product >> _HALF) ^ fourth ^ right
        second, fourth = other & _LOW, product & _LOW
        left, right = (left + KEY_STEPS[0]) & _LOW, (right + KEY_STEPS[1]) & _LOW
    return first, second, third, fourth


def uniform(seeds: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return one number in [0, 1) for each row: the first word of Philox4x32-10, divided by 2**32.

    The key is (low, high half of the seed), the counter (low, high half of the offset, low, high half of the row).

    Shapes: all [rows].
    Dtypes: uint64 in, float64 out; every result is a multiple of 2**-32.

    Example:
        >>> rows = np.arange(3, dtype=np.uint64)
        >>> uniform(np.full(3, 7, np.uint64), np.zeros(3, np.uint64), rows).round(4).tolist()
        [0.9546, 0.495, 0.942]
    """
    counter = (offsets & _LOW, offsets >> _HALF, rows & _LOW, rows >> _HALF)
    return philox4x32(counter, (seeds & _LOW, seeds >> _HALF))[0].astype(np.float64) * 2.0**-32
