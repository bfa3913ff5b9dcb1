"""Operators that TensorRT does not take, as ONNX defines them: numbers, names, and what stays."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from graphwright.engine.compare import compare
from graphwright.engine.rewrite import SOURCES
from graphwright.engine.structure import check_onnx
from graphwright.passes.lower.expand_definitions import EXPAND_DEFINITIONS
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, model

NORM = "float[B,S,8] x, float[8] w, float[8] b"


def graph(inputs: str, outputs: str, body: str, consts: str = "", opset: int = 24) -> ir.Model:
    return model(f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) <{consts}> {{ {body} }}')


EXAMPLES = {
    "clip": '<ir_version: 10, opset_import: ["": 24]> g (int64[B,S] x) => (int64[B,S] y) '
    "<int64 low = {-3}, int64 high = {2}> { y = Clip(x, low, high) }",
}


def operators(found: ir.Model) -> set[str]:
    return {node.op_type for node in found.graph.all_nodes()}


def expanded(before: ir.Model) -> ir.Model:
    outcome = apply(before, EXPAND_DEFINITIONS)
    assert outcome.applied == 1
    check_onnx(outcome.model)
    assert not unsupported(outcome.model, "10.16")
    assert not apply(outcome.model, EXPAND_DEFINITIONS).applied
    return outcome.model


def test_layer_normalization_with_statistics() -> None:
    outputs = "float[B,S,8] y, float[B,S,1] mean, float[B,S,1] inverse"
    before = graph(NORM, outputs, "y, mean, inverse = LayerNormalization(x, w, b)")
    after = expanded(before)
    assert "LayerNormalization" not in operators(after)
    assert_equivalent(before, after)


def test_layer_normalization_alone_stays() -> None:
    before = graph(NORM, "float[B,S,8] y", "y = LayerNormalization(x, w, b)")
    assert not apply(before, EXPAND_DEFINITIONS).applied


def test_swish_of_any_alpha() -> None:
    before = graph("float[N] x", "float[N] y", "y = Swish <alpha = 1.7> (x)")
    assert unsupported(before, "10.16") and not unsupported(before, "11.0")
    assert_equivalent(before, expanded(before))


@pytest.mark.parametrize("bounds", ["x, low, high", "x, low", "x, , high"])
def test_clip_of_integers(bounds: str) -> None:
    consts = "int64 low = {-3}, int64 high = {2}"
    before = graph("int64[B,S] x", "int64[B,S] y", f"y = Clip({bounds})", consts)
    assert_equivalent(before, expanded(before))


def test_an_output_that_is_an_input_of_something_keeps_its_name() -> None:
    before = graph("int64[B,S] x", "int64[B,S] y, int64[B,S] z", "y = Clip(x, low) z = Abs(y)", "int64 low = {-3}")
    after = expanded(before)
    assert [value.name for value in after.graph.outputs] == ["y", "z"]
    assert_equivalent(before, after)


def test_inside_a_branch() -> None:
    body = """y = If (on) <then_branch = t () => (int64[B,S] a) { a = Clip(x, low) },
        else_branch = e () => (int64[B,S] o) { o = Neg(x) }>"""
    before = graph("int64[B,S] x, bool on", "int64[B,S] y", body, "int64 low = {-3}")
    after = expanded(before)
    for on in (True, False):
        inputs = {"x": np.arange(-6, 6).reshape(3, 4), "on": np.asarray(on)}
        np.testing.assert_array_equal(evaluate(after, inputs)["y"], evaluate(before, inputs)["y"])


def test_the_new_nodes_say_what_they_stand_for() -> None:
    before = graph("float[N] x", "float[N] y", "[swish] y = Swish(x)")
    assert {node.metadata_props[SOURCES] for node in expanded(before).graph} == {"swish (Swish)"}


QKV: dict[str, tuple[int, ...]] = {"q": (2, 4, 3, 8), "k": (2, 2, 5, 8), "v": (2, 2, 5, 8)}
THREE: dict[str, tuple[int, ...]] = {"q": (2, 3, 32), "k": (2, 5, 16), "v": (2, 5, 16)}
HEADS = "q_num_heads = 4, kv_num_heads = 2"
FORMS: dict[str, tuple[str, dict[str, tuple[int, ...]], str]] = {
    "grouped heads": ("q, k, v", QKV, "scale = 0.5"),
    "three axes": ("q, k, v", THREE, HEADS),
    "a triangle": ("q, k, v", QKV, "is_causal = 1"),
    "a triangle and a mask": ("q, k, v, mask", {**QKV, "mask": (3, 5)}, "is_causal = 1"),
    "a short mask": ("q, k, v, mask", {**QKV, "mask": (3, 4)}, ""),
    "a soft cap": ("q, k, v, mask", {**QKV, "mask": (2, 1, 3, 5)}, "softcap = 2.0"),
    "a cache": ("q, k, v, , pk, pv", {**QKV, "pk": (2, 2, 4, 8), "pv": (2, 2, 4, 8)}, "is_causal = 1"),
}


def typed(names: str, shapes: dict[str, tuple[int, ...]], outputs: str, attributes: str) -> ir.Model:
    inputs = ", ".join(f"float{list(shape)} {name}" for name, shape in shapes.items())
    written = f"<{attributes}>" if attributes else ""
    return graph(inputs, outputs, f"{outputs} = Attention {written} ({names})")


@pytest.mark.parametrize("form", FORMS)
def test_attention_in_every_form(form: str) -> None:
    """Against ONNX's own evaluator, which has the operator in every form."""
    names, shapes, attributes = FORMS[form]
    outputs = "y, present_k, present_v" if "cache" in form else "y"
    before = typed(names, shapes, outputs, attributes)
    after = expanded(before)
    assert "Attention" not in operators(after)
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    expected = dict(zip(outputs.split(", "), ReferenceEvaluator(ir.to_proto(before)).run(None, inputs), strict=True))
    assert not compare(expected, evaluate(after, inputs))


def test_what_has_no_definition_stays_and_is_named() -> None:
    before = graph("int64[N] x", "int64[M] y", "y, , , = Unique(x)", opset=24)
    assert not apply(before, EXPAND_DEFINITIONS).applied
    assert [each.operator for each in unsupported(before)] == ["Unique"]


def test_a_definition_that_is_no_better_stays() -> None:
    """DynamicQuantizeLinear is defined by uint8 that TensorRT has for inputs and outputs only."""
    before = graph("float[N] x", "uint8[N] y, float s, uint8 z", "y, s, z = DynamicQuantizeLinear(x)")
    assert not apply(before, EXPAND_DEFINITIONS).applied


def test_an_unknown_type_stays() -> None:
    before = graph("int64[B,S] x", "int64[B,S] y", "y = Clip(x, low)", "int64 low = {-3}")
    before.graph.inputs[0].type = None
    assert not apply(before, EXPAND_DEFINITIONS).applied


def test_fires_on_its_example() -> None:
    assert_fires(model(EXAMPLES["clip"]), EXPAND_DEFINITIONS, regions=False)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_scores_without_present_keys(mode: int) -> None:
    """The definition names the outputs between, but does not make them."""
    shapes: dict[str, tuple[int, ...]] = {"q": (2, 3, 4, 8), "k": (2, 3, 6, 8), "v": (2, 3, 6, 8)}
    inputs = ", ".join(f"float{list(shape)} {name}" for name, shape in shapes.items())
    body = f'y, "", "", s = Attention <qk_matmul_output_mode = {mode}> (q, k, v)'
    before = graph(inputs, "float[2,3,4,8] y, float[2,3,4,6] s", body)
    after = expanded(before)
    rng = np.random.default_rng(0)
    given = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    expected = dict(zip("ys", ReferenceEvaluator(ir.to_proto(before)).run(None, given), strict=True))
    assert not compare(expected, evaluate(after, given))
