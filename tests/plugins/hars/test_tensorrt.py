"""The quick TensorRT plugins: what they tell TensorRT, their PTX, and their kernels run in the emulator."""

import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from graphwright.errors import BuildError, MissingDependencyError
from graphwright.plugins.hars import cuda_build, cuda_nvrtc, reference
from graphwright.plugins.hars import tensorrt as quick
from graphwright.plugins.hars.tensorrt_nodes import VARIANTS, Variant

HERE = Path(__file__).parent
RANDOM = np.random.default_rng(7)
SOFTMAX = {"k": 3, "axis": -1, "mode": "prob", "temperature": 1.0}
ROUTER = {
    "k": 3,
    "scoring": "sigmoid",
    "renormalize": 1,
    "scale": 2.5,
    "zero_experts": 4,
    "scale_zero_experts": 0,
    "groups": 4,
    "top_groups": 2,
}
FORMATS = {"FP32": np.float32, "FP16": np.float16, "BF16": ml_dtypes.bfloat16, "INT32": np.int32}
TYPES = {"FP32": "Float32", "FP16": "Float16", "BF16": "Bfloat16"}


def load_fake() -> ModuleType:
    fake = ModuleType("fake_tensorrt")
    exec(compile((HERE / "fake_tensorrt.py").read_text(), "fake_tensorrt.py", "exec"), vars(fake))
    return fake


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    tensorrt, plugin, registered = load_fake().make()
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", plugin)
    monkeypatch.setattr(quick, "_registered", set())
    quick.register()
    found: dict[str, Any] = registered
    return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The compiler's cache, so that what a test sees was compiled now."""
    if cuda_build.nvcc() is None:
        pytest.skip("needs nvcc")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def attributes_of(variant: Variant) -> dict[str, Any]:
    if variant.operator == "softmax_topk":
        return dict(SOFTMAX)
    return dict(ROUTER) if variant.has_more else {**ROUTER, "zero_experts": 0}


def shapes_of(variant: Variant, width: int = 16) -> list[tuple[int, ...]]:
    bias = (5, width) if variant.operator == "softmax_topk" else (width,)
    return [(4, 5, width), bias][: 1 + variant.has_bias]


def tensors_of(plugin: Any, variant: Variant, dtype: str, width: int = 16) -> list[Any]:
    desc = next(iter(__import__("inspect").signature(plugin.describe).parameters.values())).annotation
    return [desc(dtype if i == 0 else "FP32", shape) for i, shape in enumerate(shapes_of(variant, width))]


def test_all_plugins_are_registered_once(plugins: dict[str, Any]) -> None:
    quick.register()
    assert list(plugins) == [f"hars::{variant.name}" for variant in VARIANTS]
    for variant in VARIANTS:
        plugin = plugins[f"hars::{variant.name}"]
        assert tuple(plugin.tensors) == variant.inputs and plugin.outputs == len(variant.outputs)
        assert list(plugin.attributes.items()) == list(variant.attributes.items())
        assert plugin.tune is not None and plugin.compile is not None


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)
def test_types_and_shapes_of_the_outputs(plugins: dict[str, Any], variant: Variant) -> None:
    plugin = plugins[f"hars::{variant.name}"]
    given = dict(zip(plugin.tensors, tensors_of(plugin, variant, "FP16"), strict=True))
    outputs = plugin.describe(**given, **attributes_of(variant))
    found = [(each.dtype, [size.value for size in each.shape_expr]) for each in outputs]
    expected = [("FP32", [4, 5, 3]), ("INT32", [4, 5, 3]), ("FP32", [4, 5]), ("FP32", [4, 5])]
    assert found == expected[: len(variant.outputs)]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)
def test_formats_name_every_tensor(plugins: dict[str, Any], variant: Variant) -> None:
    (combination,) = plugins[f"hars::{variant.name}"].tune(*[None] * (len(variant.inputs) + 9))
    types = combination.types.split(", ")
    assert types[0] == "FP32|FP16|BF16"
    assert types[len(variant.inputs) :] == ["FP32", "INT32", "FP32", "FP32"][: len(variant.outputs)]
    assert len(types) == len(variant.inputs) + len(variant.outputs)
    assert (combination.layouts, combination.tactics) == ("LINEAR", [quick.TACTIC])


def compiled(plugins: dict[str, Any], variant: Variant, dtype: str, width: int = 16, **attributes: Any) -> Any:
    """As TensorRT calls it: everything by position."""
    plugin = plugins[f"hars::{variant.name}"]
    tensors = tensors_of(plugin, variant, dtype, width)
    given = {**attributes_of(variant), **attributes}
    return plugin.compile(*tensors, *given.values(), plugin.describe(*tensors, **given), quick.TACTIC)


# Every plugin, and every type.
COMPILED = [(variant, "FP32") for variant in VARIANTS]
COMPILED += [(VARIANTS[0], "FP16"), (VARIANTS[0], "BF16"), (VARIANTS[-1], "FP16"), (VARIANTS[-1], "BF16")]


@pytest.mark.parametrize(("variant", "dtype"), COMPILED, ids=lambda each: getattr(each, "name", each))
def test_ptx_takes_what_tensorrt_gives(
    plugins: dict[str, Any], variant: Variant, dtype: str, cache: Path, tmp_path: Path
) -> None:
    answer = compiled(plugins, variant, dtype)
    check_ptx(variant, answer)
    file = tmp_path / "kernel.ptx"
    file.write_text(answer[1])
    assembler = Path(cuda_build.nvcc() or "").with_name("ptxas")
    for architecture in (80, 90, 100) if variant.has_bias and variant.has_more else (90,):
        command = [assembler, f"-arch=sm_{architecture}", "-v", file, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        assert "0 bytes spill stores, 0 bytes spill loads" in said and "warning" not in said
        assert int(re.findall(r"Used (\d+) registers", said)[0]) <= 96


@pytest.mark.parametrize("variant", [VARIANTS[0], VARIANTS[-1]], ids=lambda each: each.name)
def test_without_nvcc_nvrtc_compiles_the_same(
    plugins: dict[str, Any], variant: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cuda_nvrtc.is_there():
        pytest.skip("needs NVRTC")
    monkeypatch.setattr(cuda_build, "nvcc", lambda: None)
    check_ptx(variant, compiled(plugins, variant, "BF16"))


def check_ptx(variant: Variant, answer: Any) -> None:
    """The kernel has the parameters, the block size and the shared memory that TensorRT is told of."""
    name, ptx, launch, extras = answer
    entries = re.findall(r"\.visible \.entry (\w+)\((.*?)\)", ptx, re.DOTALL)
    assert [entry for entry, _ in entries] == [name]
    parameters = re.findall(r"\.param \.(\w+)", entries[0][1])
    assert parameters == ["u64"] * len(variant.inputs) + ["u32"] * len(extras) + ["u64"] * len(variant.outputs)
    threads = int(re.findall(r"\.maxntid (\d+)", ptx)[0])
    assert (launch.grid_x.value, launch.block_x.value) == (20, threads)
    assert launch.shared_mem.value <= 48 * 1024
    assert ".target sm_80" in ptx and not re.search(r"^\s*\.shared", ptx, re.MULTILINE)


def test_a_temperature_is_passed_by_its_bits_and_asks_for_the_edited_kernel(
    plugins: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(cuda_build, "ptx", lambda source, flags: asked.append(flags) or "")
    plain, warm = (compiled(plugins, VARIANTS[0], "FP16", temperature=each) for each in (1.0, 4.0))
    assert [each.value for each in plain[3]] == [16, 3, 2, 0x3F800000]
    assert [each.value for each in warm[3]] == [16, 3, 2, 0x3E800000]
    assert ["-DHARS_EDITED=0" in flags for flags in asked] == [True, False]
    assert all("-DHARS_TYPE=Float16" in flags for flags in asked)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("softmax_topk", {"k": 0}),
        ("softmax_topk", {"axis": 0}),
        ("softmax_topk", {"mode": "max"}),
        ("router_topk", {"scoring": "max"}),
        ("router_topk", {"top_groups": 5}),
    ],
)
def test_a_bad_attribute_ends_the_build(plugins: dict[str, Any], operator: str, attributes: dict[str, Any]) -> None:
    with pytest.raises(BuildError):
        compiled(plugins, Variant(operator), "FP32", **attributes)


def test_without_tensorrt_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"graphwright\[tensorrt\]"):
        quick.register()


Launch = Callable[[Variant, str, bool], ctypes.CDLL]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp("entries")
    flags = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-DHARS_ON_HOST"]
    common = [compiler, *flags, f"-I{HERE / 'cuda_on_host'}", f"-I{cuda_build.SOURCES}"]
    emulator = folder / "emulator.o"
    subprocess.run([*common, "-c", HERE / "cuda_on_host/emulator.cpp", "-o", emulator], check=True)

    def load(variant: Variant, dtype: str, is_edited: bool) -> ctypes.CDLL:
        options = {
            "ROUTER": int(variant.operator == "router_topk"),
            "TYPE": TYPES[dtype],
            "BIAS": int(variant.has_bias),
            "MORE": int(variant.has_more),
            "EDITED": int(is_edited),
        }
        library = folder / ("_".join(map(str, options.values())) + ".so")
        if not library.exists():
            defined = [f"-DHARS_{name}={value}" for name, value in options.items()]
            source = HERE / "tensorrt_entry.cpp"
            subprocess.run([*common, *defined, "-shared", source, emulator, "-o", library], check=True)
        loaded = ctypes.CDLL(str(library))
        loaded.last_error.restype = ctypes.c_char_p
        return loaded

    return load


def launch(library: ctypes.CDLL, answer: Any, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> None:
    """Run a kernel with the numbers that TensorRT was given."""
    _, _, params, extras = answer
    grid, block, shared = (each.value for each in (params.grid_x, params.block_x, params.shared_mem))
    addresses = [(ctypes.c_void_p * len(each))(*(array.ctypes.data for array in each)) for each in (inputs, outputs)]
    numbers = (ctypes.c_int32 * len(extras))(*(extra.value for extra in extras))
    status = library.launch(ctypes.c_int64(grid), block, ctypes.c_int64(shared), addresses[0], numbers, addresses[1])
    assert status == 0, library.last_error()


CASES = [
    (Variant("softmax_topk"), "FP32", 16, {"mode": "logprob"}),
    (Variant("softmax_topk"), "BF16", 3001, {"mode": "prob_renorm", "k": 40}),
    (Variant("softmax_topk"), "BF16", 3001, {"mode": "logit", "k": 2999}),
    (Variant("softmax_topk", has_bias=True, has_more=True), "FP16", 2050, {"temperature": 0.7, "k": 9}),
    (Variant("router_topk"), "FP32", 16, {"zero_experts": 0}),
    (Variant("router_topk", has_bias=True, has_more=True), "BF16", 64, {"zero_experts": 40}),
]


@pytest.mark.parametrize(("variant", "dtype", "width", "attributes"), CASES)
def test_the_kernel_gives_the_reference(
    plugins: dict[str, Any],
    emulated: Launch,
    monkeypatch: pytest.MonkeyPatch,
    variant: Variant,
    dtype: str,
    width: int,
    attributes: dict[str, Any],
) -> None:
    monkeypatch.setattr(cuda_build, "ptx", lambda source, flags: "")
    given = {**attributes_of(variant), **attributes}
    shapes = shapes_of(variant, width)
    inputs = [(RANDOM.normal(size=shape) * 3).astype(np.float32) for shape in shapes]
    inputs[0] = inputs[0].astype(FORMATS[dtype])
    plugin = plugins[f"hars::{variant.name}"]
    described = plugin.describe(*tensors_of(plugin, variant, dtype, width), **given)
    outputs = [np.full([size.value for size in each.shape_expr], 7, FORMATS[each.dtype]) for each in described]
    is_edited = variant.operator == "softmax_topk" and (variant.has_bias or given["temperature"] != 1)
    launch(emulated(variant, dtype, is_edited), compiled(plugins, variant, dtype, width, **attributes), inputs, outputs)
    options = {**given, "bias": inputs[1] if variant.has_bias else None}
    k = options.pop("k")
    if variant.operator == "softmax_topk":
        expected = reference.softmax_topk(inputs[0], k, stats=variant.has_more, **options)
    else:
        expected = reference.router_topk(inputs[0], k, **options)
        assert expected[2].any() == variant.has_more
    np.testing.assert_array_equal(outputs[1], expected[1])
    for found, other in zip(outputs, expected, strict=False):
        np.testing.assert_allclose(found, other, rtol=4e-6, atol=3e-6)


def test_a_row_needs_no_more_shared_memory_than_it_gets(emulated: Launch) -> None:
    library = emulated(Variant("softmax_topk", has_bias=True, has_more=True), "FP16", True)
    widths = [1, 1024, 1025, 4099, 32003, 65536, 131072, 262144, 1 << 24]
    needed = [
        library.shared_bytes(width, k) for width in widths for k in {1, 256, 257, 1024, 1025, width} if k <= width
    ]
    assert max(needed) <= quick.ROW_SHARED_BYTES < 48 * 1024
    assert max(needed) > quick.ROW_SHARED_BYTES - 2048
