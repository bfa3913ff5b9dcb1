"""The weights of sampling: as exact as exp, and added in the order that is promised."""

import math

import numpy as np
import pytest

from graphwright.plugins.hars import native
from graphwright.plugins.hars.search.native import weights as kernel_weights
from graphwright.plugins.hars.search.weights import LEAF, SMALLEST, IndexOrder, halved, passed, weights


def test_weights_are_powers_of_e() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate((-rng.random(5000) * 700, -rng.random(5000), [0.0])).astype(np.float32)
    expected = [math.exp(value) for value in x.tolist()]
    np.testing.assert_allclose(weights(x, np.float32(0)), expected, rtol=2e-14)
    assert weights(x, np.float32(0))[-1] == 1


@pytest.mark.parametrize(
    "isa",
    [
        pytest.param(
            isa, marks=pytest.mark.skipif(isa not in native.isas(), reason=native.why_not() or f"no {isa} here")
        )
        for isa in ("scalar", "avx2", "avx512")
    ],
)
def test_kernels_have_the_same_bits(isa: str) -> None:
    x = -np.random.default_rng(4).random((50, LEAF, LEAF)).astype(np.float32) * 2
    x[10:20] *= 400
    x[30, 5:9] = -np.inf
    for block in x:
        found, leaves, total = kernel_weights(isa, block, 0.25)
        expected = weights(block, np.float32(0.25))
        assert found.tobytes() == expected.tobytes()
        assert leaves.tobytes() == halved(expected).tobytes()
        assert total == halved(halved(expected))


def test_the_distance_is_not_rounded_to_float32() -> None:
    x, maximum = np.float32([1e-3]), np.float32(30000)
    assert weights(x, np.float32(maximum))[0] == 0
    x, maximum = np.float32([1e-8]), np.float32(1)
    assert weights(x, maximum)[0] == pytest.approx(math.exp(float(x[0]) - 1), rel=1e-14)
    assert weights(x, maximum)[0] != weights(np.float32([0]), maximum)[0]


def test_what_is_too_small_weighs_nothing() -> None:
    x = np.float32([SMALLEST, np.nextafter(np.float32(SMALLEST), np.float32(-1000)), -1e30, -np.inf])
    assert (weights(x, np.float32(0)) > 0).tolist() == [True, False, False, False]


def test_halving_adds_the_upper_half_to_the_lower() -> None:
    values = np.array([1.0, 1e100, 1.0, -1e100])
    assert halved(values) == (1.0 + 1.0) + (1e100 - 1e100)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1023, 1024, 1025, 5000])
def test_a_row_is_added_up_and_searched_in_index_order(size: int) -> None:
    values = np.random.default_rng(size).random(size)
    row = IndexOrder(values)
    assert row.total == pytest.approx(math.fsum(values), rel=1e-14)
    running = np.cumsum(values)
    for u in (0.0, 0.1, 0.5, 0.9, 1 - 2.0**-32):
        assert row.pick(u * row.total) == np.searchsorted(running, u * row.total, side="right")


def test_the_order_of_the_sum_is_part_of_the_contract() -> None:
    # 1 is lost beside 2**53 unless it meets another 1 first: leaf by halving, then the block, then block after block.
    values = np.zeros(2048)
    values[[0, 16, 33, 1024]] = 2.0**53, 1.0, 1.0, 1.0
    # Leaf 0: 2**53 + 1 = 2**53; block 0: 2**53 + 1 = 2**53; then + 1 = 2**53.
    assert IndexOrder(values).total == 2.0**53
    values[[16, 34, 1024]] = 0.0, 1.0, 0.0
    assert IndexOrder(values).total == 2.0**53 + 2


def test_a_token_without_weight_is_never_picked() -> None:
    values = np.array([0.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.0])
    assert {IndexOrder(values).pick(target) for target in np.linspace(0, 2.999, 50)} == {2, 4}
    # Beyond the sum, which rounding alone can bring about: the last that has a weight.
    assert passed(values, 0.0, 3.0) == (4, 1.0)
