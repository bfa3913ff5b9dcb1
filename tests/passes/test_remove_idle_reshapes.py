"""remove-idle-reshapes: takes out what changes no shape, and nothing else."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lift.remove_idle_reshapes import REMOVE_IDLE_RESHAPES as RULE
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["" : 21]> g (float[B, S, 4] x) => (float[B, S, 4] y)'


def graph(body: str, value: str = "float[B, S, 4] r", head: str = HEAD) -> ir.Model:
    return model(f"{head} <{value}> {{ {body} }}", infer=False)


@pytest.mark.parametrize("operator", ["Reshape", "Expand"])
def test_an_idle_node_goes(operator: str) -> None:
    before = graph(f"s = Shape(x) r = {operator}(x, s) y = Relu(r)")
    after = assert_fires(before, RULE)
    assert [node.op_type for node in after.graph] == ["Relu"]


def test_an_idle_node_that_gives_the_output_leaves_its_name() -> None:
    before = graph("r = Relu(x) s = Shape(r) y = Reshape(r, s)")
    after = assert_fires(before, RULE)
    assert after.graph.outputs[0].name == "y"


def test_two_in_a_row_go() -> None:
    before = graph("s = Shape(x) r = Reshape(x, s) q = Expand(r, s) y = Relu(q)", "float[B, S, 4] r, float[B, S, 4] q")
    assert len(assert_fires(before, RULE, times=2).graph) == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("float[S, B, 4] r", Reason.UNKNOWN),
        ("float[B, M, 4] r", Reason.UNKNOWN),
        ("float[B, 1, 4] r", Reason.UNKNOWN),
        ("float[B, S, 2] r", Reason.STRUCTURE),
        ("float[B, S, 2, 2] r", Reason.STRUCTURE),
    ],
)
def test_stays_where_shapes_differ_or_may_differ(value: str, reason: Reason) -> None:
    head = HEAD.replace("(float[B, S, 4] x)", "(float[B, S, 4] x, int64[K] s)").replace(
        "=> (float[B, S, 4] y)", "=> (float y)"
    )
    before = graph("r = Reshape(x, s) t = Abs(r) y = ReduceSum<keepdims = 0>(t)", value, head)
    assert_refuses(before, RULE, reason)


def test_refuses_an_unknown_shape() -> None:
    before = graph("s = Shape(x) r = Reshape(x, s) y = Relu(r)")
    before.graph[1].outputs[0].shape = ir.Shape([None, None, 4])
    assert_refuses(before, RULE, Reason.UNKNOWN)


@given(batch=st.sampled_from([1, 2, 3]), length=st.sampled_from([1, 2, 7]))
def test_the_numbers_stay(batch: int, length: int) -> None:
    before = graph("s = Shape(x) r = Reshape(x, s) y = Tanh(r)")
    assert_equivalent(before, assert_fires(before, RULE), sizes={"B": batch, "S": length})


def test_a_second_run_finds_nothing() -> None:
    once = apply(graph("s = Shape(x) r = Reshape(x, s) y = Tanh(r)"), RULE).model
    assert apply(once, RULE).applied == 0
