"""A product with its bias, activation and residual becomes one operator with a body."""

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphwright.engine.observe import Reason
from graphwright.engine.rewrite import Rule, Run, apply_rule
from graphwright.passes.transform.fuse_linear import FUSE_LINEAR
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 10, opset_import: ["": 24]> g (float[B,S,4] x, float[B,S,6] r) => (float[B,S,6] y)'
WEIGHTS = "float[4,6] w, float[6] b"
BIAS = "p = MatMul(x, w) h = Add(p, b)"
FORMS = {
    "gelu": "Gelu (h)",
    "gelu_tanh": 'Gelu <approximate = "tanh"> (h)',
    "swish": "Swish (h)",
    "relu": "Relu (h)",
    "tanh": "Tanh (h)",
    "sigmoid": "Sigmoid (h)",
}
EXAMPLES = {
    "all": f"{HEAD} <{WEIGHTS}> {{ {BIAS} a = Gelu (h) y = Add(a, r) }}",
    "gemm": f"{HEAD.replace('B,S,', 'M,')} <{WEIGHTS}> {{ h = Gemm(x, w, b) y = Relu(h) }}",
}


def layer(body: str, *, head: str = HEAD, consts: str = WEIGHTS, opset: int = 24) -> ir.Model:
    return model(f"{head.replace('24', str(opset))} <{consts}> {{ {body} }}")


def flat(body: str, *, consts: str = WEIGHTS) -> ir.Model:
    return layer(body, head=HEAD.replace("B,S,", "M,"), consts=consts)


def joined(before: ir.Model, inputs: str, overload: str, others: tuple[str, ...] = ()) -> ir.Model:
    """Assert that one Linear with these inputs and options is made, and what else there is."""
    after = assert_fires(before, FUSE_LINEAR)
    assert [node.op_type for node in after.graph if node.op_type != "Linear"] == list(others)
    node = next(node for node in after.graph if node.op_type == "Linear")
    assert " ".join("-" if value is None else str(value.name) for value in node.inputs) == inputs
    assert (node.domain, node.overload) == ("graphwright", overload)
    assert node.op_identifier() in after.functions
    assert_equivalent(before, after)
    return after


@pytest.mark.parametrize("name", FORMS)
def test_bias_and_activation(name: str) -> None:
    joined(layer(f"{BIAS} y = {FORMS[name]}"), "x w b", f"{name}_bias")


@pytest.mark.parametrize("total", ["Add(a, r)", "Add(r, a)"])
def test_bias_activation_and_residual(total: str) -> None:
    joined(layer(f"{BIAS} a = Gelu(h) y = {total}"), "x w b r", "gelu_bias_residual")


@pytest.mark.parametrize("bias", ["Add(p, b)", "Add(b, p)"])
def test_a_bias_alone(bias: str) -> None:
    joined(layer(f"p = MatMul(x, w) y = {bias}"), "x w b", "none_bias")


def test_bias_and_residual() -> None:
    joined(layer(f"{BIAS} y = Add(h, r)"), "x w b r", "none_bias_residual")


def test_a_residual_or_an_activation_without_bias() -> None:
    joined(layer("h = MatMul(x, w) y = Add(h, r)"), "x w - r", "none_residual")
    joined(layer("h = MatMul(x, w) y = Swish(h)"), "x w", "swish")
    joined(layer("h = MatMul(x, w) a = Tanh(h) y = Add(r, a)"), "x w - r", "tanh_residual")


@pytest.mark.parametrize("turned", [0, 1])
def test_gemms(turned: int) -> None:
    consts = "float[6,4] w, float[6] b" if turned else WEIGHTS
    suffix = "_transposed" if turned else ""
    product = f"h = Gemm <transB = {turned}> (x, w, b)"
    joined(flat(f"{product} y = Relu(h)", consts=consts), "x w b", f"relu_bias{suffix}")
    joined(flat(product.replace("h =", "y ="), consts=consts), "x w b", f"none_bias{suffix}")
    joined(flat(f"{product.replace(', b)', ')')} y = Relu(h)", consts=consts), "x w", f"relu{suffix}")
    residual = f"{product} y = Add(h, r)"
    joined(flat(residual, consts=consts), "x w b r", f"none_bias_residual{suffix}")


def test_two_layers() -> None:
    body = f"{BIAS} a = Gelu(h) q = MatMul(a, v) k = Add(q, c) y = Add(k, r)"
    before = layer(body, consts=f"{WEIGHTS}, float[6,6] v, float[6] c")
    after = assert_fires(before, FUSE_LINEAR, 2)
    assert [node.op_type for node in after.graph] == ["Linear", "Linear"]
    assert_equivalent(before, after)


def test_an_output_keeps_its_name_and_a_shared_step_stays_apart() -> None:
    head = HEAD.replace("=> (", "=> (float[B,S,6] h, ")
    before = layer(f"{BIAS} y = Gelu(h)", head=head)
    after = assert_fires(before, FUSE_LINEAR)
    assert [value.name for value in after.graph.outputs] == ["h", "y"]
    assert [node.op_type for node in after.graph] == ["Linear", "Gelu"]
    assert_equivalent(before, after)


def test_one_dtype_for_all() -> None:
    for dtype in ("float16", "double"):
        text = f"{HEAD} <{WEIGHTS}> {{ {BIAS} y = Relu(h) }}".replace("float[", f"{dtype}[")
        assert_fires(model(text), FUSE_LINEAR)


def test_equal_sizes_and_sizes_of_one() -> None:
    head = HEAD.replace("B,S,4", "6,6,6").replace("B,S,6", "6,6,6")
    joined(
        layer(f"{BIAS} y = Add(h, r)", head=head, consts="float[6,6] w, float[6] b"), "x w b r", "none_bias_residual"
    )
    head = HEAD.replace("B,S,4", "1,1,1").replace("B,S,6", "1,1,1")
    before = layer(f"{BIAS} y = Relu(h)", head=head, consts="float[1,1] w, float[1] b")
    assert_fires(before, FUSE_LINEAR)


def test_refuses_a_residual_of_another_shape_and_joins_the_rest() -> None:
    head = HEAD.replace("float[B,S,6] r", "float[S,6] r")
    outcome = apply(layer(f"{BIAS} a = Gelu(h) y = Add(a, r)", head=head), FUSE_LINEAR)
    assert outcome.patterns == ("with_activation",)
    assert Reason.SHAPE in first_reasons(layer(f"{BIAS} a = Gelu(h) y = Add(a, r)", head=head))
    head = HEAD.replace("float[B,S,6] r", "float[B,T,6] r")
    before = layer(f"{BIAS} a = Gelu(h) t = Add(a, r) y = Relu(t)", head=head)
    assert apply(before, FUSE_LINEAR).patterns == ("with_activation",)
    assert Reason.UNKNOWN in first_reasons(before)


def first_reasons(before: ir.Model) -> set[Reason]:
    """Return the reasons of what is refused for the whole form, where a part of it is joined."""
    whole = Rule(FUSE_LINEAR.name, FUSE_LINEAR.patterns[:2], FUSE_LINEAR.rewrite)
    return apply(before, whole).reasons


def test_refuses_a_weight_that_is_not_constant() -> None:
    head = HEAD.replace("g (", "g (float[4,6] w, ")
    assert_refuses(layer(f"{BIAS} y = Relu(h)", head=head, consts="float[6] b"), FUSE_LINEAR, Reason.CONSTANT)
    before = layer(f"{BIAS} y = Relu(h)")
    before.graph.inputs.append(before.graph.initializers["w"])
    assert_refuses(before, FUSE_LINEAR, Reason.CONSTANT)


def test_a_bias_that_is_not_constant_is_a_residual() -> None:
    joined(layer("p = MatMul(x, w) h = Add(p, r) y = Relu(h)"), "x w - r", "none_residual", ("Relu",))


def test_refuses_a_bias_of_a_gemm_that_is_not_constant() -> None:
    before = model(
        '<ir_version: 10, opset_import: ["": 24]> g (float[M,4] x, float[6] c) => (float[M,6] y)'
        f" <{WEIGHTS}> {{ h = Gemm(x, w, c) y = Relu(h) }}"
    )
    assert_refuses(before, FUSE_LINEAR, Reason.CONSTANT)


def test_refuses_weights_that_are_no_matrices() -> None:
    before = layer(f"{BIAS} y = Relu(h)", consts="float[1,4,6] w, float[6] b")
    assert_refuses(before, FUSE_LINEAR, Reason.RANK)


@pytest.mark.parametrize("bias", ["float[1] b", "float[1,6] b", "float b"])
def test_refuses_a_bias_of_another_shape(bias: str) -> None:
    assert_refuses(layer(f"{BIAS} y = Neg(h)", consts=f"float[4,6] w, {bias}"), FUSE_LINEAR, Reason.SHAPE)


def test_refuses_other_dtypes() -> None:
    text = '<ir_version: 10, opset_import: ["": 24]> g (int32[M,2] x) => (int32[M,2] y)'
    consts = "int32[2,2] w = {1, 2, 3, 4}, int32[2] b = {1, 2}"
    assert_refuses(model(f"{text} <{consts}> {{ p = MatMul(x, w) y = Add(p, b) }}"), FUSE_LINEAR, Reason.DTYPE)


def test_refuses_inside_a_function_where_weights_are_nodes() -> None:
    text = """<ir_version: 10, opset_import: ["": 24, "lib": 1]> g (float[M,2] x) => (float[M,2] y) { y = lib.f(x) }
        <domain: "lib", opset_import: ["": 24]> f (x) => (y) {
            w = Constant <value = float[2,2] {1.0, 2.0, 3.0, 4.0}> () p = MatMul(x, w) y = Relu(p) }"""
    outcome = apply(model(text), FUSE_LINEAR)
    assert not outcome.applied
    assert outcome.reasons & {Reason.CONSTANT, Reason.DTYPE}


def test_refuses_a_transposition_that_a_caller_sets() -> None:
    before = flat("h = Gemm(x, w, b) y = Relu(h)")
    gemm = before.graph.node(0)
    gemm.attributes["transB"] = ir.RefAttr("transB", "turned", ir.AttributeType.INT)
    outcome = apply_unchecked(before)
    assert Reason.ATTRIBUTE in outcome


def apply_unchecked(before: ir.Model) -> set[Reason]:
    """Run the rule alone: a graph outside a function with such an attribute is no model."""
    run = Run(before, explain=True)
    assert apply_rule(FUSE_LINEAR, run) == 0
    return {each.reason for each in run.refusals}


def test_refuses_interior_values_that_others_need() -> None:
    before = layer(f"{BIAS} a = Relu(h) n = Neg(p) y = Add(a, n)")
    assert_refuses(before, FUSE_LINEAR, Reason.SHARED)
    before = layer(f"{BIAS} y = Relu(h)", head=HEAD.replace("=> (", "=> (float[B,S,6] p, "))
    assert_refuses(before, FUSE_LINEAR, Reason.GRAPH_OUTPUT)


def test_refuses_an_older_opset() -> None:
    before = layer("p = MatMul(x, w) y = Relu(p)", opset=13)
    before.graph.opset_imports[""] = 12
    assert_refuses(before, FUSE_LINEAR, Reason.OPSET)


NEAR_MISSES = {
    "no epilogue": "y = MatMul(x, w)",
    "another activation": "p = MatMul(x, w) y = Elu(p)",
    "a swish of another slope": "p = MatMul(x, w) y = Swish <alpha = 1.5> (p)",
    "a difference": "p = MatMul(x, w) y = Sub(p, r)",
}


@pytest.mark.parametrize("body", NEAR_MISSES.values(), ids=NEAR_MISSES)
def test_near_misses_stay(body: str) -> None:
    assert_refuses(layer(body), FUSE_LINEAR, Reason.STRUCTURE)


@pytest.mark.parametrize("attribute", ["alpha = 0.5", "beta = 0.5", "transA = 1"])
def test_gemms_that_do_more_stay(attribute: str) -> None:
    head = HEAD.replace("B,S,4", "4,4").replace("B,S,6", "4,6")
    before = layer(f"h = Gemm <{attribute}> (x, w, b) y = Relu(h)", head=head)
    assert_refuses(before, FUSE_LINEAR, Reason.STRUCTURE)


@given(b=st.sampled_from([1, 2, 7]), s=st.sampled_from([1, 2, 7]), seed=st.integers(0, 99))
def test_same_numbers(b: int, s: int, seed: int) -> None:
    before = model(EXAMPLES["all"])
    assert_equivalent(before, apply(before, FUSE_LINEAR).model, sizes={"B": b, "S": s}, seed=seed)
