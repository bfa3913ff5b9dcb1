"""``graphwright.Linear`` becomes what ONNX Runtime has for it."""

from itertools import product

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.engine.pipeline import Pipeline, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.engine.shapes import infer_shapes
from graphwright.errors import PipelineError
from graphwright.passes import CATALOGUE
from graphwright.passes.lower.lower_linear_for_ort import LOWER_LINEAR_FOR_ORT, is_chosen, lower_linear_for_ort
from graphwright.passes.lower.ort_capabilities import CPU, CUDA
from graphwright.plugins.linear.meaning import ACTIVATIONS, linear
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model


def call(
    activation: str = "none",
    *,
    bias: bool = True,
    residual: bool = False,
    transposed: bool = False,
    x: str = "B,S,",
    dtype: str = "float",
) -> ir.Model:
    """A model of one Linear with its body."""
    given = "x, w" + (", b" if bias else ", " if residual else "") + (", r" if residual else "")
    attributes = f'<activation = "{activation}", transposed = {int(transposed)}>'
    weights = f"float[{'6,4' if transposed else '4,6'}] w, float[6] b"
    head = '<ir_version: 10, opset_import: ["": 24, "graphwright": 1]> g (float[B,S,4] x, float[B,S,6] r)'
    text = f"{head} => (float[B,S,6] y) <{weights}> {{ h = graphwright.Linear {attributes} ({given}) y = Neg(h) }}"
    made = model(text.replace("B,S,", x).replace("float[", f"{dtype}["), infer=False)
    function = linear(activation, bias=bias, residual=residual, transposed=transposed)
    made.graph.node(0).overload = function.overload
    made.functions[function.identifier()] = function
    infer_shapes(made)
    return made


def operators(given: ir.Model) -> list[str]:
    return [node.op_type for node in given.graph][:-1]


def lowered(before: ir.Model, text: str) -> ir.Model:
    """Run pipeline text, since options come with it."""
    steps = CATALOGUE.parse(text, "ort-cpu").steps
    return run_pipeline(Run(before.clone()), Pipeline(steps))


@pytest.mark.parametrize(
    ("activation", "bias", "residual"), list(product(["none", *ACTIVATIONS], [False, True], [False, True]))
)
def test_every_set_of_options(activation: str, bias: bool, residual: bool) -> None:
    before = call(activation, bias=bias, residual=residual)
    after = assert_fires(before, LOWER_LINEAR_FOR_ORT)
    step = [] if activation == "none" else [ACTIVATIONS[activation].operator]
    expected = ["MatMul", *["Add"] * bias, *step]
    expected = ["MatMul", "BiasGelu"] if activation == "gelu" and bias else expected
    assert operators(after) == [*expected, *["Add"] * residual]
    assert not after.functions
    assert_equivalent(before, after)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_processor_has_a_product_with_an_activation(activation: str, transposed: bool, bias: bool) -> None:
    before = call(activation, bias=bias, transposed=transposed, x="M,")
    after = lowered(before, "lower-linear-for-ort(provider=cpu)")
    assert operators(after) == ["FusedGemm"]
    assert after.opset_imports["com.microsoft"] == 1
    for size in (1, 2, 7):
        assert_equivalent(before, after, sizes={"M": size})


def test_a_residual_stays_behind_it() -> None:
    before = call("relu", residual=True, x="M,")
    after = lowered(before, "lower-linear-for-ort(cpu)")
    assert operators(after) == ["FusedGemm", "Add"]
    assert_equivalent(before, after)


def test_what_one_provider_lacks_is_not_taken_for_both() -> None:
    before = call("relu", x="M,")
    assert operators(apply(before, LOWER_LINEAR_FOR_ORT).model) == ["Gemm", "Relu"]
    assert operators(lowered(before, "lower-linear-for-ort(provider=cuda)")) == ["Gemm", "Relu"]


def test_gelu_of_two_axes_keeps_the_bias_in_the_product() -> None:
    before = call("gelu", x="M,")
    after = assert_fires(before, LOWER_LINEAR_FOR_ORT)
    assert operators(after) == ["Gemm", "Gelu"]
    assert_equivalent(before, after)


def test_types_without_a_kernel_get_standard_operators() -> None:
    assert operators(apply(call("gelu", dtype="float16"), LOWER_LINEAR_FOR_ORT).model) == ["MatMul", "Add", "Gelu"]
    before = call("gelu", dtype="float16")
    assert operators(lowered(before, "lower-linear-for-ort(provider=cuda)")) == ["MatMul", "BiasGelu"]
    before = call("relu", dtype="double", x="M,")
    assert operators(lowered(before, "lower-linear-for-ort(provider=cpu)")) == ["Gemm", "Relu"]


def test_an_unknown_rank_gets_standard_operators() -> None:
    before = call("gelu")
    before.graph.inputs[0].shape = None
    assert operators(apply(before, LOWER_LINEAR_FOR_ORT).model) == ["MatMul", "Add", "Gelu"]


def test_the_choice_is_the_tables() -> None:
    float32 = ir.DataType.FLOAT
    assert is_chosen("com.microsoft.BiasGelu", float32, (CPU, CUDA))
    assert is_chosen("com.microsoft.FusedGemm", float32, (CPU,))
    assert not is_chosen("com.microsoft.FusedGemm", float32, (CPU, CUDA))
    # Known to lose on the processor.
    assert not is_chosen("com.microsoft.SkipLayerNormalization", float32, (CPU,))
    assert not is_chosen("com.microsoft.FastGelu", float32, (CPU,))


def test_the_bias_and_the_residual_go_into_the_norm_where_that_follows() -> None:
    """On CUDA, whose default pipeline makes skip norms."""
    text = """<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x, float[B,S,6] r) => (float[B,S,6] y)
        <float[4,6] w, float[6] b, float[6] scale, float[6] shift> {
        p = MatMul(x, w) h = Add(p, b) t = Add(h, r) y = LayerNormalization <epsilon = 0.001> (t, scale, shift) }"""
    before = model(text)
    plain, joined = (run_pipeline(Run(before.clone()), CATALOGUE.parse(each, "ort-cuda")) for each in _TEXTS)
    assert [node.op_type for node in joined.graph] == ["MatMul", "SkipLayerNormalization"]
    assert [node.op_type for node in plain.graph] == ["MatMul", "SkipLayerNormalization"]
    assert_equivalent(before, joined)


_TEXTS = ("default", "default,fuse-linear")


def test_refuses_what_spelling_refuses() -> None:
    before = call("relu")
    before.graph.node(0).attributes["activation"] = ir.AttrString("activation", "softmax")
    assert_refuses(before, LOWER_LINEAR_FOR_ORT, Reason.ATTRIBUTE)
    before = call("gelu")
    before.functions.clear()
    before.graph.opset_imports[""] = 18
    assert_refuses(before, LOWER_LINEAR_FOR_ORT, Reason.OPSET)


def test_a_provider_that_is_not_known_is_an_error() -> None:
    with pytest.raises(PipelineError, match=r"lower-linear-for-ort\(provider\): found 'tpu'; needed one of cpu, cuda"):
        lower_linear_for_ort(call(), "tpu")


@given(b=st.sampled_from([1, 2, 7]), s=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(b: int, s: int, seed: int) -> None:
    before = call("gelu", residual=True)
    assert_equivalent(before, apply(before, LOWER_LINEAR_FOR_ORT).model, sizes={"B": b, "S": s}, seed=seed)
