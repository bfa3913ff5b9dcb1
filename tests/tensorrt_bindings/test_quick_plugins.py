"""What TensorRT is told of HARS's quick plugins, by the Python of the real ``tensorrt.plugin``."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from graphwright.plugins.hars import cuda_build
from graphwright.plugins.hars.tensorrt import ROW_SHARED_BYTES, ROW_THREADS, TACTIC, TOKEN_THREADS
from graphwright.plugins.hars.tensorrt_nodes import VARIANTS, Variant, for_tensorrt
from tests.tensorrt_bindings.prepare import FOLDER, ROOT

pytestmark = pytest.mark.usefixtures("bindings")
TYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
# By name: attributes of the ONNX node.
SOFTMAX: dict[str, Any] = {"k": 3, "mode": "prob", "temperature": 2.0}
ROUTER: dict[str, Any] = {"k": 3, "scoring": "sigmoid", "renormalize": 1, "scale": 2.5, "groups": 4, "top_groups": 2}
WIDTH, ROWS = 1000, 2 * 16
SHARED_LIMIT = 48 * 1024


def node_of(variant: Variant) -> ir.Node:
    """The node that the pass for TensorRT makes of one of ours."""
    is_softmax = variant.operator == "softmax_topk"
    given = SOFTMAX if is_softmax else ROUTER | ({"zero_experts": 4} if variant.has_more else {})
    attributes = ", ".join(f"{name} = {json.dumps(value)}" for name, value in given.items())
    outputs = ["float[2, 16, 3] a", "int64[2, 16, 3] b", "float[2, 16] c", "float[2, 16] d"][: len(variant.outputs)]
    inputs = [f"float[2, 16, {WIDTH}] x", f"float[{WIDTH}] bias"][: 1 + variant.has_bias]
    given_to = "x, bias" if variant.has_bias else "x"
    call = f"{', '.join('abcd'[: len(outputs)])} = hars.{variant.operator} <{attributes}> ({given_to})"
    head = f'<ir_version: 10, opset_import: ["" : 20, "hars" : 1]> g ({", ".join(inputs)}) => ({", ".join(outputs)})'
    model = ir.from_onnx_text(f"{head} {{ {call} }}")
    for_tensorrt(model)
    return next(node for node in model.graph if node.domain == "hars")


def asked(variant: Variant, dtype: str) -> dict[str, Any]:
    node = node_of(variant)
    return {
        "op_type": node.op_type,
        "attributes": {name: attribute.value for name, attribute in node.attributes.items()},
        "types": [dtype, "float32"][: 1 + variant.has_bias],
        "shapes": [[2, 16, WIDTH], [WIDTH]][: 1 + variant.has_bias],
    }


def drive(nodes: list[dict[str, Any]], compiles: bool) -> dict[str, Any]:
    path = os.pathsep.join([str(ROOT), str(FOLDER / "site")])
    # What was compiled stays for the next run: the compiler's cache knows when it is not the same any more.
    environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(FOLDER / "cache")}
    command = [sys.executable, str(Path(__file__).with_name("quick_plugin_driver.py"))]
    request = json.dumps({"nodes": nodes, "compiles": compiles})
    answer = subprocess.run(command, input=request, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr[-3000:]
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


EVERY = [(variant, dtype) for variant in VARIANTS for dtype in TYPES]


@pytest.fixture(scope="module")
def told() -> dict[str, Any]:
    """Everything but the PTX, in one process: a plugin can be registered once."""
    return drive([asked(variant, dtype) for variant, dtype in EVERY], compiles=False)


@pytest.fixture(params=range(len(EVERY)), ids=[f"{variant.name}-{dtype}" for variant, dtype in EVERY])
def plugin(request: pytest.FixtureRequest, told: dict[str, Any]) -> tuple[Variant, str, dict[str, Any]]:
    variant, dtype = EVERY[request.param]
    return variant, dtype, told["plugins"][request.param]


def test_every_plugin_is_registered(told: dict[str, Any]) -> None:
    assert told["creators"] == [f"hars::{variant.name}" for variant in VARIANTS]


def test_the_decorators_are_the_real_ones(told: dict[str, Any]) -> None:
    expected = {
        "a default": "ValueError",
        "a dot": "ValueError",
        "no tactic": "ValueError",
        "a second one": "ValueError",
    }
    assert {name: said.split(":")[0] for name, said in told["refusals"].items()} == expected


def test_a_node_becomes_a_plugin_compiled_ahead_of_time(plugin: tuple[Variant, str, dict[str, Any]]) -> None:
    variant, _, said = plugin
    # The parser fills them with what ONNX has, int32 and float32.
    kinds = {int: "INT64", float: "FLOAT64", str: "CHAR"}
    fields = [[name, f"PluginFieldType.{kinds[kind]}"] for name, kind in variant.attributes.items()]
    attributes = {name: node_of(variant).attributes[name].value for name in variant.attributes}
    assert said["class"] == "_TemplateAOTPlugin"
    assert said["fields"] == fields
    assert said["attributes"] == attributes
    assert list(said["attributes"]) == list(variant.attributes), "they are passed on by position"


def test_types_and_shapes(plugin: tuple[Variant, str, dict[str, Any]]) -> None:
    variant, _, said = plugin
    values, rows = [2, 16, 3], [2, 16]
    expected = [["FLOAT", values], ["INT32", values], ["FLOAT", rows], ["FLOAT", rows]]
    assert said["outputs"] == [[f"DataType.{kind}", shape] for kind, shape in expected][: len(variant.outputs)]


def test_formats(plugin: tuple[Variant, str, dict[str, Any]]) -> None:
    variant, _, said = plugin
    others = ["FLOAT"] * variant.has_bias + ["FLOAT", "INT32", "FLOAT", "FLOAT"][: len(variant.outputs)]
    expected = [[kind, *others] for kind in TYPES.values()]
    count = 1 + len(others)
    kinds = [kind.removeprefix("DataType.") for kind, _ in said["formats"]]
    assert [kinds[i : i + count] for i in range(0, len(kinds), count)] == expected
    assert {layout for _, layout in said["formats"]} == {"TensorFormat.LINEAR"}
    assert said["tactic"] == TACTIC


def test_launch(plugin: tuple[Variant, str, dict[str, Any]]) -> None:
    variant, dtype, said = plugin
    is_router = variant.operator == "router_topk"
    shared = 4 * WIDTH + 8 * ROUTER["groups"] if is_router else ROW_SHARED_BYTES
    block = TOKEN_THREADS if is_router else ROW_THREADS
    ones = dict.fromkeys(("grid_y", "grid_z", "block_y", "block_z"), 1)
    assert said["launch"] == {"grid_x": ROWS, "block_x": block, "shared_mem": shared} | ones
    assert said["extras"][:2] == [WIDTH, 3] and all(-(2**31) <= each < 2**31 for each in said["extras"])
    if variant.name.startswith("softmax_topk_bias"):
        assert said["extras"][4:] == [1], "the rows of the bias"
    assert f"-DHARS_TYPE={dict(zip(TYPES, ('Float32', 'Float16', 'Bfloat16'), strict=True))[dtype]}" in said["ptx"]


# A type for each, so that every type is there and the compiler is not asked for everything.
COMPILED = [(variant, list(TYPES)[number % 3]) for number, variant in enumerate(VARIANTS)]


@pytest.fixture(scope="module")
def compiled() -> list[dict[str, Any]]:
    if cuda_build.nvcc() is None:
        pytest.skip("needs nvcc")
    found: list[dict[str, Any]] = drive([asked(*each) for each in COMPILED], compiles=True)["plugins"]
    return found


@pytest.mark.parametrize("number", range(len(COMPILED)), ids=[f"{each.name}-{dtype}" for each, dtype in COMPILED])
def test_the_kernel_takes_what_tensorrt_hands_over(compiled: list[dict[str, Any]], number: int) -> None:
    variant, said = COMPILED[number][0], compiled[number]
    entries = re.findall(r"\.visible \.entry (\w+)\((.*?)\)", said["ptx"], re.DOTALL)
    assert [name for name, _ in entries] == [said["kernel"]]
    # Pointers to the inputs, the further arguments, pointers to the outputs.
    expected = ["u64"] * len(variant.inputs) + ["u32"] * len(said["extras"]) + ["u64"] * len(variant.outputs)
    assert re.findall(r"\.param \.(\w+)", entries[0][1]) == expected
    assert int(re.findall(r"\.maxntid (\d+)", said["ptx"])[0]) == said["launch"]["block_x"]


@pytest.mark.parametrize("number", range(len(COMPILED)), ids=[f"{each.name}-{dtype}" for each, dtype in COMPILED])
def test_the_kernel_stays_within_what_any_device_and_driver_of_this_cuda_gives(
    compiled: list[dict[str, Any]], number: int, tmp_path: Path
) -> None:
    said = compiled[number]
    assert said["launch"]["shared_mem"] <= SHARED_LIMIT and not re.search(r"^\s*\.shared", said["ptx"], re.MULTILINE)
    compiler = cuda_build.nvcc()
    assert compiler is not None
    release = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    major, minor = map(int, re.findall(r"release (\d+)\.(\d+)", release)[0])
    # PTX 9.0 came with CUDA 13.0, PTX 8.0 with 12.0: a driver of the compiler's CUDA reads it.
    assert re.findall(r"^\.version (\d+)\.(\d+)$", said["ptx"], re.MULTILINE) == [(str(major - 4), str(minor))]
    assert re.findall(r"^\.target (\w+)$", said["ptx"], re.MULTILINE) == ["sm_80"]
    (tmp_path / "kernel.ptx").write_text(said["ptx"])
    command = [str(Path(compiler).with_name("ptxas")), "-arch=sm_120", str(tmp_path / "kernel.ptx"), "-o", "/dev/null"]
    subprocess.run(command, check=True)
