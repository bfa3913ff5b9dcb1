"""fuse-rotary: spellings it takes, what it refuses, and the numbers."""

import re

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lift.fuse_rotary import FUSE_ROTARY
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[B, 2, S, 8] x, float[B, S, 4] c, float[B, S, 4] s) => (float[B, 2, S, 8] y) "
CONSTANTS = (
    "<int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] eight = {8}, "
    "int64[1] end = {9223372036854775807}, int64[1] last = {-1}, int64[4] four_axes = {0, 0, 0, 8}, "
    "int64[4] three_axes = {0, 0, 8, 0}> "
)
TABLES = "e = Concat <axis = -1> (c, c) f = Concat <axis = -1> (s, s) cos = Unsqueeze(e, one) sin = Unsqueeze(f, one) "
HALVES = "a = Slice(x, zero, four, last, one) b = Slice(x, four, end, last, one) "
TURNED = "n = Neg(b) r = Concat <axis = -1> (n, a) "
SUM = "p = Mul(x, cos) q = Mul(r, sin) y = Add(p, q) "
BODY = TABLES + HALVES + TURNED + SUM

TWICE = "column_{0} = Unsqueeze({0}, last) pair_{0} = {1} flat_{0} = Reshape(pair_{0}, side) "
SIDE = CONSTANTS.replace("> ", ", int64[3] side = {0, 0, 8}, int64[4] times = {1, 1, 1, 2}> ")
EXPAND, TILE = "Expand(column_{0}, times)", "Tile(column_{0}, times)"
CONCAT = "Concat <axis = -1> (column_{0}, column_{0})"
PAIRS = (
    "cos = Unsqueeze(flat_c, one) sin = Unsqueeze(flat_s, one) "
    "a = Slice(x, zero, end, last, two) b = Slice(x, one, end, last, two) n = Neg(b) "
    "g = Unsqueeze(n, last) h = Unsqueeze(a, last) i = Concat <axis = -1> (g, h) r = Reshape(i, four_axes) "
)

PART = (
    "head = Slice(x, zero, four, last, one) tail = Slice(x, four, eight, last, one) "
    "a = Slice(head, zero, two, last, one) b = Slice(head, two, four, last, one) "
) + TURNED.replace("(b)", "(b)")
PART_SUM = "p = Mul(head, cos) q = Mul(r, sin) t = Add(p, q) y = Concat <axis = -1> (t, tail) "
SHORT = SIGNATURE.replace("S, 4]", "S, 2]")
ONE = (
    "cos = Unsqueeze(c, one) sin = Unsqueeze(s, one) a, b = Split <axis = -1, num_outputs = 2> (x) "
    "ac = Mul(a, cos) bs = Mul(b, sin) bc = Mul(b, cos) as = Mul(a, sin) u = Sub(ac, bs) v = Add(bc, as) "
    "y = Concat <axis = -1> (u, v)"
)

TWO = ONE.replace("a, b = Split <axis = -1, num_outputs = 2> (x) ", "a = Exp(x) b = Neg(x) ")
BOTH = SIGNATURE.replace("S, 8] x", "S, 4] x")


def text(body: str = BODY, signature: str = SIGNATURE, constants: str = CONSTANTS, head: str = HEAD) -> str:
    return head + signature + constants + "{" + body + "}"


def pairs(made: str) -> str:
    twice = "".join(TWICE.format(name, made.format(name)) for name in "cs")
    return text(twice + PAIRS + SUM, constants=SIDE)


POSITIONS_FIRST = SIGNATURE.replace("B, 2, S, 8", "B, S, 2, 8")

EXAMPLES = {
    "halves": text(),
    "halves by split": text(BODY.replace(HALVES, "a, b = Split <axis = -1, num_outputs = 2> (x) ")),
    "halves by split of sizes": text(
        BODY.replace(HALVES, "a, b = Split <axis = 3> (x, sizes) "),
        constants=CONSTANTS.replace("> ", ", int64[2] sizes = {4, 4}> "),
    ),
    "swapped": text(BODY.replace("Mul(x, cos)", "Mul(cos, x)").replace("Add(p, q)", "Add(q, p)")),
    "neighbours, expanded": pairs(EXPAND),
    # ONNX's own inference knows no names behind a Tile.
    "neighbours, tiled": pairs(TILE).replace("[B, 2, S", "[3, 2, 5").replace("[B, S", "[3, 5"),
    "neighbours, joined": pairs(CONCAT),
    "part of each head": text(TABLES + PART + PART_SUM, SHORT),
    "part of each head, by split": text(
        TABLES
        + "head, tail = Split <axis = -1> (x, sizes) "
        + PART.split("one) ", 2)[2].replace("two, four", "two, end")
        + PART_SUM,
        SHORT,
        CONSTANTS.replace("> ", ", int64[2] sizes = {4, 4}> "),
    ),
    "one by one": text(ONE),
    "neighbours one by one": text(
        PAIRS.split("n = Neg")[0].replace("flat_c", "c").replace("flat_s", "s")
        + ONE.split("(x) ")[1].split("y =")[0]
        + "g = Unsqueeze(u, last) h = Unsqueeze(v, last) i = Concat <axis = -1> (g, h) y = Reshape(i, four_axes)"
    ),
    "two values": text(TWO, BOTH),
    "two values behind others": text(
        TWO.replace("(u, v)", "(o, u, v)"), BOTH.replace("x,", "x, float[B, 2, S, 3] o,").replace("8] y", "11] y")
    ),
    "two values, one table": text(
        TWO, BOTH.replace("float[B, S, 4] c", "float[1, S, 4] c").replace("float[B, S, 4] s", "float[1, S, 4] s")
    ),
    "one table for the batch": text(signature=SIGNATURE.replace("float[B, S, 4]", "float[1, S, 4]")),
    "one table for a batch of two": text(
        signature=SIGNATURE.replace("float[B, S, 4]", "float[1, S, 4]").replace("float[B, 2", "float[2, 2")
    ),
    "a table without batch": text(
        BODY.replace("cos = Unsqueeze(e, one) sin = Unsqueeze(f, one) ", "")
        .replace("cos)", "e)")
        .replace("sin)", "f)"),
        SIGNATURE.replace("float[B, S, 4]", "float[S, 4]"),
    ),
    "a table of four axes": text(
        BODY.replace("cos = Unsqueeze(e, one) sin = Unsqueeze(f, one) ", "")
        .replace("cos)", "e)")
        .replace("sin)", "f)"),
        SIGNATURE.replace("float[B, S, 4]", "float[B, 1, S, 4]"),
    ),
    "positions before heads": text(
        BODY.replace("(e, one)", "(e, two)").replace("(f, one)", "(f, two)"), POSITIONS_FIRST
    ),
    "constant tables": text(
        BODY.replace(TABLES, "").replace("cos)", "c)").replace("sin)", "s)"),
        "(float[B, 2, 2, 8] x) => (float[B, 2, 2, 8] y) ",
        CONSTANTS.replace(
            "> ",
            ", float[2, 4] half = {1, 2, 3, 4, 5, 6, 7, 8}, float[2, 8] c = {1, 2, 3, 4, 1, 2, 3, 4, "
            "5, 6, 7, 8, 5, 6, 7, 8}, float[1, 1, 2, 8] s = {4, 3, 2, 1, 4, 3, 2, 1, 0, -1, 1, 0, 0, -1, 1, 0}> ",
        ),
    ),
    "half precision": text(signature=SIGNATURE.replace("float", "float16")),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_spelling_becomes_one_operator(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, FUSE_ROTARY)
    around = {"Reshape", "Expand", "Concat", "Shape", "Squeeze", "Unsqueeze", "Exp", "Neg"}
    assert [node.op_type for node in after.graph if node.op_type not in around] == ["RotaryEmbedding"]
    assert_equivalent(before, after, sizes={"B": 2, "S": 3})


def after_of(name: str) -> ir.Node:
    graph = assert_fires(model(EXAMPLES[name]), FUSE_ROTARY).graph
    return next(node for node in graph if node.op_type == "RotaryEmbedding")


def test_the_attributes_say_what_is_turned() -> None:
    assert not after_of("halves").attributes
    assert {name: each.value for name, each in after_of("neighbours, tiled").attributes.items()} == {"interleaved": 1}
    assert {name: each.value for name, each in after_of("part of each head").attributes.items()} == {
        "rotary_embedding_dim": 4
    }
    assert after_of("positions before heads").attributes["num_heads"].value == 2


def test_tables_of_the_whole_batch_stay_as_they_are() -> None:
    assert_fires(model(text()), FUSE_ROTARY, after=text("y = RotaryEmbedding(x, c, s)", constants=""))


def test_queries_and_keys_share_their_tables() -> None:
    second = re.sub(r"\b([abnrpqy])\b", r"\g<1>2", HALVES + TURNED + SUM)
    second = re.sub(r"\bx\b", "z", second)
    signature = SIGNATURE.replace("8] x", "8] x, float[B, 1, S, 8] z").replace("8] y", "8] y, float[B, 1, S, 8] y2")
    after = text("y = RotaryEmbedding(x, c, s) y2 = RotaryEmbedding(z, c, s)", signature, "")
    assert_fires(model(text(BODY + second, signature)), FUSE_ROTARY, 2, after)


def test_the_batch_is_read_from_a_graph_input() -> None:
    signature = SIGNATURE.replace("float[B, S, 4]", "float[1, S, 4]")
    before = text(BODY.replace("x,", "w,").replace("(x", "(w"), signature)
    before = before.replace("{e =", "{w = Exp(x) e =")
    after = assert_fires(model(before), FUSE_ROTARY)
    assert all(node.inputs[0] is after.graph.inputs[0] for node in after.graph if node.op_type == "Shape")


REFUSED = {
    "old opset": (Reason.OPSET, text(head=HEAD.replace("24", "22"))),
    "double": (Reason.DTYPE, text(signature=SIGNATURE.replace("float", "double"))),
    "three axes": (
        Reason.RANK,
        text(
            BODY.replace("(e, one)", "(e, zero)").replace("(f, one)", "(f, zero)"),
            SIGNATURE.replace("float[B, 2, S, 8]", "float[2, S, 8]").replace("float[B, S, 4]", "float[S, 4]"),
        ),
    ),
    "table for each head": (
        Reason.SHAPE,
        text(
            BODY.replace("cos = Unsqueeze(e, one) sin = Unsqueeze(f, one) ", "")
            .replace("cos)", "e)")
            .replace("sin)", "f)"),
            SIGNATURE.replace("float[B, S, 4]", "float[1, 2, S, 4]"),
        ),
    ),
    "table of one position": (Reason.SHAPE, text(signature=SIGNATURE.replace("float[B, S, 4]", "float[B, 1, 4]"))),
    "table of another length": (Reason.SHAPE, text(signature=SIGNATURE.replace("float[B, S, 4]", "float[B, T, 4]"))),
    "table of another batch": (Reason.SHAPE, text(signature=SIGNATURE.replace("float[B, S, 4]", "float[A, S, 4]"))),
    "batch not known": (Reason.UNKNOWN, text(signature=SIGNATURE.replace("[B, 2, S, 8] x", "[?, 2, S, 8] x"))),
    "heads behind positions not known": (
        Reason.UNKNOWN,
        text(
            BODY.replace("(e, one)", "(e, two)").replace("(f, one)", "(f, two)"),
            POSITIONS_FIRST.replace("S, 2, 8]", "S, H, 8]"),
        ),
    ),
    "tables of different layout": (
        Reason.SHAPE,
        text(BODY.replace("(f, one)", "(f, two)"), SIGNATURE.replace("B, 2, S, 8", "B, S, S, 8")),
    ),
    "turned value used elsewhere": (
        Reason.SHARED,
        text(BODY + "z = Exp(r)", SIGNATURE.replace("8] y)", "8] y, float[B, 2, S, 8] z)")),
    ),
    "product is an output": (
        Reason.GRAPH_OUTPUT,
        text(signature=SIGNATURE.replace("8] y)", "8] y, float[B, 2, S, 8] p)")),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    assert_refuses(model(source), FUSE_ROTARY, reason)


MISSED = {
    "constant tables of unequal halves": EXAMPLES["constant tables"].replace("5, 6, 7, 8, 5", "5, 6, 7, 8, 6"),
    "halves of different values": text(BODY.replace("(c, c)", "(c, s)")),
    "other half is turned": text(BODY.replace("Neg(b)", "Neg(a)").replace("(n, a)", "(n, b)")),
    "halves in order": text(BODY.replace("(n, a)", "(a, n)")),
    "nothing is negative": text(BODY.replace("Neg(b)", "Exp(b)")),
    "a difference": text(BODY.replace("Add(p, q)", "Sub(p, q)")),
    "slices that are no halves": text(BODY.replace("zero, four", "zero, two").replace("four, end", "two, end")),
    "slices of another axis": text(
        BODY.replace("last, one", "two, one").replace("axis = -1> (n", "axis = 2> (n"),
        SIGNATURE.replace("B, 2, S, 8", "B, 2, 8, 8").replace("B, S, 4", "B, 8, 4"),
    ),
    "another value is turned": text("w = Exp(x) " + BODY.replace("(x, zero", "(w, zero")),
    "tables by halves, pairs of neighbours": text(TABLES + PAIRS.split("one) ", 2)[2] + SUM),
    "tables by neighbours, halves turned": pairs(TILE)
    .replace("zero, end, last, two", "zero, four, last, one")
    .replace("one, end, last, two", "four, end, last, one"),
}


@pytest.mark.parametrize("name", MISSED)
def test_near_misses_do_not_match(name: str) -> None:
    assert_refuses(model(MISSED[name]), FUSE_ROTARY, Reason.STRUCTURE)


def test_a_tail_that_is_not_the_rest_stays_outside() -> None:
    body = TABLES + PART.replace("tail = Slice(x, four", "tail = Slice(x, six") + PART_SUM
    constants = CONSTANTS.replace("> ", ", int64[1] six = {6}> ")
    after = assert_fires(model(text(body, SHORT.replace("8] y", "6] y"), constants)), FUSE_ROTARY)
    assert [node.op_type for node in after.graph] == ["Slice", "Slice", "RotaryEmbedding", "Concat"]


@pytest.mark.parametrize("size", [2, 4])
def test_sizes_that_coincide_do_not_confuse_the_axes(size: int) -> None:
    signature = re.sub(r"\[[^\]]*\]", f"[{size}, {size}, {size}, {size}]", SIGNATURE)
    signature = signature.replace(f"float[{size}, {size}, {size}, {size}] c", f"float[{size}, {size}, {size // 2}] c")
    signature = signature.replace(f"float[{size}, {size}, {size}, {size}] s", f"float[{size}, {size}, {size // 2}] s")
    before = model(
        text(BODY.replace("four", "half"), signature, CONSTANTS.replace("four = {4}", f"half = {{{size // 2}}}"))
    )
    after = assert_fires(before, FUSE_ROTARY)
    assert_equivalent(before, after)


@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    batch=st.sampled_from([1, 2, 3]),
    length=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 9),
)
def test_same_numbers_at_any_size(name: str, batch: int, length: int, seed: int) -> None:
    before = model(EXAMPLES[name], seed=seed)
    after = apply(before, FUSE_ROTARY).model
    assert_equivalent(before, after, sizes={"B": batch, "S": length}, seed=seed)
