"""Models whose narrow nodes run in float32 and are rounded: what ONNX Runtime's CPU provider does not do by itself."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as native

from graphwright.runtime.ort import OrtSession
from graphwright.runtime.reference import evaluate
from graphwright.runtime.rounded import rounded, types_of
from graphwright.testing import model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g'
# 100 * 2048 is beyond float16; between two multiplications nothing but a rounding shows it.
OVERFLOWS = "k = Cast<to = 10>(two) h = Cast<to = 10>(x) a = Mul(h, k) b = Div(a, k) y = Cast<to = 1>(b)"
LOSES = "k = Cast<to = 10>(two) h = Cast<to = 10>(x) a = Add(h, k) b = Sub(a, k) y = Cast<to = 1>(b)"
TWO = "(float[N] x) => (float[N] y) <float two = {2048.0}>"


@pytest.mark.parametrize("optimize", [True, False])
def test_overflow_and_loss_show_only_where_every_node_rounds(optimize: bool) -> None:
    for body, number, due in ((OVERFLOWS, 100.0, np.inf), (LOSES, 0.3, 0.0)):
        given, inputs = model(f"{HEAD} {TWO} {{ {body} }}"), {"x": np.float32([number])}
        hidden = OrtSession(given, optimize=optimize)(inputs)["y"]
        assert abs(hidden[0] - number) < 1e-3 * number, "ONNX Runtime rounds between nodes: casts are needed no more"
        assert OrtSession(given, optimize=optimize, rounded=True)(inputs)["y"][0] == due


def cpu_types(operator: str) -> set[str]:
    """The float types of the CPU provider's kernels for an operator."""
    found = [each for each in native.get_all_opkernel_def() if (each.domain, each.op_name) == ("", operator)]
    kinds = [
        kind for each in found if each.provider == "CPUExecutionProvider" for kind in each.type_constraints.values()
    ]
    return {kind[7:-1] for group in kinds for kind in group} & {"float16", "bfloat16"}


def test_what_the_design_note_says_of_kernels_is_so() -> None:
    both = {"float16", "bfloat16"}
    for operator in ("MatMul", "Gemm", "Add", "Mul", "Gelu", "Softmax", "ReduceMean", "Where", "Conv"):
        assert cpu_types(operator) == set(), f"{operator} has a kernel now"
    for operator in ("Attention", "RMSNormalization", "RotaryEmbedding", "Expand", "Max"):
        assert cpu_types(operator) == {"float16"}
    for operator in ("LayerNormalization", "Reshape", "Transpose", "Concat", "Slice", "Split", "Gather", "Cast"):
        assert cpu_types(operator) == both


def test_nodes_that_move_numbers_run_as_they_are() -> None:
    body = "y = Neg(x) t = Transpose(y) s = Constant<value_ints = [-1]>() z = Reshape(t, s)"
    copy = rounded(model(f"{HEAD} (bfloat16[N, 4] x) => (bfloat16[M] z) {{ {body} }}"))
    assert [node.op_type for node in copy.graph] == ["Cast", "Neg", "Cast", "Transpose", "Constant", "Reshape"]
    assert [value.dtype for value in (*copy.graph.inputs, *copy.graph.outputs)] == [ir.DataType.BFLOAT16] * 2


def test_the_model_that_is_copied_is_not_touched() -> None:
    given = model(f"{HEAD} (float16[N] x) => (float16[N] y) {{h = Exp(x) y = Neg(h)}}")
    before = ir.to_proto(given).SerializeToString(deterministic=True)
    rounded(given)
    assert ir.to_proto(given).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_branches_functions_and_untyped_values_are_rounded_too(dtype: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["": 20, "local": 1]>
    g (bool c, {dtype}[N] x) => ({dtype}[N] y) {{
      h = local.twice(x)
      y = If(c) <then_branch = t () => ({dtype}[N] a) {{ a = Exp(h) }},
                 else_branch = e () => ({dtype}[N] b) {{ b = Neg(h) }}>
    }}
    <domain: "local", opset_import: ["": 20]>
    twice (x) => (y) {{ y = Add(x, x) }}"""
    given = model(text, infer=False)
    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    x = np.linspace(0.1, 1, 7).astype(kind)
    for flag, function in ((True, np.exp), (False, np.negative)):
        due = function((x + x).astype(np.float32)).astype(kind)
        found = evaluate(given, {"c": np.array(flag), "x": x}, rounded=True)["y"]
        np.testing.assert_array_equal(found, due)


def test_types_are_found_in_casts_and_weights() -> None:
    given = model(f"{HEAD} (float[N] x) => (float[N] y) {{h = Cast<to = 16>(x) y = Cast<to = 1>(h)}}", infer=False)
    assert ir.DataType.BFLOAT16 in types_of(given)
    assert types_of(model(f"{HEAD} (float[N] x) => (float[N] y) {{y = Neg(x)}}")) == {ir.DataType.FLOAT}


def test_a_bfloat16_file_runs_on_the_cpu(tmp_path) -> None:
    given = model(f"{HEAD} (bfloat16[N] x) => (bfloat16[N] y) {{h = Exp(x) y = Neg(h)}}")
    ir.save(given, tmp_path / "m.onnx")
    x = np.linspace(-1, 1, 5).astype(ml_dtypes.bfloat16)
    due = -np.exp(x.astype(np.float32)).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(OrtSession(tmp_path / "m.onnx")(x=x)["y"], due)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_scattered_sums_are_rounded_and_scattered_numbers_moved(dtype: str) -> None:
    kind = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    inputs = {"x": np.full(2, 0.1).astype(kind), "i": np.asarray([0, 0]), "u": np.asarray([2, 3]).astype(kind)}
    for reduction in ("add", "none"):
        body = f'y = ScatterElements<axis = 0, reduction = "{reduction}">(x, i, u)'
        given = model(f"{HEAD} ({dtype}[N] x, int64[M] i, {dtype}[M] u) => ({dtype}[N] y) {{ {body} }}")
        kinds = [node.op_type for node in rounded(given).graph]
        assert kinds == (["Cast", "Cast", "ScatterElements", "Cast"] if reduction == "add" else ["ScatterElements"])
        first = kind(np.float32(inputs["x"][0]) + 5) if reduction == "add" else kind(3)
        assert evaluate(given, inputs, rounded=True)["y"][0] == first
