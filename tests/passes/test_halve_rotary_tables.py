"""halve-rotary-tables: where the doubling goes, what is left alone, and the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.passes.lift.halve_rotary_tables import HALVE_ROTARY_TABLES
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g '
SIGNATURE = "(float[B, S, 4] x) => (float[B, S, 8] y) "
CONSTANTS = (
    "<int64[1] zero = {0}, int64[1] one = {1}, int64[1] four = {4}, int64[1] end = {9223372036854775807}, "
    "int64[1] last = {-1}, int64[3] side = {0, 0, 8}, int64[4] times = {1, 1, 1, 2}, float half = {0.5}> "
)
HALVES = "d = Concat <axis = -1> (x, x) "
PAIRS = "u = Unsqueeze(x, last) p = Expand(u, times) d = Reshape(p, side) "


def text(body: str, signature: str = SIGNATURE, constants: str = CONSTANTS, head: str = HEAD) -> str:
    return head + signature + constants + "{" + body + "}"


AGAIN = SIGNATURE.replace("S, 8] y", "S, 4] y")

EXAMPLES = {
    "cosine": text(HALVES + "y = Cos(d)"),
    "sine": text(HALVES + "y = Sin(d)"),
    "cast": text(HALVES + "y = Cast <to = 10> (d)", SIGNATURE.replace("=> (float", "=> (float16")),
    "product": text(HALVES + "y = Mul(d, half)"),
    "product, swapped": text(HALVES + "y = Mul(half, d)"),
    "quotient": text(HALVES + "y = Div(d, half)"),
    "neighbours": text(PAIRS + "y = Sin(d)"),
    "neighbours, joined": text(PAIRS.replace("Expand(u, times)", "Concat <axis = -1> (u, u)") + "y = Sin(d)"),
    "constant table, gathered": text(
        "g = Gather(table, p) y = Exp(g)",
        "(int64[B, S] p) => (float[B, S, 4] y) ",
        CONSTANTS.replace("> ", ", float[3, 4] table = {1, 2, 1, 2, 3, 4, 3, 4, 5, 6, 5, 6}> "),
    )
    .replace("g = Gather", "q = Sub(p, p) g = Gather")
    .replace("table, p", "table, q"),
    "constant table, sliced": text(
        "g = Slice(table, zero, one, zero, one) y = Add(x, g)",
        "(float[B, 4] x) => (float[B, 4] y) ",
        CONSTANTS.replace("> ", ", float[3, 4] table = {1, 2, 1, 2, 3, 4, 3, 4, 5, 6, 5, 6}> "),
    ),
    "first half again": text(HALVES + "z = Slice(d, zero, four, last, one) y = Exp(z)", AGAIN),
    "second half again": text(HALVES + "z = Slice(d, four, end, last, one) y = Exp(z)", AGAIN),
    "half again behind a new axis": text(
        HALVES + "w = Unsqueeze(d, one) z = Slice(w, zero, four, last, one) y = Exp(z)",
        AGAIN.replace("S, 4] y", "1, S, 4] y"),
    ),
}
AFTER = {
    "cosine": "c = Cos(x) y = Concat <axis = -1> (c, c)",
    "product": "c = Mul(x, half) y = Concat <axis = -1> (c, c)",
    "quotient": "c = Div(x, half) y = Concat <axis = -1> (c, c)",
    "neighbours": PAIRS.replace("d =", "y =").replace("u = Unsqueeze(x", "c = Sin(x) u = Unsqueeze(c"),
    "first half again": "y = Exp(x)",
    "second half again": "y = Exp(x)",
    "half again behind a new axis": "z = Unsqueeze(x, one) y = Exp(z)",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_doubling_moves_to_the_end(name: str) -> None:
    before = model(EXAMPLES[name])
    signature = AGAIN if "again" in name else SIGNATURE
    signature = AGAIN.replace("S, 4] y", "1, S, 4] y") if name.endswith("axis") else signature
    after = assert_fires(before, HALVE_ROTARY_TABLES, after=text(AFTER[name], signature) if name in AFTER else None)
    assert_equivalent(before, after, sizes={"B": 2, "S": 3})


def test_a_chain_is_moved_through_step_by_step() -> None:
    before = model(text(HALVES + "c = Cos(d) y = Mul(c, half)"))
    assert_fires(before, HALVE_ROTARY_TABLES, 2, text("c = Cos(x) m = Mul(c, half) y = Concat <axis = -1> (m, m)"))


def test_cosine_and_sine_of_one_table_each_get_their_own() -> None:
    signature = SIGNATURE.replace("8] y)", "8] y, float[B, S, 8] z)")
    after = "c = Cos(x) y = Concat <axis = -1> (c, c) s = Sin(x) z = Concat <axis = -1> (s, s)"
    before = model(text(HALVES + "y = Cos(d) z = Sin(d)", signature))
    assert_fires(before, HALVE_ROTARY_TABLES, 2, text(after, signature))


REFUSED = {
    "factor adds an axis": (
        Reason.RANK,
        text(
            HALVES + "y = Mul(d, wide)",
            SIGNATURE.replace("[B, S, 8] y", "[1, B, S, 8] y"),
            CONSTANTS.replace("> ", ", float[1, 1, 1, 1] wide = {0.5}> "),
        ),
    ),
    "constant table of unequal halves": (
        Reason.STRUCTURE,
        EXAMPLES["constant table, gathered"].replace("5, 6, 5, 6", "5, 6, 5, 7"),
    ),
    "part of a constant table's row": (
        Reason.STRUCTURE,
        EXAMPLES["constant table, sliced"].replace("one, zero, one)", "one, last, one)").replace("[B, 4]", "[B, 1]"),
    ),
    "factor is no number": (
        Reason.STRUCTURE,
        text(HALVES + "y = Mul(d, w)", SIGNATURE.replace("x)", "x, float[8] w)")),
    ),
    "halves of different values": (Reason.STRUCTURE, text("e = Exp(x) d = Concat <axis = -1> (x, e) y = Cos(d)")),
    "joined on another axis": (
        Reason.STRUCTURE,
        text(
            "d = Concat <axis = 1> (x, x) y = Cos(d)", SIGNATURE.replace("S, 4] x", "3, 4] x").replace("S, 8]", "6, 4]")
        ),
    ),
    "three times": (
        Reason.STRUCTURE,
        text("d = Concat <axis = -1> (x, x, x) y = Cos(d)", SIGNATURE.replace("8] y", "12] y")),
    ),
    "pairs of another order": (
        Reason.STRUCTURE,
        text(
            "u = Unsqueeze(x, two) p = Expand(u, more) d = Reshape(p, side) y = Cos(d)",
            SIGNATURE,
            CONSTANTS.replace("> ", ", int64[1] two = {2}, int64[4] more = {1, 1, 2, 1}> "),
        ),
    ),
    "another part": (
        Reason.STRUCTURE,
        text(HALVES + "z = Slice(d, one, four, last, one) y = Exp(z)", SIGNATURE.replace("8] y", "3] y")),
    ),
    "a mask, which is no table": (
        Reason.STRUCTURE,
        text(HALVES + "m = Cast <to = 9> (d) y = Cast <to = 1> (m)"),
    ),
    "an operator that is not listed": (Reason.STRUCTURE, text(HALVES + "y = Exp(d)")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_with_the_reason(name: str) -> None:
    reason, source = REFUSED[name]
    assert_refuses(model(source), HALVE_ROTARY_TABLES, reason)


@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    batch=st.sampled_from([1, 2, 3]),
    length=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 9),
)
def test_same_numbers_at_any_size(name: str, batch: int, length: int, seed: int) -> None:
    before = model(EXAMPLES[name], seed=seed)
    after = apply(before, HALVE_ROTARY_TABLES).model
    assert_equivalent(before, after, sizes={"B": batch, "S": length}, seed=seed)
