"""softmax_topk in standard operators: short rows, long rows, every option, and the nodes that stay."""

from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lower.lower_softmax_topk import LOWER_SOFTMAX_TOPK
from graphwright.plugins.hars import reference
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime.reference import Reference, evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model


def layer(
    body: str,
    *,
    x: str = "float[B,9]",
    more: str = "",
    outputs: str = "float[B,3] v, int64[B,3] i",
    consts: str = "",
    opset: int = 24,
) -> ir.Model:
    """A graph with nodes of domain hars, with their bodies."""
    imports = f'["": {opset}, "hars": 1]'
    head = f"<ir_version: 10, opset_import: {imports}> g ({x} x{more}) => ({outputs}) <{consts}>"
    read = model(f"{head} {{ {body} }}", infer=False)
    attach_bodies(read)
    return read


def node(mode: str = "logprob", results: str = "v, i", inputs: str = "x", more: str = "k = 3") -> str:
    return f'{results} = hars.softmax_topk <mode = "{mode}", {more}> ({inputs})'


def standard(body: str, consts: str = "int64[1] k = {3}") -> str:
    """What a short row becomes."""
    outputs = "float[B,3] v, int64[B,3] i"
    return f'<ir_version: 10, opset_import: ["": 24]> g (float[B,9] x) => ({outputs}) <{consts}> {{ {body} }}'


def operators(after: ir.Model) -> list[str]:
    return [each.op_type for each in after.graph.all_nodes()]


@pytest.mark.parametrize(("mode", "spelled"), [("logprob", "LogSoftmax"), ("prob", "Softmax")])
def test_a_short_row_is_softmax_and_topk(mode: str, spelled: str) -> None:
    before = layer(node(mode))
    body = f"s = {spelled}(x) v, i = TopK(s, k)"
    assert_equivalent(before, assert_fires(before, LOWER_SOFTMAX_TOPK, 1, standard(body)))


def test_modes_without_a_sum_over_the_row_compute_none() -> None:
    for mode, body in (("logit", "v, i = TopK(x, k)"), ("prob_renorm", "b, i = TopK(x, k) v = Softmax(b)")):
        before = layer(node(mode))
        assert_equivalent(before, assert_fires(before, LOWER_SOFTMAX_TOPK, 1, standard(body)))


def test_no_function_and_no_domain_is_left() -> None:
    after = assert_fires(layer(node()), LOWER_SOFTMAX_TOPK)
    assert not after.functions
    assert list(after.opset_imports) == [""]


def test_a_function_that_another_node_calls_stays() -> None:
    body = node(results="v, i") + " " + node(results="w, j", inputs="y")
    before = layer(body, more=", float[B,N] y", outputs="float[B,3] v, int64[B,3] i, float[B,3] w, int64[B,3] j")
    outcome = apply(before, LOWER_SOFTMAX_TOPK)
    assert outcome.applied == 1 and outcome.reasons == {Reason.UNKNOWN}
    assert len(outcome.model.functions) == 1 and "hars" in outcome.model.opset_imports


@pytest.mark.parametrize("mode", ["logit", "logprob", "prob", "prob_renorm"])
@pytest.mark.parametrize("width", [16384, 65537])
def test_a_long_row_is_cut_in_groups_that_divide_it(mode: str, width: int) -> None:
    before = layer(node(mode), x=f"float[B,{width}]")
    after = assert_fires(before, LOWER_SOFTMAX_TOPK)
    # 65537 is a prime: its row would have to be padded.
    assert ({"ReduceMax", "GatherND"} <= set(operators(after))) == (width == 16384)
    assert "Pad" not in operators(after)
    assert_equivalent(before, after, sizes={"B": 3})


def test_statistics_are_given_where_they_are_used() -> None:
    body = node(results="v, i, m, l") + " s = Add(m, l)"
    for width in (9, 16384):
        outputs = "float[B,3] v, int64[B,3] i, float[B] s"
        before = layer(body, x=f"float[B,{width}]", outputs=outputs)
        assert_equivalent(before, assert_fires(before, LOWER_SOFTMAX_TOPK), sizes={"B": 2})


def test_statistics_that_nobody_uses_are_not_computed() -> None:
    before = layer(node("logit", results="v, i, m, l"))
    assert operators(assert_fires(before, LOWER_SOFTMAX_TOPK)) == ["TopK"]


def test_bias_temperature_and_axis() -> None:
    body = node(inputs="x, bias", more="k = 3, temperature = 0.5, axis = 1")
    outputs = "float[B,3,2] v, int64[B,3,2] i"
    for width in (9, 16384):
        before = layer(body, x=f"float16[B,{width},2]", more=f", float[{width},1] bias", outputs=outputs)
        assert_equivalent(before, assert_fires(before, LOWER_SOFTMAX_TOPK), sizes={"B": 2})


def test_two_layers() -> None:
    body = node(results="v, i") + ' w, j = hars.softmax_topk <k = 2, mode = "prob"> (v)'
    before = layer(body, outputs="float[B,2] w, int64[B,2] j, int64[B,3] i")
    assert_equivalent(before, assert_fires(before, LOWER_SOFTMAX_TOPK, 2), sizes={"B": 4})


def test_lowers_inside_a_branch() -> None:
    branches = f"""v, i = If (on) <then_branch = t () => (float[B,3] v1, int64[B,3] i1) {{ {node(results="v1, i1")} }},
        else_branch = e () => (float[B,3] v2, int64[B,3] i2) {{ {node("prob", results="v2, i2")} }}>"""
    before = layer(branches, more=", bool on")
    after = assert_fires(before, LOWER_SOFTMAX_TOPK, 2)
    assert "softmax_topk" not in operators(after) and not after.functions


def test_refuses_what_is_not_known() -> None:
    assert_refuses(layer(node(), x="float[B,V]"), LOWER_SOFTMAX_TOPK, Reason.UNKNOWN)
    for lost in ("shape", "type"):
        before = layer(node())
        setattr(before.graph.inputs[0], lost, None)
        assert_refuses(before, LOWER_SOFTMAX_TOPK, Reason.UNKNOWN)


def test_refuses_doubles() -> None:
    assert_refuses(layer(node(), x="double[B,9]"), LOWER_SOFTMAX_TOPK, Reason.DTYPE)


def test_refuses_more_than_there_is() -> None:
    assert_refuses(layer(node(more="k = 10")), LOWER_SOFTMAX_TOPK, Reason.SHAPE)
    assert_refuses(layer(node(more="k = 3, axis = 2")), LOWER_SOFTMAX_TOPK, Reason.SHAPE)
    assert_fires(layer(node(more="k = 9"), outputs="float[B,9] v, int64[B,9] i"), LOWER_SOFTMAX_TOPK)


def test_refuses_options_that_mean_nothing() -> None:
    before = layer(node())
    (only,) = before.graph
    only.attributes["mode"] = ir.AttrString("mode", "logits")
    assert_refuses(before, LOWER_SOFTMAX_TOPK, Reason.ATTRIBUTE)


def test_refuses_an_option_that_the_function_around_it_takes() -> None:
    before = layer(node())
    (only,) = before.graph
    only.attributes["axis"] = ir.RefAttr("axis", "outer_axis", ir.AttributeType.INT)
    assert_refuses(before, LOWER_SOFTMAX_TOPK, Reason.ATTRIBUTE)


def test_refuses_an_old_opset() -> None:
    assert_refuses(layer(node(), opset=17), LOWER_SOFTMAX_TOPK, Reason.OPSET)
    assert_fires(layer(node("prob"), x="float[B,16384]", opset=18), LOWER_SOFTMAX_TOPK)


def test_another_domain_is_another_operator() -> None:
    before = layer(node())
    (only,) = before.graph
    only.domain = "stars"
    before.opset_imports["stars"] = 1
    assert_refuses(before, LOWER_SOFTMAX_TOPK, Reason.STRUCTURE)


@cache
def lowered(mode: str, width: int) -> Reference:
    after = apply(layer(node(mode), x=f"float[B,{width}]"), LOWER_SOFTMAX_TOPK)
    assert after.applied == 1
    return Reference(after.model)


@pytest.mark.parametrize("mode", ["logit", "logprob", "prob", "prob_renorm"])
@pytest.mark.parametrize("width", [7, 2048, 5003, 16411, 18432])
@given(batch=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99), ties=st.booleans())
def test_same_numbers_as_the_reference(mode: str, width: int, batch: int, seed: int, ties: bool) -> None:
    x = np.random.default_rng(seed).normal(size=(batch, width)).astype(np.float32) * 3
    x = np.round(x) if ties else x
    found = lowered(mode, width)({"x": x})
    values, indices = reference.softmax_topk(x, 3, mode=mode)
    np.testing.assert_array_equal(found["i"], indices)
    np.testing.assert_allclose(found["v"], values, rtol=4e-6, atol=2e-6)


def test_a_long_row_keeps_what_the_operator_says_of_nan() -> None:
    after = apply(layer(node("logit"), x="float[B,16384]"), LOWER_SOFTMAX_TOPK).model
    x = np.zeros((2, 16384), np.float32)
    x[0, [5, 8000]] = np.nan, np.inf
    found = evaluate(after, {"x": x})
    assert found["i"].tolist() == [[5, 8000, 0], [0, 1, 2]]
