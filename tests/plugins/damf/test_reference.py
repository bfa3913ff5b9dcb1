"""Three forms of softmax over factored scores; the linear form against the matrix, shifts against whole numbers."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graphwright.errors import RequestError
from graphwright.plugins.damf.factors import factorize
from graphwright.plugins.damf.reference import (
    MARGIN,
    SOFTMAXES,
    Softmax,
    attention,
    bound,
    linear_attention,
    power_of_two,
    shift,
)

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def problem(seed: int, queries: int, keys: int, rank: int, mask: str = "none", dtype: Any = np.float64) -> Arrays:
    """Random factors of 2 x 3 heads, values of size 5 and a mask, of sizes from tiny to huge."""
    random = np.random.default_rng(seed)
    p, n, v = (
        (random.normal(size=(2, 3, length, size)) * 10.0 ** random.integers(-3, 4)).astype(dtype)
        for length, size in ((queries, rank), (keys, rank), (keys, 5))
    )
    masked = random.integers(0, keys + 1, size=(2, 1, 1))
    masks = {
        "none": None,
        "right": np.arange(keys) < keys - masked,
        "left": np.arange(keys) >= masked,
        "random": random.random((2, 1, keys)) < 0.5,
    }
    return p, n, v, masks[mask]


def far_from(found: np.ndarray, expected: np.ndarray, v: np.ndarray) -> float:
    """The largest difference, relative to the largest value: results are means of values."""
    assert np.isfinite(found).all() and found.shape == expected.shape
    return float(np.abs(found - expected).max() / np.abs(v).max())


MASKS = st.sampled_from(["none", "right", "left", "random"])


# Both dtypes lose the same few digits: (c + A) may be 1/65 of c, and up to 257 of them are added.
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-4)])
@given(seed=st.integers(0, 10**6), length=st.integers(1, 257), rank=st.integers(1, 8), mask=MASKS, causal=st.booleans())
@example(seed=0, length=257, rank=8, mask="random", causal=True)
@example(seed=1, length=1, rank=1, mask="none", causal=False)
def test_the_linear_form_is_the_matrix_form(
    dtype: Any, tolerance: float, seed: int, length: int, rank: int, mask: str, causal: bool
) -> None:
    p, n, v, valid = problem(seed, length, length, rank, mask, dtype)
    found = linear_attention(p, n, v, valid, causal)
    assert found.dtype == dtype
    assert far_from(found, attention(p, n, v, valid, causal), v) <= tolerance


@given(seed=st.integers(0, 10**6), queries=st.integers(1, 40), keys=st.integers(1, 40), mask=MASKS)
def test_the_linear_form_is_the_matrix_form_across_sequences(seed: int, queries: int, keys: int, mask: str) -> None:
    p, n, v, valid = problem(seed, queries, keys, 3, mask)
    found = linear_attention(p, n, v, valid, cross=True)
    assert far_from(found, attention(p, n, v, valid, cross=True), v) <= 1e-12


@pytest.mark.parametrize("causal", [False, True])
def test_the_matrix_form_is_the_formula(causal: bool) -> None:
    """Against loops over single numbers: padding before, so that causal rows without any key occur."""
    p, n, v, _ = problem(5, 6, 6, 2)
    valid = np.array([False, True, True, False, True, True])
    found = attention(p, n, v, np.broadcast_to(valid, (2, 1, 6)), causal)
    for batch, head, row in np.ndindex(2, 3, 6):
        seen = [key for key in range(6) if valid[key] and (key <= row or not causal)]
        queries = [query for query in range(6) if valid[query] and (query <= row or not causal)]
        if not seen:
            assert (found[batch, head, row] == 0).all()
            continue
        one, other, values = p[batch, head], n[batch, head], v[batch, head]
        largest = max(np.linalg.norm(one[each]) for each in queries)
        c = MARGIN * largest * max(np.linalg.norm(other[each]) for each in seen)
        weights = [c + one[row] @ other[key] * valid[row] for key in seen]
        expected = sum(weight * values[key] for weight, key in zip(weights, seen, strict=True)) / sum(weights)
        np.testing.assert_allclose(found[batch, head, row], expected, rtol=1e-11)


@given(seed=st.integers(0, 10**6), length=st.integers(1, 40), mask=MASKS, causal=st.booleans())
def test_weights_are_never_negative(seed: int, length: int, mask: str, causal: bool) -> None:
    p, n, v, valid = problem(seed, length, length, 2, mask)
    found = attention(p, n, np.abs(v), valid, causal)
    assert (found >= 0).all()
    assert (found <= np.abs(v).max(axis=-2, keepdims=True) * (1 + 1e-12)).all()


def test_the_bound_of_rank_one_is_the_largest_score() -> None:
    p, n, _, _ = problem(3, 20, 20, 1)
    largest = np.abs(p @ np.swapaxes(n, -1, -2)).max(axis=(-1, -2), keepdims=True)
    np.testing.assert_allclose(bound(p, n), MARGIN * largest, rtol=1e-14)


@pytest.mark.parametrize("mask", ["none", "right"])
@pytest.mark.parametrize("causal", [False, True])
def test_all_ranks_with_exact_softmax_are_plain_attention(mask: str, causal: bool) -> None:
    random = np.random.default_rng(7)
    x, length, size = random.normal(size=(2, 11, 16)), 11, 8
    query, key = random.normal(size=(2, 16, size))
    biases = random.normal(size=(2, size))
    v = random.normal(size=(2, length, 5))
    valid = None if mask == "none" else np.arange(length) < np.array([[7], [11]])
    scores = (x @ query + biases[0]) @ np.swapaxes(x @ key + biases[1], -1, -2) * size**-0.5
    allowed = np.tri(length, dtype=bool) if causal else np.ones((length, length), bool)
    allowed = allowed if valid is None else allowed & valid[:, None]
    weights = np.where(allowed, np.exp(scores - scores.max()), 0)
    u, w = factorize(query, biases[0], key, biases[1], size**-0.5, rank=size)
    homogeneous = np.concatenate([x, np.ones((2, length, 1))], axis=-1)
    found = attention(homogeneous @ u, homogeneous @ w, v, valid, causal, softmax="exact")
    np.testing.assert_allclose(found, weights @ v / weights.sum(-1, keepdims=True), atol=1e-12)


@pytest.mark.parametrize("softmax", SOFTMAXES)
@pytest.mark.parametrize("causal", [False, True])
def test_what_is_masked_or_later_changes_nothing(softmax: Softmax, causal: bool) -> None:
    p, n, v, _ = problem(8, 9, 9, 2)
    valid = np.broadcast_to(np.arange(9) < 6, (2, 1, 9))
    before = attention(p, n, v, valid, causal, softmax)
    for each in (p, n, v):
        each[..., 6:, :] = 1e6
    np.testing.assert_array_equal(attention(p, n, v, valid, causal, softmax)[..., :6, :], before[..., :6, :])
    if causal:
        shorter = attention(p[..., :4, :], n[..., :4, :], v[..., :4, :], None, causal, softmax)
        np.testing.assert_allclose(before[..., :4, :], shorter, rtol=1e-12)


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_rows_without_a_key_give_zero(softmax: Softmax) -> None:
    p, n, v, _ = problem(9, 4, 4, 2)
    valid = np.array([[[False] * 4], [[True] * 4]])
    found = attention(p, n, v, valid, softmax=softmax)
    assert (found[0] == 0).all() and np.isfinite(found).all() and (found[1] != 0).any()


@pytest.mark.parametrize("softmax", SOFTMAXES)
def test_scores_that_are_all_zero_give_the_mean(softmax: Softmax) -> None:
    p, n, v, _ = problem(10, 4, 4, 2, dtype=np.float32)
    found = attention(0 * p, n, v, softmax=softmax)
    np.testing.assert_allclose(found, np.broadcast_to(v.mean(-2, keepdims=True), found.shape), rtol=1e-5)


def nearest_exponent(x: Fraction) -> int:
    """round(log2 x) in whole numbers: 2^(2e-1) < x^2 < 2^(2e+1)."""
    exponent = 0
    while x * x > Fraction(2) ** (2 * exponent + 1):
        exponent += 1
    while x * x < Fraction(2) ** (2 * exponent - 1):
        exponent -= 1
    return exponent


def shifted(scores: np.ndarray, v: np.ndarray, allowed: np.ndarray, causal: bool) -> np.ndarray:
    """Eq. 15-17 with shifts of exact fractions, for one head."""
    found = np.zeros((len(scores), v.shape[1]))
    exact = [[Fraction(float(each)) for each in row] for row in scores]
    for row in range(len(scores)):
        rows = range(row + 1) if causal else range(len(scores))
        sizes = [abs(exact[m][n]) for m in rows for n in range(len(v)) if allowed[m, n]]
        keys = [n for n in range(len(v)) if allowed[row, n]]
        if not keys:
            continue
        c = nearest_exponent(max(*sizes, Fraction(float(scores.dtype.type(1e-30)))))
        terms = [(each, exact[row][each], nearest_exponent(abs(exact[row][each] or Fraction(1)))) for each in keys]
        signs = [(n, (score > 0) - (score < 0), exponent) for n, score, exponent in terms]
        den = len(keys) * Fraction(2) ** c + sum(sign * Fraction(2) ** exponent for _, sign, exponent in signs)
        if not den:
            continue
        right = (1 if den > 0 else -1) * Fraction(2) ** -nearest_exponent(abs(den))
        for column in range(v.shape[1]):
            values = [Fraction(float(each)) for each in v[:, column]]
            total = Fraction(2) ** c * sum(values[n] for n in keys)
            total += sum(sign * Fraction(2) ** exponent * values[n] for n, sign, exponent in signs)
            found[row, column] = float(total * right)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(seed=st.integers(0, 10**6), queries=st.integers(1, 9), keys=st.integers(1, 9), causal=st.booleans())
def test_shifts_are_exact_to_the_bit(dtype: Any, seed: int, queries: int, keys: int, causal: bool) -> None:
    """Small whole values and scores of few binary orders keep every sum exact, so that nothing may differ."""
    random = np.random.default_rng(seed)
    queries = keys if causal else queries
    scores = (random.choice([-1, 0, 1, 1], (queries, keys)) * 2.0 ** random.uniform(-4, 4, (queries, keys))).astype(
        dtype
    )
    v = random.integers(-100, 100, (keys, 2)).astype(dtype)
    allowed = np.tri(queries, keys, dtype=bool) if causal else np.ones((queries, keys), bool)
    allowed = allowed & (random.random(keys) < 0.8)
    found = shift(scores, v, allowed, causal)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, shifted(scores, v, allowed, causal))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.floats(1e-37, 1e37))
@example(2**-149)
@example(2**-140 * 1.4142135)
def test_a_number_becomes_the_nearest_power_of_two(dtype: Any, number: float) -> None:
    x = np.array([number, -number], dtype)
    if x[0]:
        exponent = nearest_exponent(Fraction(float(x[0])))
        np.testing.assert_array_equal(power_of_two(x), np.array([2.0**exponent, -(2.0**exponent)], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_beside_the_root_of_two_go_their_own_ways(dtype: Any) -> None:
    """The root of two lies between two neighbours: the lower one rounds down, the upper one up."""
    root = np.sqrt(dtype(2))
    lower, upper = (
        (root, np.nextafter(root, dtype(2))) if float(root) ** 2 < 2 else (np.nextafter(root, dtype(1)), root)
    )
    assert Fraction(float(lower)) ** 2 < 2 < Fraction(float(upper)) ** 2
    assert power_of_two(np.array([lower, upper, 2 * lower, upper / 2], dtype)).tolist() == [1, 2, 2, 1]


def test_zero_stays_zero() -> None:
    assert power_of_two(np.array([0.0, -0.0], np.float32)).tolist() == [0, 0]


@pytest.mark.parametrize("causal", [False, True])
def test_sizes_that_only_cross_attention_may_have_are_refused(causal: bool) -> None:
    p, n, v, _ = problem(0, 3, 4, 1)
    with pytest.raises(RequestError, match="3 queries and 4 keys"):
        attention(p, n, v, causal=causal, cross=causal)
    with pytest.raises(RequestError, match="3 queries and 4 keys"):
        linear_attention(p, n, v, causal=causal, cross=causal)


def test_an_unknown_softmax_is_refused() -> None:
    p, n, v, _ = problem(0, 3, 3, 1)
    with pytest.raises(RequestError, match="needed one of exact, maclaurin, shift"):
        attention(p, n, v, softmax="taylor")  # type: ignore[arg-type]
