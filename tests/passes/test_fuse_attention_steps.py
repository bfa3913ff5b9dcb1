"""What stands between the product and the softmax: scales, soft caps, sums and choices of masks, in any order."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.engine.shapes import infer_shapes
from graphwright.passes.lift.fuse_attention import FUSE_ATTENTION
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g'
QKV = "float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T,3] v"
SCORES = "kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt)"
LOWEST = float(np.finfo(np.float32).min)
CONSTS = f"float half = {{0.5}}, float three = {{3}}, float low = {{-1e30}}, float lowest = {{{LOWEST}}}"


def layer(steps: str, *, inputs: str = "", consts: str = "", infer: bool = True) -> ir.Model:
    """A layer whose scores ``s`` become ``m`` by these steps."""
    body = f"{SCORES} {steps} p = Softmax(m) y = MatMul(p, v)"
    given_inputs = QKV + (f", {inputs}" if inputs else "")
    declared = ", ".join(each for each in (CONSTS, consts) if each)
    return model(f"{HEAD} ({given_inputs}) => (float[B,2,S,3] y) <{declared}> {{ {body} }}", infer=infer)


def attention_of(after: ir.Model) -> dict[str, object]:
    (node,) = (each for each in after.graph if each.op_type == "Attention")
    return {name: attribute.value for name, attribute in node.attributes.items()}


def assert_same_numbers(before: ir.Model, after: ir.Model, inputs: dict[str, np.ndarray]) -> None:
    found = compare(evaluate(before, inputs), evaluate(after, inputs))
    assert not found, str(found[0])


SIZES = ({"B": 2, "S": 3, "T": 5}, {"B": 1, "S": 1, "T": 1}, {"B": 3, "S": 7, "T": 2})
MASK, BIAS, KEEP = "float[B,1,S,T] mask", "float[1,2,S,T] bias", "bool[B,1,S,T] keep"
STEPS = {
    "scale, scale": ("a = Mul(s, half) m = Div(a, three)", ""),
    "soft cap": ("a = Div(s, three) t = Tanh(a) m = Mul(t, three)", ""),
    "soft cap of another slope": ("a = Mul(s, half) t = Tanh(a) m = Mul(three, t)", ""),
    "scale, soft cap, mask": (
        "z = Mul(s, half) a = Div(z, three) t = Tanh(a) c = Mul(t, three) m = Add(c, mask)",
        MASK,
    ),
    "bias, mask": ("a = Add(s, bias) m = Add(a, mask)", f"{MASK}, {BIAS}"),
    "mask first in both sums": ("a = Add(bias, s) m = Add(mask, a)", f"{MASK}, {BIAS}"),
    "bias, scale, mask": ("a = Add(s, bias) z = Mul(a, half) m = Add(z, mask)", f"{MASK}, {BIAS}"),
    "three masks": ("a = Add(s, bias) b = Add(a, mask) m = Add(b, mask)", f"{MASK}, {BIAS}"),
    "bias, choice": ("a = Add(s, bias) m = Where(keep, a, low)", f"{KEEP}, {BIAS}"),
    "bias, choice the other way": ("a = Add(s, bias) m = Where(keep, low, a)", f"{KEEP}, {BIAS}"),
    "choice, bias": ("a = Where(keep, s, lowest) m = Add(a, bias)", f"{KEEP}, {BIAS}"),
    "a sum with a choice, bias": ("w = Where(keep, bias, lowest) a = Add(s, w) m = Add(a, bias)", f"{KEEP}, {BIAS}"),
    "two choices": ("a = Where(keep, s, low) m = Where(other, low, a)", f"{KEEP}, bool[S,T] other"),
    "a scale for each head": ("a = Mul(s, rows) m = Add(a, mask)", f"{MASK}, float[2,1,1] rows"),
    "a divisor for each row": ("m = Div(s, rows)", "float[B,1,S,1] rows"),
    "a computed scale": ("r = ReduceMean <keepdims = 0> (rows) m = Mul(s, r)", "float[2,1,1] rows"),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_folded(name: str) -> None:
    steps, inputs = STEPS[name]
    before = layer(steps, inputs=inputs)
    after = assert_fires(before, FUSE_ATTENTION)
    assert not {"Softmax", "MatMul", "Tanh"} & {node.op_type for node in after.graph}
    for sizes in SIZES:
        assert_equivalent(before, after, sizes=sizes)


def test_two_layers_in_one_graph() -> None:
    one = f"{SCORES} a = Add(s, bias) m = Add(a, bias) p = Softmax(m) x = MatMul(p, v)"
    two = "s2 = MatMul(q, kt) t2 = Tanh(s2) c2 = Mul(t2, three) m2 = Add(c2, bias) p2 = Softmax(m2) y = MatMul(p2, x2)"
    before = model(
        f"{HEAD} ({QKV}, float[2,S,T] bias, float[B,2,T,3] x2) => (float[B,2,S,3] x, float[B,2,S,3] y) <{CONSTS}> "
        f"{{ {one} {two} }}"
    )
    assert_equivalent(before, assert_fires(before, FUSE_ATTENTION, 2))


def test_the_numbers_of_a_soft_cap() -> None:
    after = apply(layer("a = Mul(s, half) t = Tanh(a) m = Mul(t, three)"), FUSE_ATTENTION).model
    assert attention_of(after) == {"scale": 1.5, "softcap": 3.0}  # tanh(s/2) 3 = 3 tanh(1.5 s / 3)


def test_a_tanh_of_nothing_more_is_a_cap_of_1() -> None:
    before = layer("m = Tanh(s)")
    after = assert_fires(before, FUSE_ATTENTION)
    assert attention_of(after) == {"scale": 1.0, "softcap": 1.0}
    assert_equivalent(before, after)


@pytest.mark.parametrize("bias", ["table", "gathered"])
def test_only_the_mask_is_raised_where_the_bias_is_a_table_of_small_numbers(bias: str) -> None:
    consts = "float[8] table, int64[1] ids = {3}"
    found = "g = Gather(table, ids)" if bias == "gathered" else "g = Slice(table, ids, ids2)"
    consts += ", int64[1] ids2 = {4}"
    before = layer(f"{found} a = Add(s, g) m = Add(a, mask)", inputs=MASK, consts=consts)
    after = assert_fires(before, FUSE_ATTENTION)
    (equal,) = (node for node in after.graph if node.op_type == "Equal")
    assert equal.inputs[0] is not None and equal.inputs[0].name == "mask"
    assert_equivalent(before, after)


@pytest.mark.parametrize("number", [LOWEST / 2, LOWEST])
def test_a_sum_of_two_masks_may_become_the_lowest_number(number: float) -> None:
    """Each half is no lowest number; their sum is, and means "as all others" where a whole row has it."""
    before = layer("a = Add(s, bias) m = Add(a, mask)", inputs=f"{MASK}, {BIAS}")
    after = assert_fires(before, FUSE_ATTENTION)
    rng = np.random.default_rng(0)
    shapes = {"q": (2, 2, 3, 4), "k": (2, 2, 5, 4), "v": (2, 2, 5, 3)}
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    mask, other = np.zeros((2, 1, 3, 5), np.float32), np.zeros((1, 2, 3, 5), np.float32)
    mask[0], other[:, 0] = number, LOWEST / 2 if number == LOWEST / 2 else 1.0
    assert_same_numbers(before, after, inputs | {"mask": mask, "bias": other})


T_SIZES = st.sampled_from([1, 2, 7])


@given(b=T_SIZES, s=T_SIZES, t=T_SIZES, low=st.sampled_from([LOWEST, -1e30, -10.0]), seed=st.integers(0, 99))
def test_same_numbers_for_a_bias_and_a_choice(b: int, s: int, t: int, low: float, seed: int) -> None:
    before = layer(
        "z = Mul(s, half) a = Add(z, bias) c = Add(a, mask) m = Where(keep, c, lowest)",
        inputs=f"{MASK}, {BIAS}, bool[T] keep",
    )
    after = apply(before, FUSE_ATTENTION)
    assert after.applied == 1
    rng = np.random.default_rng(seed)
    shapes = {"q": (b, 2, s, 4), "k": (b, 2, t, 4), "v": (b, 2, t, 3), "bias": (1, 2, s, t)}
    inputs = {name: rng.normal(0, 2, shape).astype(np.float32) for name, shape in shapes.items()}
    mask = np.where(rng.random((b, 1, s, t)) < 0.5, 0, low).astype(np.float32)
    assert_same_numbers(before, after.model, inputs | {"mask": mask, "keep": rng.random(t) < 0.8})


@pytest.mark.parametrize(
    ("steps", "inputs", "reason"),
    [
        ("a = Add(s, mask) m = Tanh(a)", MASK, Reason.CONSTANT),  # a capped mask is no mask
        ("a = Tanh(s) m = Tanh(a)", "", Reason.CONSTANT),
        ("m = Mul(s, mask)", MASK, Reason.CONSTANT),  # one scale for each score
        ("a = Tanh(s) m = Mul(a, rows)", "float[2,1,1] rows", Reason.CONSTANT),
        ("a = Add(s, mask) m = Mul(a, rows)", f"{MASK}, float[2,1,1] rows", Reason.CONSTANT),
        ("m = Mul(s, rows)", "float[3,1,1,1] rows", Reason.UNKNOWN),  # three batches of one
        ("m = Mul(s, rows)", "float[A,1,2,1,1] rows", Reason.RANK),
        ("a = Add(s, mask) m = Div(a, none)", MASK, Reason.CONSTANT),
        ("a = Add(s, mask) m = Add(a, wide)", f"{MASK}, float[A,1,S,T] wide", Reason.UNKNOWN),
        ("a = Add(s, mask) m = Add(a, wide)", f"{MASK}, float[1,1,1,S,T] wide", Reason.RANK),
        ("a = Add(s, bias) m = Where(keep, a, low)", f"{BIAS}, bool[3,2,S,T] keep", Reason.UNKNOWN),
        ("a = Where(keep, wide, lowest) m = Add(s, a)", f"{KEEP}, float[A,1,S,T] wide", Reason.UNKNOWN),
    ],
)
def test_refuses_steps_that_attention_has_not(steps: str, inputs: str, reason: Reason) -> None:
    before = layer(steps, inputs=inputs, consts="float none = {0}", infer=False)
    assert_refuses(before, FUSE_ATTENTION, reason)


@pytest.mark.parametrize(
    "steps",
    [
        "a = Sub(s, bias) m = Add(a, mask)",
        "a = Where(keep, s, high) m = Add(a, mask)",  # not low enough
        "a = Where(keep, s, given) m = Add(a, mask)",
        "a = Sigmoid(s) m = Add(a, mask)",
        "a = Div(three, s) m = Add(a, mask)",
        "a = Where(keep, low, low) m = Add(a, mask)",
    ],
)
def test_near_misses_stay(steps: str) -> None:
    before = layer(steps, inputs=f"{MASK}, {BIAS}, {KEEP}, float given", consts="float high = {-1e29}")
    assert_refuses(before, FUSE_ATTENTION, Reason.STRUCTURE)


@pytest.mark.parametrize("name", ["a", "t", "c"])
def test_refuses_a_step_with_another_use(name: str) -> None:
    steps = "a = Mul(s, half) t = Tanh(a) c = Mul(t, three) m = Add(c, mask)"
    body = f"{SCORES} {steps} p = Softmax(m) x = MatMul(p, v) u = ReduceMax({name}) y = Add(x, u)"
    before = model(f"{HEAD} ({QKV}, {MASK}) => (float[B,2,S,3] y) <{CONSTS}> {{ {body} }}")
    assert_refuses(before, FUSE_ATTENTION, Reason.SHARED)


def test_a_refused_attempt_leaves_no_user_of_a_value_behind() -> None:
    before = layer("a = Tanh(s) m = Tanh(a)")
    outcome = apply(before, FUSE_ATTENTION)
    assert not outcome.applied
    nodes = set(outcome.model.graph)
    for value in outcome.model.graph.inputs:
        assert {user for user, _ in value.uses()} <= nodes


CACHED = """k = Concat <axis = 2> (past_k, new_k) v = Concat <axis = 2> (past_v, new_v)
    kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt) z = Mul(s, half) m = Add(z, mask) p = Softmax(m)
    y = MatMul(p, v)"""


def cached(past_v: str, mask: str) -> ir.Model:
    past = f"float[B,2,P,4] past_k, float[B,2,S,4] new_k, float[B,2,{past_v},3] past_v, float[B,2,S,3] new_v"
    outputs = "float[B,2,S,3] y, float[B,2,T,4] k, float[B,2,T,3] v"
    text = f"{HEAD} (float[B,2,S,4] q, {past}, float[{mask}] mask) => ({outputs}) <{CONSTS}> {{ {CACHED} }}"
    found = model(text, infer=False)
    for value in found.graph.outputs:
        value.shape = None
    infer_shapes(found)
    found.graph.inputs[-1].shape = ir.Shape(mask.replace("L", "P + S").split(","))
    infer_shapes(found)
    return found


@pytest.mark.parametrize(("past_v", "mask"), [("P", "B,1,S,L"), ("P", "B,1,S,U"), ("Q", "B,1,S,L")])
def test_keys_and_values_that_follow_a_past_stay_outputs(past_v: str, mask: str) -> None:
    before = cached(past_v, mask)
    after = assert_fires(before, FUSE_ATTENTION)
    assert [node.op_type for node in after.graph].count("Concat") >= 2
    rng = np.random.default_rng(0)
    for past, length in ((4, 3), (0, 3), (5, 1)):
        shapes = {"q": (2, 2, length, 4), "past_k": (2, 2, past, 4), "new_k": (2, 2, length, 4)}
        shapes |= {"past_v": (2, 2, past, 3), "new_v": (2, 2, length, 3), "mask": (2, 1, length, past + length)}
        inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        assert_same_numbers(before, after, inputs)


def test_refuses_pasts_of_two_lengths_under_a_mask_of_a_third() -> None:
    assert_refuses(cached("Q", "B,1,S,U"), FUSE_ATTENTION, Reason.UNKNOWN)
