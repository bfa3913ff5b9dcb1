"""The CUDA kernels compile for every architecture, and fit: registers, no spills, no stack. Needs nvcc, and no GPU."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]

# A multiprocessor has 65536 registers: what a thread may have for so many blocks of so many threads to be there at
# once. Shared memory is dynamic, 48 KB at most: the emulator of test_cuda_on_host.py refuses a launch with more.
MOST_REGISTERS = {
    "softmax_topk_block": 64,  # 4 blocks of 256: enough loads in flight for the memory's bandwidth
    "softmax_topk_block edited": 80,  # 3 of 256
    "softmax_topk_warp": 64,  # 8 of 128
    "softmax_topk_warp edited": 96,  # 5 of 128
    "router_topk": 64,  # 8 of 128
    "beam_merge": 64,  # 4 of 256
    "sample": 80,  # 3 of 256
    "sample edited": 80,
}
KERNELS_FOR_EACH_ARCHITECTURE = 12 + 6 + 3 + 1


def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hars_cuda_build", ROOT / "benchmarks/hars_cuda_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_type(kernel: str) -> str:
    return " ".join(part for part in kernel.split() if part not in ("Float32", "Float16", "Bfloat16"))


def unfit(figures: dict[str, Any]) -> str:
    """What is wrong with a kernel; empty if nothing is."""
    name = f"{figures['kernel']} on {figures['architecture']}"
    if figures["spill_store_bytes"] or figures["spill_load_bytes"] or figures["stack_bytes"]:
        return f"{name} spills: {figures}"
    if figures["registers"] > MOST_REGISTERS[without_type(figures["kernel"])]:
        return f"{name} uses {figures['registers']} registers"
    return f"{name} has static shared memory" if figures["static_shared_bytes"] else ""


@pytest.mark.slow
def test_every_kernel_fits_every_architecture() -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc on the PATH")
    module = benchmark()
    figures = module.compile_all(nvcc)
    print("\n" + module.table(figures))
    assert len(figures) == KERNELS_FOR_EACH_ARCHITECTURE * len(module.ARCHITECTURES)
    assert [problem for problem in map(unfit, figures) if problem] == []


REPORT = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN4hars12_GLOBAL__N_118softmax_topk_blockINS_8Bfloat16ELb1EEE' for 'sm_90'
ptxas info    : Function properties for _ZN4hars12_GLOBAL__N_118softmax_topk_blockINS_8Bfloat16ELb1EEE
    40 bytes stack frame, 108 bytes spill stores, 344 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 40 bytes cumulative stack size, 512 bytes smem
"""


def test_the_report_of_a_kernel_that_spills_is_understood() -> None:
    (figures,) = benchmark().read_report(REPORT)
    assert figures == {
        "kernel": "softmax_topk_block Bfloat16 edited", "architecture": "sm_90", "stack_bytes": 40,
        "spill_store_bytes": 108, "spill_load_bytes": 344, "registers": 64, "static_shared_bytes": 512,
    }  # fmt: skip
    assert "spills" in unfit(figures)
    fixed = figures | {"spill_store_bytes": 0, "spill_load_bytes": 0, "stack_bytes": 0}
    assert "static shared" in unfit(fixed)
    assert "81 registers" in unfit(fixed | {"registers": 81})
    assert unfit(fixed | {"static_shared_bytes": 0}) == ""
