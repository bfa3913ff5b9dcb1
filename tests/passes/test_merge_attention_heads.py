"""Attention takes its inputs with the heads side by side where it is known that they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine import sample
from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason
from graphwright.engine.shapes import infer_shapes
from graphwright.passes.transform.merge_attention_heads import MERGE_ATTENTION_HEADS as RULE
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

BODY = """
    q4 = Reshape(q, qs) qh = Transpose <perm = [0, 2, 1, 3]> (q4)
    k4 = Reshape(k, ks) kh = Transpose <perm = [0, 2, 1, 3]> (k4)
    v4 = Reshape(v, vs) vh = Transpose <perm = [0, 2, 1, 3]> (v4)
    a = Attention {attributes} (qh, kh, vh{mask})
    at = Transpose <perm = [0, 2, 1, 3]> (a) y = Reshape(at, ys)
"""


@dataclass(frozen=True)
class Layer:
    """One attention: H heads over K of size D, values of size E; 0 in a shape keeps the input's size."""

    heads: int = 2
    kv_heads: int = 2
    size: int = 4
    v_size: int = 3
    q: str = "B,S"
    k: str = "B,T"
    mask: str = ""
    attributes: str = "scale = 0.5"
    t: str = "float"
    opset: int = 24

    @property
    def widths(self) -> tuple[int, int, int, int]:
        q, k = self.heads * self.size, self.kv_heads * self.size
        return q, k, self.kv_heads * self.v_size, self.heads * self.v_size

    @property
    def inputs(self) -> str:
        q, k, v, _ = self.widths
        text = f"{self.t}[{self.q},{q}] q, {self.t}[{self.k},{k}] k, {self.t}[{self.k},{v}] v"
        return f"{text}, {self.mask} mask" if self.mask else text

    @property
    def shapes(self) -> str:
        q, k, v = f"{self.heads}, {self.size}", f"{self.kv_heads}, {self.size}", f"{self.kv_heads}, {self.v_size}"
        splits = f"int64[4] qs = {{0, 0, {q}}}, int64[4] ks = {{0, 0, {k}}}, int64[4] vs = {{0, 0, {v}}}"
        return f"{splits}, int64[3] ys = {{0, 0, {self.widths[3]}}}"

    def graph(self, body: str, more_inputs: str = "", outputs: str = "", infer: bool = True) -> ir.Model:
        head = f'<ir_version: 10, opset_import: ["": {self.opset}]> g'
        found = outputs or f"{self.t}[{self.q},{self.widths[3]}] y"
        return model(f"{head} ({self.inputs}{more_inputs}) => ({found}) <{self.shapes}> {{ {body} }}", infer=infer)

    @property
    def body(self) -> str:
        attributes = f"<{self.attributes}>" if self.attributes else ""
        return BODY.format(attributes=attributes, mask=", mask" if self.mask else "")

    @property
    def call(self) -> str:
        """What the rule makes of it."""
        heads = f"q_num_heads = {self.heads}, kv_num_heads = {self.kv_heads}"
        attributes = f"{self.attributes}, {heads}" if self.attributes else heads
        return f"y = Attention <{attributes}> (q, k, v{', mask' if self.mask else ''})"


def before(layer: Layer, *changes: tuple[str, str], more_inputs: str = "", infer: bool = True) -> ir.Model:
    """Return a layer whose text is changed in some places, each of which must be there."""
    body = layer.body
    for old, new in changes:
        assert old in body
        body = body.replace(old, new)
    return layer.graph(body, more_inputs, infer=infer)


def assert_same_numbers(old: ir.Model, new: ir.Model, sizes: Mapping[str, int], seed: int = 0) -> None:
    """Against the original in float64, and of both in ONNX Runtime as it comes, with its own optimizations."""
    assert_equivalent(old, new, sizes=sizes, seed=seed)
    inputs = sample.sample_inputs(old, sample.bind_dims(old.graph.inputs, sizes=sizes), seed)
    expected = evaluate(old, inputs, double=True)
    for each in (old, new):
        found = compare(expected, OrtSession(each)(inputs))
        assert not found, str(found[0])


LAYERS = {
    "plain": Layer(attributes=""),
    "added mask": Layer(mask="float[B,1,S,T]"),
    "mask that selects": Layer(mask="bool[S,T]"),
    "mask of each head": Layer(mask="float[B,2,S,T]"),
    "values of the queries' size": Layer(v_size=4),
    "values that are wider": Layer(v_size=7),
    "one head": Layer(heads=1, kv_heads=1),
    "heads of one number": Layer(size=1, v_size=1),
    "grouped": Layer(heads=6, kv_heads=2),
    "grouped over one head, with a mask": Layer(heads=4, kv_heads=1, mask="float[S,T]"),
    "causal": Layer(k="B,S", attributes="is_causal = 1"),
    "capped": Layer(attributes="scale = 0.25, softcap = 2.0"),
    "precise": Layer(t="float16", attributes="scale = 0.5, softmax_precision = 1"),
    "all at once": Layer(
        heads=4,
        k="B,S",
        mask="float[S,S]",
        attributes="is_causal = 1, scale = 0.5, softcap = 3.0, softmax_precision = 1",
    ),
    "opset 23": Layer(opset=23),
}
EXAMPLES_OF = ("added mask", "grouped", "causal")
HEAD = '<ir_version: 10, opset_import: ["": 24]> g'
EXAMPLES = {
    name: (
        f"{HEAD} ({LAYERS[name].inputs}) => (float[B,S,{LAYERS[name].widths[3]}] y) <{LAYERS[name].shapes}> "
        f"{{ {LAYERS[name].body} }}"
    )
    for name in EXAMPLES_OF
}


@pytest.mark.parametrize("name", LAYERS)
def test_heads_are_merged(name: str) -> None:
    layer = LAYERS[name]
    after = assert_fires(before(layer), RULE, 1, layer.graph(layer.call))
    (node,) = after.graph
    attributes = {each.name: each.value for each in node.attributes.values()}
    assert (attributes.pop("q_num_heads"), attributes.pop("kv_num_heads")) == (layer.heads, layer.kv_heads)
    (source,) = (each for each in before(layer).graph if each.op_type == "Attention")
    assert attributes == {each.name: each.value for each in source.attributes.values()}


def test_outputs_that_nobody_uses_do_not_matter() -> None:
    layer = Layer()
    assert_fires(before(layer, ("a = Attention", "a, pk, pv = Attention")), RULE, 1, layer.graph(layer.call))


def test_numbers_of_heads_that_say_nothing_are_replaced() -> None:
    """On inputs of four axes the operator does not read them, so they may be anything."""
    given = Layer(attributes="scale = 0.5, q_num_heads = 5, kv_num_heads = 5")
    after = assert_fires(before(given), RULE, 1, Layer().graph(Layer().call), regions=False)
    assert after.graph.node(0).attributes["q_num_heads"].as_int() == 2


def test_two_layers_are_merged_one_by_one() -> None:
    layer = Layer(v_size=4, k="B,S", mask="float[S,S]")
    renamed = layer.body
    for name in ("q4", "qh", "k4", "kh", "v4", "vh", "a", "at"):
        renamed = renamed.replace(f" {name} =", f" {name}x =").replace(f"({name})", f"({name}x)")
    renamed = renamed.replace("(qh, kh, vh,", "(qhx, khx, vhx,").replace("(q,", "(x,").replace("(at,", "(atx,")
    old = layer.graph(layer.body.replace(" y =", " x =") + renamed)
    calls = layer.call.replace("y =", "x =") + " " + layer.call.replace("(q,", "(x,")
    after = assert_fires(old, RULE, 2, layer.graph(calls))
    assert_same_numbers(old, after, {"B": 2, "S": 3})


def test_queries_keys_and_values_may_be_one_value() -> None:
    body = Layer(v_size=4).body.replace("Reshape(k,", "Reshape(q,").replace("Reshape(v,", "Reshape(q,")
    head = f"{HEAD} (float[B,S,8] q) => (float[B,S,8] y) <{Layer(v_size=4).shapes}>"
    old = model(f"{head} {{ {body} }}")
    merged = Layer().call.replace("(q, k, v)", "(q, q, q)")
    assert_same_numbers(old, assert_fires(old, RULE, 1, f"{head} {{ {merged} }}"), {"B": 2, "S": 5})


EXPORTED = """
    b = Shape <start = 0, end = 1> (q) s = Shape <start = 1, end = 2> (q) t = Shape <start = 1, end = 2> (k)
    qs = Concat <axis = 0> (b, s, minus1, four) ks = Concat <axis = 0> (b, t, minus1, four)
    vs = Concat <axis = 0> (b, t, minus1, three) ys = Concat <axis = 0> (b, s, minus1)
"""


def test_sizes_may_be_computed_as_exporters_do() -> None:
    consts = "int64[1] minus1 = {-1}, int64[1] four = {4}, int64[1] three = {3}"
    text = f"{HEAD} ({Layer().inputs}) => (float[B,S,6] y) <{consts}> {{ {EXPORTED} {Layer().body} }}"
    old = model(text, infer=False)
    infer_shapes(old)
    after = assert_fires(old, RULE, 1)
    assert "Reshape" not in {node.op_type for node in after.graph}
    assert_same_numbers(old, after, {"B": 2, "S": 3, "T": 5})


def test_fires_inside_a_branch() -> None:
    inner = Layer().body.replace(" y =", " x =")
    branches = (
        f"y = If (on) <then_branch = t () => (float[B,S,6] x) {{ {inner} }}, "
        "else_branch = e () => (float[B,S,6] o) { o = Slice(q, none, six, last) }>"
    )
    consts = f"{Layer().shapes}, int64[1] none = {{0}}, int64[1] six = {{6}}, int64[1] last = {{2}}"
    head = f"{HEAD} ({Layer().inputs}, bool on) => (float[B,S,6] y) <{consts}>"
    old = model(f"{head} {{ {branches} }}", infer=False)
    infer_shapes(old)
    assert_fires(old, RULE, 1)


def test_an_attribute_of_the_enclosing_function_is_still_referred_to() -> None:
    shapes = " ".join(
        f"{name} = Constant <value_ints = {list(values)}> ()"
        for name, values in {"qs": (0, 0, 2, 4), "ks": (0, 0, 2, 4), "vs": (0, 0, 2, 3), "ys": (0, 0, 6)}.items()
    )
    body = Layer(attributes="scale: float = @number").body
    text = (
        f'<ir_version: 10, opset_import: ["": 24, "own": 1]> g ({Layer().inputs}) => (float[B,S,6] y) '
        '{ y = own.Attend <number = 0.125> (q, k, v) } <domain: "own", opset_import: ["": 24]> '
        f"Attend <number> (q, k, v) => (y) {{ {shapes} {body} }}"
    )
    old = model(text, infer=False)
    (function,) = old.functions.values()
    known = {value.name: value for node in Layer().graph(Layer().body).graph for value in node.outputs}
    known |= {value.name: value for value in Layer().graph(Layer().body).graph.inputs}
    for value in (*function.inputs, *(value for node in function for value in node.outputs)):
        if value.name in known:
            value.type, value.shape = known[value.name].type, known[value.name].shape
    outcome = apply(old, RULE)
    assert outcome.applied == 1, (outcome.refusals, outcome.misses)
    (merged,) = outcome.model.functions.values()
    (node,) = (node for node in merged if node.op_type == "Attention")
    assert node.attributes["scale"].ref_attr_name == "number"
    assert_equivalent(old, outcome.model, sizes={"B": 2, "S": 3, "T": 5})


@pytest.mark.parametrize(
    ("q", "y"), [("float[8,8] q", "float[2,4,6] y"), ("float[2,4,2,4] q", "float[2,4,6] y")], ids=["tokens", "split"]
)
def test_refuses_inputs_that_are_not_of_three_axes(q: str, y: str) -> None:
    layer = Layer(q="2,4", k="2,T")
    shapes = layer.shapes.replace("qs = {0, 0,", "qs = {2, 4,")
    inputs = layer.inputs.replace("float[2,4,8] q", q)
    old = model(f"{HEAD} ({inputs}) => ({y}) <{shapes}> {{ {layer.body} }}")
    assert_refuses(old, RULE, Reason.RANK)


@pytest.mark.parametrize(("shape", "y"), [("int64[2] ys = {8, 6}", "8,6"), ("int64[4] ys = {2, 4, 2, 3}", "2,4,2,3")])
def test_refuses_a_result_that_is_not_of_three_axes(shape: str, y: str) -> None:
    layer = Layer(q="2,4", k="2,T")
    shapes = layer.shapes.replace("int64[3] ys = {0, 0, 6}", shape)
    old = model(f"{HEAD} ({layer.inputs}) => (float[{y}] y) <{shapes}> {{ {layer.body} }}")
    assert_refuses(old, RULE, Reason.RANK)


def reshaped(old: Sequence[str], new: Sequence[str], layer: Layer, outputs: str) -> ir.Model:
    """A layer with other target shapes."""
    shapes = layer.shapes
    for one, other in zip(old, new, strict=True):
        assert one in shapes
        shapes = shapes.replace(one, other)
    return model(f"{HEAD} ({layer.inputs}) => ({outputs}) <{shapes}> {{ {layer.body} }}")


STATIC = Layer(q="2,6", k="2,6", v_size=4)
KS, VS = "ks = {0, 0, 2, 4}", "vs = {0, 0, 2, 4}"


def test_refuses_a_split_that_is_not_of_the_last_axis() -> None:
    """[2,6,8] to [2,12,2,2] cuts each row into two positions."""
    cut = [each.replace("{0, 0, 2, 4}", "{2, 12, 2, 2}") for each in ("qs = {0, 0, 2, 4}", KS, VS)]
    old = reshaped(("qs = {0, 0, 2, 4}", KS, VS, "{0, 0, 8}"), (*cut, "{2, 12, 4}"), STATIC, "float[2,12,4] y")
    assert_refuses(old, RULE, Reason.SHAPE)


@pytest.mark.parametrize("shape", ["{4, 3, 2, 4}", "{1, 12, 2, 4}", "{6, 2, 2, 4}"])
def test_refuses_a_split_that_also_changes_batch_and_length(shape: str) -> None:
    new = [each.replace("{0, 0, 2, 4}", shape) for each in ("qs = {0, 0, 2, 4}", KS, VS)]
    ys = "{2, 6, 8}"
    old = reshaped(("qs = {0, 0, 2, 4}", KS, VS, "{0, 0, 8}"), (*new, ys), STATIC, "float[2,6,8] y")
    assert_refuses(old, RULE, Reason.UNKNOWN)


@pytest.mark.parametrize(
    ("ys", "y", "reason"),
    [
        ("{2, 12, 4}", "float[2,12,4] y", Reason.SHAPE),  # each head is a position
        ("{4, 3, 8}", "float[4,3,8] y", Reason.UNKNOWN),
        ("{6, 2, 8}", "float[6,2,8] y", Reason.UNKNOWN),
    ],
)
def test_refuses_a_result_that_is_merged_otherwise(ys: str, y: str, reason: Reason) -> None:
    assert_refuses(reshaped(("{0, 0, 8}",), (ys,), STATIC, y), RULE, reason)


@pytest.mark.parametrize("name", ["q4", "k4", "v4", "a"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3])
def test_refuses_sizes_that_are_not_known(name: str, axis: int | None) -> None:
    old = before(Layer())
    (value,) = (each for node in old.graph for each in node.outputs if each.name == name)
    value.shape = None if axis is None else ir.Shape([*value.shape[:axis], None, *value.shape[axis + 1 :]])
    assert_refuses(old, RULE, Reason.UNKNOWN)


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_refuses_inputs_of_sizes_that_are_not_known(index: int, axis: int | None) -> None:
    old = before(Layer())
    value = old.graph.inputs[index]
    value.shape = None if axis is None else ir.Shape([*value.shape[:axis], None, *value.shape[axis + 1 :]])
    assert_refuses(old, RULE, Reason.UNKNOWN)


def test_refuses_heads_whose_number_is_only_named() -> None:
    old = before(Layer())
    for node in old.graph:
        for value in node.outputs:
            axes = {"q4": 2, "a": 1}
            if value.name in axes:
                sizes = list(value.shape)
                sizes[axes[value.name]] = "H"
                value.shape = ir.Shape(sizes)
    assert_refuses(old, RULE, Reason.UNKNOWN)


@pytest.mark.parametrize("name", ["qs", "ks", "vs"])
def test_a_shape_that_callers_may_replace_says_nothing(name: str) -> None:
    old = before(Layer(), more_inputs=f", int64[4] {name}", infer=False)
    infer_shapes(old)
    assert old.graph.inputs[3].is_initializer()
    assert_refuses(old, RULE, Reason.UNKNOWN)


INTERIOR = ("q4", "qh", "k4", "kh", "v4", "vh", "a", "at")


@pytest.mark.parametrize("name", INTERIOR)
def test_refuses_an_interior_value_with_another_use(name: str) -> None:
    body = Layer().body.replace(" y =", " x =") + f" u = ReduceMax <keepdims = 0> ({name}) y = Add(x, u)"
    assert_refuses(Layer().graph(body), RULE, Reason.SHARED)


@pytest.mark.parametrize("name", INTERIOR)
def test_refuses_an_interior_value_that_is_an_output(name: str) -> None:
    old = Layer().graph(Layer().body, outputs=f"float[B,S,6] y, float {name}", infer=False)
    infer_shapes(old)
    old.graph.outputs[1].shape = {value.name: value for node in old.graph for value in node.outputs}[name].shape
    assert_refuses(old, RULE, Reason.GRAPH_OUTPUT)


@pytest.mark.parametrize(
    ("outputs", "given"),
    [("a, pk", "float[B,2,T,4] pk"), ("a, pk, pv", "float[B,2,T,3] pv"), ("a, pk, pv, w", "float[B,2,S,T] w")],
)
def test_refuses_where_another_output_of_attention_is_used(outputs: str, given: str) -> None:
    body = Layer().body.replace("a = Attention", f"{outputs} = Attention")
    assert_refuses(Layer().graph(body, outputs=f"float[B,S,6] y, {given}"), RULE, Reason.GRAPH_OUTPUT)


def test_refuses_an_interior_value_that_a_subgraph_captures() -> None:
    branches = "z = If (on) <then_branch = t () => (c) { c = Identity(qh) }, else_branch = e () => (d) { d = Neg(qh) }>"
    outputs = "float[B,S,6] y, float[B,2,S,4] z"
    old = Layer().graph(f"{Layer().body} {branches}", more_inputs=", bool on", outputs=outputs)
    assert_refuses(old, RULE, Reason.SHARED)


# Length, heads and size are all 4, so that every permutation has the shape that the rule looks for.
SAME = Layer(heads=4, kv_heads=4, size=4, v_size=4, q="4,4", k="4,4")


@pytest.mark.parametrize("perm", ["0, 1, 2, 3", "0, 2, 3, 1", "2, 0, 1, 3", "1, 2, 0, 3", "0, 3, 1, 2", "0, 1, 3, 2"])
@pytest.mark.parametrize("place", ["(q4)", "(k4)", "(v4)", "(a)"])
def test_another_order_of_axes_stays_even_where_sizes_coincide(perm: str, place: str) -> None:
    old = before(SAME, (f"<perm = [0, 2, 1, 3]> {place}", f"<perm = [{perm}]> {place}"))
    assert_refuses(old, RULE, Reason.STRUCTURE)


def test_sizes_that_coincide_do_not_hide_the_heads() -> None:
    old = before(SAME)
    assert_same_numbers(old, assert_fires(old, RULE, 1, SAME.graph(SAME.call)), {})


@pytest.mark.parametrize(
    "change",
    [
        ("qh = Transpose <perm = [0, 2, 1, 3]> (q4)", "qr = Transpose <perm = [0, 2, 1, 3]> (q4) qh = Relu(qr)"),
        ("q4 = Reshape(q, qs)", "qr = Reshape(q, qs) q4 = Relu(qr)"),
        ("(qh, kh, vh)", "(kh, kh, vh)"),
        ("(qh, kh, vh)", "(qh, kh, kh)"),
        ("(qh, kh, vh)", "(qh, kh, vh, , kh, vh)"),
        ("y = Reshape(at, ys)", "ar = Relu(at) y = Reshape(ar, ys)"),
    ],
)
def test_near_misses_stay(change: tuple[str, str]) -> None:
    layer = replace(SAME, heads=2, kv_heads=2)
    assert_refuses(before(layer, change), RULE, Reason.STRUCTURE)


SIZES = st.sampled_from([1, 2, 7])


@pytest.mark.parametrize("name", LAYERS)
@given(b=SIZES, s=SIZES, t=SIZES, seed=st.integers(0, 99))
def test_same_numbers(name: str, b: int, s: int, t: int, seed: int) -> None:
    old = before(LAYERS[name])
    after = apply(old, RULE)
    assert after.applied == 1
    assert_same_numbers(old, after.model, {"B": b, "S": s, "T": t}, seed)


def test_a_second_run_finds_nothing() -> None:
    once = apply(before(Layer(mask="float[B,1,S,T]")), RULE).model
    assert apply(once, RULE).applied == 0
