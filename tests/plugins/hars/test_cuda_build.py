"""Compiling and caching the CUDA kernels with a stand-in for nvcc, and what is told where they cannot run."""

import ctypes
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from graphwright.errors import MissingDependencyError
from graphwright.plugins.hars import cuda, cuda_build, cuda_library

HEADER = (cuda_build.SOURCES / "hars_cuda.h").read_text(encoding="utf-8")

# A stand-in for nvcc: notes each call, writes its arguments to the output, fails where a source says so.
FAKE = """#!/bin/sh
echo "$@" >> "{calls}"
if [ "$1" = --version ]; then echo "Cuda compilation tools, release 13.0, V{version}"; exit 0; fi
out=; for each; do [ "$last" = -o ] && out="$each"; last="$each"; done
for each; do
  case "$each" in *.cu) if grep -q BROKEN "$each"; then echo "$each(1): error: BROKEN" >&2; exit 2; fi;; esac
done
sleep {seconds}
echo "$@" > "$out"
"""


class FakeCompiler:
    """nvcc as a shell script, with sources of its own and an empty cache."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls_file = folder, folder / "calls"
        self.sources = folder / "sources"
        self.sources.mkdir()
        (self.sources / "a.cu").write_text("one")
        (self.sources / "b.cu").write_text("two")
        (self.sources / "c.cuh").write_text("three")
        (self.sources / "tensorrt_plugin.cu").write_text("BROKEN")

    def install(self, version: str = "13.0.1", seconds: float = 0) -> None:
        path = self.folder / "nvcc"
        path.write_text(FAKE.format(calls=self.calls_file, version=version, seconds=seconds))
        path.chmod(0o755)
        cuda_build._version.cache_clear()

    def compilations(self) -> int:
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        return sum("--version" not in line for line in lines)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCompiler]:
    compiler = FakeCompiler(tmp_path)
    compiler.install()
    monkeypatch.setattr(cuda_build, "SOURCES", compiler.sources)
    monkeypatch.setattr(cuda_build, "nvcc", lambda: str(tmp_path / "nvcc"))
    monkeypatch.setattr(cuda_build, "cache_folder", lambda: tmp_path / "cache")
    yield compiler
    cuda_build._version.cache_clear()


def test_the_library_is_compiled_once(fake: FakeCompiler) -> None:
    path = cuda_build.library([90, 80, 90])
    assert fake.compilations() == 3  # two objects and the library
    linked = path.read_text()
    assert "arch=compute_80,code=sm_80 -gencode=arch=compute_90,code=sm_90 --shared" in linked
    assert "a.o" in linked and "b.o" in linked and "tensorrt" not in linked
    assert cuda_build.library([80, 90]) == path
    assert fake.compilations() == 3
    assert [each.name for each in path.parent.iterdir()] == [cuda_build.LIBRARY]  # nothing is left beside it


@pytest.mark.parametrize("change", ["source", "header", "new header", "compiler", "architecture"])
def test_whatever_changes_makes_another_library(fake: FakeCompiler, change: str) -> None:
    path = cuda_build.library([90])
    architectures = [90]
    if change == "source":
        (fake.sources / "a.cu").write_text("One")
    elif change == "header":
        (fake.sources / "c.cuh").write_text("Three")
    elif change == "new header":
        (fake.sources / "d.h").write_text("")
    elif change == "compiler":
        fake.install(version="13.1.0")
    else:
        architectures = [80]
    other = cuda_build.library(architectures)
    assert other != path
    assert path.exists() and other.exists()


def test_without_a_compiler_what_was_compiled_serves(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cuda_build.library([90])
    monkeypatch.setattr(cuda_build, "nvcc", lambda: None)
    assert cuda_build.is_made([90]) and cuda_build.library([90]) == path
    (fake.sources / "a.cu").write_text("other")
    assert not cuda_build.is_made([90])
    with pytest.raises(MissingDependencyError, match="no nvcc"):
        cuda_build.library([90])


def test_an_error_of_the_compiler_is_told_and_leaves_nothing(fake: FakeCompiler) -> None:
    (fake.sources / "b.cu").write_text("BROKEN")
    with pytest.raises(MissingDependencyError, match=r"nvcc fails: .*b.cu\(1\): error: BROKEN"):
        cuda_build.library([90])
    assert not cuda_build.is_made([90])
    assert not list((fake.folder / "cache").rglob("*.so"))


def test_a_cache_that_cannot_be_written_is_told(fake: FakeCompiler) -> None:
    (fake.folder / "cache").write_text("a file")
    with pytest.raises(MissingDependencyError, match="XDG_CACHE_HOME"):
        cuda_build.library([90])


def test_two_that_compile_at_once_both_get_a_whole_library(fake: FakeCompiler) -> None:
    fake.install(seconds=0.3)
    paths: list[Path] = []
    workers = [threading.Thread(target=lambda: paths.append(cuda_build.library([90]))) for _ in range(2)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert fake.compilations() == 6  # both did
    assert paths[0] == paths[1]
    assert [each.name for each in paths[0].parent.iterdir()] == [cuda_build.LIBRARY]


def test_ptx_is_cached_by_source_flags_and_architecture(fake: FakeCompiler) -> None:
    first = cuda_build.ptx("a.cu", 80)
    assert "--ptx -arch=compute_80" in first
    assert cuda_build.ptx("a.cu", 80) == first and fake.compilations() == 1
    for other in (cuda_build.ptx("a.cu", 90), cuda_build.ptx("b.cu", 80), cuda_build.ptx("a.cu", 80, ["-DX=1"])):
        assert other != first
    assert "-DX=1" in cuda_build.ptx("a.cu", 80, ["-DX=1"])
    assert fake.compilations() == 4


def test_the_cache_lies_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with_platformdirs = cuda_build.cache_folder()
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert cuda_build.cache_folder() == tmp_path / "graphwright"
    if sys.platform == "linux":
        assert with_platformdirs == tmp_path / "graphwright"


@pytest.fixture
def untried() -> Iterator[None]:
    """Forget how the first call of this process went."""
    cuda_library._tried.cache_clear()
    yield
    cuda_library._tried.cache_clear()


def test_why_not_tells_a_missing_driver(monkeypatch: pytest.MonkeyPatch, untried: None) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: no such file")

    cuda_build.capabilities.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert "no CUDA driver (libcuda.so.1: no such file)" in cuda.why_not()
    assert not cuda.available()
    with pytest.raises(MissingDependencyError, match="needed an NVIDIA GPU"):
        cuda_library.loaded()
    assert "no CUDA driver" in cuda.why_not()


@pytest.mark.parametrize(("status", "count"), [(100, 0), (0, 0)])
def test_why_not_tells_a_missing_device(
    status: int, count: int, monkeypatch: pytest.MonkeyPatch, untried: None
) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return status

        def cuDeviceGetCount(self, found: Any) -> int:
            found._obj.value = count
            return 0

    cuda_build.capabilities.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert f"no CUDA device (driver: {status})" in cuda.why_not()


def test_capabilities_are_those_of_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def cuInit(self, flags: int) -> int:
            return 0

        def cuDeviceGetCount(self, found: Any) -> int:
            found._obj.value = 2
            return 0

        def cuDeviceGet(self, found: Any, number: int) -> int:
            found._obj.value = number
            return 0

        def cuDeviceGetAttribute(self, found: Any, attribute: int, device: Any) -> int:
            found._obj.value = {75: 9 + device.value, 76: 0}[attribute]
            return 0

    cuda_build.capabilities.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert cuda_build.capabilities() == (90, 100)
    cuda_build.capabilities.cache_clear()


def test_why_not_compiles_nothing_and_then_tells_how_it_went(
    fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, untried: None
) -> None:
    monkeypatch.setattr(cuda_build, "capabilities", lambda: (90,))
    (fake.sources / "b.cu").write_text("BROKEN")
    assert cuda.why_not() == "" and fake.compilations() == 0
    for _ in range(2):
        with pytest.raises(MissingDependencyError, match="BROKEN"):
            cuda_library.loaded()
    assert fake.compilations() <= 2  # the second call did not try again
    assert "BROKEN" in cuda.why_not()
    cuda_library._tried.cache_clear()
    monkeypatch.setattr(cuda_build, "nvcc", lambda: None)
    assert "no nvcc" in cuda.why_not()


def test_a_file_that_is_no_library_is_told(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch, untried: None) -> None:
    monkeypatch.setattr(cuda_build, "capabilities", lambda: (90,))
    with pytest.raises(MissingDependencyError, match="needed a library that loads"):
        cuda_library.loaded()


STRUCTURES = {
    "hars_cuda_softmax_topk_request": cuda_library.SoftmaxTopkRequest,
    "hars_cuda_router_topk_request": cuda_library.RouterTopkRequest,
    "hars_cuda_beam_merge_request": cuda_library.BeamMergeRequest,
    "hars_cuda_sample_request": cuda_library.SampleRequest,
}


def test_the_structures_lie_in_memory_as_the_header_says(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    lines, right = [], []
    for name, structure in STRUCTURES.items():
        declared = re.search(rf"struct {name} {{(.*?)\n}};", HEADER, re.DOTALL)
        assert declared is not None
        names = re.findall(r"(\w+)\s*(?=[;,])", re.sub(r"//.*", "", declared[1]))
        assert names == [field for field, *_ in structure._fields_]
        for field in names:
            lines.append(
                f'printf("%zu %zu\\n", offsetof(struct {name}, {field}), sizeof(((struct {name} *)0)->{field}));'
            )
            right.append(f"{getattr(structure, field).offset} {getattr(structure, field).size}")
        lines.append(f'printf("%zu\\n", sizeof(struct {name}));')
        right.append(str(ctypes.sizeof(structure)))
    source = tmp_path / "layout.c"
    text = '#include <stddef.h>\n#include <stdio.h>\n#include "hars_cuda.h"\nint main(void) {\n'
    source.write_text(text + "\n".join(lines) + "\nreturn 0;\n}\n")
    program = tmp_path / "layout"
    subprocess.run([compiler, "-I", str(cuda_build.SOURCES), "-o", str(program), str(source)], check=True)
    assert subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines() == right


def test_the_version_of_the_interface_is_the_headers() -> None:
    found = re.search(r"#define HARS_CUDA_ABI_VERSION (\d+)", HEADER)
    assert found is not None and int(found[1]) == cuda_library.ABI_VERSION
