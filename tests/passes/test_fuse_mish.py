"""fuse-mish: the spelling it takes, what it refuses, and the numbers."""

import pytest

from graphwright.engine.observe import Reason
from graphwright.passes.lift.fuse_mish import FUSE_MISH
from graphwright.testing import assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[B, S, 8] x) => (float[B, S, 8] y) "
BODY = "p = Softplus(x) t = Tanh(p) y = Mul(x, t)"


def text(body: str = BODY, signature: str = SIGNATURE, head: str = HEAD) -> str:
    return head + signature + "{" + body + "}"


EXAMPLES = {
    "plain": text(),
    "swapped": text(BODY.replace("Mul(x, t)", "Mul(t, x)")),
    "half precision": text(signature=SIGNATURE.replace("float", "float16")),
}


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize("sizes", [{"B": 1, "S": 1}, {"B": 2, "S": 7}])
def test_the_product_becomes_one_operator(name: str, sizes: dict[str, int]) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, FUSE_MISH)
    assert [node.op_type for node in after.graph] == ["Mish"]
    assert_equivalent(before, after, sizes=sizes)


def test_two_in_one_graph_are_two_applications() -> None:
    second = "q = Softplus(z) u = Tanh(q) y = Mul(z, u)"
    before = model(text(BODY.replace("y = ", "z = ") + " " + second))
    assert_fires(before, FUSE_MISH, 2, text("z = Mish(x) y = Mish(z)"))


REFUSED = {
    "old opset": (Reason.OPSET, text(head=HEAD.replace("24", "21"))),
    "unknown type": (Reason.DTYPE, text("v = Exp(x) " + BODY.replace("(x", "(v"))),
    "tanh used elsewhere": (
        Reason.SHARED,
        text(BODY + " z = Exp(t)", SIGNATURE.replace("8] y)", "8] y, float[B, S, 8] z)")),
    ),
    "softplus is an output": (
        Reason.GRAPH_OUTPUT,
        text(signature=SIGNATURE.replace("8] y)", "8] y, float[B, S, 8] p)")),
    ),
    "another value is gated": (Reason.STRUCTURE, text("v = Exp(x) " + BODY.replace("Mul(x, t)", "Mul(v, t)"))),
    "a sum": (Reason.STRUCTURE, text(BODY.replace("Mul", "Add"))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    assert_refuses(model(source, infer=reason is not Reason.DTYPE), FUSE_MISH, reason)
