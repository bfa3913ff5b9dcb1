"""Two transposes in a row are one, or none."""

import itertools
from collections.abc import Sequence

import onnx_ir as ir
import pytest

from graphwright.engine.observe import Reason
from graphwright.passes.lower.merge_transposes import MERGE_TRANSPOSES
from graphwright.testing import assert_equivalent, assert_fires, assert_refuses, model


def two(first: Sequence[int], second: Sequence[int]) -> ir.Model:
    return model(
        f'<ir_version: 10, opset_import: ["": 24]> g (float[A,B,C] x) => (y)'
        f"{{ t = Transpose <perm = {list(first)}> (x) y = Transpose <perm = {list(second)}> (t) }}"
    )


ORDERS = list(itertools.permutations(range(3)))


@pytest.mark.parametrize("first", ORDERS)
@pytest.mark.parametrize("second", ORDERS)
def test_every_pair_of_three_axes(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    before = two(first, second)
    after = assert_fires(before, MERGE_TRANSPOSES)
    composed = [first[axis] for axis in second]
    (node,) = after.graph
    assert node.op_type == ("Identity" if composed == [0, 1, 2] else "Transpose")
    assert_equivalent(before, after, sizes={"A": 2, "B": 3, "C": 5})
    assert_equivalent(before, after, sizes={"A": 2, "B": 2, "C": 2})


def test_the_same_turn_twice_is_no_identity_unless_it_undoes_itself() -> None:
    """Equal permutations cancel only where they are involutions; a public optimizer always removes them."""
    after = assert_fires(two((1, 2, 0), (1, 2, 0)), MERGE_TRANSPOSES)
    assert list(after.graph.node(0).attributes["perm"].as_ints()) == [2, 0, 1]


def test_three_in_a_row_become_one() -> None:
    text = """<ir_version: 10, opset_import: ["": 24]> g (float[A,B,C] x) => (y) {
        a = Transpose <perm = [1, 2, 0]> (x) b = Transpose <perm = [0, 2, 1]> (a)
        y = Transpose <perm = [2, 1, 0]> (b) }"""
    before = model(text)
    after = assert_fires(before, MERGE_TRANSPOSES, 2)
    assert len(list(after.graph)) == 1
    assert_equivalent(before, after)


def test_the_first_stays_where_others_use_it() -> None:
    text = """<ir_version: 10, opset_import: ["": 24]> g (float[A,B] x) => (float[A,B] y, float[B,A] z) {
        t = Transpose <perm = [1, 0]> (x) u = Transpose <perm = [1, 0]> (t) y = Relu(u) z = Neg(t) }"""
    before = model(text)
    after = assert_fires(before, MERGE_TRANSPOSES)
    assert sorted(node.op_type for node in after.graph) == ["Neg", "Relu", "Transpose"]
    assert_equivalent(before, after)


def test_refuses_a_permutation_that_is_not_given() -> None:
    for first, second in (("", "<perm = [1, 0]>"), ("<perm = [1, 0]>", "")):
        text = (
            f'<ir_version: 10, opset_import: ["": 24]> g (float[A,B] x) => (y) {{ t = Transpose '
            f"{first} (x) y = Transpose {second} (t) }}"
        )
        assert_refuses(model(text), MERGE_TRANSPOSES, Reason.ATTRIBUTE)


def test_refuses_an_older_opset() -> None:
    before = two((1, 0, 2), (1, 0, 2))
    before.graph.opset_imports[""] = 12
    assert_refuses(before, MERGE_TRANSPOSES, Reason.OPSET)


def test_near_misses_stay() -> None:
    text = """<ir_version: 10, opset_import: ["": 24]> g (float[A,B] x) => (y) {
        t = Transpose <perm = [1, 0]> (x) r = Relu(t) y = Transpose <perm = [1, 0]> (r) }"""
    assert_refuses(model(text), MERGE_TRANSPOSES, Reason.STRUCTURE)


def test_not_across_the_border_of_a_branch() -> None:
    text = """<ir_version: 10, opset_import: ["": 24]> g (float[A,B] x, bool on) => (float[A,B] y) {
        t = Transpose <perm = [1, 0]> (x)
        y = If (on) <then_branch = t () => (float[A,B] a) { a = Transpose <perm = [1, 0]> (t) },
            else_branch = e () => (float[A,B] b) { b = Neg(x) }> }"""
    assert_refuses(model(text), MERGE_TRANSPOSES, Reason.STRUCTURE)


def test_merges_inside_a_function() -> None:
    text = """<ir_version: 10, opset_import: ["": 24, "own": 1]> g (float[A,B,C] x) => (float[C,B,A] y) {
        y = own.turn(x) }
        <domain: "own", opset_import: ["": 24]> turn (x) => (y) {
        t = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [1, 0, 2]> (t) }"""
    before = model(text)
    assert_equivalent(before, assert_fires(before, MERGE_TRANSPOSES))


@pytest.mark.parametrize("dtype", ["bool", "int8", "float16", "bfloat16", "string"])
def test_any_type(dtype: str) -> None:
    text = f"""<ir_version: 10, opset_import: ["": 24]> g ({dtype}[A,B,C] x) => (y) {{
        t = Transpose <perm = [1, 2, 0]> (x) y = Transpose <perm = [1, 0, 2]> (t) }}"""
    assert_fires(model(text), MERGE_TRANSPOSES)
