"""``router_topk`` on the GPU against the reference: every option, ties, NaN, infinities."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from graphwright.errors import RequestError
from graphwright.plugins.hars import cuda, reference
from graphwright.plugins.hars.cuda_arrays import TorchMemory

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SIZES = ((1, 1), (7, 3), (8, 2), (33, 33), (64, 6), (128, 8), (256, 8), (512, 10), (768, 12), (1000, 16))


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> None:
    if reason := cuda.why_not():
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill all new memory with numbers that no result has: what a kernel does not write must show."""
    plain = TorchMemory.empty

    def poisoned(self: TorchMemory, like: Any, shape: Any, dtype: str) -> Any:
        return plain(self, like, shape, dtype).fill_(-77 if "int" in dtype else 7e7)

    monkeypatch.setattr(TorchMemory, "empty", poisoned)


def scores_of(tokens: int, experts: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return (torch.randn(tokens, experts, generator=generator, device=DEVICE) * 2).to(dtype)


def both(scores: torch.Tensor, k: int, bias: torch.Tensor | None = None, **options: Any) -> tuple[Any, Any]:
    found = cuda.router_topk(scores, k, bias=bias, **options)
    x, offsets = scores.float().cpu().numpy(), None if bias is None else bias.cpu().numpy()
    return tuple(each.cpu().numpy() for each in found), reference.router_topk(x, k, bias=offsets, **options)


def agree(found: Any, right: Any, rows: Any = slice(None), about: object = "") -> None:
    np.testing.assert_array_equal(found[1][rows], right[1][rows], err_msg=str(about))
    np.testing.assert_allclose(found[0][rows], right[0][rows], rtol=1e-5, atol=1e-37, err_msg=str(about))
    np.testing.assert_allclose(found[2][rows], right[2][rows], rtol=1e-5, atol=1e-37, err_msg=str(about))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scoring", ("softmax", "sigmoid"))
@pytest.mark.parametrize(("experts", "k"), SIZES)
def test_without_a_bias_the_choice_is_exact(experts: int, k: int, scoring: str, dtype: torch.dtype) -> None:
    for tokens in (1, 5, 257, 2100 if experts <= 64 else 130):  # the host's reference takes long
        # Rounded: ties at every rank.
        scores = (scores_of(tokens, experts, torch.float32, seed=tokens) * 8).round().div(8).to(dtype)
        for renormalize, zeros in itertools.product((False, True), {0, experts // 3}):
            for scale, scales_zeros in ((1.0, True), (2.5, True), (2.5, False)):
                options = {"renormalize": renormalize, "zero_experts": zeros, "scale": scale}
                found, right = both(scores, k, scoring=scoring, scale_zero_experts=scales_zeros, **options)
                agree(found, right, about=(tokens, options))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scoring", ("softmax", "sigmoid"))
@pytest.mark.parametrize(("groups", "top_groups"), ((1, 1), (2, 1), (8, 4), (8, 8)))
@pytest.mark.parametrize("with_bias", (False, True), ids=("", "bias"))
def test_bias_and_groups(with_bias: bool, groups: int, top_groups: int, scoring: str, dtype: torch.dtype) -> None:
    """Keys are then rounded shares, and the last bit of a share is free: a few choices between near equals differ."""
    for tokens, (experts, k) in itertools.product((1, 260), ((16, 2), (256, 8), (768, 12))):
        scores = scores_of(tokens, experts, dtype, seed=experts)
        bias = torch.randn(experts, device=DEVICE) * 0.1 if with_bias else None
        for renormalize, zeros in ((False, 0), (True, experts // 4)):
            options: dict[str, Any] = {"groups": groups, "top_groups": top_groups, "scoring": scoring, "scale": 1.5}
            options |= {"renormalize": renormalize, "zero_experts": zeros}
            found, right = both(scores, k, bias, **options)
            same = (found[1] == right[1]).all(-1)
            # Shares of 16-bit scores are often equal by value, and then equal in both.
            assert same.mean() > (0.99 if tokens > 1 else 0), (tokens, experts, options)
            agree(found, right, same, options)
            real = found[1][~same]
            assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in real)


def test_a_bias_of_steps_orders_exactly() -> None:
    scores = scores_of(300, 256, torch.float32, seed=1)
    bias = torch.randperm(256, device=DEVICE).float()
    for groups, top_groups in ((1, 1), (8, 3)):
        found, right = both(scores, 8, bias, groups=groups, top_groups=top_groups, renormalize=True)
        agree(found, right)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scoring", ("softmax", "sigmoid"))
@pytest.mark.parametrize("groups", (1, 4))
def test_odd_rows(groups: int, scoring: str, dtype: torch.dtype) -> None:
    experts, k = 32, 9
    inf, nan = torch.inf, torch.nan
    rows = scores_of(12, experts, dtype, seed=3)
    rows[0] = 0.0
    rows[1] = nan
    rows[2] = -inf
    rows[3] = inf
    rows[4, ::2] = -0.0
    rows[4, 1::2] = 0.0
    rows[5, 3:] = -inf
    rows[6, 20] = nan
    rows[7, 20] = inf
    rows[8, [1, 30]] = inf
    rows[9] = torch.arange(experts).to(rows)
    rows[10] = -torch.arange(experts).to(rows)
    rows[11] = 80.0
    for bias in (None, torch.zeros(experts, device=DEVICE)):
        for renormalize in (False, True):
            found, right = both(
                rows, k, bias, scoring=scoring, groups=groups, top_groups=min(groups, 2), renormalize=renormalize
            )
            agree(found, right, about=(bias is None, renormalize))
            assert not np.isnan(found[0]).any()
            assert all(len(set(row)) == k for row in found[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_token_gives_the_same_bits_in_any_batch_and_every_time(dtype: torch.dtype) -> None:
    for experts, k in ((8, 2), (256, 8), (768, 12)):
        scores = scores_of(4096, experts, dtype, seed=experts)
        bias = torch.randn(experts, device=DEVICE) * 0.1
        options: dict[str, Any] = {"bias": bias, "renormalize": True, "zero_experts": experts // 8}
        whole = cuda.router_topk(scores, k, **options)
        for count in (1, 3, 64, 1000, 4096):
            for each, all_rows in zip(cuda.router_topk(scores[-count:], k, **options), whole, strict=True):
                assert torch.equal(each.view(torch.int32), all_rows[-count:].view(torch.int32)), (experts, count)


def test_shapes_and_narrow_numbers() -> None:
    scores = scores_of(6, 64, torch.bfloat16, seed=0).reshape(2, 3, 64)
    weights, experts, identity = cuda.router_topk(scores, 4)
    assert (weights.shape, experts.shape, identity.shape) == ((2, 3, 4), (2, 3, 4), (2, 3))
    narrow = cuda.router_topk(scores, 4, index_dtype="int32")
    assert narrow[1].dtype == torch.int32
    assert torch.equal(narrow[1].long(), experts)
    turned = cuda.router_topk(scores.transpose(0, 1), 4)
    assert torch.equal(turned[1], experts.transpose(0, 1))
    odd = torch.empty(6 * 64 + 1, dtype=torch.bfloat16, device=DEVICE)[1:].view(2, 3, 64)
    odd.copy_(scores)
    assert torch.equal(cuda.router_topk(odd, 4)[0], weights)
    assert cuda.router_topk(scores[:0], 4)[0].shape == (0, 3, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"k": 65},
        {"k": 2, "groups": 3},
        {"k": 2, "groups": 64},
        {"k": 9, "groups": 8, "top_groups": 1},
        {"k": 2, "groups": 4, "top_groups": 5},
        {"k": 2, "zero_experts": 65},
        {"k": 2, "scoring": "none"},
    ],
    ids=str,
)
def test_what_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        cuda.router_topk(scores_of(2, 64, torch.float32, seed=0), **options)
