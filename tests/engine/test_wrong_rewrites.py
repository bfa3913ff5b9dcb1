"""Five wrong rewrites of public optimizers: graphwright does not make them, and catches each that is planted.

a  The mask of an attention is dropped because the nodes that make it are not the ones that the rule knows.
b  Rotary embedding with tables of batch 1 becomes an operator that does not broadcast them: batch 2 fails.
c  An attention is fused whose result was reshaped to two axes; the fused operator gives three.
d  Gemm(x, Transpose(W), transB=1) with the transposition folded into W, and transB cleared as well.
e  Transpose(p) after Transpose(p) is dropped although p is not its own inverse.

They were found in onnxscript 0.7.2 (a, b, c) and in ONNX Runtime's transformers tools 1.31 (d, e).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_ir.passes.common import ShapeInferencePass

from graphwright.engine import facts
from graphwright.engine.bisect import find_guilty
from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason, Record
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.pipeline import Pass, Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import Builder, Rule, Run
from graphwright.engine.sample import USUAL_CHOICES, bind_dims, sample_inputs
from graphwright.engine.verification import Evaluator
from graphwright.engine.verify import EachVerifier, RegionVerifier, verify_final
from graphwright.errors import VerificationError
from graphwright.passes import CATALOGUE

HEADER = '<ir_version: 10, opset_import: ["": 23, "com.microsoft": 1]> '
# Two applications of a harmless rule stand before the guilty one, so that a bisection has something to pass
# over.
PREFIX = "n = Neg(input) x = Neg(n) "
HARMLESS = Rule("neg-as-product", (lambda op, x: op.Neg(x),), lambda op, x: op.Mul(x, -1.0))


def attention_with_mask(op: PatternOps, q: Var, k: Var, v: Var, mask: Var) -> Op:
    return op.MatMul(op.Softmax(op.Add(op.MatMul(q, k), mask)), v)


def without_mask(op: Builder, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value) -> ir.Value:
    # The fault: a mask of unknown making is taken for the causal one, which the operator would add itself.
    return op.MatMul(op.Softmax(op.MatMul(q, k)), v)


def rotary(op: PatternOps, first: Var, second: Var, cos: Var, sin: Var) -> Op:
    c, s = op.Unsqueeze(cos, [1]), op.Unsqueeze(sin, [1])
    low = op.Sub(op.Mul(first, c), op.Mul(second, s))
    return op.Concat(low, op.Add(op.Mul(second, c), op.Mul(first, s)), axis=-1)


def rotary_without_broadcast(op: Builder, first: ir.Value, second: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
    # The fault: the operator wants tables of as many rows as x has, and these have one.
    return op.RotaryEmbedding(op.Concat(first, second, axis=-1), cos, sin)


def heads_joined(op: PatternOps, q: Var, k: Var, v: Var, size: Var) -> Op:
    split = op.MatMul(op.Softmax(op.MatMul(q, op.Transpose(k, perm=[0, 1, 3, 2]))), v)
    return op.Reshape(op.Transpose(split, perm=[0, 2, 1, 3]), size)


def multi_head(op: Builder, q: ir.Value, k: ir.Value, v: ir.Value, size: ir.Value) -> ir.Value:
    # The fault: whatever the size was, the operator gives [B, S, E].
    joined = [op.Reshape(op.Transpose(each, perm=[0, 2, 1, 3]), [0, 0, 8]) for each in (q, k, v)]
    return op.MultiHeadAttention(*joined, num_heads=2, scale=1.0, _domain="com.microsoft")


def gemm_of_transposed(op: PatternOps, x: Var, w: Var) -> Op:
    return op.Gemm(x, op.Transpose(w, perm=[1, 0]), transB=1)


def folded_and_cleared(op: Builder, x: ir.Value, w: ir.Value) -> ir.Value:
    contents = facts.array(w)
    assert contents is not None
    # The fault: the folded weight is transposed already, so that transB has to stay.
    return op.Gemm(x, op.constant(np.ascontiguousarray(contents.T)))


def transposed_twice(op: PatternOps, x: Var) -> Op:
    return op.Transpose(op.Transpose(x, perm=[1, 2, 0]), perm=[1, 2, 0])


@dataclass(frozen=True)
class Case:
    """A graph, a planted rule, and what the error says of it."""

    text: str
    planted: Rule
    says: str
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)


WEIGHT = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
CASES = {
    "a": Case(
        "g (float[B, 2, S, 4] input, float[B, 2, 4, T] k, float[B, 2, T, 4] v, float[B, 1, S, T] m) "
        "=> (float[B, 2, S, 4] y) {" + PREFIX + "mask = Relu(m) s = MatMul(x, k) a = Add(s, mask) "
        "p = Softmax(a) y = MatMul(p, v)}",
        Rule("fuse-attention-carelessly", (attention_with_mask,), without_mask),
        "is due",
    ),
    "b": Case(
        "g (float[B, 2, S, 8] input, float[1, S, 4] cos, float[1, S, 4] sin) => (float[B, 2, S, 8] y) "
        "<int64[1] one = {1}> {" + PREFIX + "c = Unsqueeze(cos, one) s = Unsqueeze(sin, one) "
        "x1, x2 = Split<axis = -1, num_outputs = 2>(x) a = Mul(x1, c) b = Mul(x2, s) low = Sub(a, b) "
        "d = Mul(x2, c) e = Mul(x1, s) high = Add(d, e) y = Concat<axis = -1>(low, high)}",
        Rule("fuse-rotary-carelessly", (rotary,), rotary_without_broadcast),
        "it cannot be run",
    ),
    "c": Case(
        "g (float[B, 2, S, 4] input, float[B, 2, S, 4] k, float[B, 2, S, 4] v) => (float[M, 4] y) "
        "<int64[2] size = {-1, 8}> {" + PREFIX + "kt = Transpose<perm = [0, 1, 3, 2]>(k) s = MatMul(x, kt) "
        "p = Softmax(s) a = MatMul(p, v) t = Transpose<perm = [0, 2, 1, 3]>(a) r = Reshape(t, size) "
        "y = Gemm(r, w)}",
        Rule("fuse-multi-head-carelessly", (heads_joined,), multi_head),
        "shape [3, 5, 8] where [15, 8] is due",
        {"w": np.tile(WEIGHT, (2, 1))},
    ),
    "d": Case(
        "g (float[N, 4] input) => (float[N, 4] y) {" + PREFIX + "t = Transpose<perm = [1, 0]>(w) "
        "y = Gemm<transB = 1>(x, t)}",
        Rule("fold-transpose-carelessly", (gemm_of_transposed,), folded_and_cleared),
        "is due",
        {"w": WEIGHT},
    ),
    "e": Case(
        "g (float[N, N, N] input) => (float[N, N, N] y) {" + PREFIX + "t = Transpose<perm = [1, 2, 0]>(x) "
        "u = Transpose<perm = [1, 2, 0]>(t) y = Exp(u)}",
        Rule("merge-transposes-carelessly", (transposed_twice,), lambda op, x: x),
        "is due",
    ),
}


def source(case: Case) -> ir.Model:
    proto = onnx.parser.parse_model(HEADER + case.text)
    for name, contents in case.weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(contents, name))
    return ShapeInferencePass()(ir.from_proto(proto)).model


def pipeline_of(*passes: Pass) -> Pipeline:
    return Pipeline(tuple(Step(each, "lift") for each in passes))


def points(model: ir.Model) -> list[dict[str, np.ndarray]]:
    shapes = (bind_dims(model.graph.inputs, choice) for choice in range(USUAL_CHOICES))
    return [sample_inputs(model, each, seed) for seed, each in enumerate(shapes)]


each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_case
@pytest.mark.parametrize("target", CATALOGUE.defaults)
def test_the_default_pipelines_keep_the_numbers(case: Case, target: str, evaluate: Evaluator) -> None:
    model = source(case)
    verifier = RegionVerifier(evaluate)
    after = run_pipeline(Run(model.clone(), [verifier]), CATALOGUE.default(target))
    for inputs in points(model):
        assert compare(evaluate(model, inputs), evaluate(after, inputs)) == []
    assert verifier.verification.passed
    assert verifier.verification.unverified == []


@each_case
def test_region_verification_catches_it_and_names_it(case: Case, evaluate: Evaluator) -> None:
    with pytest.raises(VerificationError) as caught:
        run_pipeline(Run(source(case), [RegionVerifier(evaluate)]), pipeline_of(HARMLESS, case.planted))
    assert f"#3 {case.planted.name}" in str(caught.value)
    assert case.says in str(caught.value)


@each_case
def test_the_whole_model_catches_it_after_the_pass_and_at_the_end(case: Case, evaluate: Evaluator) -> None:
    model = source(case)
    inputs = points(model)
    planted = pipeline_of(HARMLESS, case.planted)
    with pytest.raises(VerificationError, match=f"after pass {case.planted.name}"):
        run_pipeline(Run(model.clone(), [EachVerifier(evaluate, model, inputs)]), planted)
    after = run_pipeline(Run(model.clone()), planted)
    found = verify_final(lambda given: evaluate(model, given), lambda given: evaluate(after, given), inputs)
    assert not found.passed
    assert found.unverified == []


@each_case
def test_bisection_passes_over_the_harmless_ones(case: Case, evaluate: Evaluator) -> None:
    planted = pipeline_of(HARMLESS, case.planted)
    found = find_guilty(lambda: source(case), planted, evaluate, points(source(case)))
    assert found.application is not None
    assert (found.application.number, found.application.pass_name) == (3, case.planted.name)


def test_a_batch_of_one_alone_would_not_catch_the_rotary_fault(evaluate: Evaluator) -> None:
    model = source(CASES["b"])
    after = run_pipeline(Run(model.clone()), pipeline_of(CASES["b"].planted))
    assert "RotaryEmbedding" in {node.op_type for node in after.graph}
    inputs = sample_inputs(model, bind_dims(model.graph.inputs, sizes={"B": 1}))
    assert compare(evaluate(model, inputs), evaluate(after, inputs)) == []


def test_the_driver_refuses_a_changed_rank_where_it_is_known() -> None:
    """The fused operator of case c with its result's shape declared: the standing check needs no numbers."""

    def with_known_shape(op: Builder, q: ir.Value, k: ir.Value, v: ir.Value, size: ir.Value) -> ir.Value:
        result = multi_head(op, q, k, v, size)
        result.shape = ir.Shape(["B", "S", 8])
        return result

    record = Record()
    planted = Rule("fuse-multi-head-with-shape", (heads_joined,), with_known_shape)
    run_pipeline(Run(source(CASES["c"]), [record]), pipeline_of(planted))
    assert record.applications == []
    assert [each.reason for each in record.outcomes[0].refusals] == [Reason.OUTPUT_TYPE]
