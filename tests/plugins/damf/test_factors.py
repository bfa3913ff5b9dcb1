"""Factors of a head's scores: as good as the singular value decomposition of the whole form, at a head's size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.errors import RequestError
from graphwright.plugins.damf.factors import factorize, homogeneous, singular_values

Head = tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None, float]


def head(seed: int, width: int = 12, size: int = 4, other: int | None = None, bias: bool = True) -> Head:
    random = np.random.default_rng(seed)
    query, key = random.normal(size=(width, size)), random.normal(size=(other or width, size))
    biases = [random.normal(size=size) if bias else None for _ in range(2)]
    return query, biases[0], key, biases[1], size**-0.5


def form(query: np.ndarray, query_bias: np.ndarray | None, key: np.ndarray, key_bias: np.ndarray | None, scale: float):
    """The whole matrix, which the code under test never builds."""
    return scale * homogeneous(query, query_bias) @ homogeneous(key, key_bias).T


@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 8), st.integers(1, 20), st.booleans())
def test_all_factors_together_are_the_whole_form(seed: int, width: int, size: int, other: int, bias: bool) -> None:
    given_head = head(seed, width, size, other, bias)
    u, v = factorize(*given_head, rank=size)
    assert u.shape == (width + 1, size) and v.shape == (other + 1, size)
    np.testing.assert_allclose(u @ v.T, form(*given_head), rtol=0, atol=1e-12 * np.abs(form(*given_head)).max())


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_a_lower_rank_is_the_best_there_is(rank: int) -> None:
    given_head = head(1)
    whole = form(*given_head)
    u, v = factorize(*given_head, rank=rank)
    values = np.linalg.svd(whole, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(whole - u @ v.T), np.linalg.norm(values[rank:]), atol=1e-12)


def test_the_singular_values_are_those_of_the_whole_form() -> None:
    given_head = head(2)
    np.testing.assert_allclose(
        singular_values(*given_head), np.linalg.svd(form(*given_head), compute_uv=False)[:4], atol=1e-13
    )


def test_a_head_larger_than_its_input_has_zeros_behind_its_values() -> None:
    values = singular_values(*head(3, width=2, size=5))
    assert values.shape == (5,) and values[2] > 0 and (values[3:] == 0).all()


def test_both_factors_share_the_size_of_a_singular_value() -> None:
    u, v = factorize(*head(4), rank=3)
    np.testing.assert_allclose(np.linalg.norm(u, axis=0), np.linalg.norm(v, axis=0))
    np.testing.assert_allclose(np.linalg.norm(u, axis=0) ** 2, singular_values(*head(4))[:3])


def test_the_sign_is_settled() -> None:
    query, query_bias, key, key_bias, scale = head(5)
    u, v = factorize(query, query_bias, key, key_bias, scale, rank=4)
    assert query_bias is not None and key_bias is not None
    other_u, other_v = factorize(-query, -query_bias, -key, -key_bias, scale, rank=4)
    np.testing.assert_allclose(u, other_u, atol=1e-12)
    np.testing.assert_allclose(v, other_v, atol=1e-12)
    assert (np.take_along_axis(u, np.abs(u).argmax(0)[None], 0) > 0).all()


def test_float32_weights_give_float64_factors() -> None:
    weight = np.eye(3, dtype=np.float32)
    assert [each.dtype for each in factorize(weight, None, weight, None, 1.0, rank=2)] == [np.float64, np.float64]


@pytest.mark.parametrize("rank", [0, -1, 5])
def test_a_rank_that_no_head_has_is_refused(rank: int) -> None:
    with pytest.raises(RequestError, match="needed 1 to the head size, 4"):
        factorize(*head(0), rank=rank)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_weights_that_are_no_numbers_are_refused(place: int, wrong: float) -> None:
    parts = list(head(0))
    parts[place].flat[0] = wrong  # type: ignore[union-attr]
    with pytest.raises(RequestError, match="NaN or infinite"):
        factorize(*parts, rank=1)  # type: ignore[arg-type]


def test_head_sizes_that_differ_are_refused() -> None:
    query, _, key, _, scale = head(0, bias=False)
    with pytest.raises(RequestError, match="4 for queries and 3 for keys"):
        factorize(query, None, key[:, :3], None, scale, rank=1)
