"""Requests to the CUDA kernels without a GPU: the emulator's kernels (cuda_on_host), and NumPy's memory for CuPy's."""

import ctypes
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphwright.errors import MissingDependencyError, RequestError
from graphwright.plugins.hars import cuda, cuda_arrays, cuda_library, cuda_search, reference, search
from graphwright.plugins.hars.cuda_arrays import CupyMemory

ROOT = Path(__file__).parents[3]
RANDOM = np.random.default_rng(5)


class HostMemory(CupyMemory):
    """NumPy in place of CuPy."""

    def __init__(self) -> None:
        super().__init__(np)
        self.made: list[Any] = []

    def pointer(self, array: Any) -> int:
        return int(array.ctypes.data)

    def stream(self, array: Any) -> int:
        return 0

    def device(self, array: Any) -> AbstractContextManager[Any]:
        return nullcontext()

    def place(self, array: Any) -> str:
        return "host"

    def empty(self, like: Any, shape: Any, dtype: str) -> Any:
        return np.full(shape, 0xA5 if dtype == "uint8" else 77, dtype)


@pytest.fixture(scope="module")
def emulator(build_on_host: Callable[..., ctypes.CDLL]) -> ctypes.CDLL:
    built = build_on_host("softmax_topk.cu", "router.cu", "beam.cu", "sample.cu")
    return cuda_library.opened(built._name)


@pytest.fixture
def on_host(emulator: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_library, "loaded", lambda: emulator)
    for module in (cuda_arrays, cuda_search):
        monkeypatch.setattr(module, "on_device", lambda where, value: (HostMemory(), np.asarray(value)))


def logits_of(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    # Rounded, so that there are ties.
    return (RANDOM.normal(size=shape) * 16).round().astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("mode", ["logit", "logprob", "prob", "prob_renorm"])
def test_every_mode_and_dtype_reaches_the_kernels(mode: str, dtype: Any, on_host: None) -> None:
    logits = logits_of(2, 3, 301, dtype=dtype)
    found = cuda.softmax_topk(logits, 7, mode=mode, stats=True, temperature=0.5)
    right = reference.softmax_topk(logits, 7, mode=mode, stats=True, temperature=0.5)
    assert [(each.shape, each.dtype) for each in found] == [(each.shape, each.dtype) for each in right]
    np.testing.assert_array_equal(found[1], right[1])
    for each, other in zip(found, right, strict=True):
        np.testing.assert_allclose(each, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "view",
    [
        lambda cube: cube,
        lambda cube: cube[:, -1],
        lambda cube: cube[::2, 1:],
        lambda cube: cube[..., ::-1],
        lambda cube: cube[::-1],
        lambda cube: cube[0, ::-1],
        lambda cube: cube.transpose(1, 0, 2),
        lambda cube: cube.transpose(2, 0, 1),
        lambda cube: cube[0, 0],
        lambda cube: cube[..., 3:60],
        lambda cube: np.broadcast_to(cube[0, 0], (4, 65)),
    ],
)
def test_any_view_and_axis_is_read_right(view: Any, on_host: None) -> None:
    array = view(logits_of(4, 3, 65))
    for axis in range(-array.ndim, array.ndim):
        k = min(3, array.shape[axis])
        found = cuda.softmax_topk(array, k, mode="logit", axis=axis, stats=True)
        for each, other in zip(
            found, reference.softmax_topk(array, k, mode="logit", axis=axis, stats=True), strict=True
        ):
            np.testing.assert_allclose(each, other, rtol=1e-6, atol=1e-6)


def test_rows_at_equal_distances_are_not_copied(on_host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: HostMemory, array: Any) -> Any:
        raise AssertionError("copied")

    monkeypatch.setattr(HostMemory, "contiguous", refuse)
    cube = logits_of(4, 3, 65)
    for view in (cube, cube[:, -1], cube[1::2, 1], cube[..., 3:60], cube[0, 0], cube[:1, ::2]):
        cuda.softmax_topk(view, 3)
    with pytest.raises(AssertionError, match="copied"):
        cuda.softmax_topk(cube.transpose(1, 0, 2), 3)


@pytest.mark.parametrize("shape", [(), (41,), (1, 1, 41), (3, 41), (2, 1, 41), (2, 3, 41), (2, 3, 1), (3, 1), (1,)])
@pytest.mark.parametrize("axis", [-1, 1])
def test_a_bias_of_any_shape_is_added(shape: tuple[int, ...], axis: int, on_host: None) -> None:
    logits = logits_of(2, 3, 41)
    for bias in (logits_of(*shape), RANDOM.normal(size=shape) < 0.5):
        offsets = np.where(bias, np.float32(0), np.float32(-np.inf)) if bias.dtype == bool else bias
        found = cuda.softmax_topk(logits, 2, mode="logit", bias=bias, axis=axis)
        for each, other in zip(
            found, reference.softmax_topk(logits, 2, mode="logit", bias=offsets, axis=axis), strict=True
        ):
            np.testing.assert_array_equal(each, other)


def test_narrow_indices_and_empty_batches(on_host: None) -> None:
    logits = logits_of(5, 33)
    wide, narrow = (cuda.softmax_topk(logits, 4, index_dtype=each)[1] for each in ("int64", "int32"))
    assert (wide.dtype, narrow.dtype) == (np.int64, np.int32)
    np.testing.assert_array_equal(wide, narrow)
    values, indices, maximum, log_sum = cuda.softmax_topk(logits[:0], 4, stats=True)
    assert (values.shape, indices.shape, maximum.shape, log_sum.shape) == ((0, 4), (0, 4), (0,), (0,))
    assert [each.shape for each in cuda.router_topk(logits[:0], 4)] == [(0, 4), (0, 4), (0,)]


ROUTERS: list[dict[str, Any]] = [
    {},
    {"scoring": "sigmoid", "renormalize": True, "scale": 2.5},
    {"zero_experts": 8, "scale": 2.0, "scale_zero_experts": False},
    {"zero_experts": 8, "scale": 2.0, "bias": True},
    {"groups": 8, "top_groups": 4, "bias": True, "scoring": "sigmoid"},
]


@pytest.mark.parametrize("options", ROUTERS, ids=str)
def test_every_option_of_a_router_reaches_the_kernels(options: dict[str, Any], on_host: None) -> None:
    scores = RANDOM.normal(size=(2, 5, 32)).astype(np.float32)
    bias = RANDOM.normal(size=32).astype(np.float32) if options.get("bias") else None
    options = {**options, "bias": bias}
    found = cuda.router_topk(scores, 4, **options)
    for each, other in zip(found, reference.router_topk(scores, 4, **options), strict=True):
        np.testing.assert_allclose(each, other, rtol=1e-5, atol=1e-7)
        assert (each.shape, each.dtype) == (other.shape, other.dtype)
    np.testing.assert_array_equal(cuda.router_topk(scores, 4, index_dtype="int32", **options)[1], found[1])


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"k": 34},
        {"k": 2.5},
        {"temperature": 0},
        {"temperature": np.inf},
        {"temperature": 1e39},
        {"temperature": 1e-60},
        {"mode": "best"},
        {"index_dtype": "int16"},
        {"axis": 2},
        {"bias": np.zeros(32, np.float32)},
        {"bias": np.zeros(33, np.int32)},
        {"logits": np.zeros((2, 33))},
        {"logits": np.zeros((2, 33), np.int32)},
        {"logits": np.float32(3)},
    ],
    ids=str,
)
def test_what_the_operator_does_not_take_is_refused(options: dict[str, Any], on_host: None) -> None:
    with pytest.raises(RequestError):
        cuda.softmax_topk(**{"logits": np.zeros((2, 33), np.float32), "k": 3, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"k": 33},
        {"groups": 5},
        {"groups": 32},
        {"groups": 8, "top_groups": 9},
        {"groups": 16, "top_groups": 1},
        {"zero_experts": 33},
        {"zero_experts": -1},
        {"scoring": "x"},
        {"bias": np.zeros((2, 32), np.float32)},
    ],
    ids=str,
)
def test_what_a_router_does_not_take_is_refused(options: dict[str, Any], on_host: None) -> None:
    with pytest.raises(RequestError):
        cuda.router_topk(**{"scores": np.zeros((2, 32), np.float32), "k": 3, **options})


def test_a_beam_step_reaches_the_kernels(on_host: None) -> None:
    logits, scores = logits_of(2, 3, 50) / 7, RANDOM.normal(size=(2, 3)).astype(np.float32)
    bias = logits_of(50)
    for shape, ends in (((6, 50), 1), ((2, 3, 50), 3)):
        given = logits.reshape(shape)
        found = cuda_search.beam_step(given, scores, beams=3, ends=ends, bias=bias, temperature=2.0)
        right = search.beam_step(
            given, scores, beams=3, ends=ends, bias=bias, temperature=2.0, implementation="reference"
        )
        np.testing.assert_allclose(found[0], right[0], rtol=1e-6, atol=1e-6)
        for each, other in zip(found[1:], right[1:], strict=True):
            np.testing.assert_array_equal(each, other)
            assert each.dtype == other.dtype


@pytest.mark.parametrize("filters", [{}, {"top_k": 9, "top_p": 0.8, "min_p": 0.01, "temperature": 1.5}], ids=str)
@pytest.mark.parametrize(
    "numbers",
    [
        {"seed": 2**64 - 1, "offset": 2**63},
        {"seed": np.arange(6), "offset": np.array(4), "row_numbers": np.arange(6)[::-1]},
        {"seed": 1, "row_numbers": np.arange(7, 13, dtype=np.int32)},
    ],
    ids=str,
)
def test_a_draw_reaches_the_kernels(numbers: dict[str, Any], filters: dict[str, Any], on_host: None) -> None:
    logits = logits_of(6, 100) / 7
    for given in (logits, logits[:, 10:60]):
        tokens, logprobs = cuda_search.sample(given, bias=given[:1], **numbers, **filters)
        right = search.sample(given, bias=given[:1], implementation="reference", **numbers, **filters)
        np.testing.assert_array_equal(tokens, right[0])
        np.testing.assert_allclose(logprobs, right[1], rtol=3e-7)
    one, _ = cuda_search.sample(logits[3], seed=1, row_numbers=3)
    assert one.shape == () and one == search.sample(logits, seed=1, implementation="reference")[0][3]


def test_arrays_of_the_host_are_refused() -> None:
    for value in (np.zeros(3, np.float32), [1.0], 3):
        with pytest.raises(RequestError, match="needed an array on a CUDA device"):
            cuda.softmax_topk(value, 1)
    torch = pytest.importorskip("torch")
    with pytest.raises(RequestError, match="a tensor on cpu"):
        cuda.softmax_topk(torch.zeros(3), 1)


def test_an_error_of_the_kernels_names_the_sizes_or_the_error() -> None:
    request = cuda_library.SoftmaxTopkRequest(rows=7, k=3)
    with pytest.raises(RequestError, match=r"rows 7, .*k 3"):
        cuda_library.check("here", -1, request)
    with pytest.raises(MissingDependencyError, match="CUDA error 700"):
        cuda_library.check("here", 700, request)
    cuda_library.check("here", 0, request)


def test_a_machine_with_a_gpu_needs_few_packages() -> None:
    """The GPU tests and the benchmark run where graphwright is not installed, on whatever is there."""
    absent = ["platformdirs", "onnx_graphsurgeon", "jinja2", "transformers", "torch_tensorrt", "tensorrt", "psutil"]
    files = [*sorted(Path(__file__).parent.glob("test_cuda_gpu*.py")), ROOT / "benchmarks/gpu/hars.py"]
    code = f"""
import importlib.util, sys
sys.modules.update(dict.fromkeys({absent}))
for number, path in enumerate({[str(path) for path in files]}):
    spec = importlib.util.spec_from_file_location(f"file_{{number}}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
