"""The CUDA kernels' own source, run on the CPU by an emulator (cuda_on_host), against a plain oracle.

What this cannot see: wrong PTX, and races between lanes of a warp. Missing barriers it can see: threads run in turns,
and the order of turns changes with the seed.
"""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16)
MODES = ("logit", "logprob", "prob", "prob_renorm")
AUTO, WARP, ROW, CLUSTER, TWO_KERNELS = range(5)


class Request(ctypes.Structure):
    _fields_ = [
        ("logits", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("mode", ctypes.c_int32),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("k", ctypes.c_int64),
        ("bias", ctypes.c_void_p),
        ("bias_rows", ctypes.c_int64),
        ("temperature", ctypes.c_float),
        ("values", ctypes.c_void_p),
        ("indices", ctypes.c_void_p),
        ("indices_are_int32", ctypes.c_int32),
        ("maximum", ctypes.c_void_p),
        ("log_sum", ctypes.c_void_p),
    ]


@pytest.fixture(scope="module")
def host(build_on_host: Callable[..., ctypes.CDLL]) -> ctypes.CDLL:
    return build_on_host("softmax_topk.cu", "router.cu", "beam.cu", "sample.cu")


@pytest.fixture(autouse=True)
def default_machine(host: ctypes.CDLL) -> Iterator[None]:
    host.host_set_seed(0)
    host.host_set_clusters(1)
    host.host_set_multiprocessors(4)
    yield
    host.host_permit_all_reads()


def with_canary(shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """An array to write to, and the larger one around it whose rest must not change."""
    count = int(np.prod(shape))
    around = np.full(count + 64, 77, dtype)
    return around[32 : 32 + count].reshape(shape), around


def softmax_topk(
    host: ctypes.CDLL,
    logits: np.ndarray,
    k: int,
    *,
    mode: str = "logprob",
    way: int = AUTO,
    splits: int = 0,
    bias: np.ndarray | None = None,
    temperature: float = 1.0,
    stride: int | None = None,
    offset: int = 0,
    int32: bool = False,
    stats: bool = True,
) -> tuple[np.ndarray, ...] | None:
    """Values, indices, maximum, log_sum; None where the way cannot serve the request."""
    rows, width = logits.shape
    stride = width if stride is None else stride
    # Numpy starts its arrays at a multiple of 16 bytes; `offset` elements after one is where the rows begin.
    memory = np.empty(offset + stride * rows + 64, logits.dtype)
    start = (-memory.ctypes.data // memory.itemsize) % (16 // memory.itemsize) + offset
    placed = np.lib.stride_tricks.as_strided(memory[start:], logits.shape, (stride * memory.itemsize, memory.itemsize))
    placed[:] = logits
    host.host_permit_all_reads()
    for row in placed:
        host.host_permit_reads(ctypes.c_void_p(row.ctypes.data), ctypes.c_int64(row.nbytes))
    if bias is not None:
        bias = np.ascontiguousarray(bias, np.float32)
        host.host_permit_reads(ctypes.c_void_p(bias.ctypes.data), ctypes.c_int64(bias.nbytes))
    outputs = [with_canary((rows, k), np.float32), with_canary((rows, k), np.int32 if int32 else np.int64)]
    outputs += [with_canary((rows,), np.float32) for _ in range(2)]
    values, indices, maximum, log_sum = (inner for inner, _ in outputs)
    request = Request(
        placed.ctypes.data, DTYPES.index(logits.dtype.type), MODES.index(mode), rows, width, stride, k,
        None if bias is None else bias.ctypes.data, 0 if bias is None else len(bias), temperature,
        values.ctypes.data, indices.ctypes.data, int32,
        maximum.ctypes.data if stats else None, log_sum.ctypes.data if stats else None,
    )  # fmt: skip
    size = host.hars_cuda_softmax_topk_scratch_by(ctypes.byref(request), way, splits)
    if size < 0:
        return None
    scratch = np.full(max(size, 1), 0xA5, np.uint8)
    status = host.hars_cuda_softmax_topk_by(
        ctypes.byref(request), way, splits, ctypes.c_void_p(scratch.ctypes.data), ctypes.c_int64(size), None
    )
    assert status == 0, host.host_last_error()
    for inner, around in outputs:
        assert (around[:32] == 77).all() and (around[32 + inner.size :] == 77).all(), "written outside the output"
    return values, indices, maximum, log_sum


def keys_of(x: np.ndarray) -> np.ndarray:
    """Larger is earlier, as int64; equal for -0.0 and +0.0, and for all NaN."""
    bits = (x + np.float32(0)).view(np.uint32).astype(np.int64)
    return np.where(np.isnan(x), 2**33, np.where(bits >> 31 == 1, (2**32 - 1) ^ bits, bits | 2**31))


def oracle(x: np.ndarray, k: int, mode: str) -> tuple[np.ndarray, ...]:
    order = np.argsort(-keys_of(x), axis=-1, kind="stable")[:, :k]
    chosen = np.take_along_axis(x, order, -1).astype(np.float64)
    wide = x.astype(np.float64)
    with np.errstate(all="ignore"):
        maximum = np.take_along_axis(wide, order[:, :1], -1)
        empty = maximum == -np.inf
        log_sum = np.where(empty, -np.inf, np.log(np.exp(wide - maximum).sum(-1, keepdims=True)))
        renormalised = np.exp(chosen - maximum)
        values = {
            "logit": chosen,
            "logprob": np.where(empty, -np.inf, chosen - maximum - log_sum),
            "prob": np.where(empty, 0, np.exp(chosen - maximum - log_sum)),
            "prob_renorm": np.where(empty, 0, renormalised / renormalised.sum(-1, keepdims=True)),
        }[mode]
    return values, order, maximum[:, 0], log_sum[:, 0]


def check(found: tuple[np.ndarray, ...], x: np.ndarray, k: int, mode: str, stats: bool = True) -> None:
    values, order, maximum, log_sum = oracle(x, k, mode)
    np.testing.assert_array_equal(found[1], order)
    # exp of a difference that float32 has rounded: half an ulp of up to 104.
    tolerance = {"logit": (0, 0), "logprob": (5e-7, 4e-6)}.get(mode, (8e-6, 1e-37))
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(found[0], values.astype(np.float32), *tolerance)
    if stats:
        np.testing.assert_array_equal(found[2], maximum.astype(np.float32))
        np.testing.assert_allclose(found[3], log_sum, 2.4e-7, 2e-6)


def families(width: int, k: int, dtype: Any, seed: int = 0) -> np.ndarray:
    """The adversarial rows, each of `width`."""
    random = np.random.default_rng(seed)
    index = np.arange(width)
    normal = random.normal(size=width) * 3
    big = 6e4 if dtype == np.float16 else 3e38
    top_at = [
        np.where((index >= first) & (index < first + k), 9 + random.random(width), normal * 0.1)
        for first in (0, width - k, max(width // 2 - k // 2, 0))
    ]
    rows = [
        normal, np.zeros(width), index / width, -index / width, *top_at,
        np.where(index == width // 3, 5.0, -5.0), index % 2, np.round(normal), 1 + 0.245 * random.random(width),
        *(np.where(index % period == 0, 4 + random.random(width), normal * 0.1) for period in (32, 256, 1024, 4096)),
        np.where(index < k - 1, normal, -np.inf), np.where(index >= width - k, normal, -np.inf),
        np.full(width, -np.inf), np.where(index == width - 1, np.inf, normal), np.where(index % 3 == 0, np.inf, normal),
        *(np.where(index == place, np.nan, normal) for place in (0, width // 2, width - 1)),
        np.full(width, np.nan), np.where(index % 5 == 0, -np.nan, normal), np.where(index % 2 == 0, -0.0, 0.0),
        np.where(index % 7 == 0, -0.0, -np.abs(normal)), normal * 1e-40, normal * big / 20,
        np.where(index % 2, big, -big), 1e4 + np.round(normal), np.full(width, -big),
        np.where(index % 4 == 0, -big, normal),
        np.where(index == width // 2, 80.0, normal), np.full(width, -3.25), normal + 20.0,
    ]  # fmt: skip
    with np.errstate(over="ignore"):
        return np.stack(rows).astype(np.float32).astype(dtype)


WIDTHS = (1, 2, 31, 32, 33, 512, 513, 1000, 1001, 4099, 32003)


def ks_of(width: int) -> list[int]:
    few = {1, 2, 7, 33, 64, 128} if width < 20000 else {1, 8, 64, 128}
    return sorted({k for k in few if k < width} | ({width} if width <= 1001 else set()))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_every_way_is_exact_on_adversarial_rows(host: ctypes.CDLL, dtype: Any, width: int) -> None:
    served = set()
    for turn, k in enumerate(ks_of(width)):
        logits = families(width, k, dtype, seed=k)
        x = logits.astype(np.float32)
        for way, splits in ((WARP, 1), (ROW, 1), (CLUSTER, 2), (TWO_KERNELS, 4)):
            mode = MODES[(turn + way) % 4]
            stride = width + (turn + way) % 4
            found = softmax_topk(host, logits, k, mode=mode, way=way, splits=splits, stride=stride, offset=turn % 3)
            if found is not None:
                served.add(way)
                check(found, x, k, mode)
    assert ROW in served
    assert (width < 32000) or served == {WARP, ROW, CLUSTER, TWO_KERNELS}


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_large_k_is_selected_in_chunks(host: ctypes.CDLL, dtype: Any) -> None:
    width = 4099
    for k, mode in ((200, "logprob"), (width, "prob_renorm"), (width - 1, "logit")):
        logits = families(width, k, dtype)[::2]
        found = softmax_topk(host, logits, k, mode=mode, int32=True, stride=width + 1)
        assert found is not None
        check(found, logits.astype(np.float32), k, mode)


@pytest.mark.parametrize("k", [300, 700])
def test_k_above_half_the_threads_bisects_the_groups(host: ctypes.CDLL, k: int) -> None:
    logits = families(32003, k, np.float32)
    found = softmax_topk(host, logits, k, way=CLUSTER, splits=2)
    assert found is not None
    check(found, logits.astype(np.float32), k, "logprob")


def bits(found: tuple[np.ndarray, ...] | None) -> list[bytes]:
    assert found is not None
    return [array.tobytes() for array in found]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_splits_alignment_and_turns_leave_every_bit(host: ctypes.CDLL, dtype: Any) -> None:
    width = 40009
    logits = families(width, 8, dtype)[[0, 7, 9, 15, 30]]
    first = bits(softmax_topk(host, logits, 8, way=ROW))
    for seed, way, splits, offset in ((1, ROW, 1, 1), (2, CLUSTER, 2, 3), (3, CLUSTER, 4, 0), (4, TWO_KERNELS, 3, 0)):
        host.host_set_seed(seed)
        assert bits(softmax_topk(host, logits, 8, way=way, splits=splits, offset=offset)) == first


@pytest.mark.parametrize("clusters", [True, False])
@pytest.mark.parametrize("width", [1000, 20011])
def test_a_row_does_not_depend_on_the_others(host: ctypes.CDLL, width: int, clusters: bool) -> None:
    host.host_set_clusters(int(clusters))
    host.host_set_multiprocessors(2)
    logits = families(width, 8, np.float32)
    together = softmax_topk(host, logits, 8)
    assert together is not None
    for row in (0, 9, 13):
        alone = softmax_topk(host, logits[row : row + 1], 8)
        assert bits(alone) == [array[row : row + 1].tobytes() for array in together]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("width", [33, 1001, 8200])
def test_bias_and_temperature_are_applied_before_anything_else(host: ctypes.CDLL, dtype: Any, width: int) -> None:
    random = np.random.default_rng(3)
    logits = families(width, 8, dtype)
    logits = logits[np.isfinite(logits.astype(np.float32)).all(-1)]
    scale = np.float32(1) / np.float32(0.7)
    mask = np.where(random.random((2, width)) < 0.4, -np.inf, random.normal(size=(2, width))).astype(np.float32)
    for way, bias, temperature in ((AUTO, mask, 1.0), (AUTO, mask[:1], 0.7), (ROW, None, 0.7), (WARP, mask, 0.7)):
        x = logits.astype(np.float32)
        with np.errstate(over="ignore"):
            if bias is not None:
                x = x + bias[np.arange(len(x)) % len(bias)]
            x = x if temperature == 1 else x * scale
        found = softmax_topk(host, logits, 8, way=way, bias=bias, temperature=temperature, stride=width + 1)
        assert found is not None
        check(found, x, 8, "logprob")


@pytest.mark.parametrize(("width", "k"), [(50257, 4), (128256, 64), (262143, 1024)])
def test_log_sum_of_a_vocabulary_is_near_float64(host: ctypes.CDLL, width: int, k: int) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(6, width)) * np.array([[0.0], [1.0], [4.0], [0.01], [8.0], [1.0]])
    x[5] = 1e4 + np.round(x[5])
    x[0] = np.where(np.arange(width) == 0, 8.3, 0.7)
    logits = x.astype(np.float32)
    found = softmax_topk(host, logits, k, way=ROW)
    assert found is not None
    check(found, logits, k, "logprob")
    np.testing.assert_array_less(-1e-30, found[3])
    np.testing.assert_allclose(found[3], oracle(logits, 1, "logit")[3], 0, 2e-6)


def test_requests_that_make_no_sense_are_refused(host: ctypes.CDLL) -> None:
    logits = np.zeros((1, 8), np.float32)
    assert softmax_topk(host, logits, 8) is not None
    for k, temperature in ((9, 1.0), (0, 1.0), (2, 0.0), (2, -1.0), (2, np.inf), (2, np.nan)):
        assert softmax_topk(host, logits, k, temperature=temperature) is None
    assert softmax_topk(host, logits, 2, way=5) is None
    assert softmax_topk(host, logits, 2, way=CLUSTER, splits=2) is None, "one chain cannot be divided"
    empty = softmax_topk(host, np.zeros((0, 8), np.float32), 2)
    assert empty is not None and empty[0].shape == (0, 2)


def test_reading_outside_a_row_would_be_seen(host: ctypes.CDLL) -> None:
    logits = np.zeros((1, 64), np.float32)
    out, index = np.empty((1, 2), np.float32), np.empty((1, 2), np.int64)
    host.host_permit_reads(ctypes.c_void_p(logits.ctypes.data), ctypes.c_int64(63 * 4))
    request = Request(logits.ctypes.data, 0, 0, 1, 64, 64, 2, None, 0, 1.0, out.ctypes.data, index.ctypes.data, 0)
    assert host.hars_cuda_softmax_topk(ctypes.byref(request), None, ctypes.c_int64(0), None) != 0
    assert b"outside the inputs" in host.host_last_error()
