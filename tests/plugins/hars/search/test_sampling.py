"""Sampling: the right distribution, the filters of transformers, the same token everywhere."""

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphwright.errors import RequestError
from graphwright.plugins.hars import native
from graphwright.plugins.hars.search import sample

HERE = ("reference", *native.isas())
KERNELS = [
    pytest.param(isa, marks=pytest.mark.skipif(isa not in HERE, reason=native.why_not() or f"no {isa} here"))
    for isa in ("scalar", "avx2", "avx512")
]
every_implementation = pytest.mark.parametrize("implementation", ["reference", *KERNELS])
FILTERS: list[dict[str, Any]] = [
    {},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"top_k": 7, "top_p": 0.7, "min_p": 0.15, "temperature": 1.3},
]


def kept_logits(logits: np.ndarray, top_k: int, top_p: float, min_p: float, temperature: float) -> np.ndarray:
    """Return float64 logits with -inf where a filter removes a token: each filter on the softmax of what is left."""
    x = logits.astype(np.float64) / temperature
    ranked = np.lexsort((np.arange(x.size), -x))
    if top_k:
        x[ranked[top_k:]] = -np.inf
    if top_p < 1:
        shares = np.exp(x[ranked] - x.max()) / np.exp(x - x.max()).sum()
        before = np.cumsum(shares) - shares
        x[ranked[1:][before[1:] >= top_p]] = -np.inf
    if min_p:
        x[x < x.max() + math.log(min_p)] = -np.inf
    return x


@every_implementation
@pytest.mark.parametrize("options", FILTERS)
def test_tokens_are_drawn_as_often_as_they_are_probable(options: dict[str, Any], implementation: str) -> None:
    count = 8000
    logits = np.random.default_rng(11).standard_normal(40).astype(np.float32) * 2
    tokens, logprobs = sample(np.tile(logits, (count, 1)), seed=1, offset=2, implementation=implementation, **options)
    x = kept_logits(logits, **{"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0, **options})
    shares = np.exp(x) / np.exp(x).sum()
    counts = np.bincount(tokens, minlength=40)
    assert (counts[shares == 0] == 0).all() and (shares > 0).sum() > 2
    usual = shares * count > 8
    expected = shares[usual] * count
    chi_square, degrees = float(((counts[usual] - expected) ** 2 / expected).sum()), int(usual.sum()) - 1
    assert degrees - 3 * math.sqrt(2 * degrees) < chi_square < degrees + 4 * math.sqrt(2 * degrees)
    np.testing.assert_allclose(logprobs, np.log(shares[tokens]), rtol=1e-6, atol=1e-6)


@every_implementation
@pytest.mark.parametrize(
    ("top_k", "top_p", "min_p"), list(itertools.product((0, 1, 20, 500), (0.05, 0.5, 0.9, 1.0), (0.0, 0.02, 0.4)))
)
def test_filters_keep_what_those_of_transformers_keep(
    top_k: int, top_p: float, min_p: float, implementation: str
) -> None:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    generator = torch.Generator().manual_seed(top_k)
    logits = 3 * torch.randn(40, 300, generator=generator)
    # In the order of GenerationMixin._get_logits_processor, transformers 5.23.
    warpers = [process.TemperatureLogitsWarper(0.8)]
    warpers += [process.TopKLogitsWarper(top_k)] if top_k else []
    warpers += [process.TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [process.MinPLogitsWarper(min_p)]
    warped = logits
    for warper in warpers:
        warped = warper(None, warped)
    options: dict[str, Any] = {"top_k": top_k, "top_p": top_p, "min_p": min_p, "temperature": 0.8}
    tokens, logprobs = sample(logits, seed=3, implementation=implementation, **options)
    # The log-probability tells the mass of what was kept: one token more or less would change it.
    expected = torch.log_softmax(warped, dim=-1).gather(1, tokens[:, None])[:, 0]
    assert isinstance(tokens, torch.Tensor) and tokens.dtype == torch.int64
    torch.testing.assert_close(logprobs, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not native.available(), reason=native.why_not())
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("width", [1, 2, 31, 33, 127, 128, 129, 1024, 1025, 5000])
def test_kernels_draw_what_numpy_draws(width: int, dtype: Any) -> None:
    rng = np.random.default_rng(width)
    logits = (rng.standard_normal((4, width)) * [[0.01], [1], [5], [30]]).astype(dtype)
    logits[1, rng.random(width) < 0.3] = -np.inf
    bias = rng.standard_normal((4, width)).astype(np.float32)
    cases = itertools.product((0, 3, 200), (0.0, 0.02, 0.3, 0.9, 0.9999, 1.0), (0.0, 1e-6, 0.5))
    for number, (top_k, top_p, min_p) in enumerate(cases):
        options: dict[str, Any] = {"top_k": top_k, "top_p": top_p, "min_p": min_p}
        options |= {"seed": number << 31, "offset": number << 30, "row_numbers": rng.integers(1 << 40, size=4)}
        options |= {"bias": bias, "temperature": 0.9} if number % 2 else {}
        expected = sample(logits, implementation="reference", **options)
        for isa in native.isas():
            found = sample(logits, implementation=isa, **options)
            np.testing.assert_array_equal(found[0], expected[0], err_msg=isa)
            np.testing.assert_array_equal(found[1], expected[1], err_msg=isa)


@every_implementation
@pytest.mark.parametrize("options", FILTERS)
def test_a_row_alone_draws_what_it_draws_in_a_batch(options: dict[str, Any], implementation: str) -> None:
    logits = np.random.default_rng(2).standard_normal((12, 3000), np.float32)
    options = {"seed": 4, "offset": 1, "implementation": implementation, **options}
    together = sample(logits, threads=2, **options)
    assert np.unique(together[0]).size > 2
    for row in range(12):
        alone = sample(logits[row], row_numbers=row, threads=1, **options)
        assert alone[0].shape == () and (alone[0], alone[1]) == (together[0][row], together[1][row])
    order = np.random.default_rng(3).permutation(12)
    np.testing.assert_array_equal(sample(logits[order], row_numbers=order, **options)[0], together[0][order])
    other = sample(logits, **{**options, "offset": 2})
    assert (other[0] != together[0]).any()


@every_implementation
def test_seeds_and_offsets_may_differ_by_row(implementation: str) -> None:
    logits = np.random.default_rng(2).standard_normal((3, 500), np.float32)
    together = sample(logits, seed=[5, 6, 7], offset=np.array([1, 2, 3]), implementation=implementation)
    for row in range(3):
        alone = sample(logits[row], seed=5 + row, offset=1 + row, row_numbers=row, implementation=implementation)
        assert alone[0] == together[0][row]


def test_torch_tensors_give_what_arrays_give() -> None:
    torch = pytest.importorskip("torch")
    logits = torch.randn(5, 700, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    array = logits.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    mask = torch.arange(700) % 3 == 0
    options: dict[str, Any] = {"top_p": 0.9, "temperature": 0.7, "offset": 2}
    tokens, logprobs = sample(logits, seed=torch.arange(5), bias=mask, **options)
    expected = sample(array, seed=np.arange(5), bias=mask.numpy(), **options)
    assert (tokens.dtype, logprobs.dtype) == (torch.int64, torch.float32)
    np.testing.assert_array_equal(tokens.numpy(), expected[0])
    np.testing.assert_array_equal(logprobs.numpy(), expected[1])
    # A part of a larger tensor, whose rows are not next to each other.
    part = sample(logits[::2, 100:], seed=3, top_k=9)
    np.testing.assert_array_equal(part[0].numpy(), sample(np.ascontiguousarray(array[::2, 100:]), seed=3, top_k=9)[0])


@every_implementation
def test_one_kept_token_is_the_greedy_choice(implementation: str) -> None:
    logits = np.float32([[1, 3, 3, 2], [0, 0, 0, 0], [-np.inf, 5, -np.inf, 4]])
    for options in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0, "bias": np.float32([0, 0, -1e-3, -1e-3])}):
        tokens, logprobs = sample(logits[[0, 2]], seed=1, implementation=implementation, **options)
        assert tokens.tolist() == [1, 1] and logprobs.tolist() == [0, 0]
    assert sample(logits, seed=1, top_k=1, implementation=implementation)[0].tolist() == [1, 0, 1]


@every_implementation
def test_no_filter_is_the_same_however_it_is_said(implementation: str) -> None:
    logits = np.random.default_rng(7).standard_normal((50, 60), np.float32)
    plain = sample(logits, seed=9, implementation=implementation)
    for options in ({"top_k": 60}, {"top_k": 1000}, {"top_p": 1.0, "min_p": 0.0}):
        for one, other in zip(sample(logits, seed=9, implementation=implementation, **options), plain, strict=True):
            np.testing.assert_array_equal(one, other)


@every_implementation
@pytest.mark.parametrize("options", FILTERS)
def test_rows_without_a_distribution_are_defined(options: dict[str, Any], implementation: str) -> None:
    rows = np.zeros((6, 40), np.float32)
    rows[0] = -np.inf
    rows[1, [7, 9]] = np.nan
    rows[2, [3, 8]] = np.inf
    rows[3, [3, 8]] = np.inf, -np.nan
    rows[4] = np.nan
    rows[5] = -np.inf
    rows[5, 20] = -3
    tokens, logprobs = sample(rows, seed=1, implementation=implementation, **options)
    assert tokens.tolist() == [0, 7, 3, 8, 0, 20]
    np.testing.assert_array_equal(logprobs, np.float32([-np.inf, np.nan, np.nan, np.nan, np.nan, 0]))


@every_implementation
def test_bounds_that_are_met_exactly(implementation: str) -> None:
    # These rows of seed 0 have numbers of 12 bits, so that u * 4096 is whole: the sum before the token, not beyond it.
    logits, rows, u = np.zeros((2, 4096), np.float32), [647916, 1024410], [0xBC5, 0x036]
    options: dict[str, Any] = {"seed": 0, "row_numbers": rows, "implementation": implementation}
    assert sample(logits, **options)[0].tolist() == u
    # A weight of exactly min_p stays; half of the tokens hold exactly half of the mass, and one more is not kept.
    tokens, logprobs = sample(logits, min_p=1.0, **options)
    assert tokens.tolist() == u and np.exp(-logprobs.astype(float)) == pytest.approx([4096, 4096])
    tokens, logprobs = sample(logits, top_p=0.5, **options)
    assert tokens.tolist() == [number // 2 for number in u]
    assert np.exp(-logprobs.astype(float)) == pytest.approx([2048, 2048])


@every_implementation
def test_masked_tokens_are_never_drawn(implementation: str) -> None:
    mask = np.random.default_rng(1).random(2000) < 0.01
    logits = np.zeros((200, 2000), np.float32)
    for options in ({}, {"top_p": 0.9}, {"top_k": 1900}):
        tokens, _ = sample(logits, seed=5, bias=mask, implementation=implementation, **options)
        assert mask[tokens].all() and np.unique(tokens).size > 10


@every_implementation
def test_no_rows_give_no_tokens(implementation: str) -> None:
    tokens, logprobs = sample(np.zeros((0, 9), np.float32), seed=1, top_p=0.5, implementation=implementation)
    assert tokens.shape == logprobs.shape == (0,)


def test_what_does_not_fit_is_refused() -> None:
    logits = np.zeros((2, 5), np.float32)
    refused: list[dict[str, Any]] = [
        {"seed": -1},
        {"seed": 1 << 64},
        {"seed": 0.5},
        {"seed": [1, 2, 3]},
        {"seed": 1, "offset": [-1, 2]},
        {"seed": 1, "row_numbers": True},
        {"seed": 1, "top_k": -1},
        {"seed": 1, "top_k": 2.0},
        {"seed": 1, "top_p": 1.5},
        {"seed": 1, "top_p": math.nan},
        {"seed": 1, "min_p": -0.1},
        {"seed": 1, "temperature": 0},
        {"seed": 1, "implementation": "portable"},
    ]
    for options in refused:
        with pytest.raises(RequestError):
            sample(logits, **options)
    for wrong in (logits[:, :0], logits[None], np.float32(3), logits.astype(np.float64)):
        with pytest.raises(RequestError):
            sample(wrong, seed=1)
