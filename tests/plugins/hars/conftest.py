"""The CUDA sources, built for the CPU with the emulator of cuda_on_host."""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

EMULATOR = Path(__file__).parent / "cuda_on_host"
KERNELS = Path(__file__).parents[3] / "graphwright/plugins/hars/cuda"
FLAGS = [
    *("-std=c++20", "-O1", "-ffp-contract=off", "-fvisibility=hidden", "-fPIC"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
]
WAIT_SECONDS = 300

Build = Callable[..., ctypes.CDLL]


def compile_library(compiler: str, names: tuple[str, ...], folder: Path) -> str:
    """Return what is wrong; empty if nothing is."""
    jobs = []
    for source in [*(KERNELS / name for name in names), *sorted(EMULATOR.glob("*.cpp"))]:
        target = folder / (source.name + ".o")
        command = [compiler, *FLAGS, "-DHARS_ON_HOST", f"-I{EMULATOR}", "-x", "c++", "-c", source, "-o", target]
        jobs.append((target, subprocess.Popen(command, stderr=subprocess.PIPE, text=True)))
    errors = [job.communicate()[1] for _, job in jobs]
    failed = "\n".join(text for text, (_, job) in zip(errors, jobs, strict=True) if job.returncode)
    if failed:
        return failed
    command = [compiler, "-shared", "-o", folder / "making.so", *(target for target, _ in jobs)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True).stderr


def built_once(compiler: str, names: tuple[str, ...], folder: Path) -> Path:
    """Return the library, built by whichever worker of pytest-xdist comes first."""
    library, report = folder / "hars_on_host.so", folder / "failed.txt"
    try:
        folder.mkdir()
    except FileExistsError:
        until = time.monotonic() + WAIT_SECONDS
        while not library.exists() and not report.exists() and time.monotonic() < until:
            time.sleep(0.2)
    else:
        failed = compile_library(compiler, names, folder)
        if failed:
            report.write_text(failed)
        else:
            (folder / "making.so").rename(library)
    assert library.exists(), report.read_text() if report.exists() else "another worker did not finish"
    return library


@pytest.fixture(scope="session")
def build_on_host(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return what makes a library of .cu files, by name."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def build(*names: str) -> ctypes.CDLL:
        folder = shared / "-".join(["cuda_on_host", *(name.removesuffix(".cu") for name in sorted(names))])
        library = ctypes.CDLL(str(built_once(compiler, names, folder)))
        library.host_last_error.restype = ctypes.c_char_p
        for scratch in ("hars_cuda_softmax_topk_scratch_by", "hars_cuda_sample_scratch"):
            if hasattr(library, scratch):
                getattr(library, scratch).restype = ctypes.c_int64
        return library

    return build
