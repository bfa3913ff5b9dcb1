"""Beam steps and sampling on the GPU against the NumPy reference."""

from typing import Any

import numpy as np
import pytest
import torch

from graphwright.errors import RequestError
from graphwright.plugins.hars import cuda, cuda_search, search

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"top_k": 1},
    {"top_k": 50},
    {"top_p": 0.9},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"top_k": 40, "top_p": 0.8, "min_p": 0.02, "temperature": 1.3},
    {"top_p": 0.0},
    {"temperature": 0.7},
)


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> None:
    if reason := cuda.why_not():
        pytest.skip(reason)


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return (torch.randn(*shape, generator=generator, device=DEVICE) * 2).to(dtype)


def host(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_beam_steps(dtype: torch.dtype) -> None:
    """The last bit of a log-probability is free, so that two that are nearly equal may change places: very few."""
    places = differing = 0
    for batch, beams, width in ((1, 1, 50), (2, 4, 1001), (1, 4, 32003), (3, 8, 5003), (1, 16, 128256), (2, 3, 2)):
        for ends in (0, 1, 3):
            logits = normal(batch * beams, width, dtype=dtype, seed=beams + ends)
            scores = normal(batch, beams, seed=ends)
            scores[0, -1] = -torch.inf
            found = [each.cpu().numpy() for each in cuda_search.beam_step(logits, scores, beams=beams, ends=ends)]
            right = search.beam_step(host(logits), host(scores), beams=beams, ends=ends, implementation="reference")
            assert [(each.shape, each.dtype) for each in found] == [(each.shape, each.dtype) for each in right]
            np.testing.assert_allclose(found[0], right[0], rtol=0, atol=1e-5)
            places += found[0].size
            differing += int(((found[1] != right[1]) | (found[2] != right[2])).sum())
            chosen = found[1] * width + found[2]
            assert all(len(set(row)) == len(row) for row in chosen)
    assert differing <= 4 < places / 100


def test_a_first_beam_step_and_equal_scores() -> None:
    logits = torch.zeros(6, 40, device=DEVICE)
    scores = torch.tensor([[0.0, -torch.inf, -torch.inf], [0.0, 0.0, 0.0]], device=DEVICE)
    found = cuda_search.beam_step(logits, scores, beams=3)
    right = search.beam_step(host(logits), host(scores), beams=3, implementation="reference")
    for each, other in zip(found, right, strict=True):
        np.testing.assert_allclose(each.cpu().numpy(), other, rtol=1e-6)
    bias = normal(40)
    biased = cuda_search.beam_step(logits.reshape(2, 3, 40), scores, beams=3, bias=bias, temperature=0.5)
    right = search.beam_step(
        host(logits), host(scores), beams=3, bias=host(bias), temperature=0.5, implementation="reference"
    )
    np.testing.assert_array_equal(biased[2].cpu().numpy(), right[2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_sampling_draws_the_tokens_of_the_reference(filters: dict[str, Any], dtype: torch.dtype) -> None:
    for rows, width in ((1, 5), (3, 1003), (2, 32003), (1, 128256)):
        logits = normal(rows, width, dtype=dtype, seed=width)
        for seed, offset in ((0, 0), (7, 3), (2**64 - 1, 2**63)):
            tokens, logprobs = cuda_search.sample(logits, seed=seed, offset=offset, **filters)
            right = search.sample(host(logits), seed=seed, offset=offset, implementation="reference", **filters)
            np.testing.assert_array_equal(tokens.cpu().numpy(), right[0])
            np.testing.assert_allclose(logprobs.cpu().numpy(), right[1], rtol=3e-7, atol=1e-7)


def test_odd_rows_draw_their_first_token() -> None:
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor([[0, nan, 1, 2], [0, 1, inf, inf], [-inf] * 4, [-inf, 3, -inf, -inf]], device=DEVICE)
    for filters in FILTERS:
        tokens, logprobs = cuda_search.sample(logits, seed=5, **filters)
        assert tokens.tolist() == [1, 2, 0, 1]
        right = search.sample(host(logits), seed=5, implementation="reference", **filters)
        np.testing.assert_allclose(logprobs.cpu().numpy(), right[1])


@pytest.mark.parametrize("filters", ({}, {"top_k": 50}, {"top_p": 0.95}), ids=str)
def test_a_row_draws_the_same_token_in_any_batch(filters: dict[str, Any]) -> None:
    logits = normal(300, 32003)
    whole = cuda_search.sample(logits, seed=9, **filters)
    for count in (1, 2, 133):
        numbers = torch.arange(300 - count, 300, device=DEVICE)
        part = cuda_search.sample(logits[-count:], seed=9, row_numbers=numbers, **filters)
        assert torch.equal(part[0], whole[0][-count:]) and torch.equal(part[1], whole[1][-count:])
    one = cuda_search.sample(logits[7], seed=9, row_numbers=7, **filters)
    assert one[0].shape == () and one[0] == whole[0][7]


def test_a_graph_of_a_decoding_step_takes_its_offset_from_the_device() -> None:
    if DEVICE != "cuda":
        pytest.skip("needs a device")
    logits, offset = normal(4, 32003), torch.zeros((), dtype=torch.int64, device=DEVICE)

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        drawn: tuple[torch.Tensor, torch.Tensor] = cuda_search.sample(
            logits, seed=3, offset=offset, top_k=50, top_p=0.9
        )
        offset.add_(1)
        return drawn

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens, _ = step()
    offset.zero_()
    seen = set()
    for number in range(20):
        graph.replay()
        assert torch.equal(tokens, cuda_search.sample(logits, seed=3, offset=number, top_k=50, top_p=0.9)[0])
        seen.add(tuple(tokens.tolist()))
    assert len(seen) > 10


def test_a_graph_of_a_beam_step() -> None:
    if DEVICE != "cuda":
        pytest.skip("needs a device")
    logits, scores = normal(8, 32003), torch.zeros(2, 4, device=DEVICE)
    cuda_search.beam_step(logits, scores, beams=4)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = cuda_search.beam_step(logits, scores, beams=4)
    for seed in range(10):
        logits.copy_(normal(8, 32003, seed=seed))
        scores.copy_(normal(2, 4, seed=seed))
        graph.replay()
        for each, other in zip(outputs, cuda_search.beam_step(logits, scores, beams=4), strict=True):
            assert torch.equal(each, other)


def test_what_is_refused() -> None:
    logits, scores = normal(6, 40), normal(2, 3)
    for options in ({"beams": 4}, {"beams": 0}, {"beams": 3, "ends": -1}, {"beams": 3, "scores": scores[:1]}):
        with pytest.raises(RequestError):
            cuda_search.beam_step(**{"logits": logits, "scores": scores, **options})
    for options in ({"seed": -1}, {"seed": 2**64}, {"seed": 1.5}, {"top_p": 1.1}, {"min_p": -0.1}, {"top_k": -1}):
        with pytest.raises(RequestError):
            cuda_search.sample(**{"logits": logits, "seed": 0, **options})
    assert cuda_search.sample(logits[:0], seed=0)[0].shape == (0,)
    assert cuda_search.beam_step(logits[:0], scores[:0], beams=3)[0].shape == (0, 6)
