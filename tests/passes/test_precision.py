"""``precision``: what is cast, what stays in float32 and why, and the numbers that come out."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine import facts
from graphwright.engine.compare import TOLERANCES, compare
from graphwright.engine.observe import Reason
from graphwright.engine.pipeline import FunctionPass
from graphwright.errors import PipelineError
from graphwright.passes import CATALOGUE
from graphwright.passes.lower.precision import PRECISION, TYPES, kept_in_float32, precision
from graphwright.runtime.observed import magnitudes
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g'
LAYER = "(float[N, 8] x) => (float[N, 8] y) <float[8, 16] w, float[16] c, float[16, 8] v>"
FEED = "a = MatMul(x, w) b = Add(a, c) h = Gelu(b) d = MatMul(h, v)"


def weighing(extra: str) -> str:
    """The layer's signature with more weights."""
    return f"{LAYER[:-1]}, {extra}>"


def set_number(given: ir.Model, name: str, number: float) -> None:
    given.graph.initializers[name].const_value = ir.tensor(np.float32(number), name=name)


def into(type: str = "fp16", **options: Any) -> FunctionPass:
    """The pass with some options."""
    return replace(PRECISION, function=partial(precision, type=type, **options))


def text_of(body: str, signature: str = LAYER) -> str:
    return f"{HEAD} {signature} {{ {body} }}"


def typed(given: ir.Model) -> list[str]:
    """Each node as its operator and the type of what it gives."""
    return [f"{node.op_type} {node.outputs[0].dtype.name.lower()}" for node in given.graph]


def refused(given: ir.Model, tested: FunctionPass, node: str) -> tuple[Reason, str]:
    """Why a node stayed in float32, where others did not."""
    outcome = apply(given, tested)
    found = {each.node.split(" ")[0]: (each.reason, each.detail) for each in outcome.refusals}
    left = next(each for each in outcome.model.graph if each.outputs[0].name == node)
    assert left.outputs[0].dtype == ir.DataType.FLOAT
    return found[node]


def assert_close(before: ir.Model, after: ir.Model, inputs: Mapping[str, np.ndarray], type: str) -> None:
    """Every node rounded to its type, the outputs are within the tolerance of the type, and not all the same."""
    expected, actual = evaluate(before, inputs), evaluate(after, inputs, rounded=True)
    found = compare(expected, actual, {ir.DataType.FLOAT: TOLERANCES[TYPES[type]]})
    assert not found, found
    assert any(not np.array_equal(expected[name], actual[name]) for name in expected), "nothing was rounded"


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


@pytest.mark.parametrize("type", TYPES)
def test_products_are_cast_and_softmax_is_not(type: str) -> None:
    before = model(text_of(f"{FEED} e = Add(d, x) y = Softmax(e)"))
    after = assert_fires(before, into(type), regions=False)
    narrow = TYPES[type].name.lower()
    kinds = [f"Cast {narrow}", *(f"{name} {narrow}" for name in ("MatMul", "Add", "Gelu", "MatMul", "Add"))]
    assert typed(after) == [*kinds, "Cast float", "Softmax float"]
    assert {value.dtype for value in after.graph.initializers.values()} == {TYPES[type]}
    assert kept_in_float32(after) == {"y (Softmax)": "SENSITIVE: Softmax is computed in float32"}
    assert_close(before, after, {"x": normal(3, 8)}, type)


def test_inputs_and_outputs_keep_their_types_and_names() -> None:
    before = model(text_of(FEED.replace("d =", "y =")))
    after = assert_fires(before, into(), regions=False)
    for old, new in zip(
        (*before.graph.inputs, *before.graph.outputs), (*after.graph.inputs, *after.graph.outputs), strict=True
    ):
        assert facts.describe(old) == facts.describe(new)
    assert typed(after)[-1] == "Cast float"


def test_the_model_that_was_cloned_is_not_touched() -> None:
    before = model(text_of(f"{FEED} y = Softmax(d)"))
    described = [facts.describe(value) for node in before.graph for value in node.outputs]
    apply(before, into())
    assert [facts.describe(value) for node in before.graph for value in node.outputs] == described


def test_a_value_is_cast_once_for_all_its_users() -> None:
    body = (
        "a = MatMul(x, w) b = MatMul(x, w) d = Add(a, b) s = Softmax(d) t = Softmax(d) u = Add(s, t) y = MatMul(u, v)"
    )
    after = assert_fires(model(text_of(body)), into(), regions=False)
    kinds = typed(after)
    assert kinds.count("Cast float16") == 3  # x, and both softmaxes' results
    assert kinds.count("Cast float") == 2  # their input, and y
    assert len(after.graph.initializers) == 2


def test_an_interior_output_is_given_in_float32_and_used_in_the_type() -> None:
    before = model(text_of(f"{FEED} y = Neg(d)", LAYER.replace("y)", "y, float[N, 16] h)")))
    after = assert_fires(before, into("bf16"), regions=False)
    assert [facts.describe(value) for value in after.graph.outputs] == ["y float32[N, 8]", "h float32[N, 16]"]
    assert_close(before, after, {"x": normal(5, 8)}, "bf16")


def test_captured_values_are_given_to_subgraphs_in_float32() -> None:
    branches = (
        "<then_branch = t () => (float[N, 8] p) {p = Exp(d)}, else_branch = e () => (float[N, 8] q) {q = Neg(d)}>"
    )
    body = f"{FEED} y = If {branches} (flag)"
    before = model(text_of(body, LAYER.replace("x)", "x, bool flag)")))
    after = assert_fires(before, into(), regions=False)
    assert kept_in_float32(after) == {"y (If)": "STRUCTURE: nodes inside of its graphs stay"}
    assert_close(before, after, {"x": normal(3, 8, scale=0.3), "flag": np.array(True)}, "fp16")


def test_an_overridable_initializer_is_cast_like_an_input() -> None:
    before = model(text_of("y = MatMul(x, w)", "(float[N, 8] x, float[8, 8] w) => (float[N, 8] y) <float[8, 8] w>"))
    weight = next(value for value in before.graph.inputs if value.name == "w")
    weight.const_value = ir.tensor(normal(8, 8), name="w")
    before.graph.register_initializer(weight)
    after = assert_fires(before, into(), regions=False)
    assert typed(after) == ["Cast float16", "Cast float16", "MatMul float16", "Cast float"]
    assert_close(before, after, {"x": normal(3, 8), "w": normal(8, 8, seed=1)}, "fp16")


def test_an_embedding_is_stored_in_the_type() -> None:
    before = model(f"{HEAD} (int64[N] i) => (float[N, 4] y) <float[9, 4] table> {{ y = Gather(table, i) }}")
    after = assert_fires(before, into("bf16"), regions=False)
    assert typed(after) == ["Gather bfloat16", "Cast float"]
    assert after.graph.initializers["table_bfloat16"].const_value.nbytes == 9 * 4 * 2


def test_the_size_of_a_value_is_read_in_whatever_type() -> None:
    before = model(text_of("a = MatMul(x, w) n = Shape(a) b = Expand(c, n) s = Add(a, b) y = MatMul(s, v)"))
    after = assert_fires(before, into(), regions=False)
    assert typed(after).count("Cast float") == 1


ATTENTION = "(float[B, 2, S, 4] q, {mask} m) => (float[B, 2, S, 4] y)"


def test_attention_takes_its_softmax_in_float32() -> None:
    signature = ATTENTION.format(mask="bool[B, 1, S, S]")
    before = model(text_of("y = Attention(q, q, q, m)", signature))
    after = assert_fires(before, into(), regions=False)
    node = next(node for node in after.graph if node.op_type == "Attention")
    assert facts.attribute(node, "softmax_precision") == ir.DataType.FLOAT.value
    assert_close(before, after, {"q": normal(2, 2, 3, 4), "m": np.tri(3, dtype=bool)[None, None].repeat(2, 0)}, "fp16")


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize(("low", "dtype"), [(-3.4028235e38, "FLOAT"), (-np.inf, "narrow"), (-1000.0, "narrow")])
def test_an_additive_mask_beyond_the_type_stays_beside_narrower_queries(type: str, low: float, dtype: str) -> None:
    signature = f"{ATTENTION.format(mask='bool[B, 1, S, S]')} <float low, float nought>"
    before = model(text_of("a = Where(m, nought, low) y = Attention(q, q, q, a)", signature))
    set_number(before, "low", low)
    set_number(before, "nought", 0.0)
    after = assert_fires(before, into(type), regions=False)
    node = next(node for node in after.graph if node.op_type == "Attention")
    assert node.inputs[3].dtype == (ir.DataType.FLOAT if dtype == "FLOAT" else TYPES[type])
    mask = np.tri(5, dtype=bool)[None, None].repeat(2, 0)
    assert_close(before, after, {"q": normal(2, 2, 5, 4), "m": mask}, type)


SENSITIVE = {
    "norm": "y = LayerNormalization({0}, z)",
    "softmax": "y = LogSoftmax({0})",
    "reduction": "y = ReduceSum<keepdims = 1>({0})",
    "power": "y = Pow({0}, z)",
    "exponential": "y = Exp({0})",
    "division": "y = Div({0}, x)",
    "scattered sum": 'y = ScatterElements<reduction = "add">({0}, i, {0})',
    "keep": "y = Sigmoid({0})",
}


@pytest.mark.parametrize("name", SENSITIVE)
def test_what_a_narrower_type_would_spoil_stays(name: str) -> None:
    signature = weighing("float[8] z").replace("float[N, 8] y", "float[N, M] y").replace("x)", "x, int64[N, 8] i)")
    before = model(text_of(f"{FEED} {SENSITIVE[name].format('d')}", signature))
    options = {"keep": "Sigm*"} if name == "keep" else {}
    assert refused(before, into(**options), "y")[0] is Reason.SENSITIVE
    assert_refuses(model(text_of(SENSITIVE[name].format("x"), signature)), into(keep="*"), Reason.SENSITIVE)


def test_positions_stay_in_float32() -> None:
    signature = "(float[1, S, 8] x, int64[1, S] at) => (float[1, S, 8] y) <float[1, 4, 1] turns, float[8, 8] w>"
    angles = "p = Cast<to = 1>(at) u = Unsqueeze(p, one) t = MatMul(turns, u) r = Transpose<perm = [0, 2, 1]>(t)"
    turned = "f = Concat<axis = -1>(r, r) k = Cos(f) h = MatMul(x, w) y = Mul(h, k)"
    body = f"one = Constant<value_ints = [1]>() {angles} {turned}"
    before = model(text_of(body, signature))
    after = assert_fires(before, into("bf16"), regions=False)
    kinds = typed(after)
    assert {"MatMul float", "Transpose float", "Concat float", "Cos float", "MatMul bfloat16", "Mul bfloat16"} < set(
        kinds
    )
    # At 3,001 bfloat16 would be 7 off, and the angle anything.
    at = np.arange(3000, 3005)[None]
    assert_close(before, after, {"x": normal(1, 5, 8), "at": at}, "bf16")


def test_a_layer_on_integers_is_no_position() -> None:
    before = model(
        text_of("f = Cast<to = 1>(i) y = MatMul(f, w)", "(int64[N, 8] i) => (float[N, 4] y) <float[8, 4] w>")
    )
    assert "MatMul float16" in typed(assert_fires(before, into(), regions=False))


CONSTANTS = {
    "mask": -3.4028235e38,
    "epsilon": 1e-12,
    "just beyond": 65520.0,
}


@pytest.mark.parametrize(
    ("name", "type"), [("mask", "fp16"), ("mask", "bf16"), ("epsilon", "fp16"), ("just beyond", "fp16")]
)
@pytest.mark.parametrize("operator", ["Add", "Mul", "Max"])
def test_a_constant_that_the_type_cannot_hold_keeps_its_node(name: str, type: str, operator: str) -> None:
    before = with_number(f"{FEED} y = {operator}(d, k)", CONSTANTS[name])
    assert refused(before, into(type), "y")[0] is Reason.CONSTANT
    assert_refuses(with_number(f"y = {operator}(x, k)", CONSTANTS[name]), into(type), Reason.CONSTANT)


def with_number(body: str, number: float) -> ir.Model:
    given = model(text_of(body, weighing("float k")))
    set_number(given, "k", number)
    return given


@pytest.mark.parametrize(
    ("number", "type"),
    [(65504.0, "fp16"), (-np.inf, "fp16"), (1e-12, "bf16"), (7e-5, "fp16"), (0.0, "fp16"), (3.3e38, "bf16")],
)
def test_a_constant_that_fits_is_cast(number: float, type: str) -> None:
    before = with_number(f"{FEED} y = Add(d, k)", number)
    assert f"Add {TYPES[type].name.lower()}" in typed(apply(before, into(type)).model)[-2]


def test_weights_that_underflow_stay() -> None:
    before = model(text_of("y = MatMul(x, w)", "(float[N, 8] x) => (float[N, 8] y) <float[8, 8] w>"))
    weight = before.graph.initializers["w"]
    weight.const_value = ir.tensor(normal(8, 8, scale=1e-8), name="w")
    assert_refuses(before, into(), Reason.CONSTANT)
    assert_fires(before, into("bf16"), regions=False)


def test_what_such_constants_reach_stays_too() -> None:
    signature = "(float[N, 8] x, bool[N, 8] m) => (float[N, 8] y) <float[8, 8] w, float low, float nought>"
    moved = "at = Constant<value_ints = [1]>() k = Where(m, nought, low) e = Unsqueeze(k, at) r = Squeeze(e, at)"
    before = model(text_of(f"{moved} s = MatMul(x, w) y = Add(s, r)", signature))
    set_number(before, "low", -3.4028235e38)
    reason, detail = refused(before, into("bf16"), "y")
    assert (reason, "may reach 3.4e+38" in detail) == (Reason.RANGE, True)


# Where nobody looked at a run; a mask of 40 by 40 is more than the engine takes for a small constant.
MASKS = {
    "large": "t = Unsqueeze(large, at)",
    "filled": "l = Shape(x) f = ConstantOfShape<value = float[1] {-3.4e38}>(l) t = Trilu(f)",
}


@pytest.mark.parametrize("form", MASKS)
def test_masks_of_any_size_and_origin_are_followed(form: str) -> None:
    signature = "(float[1, 40, 8] x) => (float[1, 40, N] y) <float[8, 40] w, float[8, 8] v, float[40, 40] large>"
    weight = "w" if form == "large" else "v"
    body = f"at = Constant<value_ints = [0]>() {MASKS[form]} s = MatMul(x, {weight}) y = Add(s, t)"
    before = model(text_of(body, signature))
    mask = np.triu(np.full((40, 40), -3.4028235e38, np.float32), 1)
    before.graph.initializers["large"].const_value = ir.tensor(mask, name="large")
    assert refused(before, into("fp16"), "y")[0] is Reason.RANGE


# The second product reaches 7e4 where x is 1, and 7e5 where x is 10; the result is small again.
LARGE = "a = MatMul(x, w) b = Mul(a, k) e = Mul(b, b) f = Mul(e, tiny) y = MatMul(f, v)"


def large() -> ir.Model:
    given = model(text_of(LARGE, weighing("float k, float tiny")))
    set_number(given, "k", 100.0)
    set_number(given, "tiny", 1 / 4096)
    return given


def test_activations_that_overflow_stay_in_float32() -> None:
    before, inputs = large(), {"x": normal(4, 8, scale=4.0)}
    assert evaluate(before, inputs)["y"].max() < 65504 < magnitudes(before, [inputs])["e"]
    blind = assert_fires(before, into(), regions=False)
    assert not np.isfinite(evaluate(blind, inputs, rounded=True)["y"]).all(), "the model proves nothing"
    seen = assert_fires(before, into(observe=lambda given: magnitudes(given, [inputs])), regions=False)
    kept = kept_in_float32(seen)
    assert kept["e (Mul)"].startswith("RANGE: e reaches")
    assert kept["f (Mul)"].startswith("RANGE: e reaches")
    assert {"MatMul float16"} < set(typed(seen))
    assert_close(before, seen, inputs, "fp16")
    wide = assert_fires(before, into("bf16", observe=lambda given: magnitudes(given, [inputs])), regions=False)
    assert not kept_in_float32(wide)
    assert_close(before, wide, inputs, "bf16")


@pytest.mark.parametrize(("seen", "is_kept"), [(16376.0, False), (16377.0, True), (np.nan, True)])
def test_observed_numbers_leave_room_for_other_inputs(seen: float, is_kept: bool) -> None:
    before = model(text_of("y = MatMul(x, w)", "(float[N, 8] x) => (float[N, 8] y) <float[8, 8] w>"))
    tested = into(observe=lambda given: {"x": 1.0, "y": seen})
    if is_kept:
        assert_refuses(before, tested, Reason.RANGE)
    else:
        assert_fires(before, tested, regions=False)


def test_what_was_seen_is_not_forgotten_by_a_run_that_sees_nothing() -> None:
    before = model(text_of("a = MatMul(x, w) y = MatMul(a, v)"))
    seen = assert_fires(before, into(observe=lambda given: {"y": 1e5}), regions=False)
    assert list(kept_in_float32(seen)) == ["y (MatMul)"]
    assert not apply(seen, into()).applied


def test_scores_inside_of_attention_are_bound_by_queries_and_keys() -> None:
    before = model(text_of("y = Attention(q, q, q, m)", ATTENTION.format(mask="bool[B, 1, S, S]")))
    assert_fires(before, into(observe=lambda given: {"q": 100.0, "y": 1.0}), regions=False)
    assert_refuses(before, into(observe=lambda given: {"q": 200.0, "y": 1.0}), Reason.RANGE)


def test_values_of_attention_are_of_the_type_of_the_queries() -> None:
    """Its definition multiplies them by the scores, whatever types ONNX gives them."""
    before = model(
        text_of("y = Attention(q, q, v)", "(float[B, 2, S, 4] q, float[B, 2, S, 4] v) => (float[B, 2, S, 4] y)")
    )
    assert_refuses(before, into(observe=lambda given: {"q": 1.0, "v": 17000.0, "y": 16000.0}), Reason.RANGE)


def test_an_operator_without_the_type_stays() -> None:
    celu = model(text_of(f"{FEED} y = Celu(d)"))
    assert refused(celu, into(), "y") == (Reason.DTYPE, "opset 24 does not define it for FLOAT16")
    other = model(
        text_of(f"{FEED} y = com.microsoft.QuickGelu(d)").replace('"": 24', '"": 24, "com.microsoft": 1'), infer=False
    )
    for value in (value for node in other.graph for value in node.outputs):
        value.type = ir.TensorType(ir.DataType.FLOAT)
    assert refused(other, into(), "y")[0] is Reason.DTYPE
    text = text_of(f"{FEED} y = mine.Div(d)").replace('"": 24', '"": 24, "mine": 1')
    own = model(text, infer=False)
    for value in (value for node in own.graph for value in node.outputs):
        value.type = ir.TensorType(ir.DataType.FLOAT)
    assert refused(own, into(), "y")[0] is Reason.DTYPE
    old = text_of("y = MatMul(x, x)", "(float[8, 8] x) => (float[8, 8] y)").replace("24", "12")
    assert_refuses(model(old), into("bf16"), Reason.DTYPE)
    assert_fires(model(old), into("fp16"), regions=False)


def test_an_unknown_type_is_no_float32() -> None:
    before = model(text_of(f"{FEED} y = Softmax(d)"), infer=False)
    assert_refuses(before, into(), Reason.UNKNOWN)


def test_casts_around_nodes_without_a_product_are_not_worth_it() -> None:
    before = model(text_of("s = Softmax(x) a = Neg(s) b = Sigmoid(a) y = Softmax(b)"))
    outcome = assert_refuses(before, into(), Reason.SENSITIVE)
    reasons = {each.node: each.reason for each in outcome.refusals}
    assert (reasons["a (Neg)"], reasons["b (Sigmoid)"]) == (Reason.STRUCTURE, Reason.STRUCTURE)


@pytest.mark.parametrize("dtype", ["double", "float16", "bfloat16"])
def test_other_types_stay(dtype: str) -> None:
    before = model(
        text_of("y = MatMul(x, w)", "(float[N, 8] x) => (float[N, 8] y) <float[8, 8] w>").replace("float", dtype)
    )
    outcome = apply(before, into())
    assert (outcome.applied, outcome.refusals) == (0, ())


@pytest.mark.parametrize("wrong", [{"type": "fp12"}, {"type": "int8"}, {"keep": "NoSuchNode"}])
def test_wrong_options_are_refused(wrong: Mapping[str, str]) -> None:
    with pytest.raises(PipelineError, match=f"precision.{next(iter(wrong))}"):
        precision(model(text_of(f"{FEED} y = Neg(d)")), **wrong)


def test_pipeline_text_may_leave_the_name_of_the_type_out() -> None:
    for text in ("precision(bf16)", "precision(type=bf16)"):
        assert str(CATALOGUE.parse(text, "onnx")) == "precision(type=bf16)"
    assert str(CATALOGUE.parse('precision(fp16,keep="Gelu,h*")', "onnx")) == 'precision(type=fp16,keep="Gelu,h*")'
    with pytest.raises(PipelineError, match="observe"):
        CATALOGUE.parse("precision(observe=x)", "onnx")


@pytest.mark.parametrize("type", TYPES)
@given(rows=st.sampled_from([1, 2, 7]), seed=st.integers(0, 1000), scale=st.sampled_from([0.05, 1.0, 3.0]))
def test_random_shapes_keep_the_numbers_within_the_tolerance_of_the_type(
    type: str, rows: int, seed: int, scale: float
) -> None:
    body = f"{FEED} e = Add(d, x) n = LayerNormalization(e, z) y = Sigmoid(n)"
    before = model(text_of(body, weighing("float[8] z")), seed=seed)
    after = apply(before, into(type)).model
    assert_close(before, after, {"x": normal(rows, 8, seed=seed, scale=scale)}, type)
