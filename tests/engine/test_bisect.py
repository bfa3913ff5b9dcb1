"""The guilty application, in few runs."""

import math
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.bisect import bisect, find_guilty
from graphwright.engine.pipeline import FunctionPass, Pass, Pipeline, Step
from graphwright.engine.rewrite import Rule
from graphwright.engine.verification import Evaluator
from graphwright.errors import VerificationError

POINTS = [{"x": np.float32([0.3, -0.7])}]


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
def test_every_place_is_found_in_logarithmically_many_questions(count: int) -> None:
    for guilty in {1, 2, count // 2, count - 1, count} - {0}:
        if guilty > count:
            continue
        asked: list[int] = []
        assert bisect(count, lambda number, g=guilty, a=asked: a.append(number) or number < g) == guilty
        assert len(asked) <= math.log2(count) + 2


def test_no_guilty_one_is_none() -> None:
    assert bisect(10, lambda number: True) is None
    assert bisect(0, lambda number: False) is None


def chain() -> ir.Model:
    """Twelve Tanh, one Abs, six Neg."""
    made = ["v1 = Tanh(x)"]
    for op_type in ["Tanh"] * 11 + ["Abs"] + ["Neg"] * 5:
        made.append(f"v{len(made) + 1} = {op_type}(v{len(made)})")
    text = f"g (float[N] x) => (float[N] y) {{{' '.join(made)} y = Neg(v{len(made)})}}"
    return ir.from_onnx_text('<ir_version: 10, opset_import: ["": 20]> ' + text)


TANH = Rule("tanh-as-ratio", (lambda op, x: op.Tanh(x),), lambda op, x: op.Div(op.Sinh(x), op.Cosh(x)))
NEG = Rule("neg-as-product", (lambda op, x: op.Neg(x),), lambda op, x: op.Mul(x, -1.0))
DROP_ABS = Rule("drop-abs", (lambda op, x: op.Abs(x),), lambda op, x: x)


def pipeline_of(*passes: Pass) -> Pipeline:
    return Pipeline(tuple(Step(each, "lift") for each in passes))


def test_a_pipeline_that_keeps_the_numbers_has_no_guilty_one(evaluate: Evaluator) -> None:
    found = find_guilty(chain, pipeline_of(TANH), evaluate, POINTS)
    assert found.application is None
    assert (found.count, found.runs) == (12, 2)
    assert str(found) == "all 12 applications keep the numbers (2 runs)"


def test_the_guilty_application_is_named_behind_harmless_ones(evaluate: Evaluator, tmp_path: Path) -> None:
    found = find_guilty(chain, pipeline_of(TANH, DROP_ABS, NEG), evaluate, POINTS, folder=tmp_path)
    assert found.application is not None
    assert (found.application.number, found.application.pass_name) == (13, "drop-abs")
    assert (found.count, found.runs) == (19, 9), "one run of all, six to search, two for the reproducer"
    assert found.difference is not None and found.difference.output == "y"
    assert found.to_json()["number"] == 13
    assert found.folder is not None
    names = {each.name for each in found.folder.iterdir()}
    assert {"before.onnx", "after.onnx", "region_before.onnx", "region_after.onnx", "inputs.npz"} <= names
    inputs = dict(np.load(found.folder / "inputs.npz"))
    before, after = (evaluate(ir.load(found.folder / name), inputs)["y"] for name in ("before.onnx", "after.onnx"))
    assert not np.allclose(before, after)
    assert np.allclose(before, evaluate(chain(), POINTS[0])["y"]), "before is still right"
    assert "Sinh" in {node.op_type for node in ir.load(found.folder / "before.onnx").graph}, "up to the 12th"
    region = ir.load(found.folder / "region_before.onnx")
    assert region.graph[0].op_type == "Abs"


def test_a_pass_that_is_no_rule_can_be_guilty(evaluate: Evaluator) -> None:
    def negate(model: ir.Model) -> bool:
        node = ir.node("Neg", [model.graph.outputs[0]], outputs=[ir.Value(name="z")])
        model.graph.append(node)
        model.graph.outputs[0].name = "inner"
        node.outputs[0].name = "y"
        model.graph.outputs[0] = node.outputs[0]
        return True

    found = find_guilty(chain, pipeline_of(TANH, FunctionPass("negate", negate), NEG), evaluate, POINTS)
    assert found.application is not None
    assert (found.application.number, found.application.pass_name) == (13, "negate")


def test_an_application_that_leaves_a_graph_that_is_not_valid_is_guilty(evaluate: Evaluator, tmp_path: Path) -> None:
    unknown = Rule("unknown", (lambda op, x: op.Neg(x),), lambda op, x: op.NoSuchOperator(x))
    found = find_guilty(chain, pipeline_of(TANH, unknown), evaluate, POINTS, folder=tmp_path)
    assert found.application is not None
    assert (found.application.number, found.application.pass_name) == (13, "unknown")
    assert "NoSuchOperator" in str(found)


def test_a_source_that_cannot_run_is_an_error(evaluate: Evaluator) -> None:
    with pytest.raises(VerificationError, match="source model"):
        find_guilty(chain, pipeline_of(TANH), evaluate, [{"x": np.zeros((2, 2), np.int64)}])
