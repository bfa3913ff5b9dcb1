"""The CUDA sources of routers, beam steps and sampling, run on the CPU by an emulator, against the NumPy references."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphwright.plugins.hars import reference
from graphwright.plugins.hars.search import beams_reference, philox, sampling_reference
from graphwright.plugins.hars.search.requests import Logits

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
Host = ctypes.CDLL


@pytest.fixture(scope="module")
def host(build_on_host: Callable[..., Host]) -> Host:
    return build_on_host("softmax_topk.cu", "router.cu", "beam.cu", "sample.cu")


@pytest.fixture(autouse=True)
def default_machine(host: Host) -> Iterator[None]:
    host.host_set_multiprocessors(4)
    host.host_set_clusters(1)
    host.host_set_seed(5)
    yield
    host.host_permit_all_reads()


def structure(*fields: tuple[str, Any]) -> ctypes.Structure:
    """A C structure of these values; arrays by address."""
    types = [(name, kind) for name, (kind, _) in fields]
    made = type("Request", (ctypes.Structure,), {"_fields_": types})()
    for name, (_, value) in fields:
        setattr(made, name, value.ctypes.data if isinstance(value, np.ndarray) else value)
    return made


POINTER, INT32, INT64, FLOAT, DOUBLE = (
    ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_double
)  # fmt: skip


def router_topk(host: Host, scores: np.ndarray, k: int, *, status: int = 0, int32: bool = False, **options: Any) -> Any:
    rows, experts = scores.shape
    weights, identity = np.full((rows, k), 77, np.float32), np.full(rows, 77, np.float32)
    chosen = np.full((rows, k), 77, np.int32 if int32 else np.int64)
    request = structure(
        ("scores", (POINTER, scores)), ("dtype", (INT32, DTYPES.index(scores.dtype.type))),
        ("scoring", (INT32, ("softmax", "sigmoid").index(options.get("scoring", "softmax")))),
        ("rows", (INT64, rows)), ("experts", (INT64, experts)), ("k", (INT64, k)),
        ("bias", (POINTER, options.get("bias"))), ("groups", (INT64, options.get("groups", 1))),
        ("top_groups", (INT64, options.get("top_groups", 1))), ("renormalize", (INT32, options.get("renormalize", 0))),
        ("scale_zero_experts", (INT32, options.get("scale_zero_experts", 1))),
        ("scale", (FLOAT, options.get("scale", 1))), ("zero_experts", (INT64, options.get("zero_experts", 0))),
        ("weights", (POINTER, weights)),
        ("chosen", (POINTER, chosen)), ("chosen_is_int32", (INT32, int32)), ("identity_weight", (POINTER, identity)),
    )  # fmt: skip
    assert host.hars_cuda_router_topk(ctypes.byref(request), None) == status, host.host_last_error()
    return weights, chosen, identity


def score_rows(experts: int, dtype: Any, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = random.normal(size=(12, experts)) * 2
    rows[1], rows[2, ::3], rows[3, experts // 2], rows[4] = 0, np.nan, np.inf, -np.inf
    rows[5], rows[6, : experts // 2], rows[7] = np.nan, -np.inf, np.round(rows[7])
    rows[8], rows[9] = np.where(np.arange(experts) % 2, 0.0, -0.0), rows[9] * 100
    return rows.astype(np.float32).astype(dtype)


CASES = [
    {},
    {"renormalize": True, "scale": 2.5},
    {"scoring": "sigmoid", "renormalize": True},
    {"scoring": "sigmoid", "groups": 8, "top_groups": 4, "renormalize": True, "scale": 2.5, "with_bias": True},
    {"groups": 4, "top_groups": 2},
    {"zero_experts": 24, "scale": 6.0, "with_bias": True},
    {"zero_experts": 24, "scale": 6.0, "scale_zero_experts": False, "renormalize": True},
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case) or "plain")
def test_routers_are_those_of_the_reference(host: Host, case: dict[str, Any], dtype: Any) -> None:
    options = {name: value for name, value in case.items() if name != "with_bias"}
    for experts, k in ((64, 6), (768, 12), (40, 16)):
        scores = score_rows(experts, dtype, seed=k)
        bias = np.random.default_rng(k).normal(size=experts).astype(np.float32) * 0.1 if "with_bias" in case else None
        found = router_topk(host, scores, k, bias=bias, int32=experts == 40, **options)
        expected = reference.router_topk(scores, k, bias=bias, **options)
        np.testing.assert_array_equal(found[1], expected[1])
        for own, right in zip(found[::2], expected[::2], strict=True):
            np.testing.assert_allclose(own, right, 2e-6, 1e-37)


def test_routers_take_one_expert_all_experts_and_refuse_the_rest(host: Host) -> None:
    scores = score_rows(4100, np.float32)
    for few, k in ((1, 1), (2, 2), (33, 33), (4100, 5)):
        own = np.ascontiguousarray(scores[:, :few])
        np.testing.assert_array_equal(router_topk(host, own, k)[1], reference.router_topk(own, k)[1])
    for k, wrong in ((4101, {}), (0, {}), (2, {"groups": 3}), (2, {"groups": 2, "top_groups": 3}), (2, {"scale": 1})):
        router_topk(host, scores, k, status=0 if "scale" in wrong else -1, **wrong)
    router_topk(host, np.zeros((1, 6145), np.float32), 2, status=-1)


def beam_merge(host: Host, values: np.ndarray, indices: np.ndarray, scores: np.ndarray, keep: int) -> Any:
    batch, beams = scores.shape
    best = [np.full((batch, keep), 77, kind) for kind in (np.float32, np.int64, np.int64)]
    request = structure(
        ("values", (POINTER, values)), ("indices", (POINTER, indices)), ("int32", (INT32, indices.itemsize == 4)),
        ("batch", (INT64, batch)), ("beams", (INT64, beams)), ("listed", (INT64, values.shape[-1])),
        ("keep", (INT64, keep)), ("scores", (POINTER, scores)), ("best_scores", (POINTER, best[0])),
        ("best_beams", (POINTER, best[1])), ("best_tokens", (POINTER, best[2])),
    )  # fmt: skip
    assert host.hars_cuda_beam_merge(ctypes.byref(request), None) == 0, host.host_last_error()
    return best


@pytest.mark.parametrize(("beams", "width", "keep"), [(1, 50, 2), (4, 100, 8), (5, 7, 15), (16, 300, 48), (3, 4, 12)])
def test_beams_are_those_of_the_reference(host: Host, beams: int, width: int, keep: int) -> None:
    random = np.random.default_rng(keep)
    batch = 7
    logits = random.normal(size=(batch * beams, width)).astype(np.float32)
    logits[: 2 * beams] = np.round(logits[: 2 * beams])
    logits[2 * beams, 3], logits[3 * beams, 1], logits[4 * beams, : width - 1] = np.nan, np.inf, -np.inf
    scores = random.normal(size=(batch, beams)).astype(np.float32)
    scores[0], scores[1, 1:], scores[5, -1], scores[6, 0] = 0, -np.inf, np.inf, np.nan
    logits[5 * beams + beams - 1, ::2] = -np.inf
    listed = min(keep, width)
    values, indices = reference.softmax_topk(logits, listed)[:2]
    expected = beams_reference.beam_step(Logits(logits), scores, keep=keep)
    for integers in (indices, indices.astype(np.int32)):
        found = beam_merge(host, np.ascontiguousarray(values), np.ascontiguousarray(integers), scores, keep)
        for own, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(own, right[:, 0])


def sample(host: Host, rows: Logits, numbers: list[np.ndarray], stride: int = 0, **filters: Any) -> Any:
    count, width = rows.array.shape
    placed = np.zeros((count, max(stride, width)), rows.array.dtype)
    placed[:, :width] = rows.array
    bias = None if rows.bias is None else np.ascontiguousarray(rows.bias, np.float32)
    tokens, logprobs = np.full(count, 77, np.int64), np.full(count, 77, np.float32)
    request = structure(
        ("logits", (POINTER, placed)), ("dtype", (INT32, DTYPES.index(placed.dtype.type))), ("rows", (INT64, count)),
        ("width", (INT64, width)), ("row_stride", (INT64, placed.shape[1])), ("bias", (POINTER, bias)),
        ("bias_rows", (INT64, 0 if bias is None else len(bias))), ("temperature", (FLOAT, rows.temperature)),
        ("top_k", (INT64, filters.get("top_k", 0))), ("top_p", (DOUBLE, filters.get("top_p", 1.0))),
        ("min_p", (DOUBLE, filters.get("min_p", 0.0))), ("seeds", (POINTER, numbers[0])),
        ("offsets", (POINTER, numbers[1])), ("row_numbers", (POINTER, numbers[2])), ("tokens", (POINTER, tokens)),
        ("logprobs", (POINTER, logprobs)),
    )  # fmt: skip
    size = host.hars_cuda_sample_scratch(ctypes.byref(request))
    if size < 0:
        return None
    scratch = np.full(size + 16, 0xA5, np.uint8)
    place = ctypes.c_void_p(scratch.ctypes.data + -scratch.ctypes.data % 16)
    assert host.hars_cuda_sample(ctypes.byref(request), place, ctypes.c_int64(size), None) == 0, host.host_last_error()
    return tokens, logprobs


def numbers_of(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(8)
    return [random.integers(0, 2**64, count, np.uint64) for _ in range(2)] + [np.arange(count, dtype=np.uint64)]


FILTERS = [
    {}, {"top_k": 1}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_p": 0.999}, {"min_p": 1e-4},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.02}, {"top_p": 0.0}, {"min_p": 1.0}, {"top_k": 2000},
    {"top_k": 2000, "top_p": 0.7},
]  # fmt: skip


@pytest.mark.parametrize(
    "filters", FILTERS, ids=lambda filters: "-".join(f"{n}{v}" for n, v in filters.items()) or "all"
)
@pytest.mark.parametrize("width", [5, 1000, 6001])
def test_the_same_seed_draws_the_token_of_the_reference(host: Host, width: int, filters: dict[str, Any]) -> None:
    random = np.random.default_rng(width)
    logits = random.normal(size=(9, width)).astype(np.float32) * np.float32(2)
    logits[0], logits[1] = 0, np.round(logits[1])
    logits[2, 1], logits[3, 2], logits[4] = np.nan, np.inf, -np.inf
    logits[5] *= 20
    bias = np.where(random.random((1, width)) < 0.3, -np.inf, 0.5).astype(np.float32)
    for turn, dtype in enumerate(DTYPES):
        rows = Logits(logits.astype(dtype), bias if turn == 1 else None, 0.8 if turn else 1.0)
        reduced = {"top_k": 0, "top_p": 1.0, "min_p": 0.0} | filters
        numbers = numbers_of(len(logits))
        expected = sampling_reference.sample(rows, numbers, **reduced)
        found = sample(host, rows, numbers, stride=width + turn, **filters)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_allclose(found[1], expected[1], 3e-7)


def test_philox_is_the_reference_for_every_word_of_its_counter(host: Host) -> None:
    # Equal weights show the number itself: token = u * width.
    width, count = 2**16, 6
    numbers = numbers_of(count)
    numbers[2] = numbers[1][::-1].copy()
    tokens, _ = sample(host, Logits(np.zeros((count, width), np.float32)), numbers)
    np.testing.assert_array_equal(tokens, np.floor(philox.uniform(*numbers) * width))


def test_the_widest_row_fits_and_a_wider_one_is_refused(host: Host) -> None:
    width = 2**22
    tokens, logprobs = sample(host, Logits(np.zeros((1, width), np.float32)), numbers_of(1))
    assert tokens[0] == int(philox.uniform(*numbers_of(1))[0] * width)
    np.testing.assert_allclose(logprobs, -np.log(width), 1e-6)
    assert sample(host, Logits(np.zeros((1, width + 1), np.float32)), numbers_of(1)) is None


def test_samples_that_make_no_sense_are_refused(host: Host) -> None:
    rows = Logits(np.zeros((1, 4), np.float32))
    for wrong in ({"top_p": 1.5}, {"top_p": np.nan}, {"min_p": -0.1}, {"top_k": -1}):
        assert sample(host, rows, numbers_of(1), **wrong) is None
    assert sample(host, Logits(rows.array, None, 0.0), numbers_of(1)) is None
