"""Repeated heads of keys and values are left to Attention, in each way in which graphs repeat them."""

import onnx_ir as ir
import pytest

from graphwright.engine.observe import Reason
from graphwright.engine.shapes import infer_shapes
from graphwright.passes.lift.group_attention_heads import GROUP_ATTENTION_HEADS
from graphwright.testing import assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": {opset}]> g'
INPUTS = "float[B,6,S,4] q, float[B,2,T,4] k, float[B,2,T,5] v, float[B,1,S,T] mask"
CONSTS = (
    "int64[1] axis = {2}, int64[1] behind = {3}, int64[5] three = {1, 1, 3, 1, 1}, "
    "int64[5] by_length = {1, 1, 1, 3, 1}, int64[4] k_all = {0, 6, -1, 4}, int64[4] v_all = {0, 6, -1, 5}, "
    "int64[4] k_rows = {0, 0, 6, 4}, "
    "int64[4] v_rows = {0, 0, 6, 5}, int64[4] wide = {1, 6, 1, 1}, int64[8] longer = {0, 0, 0, 0, 0, 0, 1, 0}"
)
SIZES = ({"B": 2, "S": 3, "T": 5}, {"B": 1, "S": 1, "T": 1}, {"B": 3, "S": 7, "T": 2})


def copies(op: str = "Expand", x: str = "k", axis: str = "axis", counts: str = "three", sizes: str = "all") -> str:
    return f"{x}1 = Unsqueeze({x}, {axis}) {x}5 = {op}({x}1, {counts}) {x}r = Reshape({x}5, {x}_{sizes})"


BOTH = f"{copies()} {copies(x='v')}"
BY_LENGTH = " ".join(
    copies("Expand", x, "behind", "by_length", "rows").replace(f"{x}r =", f"{x}w =")
    + f" {x}r = Transpose <perm = [0, 2, 1, 3]> ({x}w)"
    for x in "kv"
)
CALL = "y = Attention <scale = 0.5> (q, kr, vr, mask)"


def layer(
    body: str, *, inputs: str = INPUTS, consts: str = CONSTS, y: str = "B,6,S,5", opset: int = 24, infer: bool = True
) -> ir.Model:
    text = f"{HEAD.format(opset=opset)} ({inputs}) => (float[{y}] y) <{consts}> {{ {body} }}"
    found = model(text, infer=False)
    if infer:
        infer_shapes(found)
    return found


BY_LENGTH_INPUTS = INPUTS.replace("[B,2,T,4]", "[B,T,2,4]").replace("[B,2,T,5]", "[B,T,2,5]")
ONE = INPUTS.replace("[B,2,T", "[B,1,T")
FORMS = {
    "expand": (f"{BOTH} {CALL}", INPUTS, CALL.replace("kr, vr", "k, v")),
    "tile": (f"{copies('Tile')} {copies('Tile', 'v')} {CALL}", INPUTS, CALL.replace("kr, vr", "k, v")),
    "no mask": (f"{BOTH} {CALL.replace(', mask', '')}", INPUTS, "y = Attention <scale = 0.5> (q, k, v)"),
    "by length": (
        f"{BY_LENGTH} {CALL}",
        BY_LENGTH_INPUTS,
        "a = Transpose <perm = [0, 2, 1, 3]> (k) b = Transpose <perm = [0, 2, 1, 3]> (v) "
        + CALL.replace("kr, vr", "a, b"),
    ),
    "one head": (f"kr = Expand(k, wide) vr = Expand(v, wide) {CALL}", ONE, CALL.replace("kr, vr", "k, v")),
    "one head as many": (f"{BOTH} {CALL}", ONE, CALL.replace("kr, vr", "k, v")),
}
COUNTS_OF_ONE = CONSTS.replace("int64[5] three = {1, 1, 3, 1, 1}", "int64[5] three = {1, 1, 6, 1, 1}")


def form(name: str) -> ir.Model:
    body, inputs, _ = FORMS[name]
    return layer(body, inputs=inputs, consts=COUNTS_OF_ONE if name == "one head as many" else CONSTS)


@pytest.mark.parametrize("name", FORMS)
def test_repeated_heads_are_grouped(name: str) -> None:
    _, inputs, after = FORMS[name]
    before = form(name)
    found = assert_fires(before, GROUP_ATTENTION_HEADS, 1, layer(after, inputs=inputs, consts=""))
    for sizes in SIZES:
        assert_equivalent(before, found, sizes=sizes)


EXAMPLES = {
    name: f"{HEAD.format(opset=24)} ({FORMS[name][1]}) => (float[B,6,S,5] y) <{CONSTS}> {{ {FORMS[name][0]} }}"
    for name in ("expand", "by length", "one head")
}


def test_keys_that_are_made_longer_are_repeated_no_more() -> None:
    inputs = INPUTS.replace("float[B,1,S,T] mask", "float[B,1,S,U] mask")
    pads = "ka = Pad(kr, longer) va = Pad(vr, longer)"
    body = f"{BOTH} {pads} {CALL.replace('kr, vr, mask', 'ka, va')}"
    before = layer(body, inputs=inputs)
    after = assert_fires(before, GROUP_ATTENTION_HEADS)
    assert "Expand" not in {node.op_type for node in after.graph}
    assert_equivalent(before, after, sizes={"B": 2, "S": 3, "T": 5, "U": 6})


def test_two_layers_share_their_keys() -> None:
    body = f"{BOTH} {CALL.replace('y =', 'x =')} {CALL.replace('(q,', '(x,')}"
    inputs = INPUTS.replace("[B,2,T,5]", "[B,2,T,4]")
    consts = CONSTS.replace("v_all = {0, 6, -1, 5}", "v_all = {0, 6, -1, 4}")
    before = layer(body, inputs=inputs, consts=consts, y="B,6,S,4")
    assert_equivalent(before, assert_fires(before, GROUP_ATTENTION_HEADS, 2))


def test_repeated_heads_that_others_use_stay_for_them() -> None:
    body = f"{BOTH} {CALL.replace('y =', 'x =')} top = ReduceMax(kr) y = Add(x, top)"
    after = assert_fires(layer(body), GROUP_ATTENTION_HEADS)
    assert [node.op_type for node in after.graph].count("Expand") == 1
    assert_equivalent(layer(body), after)


def test_opset_23_is_enough() -> None:
    assert_fires(layer(f"{BOTH} {CALL}", opset=23), GROUP_ATTENTION_HEADS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("k_all = {0, 6, -1, 4}", "k_all = {0, 3, -1, 8}"), Reason.SHAPE),  # heads become part of the size
        (("three = {1, 1, 3, 1, 1}", "three = {1, 1, 1, 3, 1}"), Reason.UNKNOWN),  # lengths are repeated
    ],
)
def test_refuses_other_copies(change: tuple[str, str], reason: Reason) -> None:
    before = layer(f"{BOTH} {CALL}", consts=CONSTS.replace(*change))
    assert_refuses(before, GROUP_ATTENTION_HEADS, reason)


def test_refuses_heads_that_are_repeated_in_turns() -> None:
    """h0 h1 h0 h1 is not h0 h0 h1 h1; with as many copies as heads, the sizes are the same."""
    turns = CONSTS.replace("axis = {2}", "axis = {1}").replace("{1, 1, 3, 1, 1}", "{1, 2, 1, 1, 1}")
    consts = turns.replace(" 6,", " 4,")
    inputs = INPUTS.replace("B,6,S", "B,4,S")
    before = layer(f"{BOTH} {CALL}", inputs=inputs, consts=consts, y="B,4,S,5")
    assert_refuses(before, GROUP_ATTENTION_HEADS, Reason.STRUCTURE)


def test_refuses_keys_and_values_of_different_numbers_of_heads() -> None:
    inputs = INPUTS.replace("float[B,2,T,5] v", "float[B,1,T,5] v")
    consts = CONSTS + ", int64[5] six = {1, 1, 6, 1, 1}"
    body = f"{copies()} {copies(x='v', counts='six')} {CALL}"
    assert_refuses(layer(body, inputs=inputs, consts=consts), GROUP_ATTENTION_HEADS, Reason.SHAPE)


@pytest.mark.parametrize("inputs", [INPUTS.replace("B,2,T", "B,K,T"), INPUTS.replace("float[B,6,S,4] q", "float q")])
def test_refuses_unknown_sizes(inputs: str) -> None:
    before = layer(f"{BOTH} {CALL}", inputs=inputs)
    if "K" not in inputs:
        before.graph.inputs[0].shape = None
    assert_refuses(before, GROUP_ATTENTION_HEADS, Reason.UNKNOWN)


@pytest.mark.parametrize("output", ["present", "scores"])
def test_refuses_an_attention_whose_other_outputs_are_used(output: str) -> None:
    names = "y, present_key" if output == "present" else "y, , , scores"
    extra, shape = ("present_key", "float[B,6,T,4]") if output == "present" else ("scores", "float[B,6,S,T]")
    call = f"{names} = Attention <scale = 0.5> (q, kr, vr, mask)"
    text = f"{HEAD.format(opset=24)} ({INPUTS}) => (float[B,6,S,5] y, {shape} {extra}) <{CONSTS}> {{ {BOTH} {call} }}"
    before = model(text, infer=False)
    infer_shapes(before)
    assert_refuses(before, GROUP_ATTENTION_HEADS, Reason.GRAPH_OUTPUT)
    used = f"{BOTH} {call.replace('y,', 'x,', 1)} top = ReduceMax({extra}) y = Add(x, top)"
    assert_refuses(layer(used), GROUP_ATTENTION_HEADS, Reason.SHARED)
