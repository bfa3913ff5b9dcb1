"""The compiled CPU kernels, each instruction set by itself, against an oracle written here."""

import math
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest

from graphwright.plugins.hars import native

pytestmark = pytest.mark.skipif(not native.available(), reason=native.why_not())

ISAS = native.isas()
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
MODES = ("logit", "logprob", "prob", "prob_renorm")
SHORT = (1, 2, 3, 31, 32, 33, 64, 65, 257, 1000, 1001, 4099)
LONG = (32003, 50257, 128256)


def families(width: int, seed: int) -> np.ndarray:
    """Rows that broke other people's kernels: ties, sorted runs, all the best in one place, NaN, infinities."""
    random = np.random.default_rng(seed)
    normal = random.normal(size=width).astype(np.float32) * 3
    places = np.arange(width)
    rows = [normal, np.full(width, 1.25), places / 64, -places / 64, np.where(places == width // 2, 5.0, 0.0)]
    rows += [places % period for period in (7, 32, 64, 512, max(1, width // 8))]
    for begin in (0, max(0, width // 2 - 40), max(0, width - 80)):
        rows.append(normal + np.where((places >= begin) & (places < begin + 80), 50.0, 0.0))
    rows += [places % 2, np.round(normal), 1 + random.random(width) * 0.245, normal * 1e-40, normal * 2e37]
    rows += [normal + 1e4, np.where(places == width - 1, 80.0, normal), np.clip(normal * 2e4, -6e4, 6e4)]
    rows += [np.where(places % 97 == 5, normal, -np.inf), np.full(width, -np.inf), np.where(places % 2, 0.0, -0.0)]
    rows += [np.where(places == width // 3, np.inf, normal), np.where(places % 3 == 1, np.inf, normal)]
    for spoiled in (places == 0, places == width // 2, places == width - 1, places >= 0, places % 5 == 2):
        rows.append(np.where(spoiled, np.nan, normal))
    negative_nan = np.uint32(0xFFC00001).view(np.float32)
    rows.append(np.where(places == width // 4, negative_nan, np.where(places == width // 2, np.inf, normal)))
    return np.stack(rows).astype(np.float32)


def cast(rows: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        return rows.astype(DTYPES[dtype])


class Truth(NamedTuple):
    x: np.ndarray  # what is ranked, float32
    order: np.ndarray  # all of the row
    maximum: np.ndarray
    log_sum: np.ndarray  # float64


def truth_of(x: np.ndarray) -> Truth:
    places = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
    is_number = ~np.isnan(x)
    order = np.lexsort((places, -np.where(is_number, x, 0), is_number), axis=-1)
    maximum = np.take_along_axis(x, order[..., :1], -1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        powers = np.exp(x.astype(np.float64) - np.where(np.isneginf(maximum), 0, maximum)[..., None])
        return Truth(x, order, maximum, np.log(powers.sum(-1)))


@cache
def case(dtype: str, width: int) -> tuple[np.ndarray, Truth]:
    rows = cast(families(width, width), dtype)
    return rows, truth_of(rows.astype(np.float32))


def expected_values(truth: Truth, k: int, mode: str) -> np.ndarray:
    selected = np.take_along_axis(truth.x, truth.order[:, :k], -1).astype(np.float64)
    maximum = truth.maximum[:, None].astype(np.float64)
    is_empty = np.isneginf(maximum)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = selected - np.where(is_empty, 0, maximum)
        if mode == "logprob":
            # In float32 the distance may overflow.
            return np.where(is_empty, -np.inf, distance - truth.log_sum[:, None]).astype(np.float32)
        if mode == "prob":
            return np.where(is_empty, 0, np.exp(distance - np.where(is_empty, 0, truth.log_sum[:, None])))
        powers = np.exp(distance)
        return np.where(is_empty, 0, powers / powers.sum(-1, keepdims=True))


def call(logits: np.ndarray, k: int, mode: str = "logprob", **options: Any) -> tuple[np.ndarray, ...]:
    settings: dict[str, Any] = {"bias": None, "bias_row": None, "temperature": 1.0, "stats": True} | options
    bias, bias_row = settings.pop("bias"), settings.pop("bias_row")
    sizes = settings.pop("axis_sizes", (*logits.shape, 1))
    results = native.softmax_topk(logits, bias, bias_row, k=k, axis_sizes=sizes, mode=mode, **settings)
    if sizes[2] != 1:
        return results
    return tuple(result[..., 0] for result in results)


def check(results: tuple[np.ndarray, ...], truth: Truth, k: int, mode: str) -> None:
    values, indices, maximum, log_sum = results
    np.testing.assert_array_equal(indices, truth.order[:, :k])
    np.testing.assert_array_equal(maximum, truth.maximum)
    near = 2e-6 + 4 * np.spacing(np.abs(truth.log_sum).astype(np.float32))
    with np.errstate(invalid="ignore"):
        off = np.abs(log_sum - truth.log_sum) > near
    assert not off.any(), (log_sum[off], truth.log_sum[off])
    np.testing.assert_array_equal(np.isnan(log_sum), np.isnan(truth.log_sum))
    if mode == "logit":
        selected = np.take_along_axis(truth.x, truth.order[:, :k], -1)
        np.testing.assert_array_equal(values, selected)
        np.testing.assert_array_equal(np.signbit(values), np.signbit(selected))
        return
    wanted = expected_values(truth, k, mode)
    if mode == "logprob":
        np.testing.assert_allclose(values, wanted, rtol=5e-7, atol=2e-6)
    else:
        np.testing.assert_allclose(values, wanted, rtol=2e-6, atol=3e-45)


def sizes_of_k(width: int) -> list[int]:
    wanted = {1, 2, 7, 8, 31, 33, 64, 128, math.ceil(width / 512), math.ceil(width / 64), width}
    return sorted(k for k in wanted if 1 <= k <= width)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_short_rows_are_exact(isa: str, dtype: str) -> None:
    for width in SHORT:
        rows, truth = case(dtype, width)
        for i, k in enumerate(sizes_of_k(width)):
            mode = MODES[i % len(MODES)]
            check(call(rows, k, mode, isa=isa), truth, k, mode)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", LONG)
def test_long_rows_are_exact(isa: str, dtype: str, width: int) -> None:
    rows, truth = case(dtype, width)
    for k, mode in zip((1, 8, 64, 1000), MODES, strict=True):
        check(call(rows, k, mode, isa=isa), truth, k, mode)


@pytest.mark.parametrize("isa", ISAS)
def test_every_mode_and_every_k_of_a_middling_row(isa: str) -> None:
    rows, truth = case("float32", 257)
    for mode, k in product(MODES, (*range(1, 40), 255, 256, 257)):
        check(call(rows, k, mode, isa=isa), truth, k, mode)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_alignment_is_needed(isa: str, dtype: str) -> None:
    rows, truth = case(dtype, 1001)
    for offset in (1, 3):
        room = np.zeros(rows.size + offset, rows.dtype)
        shifted = room[offset:].reshape(rows.shape)
        shifted[...] = rows
        check(call(shifted, 8, isa=isa), truth, 8, "logprob")


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_bias_and_temperature_are_rounded_in_float32_in_this_order(isa: str, dtype: str) -> None:
    rows = cast(np.random.default_rng(1).normal(size=(6, 1003)).astype(np.float32) * 8, dtype)
    bias = np.random.default_rng(2).normal(size=(2, 1003)).astype(np.float32)
    bias[1, ::3] = -np.inf
    bias_row = np.array([1, 0, 0, 1, 1, 0], np.int64)
    single = rows.astype(np.float32)
    ratio = np.float32(1) / np.float32(0.7)
    for mode in MODES:
        check(call(rows, 20, mode, temperature=0.7, isa=isa), truth_of(single * ratio), 20, mode)
        check(call(rows, 20, mode, bias=bias, isa=isa), truth_of(single + bias[0]), 20, mode)
        both = (single + bias[bias_row]) * ratio
        results = call(rows, 20, mode, bias=bias, bias_row=bias_row, temperature=0.7, isa=isa)
        check(results, truth_of(both), 20, mode)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_axis_may_lie_in_the_middle(isa: str, dtype: str) -> None:
    rows, _ = case(dtype, 1001)
    cube = np.ascontiguousarray(np.stack([rows[:7].T, rows[7:14].T]))
    values, indices, maximum, log_sum = call(cube, 9, axis_sizes=cube.shape, isa=isa)
    assert values.shape == (2, 9, 7)
    plain = call(rows[:14], 9, isa=isa)
    np.testing.assert_array_equal(indices.transpose(0, 2, 1).reshape(14, 9), plain[1])
    np.testing.assert_array_equal(values.transpose(0, 2, 1).reshape(14, 9), plain[0])
    np.testing.assert_array_equal(maximum.reshape(-1), plain[2])
    np.testing.assert_array_equal(log_sum.reshape(-1), plain[3])


def same_bits(one: tuple[np.ndarray, ...], other: tuple[np.ndarray, ...]) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("k", [5, 100])
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_number_of_threads(isa: str, k: int) -> None:
    rows, _ = case("float32", 50257)
    together = call(rows, k, isa=isa, threads=1)
    for threads in (2, 3, 8):
        assert same_bits(together, call(rows, k, isa=isa, threads=threads))
        assert same_bits(tuple(part[:3] for part in together), call(rows[:3], k, isa=isa, threads=threads))
    for i, row in enumerate(rows):
        alone = call(row[None], k, isa=isa, threads=1 + i % 4)
        assert same_bits(tuple(part[i : i + 1] for part in together), alone), i


@pytest.mark.parametrize("isa", ISAS)
def test_values_do_not_depend_on_whether_stats_are_asked_for(isa: str) -> None:
    rows, _ = case("float32", 4099)
    for mode in MODES:
        assert same_bits(call(rows, 8, mode, stats=False, isa=isa), call(rows, 8, mode, isa=isa)[:2])


def test_the_instruction_sets_agree() -> None:
    rows, _ = case("float16", 4099)
    results = [call(rows, 30, isa=isa) for isa in ISAS]
    for values, indices, maximum, log_sum in results[1:]:
        np.testing.assert_array_equal(indices, results[0][1])
        np.testing.assert_array_equal(maximum, results[0][2])
        np.testing.assert_allclose(values, results[0][0], rtol=1e-6, atol=2e-6)
        np.testing.assert_allclose(log_sum, results[0][3], rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_the_exponential_is_good_at_every_distance(isa: str) -> None:
    # Equal numbers, so that no error of one makes up for that of another.
    distances = np.linspace(0, 20, 997).astype(np.float32)
    rows = np.repeat(-distances[:, None], 33, axis=1)
    rows[:, 0] = 0
    values, _ = call(rows, 2, "prob", isa=isa, stats=False)
    powers = np.exp(-distances.astype(np.float64))
    np.testing.assert_allclose(values[:, 0], 1 / (1 + 32 * powers), rtol=4e-7)


def test_an_empty_batch_gives_an_empty_result() -> None:
    values, indices, maximum, log_sum = call(np.zeros((0, 7), np.float32), 3)
    assert values.shape == indices.shape == (0, 3)
    assert maximum.shape == log_sum.shape == (0,)


def test_read_only_logits_are_read() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(2, 6)
    rows.flags.writeable = False
    assert call(rows, 2)[1].tolist() == [[5, 4], [5, 4]]


@pytest.mark.parametrize("broken", [{"k": 0}, {"k": 8}, {"temperature": 0.0}, {"temperature": math.nan}])
def test_an_unsound_request_is_refused_by_the_library(broken: dict[str, float]) -> None:
    settings: dict[str, Any] = {"k": 2} | broken
    with pytest.raises(RuntimeError, match="nobody checked"):
        call(np.zeros((2, 7), np.float32), **settings)


ROUTERS = [(8, 2, 1, 1), (64, 6, 1, 1), (128, 8, 1, 1), (256, 8, 8, 4), (160, 6, 8, 3), (768, 12, 1, 1), (5, 5, 1, 1)]


def scores_of(experts: int) -> np.ndarray:
    scores = np.random.default_rng(experts).normal(size=(41, experts)).astype(np.float32) * 3
    scores[1], scores[2, 1], scores[3], scores[4, 2] = 0, np.nan, -np.inf, np.inf
    scores[5, ::2], scores[6, 3], scores[7], scores[8, :2] = -np.inf, 200, -300, (-np.nan, np.nan)
    scores[9] = np.arange(experts) % 12 - 101  # shares too small for a normal float32, except the first
    scores[9, 0] = 0
    return scores


def router_oracle(
    scores: np.ndarray, bias: np.ndarray | None, k: int, scoring: str, groups: int, top_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """The selection keys in float64, and the shares."""
    x = scores.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        powers = np.exp(x - x.max(-1, keepdims=True))
        shares = powers / powers.sum(-1, keepdims=True) if scoring == "softmax" else 1 / (1 + np.exp(-x))
    keys = x if bias is None and groups == 1 else shares.astype(np.float32) + (0 if bias is None else bias)
    if groups > 1:
        parts = keys.reshape(len(keys), groups, -1).copy()
        best_two = np.take_along_axis(parts, truth_of(parts).order[..., :2], -1).sum(-1)
        closed = truth_of(best_two).order[:, top_groups:]
        np.put_along_axis(parts, closed[..., None], -np.inf, axis=1)
        keys = parts.reshape(keys.shape)
    return keys, shares


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("experts", "k", "groups", "top_groups"), ROUTERS)
def test_routers_choose_and_weigh(isa: str, dtype: str, experts: int, k: int, groups: int, top_groups: int) -> None:
    scores = cast(scores_of(experts), dtype)
    correction = np.random.default_rng(3).normal(size=experts).astype(np.float32) * np.float32(0.1)
    for scoring, renormalize, bias, zeros, scales in product(
        ("softmax", "sigmoid"), (False, True), (None, correction), (0, 3), (True, False)
    ):
        keys, shares = router_oracle(scores, bias, k, scoring, groups, top_groups)
        results = native.router_topk(
            scores, bias, k=k, scoring=scoring, renormalize=renormalize, scale=2.5, zero_experts=zeros,
            scale_zero_experts=scales, groups=groups, top_groups=top_groups, isa=isa,
        )  # fmt: skip
        chosen = truth_of(keys).order[:, :k]
        check_router(results, chosen, shares, (renormalize, scales, experts - zeros))


def check_router(
    results: tuple[np.ndarray, ...], chosen: np.ndarray, shares: np.ndarray, options: tuple[bool, bool, int]
) -> None:
    renormalize, scales, real = options
    with np.errstate(invalid="ignore"):
        weights = np.take_along_axis(shares, chosen, -1)
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20) if renormalize else weights
    is_identity = chosen >= real
    weights = np.nan_to_num(np.where(is_identity & (not scales), weights, weights * 2.5))
    np.testing.assert_array_equal(results[1], np.where(is_identity, -1, chosen))
    np.testing.assert_allclose(results[0], np.where(is_identity, 0, weights), rtol=3e-6, atol=1e-37)
    np.testing.assert_allclose(results[2], np.where(is_identity, weights, 0).sum(-1), rtol=3e-6, atol=1e-37)


@pytest.mark.parametrize("isa", ISAS)
def test_a_token_has_the_same_experts_in_any_batch(isa: str) -> None:
    scores = np.tile(scores_of(256), (40, 1))
    options: dict[str, Any] = {"scoring": "softmax", "renormalize": True, "scale": 1.0, "zero_experts": 0}
    options |= {"scale_zero_experts": True, "groups": 1, "top_groups": 1, "isa": isa}
    together = native.router_topk(scores, None, k=8, threads=4, **options)
    assert same_bits(together, native.router_topk(scores, None, k=8, threads=1, **options))
    alone = native.router_topk(scores[:1], None, k=8, threads=1, **options)
    assert same_bits(tuple(part[:1] for part in together), alone)


def test_many_threads_may_call_at_once() -> None:
    rows, _ = case("float32", 50257)
    wanted = call(rows, 9, threads=1)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(call, rows[i % 9 :], 9, threads=1 + i % 5) for i in range(40)]
        results = [future.result(timeout=60) for future in futures]
    for i, result in enumerate(results):
        assert same_bits(result, tuple(part[i % 9 :] for part in wanted))


FORK = """
import os, sys
import numpy as np
from graphwright.plugins.hars import native

logits = np.random.default_rng(0).normal(size=(8, 50257)).astype(np.float32)
def run():
    options = dict(k=9, axis_sizes=(8, 50257, 1), mode="logprob", temperature=1.0, stats=True, threads=4)
    return b"".join(part.tobytes() for part in native.softmax_topk(logits, None, None, **options))
before = run()
child = os.fork()
if child == 0:
    same = run() == before and run() == before
    has_threads = not os.path.isdir("/proc/self/task") or len(os.listdir("/proc/self/task")) > 1
    os._exit(0 if same and has_threads else 3)
assert run() == before
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_a_forked_child_gets_threads_of_its_own_and_the_program_ends() -> None:
    root = str(Path(native.__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", FORK], env=environment, timeout=60, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def forget() -> None:
    native._load.cache_clear()
    native.isas.cache_clear()


def test_a_missing_library_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for library, reason in ((None, "was not built"), (tmp_path / "broken.so", "cannot be loaded")):
        monkeypatch.setattr(native, "library_path", lambda found=library: found)
        forget()
        try:
            assert reason in native.why_not()
            assert not native.available()
            assert native.isas() == ()
        finally:
            forget()


def test_a_prepared_call_keeps_its_memory() -> None:
    logits = np.arange(8192, dtype=np.float32).reshape(1024, 8)
    options: dict[str, Any] = {"mode": "logit", "temperature": 1.0, "stats": True}
    run, outputs = native.prepare(logits, None, None, k=2, axis_sizes=(1024, 8, 1), **options)
    kept = [weakref.ref(array) for array in (logits, *outputs)]
    del logits, outputs
    run()
    assert all(each() is not None for each in kept)
    del run
    assert all(each() is None for each in kept)
