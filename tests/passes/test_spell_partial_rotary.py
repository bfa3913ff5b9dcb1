"""spell-partial-rotary: the plain operators, what is refused, and the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lift.fuse_rotary import FUSE_ROTARY
from graphwright.passes.lower.spell_partial_rotary import SPELL_PARTIAL_ROTARY
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[B, 2, S, 8] x, float[B, S, 2] c, float[B, S, 2] s) => (float[B, 2, S, 8] y) "
BODY = "y = RotaryEmbedding <rotary_embedding_dim = 4> (x, c, s)"
OPERATORS = [
    *["Slice"] * 4,
    "Concat",
    "Unsqueeze",
    "Concat",
    "Unsqueeze",
    "Mul",
    "Neg",
    "Concat",
    "Mul",
    "Add",
    "Concat",
]


def text(body: str = BODY, signature: str = SIGNATURE) -> str:
    return HEAD + signature + "{" + body + "}"


EXAMPLES = {
    "plain": text(),
    "most of each head": text(BODY.replace("4", "6"), SIGNATURE.replace("S, 2]", "S, 3]")),
    "half precision": text(signature=SIGNATURE.replace("float", "float16")),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_spelled_in_plain_operators(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, SPELL_PARTIAL_ROTARY)
    assert sorted(node.op_type for node in after.graph) == sorted(OPERATORS)
    assert_equivalent(before, after, sizes={"B": 2, "S": 3})


def test_fuse_rotary_makes_of_it_what_it_was() -> None:
    spelled = assert_fires(model(text()), SPELL_PARTIAL_ROTARY)
    assert_fires(spelled, FUSE_ROTARY, after=text())


def test_two_in_one_graph_are_two_applications() -> None:
    second = BODY.replace("y =", "z =").replace("(x, c, s)", "(y, c, s)")
    both = text(BODY + " " + second, SIGNATURE.replace("8] y)", "8] y, float[B, 2, S, 8] z)"))
    assert_fires(model(both), SPELL_PARTIAL_ROTARY, 2)


REFUSED = {
    "heads side by side": (
        Reason.RANK,
        text(BODY.replace("= 4>", "= 4, num_heads = 2>"), SIGNATURE.replace("B, 2, S, 8", "B, S, 16")),
    ),
    "neighbours": (Reason.ATTRIBUTE, text(BODY.replace("= 4>", "= 4, interleaved = 1>"))),
    "all of each head": (Reason.ATTRIBUTE, text(BODY.replace("4", "8"), SIGNATURE.replace("S, 2]", "S, 4]"))),
    "head size not known": (Reason.UNKNOWN, text(signature=SIGNATURE.replace("2, S, 8", "2, S, D"))),
    "whole heads": (
        Reason.STRUCTURE,
        text("y = RotaryEmbedding(x, c, s)", SIGNATURE.replace("S, 2]", "S, 4]")),
    ),
    "positions": (
        Reason.STRUCTURE,
        text(
            BODY.replace("s)", "s, p)"), SIGNATURE.replace("[B, S, 2]", "[9, 2]").replace(" s)", " s, int64[B, S] p)")
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    assert_refuses(model(source), SPELL_PARTIAL_ROTARY, reason)


@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    batch=st.sampled_from([1, 2, 3]),
    length=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 9),
)
def test_same_numbers_at_any_size(name: str, batch: int, length: int, seed: int) -> None:
    before = model(EXAMPLES[name], seed=seed)
    after = apply(before, SPELL_PARTIAL_ROTARY).model
    assert_equivalent(before, after, sizes={"B": batch, "S": length}, seed=seed)
