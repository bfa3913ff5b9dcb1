"""The driver through ctypes: signatures against ``cuda.h``, and calls against a compiled double of the driver."""

import ctypes
import gc
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphwright.errors import MissingDependencyError
from graphwright.plugins.hars import cuda_build
from graphwright.runtime.tensorrt import cuda_driver
from graphwright.runtime.tensorrt.cuda_driver import SIGNATURES, Cuda

HERE = Path(__file__).parent
CONSTANTS = {
    "CU_STREAM_NON_BLOCKING": cuda_driver.NON_BLOCKING,
    "CU_EVENT_DISABLE_TIMING": cuda_driver.DISABLE_TIMING,
    "CU_STREAM_CAPTURE_MODE_THREAD_LOCAL": cuda_driver.THREAD_LOCAL,
    "CUDA_ERROR_OUT_OF_MEMORY": 2,
}
# Prints the parameters of each function: "p" for a pointer, else the size of the number.
PROGRAM = """
#include <cuda.h>
#include <cstdio>
#include <type_traits>
template <class... Types> void print(const char *name, CUresult (*)(Types...)) {
  std::printf("%s", name);
  ((std::is_pointer<Types>::value ? std::printf(" p") : std::printf(" %zu", sizeof(Types))), ...);
  std::printf("\\n");
}
int main() {
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    found = shutil.which("g++")
    if found is None:
        pytest.skip("needs g++")
    return found


def test_the_signatures_are_those_of_cuda_h(tmp_path: Path) -> None:
    nvcc = cuda_build.nvcc()
    if nvcc is None:
        pytest.skip("needs nvcc for cuda.h; would compare every signature with it")
    lines = [f'  print("{name}", static_cast<decltype(&{name})>(nullptr));\n' for name in SIGNATURES]
    lines += [f'  std::printf("{name} %d\\n", static_cast<int>({name}));\n' for name in CONSTANTS]
    (tmp_path / "print.cpp").write_text(PROGRAM + "".join(lines) + "}\n")
    program = tmp_path / "print"
    command = [nvcc, "-std=c++17", "-cudart", "none", "-o", str(program), str(tmp_path / "print.cpp")]
    subprocess.run(command, check=True, capture_output=True)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.splitlines()
    expected = [" ".join([name, *map(_letter, parameters)]) for name, parameters in SIGNATURES.items()]
    assert printed == expected + [f"{name} {value}" for name, value in CONSTANTS.items()]


def _letter(parameter: Any) -> str:
    return "p" if parameter is ctypes.c_void_p else str(ctypes.sizeof(parameter))


@pytest.fixture(scope="module")
def library(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("driver") / "libcuda_double.so"
    source = str(HERE / "cuda_driver_double.cpp")
    subprocess.run([compiler, "-std=c++17", "-O1", "-shared", "-fPIC", "-o", str(path), source], check=True)
    return ctypes.CDLL(str(path))


@pytest.fixture
def cuda(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    monkeypatch.setattr(cuda_driver, "open_driver", lambda: library)
    return Cuda()


def test_memory_goes_to_the_device_and_back(cuda: Cuda) -> None:
    given, found = np.arange(1000, dtype=np.int16), np.zeros(1000, np.int16)
    with cuda.current():
        stream, one, two = cuda.new_stream(), cuda.allocate(2000), cuda.allocate(2000)
        cuda.copy_in(one, given, stream)
        cuda.copy(two, one, 2000, stream)
        cuda.copy_out(found, two, stream)
        cuda.synchronize(stream)
        for address in (one, two):
            cuda.free(address)
        cuda.free_stream(stream)
    assert stream > 1 << 32 and one > 1 << 32 and one % 256 == 0
    np.testing.assert_array_equal(found, given)


def test_empty_arrays_need_no_address(cuda: Cuda) -> None:
    cuda.copy_in(0, np.zeros(0, np.float32), 0)
    cuda.copy_out(np.zeros(0, np.float32), 0, 0)
    cuda.copy(0, 0, 0, 0)


def test_events_order_streams(cuda: Cuda) -> None:
    with cuda.current():
        one, two, event = cuda.new_stream(), cuda.new_stream(), cuda.new_event()
        cuda.record(event, one)
        cuda.record(event, 0)
        cuda.wait(two, event)
        cuda.wait_here(event)
        cuda.free_event(event)


def test_a_recorded_graph_runs_when_it_is_launched(cuda: Cuda) -> None:
    value = np.array([5], np.int64)
    with cuda.current():
        stream, address = cuda.new_stream(), cuda.allocate(8)
        cuda.copy_in(address, np.zeros(1, np.int64), stream)
        with cuda.captured(stream) as graphs:
            cuda.copy_in(address, value, stream)
        found = np.ones(1, np.int64)
        cuda.copy_out(found, address, stream)
        assert found[0] == 0
        value[0] = 7
        cuda.launch(graphs[0], stream)
        cuda.copy_out(found, address, stream)
        cuda.free_graph(graphs[0])
    assert found[0] == 7


def test_a_recording_that_fails_ends_and_the_stream_goes_on(cuda: Cuda, library: ctypes.CDLL) -> None:
    with cuda.current():
        stream = cuda.new_stream()
        with pytest.raises(ZeroDivisionError), cuda.captured(stream):
            raise ZeroDivisionError
        library.set_fail_end(1)
        with pytest.raises(MissingDependencyError, match="CUDA_ERROR_CAPTURE"), cuda.captured(stream):
            pass
        library.set_fail_end(0)
        with cuda.captured(stream) as graphs:
            pass
    assert len(graphs) == 1


def test_errors_say_which_call_and_why(cuda: Cuda) -> None:
    with cuda.current(), pytest.raises(MissingDependencyError) as caught:
        cuda.allocate(1 << 40)
    assert str(caught.value) == (
        "GPU 0: found cuMemAlloc_v2 gives CUDA_ERROR_OUT_OF_MEMORY (2); needed more free memory on the device"
    )
    with pytest.raises(MissingDependencyError, match="cuStreamCreate gives an unknown error"):
        cuda.new_stream()


def test_the_device_is_current_only_inside_and_let_go_at_the_end(cuda: Cuda, library: ctypes.CDLL) -> None:
    with pytest.raises(ZeroDivisionError), cuda.current():
        assert library.contexts_pushed() == 1
        raise ZeroDivisionError
    assert library.contexts_pushed() == 0
    gc.collect()
    held = library.contexts_held()
    other = Cuda()
    assert library.contexts_held() == held + 1
    del other
    gc.collect()
    assert library.contexts_held() == held


def test_a_device_that_is_not_there(cuda: Cuda) -> None:
    with pytest.raises(MissingDependencyError, match="GPU 1: found cuDeviceGet"):
        Cuda(1)


def test_without_a_driver_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(MissingDependencyError, match=r"no CUDA driver \(libcuda.so.1.*needed an NVIDIA GPU"):
        Cuda()
