"""Pipelines: their text, their order, their run."""

import onnx
import onnx_ir as ir
import pytest

from graphwright.engine.observe import Reason, Record, StopAfter
from graphwright.engine.pipeline import Catalogue, FunctionPass, Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import Rule, Run
from graphwright.engine.shapes import infer_shapes
from graphwright.errors import CheckError, PipelineError, StructureError
from graphwright.testing import model


def never(model: ir.Model) -> bool:
    return False


def scale(model: ir.Model, rank: int = 1, mode: str = "exact", loss: float = 0.5, deep: bool = False) -> bool:
    return False


FIRST = FunctionPass("first", never)
SECOND = Rule("second", (lambda op, x: op.Neg(op.Neg(x)),), lambda op, x: x)
THIRD = FunctionPass("third", scale)
CATALOGUE = Catalogue(
    {"lift": (FIRST,), "transform": (SECOND, THIRD), "lower": ()}, {"cpu": ("first", "second"), "bare": ()}
)
NEGATIONS = '<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) { n = Neg(x) y = Neg(n) }'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default", "first,second"),
        ("default,third", "first,second,third"),
        ("third(rank=2),default", "first,second,third(rank=2)"),
        ("default,-second", "first"),
        ("second, first", "second,first"),
        ("third(rank=2, mode=shift, loss=0.25, deep=true)", "third(rank=2,mode=shift,loss=0.25,deep=true)"),
        ('third(mode="0.5%, at most")', 'third(mode="0.5%, at most")'),
        ("", ""),
    ],
)
def test_text_is_read_and_printed(text: str, expected: str) -> None:
    pipeline = CATALOGUE.parse(text, "cpu")
    assert str(pipeline) == expected
    assert str(CATALOGUE.parse(str(pipeline), "cpu")) == expected


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("frist", "first"),
        ("default,-nothing", "catalogue"),
        ("-first", "default,-first"),
        ("default(rank=2)", "none there"),
        ("third(size=2)", "rank"),
        ("second(rank=2)", "takes no arguments"),
        ("third(2)", "argument=value"),
        ("third(rank=2", "argument=value"),
    ],
)
def test_bad_text_says_what_was_needed(text: str, needed: str) -> None:
    with pytest.raises(PipelineError, match=needed):
        CATALOGUE.parse(text, "cpu")


def test_an_unknown_target_names_the_known_ones() -> None:
    with pytest.raises(PipelineError, match="bare, cpu"):
        CATALOGUE.default("gpu")


def run(given: ir.Model, *passes: Rule | FunctionPass, stop_after: int | None = None) -> tuple[ir.Model, Record]:
    record = Record()
    observers = [record] if stop_after is None else [StopAfter(stop_after), record]
    steps = tuple(Step(each, "lift") for each in passes)
    return run_pipeline(Run(given, observers), Pipeline(steps)), record


def test_outcomes_count_applications_and_nodes() -> None:
    _, record = run(model(NEGATIONS), SECOND, FIRST)
    assert [(each.name, each.is_rule, each.applied) for each in record.outcomes] == [
        ("second", True, 1),
        ("first", False, 0),
    ]
    assert (record.outcomes[0].nodes_before, record.outcomes[0].nodes_after) == (2, 1)


def test_a_function_pass_that_changes_something_is_one_application() -> None:
    def rename(model: ir.Model) -> bool:
        model.graph[0].name = "renamed"
        return True

    _, record = run(model(NEGATIONS), FunctionPass("rename", rename), SECOND)
    assert [each.number for each in record.applications] == [1, 2]
    assert [each.pass_name for each in record.applications] == ["rename", "second"]


def test_a_function_pass_may_return_another_model() -> None:
    replacement = model(NEGATIONS.replace("Neg(n)", "Relu(n)"))
    result, _ = run(model(NEGATIONS), FunctionPass("swap", lambda model: replacement), SECOND)
    assert result is replacement


def test_nothing_runs_after_the_limit() -> None:
    def fail(model: ir.Model) -> bool:
        raise AssertionError("ran")

    given, record = run(model(NEGATIONS), SECOND, FunctionPass("fail", fail), stop_after=1)
    assert len(record.applications) == 1 and len(given.graph) == 1


def test_a_failing_pass_stops_the_run_and_is_named() -> None:
    def fail(model: ir.Model) -> bool:
        raise KeyError("weights")

    with pytest.raises(CheckError, match="pass fail: found KeyError") as caught:
        run(model(NEGATIONS), FunctionPass("fail", fail))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_pass_that_leaves_a_broken_graph_is_named() -> None:
    def reverse(model: ir.Model) -> bool:
        first, second = model.graph
        model.graph.remove(first)
        model.graph.insert_after(second, first)
        return True

    with pytest.raises(StructureError, match=r"after pass reverse.*nothing before it makes"):
        run(model(NEGATIONS), FunctionPass("reverse", reverse))


def test_unused_nodes_are_removed_after_a_pass_that_changed_something() -> None:
    def bypass(model: ir.Model) -> bool:
        model.graph[1].replace_input_with(0, model.graph.inputs[0])
        return True

    given, _ = run(model(NEGATIONS), FunctionPass("bypass", bypass))
    assert len(given.graph) == 1


FIND_ABS = Rule("find-abs", (lambda op, x: op.Max(x, op.Neg(x)),), lambda op, x: op.Abs(x))
SPELL_ABS = Rule("spell-abs", (lambda op, x: op.Abs(x),), lambda op, x: op.Max(x, op.Neg(x)))
FOUND, SPELLED = Step(FIND_ABS, "lift"), Step(SPELL_ABS, "lower")
ABS = '<ir_version: 10, opset_import: ["" : 21]> g (float[N] x) => (float[N] y) { y = Abs(x) }'
WRITTEN_OUT = ABS.replace("y = Abs(x)", "n = Neg(x) y = Max(x, n)")


def run_of(given: ir.Model, *steps: Step) -> tuple[ir.Model, list[int], set[Reason]]:
    """The result as it comes back from a file, how often each step applied, and the reasons of refusals."""
    record = Record()
    after = run_pipeline(Run(given.clone(), [record]), Pipeline(steps))
    reasons = {each.reason for outcome in record.outcomes for each in outcome.refusals}
    return ir.from_proto(ir.to_proto(after)), [outcome.applied for outcome in record.outcomes], reasons


def test_what_a_lowering_of_the_pipeline_has_made_is_not_lifted_in_another_run() -> None:
    once, applied, reasons = run_of(model(ABS), FOUND, SPELLED)
    assert (applied, reasons) == ([0, 1], set())
    again, applied, reasons = run_of(once, FOUND, SPELLED)
    assert (applied, reasons) == ([0, 0], {Reason.LOWERED})
    assert ir.to_proto(again) == ir.to_proto(once)


def test_what_the_source_spells_in_the_same_way_is_lifted() -> None:
    once, applied, _ = run_of(model(WRITTEN_OUT), FOUND, SPELLED)
    assert applied == [1, 1]
    assert run_of(once, FOUND, SPELLED)[1] == [0, 0]


def test_a_pipeline_without_the_lowering_lifts_what_it_made() -> None:
    once, _, _ = run_of(model(ABS), SPELLED)
    assert run_of(once, FOUND)[1] == [1]
    assert run_of(model(ABS), SPELLED, FOUND)[1] == [1, 1], "nothing is to come that would spell it again"


def test_a_function_that_a_rule_brings_has_its_types() -> None:
    text = '<domain: "own", opset_import: ["": 21]> f (a) => (b) { c = Constant <value_int = 1> () b = Shape(a) }'
    function = ir.serde.deserialize_function(onnx.parser.parse_function(text))
    rule = Rule("call", (lambda op, x: op.Shape(x),), lambda op, x: op.call(function, x)[0])
    before = model(ABS.replace("y = Abs(x)", "y = Shape(x)").replace("float[N] y", "int64[1] y"))
    after = run_pipeline(Run(before), Pipeline((Step(rule, "lift"),)))
    assert after.functions
    assert not infer_shapes(after)
