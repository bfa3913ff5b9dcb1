"""The plugin library for TensorRT, driven as TensorRT does, without TensorRT and without a GPU.

The headers are declarations of our own (tensorrt_headers), the kernels a stand-in that prints what it is asked for.
"""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from graphwright.errors import BuildError, MissingDependencyError
from graphwright.plugins.hars import cuda_build
from graphwright.plugins.hars.tensorrt_build import build_plugin
from graphwright.plugins.hars.tensorrt_nodes import VARIANTS

HERE = Path(__file__).parent
KERNELS = Path(cuda_build.SOURCES)
FLAGS = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden")
Run = Callable[..., tuple[int, list[str]]]

FLOAT, HALF, BF16 = 0, 1, 7


def driver_of(folder: Path) -> Path:
    made = folder / "driver"
    source = str(HERE / "tensorrt_driver.cpp")
    headers = f"-I{HERE / 'tensorrt_headers'}"
    subprocess.run(
        ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", headers, source, "-o", made, "-ldl"], check=True
    )
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("plugin")
    library = folder / "libplugin.so"
    common = [compiler, *FLAGS, f"-I{HERE / 'tensorrt_headers'}", f"-I{KERNELS}", "-x", "c++"]
    plugin = str(KERNELS / "tensorrt_plugin.cu")
    subprocess.run([*common, "-shared", plugin, str(HERE / "tensorrt_kernels.cpp"), "-o", library], check=True)
    driver = driver_of(folder)

    def call(*arguments: str) -> tuple[int, list[str]]:
        answer = subprocess.run([driver, library, *arguments], capture_output=True, text=True, check=False)
        return answer.returncode, answer.stdout.splitlines()

    return call


def test_there_is_a_creator_for_every_plugin_with_its_fields_in_order(run: Run) -> None:
    types = {int: 5, float: 1, str: 6}
    expected = [
        f"hars::{each.name} 1 fields " + " ".join(f"{name}:{types[of]}" for name, of in each.attributes.items())
        for each in VARIANTS
    ]
    status, lines = run()
    assert status == 0 and sorted(lines) == sorted(expected)


def test_softmax_topk_alone(run: Run) -> None:
    status, lines = run("softmax_topk", str(FLOAT), "4x5x9", "k=i:3")
    assert status == 0
    assert lines == [
        "output [4,5,3]",
        "output [4,5,3]",
        f"types 0: {FLOAT} {HALF} {BF16}",
        "types 1: 0",
        "types 2: 3",
        "scratch 4999",
        "timing k=3;axis=-1;mode=logprob;temperature=1065353216;",
        "serialised k:3 axis:-1 mode:logprob temperature:1",
        "core hars::softmax_topk 1",
        "shapes 0",
        "softmax_topk logits=0x100 dtype=0 mode=1 rows=20 width=9 stride=9 k=3 bias=(nil) bias_rows=1 temperature=1 "
        "values=0x200 indices=0x201 int32=1 maximum=(nil) log_sum=(nil) scratch=0x300,120",
        "enqueue 0",
    ]


def test_softmax_topk_with_everything(run: Run) -> None:
    fields = ("k=i:2", "axis=i:-1", "mode=s:prob_renorm", "temperature=f:0.5", "plugin_version=s:1", "aot=i:1")
    status, lines = run("softmax_topk_bias_stats", str(BF16), "4x5x9,5x9", *fields)
    assert status == 0
    assert lines[:4] == ["output [4,5,2]"] * 2 + ["output [4,5]"] * 2
    assert lines[4:10] == [
        f"types 0: {FLOAT} {HALF} {BF16}",
        *(f"types {i}: {0 if i != 3 else 3}" for i in range(1, 6)),
    ]
    assert "serialised k:2 axis:-1 mode:prob_renorm temperature:0.5" in lines
    # The most that any number of rows up to 20 needs: 1 row, with a bias and statistics.
    assert f"scratch {10000 + 20000 + 4999}" in lines
    assert (
        "softmax_topk logits=0x100 dtype=2 mode=3 rows=20 width=9 stride=9 k=2 bias=0x101 bias_rows=5 temperature=0.5 "
        "values=0x200 indices=0x201 int32=1 maximum=0x202 log_sum=0x203 scratch=0x300,30120"
    ) in lines


def test_router_topk_alone(run: Run) -> None:
    status, lines = run("router_topk", str(HALF), "7x12", "k=i:3", "renormalize=i:1")
    assert status == 0
    assert lines[:2] == ["output [7,3]"] * 2 and "scratch 0" in lines
    assert (
        "router_topk scores=0x100 dtype=1 scoring=0 rows=7 experts=12 k=3 bias=(nil) groups=1 top_groups=1 "
        "renormalize=1 scale=1 scale_zero_experts=1 zero_experts=0 weights=0x200 chosen=0x201 int32=1 identity=(nil)"
    ) in lines


def test_router_topk_with_everything(run: Run) -> None:
    fields = ("k=i:3", "scoring=s:sigmoid", "scale=f:2.5", "zero_experts=i:4", "groups=i:4", "top_groups=i:2")
    status, lines = run("router_topk_bias_zero_experts", str(FLOAT), "7x16,16", *fields, "scale_zero_experts=i:0")
    assert status == 0
    assert lines[:3] == ["output [7,3]", "output [7,3]", "output [7]"]
    assert (
        "router_topk scores=0x100 dtype=0 scoring=1 rows=7 experts=16 k=3 bias=0x101 groups=4 top_groups=2 "
        "renormalize=0 scale=2.5 scale_zero_experts=0 zero_experts=4 weights=0x200 chosen=0x201 int32=1 identity=0x202"
    ) in lines


@pytest.mark.parametrize(("bias", "rows"), [("9", 1), ("1x1x9", 1), ("5x9", 5), ("1x5x9", 5), ("4x5x9", 20)])
def test_a_bias_of_whole_rows_is_taken(run: Run, bias: str, rows: int) -> None:
    status, lines = run("softmax_topk_bias", str(FLOAT), f"4x5x9,{bias}", "k=i:3")
    assert status == 0 and "shapes 0" in lines
    assert any(f"bias_rows={rows} " in line for line in lines)


@pytest.mark.parametrize("bias", ["4x1x9", "5x1", "1", "4x9"])
def test_another_bias_is_refused_when_the_shapes_are_known(run: Run, bias: str) -> None:
    _, lines = run("softmax_topk_bias", str(FLOAT), f"4x5x9,{bias}", "k=i:3")
    assert "shapes 1" in lines
    assert "error hars: softmax_topk_bias: the bias is no whole rows of the logits" in lines


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((), "k is 0; needed a number from 1"),
        (("k=i:0",), "k is 0; needed a number from 1"),
        (("k=f:3",), "field k has another type or length"),
        (("k=i:3", "mode=s:max"), "no mode or scoring 'max'"),
        (("k=i:3", "mode=i:1"), "field mode has another type or length"),
        (("k=i:3", "temperature=f:0"), "temperature is not above 0 and finite"),
        (("k=i:3", "temperature=f:inf"), "temperature is not above 0 and finite"),
    ],
)
def test_bad_fields_make_no_plugin(run: Run, fields: tuple[str, ...], message: str) -> None:
    assert run("softmax_topk", str(FLOAT), "4x9", *fields) == (2, [f"error hars: softmax_topk: {message}"])


@pytest.mark.parametrize("field", ["zero_experts=i:-1", "groups=i:0", "top_groups=i:2", "top_groups=i:0"])
def test_bad_fields_make_no_router(run: Run, field: str) -> None:
    status, lines = run("router_topk", str(FLOAT), "4x9", "k=i:1", field)
    assert status == 2 and "out of range" in lines[0]


@pytest.mark.parametrize(("shape", "fields"), [("4x9", ("k=i:10",)), ("4x9", ("k=i:3", "axis=i:0"))])
def test_shapes_that_do_not_fit_end_the_build(run: Run, shape: str, fields: tuple[str, ...]) -> None:
    assert run("softmax_topk", str(FLOAT), shape, *fields)[0] == 3


@pytest.mark.slow
def test_the_library_builds_and_holds_its_kernels(tmp_path: Path) -> None:
    if cuda_build.nvcc() is None:
        pytest.skip("needs nvcc")
    library = build_plugin(HERE / "tensorrt_headers", tmp_path / "libhars.so", [90])
    symbols = subprocess.run(["nm", "-DC", library], capture_output=True, text=True, check=True).stdout
    assert "nvinfer1" not in symbols
    exported = {line.split()[-1] for line in symbols.splitlines() if " T " in line}
    assert {"getCreators", "setLoggerFinder"} <= exported
    assert not [line for line in symbols.splitlines() if " U " in line and "hars" in line]
    assert len(subprocess.run([driver_of(tmp_path), library], capture_output=True, check=True).stdout.splitlines()) == 8


def test_a_build_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependencyError, match=r"NvInferRuntime\.h"):
        build_plugin(tmp_path, tmp_path / "libhars.so")
    monkeypatch.setattr(cuda_build, "nvcc", lambda: None)
    with pytest.raises(MissingDependencyError, match="no nvcc"):
        build_plugin(HERE / "tensorrt_headers", tmp_path / "libhars.so")
    compiler = tmp_path / "nvcc"
    compiler.write_text("#!/bin/sh\necho 'no such GPU' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(cuda_build, "nvcc", lambda: str(compiler))
    with pytest.raises(BuildError, match="no such GPU"):
        build_plugin(HERE / "tensorrt_headers", tmp_path / "libhars.so")
