"""``softmax_topk`` on the GPU with its work divided in every way, and in memory of any layout, also large and empty."""

import ctypes
import itertools
from typing import Any

import pytest
import torch

from graphwright.errors import RequestError
from graphwright.plugins.hars import cuda, cuda_library
from graphwright.plugins.hars.cuda_arrays import TorchMemory

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# HARS_CUDA_ROW of hars_cuda.h.
BLOCK_A_ROW = 2


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


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_pitch_and_any_offset(dtype: torch.dtype) -> None:
    for width, k in ((1, 1), (33, 8), (1001, 8), (4099, 33), (32003, 64), (128257, 8)):
        for gap, offset, count in itertools.product((0, 1, 3, 8), (0, 1, 2, 3, 5, 7), (1, 3, 140)):
            buffer = torch.full((offset + count * (width + gap),), torch.inf, dtype=dtype, device=DEVICE)
            logits = buffer.as_strided((count, width), (width + gap, 1), offset)
            logits.copy_(normal(count, width, dtype, seed=gap + offset))
            right = cuda.softmax_topk(logits.clone(memory_format=torch.contiguous_format), k, stats=True)
            for each, other in zip(cuda.softmax_topk(logits, k, stats=True), right, strict=True):
                assert _bits(each).equal(_bits(other)), (width, gap, offset, count)


class ByWay:
    """The library with the division of work fixed: hars_cuda_way of hars_cuda.h."""

    def __init__(self, library: ctypes.CDLL, way: int, splits: int) -> None:
        self.library, self.way, self.splits = library, way, splits

    def hars_cuda_softmax_topk_scratch(self, request: ctypes.Structure) -> int:
        function = self.library.hars_cuda_softmax_topk_scratch_by
        function.restype = ctypes.c_int64
        return int(function(ctypes.byref(request), self.way, self.splits))

    def hars_cuda_softmax_topk(self, request: ctypes.Structure, place: Any, size: int, stream: int) -> int:
        where = (ctypes.c_void_p(place), ctypes.c_int64(size), ctypes.c_void_p(stream))
        return int(self.library.hars_cuda_softmax_topk_by(ctypes.byref(request), self.way, self.splits, *where))


def mixed(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows with ties at every rank; of eight, one has NaN, one +inf, one -inf almost throughout."""
    logits = (normal(rows, width, torch.float32, seed=width) * 8).round() / 8
    logits[1::8, width // 3] = torch.nan
    logits[2::8, width // 2 :: 7] = torch.inf
    logits[3::8, 3:] = -torch.inf
    return logits.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("way", "name"), list(enumerate(("auto", "warp", "row", "cluster", "two kernels"))))
def test_every_way_gives_the_same(way: int, name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    library, served = cuda_library.loaded(), 0

    def run(logits: torch.Tensor, k: int, *choice: int) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(cuda_library, "loaded", lambda: ByWay(library, *choice))
            return cuda.softmax_topk(logits, k, stats=True)

    for (count, width), k in itertools.product(
        ((1, 80), (9, 1000), (5, 4099), (200, 2048), (9, 32003), (5, 128256)), (1, 2, 8, 33, 64, 128, 600)
    ):
        logits = mixed(count, width, dtype)
        for splits in (0, 1, 2, 3, 4, 8, 16):
            if k > width or (splits and way < 3):
                continue
            right = run(logits, k, BLOCK_A_ROW, 0)
            try:
                found = run(logits, k, way, splits)
            except RequestError:
                continue  # the header: a way need not serve every request
            served += 1
            about = (name, splits, count, width, k)
            assert torch.equal(found[1], right[1]), about
            assert torch.equal(found[2].nan_to_num(9e9), right[2].nan_to_num(9e9)), about
            # A warp adds in another order than a block, and "auto" may choose it.
            for each, other in ((found[0], right[0]), (found[3], right[3])):
                if name in ("auto", "warp"):
                    torch.testing.assert_close(each, other, rtol=0, atol=4e-6, equal_nan=True, msg=str(about))
                else:
                    assert _bits(each.nan_to_num(9e9)).equal(_bits(other.nan_to_num(9e9))), about
    if name == "cluster" and DEVICE == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("clusters need compute capability 9.0")
    assert served > 5


def test_views_and_every_axis() -> None:
    cube = normal(6 * 5, 1003, torch.float32).reshape(6, 5, 1003)
    for view in (cube, cube[:, -1], cube[::2], cube[:, 1:3], cube.transpose(0, 1), cube[0, 0], cube[:, :1]):
        for axis in range(-view.ndim, view.ndim):
            x = view.movedim(axis, -1).contiguous()
            k = min(2, x.shape[-1])
            right = cuda.softmax_topk(x, k, stats=True)
            found = cuda.softmax_topk(view, k, stats=True, axis=axis)
            assert [each.is_contiguous() for each in found] == [True] * 4
            for each, other in zip(found[:2], right[:2], strict=True):
                assert torch.equal(each, other.movedim(-1, axis)), (view.shape, axis)
            assert torch.equal(found[3], right[3])


def test_narrow_indices_are_the_same_numbers() -> None:
    for count, width in ((1, 128256), (3, 1001), (200, 32003)):
        logits = normal(count, width, torch.bfloat16)
        wide, narrow = (cuda.softmax_topk(logits, 40, index_dtype=each)[1] for each in ("int64", "int32"))
        assert (wide.dtype, narrow.dtype) == (torch.int64, torch.int32)
        assert torch.equal(wide, narrow.long())


def test_more_than_two_to_the_31_logits() -> None:
    if torch.cuda.get_device_properties(0).total_memory < 20e9:
        pytest.skip("needs 20 GB on the device")
    logits = torch.empty(9000, 262144, dtype=torch.bfloat16, device=DEVICE)
    for start in range(0, 9000, 1000):
        logits[start : start + 1000] = normal(1000, 262144, torch.bfloat16, seed=start)
    found = cuda.softmax_topk(logits, 5, stats=True)
    for row in (0, 4000, 8191, 8192, 8999):
        for each, other in zip(found, cuda.softmax_topk(logits[row], 5, stats=True), strict=True):
            assert _bits(each[row]).equal(_bits(other)), row


def test_empty_batches_and_what_is_refused() -> None:
    values, indices, maximum, _ = cuda.softmax_topk(normal(0, 9, torch.float32), 3, stats=True)
    assert (values.shape, indices.dtype, maximum.shape) == ((0, 3), torch.int64, (0,))
    row = normal(1, 9, torch.float32)[0]
    refused: list[dict[str, Any]] = [
        {"k": 0},
        {"k": 10},
        {"k": 2, "temperature": 0.0},
        {"k": 2, "temperature": float("nan")},
        {"k": 2, "mode": "best"},
        {"k": 2, "axis": 1},
        {"k": 2, "bias": torch.zeros(8, device=DEVICE)},
        {"k": 2, "bias": torch.zeros(2, 9, device=DEVICE)},
        {"k": 2, "bias": torch.zeros(9)},
        {"k": 2, "logits": row.double()},
        {"k": 2, "logits": row.cpu()},
        {"k": 1, "logits": row[0]},
    ]
    for options in refused:
        with pytest.raises(RequestError):
            cuda.softmax_topk(**{"logits": row, **options})
