"""A bias and its Gelu become one operator of ONNX Runtime."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lower.fuse_bias_gelu import FUSE_BIAS_GELU
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

BODY = "t = Add(x, b) y = Gelu(t)"


def layer(
    body: str = BODY, *, x: str = "B,S,5", b: str = "5", t: str = "float", more: str = "", opset: int = 20
) -> ir.Model:
    imports = f'"": {opset}' + (', "com.microsoft": 1' if "microsoft" in body else "")
    head = f"<ir_version: 10, opset_import: [{imports}]> g ({t}[{x}] x{more}) => ({t}[{x}] y)"
    return model(f"{head} <{t}[{b}] b> {{ {body} }}", infer="microsoft" not in body)


@pytest.mark.parametrize(
    "body", [BODY, BODY.replace("x, b", "b, x"), BODY.replace("Gelu", 'Gelu <approximate = "none">')]
)
@pytest.mark.parametrize("opset", [20, 24])
def test_fuses_either_order(body: str, opset: int) -> None:
    before = layer(body, opset=opset)
    assert_equivalent(
        before,
        assert_fires(before, FUSE_BIAS_GELU, 1, layer("y = com.microsoft.BiasGelu(x, b)", opset=opset)),
    )


@pytest.mark.parametrize("x", ["5", "B,5", "A,B,S,5"])
def test_any_number_of_axes(x: str) -> None:
    before = layer(x=x)
    assert_equivalent(before, assert_fires(before, FUSE_BIAS_GELU))


def test_twice() -> None:
    before = layer("t = Add(x, b) g = Gelu(t) u = Add(b, g) y = Gelu(u)")
    assert_equivalent(before, assert_fires(before, FUSE_BIAS_GELU, 2))


@pytest.mark.parametrize("t", ["float16", "double"])
def test_refuses_other_types(t: str) -> None:
    assert_refuses(layer(t=t), FUSE_BIAS_GELU, Reason.DTYPE)


def test_refuses_a_residual() -> None:
    assert_refuses(layer("t = Add(x, r) y = Gelu(t)", more=", float[5] r"), FUSE_BIAS_GELU, Reason.CONSTANT)


def test_refuses_a_bias_that_callers_may_replace() -> None:
    before = layer()
    before.graph.inputs.append(before.graph.initializers["b"])
    assert_refuses(before, FUSE_BIAS_GELU, Reason.CONSTANT)


@pytest.mark.parametrize(("x", "b"), [("B,S,5", "1"), ("B,S,5", "1,5"), ("B,S,N", "5"), ("5,5", "5,5"), ("5,5", "5,1")])
def test_refuses_other_shapes(x: str, b: str) -> None:
    assert_refuses(layer(x=x, b=b), FUSE_BIAS_GELU, Reason.SHAPE)


def test_refuses_what_is_not_known() -> None:
    before = layer()
    before.graph.inputs[0].shape = None
    assert_refuses(before, FUSE_BIAS_GELU, Reason.SHAPE)


def test_refuses_a_sum_with_another_use() -> None:
    assert_refuses(layer("t = Add(x, b) g = Gelu(t) y = Mul(g, t)"), FUSE_BIAS_GELU, Reason.SHARED)
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[B,5] x) => (float[B,5] y, float[B,5] t) <float[5] b>'
    assert_refuses(model(f"{text} {{ {BODY} }}"), FUSE_BIAS_GELU, Reason.GRAPH_OUTPUT)
    captured = (
        "t = Add(x, b) g = Gelu(t) y = If (on) <then_branch = a () => (c) { c = Neg(t) }, "
        "else_branch = d () => (e) { e = Neg(g) }>"
    )
    assert_refuses(layer(captured, more=", bool on"), FUSE_BIAS_GELU, Reason.SHARED)


@pytest.mark.parametrize(
    "body",
    [
        BODY.replace("Gelu", 'Gelu <approximate = "tanh">'),
        BODY.replace("Add", "Sub"),
        BODY.replace("Gelu", "Erf"),
    ],
)
def test_near_misses_stay(body: str) -> None:
    assert_refuses(layer(body), FUSE_BIAS_GELU, Reason.STRUCTURE)


@given(b=st.sampled_from([1, 2, 7]), s=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(b: int, s: int, seed: int) -> None:
    before = layer()
    assert_equivalent(before, apply(before, FUSE_BIAS_GELU).model, sizes={"B": b, "S": s}, seed=seed)
