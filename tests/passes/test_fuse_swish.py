"""fuse-swish: SiLU and QuickGelu."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lift.fuse_swish import FUSE_SWISH
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g (float[B, S] x) => (float[B, S] y) '
QUICK = HEAD + "<float alpha = {1.702}> "
SILU = "{s = Sigmoid(x) y = Mul(x, s)}"
SCALED = "{a = Mul(x, alpha) s = Sigmoid(a) y = Mul(x, s)}"


def in_half(constants: str) -> str:
    """The same constants in float16, which ONNX text writes as bits."""
    bits = re.sub(r"\{([-\d.]+)\}", lambda m: f"{{{np.float16(m[1]).view(np.uint16)}}}", constants)
    return bits.replace("float ", "float16 ")


EXAMPLES = {
    "silu": HEAD + SILU,
    "silu swapped": HEAD + "{s = Sigmoid(x) y = Mul(s, x)}",
    "quick": QUICK + SCALED,
    "quick swapped": QUICK + "{a = Mul(alpha, x) s = Sigmoid(a) y = Mul(s, x)}",
    "factor of rank 1": QUICK.replace("float alpha", "float[1] alpha") + SCALED,
    "half precision": HEAD.replace("float", "float16") + in_half("<float alpha = {1.702}> ") + SCALED,
    "double silu": HEAD.replace("float", "double") + SILU,
    "double with a short factor": QUICK.replace("float", "double").replace("1.702", "1.5") + SCALED,
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_spelling_becomes_one_operator(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, FUSE_SWISH)
    assert [node.op_type for node in after.graph] == ["Swish"]
    assert_equivalent(before, after, sizes={"B": 2, "S": 3})


def test_alpha_is_the_factor() -> None:
    assert_fires(model(EXAMPLES["silu"]), FUSE_SWISH, after=HEAD + "{y = Swish(x)}")
    assert_fires(model(EXAMPLES["quick"]), FUSE_SWISH, after=HEAD + "{y = Swish <alpha = 1.702> (x)}")


def test_two_in_one_graph_are_two_applications() -> None:
    before = QUICK + "{s = Sigmoid(x) z = Mul(x, s) a = Mul(z, alpha) t = Sigmoid(a) y = Mul(t, z)}"
    after = HEAD + "{z = Swish(x) y = Swish <alpha = 1.702> (z)}"
    assert_fires(model(before), FUSE_SWISH, 2, after)


def test_fires_inside_a_branch() -> None:
    before = HEAD.replace("x)", "x, bool flag)") + (
        "{y = If (flag) <then_branch = t () => (float[B, S] o) {s = Sigmoid(x) o = Mul(x, s)},"
        " else_branch = f () => (float[B, S] q) {q = Exp(x)}>}"
    )
    assert_fires(model(before), FUSE_SWISH)


REFUSED = {
    "old opset": (Reason.OPSET, EXAMPLES["silu"].replace("24", "23")),
    "unknown type": (Reason.DTYPE, EXAMPLES["silu"]),
    "factor is an input": (Reason.CONSTANT, HEAD.replace("x)", "x, float alpha)") + SCALED),
    "factor may be overridden": (Reason.CONSTANT, HEAD.replace("x)", "x, float alpha = {1.702})") + SCALED),
    "factor for each column": (Reason.CONSTANT, HEAD + "<float[2] alpha = {1, 2}> " + SCALED),
    "factor adds an axis": (
        Reason.RANK,
        QUICK.replace("=> (float[B, S]", "=> (float[A, B, S]").replace("float alpha", "float[1, 1, 1] alpha") + SCALED,
    ),
    "factor of more digits": (Reason.ATTRIBUTE, QUICK.replace("float", "double") + SCALED),
    "gate used elsewhere": (
        Reason.SHARED,
        HEAD.replace("S] y", "S] y, float[B, S] z") + SILU.replace("}", " z = Exp(s)}"),
    ),
    "gate is an output": (Reason.GRAPH_OUTPUT, HEAD.replace("S] y", "S] y, float[B, S] s") + SILU),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    before = model(source)
    if name == "unknown type":
        before.graph.inputs[0].type = None
    assert_refuses(before, FUSE_SWISH, reason)


@pytest.mark.parametrize(
    "body",
    [
        "{s = Sigmoid(x) e = Exp(x) y = Mul(e, s)}",
        "{s = Tanh(x) y = Mul(x, s)}",
        "{s = Sigmoid(x) y = Add(x, s)}",
    ],
)
def test_near_misses_do_not_match(body: str) -> None:
    assert_refuses(model(HEAD + body), FUSE_SWISH, Reason.STRUCTURE)


def test_a_gate_captured_by_a_branch_is_refused() -> None:
    source = HEAD.replace("x)", "x, bool flag)").replace("S] y", "S] y, float[B, S] z") + SILU.replace(
        "}",
        " z = If (flag) <then_branch = t () => (float[B, S] o) {o = Exp(s)},"
        " else_branch = f () => (float[B, S] q) {q = Exp(x)}>}",
    )
    assert_refuses(model(source), FUSE_SWISH, Reason.SHARED)


@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    batch=st.sampled_from([1, 2, 3]),
    length=st.sampled_from([2, 7]),
    seed=st.integers(0, 9),
)
def test_same_numbers_at_any_size(name: str, batch: int, length: int, seed: int) -> None:
    before = model(EXAMPLES[name])
    after = apply(before, FUSE_SWISH).model
    assert_equivalent(before, after, sizes={"B": batch, "S": length}, seed=seed)
