"""Scores of three axes, and scores that are seen with other leading axes on their way to the softmax."""

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.observe import Reason
from graphwright.engine.shapes import infer_shapes
from graphwright.passes.lift.fuse_attention import FUSE_ATTENTION
from graphwright.runtime.reference import evaluate
from graphwright.testing import assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g'
CONSTS = "float half = {0.5}, float low = {-1e30}, int64[1] minus1 = {-1}, int64[1] two = {2}, int64[1] four = {4}"
SIZES = ({"B": 2, "S": 3, "T": 5}, {"B": 1, "S": 1, "T": 1}, {"B": 3, "S": 7, "T": 2})
# Sizes that nodes compute, as an exporter leaves them: B, S, T and N = 2 B.
COUNTED = """
    b = Shape <start = 0, end = 1> (q) s1 = Shape <start = 2, end = 3> (q) t1 = Shape <start = 2, end = 3> (k)
    n = Mul(b, two) nst = Concat <axis = 0> (n, s1, t1) bst = Concat <axis = 0> (b, two, s1, t1)
"""
FOLDED = """
    q_fold = Concat <axis = 0> (n, s1, four) k_fold = Concat <axis = 0> (n, t1, four)
    v_fold = Concat <axis = 0> (n, t1, three)
    q3 = Reshape(q, q_fold) k3 = Reshape(k, k_fold) v3 = Reshape(v, v_fold) k3t = Transpose <perm = [0, 2, 1]> (k3)
"""
APART = "y_fold = Concat <axis = 0> (b, two, s1, three) y = Reshape(y3, y_fold)"
INPUTS = "float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T,3] v"


def graph(body: str, *, inputs: str = "", y: str = "B,2,S,3", consts: str = "") -> ir.Model:
    given = INPUTS + (f", {inputs}" if inputs else "")
    declared = f"{CONSTS}, int64[1] three = {{3}}" + (f", {consts}" if consts else "")
    found = model(f"{HEAD} ({given}) => (float[{y}] y) <{declared}> {{ {COUNTED} {body} }}", infer=False)
    infer_shapes(found)
    return found


# As bloom has it: a bias for each folded head and key, the mask at four axes, the second product at three again.
BLOOM = f"""{FOLDED}
    s = MatMul(q3, k3t) z = Mul(s, half) a = Add(z, alibi) s4 = Reshape(a, bst) m = Add(s4, mask) p = Softmax(m)
    p3 = Reshape(p, nst) y3 = MatMul(p3, v3)
"""
# As DeBERTa has it: the scale on the keys, a bias of all three axes, a mask that selects.
DEBERTA = f"""{FOLDED}
    kz = Div(k3t, half) s = MatMul(q3, kz) a = Add(s, bias) s4 = Reshape(a, bst) m = Where(keep, s4, low)
    p = Softmax(m) p3 = Reshape(p, nst) y3 = MatMul(p3, v3)
"""
# As older exports of OPT have it: the mask leaves three axes and comes back.
OPT = f"""{FOLDED}
    s = MatMul(q3, k3t) s4 = Reshape(s, bst) m4 = Add(s4, mask) m = Reshape(m4, nst) p = Softmax(m) y3 = MatMul(p, v3)
"""
FORMS = {
    "bloom": (BLOOM, "float[N,1,T] alibi, float[B,1,S,T] mask"),
    "deberta": (DEBERTA, "float[N,S,T] bias, bool[B,1,1,T] keep"),
    "opt": (OPT, "float[B,1,S,T] mask"),
}
N_SIZES = tuple({**sizes, "N": 2 * sizes["B"]} for sizes in SIZES)


def named(form: str) -> tuple[str, str]:
    body, inputs = FORMS[form]
    # The exporter knows that N is 2*B, and says so.
    return body, inputs.replace("[N,", "[twice,")


def folded_layer(form: str, *, apart: bool) -> ir.Model:
    body, inputs = named(form)
    found = graph(
        f"{body} {APART}" if apart else f"{body} y = Neg(y3)", inputs=inputs, y="B,2,S,3" if apart else "M,S,3"
    )
    for value in found.graph.inputs:
        if value.shape is not None and value.shape[0] == "twice":
            value.shape = ir.Shape(["2*B", *value.shape[1:]])
    infer_shapes(found)
    return found


def inputs_at(found: ir.Model, sizes: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    at = {**sizes, "2*B": 2 * sizes["B"]}
    shapes = {
        value.name: [size if isinstance(size, int) else at[str(size)] for size in value.shape or ()]
        for value in found.graph.inputs
    }
    return {
        str(name): rng.random(shape) < 0.7 if name == "keep" else rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("apart", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_folded_heads_are_taken_apart(form: str, apart: bool) -> None:
    before = folded_layer(form, apart=apart)
    after = assert_fires(before, FUSE_ATTENTION, regions=False)
    (node,) = (each for each in after.graph if each.op_type == "Attention")
    assert [value.name for value in node.inputs[:3] if value is not None] == ["q", "k", "v"]
    assert not {"Softmax", "MatMul"} & {each.op_type for each in after.graph}
    for sizes in SIZES:
        inputs = inputs_at(before, sizes)
        expected, found = evaluate(before, inputs)["y"], evaluate(after, inputs)["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_regions_hold_at_sizes_that_are_numbers(form: str) -> None:
    body, inputs = FORMS[form]
    text = f"{COUNTED} {body} {APART}"
    declared = f"{CONSTS}, int64[1] three = {{3}}"
    fixed = (f"{INPUTS}, {inputs}").replace("[B,", "[3,").replace("[N,", "[6,")
    before = model(f"{HEAD} ({fixed}) => (float[3,2,S,3] y) <{declared}> {{ {text} }}", infer=False)
    infer_shapes(before)
    after = assert_fires(before, FUSE_ATTENTION)
    for sizes in ({"S": 3, "T": 5}, {"S": 1, "T": 1}):
        assert_equivalent(before, after, sizes=sizes)


def test_a_folded_result_with_another_use_stays_folded() -> None:
    body, inputs = named("opt")
    before = graph(f"{body} {APART.replace('y =', 'x =')} u = ReduceMax(y3) y = Add(x, u)", inputs=inputs)
    after = assert_fires(before, FUSE_ATTENTION, regions=False)
    assert_equivalent(before, after, sizes=SIZES[0])


def three_axes(body: str, *, mask: str = "", q: str = "N,S,4", k: str = "N,T,4", v: str = "N,T,3") -> ir.Model:
    inputs = f"float[{q}] q, float[{k}] k, float[{v}] v" + (f", {mask}" if mask else "")
    return model(f"{HEAD} ({inputs}) => (float[N,S,3] y) <{CONSTS}> {{ {body} }}")


THREE = "kt = Transpose <perm = [0, 2, 1]> (k) s = MatMul(q, kt) z = Mul(s, half)"


@pytest.mark.parametrize("mask", ["", "float[N,S,T] mask", "float[1,S,T] mask", "float[S,T] mask", "float[N,1,T] mask"])
def test_heads_that_were_never_apart_become_a_batch(mask: str) -> None:
    before = three_axes(
        f"{THREE} {'m = Add(z, mask)' if mask else 'm = Identity(z)'} p = Softmax(m) y = MatMul(p, v)", mask=mask
    )
    if not mask:
        before = three_axes(f"{THREE} p = Softmax(z) y = MatMul(p, v)")
    after = assert_fires(before, FUSE_ATTENTION)
    for sizes in ({"N": 2, "S": 3, "T": 5}, {"N": 1, "S": 1, "T": 1}, {"N": 4, "S": 4, "T": 4}):
        assert_equivalent(before, after, sizes=sizes)


def test_keys_of_three_axes_that_come_transposed() -> None:
    before = three_axes("s = MatMul(q, k) p = Softmax(s) y = MatMul(p, v)", k="N,4,T")
    assert_equivalent(before, assert_fires(before, FUSE_ATTENTION))


@pytest.mark.parametrize(
    ("k", "v", "reason"),
    [
        ("1,T,4", "N,T,3", Reason.UNKNOWN),
        ("M,T,4", "N,T,3", Reason.UNKNOWN),
        ("N,T,5", "N,T,3", Reason.SHAPE),
        ("N,T,4", "T,3", Reason.RANK),
    ],
)
def test_refuses_three_axes_that_only_a_product_broadcasts(k: str, v: str, reason: Reason) -> None:
    inputs = f"float[N,S,4] q, float[{k}] k, float[{v}] v"
    body = f"{THREE} p = Softmax(z) y = MatMul(p, v)"
    before = model(f"{HEAD} ({inputs}) => (y) <{CONSTS}> {{ {body} }}", infer=False)
    assert_refuses(before, FUSE_ATTENTION, reason)


# Swin's windows: the batch holds the windows of all images, and the mask is one for each window of an image.
WINDOWS = """kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt) z = Mul(s, half) a = Add(z, bias)
    s5 = Reshape(a, five) m5 = Add(s5, mask) m = Reshape(m5, back) p = Softmax(m) y = MatMul(p, v)"""
WINDOW_CONSTS = f"{CONSTS}, int64[5] five = {{-1, 4, 2, 3, 3}}, int64[4] back = {{-1, 2, 3, 3}}"


def windows(mask: str, *, body: str = WINDOWS, batch: str = "B", consts: str = WINDOW_CONSTS) -> ir.Model:
    inputs = f"float[{batch},2,3,4] q, float[{batch},2,3,4] k, float[{batch},2,3,4] v, float[1,2,3,3] bias, {mask}"
    found = model(f"{HEAD} ({inputs}) => (float[{batch},2,3,4] y) <{consts}> {{ {body} }}", infer=False)
    for value in found.graph.inputs[:3]:
        value.shape = ir.Shape(["4*B" if batch == "B" else 8, 2, 3, 4])
    found.graph.outputs[0].shape = None
    infer_shapes(found)
    return found


@pytest.mark.parametrize("batch", ["B", "8"])
@pytest.mark.parametrize(
    "mask", ["float[1,4,1,3,3] mask", "float[4,2,3,3] mask", "float[1,1,1,3,3] mask", "float[3] mask"]
)
def test_windows_get_their_masks(mask: str, batch: str) -> None:
    before = windows(mask, batch=batch)
    after = assert_fires(before, FUSE_ATTENTION, regions=batch == "8")
    rng = np.random.default_rng(0)
    for images in (1, 2, 3) if batch == "B" else (2,):
        inputs = {
            str(value.name): rng.normal(
                size=[each if isinstance(each, int) else 4 * images for each in value.shape or ()]
            ).astype(np.float32)
            for value in before.graph.inputs
        }
        expected, found = evaluate(before, inputs)["y"], evaluate(after, inputs)["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_mask_of_windows_is_not_repeated_for_each_head() -> None:
    after = assert_fires(
        windows("float[1,4,1,3,3] mask", body=WINDOWS.replace("a = Add(z, bias)", "a = Mul(z, half)")),
        FUSE_ATTENTION,
        regions=False,
    )
    (node,) = (each for each in after.graph if each.op_type == "Attention")
    mask = node.inputs[3]
    assert mask is not None and mask.shape is not None
    assert mask.shape[1] == 1


@pytest.mark.parametrize(
    ("five", "back", "reason"),
    [
        ("{-1, 4, 2, 9, 1}", "{-1, 2, 3, 3}", Reason.UNKNOWN),  # rows of one score
        ("{-1, 4, 3, 2, 3}", "{-1, 2, 3, 3}", Reason.UNKNOWN),  # heads and rows change places
    ],
)
def test_refuses_a_reshape_that_does_not_keep_the_rows(five: str, back: str, reason: Reason) -> None:
    consts = f"{CONSTS}, int64[5] five = {five}, int64[4] back = {back}"
    body = WINDOWS.replace("m5 = Add(s5, mask)", "m5 = Add(s5, low)")
    assert_refuses(windows("float mask", body=body, consts=consts), FUSE_ATTENTION, reason)


def test_refuses_a_reshape_of_unknown_sizes() -> None:
    inputs = f"{INPUTS}, int64[2] sizes"
    scores = "kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt) m = Reshape(s, sizes)"
    body = f"{scores} p = Softmax <axis = 1> (m) back = Shape(s) w = Reshape(p, back) y = MatMul(w, v)"
    before = model(f"{HEAD} ({inputs}) => (float[B,2,S,3] y) {{ {body} }}", infer=False)
    infer_shapes(before)
    refused = assert_refuses(before, FUSE_ATTENTION, Reason.SHARED)
    assert Reason.UNKNOWN not in refused.reasons
