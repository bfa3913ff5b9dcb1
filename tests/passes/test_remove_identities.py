"""remove-identities: what it takes out, and where ONNX needs the node."""

import onnx_ir as ir
import pytest

from graphwright.engine.observe import Reason
from graphwright.passes.lift.remove_identities import REMOVE_IDENTITIES
from graphwright.testing import assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[N, 4] x) => (float[N, 4] y) "
AFTER = HEAD + SIGNATURE + "{y = Exp(x)}"

EXAMPLES = {
    "identity": HEAD + SIGNATURE + "{a = Identity(x) y = Exp(a)}",
    "identity at the end": HEAD + SIGNATURE + "{a = Exp(x) y = Identity(a)}",
    "a chain": HEAD + SIGNATURE + "{a = Identity(x) b = Identity(a) c = Exp(b) d = Identity(c) y = Identity(d)}",
    "cast to the own type": HEAD + SIGNATURE + "{a = Cast <to = 1> (x) y = Exp(a)}",
    "dropout": HEAD + SIGNATURE + "{a = Dropout(x) y = Exp(a)}",
    "dropout, told not to train": HEAD
    + SIGNATURE
    + "<float r = {0.5}, bool t = {0}> {a = Dropout(x, r, t) y = Exp(a)}",
    "transpose in the same order": HEAD + SIGNATURE + "{a = Transpose <perm = [0, 1]> (x) y = Exp(a)}",
    "times one": HEAD + SIGNATURE + "<float one = {1}> {a = Mul(x, one) y = Exp(a)}",
    "one times": HEAD + SIGNATURE + "<float[1, 1] one = {1}> {a = Mul(one, x) y = Exp(a)}",
    "over one": HEAD + SIGNATURE + "<float[1] one = {1}> {a = Div(x, one) y = Exp(a)}",
    "concat of one": HEAD + SIGNATURE + "{a = Concat <axis = 0> (x) y = Exp(a)}",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_kind_is_removed(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, REMOVE_IDENTITIES, after=AFTER)
    assert_equivalent(before, after, sizes={"N": 2})


KEPT = {
    "input to output": "(float[N] x) => (float[N] y) {y = Identity(x)}",
    "initializer to output": "(float[N] x) => (float[N] y, float[1] w) <float[1] v = {1}> {w = Identity(v) y = Exp(x)}",
    "cast to another type": "(float[N] x) => (double[N] y) {a = Cast <to = 11> (x) y = Exp(a)}",
    "times another number": "(float[N] x) => (float[N] y) <float two = {2}> {a = Mul(x, two) y = Exp(a)}",
    "one over": "(float[N] x) => (float[N] y) <float one = {1}> {a = Div(one, x) y = Exp(a)}",
    "a one that adds an axis": "(float[N] x) => (float[1, N] y) <float[1, 1] one = {1}> {a = Mul(x, one) y = Exp(a)}",
    "a one that may be another": "(float[N] x, float one = {1}) => (float[N] y) {a = Mul(x, one) y = Exp(a)}",
    "dropout in training": "(float[N] x) => (float[N] y) <float r = {0.5}, bool t = {1}> {a = "
    "Dropout(x, r, t) y = Exp(a)}",
    "dropout that may train": "(float[N] x, bool t = {0}) => (float[N] y) <float r = {0.5}> {a = "
    "Dropout(x, r, t) y = Exp(a)}",
    "dropout with a mask": "(float[N] x) => (float[N] y, bool[N] m) {a, m = Dropout(x) y = Exp(a)}",
    "transpose without an order": "(float[N, N] x) => (float[N, N] y) {a = Transpose(x) y = Exp(a)}",
    "value of the outer graph": "(float[N] x, bool c) => (float[N] y) {a = Exp(x) y = If (c) "
    "<then_branch = t () => (float[N] o) {o = Identity(a)}, else_branch = f () => (float[N] q) {q = "
    "Exp(a)}>}",
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_needed_stays(name: str) -> None:
    assert_refuses(model(HEAD + KEPT[name]), REMOVE_IDENTITIES, Reason.STRUCTURE)


def test_a_cast_behind_an_operator_of_another_domain_stays() -> None:
    """Of a plugin for it, the type may be another than declared."""
    foreign = (
        '<ir_version: 12, opset_import: ["": 24, "own": 1]> g (float[N] x) => (float[N] y) '
        "<int64[N] a> {a = own.f(x) b = Cast <to = 7> (a) c = Cast <to = 1> (b) y = Exp(c)}"
    )
    before = model(foreign)
    before.graph.node(0).outputs[0].type = ir.TensorType(ir.DataType.INT64)
    assert_refuses(before, REMOVE_IDENTITIES, Reason.STRUCTURE)


def test_two_outputs_of_one_value_keep_their_names() -> None:
    before = model(HEAD + "(float[N] x) => (float[N] y, float[N] z) {a = Exp(x) y = Identity(a) z = Identity(a)}")
    after = assert_fires(before, REMOVE_IDENTITIES)
    assert [value.name for value in after.graph.outputs] == ["y", "z"]
    assert_equivalent(before, after, sizes={"N": 3})


def test_declared_shapes_of_inputs_and_outputs_stay() -> None:
    before = model(HEAD + "(float[N] x) => (float[M] y) {a = Identity(x) b = Exp(a) y = Identity(b)}", infer=False)
    before.graph.node(0).outputs[0].shape = before.graph.inputs[0].shape.__class__([3])
    after = assert_fires(before, REMOVE_IDENTITIES, regions=False)
    assert [str(value.shape[0]) for value in (*after.graph.inputs, *after.graph.outputs)] == ["N", "M"]


def test_removes_in_branches_and_functions() -> None:
    branches = (
        "(float[N] x, bool c) => (float[N] y) {y = If (c) "
        "<then_branch = t () => (float[N] o) {a = Identity(x) o = Exp(a)}, else_branch = f () => "
        "(float[N] q) {q = Abs(x)}>}"
    )
    after = assert_fires(model(HEAD + branches), REMOVE_IDENTITIES)
    assert "Identity" not in [node.op_type for node in after.graph.all_nodes()]
    function = (
        '<ir_version: 12, opset_import: ["": 24, "own": 1]> g (float[N] x) => (float[N] y) {y = own.f(x)} '
        '<domain: "own", opset_import: ["": 24]> f (a) => (b) {c = Identity(a) b = Exp(c)}'
    )
    after = assert_fires(model(function), REMOVE_IDENTITIES, regions=False)
    (body,) = after.functions.values()
    assert [node.op_type for node in body] == ["Exp"]
