"""for_tensorrt: nodes as TensorRT's parser takes them, which still run everywhere with the same numbers."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphwright.errors import LoadError
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.plugins.hars.tensorrt_nodes import VARIANTS, for_tensorrt
from graphwright.runtime.ort import OrtSession

RANDOM = np.random.default_rng(11)


def model_of(inputs: str, outputs: str, call: str) -> ir.Model:
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 24, "hars" : 1]>
        g ({inputs}) => ({outputs}) {{ {call} }}""")


def same_numbers(before: ir.Model, inputs: dict[str, np.ndarray]) -> ir.Model:
    after = before.clone()
    attach_bodies(before)
    for_tensorrt(after)
    onnx.checker.check_model(ir.to_proto(after))
    expected, found = (OrtSession(model, kernels=False)(inputs) for model in (before, after))
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    return after


def types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_the_names_of_the_plugins_are_those_of_the_design() -> None:
    assert {variant.name for variant in VARIANTS} == {
        "softmax_topk",
        "softmax_topk_bias",
        "softmax_topk_stats",
        "softmax_topk_bias_stats",
        "router_topk",
        "router_topk_bias",
        "router_topk_zero_experts",
        "router_topk_bias_zero_experts",
    }


def test_a_node_gets_all_attributes_and_a_cast_of_its_indices() -> None:
    model = model_of("float[B, 9] x", "float[B, 2] v, int64[B, 2] i", "v, i = hars.softmax_topk <k = 2> (x)")
    after = same_numbers(model, {"x": RANDOM.normal(size=(3, 9)).astype(np.float32)})
    node, cast = after.graph
    assert {name: attribute.value for name, attribute in node.attributes.items()} == {
        "k": 2,
        "axis": -1,
        "mode": "logprob",
        "temperature": 1.0,
        "plugin_namespace": "hars",
        "plugin_version": "1",
        "aot": 1,
    }
    assert (cast.op_type, cast.attributes["to"].value, cast.outputs[0].name) == ("Cast", ir.DataType.INT64, "i")
    assert [name for _, name, _ in after.functions] == ["softmax_topk"]


BIASES = [
    ("float[9]", (9,), 0),
    ("float[1, 9]", (1, 9), 0),
    ("float[T, 9]", (5, 9), 0),
    ("float[B, T, 9]", (3, 5, 9), 0),
    ("float[B, 1, 9]", (3, 1, 9), 1),
    ("float[T, 1]", (5, 1), 1),
    ("float[1]", (1,), 1),
    ("float", (), 1),
]


@pytest.mark.parametrize(("declared", "shape", "expansions"), BIASES)
def test_a_bias_that_is_no_whole_rows_is_expanded(declared: str, shape: tuple[int, ...], expansions: int) -> None:
    inputs = f"float[B, T, 9] x, {declared} b"
    call = "v, i, m, s = hars.softmax_topk <k = 2, temperature = 0.5> (x, b)"
    outputs = "float[B, T, 2] v, int64[B, T, 2] i, float[B, T] m, float[B, T] s"
    x = RANDOM.normal(size=(3, 5, 9)).astype(np.float32)
    b = np.asarray(RANDOM.normal(size=shape), np.float32)
    after = same_numbers(model_of(inputs, outputs, call), {"x": x, "b": b})
    assert types(after).count("Expand") == expansions
    assert "softmax_topk_bias_stats" in types(after)


@pytest.mark.parametrize("axis", [0, 1, 2, -3])
@pytest.mark.parametrize("bias", [None, (6, 1), (4, 6, 5)])
def test_another_axis_is_moved_to_the_end(axis: int, bias: tuple[int, ...] | None) -> None:
    sizes = ["4", "6", "5"]
    kept = ", ".join("2" if i == axis % 3 else size for i, size in enumerate(sizes))
    rest = ", ".join(size for i, size in enumerate(sizes) if i != axis % 3)
    inputs = {"x": np.round(RANDOM.normal(size=(4, 6, 5)) * 3).astype(np.float32)}
    declared = "float[4, 6, 5] x"
    if bias is not None:
        declared += f", float[{', '.join(map(str, bias))}] b"
        inputs["b"] = RANDOM.normal(size=bias).astype(np.float32)
    call = f"v, i, m, s = hars.softmax_topk <k = 2, axis = {axis}> ({'x' if bias is None else 'x, b'})"
    outputs = f"float[{kept}] v, int64[{kept}] i, float[{rest}] m, float[{rest}] s"
    after = same_numbers(model_of(declared, outputs, call), inputs)
    assert ("Transpose" in types(after)) == (axis != 2)


@pytest.mark.parametrize(
    ("options", "bias", "name"),
    [
        ({}, False, "router_topk"),
        ({"renormalize": 1, "scale": 2.5}, True, "router_topk_bias"),
        ({"zero_experts": 3}, False, "router_topk_zero_experts"),
        ({"zero_experts": 3, "groups": 4, "top_groups": 2}, True, "router_topk_bias_zero_experts"),
    ],
)
def test_routers(options: dict[str, Any], bias: bool, name: str) -> None:
    has_zero = "zero_experts" in options
    given = ", ".join(f"{key} = {value}" for key, value in {"k": 3, **options}.items())
    call = f"w, e{', z' * has_zero} = hars.router_topk <{given}> (x{', b' * bias})"
    outputs = f"float[B, 3] w, int64[B, 3] e{', float[B] z' * has_zero}"
    inputs = {"x": RANDOM.normal(size=(4, 12)).astype(np.float32)}
    if bias:
        inputs["b"] = RANDOM.normal(size=12).astype(np.float32)
    after = same_numbers(model_of(f"float[B, 12] x{', float[12] b' * bias}", outputs, call), inputs)
    assert types(after) == [name, "Cast"]


def test_two_nodes_of_one_kind_share_a_function_and_a_second_call_changes_nothing() -> None:
    call = "v, i = hars.softmax_topk <k = 2> (x) w, j = hars.softmax_topk <k = 3> (x)"
    outputs = "float[B, 2] v, int64[B, 2] i, float[B, 3] w, int64[B, 3] j"
    after = same_numbers(model_of("float[B, 9] x", outputs, call), {"x": np.ones((2, 9), np.float32)})
    assert types(after) == ["softmax_topk", "Cast"] * 2 and len(after.functions) == 1
    text = str(after.graph)
    assert for_tensorrt(after) == 0 and str(after.graph) == text


def test_names_that_are_taken_are_left_alone() -> None:
    call = "[i_Cast] i_before_cast = Neg (x) v, i = hars.softmax_topk <k = 2> (i_before_cast)"
    model = model_of("float[B, 9] x", "float[B, 2] v, int64[B, 2] i", call)
    after = same_numbers(model, {"x": RANDOM.normal(size=(3, 9)).astype(np.float32)})
    names = [node.name for node in after.graph] + [value.name for node in after.graph for value in node.outputs]
    assert len(set(names)) == len(names)


def test_a_node_in_a_subgraph_is_turned_too() -> None:
    branches = "then_branch = t () => (int64[B, 2] a) { v, a = hars.softmax_topk <k = 2> (x) }, "
    branches += "else_branch = e () => (int64[B, 2] b) { w, b0 = hars.softmax_topk <k = 2> (x) b = Add (b0, b0) }"
    model = model_of("float[B, 9] x, bool c", "int64[B, 2] y", f"y = If (c) <{branches}>")
    x = RANDOM.normal(size=(3, 9)).astype(np.float32)
    for condition in (True, False):
        after = same_numbers(model.clone(), {"x": x, "c": np.array(condition)})
        assert sum(node.op_type == "Cast" for node in after.graph.all_nodes()) == 2


@pytest.mark.parametrize("declared", ["float x", "float[2, 9] x"])
def test_an_axis_of_nobody_knows_what_is_an_error(declared: str) -> None:
    model = model_of(declared, "float v, int64 i", "v, i = hars.softmax_topk <k = 2, axis = 4> (x)")
    if declared == "float x":
        model.graph.inputs[0].shape = None
    with pytest.raises(LoadError, match="axis 4"):
        for_tensorrt(model)
