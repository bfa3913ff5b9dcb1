"""A residual sum and its RMS norm become one operator of ONNX Runtime, which also gives the sum."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lower.fuse_skip_rms_norm import FUSE_SKIP_RMS_NORM as RULE
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

NORM = "RMSNormalization <epsilon = 1e-6> (t, g)"
POST = f"t = Add(x, r) y = {NORM}"
PRE = f"t = Add(x, r) n = {NORM} y = Mul(n, t)"
SKIP = "com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 1e-6>"
HEAD = '<ir_version: 10, opset_import: ["": 24]> g (float[B,5] x, float[B,5] r)'
EXAMPLES = {"post norm": f"{HEAD} => (float[B,5] y) <float[5] g> {{ {POST} }}"}


def layer(body: str = POST, *, x: str = "B,S,5", g: str = "5", t: str = "float") -> ir.Model:
    imports = '"": 24' + (', "com.microsoft": 1' if "microsoft" in body else "")
    head = f"<ir_version: 10, opset_import: [{imports}]> g ({t}[{x}] x, {t}[{x}] r) => ({t}[{x}] y)"
    return model(f"{head} <{t}[{g}] g> {{ {body} }}", infer="microsoft" not in body)


@pytest.mark.parametrize("order", ["x, r", "r, x"])
def test_the_norm_of_a_sum(order: str) -> None:
    before = layer(POST.replace("x, r", order))
    assert_equivalent(before, assert_fires(before, RULE, 1, layer(f"y = {SKIP} ({order}, g)")))


def test_the_sum_is_given_where_others_use_it() -> None:
    before = layer(PRE)
    after = assert_fires(before, RULE)
    assert [bool(value.name) for value in after.graph.node(0).outputs] == [True, False, False, True]
    assert_equivalent(before, after)


def test_the_sum_may_be_an_output() -> None:
    before = model(f"{HEAD} => (float[B,5] y, float[B,5] t) <float[5] g> {{ {POST} }}")
    after = assert_fires(before, RULE)
    assert [value.name for value in after.graph.outputs] == ["y", "t"]
    assert_equivalent(before, after)


def test_two_layers() -> None:
    second = POST.replace("t = Add(x, r)", "u = Add(a, r)").replace("(t,", "(u,")
    before = layer(POST.replace("y =", "a =") + " " + second)
    assert_equivalent(before, assert_fires(before, RULE, 2))


@pytest.mark.parametrize("x", ["B,5", "B,S,5", "5,5,5", "1,1,5"])
def test_two_or_three_axes(x: str) -> None:
    before = layer(x=x)
    assert_equivalent(before, assert_fires(before, RULE))


@pytest.mark.parametrize("x", ["5", "A,B,S,5"])
def test_refuses_other_ranks(x: str) -> None:
    assert_refuses(layer(x=x), RULE, Reason.RANK)


@pytest.mark.parametrize(
    ("r", "reason"),
    [("S,5", Reason.SHAPE), ("B,S,1", Reason.SHAPE), ("1,S,5", Reason.UNKNOWN), ("A,S,5", Reason.UNKNOWN)],
)
def test_refuses_a_skip_of_another_shape(r: str, reason: Reason) -> None:
    head = f'<ir_version: 10, opset_import: ["": 24]> g (float[B,S,5] x, float[{r}] r) => (y) <float[5] g>'
    assert_refuses(model(f"{head} {{ {POST} }}", infer=False), RULE, reason)


def test_refuses_shapes_that_are_not_known() -> None:
    before = layer()
    before.graph.inputs[0].shape = before.graph.inputs[1].shape = ir.Shape([None, None, 5])
    assert_refuses(before, RULE, Reason.UNKNOWN)


@pytest.mark.parametrize(("x", "g"), [("B,S,5", "1"), ("B,S,N", "5")])
def test_refuses_a_scale_of_another_shape(x: str, g: str) -> None:
    assert_refuses(layer(x=x, g=g), RULE, Reason.SHAPE)


@pytest.mark.parametrize("attribute", ["axis = 1", "stash_type = 10"])
def test_refuses_what_the_operator_cannot_express(attribute: str) -> None:
    body = POST.replace("epsilon", f"{attribute}, epsilon")
    assert_refuses(layer(body, x="5,5,5"), RULE, Reason.ATTRIBUTE)


def test_the_last_axis_may_be_counted_from_the_front() -> None:
    before = layer(POST.replace("epsilon", "axis = 2, epsilon"))
    assert_equivalent(before, assert_fires(before, RULE))


@pytest.mark.parametrize("t", ["double", "bfloat16"])
def test_refuses_other_types(t: str) -> None:
    assert_refuses(layer(t=t), RULE, Reason.DTYPE)


def test_refuses_a_scale_of_another_type() -> None:
    head = '<ir_version: 10, opset_import: ["": 24]> g (float16[B,5] x, float16[B,5] r, float[5] g) => (y)'
    assert_refuses(model(f"{head} {{ {POST} }}", infer=False), RULE, Reason.DTYPE)


def test_a_sum_that_others_use_too_is_given_and_not_lost() -> None:
    before = layer(f"t = Add(x, r) a = {NORM} c = {NORM} y = Mul(a, c)")
    after = apply(before, RULE)
    assert_equivalent(before, after.model)


@pytest.mark.parametrize("body", [POST.replace("Add", "Sub"), f"t = Mul(x, r) y = {NORM}"])
def test_near_misses_stay(body: str) -> None:
    assert_refuses(layer(body), RULE, Reason.STRUCTURE)


@pytest.mark.parametrize("body", [POST, PRE])
@pytest.mark.parametrize("t", ["float", "float16"])
@given(b=st.sampled_from([1, 2, 7]), s=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(t: str, body: str, b: int, s: int, seed: int) -> None:
    before = layer(body, t=t)
    assert_equivalent(before, apply(before, RULE).model, sizes={"B": b, "S": s}, seed=seed)
