"""The probability of given classes comes without the whole softmax, and what only looks like it stays."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx_ir.passes.common import RemoveUnusedNodesPass

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.passes.transform.pick_label_probability import PICK_LABEL_PROBABILITY
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

CONSTS = """int64 one = {1}, int64[1] ones = {1}, int64[2] two = {3, 1}, int64[1] next = {2}, int64[1] minus = {-1},
    int64[2] pair = {0, 1}, int64[1] all = {9}, int64[1] nought = {0}, int64[2] noughts = {0, 0}"""
COLUMN = "p = Softmax(x) y = Gather <axis = 1> (p, one)"
COLUMNS = "p = Softmax(x) y = Gather <axis = -1> (p, two)"
SLICE = "p = Softmax(x) y = Slice(p, ones, next, minus)"
BY_ROW = "p = Softmax(x) y = GatherElements <axis = 1> (p, labels)"
LOGS = "p = LogSoftmax(x) y = GatherElements <axis = -1> (p, labels)"
OUTPUTS = {COLUMN: "B", COLUMNS: "B,2", SLICE: "B,1", BY_ROW: "B,1", LOGS: "B,1"}
STATS = 'v, j, m, s = hars.softmax_topk <k = 1, axis = -1, mode = "logprob", temperature = 1.0> (x)'
APART = "a = Unsqueeze(m, ones) b = Unsqueeze(s, ones) c = Sub(g, a) d = Sub(c, b)"


def text(
    body: str, y: str, *, x: str = "B,9", t: str = "float", out: str = "", opset: int = 24, labels: str = "int64[B,1]"
) -> str:
    inputs = f", {labels} labels" if "labels" in body else ""
    hars = ', "hars": 1' if "hars." in body else ""
    opsets = f'<ir_version: 10, opset_import: ["": {opset}{hars}]>'
    return f"{opsets} g ({t}[{x}] x{inputs}) => ({out or t}[{y}] y) <{CONSTS}> {{ {body} }}"


def head(body: str, y: str = "", **options: str | int) -> ir.Model:
    made = model(text(body, y or OUTPUTS[body], **options))
    if attach_bodies(made):
        RemoveUnusedNodesPass()(made)  # as every pipeline does, in functions too
    return made


EXAMPLES = {str(number): text(body, OUTPUTS[body]) for number, body in enumerate(OUTPUTS)}


@pytest.mark.parametrize(
    ("body", "after"),
    [
        (COLUMN, f"g = Gather <axis = 1> (x, one) {STATS} c = Sub(g, m) d = Sub(c, s) y = Exp(d)"),
        (COLUMNS, f"g = Gather <axis = -1> (x, two) {STATS} {APART} y = Exp(d)"),
        (SLICE, f"g = Slice(x, ones, next, minus) {STATS} {APART} y = Exp(d)"),
        (BY_ROW, f"g = GatherElements <axis = 1> (x, labels) {STATS} {APART} y = Exp(d)"),
        (LOGS, f"g = GatherElements <axis = -1> (x, labels) {STATS} {APART.replace('d =', 'y =')}"),
    ],
)
def test_each_form_is_rewritten(body: str, after: str) -> None:
    before = head(body)
    found = assert_fires(before, PICK_LABEL_PROBABILITY, 1, head(after, OUTPUTS[body]))
    assert_equivalent(before, found)


def test_two_heads_are_rewritten_one_by_one() -> None:
    body = f"{COLUMN} q = LogSoftmax(x) z = Gather <axis = 1> (q, two)"
    before = model(text(body, "B").replace("[B] y)", "[B] y, float[B,2] z)"))
    assert_equivalent(before, assert_fires(before, PICK_LABEL_PROBABILITY, 2))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("labels", "sizes"), [("one", 0), ("two", 1), ("table", 2)])
def test_classes_may_stand_on_any_axis_and_labels_in_any_shape(axis: int, labels: str, sizes: int) -> None:
    x = ["7", "B", "5"]
    x[axis] = "9"
    y = [*x[:axis], *["2"] * sizes, *x[axis + 1 :]]
    body = f"p = Softmax <axis = {axis - 3}> (x) y = Gather <axis = {axis}> (p, {labels})"
    table = "int64[2,2] table = {1, 2, 0, -1}, int64 one"
    before = model(text(body, ",".join(y), x=",".join(x)).replace("int64 one", table))
    assert_equivalent(before, assert_fires(before, PICK_LABEL_PROBABILITY))


def test_types_below_float32_come_back_as_they_were() -> None:
    before = head(COLUMNS, t="float16")
    after = assert_fires(before, PICK_LABEL_PROBABILITY)
    assert [node.op_type for node in after.graph].count("Cast") == 2
    assert_equivalent(before, after)
    before = head(f"w = Cast <to = 1> (x) {BY_ROW.replace('(x)', '(w)')}", "B,1", t="bfloat16", out="float")
    after = assert_fires(before, PICK_LABEL_PROBABILITY)
    assert [node.op_type for node in after.graph].count("Cast") == 1
    assert_equivalent(before, after)


def test_refuses_an_older_opset() -> None:
    assert_refuses(head(COLUMN, opset=18), PICK_LABEL_PROBABILITY, Reason.OPSET)


def test_refuses_float64() -> None:
    assert_refuses(head(COLUMN, t="double"), PICK_LABEL_PROBABILITY, Reason.DTYPE)


@pytest.mark.parametrize(
    "body",
    [
        COLUMN.replace("axis = 1", "axis = 0"),
        COLUMN.replace("Softmax", "Softmax <axis = 0>"),
        BY_ROW.replace("axis = 1", "axis = 0"),
        SLICE.replace("minus", "nought"),
        SLICE.replace("ones, next, minus", "noughts, two, pair"),
    ],
)
def test_refuses_classes_of_another_axis_even_of_the_same_size(body: str) -> None:
    y = {"Gather ": "9", "Slice(p, o": "1,9", "Slice(p, n": "3,1", "GatherE": "9,1"}
    shape = next(value for key, value in y.items() if key in body)
    before = head(body, shape, x="9,9", labels="int64[9,1]")
    assert_refuses(before, PICK_LABEL_PROBABILITY, Reason.ATTRIBUTE)


@pytest.mark.parametrize(
    ("body", "labels", "y"),
    [
        ("p = Softmax(x) y = Gather <axis = 1> (p, labels)", "int64[N]", "B,N"),
        (BY_ROW, "int64[B,N]", "B,N"),
        (BY_ROW, "int64[C,1]", "C,1"),
    ],
)
def test_refuses_sizes_that_are_not_known(body: str, labels: str, y: str) -> None:
    assert_refuses(head(body, y, labels=labels), PICK_LABEL_PROBABILITY, Reason.UNKNOWN)


def test_refuses_a_vocabulary_or_a_rank_that_is_not_known() -> None:
    assert_refuses(head(COLUMN, x="B,V"), PICK_LABEL_PROBABILITY, Reason.UNKNOWN)
    before = head(COLUMN.replace("Softmax", "Softmax <axis = 1>"), "B")
    for value in (*before.graph.inputs, *(value for node in before.graph for value in node.outputs)):
        value.shape = None
    assert_refuses(before, PICK_LABEL_PROBABILITY, Reason.UNKNOWN)


@pytest.mark.parametrize(
    ("body", "x", "labels", "y"),
    [
        (COLUMNS, "B,2", "", "B,2"),
        (SLICE.replace("ones, next", "nought, all"), "B,9", "", "B,9"),
        (BY_ROW, "B,9", "int64[B,9]", "B,9"),
        (BY_ROW, "5,9", "int64[3,1]", "3,1"),
    ],
)
def test_refuses_all_classes_and_labels_for_a_part_of_the_rows(body: str, x: str, labels: str, y: str) -> None:
    assert_refuses(head(body, y, x=x, labels=labels), PICK_LABEL_PROBABILITY, Reason.SHAPE)


def test_refuses_probabilities_that_others_need() -> None:
    body = f"{COLUMN} z = Neg(p)"
    shared = model(text(body, "B").replace("[B] y)", "[B] y, float[B,9] z)"))
    assert_refuses(shared, PICK_LABEL_PROBABILITY, Reason.SHARED)
    shown = model(text(COLUMN, "B").replace("[B] y)", "[B] y, float[B,9] p)"))
    assert_refuses(shown, PICK_LABEL_PROBABILITY, Reason.GRAPH_OUTPUT)


@pytest.mark.parametrize(
    ("body", "y"),
    [
        (COLUMN.replace("Softmax", "Sigmoid"), "B"),
        ("p = Softmax(x) y = GatherND(p, ones)", "9"),
        ("p = Softmax(x) y = Slice(p, nought, next)", "2,9"),
    ],
)
def test_near_misses_stay(body: str, y: str) -> None:
    assert_refuses(head(body, y), PICK_LABEL_PROBABILITY, Reason.STRUCTURE)


def inputs_of(body: str, b: int, seed: int) -> Mapping[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = {"x": (rng.normal(size=(b, 9)) * rng.choice([1, 10, 30])).astype(np.float32)}
    return inputs | ({"labels": rng.integers(-9, 9, (b, 1))} if "labels" in body else {})


@pytest.mark.parametrize("body", OUTPUTS)
@given(b=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers_at_random_sizes(body: str, b: int, seed: int) -> None:
    before = head(body)
    outcome = apply(before, PICK_LABEL_PROBABILITY)
    assert outcome.applied == 1
    inputs = inputs_of(body, b, seed)
    found = compare(evaluate(before, inputs, double=True), evaluate(outcome.model, inputs))
    assert not found, str(found[0])


@pytest.mark.parametrize("body", OUTPUTS)
@pytest.mark.parametrize("number", [np.inf, np.nan, -np.inf])
def test_rows_that_are_no_numbers_give_what_softmax_gives(body: str, number: float) -> None:
    before = head(body)
    inputs = dict(inputs_of(body, 4, 0))
    inputs["x"][1, 3], inputs["x"][2] = number, number
    found = compare(evaluate(before, inputs), evaluate(apply(before, PICK_LABEL_PROBABILITY).model, inputs))
    assert not found, str(found[0])
