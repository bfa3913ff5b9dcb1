"""merge-rotary-heads: where the layout goes, what is refused, and the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.transform.merge_rotary_heads import MERGE_ROTARY_HEADS
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[B, S, 16] x, float[B, S, 4] c, float[B, S, 4] s) => (float[B, 2, S, 8] y) "
CONSTANTS = "<int64[4] apart = {0, 0, 2, 8}, int64[3] together = {0, 0, 16}, float[8] w> "
SPLIT = "h = Reshape(x, apart) "
BODY = SPLIT + "t = Transpose <perm = [0, 2, 1, 3]> (h) y = RotaryEmbedding(t, c, s)"
AFTER = "r = RotaryEmbedding <num_heads = 2> (x, c, s) h = Reshape(r, apart) y = Transpose <perm = [0, 2, 1, 3]> (h)"
HEADS = SIGNATURE.replace("S, 16] x", "S, 2, 8] x")
NORM = BODY.replace("y = RotaryEmbedding(t", "n = RMSNormalization(t, w) y = RotaryEmbedding(n")


def text(body: str = BODY, signature: str = SIGNATURE, head: str = HEAD) -> str:
    return head + signature + CONSTANTS + "{" + body + "}"


EXAMPLES = {
    "projection": text(),
    "neighbours": text(BODY.replace("RotaryEmbedding(", "RotaryEmbedding <interleaved = 1> (")),
    "part of each head": text(
        BODY.replace("RotaryEmbedding(", "RotaryEmbedding <rotary_embedding_dim = 4> ("),
        SIGNATURE.replace("S, 4]", "S, 2]"),
    ),
    "table and positions": text(
        BODY.replace("c, s)", "c, s, p)"),
        SIGNATURE.replace("float[B, S, 4] c, float[B, S, 4] s", "float[9, 4] c, float[9, 4] s, int64[B, S] p"),
    )
    .replace("h = Reshape", "zero = Sub(p, p) h = Reshape")
    .replace("s, p)", "s, zero)"),
    "normalized heads": text(NORM),
    "heads": text(BODY.replace(SPLIT, "").replace("(h)", "(x)"), HEADS),
    "half precision": text(signature=SIGNATURE.replace("float", "float16")),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_layout_comes_behind_it(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, MERGE_ROTARY_HEADS)
    assert [node.op_type for node in after.graph][-3:] == ["RotaryEmbedding", "Reshape", "Transpose"]
    assert_equivalent(before, after, sizes={"B": 2, "S": 3})


def test_the_result_reads_the_projection() -> None:
    assert_fires(model(text()), MERGE_ROTARY_HEADS, after=text(AFTER))


def test_heads_that_no_reshape_is_known_to_split_are_laid_side_by_side() -> None:
    before = text(signature=SIGNATURE.replace("S, 16] x", "S, 4, 4] x")).replace("{0, 0, 2, 8}", "{0, -1, 2, 8}")
    after = assert_fires(model(before), MERGE_ROTARY_HEADS)
    assert [node.op_type for node in after.graph][:3] == ["Reshape", "Reshape", "RotaryEmbedding"]


def test_normalized_heads_are_laid_side_by_side() -> None:
    after = AFTER.replace("(x, c", "(z, c").replace("h = Reshape(r", "i = Reshape(r").replace("(h)", "(i)")
    before = SPLIT + "n = RMSNormalization(h, w) z = Reshape(n, together) "
    assert_fires(model(text(NORM)), MERGE_ROTARY_HEADS, after=text(before + after))


def test_two_in_one_graph_are_two_applications() -> None:
    signature = SIGNATURE.replace("8] y)", "8] y, float[B, 2, S, 8] z)")
    second = " u = Transpose <perm = [0, 2, 1, 3]> (h) z = RotaryEmbedding(u, s, c)"
    assert_fires(model(text(BODY + second, signature)), MERGE_ROTARY_HEADS, 2)


REFUSED = {
    "heads not known": (
        Reason.UNKNOWN,
        text(BODY.replace(SPLIT, "").replace("(h)", "(x)"), HEADS.replace("2, 8] x", "H, 8] x")),
    ),
    "transposed value used elsewhere": (
        Reason.SHARED,
        text(BODY + " z = Exp(t)", SIGNATURE.replace("8] y)", "8] y, float[B, 2, S, 8] z)")),
    ),
    "transposed value is an output": (
        Reason.GRAPH_OUTPUT,
        text(signature=SIGNATURE.replace("8] y)", "8] y, float[B, 2, S, 8] t)")),
    ),
    "another order": (
        Reason.STRUCTURE,
        text(BODY.replace("[0, 2, 1, 3]", "[0, 1, 2, 3]"), SIGNATURE.replace("B, 2, S, 8", "B, S, 2, 8")),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    assert_refuses(model(source), MERGE_ROTARY_HEADS, reason)


@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    batch=st.sampled_from([1, 2, 3]),
    length=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 9),
)
def test_same_numbers_at_any_size(name: str, batch: int, length: int, seed: int) -> None:
    before = model(EXAMPLES[name], seed=seed)
    after = apply(before, MERGE_ROTARY_HEADS).model
    assert_equivalent(before, after, sizes={"B": batch, "S": length}, seed=seed)
