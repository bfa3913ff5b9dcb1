"""Formulas: arithmetic, evaluation and spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.formula import ZERO, Formula, product_of, sum_of

SMALL = st.integers(-5, 5)
DIMS = {"batch": 3, "seq": 7, "past": 2}
FORMULAS = st.lists(st.tuples(st.lists(st.sampled_from(sorted(DIMS)), max_size=3), SMALL), max_size=4).map(
    lambda terms: sum_of(product_of(Formula.of(name) for name in names) * count for names, count in terms)
)


@given(FORMULAS, FORMULAS, SMALL)
def test_arithmetic_is_that_of_the_numbers(first: Formula, second: Formula, number: int) -> None:
    one, other = first.at(DIMS), second.at(DIMS)
    assert one is not None
    assert other is not None
    assert (first + second).at(DIMS) == one + other
    assert (first * second).at(DIMS) == one * other
    assert (first * number + number).at(DIMS) == one * number + number


@pytest.mark.parametrize(
    ("text", "expected"),
    [("(seq//2)", 3), ("Min(512, seq)", 7), ("64*((seq + 63)//64)", 64), ("past + seq", 9), ("Max(0, past - 5)", 0)],
)
def test_functions_in_sizes_are_evaluated(text: str, expected: int) -> None:
    assert Formula.of(text).at(DIMS) == expected


def test_a_name_that_is_not_given_gives_nothing() -> None:
    assert (Formula.of("seq") * "other".count("o") + Formula.of("heads")).at(DIMS) is None


def test_a_number_is_a_number_and_other_formulas_are_text() -> None:
    assert (ZERO.size, Formula.of(4).size, (Formula.of("n") * 2).size) == (0, 4, "2*n")
    assert (Formula.of("n") * 0).size == 0


def test_sums_that_nobody_reads_are_told_by_their_length() -> None:
    assert str(sum_of(Formula.of(f"n{index}") for index in range(99))) == "a sum of 99 products"


def test_larger_formulas_have_larger_magnitudes() -> None:
    length = Formula.of("seq")
    assert (length * length).magnitude > (length * 50).magnitude > Formula.of(64).magnitude
