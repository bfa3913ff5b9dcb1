"""fuse-gelu: the spellings of both forms that exporters emit."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lift.fuse_gelu import FUSE_GELU
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g (float[B, S] x) => (float[B, S] y) '
CONSTANTS = (
    "<float root = {1.4142135}, float inverse = {0.70710678}, float one = {1}, float half = {0.5},"
    " float two = {2}, float three = {3}, float cubic = {0.044715}, float factor = {0.79788456}> "
)
ERF = "d = Div(x, root) e = Erf(d) b = Add(e, one) "
TANH = "c = Pow(x, three) k = Mul(c, cubic) u = Add(x, k) v = Mul(u, factor) t = Tanh(v) b = Add(t, one) "
OUTSIDE = "f = Mul(x, factor) v = Mul(f, u) t = Tanh(v) b = Add(t, one) "
LAST = {
    "half of the product": "p = Mul(x, b) y = Mul(p, half)",  # TorchScript
    "half of x": "p = Mul(x, half) y = Mul(p, b)",
    "half of the bracket": "p = Mul(b, half) y = Mul(x, p)",  # torch.export at opset 18
    "product over two": "p = Mul(x, b) y = Div(p, two)",
    "x over two": "p = Div(x, two) y = Mul(p, b)",
}


def text(body: str, head: str = HEAD, constants: str = CONSTANTS) -> str:
    return head + constants + "{" + body + "}"


def in_half(constants: str) -> str:
    """The same constants in float16, which ONNX text writes as bits."""
    bits = re.sub(r"\{([-\d.]+)\}", lambda m: f"{{{np.float16(m[1]).view(np.uint16)}}}", constants)
    return bits.replace("float ", "float16 ")


PRODUCT = LAST["half of the product"]
EXAMPLES = {
    **{f"erf, {name}": text(ERF + last) for name, last in LAST.items()},
    **{f"tanh, {name}": text(TANH + last) for name, last in LAST.items()},
    "erf, by inverse": text(ERF.replace("Div(x, root)", "Mul(inverse, x)") + PRODUCT),
    "erf, one first": text(ERF.replace("Add(e, one)", "Add(one, e)") + "p = Mul(b, x) y = Mul(half, p)"),
    "tanh, cube by products": text(TANH.replace("c = Pow(x, three)", "q = Mul(x, x) c = Mul(x, q)") + PRODUCT),
    "tanh, cube by a square": text(TANH.replace("c = Pow(x, three)", "q = Pow(x, two) c = Mul(q, x)") + PRODUCT),
    "tanh, swapped": text(TANH.replace("Add(x, k)", "Add(k, x)").replace("Mul(u, factor)", "Mul(factor, u)") + PRODUCT),
    "tanh, x outside": text("c = Mul(x, cubic) q = Mul(c, x) u = Add(one, q) " + OUTSIDE + PRODUCT),
    "tanh, square first": text("q = Mul(x, x) k = Mul(q, cubic) u = Add(k, one) " + OUTSIDE + PRODUCT),
    "constants of rank 1": text(ERF + PRODUCT, HEAD, CONSTANTS.replace("float ", "float[1] ")),
    "half precision": text(ERF + PRODUCT, HEAD.replace("float", "float16"), in_half(CONSTANTS)),
    "double": text(
        ERF + PRODUCT,
        HEAD.replace("float", "double"),
        CONSTANTS.replace("float", "double").replace("1.4142135", "1.4142135623730951"),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_spelling_becomes_one_operator(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, FUSE_GELU)
    (node,) = after.graph
    wanted = "tanh" if name.startswith("tanh") else "none"
    assert (node.op_type, node.attributes["approximate"].as_string()) == ("Gelu", wanted)
    assert_equivalent(before, after, sizes={"B": 2, "S": 3})


def test_two_in_one_graph_are_two_applications() -> None:
    first = (
        (ERF + PRODUCT).replace("p =", "p1 =").replace("(p,", "(p1,").replace("b =", "b1 =").replace(", b)", ", b1)")
    )
    second = (TANH + PRODUCT).replace("(x,", "(z,")
    before = text(first.replace("y =", "z =") + " " + second)
    after = HEAD + '{z = Gelu(x) y = Gelu <approximate = "tanh"> (z)}'
    assert_fires(model(before), FUSE_GELU, 2, after)


REFUSED = {
    "old opset": (Reason.OPSET, EXAMPLES["erf, half of x"].replace("24", "19")),
    "unknown type": (Reason.DTYPE, EXAMPLES["erf, half of x"]),
    "bracket used elsewhere": (
        Reason.SHARED,
        text(ERF + PRODUCT + " z = Exp(b)", HEAD.replace("S] y", "S] y, float[B, S] z")),
    ),
    "erf is an output": (
        Reason.GRAPH_OUTPUT,
        text(ERF + PRODUCT, HEAD.replace("S] y", "S] y, float[B, S] e")),
    ),
    "captured by a branch": (
        Reason.SHARED,
        text(
            ERF + PRODUCT + " z = If (flag) <then_branch = t () => (float[B, S] o) {o = Exp(e)},"
            " else_branch = f () => (float[B, S] q) {q = Exp(x)}>",
            HEAD.replace("x)", "x, bool flag)").replace("S] y", "S] y, float[B, S] z"),
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    before = model(source)
    if name == "unknown type":
        before.graph.inputs[0].type = None
    assert_refuses(before, FUSE_GELU, reason)


MISSED = {
    "root slightly off": text(ERF + PRODUCT, HEAD, CONSTANTS.replace("1.4142135", "1.4143")),
    "half slightly off": text(ERF + PRODUCT, HEAD, CONSTANTS.replace("half = {0.5}", "half = {0.501}")),
    "factor slightly off": text(TANH + PRODUCT, HEAD, CONSTANTS.replace("0.79788456", "0.7979")),
    "cubic slightly off": text(TANH + PRODUCT, HEAD, CONSTANTS.replace("0.044715", "0.0447")),
    "another operand": text(ERF.replace("Div(x,", "Div(w,") + PRODUCT, HEAD.replace("x)", "x, float[B, S] w)")),
    "divided the other way": text(ERF.replace("Div(x, root)", "Div(root, x)") + PRODUCT),
    "one may be overridden": text(
        ERF + PRODUCT, HEAD.replace("x)", "x, float one = {1})"), CONSTANTS.replace(" float one = {1},", "")
    ),
    "constant adds an axis": text(
        ERF + PRODUCT,
        HEAD.replace("=> (float[B, S]", "=> (float[A, B, S]"),
        CONSTANTS.replace("float half", "float[1,1,1] half"),
    ),
}


@pytest.mark.parametrize("name", MISSED)
def test_near_misses_do_not_match(name: str) -> None:
    assert_refuses(model(MISSED[name]), FUSE_GELU, Reason.STRUCTURE)


def test_a_constant_of_rank_1_is_no_scalar_where_the_rank_is_unknown() -> None:
    source = text(ERF + PRODUCT, HEAD.replace("float[B, S]", "float[]"), CONSTANTS.replace("float ", "float[1] "))
    assert_refuses(model(source), FUSE_GELU, Reason.STRUCTURE)


@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    batch=st.sampled_from([1, 2, 3]),
    length=st.sampled_from([2, 7]),
    seed=st.integers(0, 9),
)
def test_same_numbers_at_any_size(name: str, batch: int, length: int, seed: int) -> None:
    before = model(EXAMPLES[name])
    after = apply(before, FUSE_GELU).model
    assert_equivalent(before, after, sizes={"B": batch, "S": length}, seed=seed)
