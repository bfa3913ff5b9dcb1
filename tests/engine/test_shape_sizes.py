"""engine/shapes/sizes: arithmetic on names says what arithmetic on numbers says."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from graphwright.engine.shapes import sizes
from graphwright.engine.shapes.slices import sliced

EXPRESSIONS = [
    "A",
    "B",
    "A + B",
    "2*A",
    "A*B + 3",
    "Min(4, A)",
    "Max(0, B - 2)",
    "(A//2)",
    "A - B",
    "3*A + 2*B - 5",
    "(A//3) + B - 4",
    "2*((A + 1)//3)",
    0,
    1,
    2,
    7,
]
OPERATIONS = {
    sizes.add: lambda x, y: x + y,
    sizes.subtract: lambda x, y: x - y,
    sizes.multiply: lambda x, y: x * y,
    sizes.minimum: min,
    sizes.maximum: max,
    sizes.floor_divide: lambda x, y: x // y if y else None,
    sizes.quotient: lambda x, y: x // y if y else None,
    sizes.steps: lambda x, y: x // y,
    sizes.clipped_difference: lambda x, y: max(0, x - y),
}


def number(size: int | str, named: dict[str, int]) -> int:
    return size if isinstance(size, int) else int(eval(size, {"Min": min, "Max": max}, dict(named)))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.__name__)
@given(
    first=st.sampled_from(EXPRESSIONS),
    second=st.sampled_from(EXPRESSIONS),
    a=st.integers(0, 6),
    b=st.integers(0, 6),
)
def test_arithmetic_on_names_is_arithmetic_on_numbers(operation, first, second, a: int, b: int) -> None:
    named = {"A": a, "B": b}
    if operation is sizes.steps and not (isinstance(second, int) and second > 0):
        return  # It divides by numbers above zero.
    result = operation(first, second)
    real = OPERATIONS[operation](number(first, named), number(second, named))
    assert result is None or real is None or number(result, named) == real
    assert sizes.canonical(result) == result


@given(
    first=st.sampled_from(EXPRESSIONS),
    second=st.sampled_from(EXPRESSIONS),
    a=st.integers(0, 6),
    b=st.integers(0, 6),
)
def test_a_broadcast_size_is_that_of_every_run_that_works(first, second, a: int, b: int) -> None:
    named = {"A": a, "B": b}
    one, other = number(first, named), number(second, named)
    result = sizes.broadcast(first, second)
    if result is not None and min(one, other) >= 0 and (one == other or 1 in (one, other)):
        assert number(result, named) == (other if one == 1 else one)


SLICE = ReferenceEvaluator(
    onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]>'
        "g (float[N] x, int64[1] s, int64[1] e, int64[1] z, int64[1] k) => (y) {y = Slice(x, s, e, z, k)}"
    )
)
BOUNDS = st.sampled_from([0, 1, 2, 4, -1, -2, -9, 2**63 - 1, -(2**63), "A", "B", "A + B", "Min(4, A)"])


# Few of the combinations of bounds are ones that a size can be told for.
@settings(max_examples=400)
@given(
    size=st.sampled_from(["A", "A + B", 4]),
    start=BOUNDS,
    end=BOUNDS,
    step=st.sampled_from([1, 2, 3, -1, -2]),
    a=st.integers(0, 6),
    b=st.integers(0, 6),
)
def test_a_sliced_size_counts_what_slice_takes(size, start, end, step: int, a: int, b: int) -> None:
    named = {"A": a, "B": b}
    result = sliced(size, start, end, step)
    data = np.zeros(number(size, named), np.float32)
    bounds = [np.array([number(each, named)]) for each in (start, end, 0, step)]
    (real,) = SLICE.run(None, dict(zip("xsezk", [data, *bounds], strict=True)))
    assert result is None or number(result, named) == len(real)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("((samples//5)//2)", "(samples//10)"),
        ("(((samples - 10)//5 + 1) - 3)//2 + 1", "(samples//10) - 1"),
        ("(4*A + 6)//4", "A + 1"),
        ("(A - 3)//5", "((A + 2)//5) - 1"),
        ("(2*(A//5))//2", "(A//5)"),
        ("(2*A + 1)//4", "(A//2)"),
        ("(6*A + 4)//9", "((2*A + 1)//3)"),
        ("9//4", "2"),
        ("(3*(A//5))//2", "(((A//5))//2) + (A//5)"),
    ],
)
def test_multiples_leave_a_division_and_divisions_in_divisions_are_one(text: str, canonical: str) -> None:
    assert sizes.canonical(text) == sizes.canonical(canonical)
    for samples in range(40):
        assert number(sizes.canonical(text), {"samples": samples, "A": samples}) == number(
            text, {"samples": samples, "A": samples}
        )


@given(st.text(max_size=30))
def test_any_text_can_be_the_name_of_a_size(text: str) -> None:
    once = sizes.canonical(text)
    assert once == sizes.canonical(once)


@pytest.mark.parametrize("name", ["seq-len", "batch.1", "class", "1if", "a" * 500, "(" * 150, "A/B", "f(A)", "A + "])
def test_what_is_no_expression_is_one_name(name: str) -> None:
    assert sizes.canonical(name) == name
    assert sizes.multiply(name, 1) in (name, None)
