"""The forms in torch say what the reference in NumPy says."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.plugins.damf import reference

torch = pytest.importorskip("torch")
from graphwright.damf.softmax import linear_attention, power_of_two, running_maximum, shift_attention  # noqa: E402


def problem(seed: int, length: int, rank: int, masked: bool, dtype: Any) -> tuple[Any, ...]:
    random = np.random.default_rng(seed)
    p, n, v = (random.normal(size=(2, 3, length, size)).astype(dtype) for size in (rank, rank, 5))
    return p, n, v, random.random((2, 1, length)) < 0.6 if masked else None


def tensors(*arrays: np.ndarray | None) -> list[Any]:
    return [None if array is None else torch.from_numpy(array) for array in arrays]


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 8), st.booleans(), st.booleans(), st.booleans())
def test_the_linear_form_is_the_reference(
    seed: int, length: int, rank: int, masked: bool, causal: bool, cross: bool
) -> None:
    cross = cross and not causal
    p, n, v, valid = problem(seed, length, rank, masked, np.float64)
    found = linear_attention(*tensors(p, n, v, valid), causal, cross).numpy()
    np.testing.assert_allclose(found, reference.attention(p, n, v, valid, causal, cross=cross), atol=1e-11)


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 3), st.booleans(), st.booleans())
def test_shifts_are_those_of_the_reference_to_the_bit(
    seed: int, length: int, rank: int, masked: bool, causal: bool
) -> None:
    """Factors and values that are small whole numbers, so that no product or sum is rounded."""
    p, n, v, valid = problem(seed, length, rank, masked, np.float32)
    p, n, v = (np.round(3 * each) for each in (p, n, v))
    found = shift_attention(*tensors(p, n, v, valid), causal, False).numpy()
    np.testing.assert_array_equal(found, reference.attention(p, n, v, valid, causal, "shift"))


@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False)))
def test_powers_of_two_are_those_of_the_reference(numbers: list[float]) -> None:
    array = np.array(numbers, np.float32)
    np.testing.assert_array_equal(power_of_two(torch.from_numpy(array)).numpy(), reference.power_of_two(array))


def test_sums_are_float32_under_autocast() -> None:
    """In bfloat16 the sum of 4096 ones is 256: it has eight bits."""
    p = n = torch.full((1, 1, 4096, 1), 0.5)
    v = torch.arange(4096.0).reshape(1, 1, 4096, 1) / 4096
    expected = linear_attention(p, n, v, None, False, False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = linear_attention(p.bfloat16(), n.bfloat16(), v, None, False, False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_half_precision_comes_back_as_it_came() -> None:
    p, n, v, _ = (torch.from_numpy(each) if each is not None else None for each in problem(0, 9, 2, False, np.float32))
    found = linear_attention(p.bfloat16(), n.bfloat16(), v.bfloat16(), None, False, False)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), linear_attention(p, n, v, None, False, False), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("length", [1, 2, 37])
def test_the_running_maximum_of_an_export_is_the_other_one(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, length, 1)
    expected = running_maximum(x)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(running_maximum(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rank", [1, 3])
def test_gradients_are_those_of_differences(causal: bool, rank: int) -> None:
    p, n, v, valid = tensors(*problem(1, 5, rank, True, np.float64))
    for each in (p, n, v):
        each.requires_grad_()
    assert torch.autograd.gradcheck(lambda *x: linear_attention(*x, valid, causal, False), (p, n, v))


@pytest.mark.parametrize("rank", [1, 2])
def test_gradients_are_numbers_even_where_nothing_is_valid(rank: int) -> None:
    p, n, v, _ = tensors(*problem(2, 4, rank, False, np.float32))
    valid = torch.tensor([[[False] * 4], [[True, False, False, False]]])
    for each in (p, n, v):
        each.requires_grad_()
    for form in (linear_attention, shift_attention):
        gradients = torch.autograd.grad(form(p, n, v, valid, False, False).square().sum(), (p, n, v))
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert (gradients[2][0] == 0).all() and (gradients[2][1, :, 1:] == 0).all()
