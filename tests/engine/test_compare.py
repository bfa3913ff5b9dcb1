"""How far apart two tensors may be."""

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.compare import TOLERANCES, Tolerance, compare, scale_of


def differ(expected: np.ndarray, actual: np.ndarray) -> list[str]:
    return [each.kind for each in compare({"y": expected}, {"y": actual})]


NORMAL = np.random.default_rng(0).standard_normal((50, 40))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_rounding_once_is_allowed_and_a_hundredth_of_the_scale_is_not_but_for_bfloat16(dtype: type) -> None:
    expected = NORMAL.astype(dtype)
    tolerance = TOLERANCES[ir.DataType.from_numpy(np.dtype(dtype))].relative
    assert differ(expected, np.nextafter(expected.astype(np.float64), 9).astype(dtype)) == []
    assert differ(expected, (expected.astype(np.float64) + 0.3 * tolerance).astype(dtype)) == []
    assert differ(
        expected, (expected.astype(np.float64) + 4 * tolerance + 0.02 * (tolerance > 0.05)).astype(dtype)
    ) == ["value"]


def test_a_reference_in_double_is_judged_by_the_narrower_dtype() -> None:
    assert differ(NORMAL, NORMAL.astype(np.float32)) == []
    assert differ(NORMAL, NORMAL.astype(np.float32) + np.float32(1e-3)) == ["value"]
    assert differ(NORMAL.astype(np.float32), NORMAL) == ["dtype"], "only the expected side may be the reference"


def test_numbers_near_zero_are_judged_by_the_size_of_their_tensor() -> None:
    expected = NORMAL.astype(np.float32)
    expected[0, 0] = 1e-9
    actual = expected.copy()
    actual[0, 0] = 3e-6
    assert differ(expected, actual) == []


def test_the_huge_numbers_of_a_mask_excuse_nothing() -> None:
    expected = NORMAL.astype(np.float32)
    expected[:, 20:] = np.finfo(np.float32).min
    actual = expected.copy()
    actual[3, 3] += 1e-3
    assert differ(expected, actual) == ["value"]


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_scale_of_mostly_huge_numbers_is_that_of_the_rest(share: float) -> None:
    expected = NORMAL.copy()
    expected[:, : int(share * 40)] = -1e9
    assert scale_of(expected).min() < 10


def test_a_zero_tensor_allows_the_absolute_tolerance_only() -> None:
    zero = np.zeros(4, np.float32)
    assert differ(zero, zero + np.float32(5e-7)) == []
    assert differ(zero, zero + np.float32(5e-6)) == ["value"]


def test_nan_equals_nan_and_nothing_else() -> None:
    expected = np.float32([np.nan, 1])
    assert differ(expected, expected.copy()) == []
    assert differ(expected, np.float32([0, 1])) == ["nan"]
    assert differ(np.float32([0, 1]), expected) == ["nan"]


def test_infinities_must_have_place_and_sign() -> None:
    expected = np.float32([np.inf, 1])
    assert differ(expected, expected.copy()) == []
    assert differ(expected, np.float32([-np.inf, 1])) == ["infinity"]
    assert differ(expected, np.float32([3e38, 1])) == ["infinity"]
    assert differ(np.float32([1, 1]), expected) == ["infinity"]


def test_a_reference_beyond_the_narrower_dtype_is_infinite_there() -> None:
    assert differ(np.array([1e39, 1.0]), np.float32([np.inf, 1])) == []


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64, np.uint16])
def test_integers_and_booleans_must_be_equal(dtype: type) -> None:
    expected = np.array([0, 1, 1], dtype)
    assert differ(expected, expected.copy()) == []
    assert differ(expected, np.array([0, 1, 0], dtype)) == ["value"]


def test_text_must_be_equal() -> None:
    assert differ(np.array(["a", "b"], object), np.array(["a", "b"], object)) == []
    assert differ(np.array(["a", "b"], object), np.array(["a", "c"], object)) == ["value"]


def test_complex_numbers_are_compared_by_distance() -> None:
    expected = NORMAL.astype(np.complex64)
    assert differ(expected, expected + np.complex64(1e-7j)) == []
    assert differ(expected, expected + np.complex64(1e-2j)) == ["value"]


def test_shape_dtype_and_names_must_be_equal() -> None:
    assert differ(np.zeros((2, 3)), np.zeros((3, 2))) == ["shape"]
    assert differ(np.zeros((1, 3)), np.zeros(3)) == ["shape"], "nothing is broadcast"
    assert differ(np.zeros(3, np.int32), np.zeros(3, np.int64)) == ["dtype"]
    found = compare({"a": np.zeros(1)}, {"b": np.zeros(1)})
    assert [(each.output, each.kind) for each in found] == [("a", "missing"), ("b", "missing")]


def test_empty_outputs_are_equal_if_their_shapes_are() -> None:
    assert differ(np.zeros((0, 3)), np.zeros((0, 3))) == []
    assert differ(np.zeros((0, 3)), np.zeros((0, 4))) == ["shape"]


def test_scalars_are_compared() -> None:
    assert differ(np.float32(1), np.float32(1)) == []
    assert differ(np.array(1, np.float32), np.array(2, np.float32)) == ["value"]


def test_the_message_names_the_worst_place() -> None:
    actual = np.float32([[0, 0], [0, 7]])
    text = str(compare({"y": np.zeros((2, 2), np.float32)}, {"y": actual})[0])
    assert text.startswith("y: 7 where 0 is due, at [1, 1]; the difference is 7")


def test_a_wider_tolerance_is_used_when_given() -> None:
    given = {ir.DataType.FLOAT: Tolerance(1.0, 0.0)}
    assert compare({"y": np.zeros(1, np.float32)}, {"y": np.full(1, 0.5, np.float32)}, given) == []
