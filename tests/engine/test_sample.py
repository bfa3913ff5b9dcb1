"""Inputs that a model takes: sizes by name, numbers by use."""

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.roles import Kind, role_of
from graphwright.engine.sample import CHOICES, bind_dims, sample_inputs, size_of
from graphwright.errors import RequestError

HEADER = '<ir_version: 10, opset_import: ["": 20]> '


def model_of(text: str) -> ir.Model:
    return ir.from_onnx_text(HEADER + text)


def draw(text: str, seed: int = 0, choice: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    model = model_of(text)
    return sample_inputs(model, bind_dims(model.graph.inputs, choice, sizes), seed)


def test_dimensions_of_one_name_get_one_size_and_expressions_follow() -> None:
    x = ir.Value(name="x", shape=ir.Shape(["batch", "seq", 4]))
    y = ir.Value(name="y", shape=ir.Shape(["batch", ir.SymbolicDim("past + seq"), "heads"]))
    shapes = bind_dims([x, y])
    assert shapes["x"][0] == shapes["y"][0]
    assert len({*shapes["x"], *shapes["y"]}) > 3, "sizes under different names must not coincide"
    assert bind_dims([x, y], sizes={"past": 10, "seq": 7})["y"][1] == 17


def test_the_usual_choices_have_a_batch_above_one_and_sizes_of_one() -> None:
    x = ir.Value(name="x", shape=ir.Shape(["batch", "seq"]))
    found = [bind_dims([x], choice)["x"] for choice in range(len(CHOICES))]
    assert found[:3] == [(3, 5), (2, 1), (1, 7)]


def test_unknown_dimensions_get_a_common_size() -> None:
    x = ir.Value(name="x", shape=ir.Shape([None, 2, None]))
    assert bind_dims([x])["x"] == (4, 2, 4)


def test_an_unknown_rank_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="input x: found a value whose number of axes is not known"):
        bind_dims([ir.Value(name="x")])


@pytest.mark.parametrize("text", ["9**9**9", "a" * 500, "x[0]", "seq-len)", "2*(", ""])
def test_a_hostile_dimension_is_a_name_and_not_computed(text: str) -> None:
    value = ir.Value(name="x", shape=ir.Shape([text]))
    assert bind_dims([value])["x"] in [(3,), (4,)]
    assert size_of(ir.SymbolicDim(text), {"seq": 3}) is None


@pytest.mark.parametrize(
    "body",
    [
        "(float[9, 4] t, int64[M, N] i) => (y) {y = Gather(t, i)}",
        "(float[4, 9] t, int64[M, N] i) => (y) {y = Gather<axis = -1>(t, i)}",
        "(float[V, 4] t, int32[M, N] i) => (y) {w = Cast<to = 7>(i) f = Flatten(w) y = Gather(t, f)}",
        "(float[11, 4] t, int64[M, N] i) => (y) {c = Constant<value_int=2>() j = Add(c, i) y = Gather(t, j)}",
        "(float[50, 4] t, float[9, 4] u, int64[M, N] i) => (y, z) {y = Gather(t, i) z = Gather(u, i)}",
        "(int64[M, N] i) => (y) {d = Constant<value = int64 {9}>() v = Constant<value = float[2] {0, 1}>() "
        "y = OneHot(i, d, v)}",
    ],
)
def test_indices_stay_inside_every_table_and_reach_its_end(body: str) -> None:
    indices = draw("g " + body, M=40, N=40, V=9)["i"]
    assert (indices.min(), indices.max()) == (0, 8)


def test_indices_are_followed_into_functions_and_loop_bodies() -> None:
    model = model_of(
        "g (float[9, 4] t, int64[N] i) => (y) {y = local.look(i, t)}"
        '<domain: "local", opset_import: ["": 20]> look (a, b) => (c) {d = Identity(a) c = Gather(b, d)}'
    )
    model.opset_imports["local"] = 1
    assert role_of(model.graph.inputs[1], model).kind is Kind.INDEX


def test_an_index_wins_over_a_comparison() -> None:
    body = "{y = Gather(t, i) p = Constant<value_int = 1>() z = Equal(i, p)}"
    text = "g (float[9, 4] t, int64[N] i) => (y, z) " + body
    assert draw(text, N=100)["i"].max() == 8


def test_indices_into_a_table_of_unknown_size_are_refused() -> None:
    with pytest.raises(RequestError, match="input i: found indices into u"):
        draw("g (float[A, 4] t, int64[N] s, int64[N] i) => (y) {u = NonZero(t) y = Gather(u, i)}")


@pytest.mark.parametrize(
    "body",
    [
        "{y = Cast<to = 1>(m)}",
        "{u = Unsqueeze(m, a) y = Cast<to = 9>(u)} <int64[1] a = {1}>",
        "{z = Constant<value = int64 {0}>() y = Equal(m, z)}",
        "{z = Constant<value = int64 {1}>() y = CumSum(m, z)}",
    ],
)
def test_a_mask_has_ones_with_padding_right_and_left_and_no_empty_row(body: str) -> None:
    body = body.split("<int64")[0] if "a = {1}" in body else body
    head = "g (int64[B, S] m) => (y) " + ("<int64[1] a = {1}>" if "(m, a)" in body else "")
    mask = draw(head + body, B=6, S=9)["m"]
    assert set(np.unique(mask)) == {0, 1}
    assert mask.any(axis=1).all()
    assert mask[0].all()
    assert any(row[0] and not row[-1] for row in mask), "no row is padded at the right"
    assert any(row[-1] and not row[0] for row in mask), "no row is padded at the left"


def test_a_mask_of_a_single_row_is_padded_too_and_of_length_one_is_full() -> None:
    text = "g (bool[B, S] m, float[B, S] x) => (y) {y = Where(m, x, x)}"
    assert not draw(text, B=1, S=9)["m"].all()
    assert draw(text, B=3, S=1)["m"].all()


def test_sizes_are_small_and_positive() -> None:
    sizes = draw("g (float[N] x, int64[1] n) => (y) {y = Expand(x, n)}", seed=5)["n"]
    assert 1 <= sizes.min() <= sizes.max() <= 4


def test_integers_that_divide_are_never_zero_and_floats_that_do_keep_their_signs() -> None:
    inputs = "int64[99] a, int64[99] b, float[99] c, float[99] d"
    text = f"g ({inputs}) => (y, z, w) {{y = Div(a, b) z = Mod(a, b) w = Div(c, d)}}"
    drawn = draw(text)
    assert drawn["b"].min() >= 1 and drawn["a"].min() < 0
    assert drawn["d"].min() < 0 < drawn["d"].max()


def test_names_mean_nothing() -> None:
    body = "(float[9, 4] t, int64[N] {name}) => (y) {{y = Gather(t, {name})}}"
    drawn = [draw("g " + body.format(name=name), N=50)[name] for name in ("attention_mask", "q")]
    assert np.array_equal(*drawn)


def test_floats_have_both_signs_unless_a_root_is_taken_of_them() -> None:
    inputs = draw("g (float[100] x, float16[100] v) => (y, z) {y = Neg(x) z = Sqrt(v)}")
    assert inputs["x"].min() < 0 < inputs["x"].max()
    assert inputs["v"].min() > 0
    assert inputs["v"].dtype == np.float16


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    text = "g (float[5] x) => (y) {y = Neg(x)}"
    assert np.array_equal(draw(text, 3)["x"], draw(text, 3)["x"])
    assert not np.array_equal(draw(text, 3)["x"], draw(text, 4)["x"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("g (string[N] x) => (y) {y = Identity(x)}", "text"),
        ("g (seq(float[N]) x) => (y) {y = SequenceLength(x)}", "a sequence"),
        ("g (int64 x) => (y) {y = Mul(x, x)}", "a single integer"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_its_reason(text: str, found: str) -> None:
    model = model_of(text)
    with pytest.raises(RequestError, match=f"input x: found {found}"):
        sample_inputs(model, {"x": ()})


def test_a_shape_that_no_array_has_is_refused() -> None:
    model = model_of("g (float[N] x) => (y) {y = Neg(x)}")
    with pytest.raises(RequestError, match="more elements than an array can have"):
        sample_inputs(model, {"x": (2**62,)})


def test_inputs_with_a_default_are_left_alone() -> None:
    model = model_of("g (float[2] x, float[2] w) => (y) <float[2] w = {1, 2}> {y = Mul(x, w)}")
    assert list(sample_inputs(model, {"x": (2,)})) == ["x"]
