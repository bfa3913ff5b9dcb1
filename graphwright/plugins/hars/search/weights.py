"""The weights of sampling, ``exp(x - maximum)``, and their sums: float64, in one order, the same bits everywhere.

A library's ``exp`` differs from another's in the last bit, and a sum depends on its order. So both are spelled out
here, in additions and multiplications that every processor rounds alike; no step may be fused into another.
"""

import numpy as np

# d = n * ln 2 + r with n whole: LN2_HIGH ends in zeros, so that n * LN2_HIGH is exact (Cody and Waite 1980).
LOG2_E = 1.4426950408889634
LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")
# exp(r) = 1 + r + ... + r**11 / 11!; with |r| <= ln 2 / 2 the rest is below 7e-15.
COEFFICIENTS = tuple(1.0 / value for value in (39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2, 1, 1))
# Below this a weight is 0: exp(-708) is the last that is no denormal number.
SMALLEST = -708.0
# A sum in index order: of 32 weights by halving, of 32 such sums by halving, of these one after the other.
LEAF = 32
BLOCK = LEAF * LEAF


def weights(x: np.ndarray, maximum: np.ndarray | np.float32) -> np.ndarray:
    """Return ``exp(x - maximum)``, where ``x <= maximum`` and the maximum is finite.

    Dtypes: float32 in, float64 out.

    Example:
        >>> weights(np.float32([0, -1, -np.inf]), np.float32(0)).tolist()
        [1.0, 0.36787944117144..., 0.0]
    """
    distance = x.astype(np.float64) - np.float64(maximum)
    clipped = np.maximum(distance, SMALLEST)
    whole = np.rint(clipped * LOG2_E)
    rest = (clipped - whole * LN2_HIGH) - whole * LN2_LOW
    power = np.full_like(rest, COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        power = power * rest + coefficient
    return np.where(distance < SMALLEST, 0.0, np.ldexp(power, whole.astype(np.int32)))


def halved(values: np.ndarray) -> np.ndarray:
    """Return the sum over the last axis, a power of two: the upper half is added to the lower until one is left.

    Example:
        >>> float(halved(np.arange(8.0)))
        28.0
    """
    while values.shape[-1] > 1:
        middle = values.shape[-1] // 2
        values = values[..., :middle] + values[..., middle:]
    return np.asarray(values[..., 0])


class IndexOrder:
    """Weights of one row in index order, summed in leaves of 32 and blocks of 32 leaves; zeros fill the last.

    Example:
        >>> row = IndexOrder(np.ones(100))
        >>> row.total, row.pick(41.5)
        (100.0, 41)
    """

    def __init__(self, values: np.ndarray) -> None:
        filled = np.zeros(-(-values.size // BLOCK) * BLOCK)
        filled[: values.size] = values
        self._values = filled.reshape(-1, LEAF, LEAF)
        self._leaves = halved(self._values)
        self._blocks = halved(self._leaves)

    @property
    def total(self) -> float:
        """The sum of all: block after block."""
        return float(np.cumsum(self._blocks)[-1])

    def pick(self, target: float) -> int:
        """Return the index at which the running sum passes ``target``, found by block, by leaf, by element."""
        block, before = passed(self._blocks, 0.0, target)
        leaf, before = passed(self._leaves[block], before, target)
        element, _ = passed(self._values[block, leaf], before, target)
        return block * BLOCK + leaf * LEAF + element


def passed(values: np.ndarray, before: float, target: float) -> tuple[int, float]:
    """Return the first place at which ``before`` plus the running sum exceeds ``target``, and the sum before it.

    A sum by halving and one element by element may differ in the last bit. Where none exceeds the target for that
    reason, it is the last place that is not 0.

    Example:
        >>> passed(np.array([1.0, 0.0, 2.0]), 0.5, 1.5)
        (2, 1.5)
    """
    running = np.cumsum(np.concatenate(([before], values)))
    above = np.flatnonzero(running[1:] > target)
    place = above[0] if above.size else np.flatnonzero(values)[-1]
    return int(place), float(running[place])
