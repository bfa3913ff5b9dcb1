"""A replacement cut out of its graph, as two models."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from graphwright.engine.observe import Application, Observer, Replacement
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.pipeline import Pipeline, Step, run_pipeline
from graphwright.engine.region import region_models
from graphwright.engine.rewrite import Builder, Rule, Run
from graphwright.engine.verification import Evaluator
from graphwright.errors import RequestError

HEADER = '<ir_version: 10, opset_import: ["": 20]> '


class Cut(Observer):
    """Keeps both regions of every application."""

    def __init__(self) -> None:
        self.alone: list[tuple[ir.Model, ir.Model]] = []
        self.in_context: list[tuple[ir.Model, ir.Model]] = []

    def before_commit(self, application: Application, replacement: Replacement | None, model: ir.Model) -> None:
        assert replacement is not None
        nodes = [node.name for node in model.graph]
        self.alone.append(region_models(replacement, model))
        self.in_context.append(region_models(replacement, model, in_context=True))
        assert [node.name for node in model.graph] == nodes, "the host graph was changed"


def regions(text: str | ir.Model, rule: Rule) -> Cut:
    model = ir.from_onnx_text(HEADER + text) if isinstance(text, str) else text
    model = ShapeInferencePass()(model).model
    cut = Cut()
    run_pipeline(Run(model, [cut]), Pipeline((Step(rule, "lift"),)))
    assert cut.alone, "the rule did not fire"
    return cut


def double_negation(op: PatternOps, x: Var) -> Op:
    return op.Neg(op.Neg(x))


def product(op: PatternOps, x: Var, w: Var) -> Op:
    return op.Mul(op.Neg(x), w)


def shaped(op: PatternOps, x: Var, size: Var) -> Op:
    return op.Neg(op.Reshape(x, size))


NOTHING = Rule("drop-double-negation", (double_negation,), lambda op, x: x)
TURNED = Rule("turn-product", (product,), lambda op, x, w: op.Neg(op.Mul(x, w)))
SWAPPED = Rule("swap-reshape", (shaped,), lambda op, x, size: op.Reshape(op.Abs(x), size))


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def test_both_models_have_the_same_inputs_and_outputs_and_run(evaluate: Evaluator) -> None:
    ((before, after),) = regions(
        "g (float[N] x) => (float[N] y) {a = Exp(x) b = Neg(a) c = Neg(b) y = Exp(c)}", NOTHING
    ).alone
    for model in (before, after):
        assert [value.name for value in model.graph.inputs] == ["a"]
        assert [value.name for value in model.graph.outputs] == ["c"]
    assert ops(before) == ["Neg", "Neg", "Identity"]
    assert ops(after) == ["Identity"], "the replacement is the input itself"
    inputs = {"a": np.float32([1, -2])}
    assert evaluate(before, inputs)["c"].tolist() == evaluate(after, inputs)["c"].tolist() == [1, -2]


def test_constants_come_along_and_share_their_tensors() -> None:
    model = ir.from_onnx_text(
        HEADER + "g (float[2] x) => (float[2] y) <float[2] w = {3, 4}> {a = Neg(x) y = Mul(a, w)}"
    )
    tensor = model.graph.initializers["w"].const_value
    for each in regions(model, TURNED).alone[0]:
        assert [value.name for value in each.graph.inputs] == ["x"]
        assert each.graph.initializers["w"].const_value is tensor


def test_an_overridable_initializer_is_an_input_of_the_region() -> None:
    text = "g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {3, 4}> {a = Neg(x) y = Mul(a, w)}"
    for each in regions(text, TURNED).alone[0]:
        assert [value.name for value in each.graph.inputs] == ["x", "w"]
        assert not each.graph.initializers


def test_a_computed_shape_comes_along_with_the_nodes_that_compute_it(evaluate: Evaluator) -> None:
    text = (
        "g (float[B, S, 6] x, float[B, S] z) => (y) "
        "<int64[2] tail = {2, 3}, int64[1] from = {0}, int64[1] to = {2}> {s = Shape(z) "
        "d = Slice(s, from, to) size = Concat<axis = 0>(d, tail) r = Reshape(x, size) y = Neg(r)}"
    )
    before, after = regions(text, SWAPPED).alone[0]
    assert [value.name for value in before.graph.inputs] == ["x", "z"]
    assert ops(before)[:3] == ["Shape", "Slice", "Concat"]
    inputs = {"x": np.ones((4, 5, 6), np.float32), "z": np.ones((4, 5), np.float32)}
    assert evaluate(before, inputs)["y"].shape == evaluate(after, inputs)["y"].shape == (4, 5, 2, 3)


def test_a_size_that_callers_give_stays_an_input() -> None:
    text = "g (float[B, S] x, int64[2] size) => (y) {r = Reshape(x, size) y = Neg(r)}"
    assert [value.name for value in regions(text, SWAPPED).alone[0][0].graph.inputs] == ["x", "size"]


def test_what_only_the_replacement_reads_is_an_input_of_both() -> None:
    def skip_one(op: Builder, a: ir.Value) -> ir.Value:
        node = a.producer()
        assert node is not None
        return op.Sum(node.inputs[0], a)

    skipping = Rule("skip", (lambda op, a: op.Neg(a),), skip_one)
    for each in regions("g (float[N] x) => (float[N] y) {a = Exp(x) y = Neg(a)}", skipping).alone[0]:
        assert [value.name for value in each.graph.inputs] == ["a", "x"]


def test_in_context_integers_and_booleans_are_made_as_in_the_host() -> None:
    text = (
        "g (int64[B, S] ids, float[B, S] w) => (y) "
        "{p = Cast<to = 9>(ids) q = Not(p) f = Cast<to = 1>(q) e = Exp(f) n = Neg(e) y = Mul(n, w)}"
    )
    cut = regions(text, TURNED)
    assert [value.name for value in cut.alone[0][0].graph.inputs] == ["e", "w"]
    assert [value.name for value in cut.in_context[0][0].graph.inputs] == ["e", "w"], "floats stay inputs"
    chosen = Rule(
        "flip",
        (lambda op, x, a, b: op.Neg(op.Where(x, a, b)),),
        lambda op, x, a, b: op.Where(x, op.Neg(a), op.Neg(b)),
    )
    cut = regions(
        "g (int64[B] ids, float[B] a, float[B] b) => (y) "
        "{p = Cast<to = 9>(ids) q = Not(p) w = Where(q, a, b) y = Neg(w)}",
        chosen,
    )
    assert [value.name for value in cut.alone[0][0].graph.inputs] == ["q", "a", "b"]
    assert [value.name for value in cut.in_context[0][0].graph.inputs] == ["ids", "a", "b"]


def test_regions_inside_subgraphs_are_cut_with_what_they_capture() -> None:
    text = (
        "g (bool c, float[N] x) => (float[N] y) {o = Exp(x) y = If(c) <"
        "then_branch = t () => (float[N] u) {a = Neg(o) b = Neg(a) u = Exp(b)}, "
        "else_branch = e () => (float[N] v) {v = Exp(o)}>}"
    )
    before, _ = regions(text, NOTHING).alone[0]
    assert [value.name for value in before.graph.inputs] == ["o"]


def test_regions_inside_functions_are_cut() -> None:
    model = ir.from_onnx_text(
        HEADER + "g (float[N] x) => (float[N] y) {y = local.twice(x)}"
        '<domain: "local", opset_import: ["": 20]> twice (a) => (c) {b = Neg(a) d = Neg(b) c = Exp(d)}'
    )
    model.opset_imports["local"] = 1
    before, _ = regions(model, NOTHING).alone[0]
    assert [value.name for value in before.graph.inputs] == ["a"]
    assert list(before.functions) == list(model.functions)
    assert all(before.functions[key] is not model.functions[key] for key in model.functions)


def test_a_node_that_takes_its_attribute_from_the_caller_means_nothing_alone() -> None:
    model = ir.from_onnx_text(
        HEADER + "g (float[N] x) => (float[N] y) {y = local.leak <s = 0.5> (x)}"
        '<domain: "local", opset_import: ["": 20]> leak <s> (a) => (c) '
        "{b = LeakyRelu<alpha: float = @s>(a) c = Neg(b)}"
    )
    model.opset_imports["local"] = 1
    leaky = Rule(
        "leaky",
        (lambda op, x: op.Neg(op.LeakyRelu(x, alpha=op.attr("alpha"))),),
        lambda op, x, alpha: op.Neg(x),
    )
    with pytest.raises(RequestError, match="the enclosing function's caller gives"):
        regions(model, leaky)


def test_several_outputs_keep_their_names_and_order() -> None:
    pair = Rule(
        "pair",
        (lambda op, x: (op.Neg(x), op.Exp(op.Abs(x))),),
        lambda op, x: (op.Mul(x, -1.0), op.Exp(op.Max(x, op.Neg(x)))),
    )
    before, after = regions("g (float[N] x) => (y, z) {y = Neg(x) a = Abs(x) z = Exp(a)}", pair).alone[0]
    names = [value.name for value in before.graph.outputs]
    assert names == [value.name for value in after.graph.outputs] == ["y", "z"]


def test_an_output_that_nobody_reads_is_not_compared() -> None:
    """A rule may make it cheaper, or anything else."""

    def both(op: PatternOps, x: Var) -> tuple[Op, Op]:
        values, places = op.TopK(op.Exp(x), [2], _outputs=2)
        return values, places

    def places_alone(op: Builder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        values, places = op.TopK(x, [2], _outputs=2)
        return values, places

    rule = Rule("rank-before-exp", (both,), places_alone)
    body = "{e = Exp(x) v, i = TopK(e, k)}"
    places = regions(f"g (float[N, 4] x) => (int64[N, 2] i) <int64[1] k = {{2}}> {body}", rule)
    assert [[value.name for value in each.graph.outputs] for each in places.alone[0]] == [["i"], ["i"]]
    shown = regions(f"g (float[N, 4] x) => (float[N, 2] v, int64[N, 2] i) <int64[1] k = {{2}}> {body}", rule)
    assert [[value.name for value in each.graph.outputs] for each in shown.alone[0]] == [["v", "i"], ["v", "i"]]


def test_in_context_what_lies_between_the_match_and_what_the_replacement_reads_comes_along(evaluate: Evaluator) -> None:
    """A rule that goes back to what the match is made of: Relu(Neg(x)) by x, behind another user of Neg."""
    text = "g (float[N] x, float[N] z) => (float[N] y, float[N] n) {m = Mul(x, z) n = Neg(m) y = Relu(n)}"

    def from_before(op: Builder, n: ir.Value) -> ir.Value:
        node = n.producer()
        assert node is not None and node.inputs[0] is not None
        return op.Neg(op.Min(node.inputs[0], 0.0))

    cut = regions(text, Rule("from-before", (lambda op, n: op.Relu(n),), from_before))
    (alone,), (in_context,) = cut.alone, cut.in_context
    assert [value.name for value in alone[0].graph.inputs] == ["n", "m"]
    assert [value.name for value in in_context[0].graph.inputs] == ["m"]
    assert [node.op_type for node in in_context[0].graph] == ["Neg", "Relu", "Identity"]
    inputs = {"m": np.float32([-1, 2, -3])}
    before, after = (evaluate(each, inputs) for each in in_context)
    np.testing.assert_array_equal(next(iter(before.values())), next(iter(after.values())))
