"""A number for each head that takes part in the softmax alone becomes one more key of Attention."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.engine.shapes import infer_shapes
from graphwright.passes.lift.fuse_attention_sinks import FUSE_ATTENTION_SINKS
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": {opset}]> g'
INPUTS = "{t}[B,2,S,4] q, {t}[B,2,T,4] k, {t}[B,2,T,3] v, {t}[{sink}] sink"
CONSTS = "{t} half = {{0.5}}, {t} low = {{-1e30}}, int64[1] zero = {{0}}, int64[1] one = {{1}}, int64[1] last = {{-1}}"
SCORES = "kt = Transpose <perm = [0, 1, 3, 2]> (k) s = MatMul(q, kt) z = Mul(s, half)"
TAIL = "y = MatMul(w, v)"
SLICED = "p = Softmax(j) w = Slice(p, zero, last, last, one)"
PLAIN = f"{SCORES} m = Add(z, mask) j = Concat <axis = -1> (m, sink) {SLICED} {TAIL}"
SHIFTED = PLAIN.replace("p = Softmax(j)", "top = ReduceMax(j, last) d = Sub(j, top) p = Softmax(d)")
UNMASKED = PLAIN.replace("m = Add(z, mask)", "").replace("(m, sink)", "(z, sink)")
SIZES = ({"B": 2, "S": 3, "T": 5}, {"B": 1, "S": 1, "T": 1}, {"B": 3, "S": 7, "T": 2})


def layer(
    body: str, *, mask: str = "{t}[B,1,S,T] mask", sink: str = "B,2,S,1", t: str = "float", opset: int = 24
) -> ir.Model:
    inputs = INPUTS.format(t=t, sink=sink) + (f", {mask.format(t=t)}" if mask else "")
    text = f"{HEAD.format(opset=opset)} ({inputs}) => ({t}[B,2,S,3] y) <{CONSTS.format(t=t)}> {{ {body} }}"
    found = model(text, infer=False)
    infer_shapes(found)
    return found


BODIES = {
    "mask": (PLAIN, "{t}[B,1,S,T] mask"),
    "shifted": (SHIFTED, "{t}[B,1,S,T] mask"),
    "no mask": (UNMASKED, ""),
    "choice": (PLAIN.replace("Add(z, mask)", "Where(mask, z, low)"), "bool[S,T] mask"),
    "sum first": (PLAIN.replace("Add(z, mask)", "Add(mask, z)"), "{t}[S,T] mask"),
    "soft cap": (
        PLAIN.replace("m = Add", "h = Tanh(z) c = Mul(h, half) m = Add").replace("(z, mask)", "(c, mask)"),
        "{t}[T] mask",
    ),
}


@pytest.mark.parametrize("sink", ["B,2,S,1", "1,2,1,1"])
@pytest.mark.parametrize("name", BODIES)
def test_the_sink_becomes_a_key(name: str, sink: str) -> None:
    body, mask = BODIES[name]
    if sink == "1,2,1,1":  # Concat repeats nothing: the graph does
        body = body.replace("j = Concat", "e = Expand(sink, all) j = Concat").replace(", sink)", ", e)")
        body = "all = Shape(q) rows = Slice(all, zero, last) all1 = Concat <axis = 0> (rows, one) " + body
        body = body.replace("Expand(sink, all)", "Expand(sink, all1)")
    before = layer(body, mask=mask, sink=sink)
    after = assert_fires(before, FUSE_ATTENTION_SINKS)
    assert not {"Softmax", "MatMul"} & {node.op_type for node in after.graph}
    for sizes in SIZES:
        assert_equivalent(before, after, sizes=sizes)


EXAMPLES = {
    name: f"{HEAD.format(opset=24)} ({INPUTS.format(t='float', sink='B,2,S,1')}, float[B,1,S,T] mask) => "
    f"(float[B,2,S,3] y) <{CONSTS.format(t='float').replace('-1e30', '-1e4')}> {{ {BODIES[name][0]} }}"
    for name in ("mask", "shifted")
}


def test_two_layers() -> None:
    second = "s2 = MatMul(v2, kt) j2 = Concat <axis = 3> (s2, sink) p2 = Softmax(j2)"
    body = f"{PLAIN.replace('y =', 'x =')} {second} w2 = Slice(p2, zero, last, last, one) y = MatMul(w2, v)"
    inputs = INPUTS.format(t="float", sink="B,2,S,1") + ", float[B,1,S,T] mask, float[B,2,S,4] v2"
    text = f"({inputs}) => (float[B,2,S,3] x, float[B,2,S,3] y) <{CONSTS.format(t='float')}> {{ {body} }}"
    before = model(HEAD.format(opset=24) + text, infer=False)
    infer_shapes(before)
    assert_equivalent(before, assert_fires(before, FUSE_ATTENTION_SINKS, 2))


T_SIZES = st.sampled_from([1, 2, 7])


@given(b=T_SIZES, s=T_SIZES, t=T_SIZES, low=st.sampled_from([-np.inf, float(np.finfo(np.float32).min), -1e30]))
def test_a_row_without_keys_is_left_to_the_sink(b: int, s: int, t: int, low: float) -> None:
    before = layer(PLAIN)
    after = apply(before, FUSE_ATTENTION_SINKS)
    assert after.applied == 1
    rng = np.random.default_rng(b + s + t)
    shapes = {"q": (b, 2, s, 4), "k": (b, 2, t, 4), "v": (b, 2, t, 3), "sink": (b, 2, s, 1)}
    inputs = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    mask = np.where(rng.random((b, 1, s, t)) < 0.5, 0, low).astype(np.float32)
    mask[0, 0, 0] = low
    found = compare(evaluate(before, inputs | {"mask": mask}), evaluate(after.model, inputs | {"mask": mask}))
    assert not found, str(found[0])


def test_refuses_an_older_opset() -> None:
    assert_refuses(layer(PLAIN, opset=23), FUSE_ATTENTION_SINKS, Reason.OPSET)


def test_refuses_float64() -> None:
    assert_refuses(layer(PLAIN, t="double"), FUSE_ATTENTION_SINKS, Reason.DTYPE)


@pytest.mark.parametrize(
    ("sink", "reason"),
    [
        ("B,2,S,2", Reason.SHAPE),
        ("B,1,1,1", None),
        ("A,2,S,1", Reason.UNKNOWN),
        ("B,2,R,1", Reason.UNKNOWN),
        ("B,3,S,1", Reason.SHAPE),
    ],
)
def test_refuses_sinks_of_other_sizes(sink: str, reason: Reason | None) -> None:
    before = layer(PLAIN, sink=sink)
    if reason is None:  # a Concat that no run works for at other sizes; Attention takes it
        assert_fires(before, FUSE_ATTENTION_SINKS, regions=False)
    else:
        assert_refuses(before, FUSE_ATTENTION_SINKS, reason)


def test_refuses_scores_of_three_axes() -> None:
    inputs = "float[N,S,4] q, float[N,T,4] k, float[N,T,3] v, float[N,S,1] sink"
    body = UNMASKED.replace("[0, 1, 3, 2]", "[0, 2, 1]")
    consts = CONSTS.format(t="float")
    before = model(f"{HEAD.format(opset=24)} ({inputs}) => (float[N,S,3] y) <{consts}> {{ {body} }}", infer=False)
    infer_shapes(before)
    assert_refuses(before, FUSE_ATTENTION_SINKS, Reason.RANK)


def test_refuses_a_scale_that_attention_cannot_have() -> None:
    before = layer(PLAIN.replace("Mul(s, half)", "Mul(s, low)"))
    assert_refuses(before, FUSE_ATTENTION_SINKS, Reason.CONSTANT)


@pytest.mark.parametrize("name", ["s", "j", "p", "w"])
def test_refuses_an_interior_value_with_another_use(name: str) -> None:
    body = PLAIN.replace("y = MatMul", "x = MatMul") + f" u = ReduceMax({name}) y = Add(x, u)"
    assert_refuses(layer(body), FUSE_ATTENTION_SINKS, Reason.SHARED)


def test_refuses_an_interior_value_that_is_an_output() -> None:
    inputs = INPUTS.format(t="float", sink="B,2,S,1") + ", float[B,1,S,T] mask"
    text = f"({inputs}) => (float[B,2,S,3] y, p) <{CONSTS.format(t='float')}> {{ {PLAIN} }}"
    before = model(HEAD.format(opset=24) + text, infer=False)
    infer_shapes(before)
    assert_refuses(before, FUSE_ATTENTION_SINKS, Reason.GRAPH_OUTPUT)


@pytest.mark.parametrize(
    "body",
    [
        PLAIN.replace("(p, zero, last, last, one)", "(p, one, last, last, one)"),  # the first key is dropped too
        PLAIN.replace("Concat <axis = -1> (m, sink)", "Concat <axis = -1> (sink, m)"),
        PLAIN.replace("w = Slice(p, zero, last, last, one)", "w = Slice(p, zero, one, last, one)"),
        SHIFTED.replace("Sub(j, top)", "Sub(top, j)"),
        SHIFTED.replace("ReduceMax(j, last)", "ReduceMax(j)"),
    ],
)
def test_near_misses_stay(body: str) -> None:
    assert_refuses(layer(body), FUSE_ATTENTION_SINKS, Reason.STRUCTURE)
