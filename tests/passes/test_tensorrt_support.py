"""The table of what TensorRT's parser takes, and the check of a model against it."""

import onnx
import onnx_ir as ir
import pytest

from graphwright.errors import UsageError
from graphwright.passes.lower import tensorrt_operators as table
from graphwright.passes.lower.tensorrt_support import SUPPORTED_VERSIONS, Unsupported, unsupported
from graphwright.testing import model

NEWEST = SUPPORTED_VERSIONS[-1]


def graph(
    body: str, inputs: str = "float[B,S] x", consts: str = "", *, opset: int = 24, infer: bool = True
) -> ir.Model:
    head = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1, "lib": 1]>'
    return model(f"{head} g ({inputs}) => (y) <{consts}> {{ {body} }}", infer=infer and opset <= 24)


def test_every_operator_of_the_table_is_one_of_onnx_with_these_types_and_attributes() -> None:
    for name in table.TYPES:
        schema = onnx.defs.get_schema(name, table.OPSETS[1], "") if name not in {"Scatter", "Upsample"} else None
        if schema is None:
            continue
        kinds = [each.type_str for each in (*schema.inputs, *schema.outputs)]
        assert table.MAIN_TYPE.get(name, kinds[0]) in kinds, name
        limits = table.LIMITS.get(name, table.Limits())
        assert {*limits.attributes, *limits.ones} <= {*schema.attributes, "value_string"}, name
        positions = (*limits.constants, *limits.absent, *limits.ranks, *limits.types)
        assert max(positions, default=0) < len(schema.inputs) or not positions, name
        for position, wanted in (*limits.constants.items(), *limits.absent.items()):
            assert schema.inputs[position].name.lower() == wanted.lower(), name
    assert set(table.LIMITS) | set(table.SINCE) | set(table.MAIN_TYPE) <= set(table.TYPES)


LACKING = """
BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Compress Unique SequenceAt SequenceMap Optional StringConcat
MatMulInteger QLinearConv QLinearMatMul DynamicQuantizeLinear Multinomial Bernoulli AffineGrid Col2Im CenterCropPad DFT
Det MaxUnpool MaxRoiPool NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss"""


@pytest.mark.parametrize("name", LACKING.split())
def test_what_the_parser_lacks_is_not_in_the_table(name: str) -> None:
    assert onnx.defs.has(name) and not table.has_operator(name, NEWEST)


ATTENTION = "float[B,2,S,4] q, float[B,2,T,4] k, float[B,2,T,4] v"
MASK = f"{ATTENTION}, float[1,1,S,T] m"
IMAGE = "float[B,3,8,8] x"

REFUSED: dict[str, tuple[str, str, str, str]] = {
    "operator": ("y = Unique(x)", "float[N] x", "", "TensorRT 11.4 has no such operator"),
    "contrib": ("y = com.microsoft.FusedMatMul(x, x)", "float[N,N] x", "", "an operator of ONNX Runtime's own"),
    "contrib of a known name": ("y = com.microsoft.Gelu(x)", "float[N] x", "", "an operator of ONNX Runtime's own"),
    "another domain": ("y = lib.Relu(x)", "float[N] x", "", "no plugin lib::Relu"),
    "integer type": ("y = MatMul(x, x)", "int64[4,4] x", "", "x int64[4, 4]"),
    "uint8 inside": ("y = Concat <axis = 0> (x, x)", "uint8[N] x", "", "x uint8[N]"),
    "int16": ("y = Cast <to = 5> (x)", "float[N] x", "", "y int16[N]"),
    "softcap": ("y = Attention <softcap = 2.0> (q, k, v)", ATTENTION, "", "softcap is 2.0"),
    "softmax precision": (
        "y = Attention <softmax_precision = 1> (q, k, v)",
        ATTENTION,
        "",
        "softmax_precision is given",
    ),
    "triangle and mask": ("y = Attention <is_causal = 1> (q, k, v, m)", MASK, "", "a mask and is_causal"),
    "negative scale": ("y = Attention <scale = -1.0> (q, k, v)", ATTENTION, "", "the scale -1.0"),
    "a mask of two axes": ("y = Attention(q, k, v, m)", f"{ATTENTION}, float[S,T] m", "", "m float32[S, T]"),
    "a mask of one row": ("y = Attention(q, k, v, m)", f"{ATTENTION}, float[B,1,1,T] m", "", "the mask m"),
    "three axes": (
        "y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)",
        "float[B,S,8] q, float[B,S,8] k, float[B,S,8] v",
        "",
        "q float32[B, S, 8]",
    ),
    "a cache": (
        "y, pk, pv = Attention(q, k, v, , a, b)",
        f"{ATTENTION}, float[B,2,P,4] a, float[B,2,P,4] b",
        "",
        "the output pk",
    ),
    "statistics": ("y, mean = LayerNormalization(x, x)", "float[8] x", "", "the output mean"),
    "unsorted": ("v, y = TopK <sorted = 0> (x, k)", "float[9] x", "int64[1] k = {3}", "sorted is 0"),
    "large k": ("v, y = TopK(x, k)", "float[9000] x", "int64[1] k = {3840}", "K = 3840"),
    "computed axes": ("y = ReduceSum(x, a)", "float[B,S] x, int64[1] a", "", "axes a, which is computed"),
    "computed axis": ("y = CumSum(x, a)", "float[B,S] x, int64 a", "", "axis a, which is computed"),
    "computed depth": ("y = OneHot(x, d, v)", "int64[N] x, int64 d, float[2] v", "", "depth d, which is computed"),
    "added while scattering": (
        'y = ScatterND <reduction = "add"> (x, i, u)',
        "float[4] x, int64[2,1] i, float[2] u",
        "",
        "reduction is add",
    ),
    "cubic": ('y = Resize <mode = "cubic"> (x, , s)', IMAGE, "float[4] s = {1, 1, 2, 2}", "mode is cubic"),
    "indices of a pool": ("y, i = MaxPool <kernel_shape = [2, 2]> (x)", IMAGE, "", "the output i"),
    "dilated pool": ("y = MaxPool <kernel_shape = [2,2], dilations = [2,2]> (x)", IMAGE, "", "dilations [2, 2]"),
    "pool of lines": ("y = MaxPool <kernel_shape = [2]> (x)", "float[B,3,8] x", "", "x float32[B, 3, 8]"),
    "asymmetric": ("y = DequantizeLinear(x, s, z)", "int8[N] x", "float s = {0.1}, int8 z = {3}", "the zero point z"),
    "positions": (
        "y = RotaryEmbedding(x, c, s, p)",
        "float[B,2,S,4] x, float[9,2] c, float[9,2] s, int32[B,S] p",
        "",
        "p int32[B, S]",
    ),
    "dynamic EyeLike": ("y = EyeLike(x)", "float[B,S] x", "", "x float32[B, S]"),
    "upper case": ('y = Einsum <equation = "AB,BC->AC"> (x, x)', "float[4,4] x", "", "ABC in the equation"),
    "training": ("y = Dropout(x, r, t)", "float[N] x, float r, bool t", "", "a training mode t"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_why(case: str) -> None:
    body, inputs, consts, start = REFUSED[case]
    # ONNX's own inference refuses positions of another type.
    found = unsupported(graph(body, inputs, consts, infer=case != "positions"))
    assert any(each.reason.startswith(start) for each in found), [each.reason for each in found]
    assert all(each.needed for each in found)


TAKEN = {
    "attention": ("y = Attention(q, k, v, m)", MASK, ""),
    "attention with a triangle": ("y = Attention <is_causal = 1, scale = 0.5> (q, k, v)", ATTENTION, ""),
    "normalization": ("y = LayerNormalization(x, x)", "float[8] x", ""),
    "choice": ("v, y = TopK(x, k)", "float[9000] x", "int64[1] k = {3839}"),
    "activations": ("a = Gelu(x) y = Swish(a)", "bfloat16[N] x", ""),
    "positions": (
        "s = Shape(x) g = Gather(s, zero) y = Range(zero, g, one)",
        "float[N] x",
        "int64 zero = {0}, int64 one = {1}",
    ),
    "symmetric": ("y = DequantizeLinear(x, s, z)", "int8[N] x", "float s = {0.1}, int8 z = {0}"),
    "an image of bytes": ("y = Cast <to = 1> (x)", "uint8[N] x", ""),
    "doubles, which it narrows": ("y = Mul(x, x)", "double[N] x", ""),
    "sizes of two kinds": ("y = Where(x, a, b)", "bool[N] x, int64[N] a, int64[N] b", ""),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_taken(case: str) -> None:
    body, inputs, consts = TAKEN[case]
    assert unsupported(graph(body, inputs, consts=consts)) == []


def test_an_initializer_that_callers_may_override_is_no_constant() -> None:
    before = graph("y = ReduceSum(x, a)", consts="int64[1] a = {1}")
    assert not unsupported(before)
    before.graph.inputs.append(before.graph.initializers["a"])
    assert [each.reason for each in unsupported(before)] == ["axes a, which is computed"]


def test_swish_came_with_version_11() -> None:
    before = graph("y = Swish(x)")
    assert [bool(unsupported(before, version)) for version in SUPPORTED_VERSIONS] == [True] + [False] * 5


@pytest.mark.parametrize(("opset", "count"), [(8, 1), (9, 0), (24, 0), (25, 1)])
def test_the_range_of_operator_sets(opset: int, count: int) -> None:
    found = unsupported(graph("y = Relu(x)", opset=opset))
    assert len(found) == count and all(f"opset {opset}" in each.reason for each in found)


@pytest.mark.parametrize("version", ["10.15", "12.0", "", "eleven"])
def test_a_version_without_a_table_is_refused(version: str) -> None:
    with pytest.raises(UsageError, match="TensorRT version"):
        unsupported(graph("y = Relu(x)"), version)


def test_a_version_may_be_long() -> None:
    assert not unsupported(graph("y = Relu(x)"), "11.4.0.106")


def test_the_report_names_node_operator_source_reason_and_what_to_try() -> None:
    before = graph("[first] a = Relu(x) [second] y = BitwiseNot(a)", "int32[N] x")
    second = before.graph.node("second")
    second.metadata_props["graphwright.sources"] = "deep/inside (Not)"
    second.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'module', 'module.encoder.0', 'not']"
    (found,) = unsupported(before)
    assert (found.node, found.operator) == ("second (BitwiseNot)", "BitwiseNot")
    assert found.source == "encoder.0: deep/inside (Not)"
    assert "target='tensorrt'" in found.hint
    assert Unsupported(**found.to_json()) == found


BRANCHES = """y = If (on) <then_branch = t () => (float[S] {a}) {{ {a} = {one} }},
    else_branch = e () => (float {b}) {{ {b} = ReduceSum <keepdims = 0> (x) }}>"""


def test_branches_are_looked_into_and_compared() -> None:
    inside = graph(BRANCHES.format(a="a", b="b", one="Unique(x)"), "float[S] x, bool on")
    assert "TensorRT 11.4 has no such operator" in [each.reason for each in unsupported(inside)]
    ranks = graph(BRANCHES.format(a="a", b="b", one="Relu(x)"), "float[S] x, bool on")
    assert [each.reason for each in unsupported(ranks)] == ["outputs of 1 and of 0 axes"]


def test_carried_values_must_keep_their_shape() -> None:
    body = """y = Loop (n, on, x) <body = b (int64 i, bool c, float[{first}] a) => (bool d, float[{second}] z)
        {{ d = Identity(c) z = Concat <axis = 0> (a, a) }}>"""
    before = graph(body.format(first=2, second=4), "int64 n, bool on, float[2] x")
    assert any("becomes" in each.reason for each in unsupported(before))


def test_graphs_in_graphs_end_somewhere() -> None:
    body = "a = Relu(x)"
    for level in range(table.MOST_NESTED):
        body = f"""a{level} = If (on) <
            then_branch = t{level} () => (float[B,S] p{level}) {{ {body} p{level} = Neg(x) }},
            else_branch = e{level} () => (float[B,S] q{level}) {{ q{level} = Neg(x) }}>"""
    deep = graph(f"{body} y = Neg(x)", "float[B,S] x, bool on")
    assert "graphs in graphs" in [each.reason for each in unsupported(deep)]


FUNCTIONS = """<ir_version: 10, opset_import: ["": 24, "lib": 1]> g (float[N] x) => (float[N] y) {{ {calls} }}
<domain: "lib", opset_import: ["": 24]> {name} (a{more}) => (b) {{ b = {inner}(a) }}"""


@pytest.mark.parametrize(
    ("name", "more", "inner", "reason"),
    [
        ("mine", "", "Relu", ""),
        ("mine", "", "Unique", "TensorRT 11.4 has no such operator"),
        ("Swish", "", "Relu", "a function named Swish"),
        ("mine", ", c", "Relu", "1 inputs to a function of 2"),
    ],
)
def test_functions_are_looked_into(name: str, more: str, inner: str, reason: str) -> None:
    before = ir.from_onnx_text(FUNCTIONS.format(calls=f"y = lib.{name}(x)", name=name, more=more, inner=inner))
    assert [each.reason for each in unsupported(before)] == ([reason] if reason else [])


def test_a_function_that_nobody_calls_is_not_asked_about() -> None:
    before = ir.from_onnx_text(FUNCTIONS.format(calls="y = Relu(x)", name="mine", more="", inner="Unique"))
    assert not unsupported(before)


def test_a_plugin_that_is_there_is_believed() -> None:
    before = graph("y = lib.Magic(x)")
    assert unsupported(before) and not unsupported(before, plugins=("lib::Magic",))


def test_inputs_of_types_that_tensorrt_has_not() -> None:
    before = graph("y = Cast <to = 1> (x)", "uint16[N] x")
    assert [each.node for each in unsupported(before)] == ["x (network input or output)", "y (Cast)"]
