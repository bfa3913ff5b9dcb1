"""A product, its transposed operand and its scale become one operator of ONNX Runtime."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lower.fuse_scaled_matmul import FUSE_SCALED_MATMUL
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

TURNED = "t = Transpose <perm = [0, 2, 1]> (b)"
BOTH = f"{TURNED} p = MatMul(a, t) y = Mul(p, c)"
SCALED = "p = MatMul(a, b) y = Mul(p, c)"
ONLY_TURNED = f"{TURNED} y = MatMul(a, t)"


def layer(
    body: str,
    *,
    a: str = "B,M,4",
    b: str = "B,N,4",
    y: str = "B,M,N",
    c: str = "float c = {0.25}",
    t: str = "float",
    opset: int = 13,
    more: str = "",
) -> ir.Model:
    imports = f'"": {opset}' + (', "com.microsoft": 1' if "microsoft" in body else "")
    head = f"<ir_version: 10, opset_import: [{imports}]> g ({t}[{a}] a, {t}[{b}] b{more}) => ({t}[{y}] y)"
    return model(f"{head} <{c}> {{ {body} }}", infer="microsoft" not in body)


@pytest.mark.parametrize("opset", [13, 24])
@pytest.mark.parametrize("body", [BOTH, BOTH.replace("p, c", "c, p")])
def test_transposed_and_scaled(body: str, opset: int) -> None:
    after = layer("y = com.microsoft.FusedMatMul <alpha = 0.25, transB = 1> (a, b)", opset=opset)
    before = layer(body, opset=opset)
    assert_equivalent(before, assert_fires(before, FUSE_SCALED_MATMUL, 1, after))


@pytest.mark.parametrize("body", [SCALED, SCALED.replace("p, c", "c, p")])
def test_scaled(body: str) -> None:
    before = layer(body, b="B,4,N")
    after = layer("y = com.microsoft.FusedMatMul <alpha = 0.25> (a, b)", b="B,4,N")
    assert_equivalent(before, assert_fires(before, FUSE_SCALED_MATMUL, 1, after))


def test_transposed() -> None:
    after = layer("y = com.microsoft.FusedMatMul <transB = 1> (a, b)")
    assert_equivalent(layer(ONLY_TURNED), assert_fires(layer(ONLY_TURNED), FUSE_SCALED_MATMUL, 1, after))


@pytest.mark.parametrize(
    ("a", "b", "perm", "y"),
    [
        ("M,4", "N,4", "1, 0", "M,N"),
        ("A,B,M,4", "A,B,N,4", "0, 1, 3, 2", "A,B,M,N"),
        ("4", "N,4", "1, 0", "N"),
        ("B,M,4", "N,4", "1, 0", "B,M,N"),
    ],
)
def test_other_ranks(a: str, b: str, perm: str, y: str) -> None:
    before = layer(BOTH.replace("0, 2, 1", perm), a=a, b=b, y=y)
    assert_equivalent(before, assert_fires(before, FUSE_SCALED_MATMUL))


def test_two_products() -> None:
    body = BOTH.replace("y =", "x =") + " u = Transpose <perm = [0, 2, 1]> (a) q = MatMul(x, u) y = Mul(c, q)"
    before = layer(body, a="B,4,4", b="B,4,4", y="B,4,4")
    assert_equivalent(before, assert_fires(before, FUSE_SCALED_MATMUL, 2))


@pytest.mark.parametrize("t", ["float16", "double", "int32"])
def test_refuses_other_types(t: str) -> None:
    assert_refuses(layer(ONLY_TURNED, t=t), FUSE_SCALED_MATMUL, Reason.DTYPE)


@pytest.mark.parametrize(
    "perm", [" <perm = [0, 1, 2]>", " <perm = [1, 0, 2]>", " <perm = [2, 1, 0]>", " <perm = [1, 2, 0]>", ""]
)
def test_refuses_other_turns(perm: str) -> None:
    """All sizes are 4, so that every turn fits; without a permutation all axes are reversed."""
    body = ONLY_TURNED.replace(" <perm = [0, 2, 1]>", perm)
    assert_refuses(layer(body, a="4,4,4", b="4,4,4", y="4,4,4"), FUSE_SCALED_MATMUL, Reason.ATTRIBUTE)


@pytest.mark.parametrize(("a", "b", "c", "y"), [("B,M,4", "B,4,N", "[1,1,1,1]", "1,B,M,N"), ("4", "4", "[1]", "1")])
def test_refuses_numbers_that_add_axes(a: str, b: str, c: str, y: str) -> None:
    before = layer(SCALED, a=a, b=b, y=y, c=f"float{c} c = {{0.25}}")
    assert_refuses(before, FUSE_SCALED_MATMUL, Reason.RANK)


def test_a_number_with_axes_of_one_scales() -> None:
    before = layer(SCALED, b="B,4,N", c="float[1,1] c = {0.25}")
    assert_equivalent(before, assert_fires(before, FUSE_SCALED_MATMUL))
    for node in before.graph:
        node.outputs[0].shape = None
    assert_refuses(before, FUSE_SCALED_MATMUL, Reason.RANK)


def test_refuses_interior_values_with_another_use() -> None:
    assert_refuses(layer("p = MatMul(a, b) q = Mul(p, c) y = Add(q, p)", b="B,4,N"), FUSE_SCALED_MATMUL, Reason.SHARED)
    text = '<ir_version: 10, opset_import: ["": 13]> g (float[M,4] a, float[4,N] b) => (float[M,N] y, float[M,N] p)'
    assert_refuses(model(f"{text} <float c = {{2}}> {{ {SCALED} }}"), FUSE_SCALED_MATMUL, Reason.GRAPH_OUTPUT)
    captured = (
        "p = MatMul(a, b) m = Mul(p, c) y = If (on) <then_branch = f () => (d) { d = Neg(p) }, "
        "else_branch = e () => (g) { g = Neg(m) }>"
    )
    assert_refuses(layer(captured, b="B,4,N", more=", bool on"), FUSE_SCALED_MATMUL, Reason.SHARED)


def test_a_product_that_others_use_keeps_its_scale_apart() -> None:
    before = layer(f"{TURNED} p = MatMul(a, t) q = Mul(p, c) y = Add(q, p)")
    after = assert_fires(before, FUSE_SCALED_MATMUL)
    assert sorted(node.op_type for node in after.graph) == ["Add", "FusedMatMul", "Mul"]
    assert_equivalent(before, after)


def test_refuses_an_older_opset() -> None:
    before = layer(SCALED, b="B,4,N")
    before.graph.opset_imports[""] = 12
    assert_refuses(before, FUSE_SCALED_MATMUL, Reason.OPSET)


def test_near_misses_stay() -> None:
    assert_refuses(
        layer("p = MatMul(a, b) y = Mul(p, c)", b="B,4,N", c="float[1,1,2] c = {1, 2}", y="B,M,2"),
        FUSE_SCALED_MATMUL,
        Reason.STRUCTURE,
    )
    assert_refuses(
        layer("p = MatMul(a, b) y = Mul(p, s)", b="B,4,N", more=", float s"),
        FUSE_SCALED_MATMUL,
        Reason.STRUCTURE,
    )
    before = layer(SCALED, b="B,4,N")
    before.graph.inputs.append(before.graph.initializers["c"])  # callers may replace it
    assert_refuses(before, FUSE_SCALED_MATMUL, Reason.STRUCTURE)


@pytest.mark.parametrize("body", [BOTH, ONLY_TURNED])
@given(
    b=st.sampled_from([1, 2, 7]),
    m=st.sampled_from([1, 2, 7]),
    n=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 99),
)
def test_same_numbers(body: str, b: int, m: int, n: int, seed: int) -> None:
    before = layer(body)
    assert_equivalent(before, apply(before, FUSE_SCALED_MATMUL).model, sizes={"B": b, "M": m, "N": n}, seed=seed)
