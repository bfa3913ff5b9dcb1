"""The driver: standing checks, commits, numbers, scopes."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from graphwright.engine.observe import Application, Observer, Reason, Record, Replacement, StopAfter
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Rule, Run, apply_rule, require, source_names
from graphwright.engine.structure import check_onnx, check_structure
from graphwright.engine.verify import RegionVerifier
from graphwright.errors import CheckError, VerificationError
from graphwright.runtime.reference import Reference, evaluate
from graphwright.testing import model

HEAD = '<ir_version: 10, opset_import: ["" : 24]> g (float[N, 4] x, float[N, 4] z) => (float[N, 4] y)'


def graph(body: str, head: str = HEAD) -> ir.Model:
    return model(f"{head} {{ {body} }}")


def own_sigmoid(op: PatternOps, x: Var) -> Op:
    return op.Mul(x, op.Sigmoid(x))


def to_swish(op: Builder, x: ir.Value) -> Any:
    require(x.dtype == ir.DataType.FLOAT, Reason.DTYPE, f"{x.name} is {x.dtype}")
    return op.Swish(x)


SWISH = Rule("to-swish", (own_sigmoid,), to_swish, min_opset=24)


def run_rule(rule: Rule, given: ir.Model, *observers: Observer) -> Run:
    run = Run(given, observers, explain=True)
    apply_rule(rule, run)
    check_structure(given)
    check_onnx(given)
    return run


def operators(given: ir.Model) -> list[str]:
    return [node.op_type for node in given.graph]


def reasons(run: Run) -> list[Reason]:
    return [refusal.reason for refusal in run.refusals]


def test_the_output_keeps_name_dtype_and_shape_and_the_node_tells_its_origin() -> None:
    given = graph("s = Sigmoid(x) y = Mul(x, s)")
    run_rule(SWISH, given)
    (node,) = given.graph
    (output,) = given.graph.outputs
    assert node.op_type == "Swish" and output.name == "y" and output is node.outputs[0]
    assert output.dtype == ir.DataType.FLOAT and str(output.shape) == str(given.graph.inputs[0].shape)
    assert node.metadata_props["graphwright.rule"] == "to-swish"
    assert node.metadata_props["graphwright.application"] == "1"
    assert len(source_names(node)) == 2


def test_an_interior_value_with_another_user_is_kept() -> None:
    given = graph("s = Sigmoid(x) m = Mul(x, s) y = Add(m, s)")
    assert reasons(run_rule(SWISH, given)) == [Reason.SHARED]
    assert operators(given) == ["Sigmoid", "Mul", "Add"]


def test_an_interior_value_that_is_an_output_is_kept() -> None:
    head = HEAD.replace("=> (float[N, 4] y)", "=> (float[N, 4] y, float[N, 4] s)")
    given = graph("s = Sigmoid(x) y = Mul(x, s)", head)
    assert reasons(run_rule(SWISH, given)) == [Reason.GRAPH_OUTPUT]


def test_an_interior_value_captured_by_a_subgraph_is_kept() -> None:
    head = HEAD.replace("float[N, 4] z", "bool c")
    body = "s = Sigmoid(x) m = Mul(x, s) y = If<then_branch = a () => (float[N, 4] p) {p = Add(m, s)}, "
    body += "else_branch = b () => (float[N, 4] q) {q = Identity(m)}>(c)"
    given = graph(body, head)
    assert reasons(run_rule(SWISH, given)) == [Reason.SHARED]


def test_an_older_opset_is_refused() -> None:
    given = graph("s = Sigmoid(x) y = Mul(x, s)", HEAD.replace("24", "21"))
    assert reasons(run_rule(SWISH, given)) == [Reason.OPSET]


def test_a_refusing_rewrite_leaves_the_graph_as_it_was() -> None:
    given = graph("s = Sigmoid(x) y = Mul(x, s)", HEAD.replace("float[", "double["))
    before = str(given)
    assert reasons(run_rule(SWISH, given)) == [Reason.DTYPE]
    assert str(given) == before


def test_a_replacement_of_another_type_is_refused() -> None:
    rule = Rule("to-half", (own_sigmoid,), lambda op, x: op.Cast(x, to=ir.DataType.FLOAT16.value))
    assert reasons(run_rule(rule, graph("s = Sigmoid(x) y = Mul(x, s)"))) == [Reason.OUTPUT_TYPE]


def test_a_replacement_of_another_rank_is_refused() -> None:
    rule = Rule("to-flat", (own_sigmoid,), lambda op, x: op.Reshape(x, [-1]))
    assert reasons(run_rule(rule, graph("s = Sigmoid(x) y = Mul(x, s)"))) == [Reason.OUTPUT_TYPE]


def test_a_rule_that_returns_its_input_keeps_the_output_name() -> None:
    rule = Rule("drop-neg", (lambda op, x: op.Neg(op.Neg(x)),), lambda op, x: x)
    given = graph("n = Neg(x) y = Neg(n)")
    assert run_rule(rule, given).applied == 1
    assert operators(given) == ["Identity"] and given.graph.outputs[0].name == "y"


def test_the_same_value_may_serve_two_outputs() -> None:
    head = HEAD.replace("=> (float[N, 4] y)", "=> (float[N, 4] y, float[N, 4] w)")
    rule = Rule("one-for-two", (lambda op, x: (op.Exp(x), op.Tanh(x)),), lambda op, x: (op.Relu(x),) * 2)
    given = graph("y = Exp(x) w = Tanh(x)", head)
    run_rule(rule, given)
    assert [value.name for value in given.graph.outputs] == ["y", "w"]


def test_bodies_of_subgraphs_are_visited_and_numbered_on() -> None:
    head = HEAD.replace("float[N, 4] z", "bool c")
    body = "s = Sigmoid(x) m = Mul(x, s) y = If<then_branch = a () => (float[N, 4] p) {t = Sigmoid(m) p = Mul(m, t)}, "
    body += "else_branch = b () => (float[N, 4] q) {q = Identity(m)}>(c)"
    given, record = graph(body, head), Record()
    run_rule(SWISH, given, record)
    assert [(each.number, each.graph) for each in record.applications] == [(1, ""), (2, "a")]


def test_model_local_functions_are_visited_with_their_own_opset() -> None:
    text = """<ir_version: 10, opset_import: ["" : 24, "local" : 1]>
    g (float[N, 4] x) => (float[N, 4] y) { y = local.gate(x) }
    <domain: "local", opset_import: ["" : OPSET]> gate (a) => (b) { s = Sigmoid(a) b = Mul(a, s) }"""
    rule = Rule(
        "to-relu",
        (own_sigmoid,),
        lambda op, x: op.Max(x, op.constant(np.zeros((), np.float32))),
        min_opset=20,
    )
    old = model(text.replace("OPSET", "18"))
    assert run_rule(rule, old).applied == 0
    new = model(text.replace("OPSET", "24"))
    run_rule(rule, new)
    (function,) = new.functions.values()
    # Functions have no initializers, so the constant is a node.
    assert [node.op_type for node in function] == ["Constant", "Max"]


def test_multi_output_replacement_stands_before_its_first_user() -> None:
    def siblings(op: PatternOps, x: Var, a: Var, b: Var) -> tuple[Op, Op]:
        return op.Mul(x, a), op.Mul(x, b)

    def joined(op: Builder, x: ir.Value, a: ir.Value, b: ir.Value) -> Any:
        both = op.Mul(op.Unsqueeze(x, [0]), op.Concat(op.Unsqueeze(a, [0]), op.Unsqueeze(b, [0]), axis=0))
        first, second = op.Split(both, [1, 1], axis=0, _outputs=2)
        return op.Squeeze(first, [0]), op.Squeeze(second, [0])

    rule = Rule("join", (siblings,), joined)
    fits = graph("m = Mul(x, z) u = Relu(m) n = Mul(x, x) y = Add(u, n)")
    assert run_rule(rule, fits).applied == 1
    depends = graph("m = Mul(x, z) u = Relu(m) n = Mul(x, u) y = Add(u, n)")
    assert Reason.ORDER in reasons(run_rule(rule, depends))
    feeds = {"x": np.ones((2, 4), np.float32), "z": np.full((2, 4), -2, np.float32)}
    np.testing.assert_array_equal(evaluate(depends, feeds)["y"], np.zeros((2, 4), np.float32))


def test_names_of_new_values_are_new() -> None:
    given = graph("s = Sigmoid(x) m = Mul(x, s) t = Sigmoid(m) y = Mul(m, t)")
    given.graph[0].outputs[0].name = "to-swish/Swish_out0"
    run_rule(SWISH, given)
    names = [value.name for node in given.graph for value in node.outputs]
    assert len(set(names)) == len(names) == 2


def test_applications_have_stable_numbers_and_stop_after_counts_them() -> None:
    body = "s = Sigmoid(x) m = Mul(x, s) t = Sigmoid(m) n = Mul(m, t) u = Sigmoid(n) y = Mul(n, u)"
    full = Record()
    run_rule(SWISH, graph(body), full)
    for limit in range(4):
        record, given = Record(), graph(body)
        run_rule(SWISH, given, StopAfter(limit), record)
        assert record.applications == full.applications[:limit]
        assert operators(given).count("Swish") == limit


def test_observers_see_the_region_before_it_is_replaced() -> None:
    class Look(Observer):
        def __init__(self) -> None:
            self.seen: list[tuple[list[str], list[str], list[str]]] = []

        def before_commit(self, application: Application, replacement: Replacement | None, model: ir.Model) -> None:
            assert replacement is not None and len(model.graph) == 2
            old = [node.op_type for node in replacement.old_nodes]
            new = [node.op_type for node in replacement.new_nodes]
            self.seen.append((old, new, [value.name or "" for value in replacement.inputs]))

    look = Look()
    run_rule(SWISH, graph("s = Sigmoid(x) y = Mul(x, s)"), look)
    assert look.seen == [(["Mul", "Sigmoid"], ["Swish"], ["x"])]


def test_a_kept_node_stays_where_others_use_it_and_goes_where_nobody_does() -> None:
    def through_relu(op: PatternOps, x: Var) -> Op:
        return op.Abs(op.keep(op.Relu(x)))

    rule = Rule("abs-of-relu", (through_relu,), lambda op, x: op.Max(x, 0.0))
    shared = graph("r = Relu(x) a = Abs(r) y = Add(a, r)")
    assert run_rule(rule, shared).applied == 1
    assert sorted(operators(shared)) == ["Add", "Max", "Relu"]
    alone = graph("r = Relu(x) y = Abs(r)")
    run_rule(rule, alone)
    assert operators(alone) == ["Max"]


def test_when_one_way_to_match_is_refused_the_next_is_tried() -> None:
    def sum_of_two(op: PatternOps, a: Var, b: Var) -> Op:
        return op.Add(a, b)

    def only_if_first_is_z(op: Builder, a: ir.Value, b: ir.Value) -> Any:
        require(a.name == "z", Reason.CONSTANT, "the first is not z")
        return op.Sub(a, op.Neg(b))

    given = graph("y = Add(x, z)")
    assert run_rule(Rule("swap", (sum_of_two,), only_if_first_is_z), given).applied == 1


def test_rules_end_where_each_application_makes_the_graph_smaller() -> None:
    rule = Rule("drop-neg", (lambda op, x: op.Neg(op.Neg(x)),), lambda op, x: x)
    body = " ".join(f"n{i + 1} = Neg(n{i})" for i in range(20)).replace("(n0)", "(x)") + " y = Neg(n20)"
    given = graph(body)
    run = run_rule(rule, given)
    assert run.applied == 10 and operators(given) == ["Neg"]


def test_unknown_rewrite_parameters_arrive_as_their_defaults() -> None:
    def rewrite(op: Builder, x: ir.Value, missing: str = "default", **others: Any) -> Any:
        assert missing == "default" and not others
        return op.Relu(x)

    run_rule(Rule("defaults", (own_sigmoid,), rewrite), graph("s = Sigmoid(x) y = Mul(x, s)"))


def test_a_float_among_the_inputs_takes_the_dtype_of_the_first_value() -> None:
    given = graph("s = Sigmoid(x) y = Mul(x, s)", HEAD.replace("float[", "double["))
    run_rule(Rule("scale", (own_sigmoid,), lambda op, x: op.Mul(x, 0.5)), given)
    (value,) = given.graph.initializers.values()
    assert value.dtype == ir.DataType.DOUBLE
    with pytest.raises(TypeError, match="dtype of the constant"):
        Builder(Run(given).names, "p", {"": 24}).Relu(0.5)


def test_a_rule_that_never_ends_is_stopped_and_named() -> None:
    def again(op: Builder, x: ir.Value) -> Any:
        return op.Relu(x)

    with pytest.raises(CheckError, match=r"pass forever.*a rule that ends"):
        run_rule(Rule("forever", (lambda op, x: op.Relu(x),), again), graph("y = Relu(x)"))


def test_a_subgraph_of_a_function_is_read_with_the_functions_opset() -> None:
    text = """<ir_version: 10, opset_import: ["" : 24, "local" : 1]>
    g (float[N, 4] x, bool c) => (float[N, 4] y) { y = local.choose(x, c) }
    <domain: "local", opset_import: ["" : OPSET]> choose (a, c) => (b) {
        b = If<then_branch = t () => (p) { s = Sigmoid(a) p = Mul(a, s) }, else_branch = e () => (q) { q = Neg(a) }>(c)
    }"""
    rule = Rule("to-relu", (own_sigmoid,), lambda op, x: op.Relu(x), min_opset=20)
    for opset, applied in (("18", 0), ("21", 1)):
        run = Run(model(text.replace("OPSET", opset)))
        assert apply_rule(rule, run) == applied
        check_structure(run.model)


GATE = """<domain: "mine", opset_import: ["" : 24]> gate <power: float = 1.0> (x) => (y) {
    one = Constant <value_float: float = @power> () s = Sigmoid(x) t = Mul(x, s) y = Mul(t, one) }"""


def to_function(op: Builder, x: ir.Value, y: ir.Value) -> Any:
    function = ir.serde.deserialize_function(onnx.parser.parse_function(GATE))
    (gated,) = op.call(function, x, power=1.0)
    gated.type, gated.shape = y.type, y.shape
    return gated


def named_sigmoid(op: PatternOps, x: Var) -> Any:
    return op.named("y", op.Mul(x, op.Sigmoid(x)))


GATE_RULE = Rule("to-gate", (named_sigmoid,), to_function)


def test_a_rule_may_call_a_function_which_joins_the_model() -> None:
    given = graph("s = Sigmoid(x) a = Mul(x, s) t = Sigmoid(a) y = Mul(a, t)")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    before = evaluate(given, {"x": x, "z": x})["y"]
    run = Run(given, [RegionVerifier(evaluate, prepare=Reference)])
    assert apply_rule(GATE_RULE, run) == 2
    check_structure(given)
    check_onnx(given)
    assert [node.domain for node in given.graph] == ["mine", "mine"]
    assert list(given.functions) == [("mine", "gate", "")] and given.opset_imports["mine"] == 1
    np.testing.assert_allclose(evaluate(given, {"x": x, "z": x})["y"], before, rtol=1e-6)


def test_a_function_that_is_wrong_is_found_by_region_verification() -> None:
    def to_wrong_function(op: Builder, x: ir.Value, y: ir.Value) -> Any:
        function = ir.serde.deserialize_function(onnx.parser.parse_function(GATE))
        (gated,) = op.call(function, x, power=1.01)
        gated.type, gated.shape = y.type, y.shape
        return gated

    given = graph("s = Sigmoid(x) y = Mul(x, s)")
    run = Run(given, [RegionVerifier(evaluate, prepare=Reference)])
    with pytest.raises(VerificationError, match="to-gate"):
        apply_rule(Rule("to-gate", (named_sigmoid,), to_wrong_function), run)
