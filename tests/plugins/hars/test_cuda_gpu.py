"""``softmax_topk`` on the GPU against a sort and float64 sums: every odd row, size, layout and option."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from graphwright.plugins.hars import cuda
from graphwright.plugins.hars.cuda_arrays import TorchMemory

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTEGERS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}
# Quiet and signalling, of either sign: the bits that a comparison of integers would get wrong.
ODD_NANS = {
    torch.float32: (0x7F800001, 0xFFC00001, 0xFFFFFFFF, 0x7FC00000),
    torch.float16: (0x7C01, 0xFE01, 0xFFFF, 0x7E00),
    torch.bfloat16: (0x7F81, 0xFFC1, 0xFFFF, 0x7FC0),
}
MODES = ("logit", "logprob", "prob", "prob_renorm")
KS = (1, 2, 7, 8, 31, 32, 33, 63, 64, 127, 128)
# Around the numbers of groups that a block may have.
LARGE_KS = tuple(size + step for size in (256, 512, 1024, 2048) for step in (-1, 0, 1))
WIDTHS = (1, 2, 31, 32, 33, 1000, 1001, 4099, 32000, 32003, 50257, 128256, 151936, 151937, 256000, 262144)
ROWS = (1, 2, 3, 131, 132, 133, 512)


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> None:
    if reason := cuda.why_not():
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill all new memory with numbers that no result has: what a kernel does not write must show."""
    plain = TorchMemory.empty

    def poisoned(self: TorchMemory, like: Any, shape: Any, dtype: str) -> Any:
        return plain(self, like, shape, dtype).fill_(0xA5 if dtype == "uint8" else -77 if "int" in dtype else 7e7)

    monkeypatch.setattr(TorchMemory, "empty", poisoned)


def normal(rows: int, width: int, dtype: torch.dtype, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return (torch.randn(rows, width, generator=generator, device=DEVICE) * scale).to(dtype)


def odd_rows(width: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Rows that break kernels, by name."""
    random = np.random.default_rng(width)
    at = np.arange(width)
    noise = random.normal(size=width)
    rows: dict[str, np.ndarray] = {
        "normal": noise,
        "wide": noise * 8,
        "all equal": np.full(width, 0.25),
        "ascending": at / width,
        "descending": -at / width,
        "two-valued": (noise > 1) * 1.0,
        "heavy ties": np.round(noise * 4) / 4,
        "one exponent": 1 + random.random(width) * 0.245,
        "one-hot": (at == width * 2 // 3) * 5.0,
        "peaked": noise + 80 * (at == width // 3),
        "large offset": 1e4 + noise,
        "large numbers": noise * 6e4,
        "huge numbers": np.clip(noise, -1, 1) * 3e38,
        "all below zero": -1 - np.abs(noise),
        "signed zeros": np.where(random.random(width) < 0.5, -0.0, 0.0),
        "denormals": np.round(noise * 4) * float(torch.finfo(dtype).smallest_normal) / 16,
        "all -inf": np.full(width, -np.inf),
        "all +inf": np.full(width, np.inf),
        "all NaN": np.full(width, np.nan),
        "one +inf": np.where(at == width // 2, np.inf, noise),
        "many +inf": np.where(random.random(width) < 0.3, np.inf, noise),
        "-inf among others": np.where(random.random(width) < 0.5, -np.inf, noise),
        "+inf, -inf and NaN": random.choice([np.inf, -np.inf, np.nan, 1.0], width),
    }
    for period in (32, 128, 256, 512, 1024, 2048, 4096):
        rows[f"best every {period}"] = noise + 20 * (at % period == period // 3)
    for start in (0, width // 2 - 40, width // 4 - 40, width - 80):
        rows[f"best together at {start}"] = noise + 20 * ((at >= start) & (at < start + 80))
    for finite in (1, 7, 8, 64):
        kept = random.permutation(width)[:finite]
        rows[f"{finite} finite"] = np.where(np.isin(at, kept), noise, -np.inf)
    for place in (0, width // 2, width - 1):
        rows[f"NaN at {place}"] = np.where(at == place, np.nan, noise)
    found = {name: torch.from_numpy(row).to(dtype) for name, row in rows.items()}
    integers = torch.from_numpy(noise).to(dtype).view(INTEGERS[dtype]).clone()
    bits = torch.tensor(ODD_NANS[dtype]).to(INTEGERS[dtype])
    integers[torch.from_numpy(random.permutation(width)[: len(bits)])] = bits[:width]
    found["odd NaNs"] = integers.view(dtype)
    return found


def order(x: np.ndarray) -> np.ndarray:
    """The definition of the order: NaN first, larger first, lower index first."""
    nan = np.isnan(x)
    index = np.broadcast_to(np.arange(x.shape[-1]), x.shape)
    return np.lexsort((index, -np.where(nan, 0, x), ~nan), axis=-1)


def expected(x: np.ndarray, k: int, best: np.ndarray) -> dict[str, np.ndarray]:
    """Everything that the operator gives for rows of float32, from sums in float64."""
    with np.errstate(all="ignore"):
        selected = np.take_along_axis(x, best[:, :k], -1)
        maximum = selected[:, :1]
        empty = np.isneginf(maximum)
        base = np.where(empty, np.float32(0), maximum)
        total = np.exp(x.astype(np.float64) - base).sum(-1, keepdims=True)
        distance = (selected - base).astype(np.float64)
        powers = np.exp(distance)
        return {
            "logit": selected,
            "logprob": np.where(empty, -np.inf, distance - np.log(total)),
            "prob": np.where(empty, 0, powers / total),
            "prob_renorm": np.where(empty, 0, powers / powers.sum(-1, keepdims=True)),
            "maximum": maximum[:, 0],
            "log_sum": np.log(total)[:, 0],
            "reach": np.abs(distance),
        }


def compare(mode: str, found: tuple[torch.Tensor, ...], right: dict[str, np.ndarray], names: list[str]) -> None:
    values, _, maximum, log_sum = (each.cpu().numpy() for each in found)
    np.testing.assert_array_equal(maximum, right["maximum"], err_msg=f"{mode} {names}")
    _close(log_sum, right["log_sum"], np.abs(right["log_sum"]), names)
    if mode == "logit":
        np.testing.assert_array_equal(values, right["logit"], err_msg=str(names))
    elif mode == "logprob":
        _close(values, right["logprob"], np.maximum(np.abs(right["logprob"]), right["reach"]), names)
    else:
        np.testing.assert_allclose(values, right[mode], rtol=1e-5, atol=1e-37, err_msg=f"{mode} {names}")


def _close(found: np.ndarray, right: np.ndarray, size: np.ndarray, names: list[str]) -> None:
    with np.errstate(all="ignore"):
        allowed = 2e-6 + 4 * np.spacing(size.astype(np.float32))
        good = (np.abs(found - right) <= allowed) | (found == right) | (np.isnan(found) & np.isnan(right))
    bad = np.argwhere(~good)
    assert not len(bad), [(names[at[0]], at[1:], found[tuple(at)], right[tuple(at)]) for at in bad[:5]]


@pytest.mark.parametrize("width", (1, 5, 80, 1000, 4099, 32003, 128256))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_rows_give_what_a_sort_gives(dtype: torch.dtype, width: int) -> None:
    rows = odd_rows(width, dtype)
    names = list(rows)
    logits = torch.stack([rows[name] for name in names]).to(DEVICE)
    x = logits.float().cpu().numpy()
    best = order(x)
    for k in sorted({1, 2, 7, 8, 33, 64, 128, 1025, width} if width < 5000 else {1, 2, 7, 8, 33, 64, 128, 1025}):
        if k > width:
            continue
        right = expected(x, k, best)
        for mode in MODES:
            found = cuda.softmax_topk(logits, k, mode=mode, stats=True)
            wrong = np.flatnonzero((found[1].cpu().numpy() != best[:, :k]).any(-1))
            assert not len(wrong), f"k={k} {mode}: indices of {[names[row] for row in wrong]}"
            compare(mode, found, right, names)
            plain = cuda.softmax_topk(logits, k, mode=mode)
            assert torch.equal(plain[1], found[1])
            assert torch.equal(plain[0].nan_to_num(-5), found[0].nan_to_num(-5)), (
                f"k={k} {mode}: stats change the values"
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", (5, 1000, 50257, 128256))
def test_a_row_alone_gives_the_same_bits_as_in_a_batch(dtype: torch.dtype, width: int) -> None:
    rows = odd_rows(width, dtype)
    logits = torch.stack(list(rows.values())).to(DEVICE)
    k = min(64, width)
    together = cuda.softmax_topk(logits, k, stats=True)
    for number, name in enumerate(rows):
        alone = cuda.softmax_topk(logits[number], k, stats=True)
        for each, whole in zip(alone, together, strict=True):
            assert _bits(each).equal(_bits(whole[number])), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_give_the_same_bits_at_every_batch_size_and_place(dtype: torch.dtype) -> None:
    for width, k in ((257, 8), (4096, 8), (4097, 64), (32000, 8), (128256, 64), (262144, 128)):
        logits = normal(512, width, dtype, seed=width)
        whole = cuda.softmax_topk(logits, k, mode="prob", stats=True)
        for count in (1, 2, 3, 17, 64, 131, 132, 133, 264, 511):
            first = 512 - count
            part = cuda.softmax_topk(logits[first:], k, mode="prob", stats=True)
            for each, all_rows in zip(part, whole, strict=True):
                assert _bits(each).equal(_bits(all_rows[first:])), (width, k, count)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_size(dtype: torch.dtype) -> None:
    """Against the device's own stable sort, since the host would take minutes."""
    for width, count in itertools.product(WIDTHS, ROWS):
        # Rounded, so that there are ties at every rank.
        logits = ((normal(count, width, torch.float32, seed=width + count) * 64).round() / 64).to(dtype)
        x = logits.float()
        ranked, best = torch.sort(x + 0.0, dim=-1, descending=True, stable=True)
        log_sum = torch.logsumexp(x.double(), -1) - x.double().amax(-1)
        ks = KS + (LARGE_KS + ((width,) if width < 40000 else ()) if count < 4 else ())
        for k in (k for k in ks if k <= width):
            values, indices, maximum, found = cuda.softmax_topk(logits, k, mode="logit", stats=True)
            assert torch.equal(indices, best[:, :k]), (width, count, k)
            assert torch.equal(values, ranked[:, :k]), (width, count, k)
            assert torch.equal(maximum, ranked[:, 0]), (width, count, k)
            assert (found - log_sum).abs().max() < 4e-6, (width, count, k)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_sort_of_the_device_is_a_fair_judge(dtype: torch.dtype) -> None:
    for count, width in ((3, 1), (512, 33), (133, 1001), (3, 50257), (2, 262144)):
        x = ((normal(count, width, torch.float32) * 64).round() / 64).to(dtype).float()
        best = torch.sort(x + 0.0, dim=-1, descending=True, stable=True).indices
        np.testing.assert_array_equal(best.cpu().numpy(), order(x.cpu().numpy()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", (1.0, 0.7, 3.0))
@pytest.mark.parametrize("shape", ("none", "", "V", "1 1 V", "3 V", "2 1 V", "2 3 V", "2 3 1", "3 1", "mask", "double"))
def test_bias_and_temperature(shape: str, temperature: float, dtype: torch.dtype) -> None:
    for width in (37, 5003, 40000):
        logits = normal(6, width, dtype).reshape(2, 3, width)
        dims = [
            width if size == "V" else int(size) for size in shape.split() if shape not in ("none", "mask", "double")
        ]
        bias: torch.Tensor | None = torch.randn(dims, device=DEVICE) if shape != "none" else None
        added = bias
        if shape == "mask":
            bias = torch.rand(3, width, device=DEVICE) < 0.4
            added = torch.where(bias, 0.0, -torch.inf)
        elif shape == "double":
            bias = torch.randn(width, device=DEVICE, dtype=torch.float64)
            added = bias.float()
        x = logits.float().cpu().numpy()
        x = x if added is None else x + added.cpu().numpy()
        x = x if temperature == 1.0 else x * np.reciprocal(np.float32(temperature))
        x = np.ascontiguousarray(x.reshape(6, width), np.float32)
        best = order(x)
        for mode in ("logit", "prob"):
            found = cuda.softmax_topk(logits, 9, mode=mode, bias=bias, temperature=temperature, stats=True)
            flat = tuple(each.reshape(6, *each.shape[2:]) for each in found)
            np.testing.assert_array_equal(flat[1].cpu().numpy(), best[:, :9])
            compare(mode, flat, expected(x, 9, best), [f"{shape} {temperature}"] * 6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_repeated_runs_are_equal_to_the_last_bit(dtype: torch.dtype) -> None:
    for count, width, k in ((1, 128256, 8), (1, 262144, 128), (64, 32003, 64), (512, 4096, 8), (140, 128256, 64)):
        logits = normal(count, width, dtype)
        first = cuda.softmax_topk(logits, k, stats=True)
        for _ in range(50):
            for each, other in zip(cuda.softmax_topk(logits, k, stats=True), first, strict=True):
                assert _bits(each).equal(_bits(other)), (count, width, k)
