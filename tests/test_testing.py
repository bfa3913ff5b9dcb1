"""The helpers that tests rest on must be able to fail."""

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.observe import Reason
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.pipeline import FunctionPass
from graphwright.engine.rewrite import Builder, Rule, require
from graphwright.errors import VerificationError
from graphwright.testing import (
    apply,
    assert_equivalent,
    assert_fires,
    assert_refuses,
    model,
    perturb,
    same_graph,
)

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[N, 4] x) => (float[N, 4] y) <float[4] w> "
TEXT = HEAD + SIGNATURE + "{a = Mul(x, w) y = Neg(a)}"


def negated(op: PatternOps, x: Var) -> Op:
    result: Op = op.Neg(x)
    return result


def zero_minus(op: Builder, x: ir.Value) -> ir.Value:
    require(x.dtype == ir.DataType.FLOAT, Reason.DTYPE, f"{x.name} is {x.dtype}")
    result: ir.Value = op.Sub(op.Mul(x, 0.0), x)
    return result


def left_as_it_is(op: Builder, x: ir.Value) -> ir.Value:
    result: ir.Value = op.Abs(x)
    return result


RIGHT = Rule("subtract-from-zero", (negated,), zero_minus)
WRONG = Rule("forget-the-sign", (negated,), left_as_it_is)


def test_model_draws_the_weights_by_the_seed() -> None:
    first, again, other = (model(TEXT, seed=seed).graph.initializers["w"].const_value for seed in (0, 0, 1))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.numpy().shape == (4,)
    np.testing.assert_array_equal(first.numpy(), again.numpy())
    assert not np.array_equal(first.numpy(), other.numpy())


@pytest.mark.parametrize("declared", ["int64[4] w", "float[N] w"])
def test_model_draws_floats_of_known_sizes_only(declared: str) -> None:
    with pytest.raises(ValueError, match="known sizes"):
        model(TEXT.replace("float[4] w", declared))


def test_apply_works_on_a_copy() -> None:
    before = model(TEXT)
    outcome = apply(before, RIGHT)
    assert outcome.applied == 1
    assert outcome.patterns == ("negated",)
    assert [node.op_type for node in before.graph] == ["Mul", "Neg"]


def test_assert_fires_wants_the_exact_count_and_result() -> None:
    assert_fires(model(TEXT), RIGHT)
    with pytest.raises(AssertionError, match="applied 1 times, not 2"):
        assert_fires(model(TEXT), RIGHT, 2)
    with pytest.raises(AssertionError, match="operators"):
        assert_fires(model(TEXT), RIGHT, after=TEXT)


def test_assert_fires_compares_the_numbers_of_each_application() -> None:
    with pytest.raises(VerificationError):
        assert_fires(model(TEXT), WRONG)


def test_assert_fires_wants_an_end() -> None:
    def grow(given: ir.Model) -> bool:
        last = given.graph.outputs[0]
        node = ir.node("Neg", [last])
        given.graph.append(node)
        node.outputs[0].name, node.outputs[0].type = f"{last.name}_more", last.type
        node.outputs[0].shape = last.shape
        given.graph.outputs[0] = node.outputs[0]
        return True

    with pytest.raises(AssertionError, match="on its own result"):
        assert_fires(model(TEXT), FunctionPass("grow", grow), regions=False)


def test_assert_refuses_wants_the_reason() -> None:
    source = model(TEXT.replace("float", "double"))
    assert_refuses(source, RIGHT, Reason.DTYPE)
    with pytest.raises(AssertionError, match="refused for"):
        assert_refuses(source, RIGHT, Reason.RANK)
    with pytest.raises(AssertionError, match="matched"):
        assert_refuses(source, RIGHT, Reason.STRUCTURE)
    with pytest.raises(AssertionError, match="applied 1 times"):
        assert_refuses(model(TEXT), RIGHT, Reason.DTYPE)


def test_assert_refuses_notices_a_silent_change() -> None:
    def rename(given: ir.Model) -> bool:
        given.graph.node(0).name = "renamed"
        return False

    with pytest.raises(AssertionError, match="without an application"):
        assert_refuses(model(TEXT), FunctionPass("rename", rename), Reason.STRUCTURE)


def test_assert_equivalent_fails_on_other_numbers_and_on_no_change() -> None:
    before = model(TEXT)
    assert_equivalent(before, apply(before, RIGHT).model, sizes={"N": 3})
    with pytest.raises(AssertionError, match="is due"):
        assert_equivalent(before, apply(before, WRONG).model, sizes={"N": 3})
    with pytest.raises(AssertionError, match="did not fire"):
        assert_equivalent(before, before.clone())


def test_assert_equivalent_fails_where_outputs_prove_nothing() -> None:
    constant = model(TEXT.replace("Mul(x, w)", "Sub(x, x)"))
    with pytest.raises(AssertionError, match="is constant"):
        assert_equivalent(constant, apply(constant, RIGHT).model, sizes={"N": 3})
    before = model(TEXT)
    with pytest.raises(AssertionError, match="is empty"):
        assert_equivalent(before, apply(before, RIGHT).model, sizes={"N": 0})


def test_perturb_gives_valid_models_of_every_kind() -> None:
    text = HEAD + SIGNATURE + "{a = Mul(x, w) b = Softmax <axis = 1> (a) y = Neg(b)}"
    kinds: Counter[str] = Counter()
    for sentence, variant in perturb(model(text)):
        assert not same_graph(variant, model(text))
        kinds[sentence.split()[0]] += 1
        ir.passes.common.CheckerPass(full_check=True)(variant)
    # Two interior values, one constant, an axis that can go one way only, two float types.
    assert kinds == {"another": 2, "a": 1, "b": 1, "constant": 1, "axis": 1, "all": 2}


def test_perturb_repeats_with_its_seed() -> None:
    texts = [[ir.to_proto(variant) for _, variant in perturb(model(TEXT), seed)] for seed in (3, 3)]
    assert texts[0] == texts[1]
