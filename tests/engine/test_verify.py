"""Every application is compared with what it replaces, and a wrong one is named."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from graphwright.engine.equivalence import check_equivalence, prepare_with
from graphwright.engine.pipeline import FunctionPass, Pass, Pipeline, Step, run_pipeline
from graphwright.engine.reproduce import write_reproducer
from graphwright.engine.rewrite import Rule, Run
from graphwright.engine.verification import Evaluator, Verification
from graphwright.engine.verify import EachVerifier, RegionVerifier, verify_final
from graphwright.errors import GraphwrightError, OutputError, RequestError, VerificationError
from graphwright.runtime.reference import Reference

HEADER = '<ir_version: 10, opset_import: ["": 20]> '
DOUBLE_NEGATION = "g (float[B, S] x) => (float[B, S] y) {a = Exp(x) b = Neg(a) y = Neg(b)}"


def model_of(text: str) -> ir.Model:
    return ShapeInferencePass()(ir.from_onnx_text(HEADER + text)).model


def pipeline_of(*passes: Pass) -> Pipeline:
    return Pipeline(tuple(Step(each, "lift") for each in passes))


def rule(name: str, pattern: Callable[..., Any], rewrite: Callable[..., Any]) -> Rule:
    return Rule(name, (pattern,), rewrite)


def check(model: ir.Model, evaluate: Evaluator, *passes: Pass, **options: Any) -> Verification:
    verifier = RegionVerifier(evaluate, **options)
    run = Run(model, [verifier])
    run_pipeline(run, pipeline_of(*passes))
    assert run.applied, "no pass did anything"
    return verifier.verification


RIGHT = rule("right", lambda op, x: op.Neg(op.Neg(x)), lambda op, x: x)
WRONG = rule("wrong", lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Neg(x))
DROP_ABS = rule("drop-abs", lambda op, x: op.Abs(op.Exp(x)), lambda op, x: op.Exp(x))


def test_a_right_rewrite_passes_at_every_usual_size(evaluate: Evaluator) -> None:
    found = check(model_of(DOUBLE_NEGATION), evaluate, RIGHT)
    assert (found.passed, found.points, found.unverified) == (True, 3, [])


def test_preparing_models_ahead_gives_the_same(evaluate: Evaluator) -> None:
    prepared = check(model_of(DOUBLE_NEGATION), evaluate, RIGHT, prepare=Reference)
    assert prepared.to_json() == check(model_of(DOUBLE_NEGATION), evaluate, RIGHT).to_json()


def test_a_wrong_rewrite_is_named_by_pass_number_and_node(evaluate: Evaluator) -> None:
    model = model_of("g (float[N] x) => (float[N] y) {e = Exp(x) a = Abs(e) b = Neg(a) y = Neg(b)}")
    model.graph[3].name = "the_culprit"
    with pytest.raises(VerificationError) as caught:
        check(model, evaluate, DROP_ABS, WRONG)
    assert "#2 wrong" in str(caught.value)
    assert "the_culprit (Neg)" in str(caught.value)
    assert "#1" not in str(caught.value)
    assert [node.op_type for node in model.graph].count("Neg") == 2, "the wrong rewrite was made all the same"


def test_a_difference_of_a_thousandth_is_caught(evaluate: Evaluator) -> None:
    near = rule("near", lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Mul(x, 1.001))
    with pytest.raises(VerificationError, match="#1 near"):
        check(model_of(DOUBLE_NEGATION), evaluate, near)


def test_a_rewrite_that_needs_a_batch_of_one_is_caught(evaluate: Evaluator) -> None:
    text = "g (float[B, S, 4] x) => (float[B, S, 4] y) {a = Neg(x) y = Neg(a)}"
    first = rule(
        "first-row",
        lambda op, x: op.Neg(op.Neg(x)),
        lambda op, x: op.Add(op.Mul(x, 0.0), op.Slice(x, [0], [1], [0])),
    )
    with pytest.raises(VerificationError, match="#1 first-row"):
        check(model_of(text), evaluate, first)


def test_a_replacement_that_cannot_run_is_caught(evaluate: Evaluator) -> None:
    broken = rule("broken", lambda op, x: op.Neg(op.Neg(x)), lambda op, x: op.Reshape(x, [7, 9]))
    text = "g (float[B, S] x) => (y) {a = Neg(x) y = Neg(a)}"
    with pytest.raises(VerificationError, match="it cannot be run"):
        check(model_of(text), evaluate, broken)


def test_cancellation_that_the_original_has_too_is_excused(evaluate: Evaluator) -> None:
    text = (
        "g (float[B, S] x, float[B, S] z) => (float[B, S] y) <float[1] c = {10000}> "
        "{a = Add(x, c) b = Add(a, z) y = Sub(b, c)}"
    )
    regrouped = rule(
        "regroup",
        lambda op, x, z, c: op.Sub(op.Add(op.Add(x, c), z), c),
        lambda op, x, z, c: op.Sum(x, op.Sub(op.Sum(z, c), c)),
    )
    assert check(model_of(text), evaluate, regrouped).passed


def test_a_changed_dtype_is_caught_although_the_reference_is_double(evaluate: Evaluator) -> None:
    before = model_of("g (float[N] x) => (float[N] y) {y = Identity(x)}")
    after = model_of("g (float[N] x) => (double[N] y) {y = Cast<to = 11>(x)}")
    fault = check_equivalence(before, after, prepare_with(evaluate)).fault
    assert fault is not None and fault.difference.kind == "dtype"


def test_what_cannot_be_drawn_is_unverified_and_not_passed(evaluate: Evaluator) -> None:
    text = "g (string[N] x) => (string[N] y) {a = Identity(x) y = Identity(a)}"
    merged = rule("merge", lambda op, x: op.Identity(op.Identity(x)), lambda op, x: op.Identity(x))
    found = check(model_of(text), evaluate, merged)
    assert found.unverified and "text" in found.unverified[0].reason
    assert "#1 merge" in found.unverified[0].where
    assert not found.passed


def test_an_unknown_rank_is_unverified(evaluate: Evaluator) -> None:
    model = ir.from_onnx_text(HEADER + "g (float[N] x, int64[K] s) => (y) {r = Reshape(x, s) a = Neg(r) y = Neg(a)}")
    found = check(model, evaluate, RIGHT)
    assert "number of axes" in found.unverified[0].reason


def test_outputs_that_are_nan_everywhere_are_no_proof(evaluate: Evaluator) -> None:
    text = "g (float[N] x) => (float[N] y) {a = Abs(x) b = Neg(a) c = Sub(b, d) y = Sqrt(c)}"
    text = text.replace("=> (float[N] y) ", "=> (float[N] y) <float[1] d = {1}> ")
    swapped = rule(
        "swap",
        lambda op, x, d: op.Sqrt(op.Sub(op.Neg(op.Abs(x)), d)),
        lambda op, x, d: op.Pow(op.Sub(op.Neg(op.Abs(x)), d), 0.5),
    )
    found = check(model_of(text), evaluate, swapped)
    assert not found.passed
    assert "NaN everywhere" in found.unverified[0].reason


def test_empty_outputs_are_no_proof(evaluate: Evaluator) -> None:
    text = "g (float[N, 0] x) => (float[N, 0] y) {a = Neg(x) y = Neg(a)}"
    found = check(model_of(text), evaluate, WRONG)
    assert not found.passed
    assert "empty" in found.unverified[0].reason


def test_sizes_that_must_divide_are_tried_where_the_usual_ones_do_not_run(evaluate: Evaluator) -> None:
    text = "g (float[B, S] x) => (float[M, 4] y) <int64[2] s = {-1, 4}> {a = Reshape(x, s) y = Neg(a)}"
    moved = rule("move", lambda op, x, s: op.Neg(op.Reshape(x, s)), lambda op, x, s: op.Reshape(op.Mul(x, -1.0), s))
    found = check(model_of(text), evaluate, moved)
    assert (found.passed, found.points, found.unverified) == (True, 1, [])


def test_what_the_nodes_before_the_match_prove_is_respected(evaluate: Evaluator) -> None:
    text = (
        "g (float[S] x) => (float[S] y) <int64 zero = {0}, int64 one = {1}, int64 at = {0}>"
        "{s = Shape(x) n = Gather(s, at) r = Range(zero, n, one) t = GreaterOrEqual(r, zero) "
        "a = Neg(x) y = Where(t, x, a)}"
    )
    always = rule("always-true", lambda op, t, x: op.Where(t, x, op.Neg(x)), lambda op, t, x: op.Identity(x))
    never = rule("never-true", lambda op, t, x: op.Where(t, x, op.Neg(x)), lambda op, t, x: op.Neg(x))
    found = check(model_of(text), evaluate, always)
    assert found.passed
    assert ["always-true" in each for each in found.in_context] == [True], "it is said what it rests on"
    with pytest.raises(VerificationError, match="never-true"):
        check(model_of(text), evaluate, never)


def test_regions_in_subgraphs_are_checked(evaluate: Evaluator) -> None:
    text = (
        "g (bool c, float[N] x) => (float[N] y) {o = Exp(x) y = If(c) <"
        "then_branch = t () => (float[N] u) {a = Neg(o) b = Neg(a) u = Exp(b)}, "
        "else_branch = e () => (float[N] v) {v = Exp(o)}>}"
    )
    assert check(model_of(text), evaluate, RIGHT).points == 3
    with pytest.raises(VerificationError, match="#1 wrong in t"):
        check(model_of(text), evaluate, WRONG)


def test_regions_in_functions_are_checked(evaluate: Evaluator) -> None:
    text = (
        "g (float[N] x) => (float[N] y) {y = local.twice(x)}"
        '<domain: "local", opset_import: ["": 20]> twice (a) => (c) {b = Neg(a) d = Neg(b) c = Exp(d)}'
    )
    model = ir.from_onnx_text(HEADER + text)
    model.opset_imports["local"] = 1
    function = next(iter(model.functions.values()))
    function.inputs[0].type, function.inputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n"])
    with pytest.raises(VerificationError, match="#1 wrong"):
        check(model, evaluate, WRONG)


def scale_all(model: ir.Model) -> bool:
    node = model.graph[0]
    node.attributes["alpha"] = ir.AttrFloat32("alpha", 0.25)
    return True


LEAKY = "g (float[B, S] x) => (float[B, S] y) {y = LeakyRelu<alpha = 0.5>(x)}"


def test_a_pass_that_is_no_rule_is_compared_as_a_whole(evaluate: Evaluator) -> None:
    with pytest.raises(VerificationError, match="#1 scale-all"):
        check(model_of(LEAKY), evaluate, FunctionPass("scale-all", scale_all))
    renamed = FunctionPass("rename", lambda model: setattr(model.graph[0], "name", "other") is None)
    assert check(model_of(LEAKY), evaluate, renamed).points == 3


def test_a_pass_that_returns_another_model_is_compared(evaluate: Evaluator) -> None:
    other = FunctionPass("other", lambda model: model_of(LEAKY.replace("0.5", "0.7")))
    with pytest.raises(VerificationError, match="#1 other"):
        check(model_of(LEAKY), evaluate, other)


def test_a_failure_writes_what_is_needed_to_run_it_again(evaluate: Evaluator, tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="the case is in") as caught:
        check(model_of(DOUBLE_NEGATION), evaluate, WRONG, folder=tmp_path)
    (folder,) = tmp_path.iterdir()
    assert str(folder) in str(caught.value)
    assert sorted(each.name for each in folder.iterdir()) == [
        "README.txt", "after.onnx", "before.onnx", "command.txt", "inputs.npz",
    ]  # fmt: skip
    assert "#1 wrong" in (folder / "README.txt").read_text()
    assert (folder / "command.txt").read_text() == "graphwright verify before.onnx after.onnx --inputs inputs.npz\n"
    inputs = dict(np.load(folder / "inputs.npz"))
    before, after = (evaluate(ir.load(folder / name), inputs) for name in ("before.onnx", "after.onnx"))
    assert np.array_equal(before["y"], -after["y"])


def test_a_case_brings_weights_that_lie_in_another_file_along(tmp_path: Path) -> None:
    w = ir.Value(name="w", const_value=ir.tensor(np.ones(300, np.float32)))
    x, y = (ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([300])) for name in "xy")
    graph = ir.Graph(
        [x], [y], nodes=[ir.Node("", "Mul", [x, w], outputs=[y])], initializers=[w], opset_imports={"": 20}
    )
    ir.save(ir.Model(graph, ir_version=10), tmp_path / "source.onnx", external_data="source.data")
    source = ir.load(tmp_path / "source.onnx")
    folder = write_reproducer(tmp_path / "case", source, source, {"x": np.ones(300, np.float32)}, "why")
    (tmp_path / "source.data").unlink()
    kept = ir.load(folder / "after.onnx").graph.initializers["w"].const_value
    assert kept is not None and np.array_equal(kept.numpy(), np.ones(300, np.float32))


def test_a_second_failure_gets_a_folder_of_its_own(evaluate: Evaluator, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(VerificationError):
            check(model_of(DOUBLE_NEGATION), evaluate, WRONG, folder=tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["1-wrong", "1-wrong-2"]


def test_a_reproducer_that_cannot_be_written_leaves_nothing(evaluate: Evaluator, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError):
        check(model_of(DOUBLE_NEGATION), evaluate, WRONG, folder=tmp_path / "file")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_each_compares_the_whole_model_after_every_pass(evaluate: Evaluator) -> None:
    model = model_of(DOUBLE_NEGATION)
    points = [{"x": np.ones((2, 3), np.float32)}, {"x": np.zeros((1, 1), np.float32)}]
    verifier = EachVerifier(evaluate, model, points)
    run_pipeline(Run(model, [verifier]), pipeline_of(RIGHT, RIGHT))
    assert verifier.verification.points == 2, "a pass that did nothing needs no check"
    model = model_of(DOUBLE_NEGATION)
    with pytest.raises(VerificationError, match="after pass wrong: found other numbers at x \\[2, 3\\]"):
        run_pipeline(Run(model, [EachVerifier(evaluate, model, points)]), pipeline_of(WRONG))


def test_final_keeps_differences_and_what_could_not_run() -> None:
    def source(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if inputs["x"].size == 1:
            raise RequestError("input x", "one element")
        return {"y": inputs["x"] * 2}

    def broken(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise GraphwrightError("model", "no way")

    points = [{"x": np.float32([1, 2])}, {"x": np.float32([1])}]
    right = verify_final(source, lambda inputs: {"y": inputs["x"] + inputs["x"]}, points)
    assert (right.passed, right.points, len(right.unverified)) == (True, 1, 1)
    wrong = verify_final(source, lambda inputs: {"y": inputs["x"] + 1}, points)
    assert (wrong.passed, wrong.differences[0].absolute, wrong.worst_absolute) == (False, 1.0, 1.0)
    assert "no way" in str(verify_final(source, broken, points).differences[0])
    assert not verify_final(source, source, points[1:]).passed, "nothing was checked"


def test_the_result_is_strict_json_even_with_infinities() -> None:
    found = verify_final(lambda x: {"y": np.float32([np.inf])}, lambda x: {"y": np.float32([1])}, [{}])
    text = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(text)["passed"] is False
