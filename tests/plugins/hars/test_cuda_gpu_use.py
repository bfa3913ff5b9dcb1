"""The CUDA kernels as they are used: graphs, streams, CuPy, torch.ops, and under compute-sanitizer."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from graphwright.plugins import hars
from graphwright.plugins.hars import cuda, cuda_build, torch_ops

pytestmark = pytest.mark.gpu

REPLAYS = 10_000


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> None:
    if reason := cuda.why_not():
        pytest.skip(reason)


def normal(rows: int, width: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return (torch.randn(rows, width, generator=generator, device="cuda") * 3).to(dtype)


def same(found: tuple[torch.Tensor, ...], right: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(each, other) for each, other in zip(found, right, strict=True))


def captured(call: Any) -> tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...]]:
    call()  # loads the kernels, which a capture may not
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = call()
    return graph, outputs


@pytest.mark.parametrize(
    ("rows", "width", "k"), [(1, 128256, 8), (1, 262144, 128), (3, 32003, 64), (64, 128256, 8), (512, 4096, 8)]
)
def test_a_graph_reads_what_its_input_holds_at_each_replay(rows: int, width: int, k: int) -> None:
    logits = normal(rows, width)
    bias = torch.zeros(width, device="cuda")
    graph, outputs = captured(lambda: cuda.softmax_topk(logits, k, bias=bias, temperature=0.5, stats=True))
    for seed in range(20):
        logits.copy_(normal(rows, width, seed=seed))
        bias.copy_(torch.randn(width, device="cuda"))
        for output in outputs:
            output.fill_(-7)
        graph.replay()
        assert same(outputs, cuda.softmax_topk(logits, k, bias=bias, temperature=0.5, stats=True)), seed


@pytest.mark.parametrize(("rows", "width", "k"), [(1, 128256, 8), (2, 32003, 64), (200, 4096, 8)])
def test_ten_thousand_replays_never_differ(rows: int, width: int, k: int) -> None:
    logits = normal(rows, width)
    right = tuple(each.clone() for each in cuda.softmax_topk(logits, k, stats=True))
    faults = torch.zeros((), dtype=torch.int64, device="cuda")

    def run_and_count() -> tuple[torch.Tensor, ...]:
        found = cuda.softmax_topk(logits, k, stats=True)
        for each, other in zip(found, right, strict=True):
            faults.add_((each != other).sum())
        return found

    graph, _ = captured(run_and_count)
    for _ in range(REPLAYS):
        graph.replay()
    assert faults.item() == 0
    logits[0, 0] = 99.0
    graph.replay()
    assert faults.item() > 0  # the counter counts


def test_a_router_in_a_graph() -> None:
    scores, bias = normal(64, 256), torch.randn(256, device="cuda")
    graph, outputs = captured(lambda: cuda.router_topk(scores, 8, bias=bias, groups=8, top_groups=4, zero_experts=64))
    for seed in range(20):
        scores.copy_(normal(64, 256, seed=seed))
        graph.replay()
        right = cuda.router_topk(scores, 8, bias=bias, groups=8, top_groups=4, zero_experts=64)
        assert same(outputs, right), seed


def test_calls_on_many_streams_do_not_meet() -> None:
    inputs = [normal(rows, width, seed=rows) for rows, width in ((1, 128256), (1, 128256), (5, 50257), (300, 1003))]
    right = [cuda.softmax_topk(each, 33, stats=True) for each in inputs]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in inputs]
    found: list[list[tuple[torch.Tensor, ...]]] = [[] for _ in inputs]
    for _ in range(100):
        for stream, logits, results in zip(streams, inputs, found, strict=True):
            with torch.cuda.stream(stream):
                results.append(cuda.softmax_topk(logits, 33, stats=True))
    torch.cuda.synchronize()
    for results, expected in zip(found, right, strict=True):
        assert all(same(each, expected) for each in results)


def test_a_call_waits_for_the_work_before_it_on_its_stream() -> None:
    logits = torch.zeros(4, 50257, device="cuda")
    stream = torch.cuda.Stream()
    right = cuda.softmax_topk(normal(4, 50257, torch.float32), 8)
    source = normal(4, 50257, torch.float32)
    with torch.cuda.stream(stream):
        cuda.softmax_topk(logits, 8)  # later calls have memory on this stream
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)
        logits.copy_(source)
        found = cuda.softmax_topk(logits, 8)
    assert not stream.query()  # it did not wait for the device either
    torch.cuda.synchronize()
    assert same(found, right)


def test_cupy_arrays_give_cupy_arrays() -> None:
    cupy = pytest.importorskip("cupy")
    for dtype in (torch.float32, torch.float16):
        logits = normal(3, 5003, dtype)
        array = cupy.from_dlpack(logits)
        found = cuda.softmax_topk(array, 9, mode="prob", bias=cupy.arange(5003) % 3 == 0, stats=True)
        mask = torch.arange(5003, device="cuda") % 3 == 0
        right = cuda.softmax_topk(logits, 9, mode="prob", bias=mask, stats=True)
        assert all(isinstance(each, cupy.ndarray) for each in found)
        for each, other in zip(found, right, strict=True):
            np.testing.assert_array_equal(cupy.asnumpy(each), other.cpu().numpy())
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.get_current_stream().synchronize()
        with stream:
            again = cuda.softmax_topk(array.T, 9, axis=0, bias=cupy.asarray(1.5, "float32"))
            stream.synchronize()
        plain = cuda.softmax_topk(logits + 1.5 if dtype == torch.float32 else logits.float() + 1.5, 9)
        np.testing.assert_array_equal(cupy.asnumpy(again[1]).T, plain[1].cpu().numpy())
    weights, experts, _ = cuda.router_topk(cupy.asarray(np.eye(4, 8, dtype=np.float32)), 1)
    assert cupy.asnumpy(experts).ravel().tolist() == [0, 1, 2, 3]
    assert isinstance(weights, cupy.ndarray)


def test_other_arrays_on_the_device_are_taken_by_pointer() -> None:
    class Foreign:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.__cuda_array_interface__ = tensor.__cuda_array_interface__

    logits = normal(2, 1003, torch.float32)
    values, indices = cuda.softmax_topk(Foreign(logits), 5)
    right = cuda.softmax_topk(logits, 5)
    for found, expected in zip((values, indices), right, strict=True):
        assert torch.equal(torch.as_tensor(found, device="cuda"), expected)


def test_the_public_functions_use_the_kernels() -> None:
    assert "cuda" in hars.implementations()
    logits = normal(5, 32003)
    right = cuda.softmax_topk(logits, 8, stats=True)
    for implementation in ("auto", "cuda"):
        found = hars.softmax_topk(logits, 8, stats=True, implementation=implementation)
        assert all(each.is_cuda for each in found)
        assert same(found, right)
    assert same(hars.router_topk(normal(5, 64), 4), cuda.router_topk(normal(5, 64), 4))


def test_the_torch_operators_pass_opcheck_and_compile() -> None:
    torch_ops.register()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        logits, bias = normal(3, 1003, dtype), torch.randn(1003, device="cuda")
        for options in ({}, {"stats": True, "mode": "prob"}, {"axis": 0}):
            k = 2 if "axis" in options else 5
            torch.library.opcheck(torch.ops.hars.softmax_topk.default, (logits, k), options)
        torch.library.opcheck(torch.ops.hars.softmax_topk.default, (logits, 5), {"bias": bias, "temperature": 0.5})
        torch.library.opcheck(torch.ops.hars.router_topk.default, (normal(3, 64, dtype), 4), {"zero_experts": 8})
    graph, outputs = captured(lambda: torch.ops.hars.softmax_topk(logits, 5, stats=True))
    graph.replay()
    assert same(outputs, cuda.softmax_topk(logits, 5, stats=True))


@pytest.mark.parametrize("tool", ("memcheck", "racecheck", "initcheck", "synccheck"))
def test_compute_sanitizer_finds_nothing(tool: str, driver: Path) -> None:
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        pytest.skip("no compute-sanitizer")
    answer = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode", "9", str(driver), tool],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    if "not supported" in answer.stdout:
        pytest.skip(f"compute-sanitizer: {answer.stdout.splitlines()[-1]}")
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-1000:]
    assert "right" in answer.stdout


def test_the_driver_of_the_sanitizer_finds_all_right(driver: Path) -> None:
    answer = subprocess.run([driver, "memcheck"], capture_output=True, text=True, timeout=200, check=False)
    assert (answer.returncode, answer.stdout.strip()) == (0, "right"), answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small program around the kernels: the sanitizer would take minutes for Python and torch."""
    compiler = cuda_build.nvcc()
    if compiler is None:
        pytest.skip("no nvcc")
    program = tmp_path_factory.mktemp("sanitizer") / "driver"
    library = cuda_build.library(cuda_build.capabilities())
    command = [compiler, "-std=c++17", "-I", str(cuda_build.SOURCES), "-o", str(program)]
    command += [str(Path(__file__).with_name("cuda_driver.cpp")), str(library), "-Xlinker", f"-rpath={library.parent}"]
    subprocess.run(command, check=True, env={**os.environ}, capture_output=True)
    return program
