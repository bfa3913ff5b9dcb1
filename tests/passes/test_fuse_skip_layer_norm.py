"""A residual sum and its norm become one operator of ONNX Runtime, which also gives the sum."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.engine.rewrite import Rule
from graphwright.passes.lower.fuse_skip_layer_norm import (
    FUSE_SKIP_LAYER_NORM,
    post_norm_of_bias,
    pre_norm_of_bias,
    skip_layer_norm,
)
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

NORM = "LayerNormalization <epsilon = 1e-6> (t, g, h)"
POST = f"t = Add(x, r) y = {NORM}"
BIASED = f"s = Add(x, b) t = Add(s, r) y = {NORM}"
PRE = f"t = Add(x, r) n = {NORM} y = Mul(n, t)"
SKIP = "com.microsoft.SkipLayerNormalization <epsilon = 1e-6>"


def layer(
    body: str = POST,
    *,
    x: str = "B,S,5",
    r: str = "",
    vectors: str = "5 5 5",
    t: str = "float",
    y: str = "",
    opset: int = 17,
) -> ir.Model:
    g, h, b = vectors.split()
    imports = f'"": {opset}' + (', "com.microsoft": 1' if "microsoft" in body else "")
    head = f"<ir_version: 10, opset_import: [{imports}]> g ({t}[{x}] x, {t}[{r or x}] r) => ({t}[{y or x}] y)"
    consts = f"{t}[{g}] g, {t}[{h}] h, {t}[{b}] b"
    return model(f"{head} <{consts}> {{ {body} }}", infer="microsoft" not in body)


@pytest.mark.parametrize("opset", [17, 24])
@pytest.mark.parametrize("body", [POST, POST.replace("x, r", "r, x")])
def test_the_norm_of_a_sum(body: str, opset: int) -> None:
    before = layer(body, opset=opset)
    order = "r, x" if "r, x" in body else "x, r"
    assert_equivalent(
        before,
        assert_fires(before, FUSE_SKIP_LAYER_NORM, 1, layer(f"y = {SKIP} ({order}, g, h)", opset=opset)),
    )


@pytest.mark.parametrize(
    "body",
    [
        BIASED,
        BIASED.replace("x, b", "b, x"),
        BIASED.replace("s, r", "r, s"),
        BIASED.replace("x, b", "b, x").replace("s, r", "r, s"),
    ],
)
def test_the_bias_before_the_sum_comes_along(body: str) -> None:
    before = layer(body)
    assert_equivalent(before, assert_fires(before, FUSE_SKIP_LAYER_NORM, 1, layer(f"y = {SKIP} (x, r, g, h, b)")))


@pytest.mark.parametrize("body", [PRE, PRE.replace("t = Add(x, r)", "s = Add(b, x) t = Add(r, s)")])
def test_the_sum_is_given_where_others_use_it(body: str) -> None:
    before = layer(body)
    after = assert_fires(before, FUSE_SKIP_LAYER_NORM)
    node = after.graph.node(0)
    assert [bool(value.name) for value in node.outputs] == [True, False, False, True]
    assert_equivalent(before, after)


def test_the_sum_may_be_an_output() -> None:
    text = '<ir_version: 10, opset_import: ["": 17]> g (float[B,5] x, float[B,5] r) => (float[B,5] y, float[B,5] t)'
    before = model(f"{text} <float[5] g, float[5] h> {{ {POST} }}")
    after = assert_fires(before, FUSE_SKIP_LAYER_NORM)
    assert [value.name for value in after.graph.outputs] == ["y", "t"]
    assert_equivalent(before, after)


def test_two_layers() -> None:
    second = POST.replace("t = Add(x, r)", "u = Add(a, r)").replace("(t,", "(u,")
    before = layer(POST.replace("y =", "a =") + " " + second)
    assert_equivalent(before, assert_fires(before, FUSE_SKIP_LAYER_NORM, 2))


@pytest.mark.parametrize("x", ["B,5", "B,S,5", "5,5,5", "1,1,5"])
def test_two_or_three_axes(x: str) -> None:
    before = layer(x=x)
    assert_equivalent(before, assert_fires(before, FUSE_SKIP_LAYER_NORM))


@pytest.mark.parametrize("x", ["5", "A,B,S,5"])
def test_refuses_other_ranks(x: str) -> None:
    assert_refuses(layer(x=x), FUSE_SKIP_LAYER_NORM, Reason.RANK)


@pytest.mark.parametrize(
    ("r", "reason"),
    [
        ("S,5", Reason.SHAPE),
        ("1,1,1,5", Reason.SHAPE),
        ("B,S,1", Reason.SHAPE),
        ("1,S,5", Reason.UNKNOWN),
        ("A,S,5", Reason.UNKNOWN),
    ],
)
def test_refuses_a_skip_of_another_shape(r: str, reason: Reason) -> None:
    head = f'<ir_version: 10, opset_import: ["": 17]> g (float[B,S,5] x, float[{r}] r) => (y) <float[5] g, float[5] h>'
    assert_refuses(model(f"{head} {{ {POST} }}", infer=False), FUSE_SKIP_LAYER_NORM, reason)


def test_refuses_shapes_that_are_not_known() -> None:
    before = layer()
    before.graph.inputs[1].shape = ir.Shape([None, None, 5])
    assert_refuses(before, FUSE_SKIP_LAYER_NORM, Reason.UNKNOWN)
    before.graph.inputs[0].shape = ir.Shape([None, None, 5])  # two unknown sizes are not equal
    assert_refuses(before, FUSE_SKIP_LAYER_NORM, Reason.UNKNOWN)
    before.graph.inputs[0].shape = None
    assert_refuses(before, FUSE_SKIP_LAYER_NORM, Reason.RANK)


@pytest.mark.parametrize("vectors", ["1 5 5", "5 1 5", "1,5 5 5"])
def test_refuses_vectors_of_another_shape(vectors: str) -> None:
    assert_refuses(layer(BIASED, vectors=vectors), FUSE_SKIP_LAYER_NORM, Reason.SHAPE)
    assert_refuses(layer(x="B,S,N"), FUSE_SKIP_LAYER_NORM, Reason.SHAPE)


def test_a_bias_that_is_no_vector_stays_before_the_sum() -> None:
    before = layer(BIASED, vectors="5 5 1")
    assert Reason.SHAPE in apply_biased_only(before)
    after = assert_fires(before, FUSE_SKIP_LAYER_NORM)
    assert [node.op_type for node in after.graph] == ["Add", "SkipLayerNormalization"]
    assert_equivalent(before, after)


def apply_biased_only(before: ir.Model) -> set[Reason]:
    rule = Rule("fuse-skip-layer-norm", (post_norm_of_bias, pre_norm_of_bias), skip_layer_norm)
    return apply(before, rule).reasons


def test_a_second_residual_is_no_bias() -> None:
    text = '<ir_version: 10, opset_import: ["": 17]> g (float[B,5] x, float[B,5] r, float[5] o) => (float[B,5] y)'
    before = model(f"{text} <float[5] g, float[5] h> {{ s = Add(x, o) t = Add(s, r) y = {NORM} }}")
    after = assert_fires(before, FUSE_SKIP_LAYER_NORM)
    assert [node.op_type for node in after.graph] == ["Add", "SkipLayerNormalization"]
    body = f"s = Add(x, o) t = Add(s, r) n = {NORM} m = Add(n, s) y = Add(m, t)"
    assert_equivalent(before, after)
    before = model(f"{text} <float[5] g, float[5] h> {{ {body} }}")
    assert_equivalent(before, assert_fires(before, FUSE_SKIP_LAYER_NORM))


def test_refuses_a_bias_that_is_not_constant() -> None:
    text = '<ir_version: 10, opset_import: ["": 17]> g (float[B,5] x, float[B,5] r, float[5] o) => (float[B,5] y)'
    before = model(f"{text} <float[5] g, float[5] h> {{ s = Add(x, o) t = Add(s, r) y = {NORM} }}")
    assert Reason.CONSTANT in apply_biased_only(before)


def test_another_sum_of_the_same_two_is_not_the_residual() -> None:
    """What the operator gives is x + bias + skip: x + skip must stay as it is."""
    before = layer(f"s = Add(x, b) t = Add(s, r) u = Add(x, r) n = {NORM} y = Mul(n, u)")
    after = assert_fires(before, FUSE_SKIP_LAYER_NORM)
    assert sorted(node.op_type for node in after.graph) == ["Add", "Mul", "SkipLayerNormalization"]
    assert_equivalent(before, after)


def test_refuses_a_norm_over_more_axes() -> None:
    body = "t = Add(x, r) y = LayerNormalization <axis = 1> (t, g, h)"
    head = '<ir_version: 10, opset_import: ["": 17]> g (float[5,5,5] x, float[5,5,5] r) => (float[5,5,5] y)'
    assert_refuses(model(f"{head} <float[5] g, float[5] h> {{ {body} }}"), FUSE_SKIP_LAYER_NORM, Reason.ATTRIBUTE)


def test_the_last_axis_may_be_counted_from_the_front() -> None:
    before = layer(POST.replace("epsilon = 1e-6", "axis = 2, epsilon = 1e-6"))
    assert_equivalent(before, assert_fires(before, FUSE_SKIP_LAYER_NORM))


@pytest.mark.parametrize("t", ["double", "bfloat16"])
def test_refuses_other_types(t: str) -> None:
    assert_refuses(layer(t=t), FUSE_SKIP_LAYER_NORM, Reason.DTYPE)


def test_refuses_statistics_that_others_use() -> None:
    body = "t = Add(x, r) n, mean, deviation = LayerNormalization(t, g, h) y = Sub(n, mean)"
    assert_refuses(layer(body), FUSE_SKIP_LAYER_NORM, Reason.SHARED)
    text = '<ir_version: 10, opset_import: ["": 17]> g (float[B,5] x, float[B,5] r) => (float[B,5] y, float[B,1] mean)'
    body = "t = Add(x, r) y, mean = LayerNormalization(t, g, h)"
    assert_refuses(model(f"{text} <float[5] g, float[5] h> {{ {body} }}"), FUSE_SKIP_LAYER_NORM, Reason.GRAPH_OUTPUT)


@pytest.mark.parametrize("body", [POST.replace("Add", "Sub"), POST.replace(", h)", ")")])
def test_near_misses_stay(body: str) -> None:
    assert_refuses(layer(body), FUSE_SKIP_LAYER_NORM, Reason.STRUCTURE)


@pytest.mark.parametrize("body", [POST, BIASED, PRE])
@pytest.mark.parametrize("t", ["float", "float16"])
@given(b=st.sampled_from([1, 2, 7]), s=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(t: str, body: str, b: int, s: int, seed: int) -> None:
    before = layer(body, t=t)
    assert_equivalent(before, apply(before, FUSE_SKIP_LAYER_NORM).model, sizes={"B": b, "S": s}, seed=seed)
