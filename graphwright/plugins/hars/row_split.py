"""How the portable form cuts a row, and where that pays: the decisions, with the figures behind them.

What is emitted, by the length V of a row, and the figures that decided (microseconds, ONNX Runtime 1.31.1, one thread
of an AMD EPYC with AVX-512, 10th percentile of interleaved runs, by benchmarks/hars_portable.py)::

    V >= 8192 and 256 k    groups; else TopK over     rows x V, k   1 x 4096, 8  1 x 8192, 8  8 x 8192, 8  1 x 16384, 64
                           the row                    the row            11           14           56             23
                                                      groups             15           16           33             25

    size of a group        near 2 sqrt(V / k), 64     V = 128256      32     64    128    256    384    768
                           to 256, a divisor of V     k = 1           45     35     31     30     31     32
                           if one is near             k = 8           49     39     35     35     37     40
                                                      k = 64          59     48     47     51     59     78

    V <= 2048              sums by (Log)Softmax       rows x V        1 x 2048   8 x 2048   1 x 32000   1 x 128256
    V > 2048               Sub, Exp, ReduceSum by     Softmax             7         11          17          54
                           group, then in float64     Sub, Exp, ...       8         14          21          64
    never                  ReduceLogSumExp                               13         71         131         510

Softmax adds a long row up in float32: on rows of nearly equal numbers its logarithm is 2e-6 off at V = 2048, 2e-5 at
32000 and 8e-5 at 128256, against 1e-6 for sums by group. Where V has no fitting divisor, padding copies the row.

Each group's sum is taken over whole cache lines (sizes are multiples of 16): ONNX Runtime's ReduceSum adds up in
another order where a row begins elsewhere in its line. The sums of groups are added in float64, where the order
does not reach the float32 result but with a chance of about 1e-9.

Source: docs/design/0005-hars.md.
"""

import math
from dataclasses import dataclass

# The longest row over which Softmax adds up exactly enough (2e-6 in the logarithm, also with half of the lanes).
LONGEST_SOFTMAX = 2048
# From here on ranking the groups first is faster than TopK over the row.
SHORTEST_GROUPED, SHORTEST_PER_K = 8192, 256
# What a row needs to gain from groups whatever the number of rows, when the plain operators are exact enough for it.
SHORTEST_PAYING, PER_K_PAYING = 16384, 512
# The sizes of groups, and the elements in a cache line.
SMALLEST_GROUP, LARGEST_GROUP, LINE = 64, 256, 16


@dataclass(frozen=True)
class Split:
    """How a row is cut: ``groups`` runs of ``size`` elements, the last one padded."""

    groups: int
    size: int


def is_short(width: int) -> bool:
    """Tell whether a row is one that is ranked and summed as a whole, by TopK and Softmax."""
    return width <= LONGEST_SOFTMAX


def split_row(width: int, k: int, *, is_summed: bool) -> Split | None:
    """Return how a row is cut, or None where TopK over the whole row is faster and no sum over it is needed.

    Example:
        >>> [split_row(width, 8, is_summed=True) for width in (128256, 50257, 1000)]
        [Split(groups=501, size=256), Split(groups=315, size=160), None]
    """
    if is_short(width) or not (is_summed or is_grouped(width, k)):
        return None
    best = min(LARGEST_GROUP, max(SMALLEST_GROUP, 2 * math.sqrt(width / k)))
    step = LINE if is_summed else 1
    # Larger groups cost less than padding while an eighth of the row at most is ranked again; their sums are rougher.
    most = 2 * best if is_summed else max(2 * best, width / (8 * k))
    sizes = [size for size in range(step, int(most) + 1, step) if width % size == 0 and size >= best / 2]
    sizes = sizes or [round(best / LINE) * LINE]
    size = min(sizes, key=lambda each: abs(math.log(each / best)))
    return Split(-(-width // size), size)


def is_grouped(width: int, k: int) -> bool:
    """Tell whether ranking the groups first is faster than TopK over the row."""
    return width >= max(SHORTEST_GROUPED, SHORTEST_PER_K * k)


def pays(width: int, k: int) -> bool:
    """Tell whether ranking by groups was as fast as TopK for 1, 8 and 32 rows (benchmarks/results/hars_portable.json).

    Padding copies the row, and then groups lose at 32 rows. A large k ranks much of the row again.

    Example:
        >>> [pays(width, 8) for width in (128256, 100003, 32000, 8192)]
        [True, False, True, False]
    """
    split = split_row(width, k, is_summed=False)
    if split is None or width < max(SHORTEST_PAYING, k * PER_K_PAYING):
        return False
    return split.groups * split.size == width
