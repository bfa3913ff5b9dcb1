"""Running sums of integers: masks by floats, other integers exactly, floats left alone."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lower.lower_integer_cumsum import LOWER_INTEGER_CUMSUM
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model


def sums(body: str, x: str = "int64[B,N] x", y: str = "int64[B,N] y", consts: str = "int64 axis = {1}") -> ir.Model:
    return model(f'<ir_version: 10, opset_import: ["": 24]> g ({x}) => ({y}) <{consts}> {{ {body} }}')


MASK = "keep = Not(x) bits = Cast <to = 7> (keep) "
EXAMPLES = {
    "mask": '<ir_version: 10, opset_import: ["": 24]> g (bool[B,N] x) => (int64[B,N] y) <int64 axis = {1}> '
    f"{{ {MASK} y = CumSum(bits, axis) }}",
}


def operators(found: ir.Model) -> list[str]:
    return [node.op_type for node in found.graph]


@pytest.mark.parametrize("attributes", ["", "<exclusive = 1>", "<reverse = 1>", "<exclusive = 1, reverse = 1>"])
def test_a_mask_is_counted_in_floats(attributes: str) -> None:
    before = sums(f"{MASK} y = CumSum {attributes} (bits, axis)", "bool[B,N] x")
    body = f"{MASK} f = Cast <to = 1> (bits) s = CumSum {attributes} (f, axis) y = Cast <to = 7> (s)"
    after = assert_fires(before, LOWER_INTEGER_CUMSUM, 1, sums(body, "bool[B,N] x"))
    assert_equivalent(before, after, sizes={"N": 5})
    assert unsupported(before) and not unsupported(after)


def test_casts_and_moves_in_between_are_seen_through() -> None:
    between = "bits = Cast <to = 6> (x) wide = Cast <to = 7> (bits) moved = Transpose <perm = [1, 0]> (wide)"
    before = sums(f"{between} y = CumSum(moved, axis)", "bool[B,N] x", "int64[N,B] y")
    assert operators(assert_fires(before, LOWER_INTEGER_CUMSUM)).count("CumSum") == 1


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("axis", [0, 1, -1])
@given(exclusive=st.booleans(), reverse=st.booleans(), sizes=st.tuples(*[st.sampled_from([1, 2, 7])] * 3))
def test_any_integers_are_added_exactly(
    dtype: type, axis: int, exclusive: bool, reverse: bool, sizes: tuple[int, int, int]
) -> None:
    kind = np.dtype(dtype).name
    attributes = f"<exclusive = {int(exclusive)}, reverse = {int(reverse)}>"
    shape = f"{kind}[B,N,M]"
    before = sums(f"y = CumSum {attributes} (x, axis)", f"{shape} x", f"{shape} y", f"int64 axis = {{{axis}}}")
    outcome = apply(before, LOWER_INTEGER_CUMSUM)
    assert outcome.applied == 1 and "CumSum" not in operators(outcome.model)
    assert not unsupported(outcome.model)
    # Numbers that float32 would round.
    inputs = {"x": np.random.default_rng(1).integers(2**25, 2**26, sizes).astype(dtype)}
    np.testing.assert_array_equal(evaluate(outcome.model, inputs)["y"], evaluate(before, inputs)["y"])


def test_integers_that_only_look_like_a_mask_keep_their_digits() -> None:
    near = [
        sums("z = Cast <to = 7> (x) y = CumSum(z, axis)", "int32[B,N] x"),
        sums("b = Cast <to = 7> (x) z = Add(b, b) y = CumSum(z, axis)", "bool[B,N] x"),
        sums("h = Cast <to = 1> (x) z = Cast <to = 7> (h) y = CumSum(z, axis)", "int64[B,N] x"),
    ]
    for before in near:
        assert "CumSum" not in operators(assert_fires(before, LOWER_INTEGER_CUMSUM))


def test_floats_stay() -> None:
    assert_refuses(sums("y = CumSum(x, axis)", "float[B,N] x", "float[B,N] y"), LOWER_INTEGER_CUMSUM, Reason.DTYPE)


def test_a_computed_axis_stays() -> None:
    before = sums("y = CumSum(x, a)", "int64[B,N] x, int64 a", consts="")
    assert_refuses(before, LOWER_INTEGER_CUMSUM, Reason.CONSTANT)


def test_an_unknown_rank_stays() -> None:
    before = sums("y = CumSum(x, axis)")
    before.graph.inputs[0].shape = None
    assert_refuses(before, LOWER_INTEGER_CUMSUM, Reason.UNKNOWN)


def test_operator_sets_whose_shape_gives_all_sizes() -> None:
    text = "g (int64[B,N] x) => (int64[B,N] y) <int64 axis = {1}> { y = CumSum(x, axis) }"
    before = model(f'<ir_version: 10, opset_import: ["": 13]> {text}')
    assert_equivalent(before, assert_fires(before, LOWER_INTEGER_CUMSUM), sizes={"N": 5})
