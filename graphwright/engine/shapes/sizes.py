"""Arithmetic on sizes: a size is a number, or the text of a name or of an expression in names.

Texts are canonical, so equal texts are equal sizes: sums of products (``batch*seq``, ``past + seq``) and the
functions ``Min(512, seq)``, ``Max(0, seq - 1)``, ``(seq//2)``, as torch spells them. None is a size that is
not known; every function takes it and gives it back. A name stands for a size, so it is never negative; a
difference may be.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

from graphwright.engine.shapes.terms import (
    Product,
    Size,
    arguments,
    as_size,
    bracketed,
    call,
    floored,
    read,
    render,
    times,
    total,
    within_limits,
)

__all__ = [
    "Size",
    "add",
    "beyond_zero",
    "broadcast",
    "canonical",
    "clipped_difference",
    "divide_products",
    "floor_divide",
    "is_at_least",
    "is_equal",
    "is_nonnegative",
    "maximum",
    "minimum",
    "multiply",
    "product",
    "quotient",
    "steps",
    "subtract",
]


def canonical(size: Size | None) -> Size | None:
    """Return a size in its canonical spelling.

    Example:
        >>> canonical("Min(seq, 512)"), canonical("1 + 2*seq"), canonical("seq-len")
        ('Min(512, seq)', '2*seq + 1', 'seq-len')
    """
    return None if size is None else render(read(size))


def add(first: Size | None, second: Size | None) -> Size | None:
    """Return the sum."""
    if first is None or second is None:
        return None
    if isinstance(first, int) and isinstance(second, int):
        return first + second
    return _combine(first, second, 1)


def subtract(first: Size | None, second: Size | None) -> Size | None:
    """Return the difference, which may be negative."""
    if first is None or second is None:
        return None
    if isinstance(first, int) and isinstance(second, int):
        return first - second
    return _combine(first, second, -1)


def multiply(first: Size | None, second: Size | None) -> Size | None:
    """Return the product; zero times an unknown size is zero."""
    if first == 0 or second == 0:
        return 0
    if first is None or second is None:
        return None
    if isinstance(first, int) and isinstance(second, int):
        return first * second
    return _product(first, second)


def product(sizes: Iterable[Size | None]) -> Size | None:
    """Return the product of all."""
    total: Size | None = 1
    for size in sizes:
        total = multiply(total, size)
    return total


def quotient(whole: Size | None, part: Size | None) -> Size | None:
    """Return ``whole / part`` where it is exact whatever the names are (the part is not zero), else None.

    Example:
        >>> quotient("384*batch*seq", "32*seq"), quotient("seq + 1", 2)
        ('12*batch', None)
    """
    if whole is None or part is None or part == 0:
        return None
    if whole == 0:
        return 0
    if isinstance(whole, int) and isinstance(part, int):
        return whole // part if whole % part == 0 else None
    return _quotient(whole, part)


def floor_divide(whole: Size | None, part: Size | None) -> Size | None:
    """Return ``whole // part`` of sizes that are not negative; the part is not zero."""
    exact = quotient(whole, part)
    if exact is not None or whole is None or part is None or part == 0:
        return exact
    if not (is_nonnegative(whole) and is_nonnegative(part)):
        return None
    if isinstance(part, int):
        return steps(whole, part)
    return within_limits(f"({bracketed(whole)}//{bracketed(part)})")


def steps(whole: Size | None, part: int) -> Size | None:
    """Return ``whole // part``, rounded down, for a part above zero; the whole may be negative.

    Example:
        >>> steps("samples - 10", 5), steps("(samples//5) - 4", 2), steps("samples - 3", 5)
        ('(samples//5) - 2', '(samples//10) - 2', '((samples + 2)//5) - 1')
    """
    return None if whole is None else _floored(whole, part)


def divide_products(wholes: Iterable[Size | None], parts: Iterable[Size | None]) -> Size | None:
    """Return the product of ``wholes`` over that of ``parts``, where every run that works divides exactly.

    Example:
        >>> divide_products(["batch", "past + seq", 384], ["past + seq", 32, "batch"])
        12
    """
    left, right = list(wholes), []
    for part in parts:
        if part is not None and part in left:
            left.remove(part)
        else:
            right.append(part)
    return floor_divide(product(left), product(right))


def minimum(first: Size | None, second: Size | None) -> Size | None:
    """Return the smaller size, by name where that cannot be told.

    Example:
        >>> minimum(512, "seq"), minimum("seq", "past + seq")
        ('Min(512, seq)', 'seq')
    """
    if first is None or second is None:
        return None
    if isinstance(first, int) and isinstance(second, int):
        return min(first, second)
    smallest = _extremes({*arguments(first, "Min"), *arguments(second, "Min")}, is_at_least)
    if len(smallest) > 1 and not all(is_nonnegative(size) for size in smallest):
        return None
    return within_limits(call("Min", smallest))


def maximum(first: Size | None, second: Size | None) -> Size | None:
    """Return the larger size, by name where that cannot be told."""
    if first is None or second is None:
        return None
    if isinstance(first, int) and isinstance(second, int):
        return max(first, second)
    largest = _extremes({*arguments(first, "Max"), *arguments(second, "Max")}, _is_at_most)
    if len(largest) > 1 and not any(is_nonnegative(size) for size in largest):
        return None
    return within_limits(call("Max", largest))


def beyond_zero(size: Size | None) -> Size | None:
    """Return ``length`` of ``Max(0, length)``; None for any other size."""
    others = [each for each in arguments(size, "Max") if each != 0] if isinstance(size, str) else []
    return others[0] if others and others != [size] and len(others) == 1 else None


def clipped_difference(first: Size | None, second: Size | None) -> Size | None:
    """Return ``first - second``, or zero where that is negative: the length of a range."""
    return maximum(0, subtract(first, second))


def broadcast(first: Size | None, second: Size | None) -> Size | None:
    """Return the size that broadcasting gives in every run that works, or None where runs differ.

    Two different names give None: either may be 1. ``Min(n, s)`` with a number n gives way to ``s``, because
    where it is smaller than s it has to be 1.

    Example:
        >>> broadcast(1, "seq"), broadcast("seq", 7), broadcast("seq", "Min(512, seq)"), broadcast("a", "b")
        ('seq', 7, 'seq', None)
    """
    if first == second or second == 1:
        return first
    if first == 1:
        return second
    if isinstance(first, int) and isinstance(second, int):
        return None
    if isinstance(first, int) or isinstance(second, int):
        return first if isinstance(first, int) else second
    if first is None or second is None:
        return None
    if _is_cut_of(first, second):
        return second
    return first if _is_cut_of(second, first) else None


def is_nonnegative(size: Size | None) -> bool:
    """Tell whether a size is known not to be negative: names are not, differences may be."""
    if size is None:
        return False
    return size >= 0 if isinstance(size, int) else all(count >= 0 for count in read(size).values())


def is_at_least(first: Size | None, second: Size | None) -> bool:
    """Tell whether the first is known to be as large as the second."""
    return is_nonnegative(subtract(first, second))


def is_equal(first: Size | None, second: Size | None) -> bool | None:
    """Tell whether two sizes are equal, or None where that depends on the run."""
    difference = subtract(first, second)
    if difference is None or difference == 0:
        return None if difference is None else True
    if is_nonnegative(subtract(difference, 1)) or is_nonnegative(subtract(-1, difference)):
        return False
    return None


def _is_at_most(first: Size | None, second: Size | None) -> bool:
    return is_at_least(second, first)


@lru_cache(maxsize=4096)
def _is_cut_of(cut: str, size: str) -> bool:
    given = arguments(cut, "Min")
    others = [each for each in given if each != size]
    return len(others) < len(given) and all(isinstance(other, int) and other >= 1 for other in others)


@lru_cache(maxsize=4096)
def _combine(first: Size, second: Size, sign: int) -> Size | None:
    return as_size(total(read(first), read(second), sign))


@lru_cache(maxsize=4096)
def _product(first: Size, second: Size) -> Size | None:
    return as_size(times(read(first), read(second)))


@lru_cache(maxsize=4096)
def _floored(whole: Size, part: int) -> Size | None:
    return as_size(floored(read(whole), part))


@lru_cache(maxsize=4096)
def _quotient(whole: Size, part: Size) -> Size | None:
    top, bottom = read(whole), read(part)
    if len(bottom) > 1:
        # Only a multiple of the whole sum: 8*past + 8*seq over past + seq.
        factor = next(iter(top.values())) // next(iter(bottom.values()))
        return factor if times(bottom, {(): factor}) == top else None
    ((names, count),) = bottom.items()
    result: dict[Product, int] = {}
    for each, number in top.items():
        left = list(each)
        for name in names:
            if name not in left:
                return None
            left.remove(name)
        if number % count:
            return None
        result[tuple(left)] = number // count
    return as_size(result)


def _extremes(given: set[Size], is_useless_beside: Callable[[Size, Size], bool]) -> list[Size]:
    """Leave out what never decides: of a minimum whatever is at least as large as another argument."""
    kept: list[Size] = []
    for size in sorted(given, key=str):
        if not any(is_useless_beside(size, other) for other in kept):
            kept = [*(other for other in kept if not is_useless_beside(other, size)), size]
    return kept
