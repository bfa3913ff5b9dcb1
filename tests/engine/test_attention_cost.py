"""Attentions are found with their projections, whatever they are spelled with."""

import onnx_ir as ir
import pytest

from graphwright import testing
from graphwright.engine.cost import AttentionCost, CostReport, cost_table
from graphwright.engine.pipeline import Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import NUMBER, RULE, Run
from graphwright.passes import CATALOGUE
from graphwright.passes.transform.damf import DAMF

HEADER = '<ir_version: 10, opset_import: ["": 24]> '
# Width 8, 2 heads of 4.
WEIGHTS = ", ".join(f"float[8, 8] w{name}, float[8] b{name}" for name in "qkvo")
SHAPES = "int64[4] split = {0, 0, 2, 4}, int64[3] whole = {0, 0, 8}, float scale = {0.5}"
PROJECT = " ".join(f"m{name} = MatMul(n, w{name}) {name} = Add(m{name}, b{name})" for name in "qkv")
HEADS = " ".join(
    f"s{name} = Reshape({name}, split) t{name} = Transpose<perm = [0, 2, 1, 3]>(s{name})" for name in "qkv"
)
MERGE = "u = Transpose<perm = [0, 2, 1, 3]>(z) a = Reshape(u, whole)"
FORMS = {
    "Attention 3-D": "a = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v)",
    "Attention 4-D": f"{HEADS} z = Attention(tq, tk, tv) {MERGE}",
    "products": f"""{HEADS} kt = Transpose<perm = [0, 1, 3, 2]>(tk) d = MatMul(tq, kt) e = Mul(d, scale)
        f = Softmax(e) g = IsNaN(f) h = Where(g, zero, f) z = MatMul(h, tv) {MERGE}""",
}
# 4 d^2 + 4 d, 4 L d^2, 2 L^2 d, and the paper's L^2 (d + h).
PARAMETERS, STATIC, DYNAMIC, PAPER = 4 * 64 + 4 * 8, "256*B*S", "16*B*S**2", "10*B*S**2"


def model(form: str) -> ir.Model:
    """A norm, attention with a residual sum around it, and another linear layer behind it."""
    declared = (
        f"<{WEIGHTS}, {SHAPES}, float zero = {{0}}, float[8] ones = {{1, 1, 1, 1, 1, 1, 1, 1}}, float[8, 8] other>"
    )
    nodes = f"n = LayerNormalization(x, ones) {PROJECT} {FORMS[form]} o = MatMul(a, wo) p = Add(o, bo) r = Add(p, x)"
    text = f"g (float[B, S, 8] x) => (float[B, S, 8] y) {declared} {{ {nodes} y = MatMul(r, other) }}"
    return testing.model(HEADER + text)


def damf(given: ir.Model, **options: object) -> ir.Model:
    return run_pipeline(Run(given), Pipeline((Step(DAMF, "transform", options),)))


def only(report: CostReport) -> AttentionCost:
    (found,) = report.attentions
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_form_costs_the_same_with_its_projections(form: str) -> None:
    report = cost_table(model(form))
    found = only(report)
    assert found.form == form
    assert found.uncounted == 0
    assert (str(found.work.static_macs), str(found.work.dynamic_macs)) == (STATIC, DYNAMIC)
    assert str(found.paper_macs) == PAPER
    # Products have the scale as a number of their own.
    assert found.parameters - PARAMETERS == (2 if form == "products" else 0)
    # The linear layer behind it is not the attention's.
    assert str(report.total.static_macs) == "320*B*S"


@pytest.mark.parametrize("form", FORMS)
def test_numbers_follow_from_the_formulas(form: str) -> None:
    sizes = {"B": 3, "S": 11}
    made = model(form)
    formula, number = only(cost_table(made)), only(cost_table(made, sizes))
    assert number == only(cost_table(made).at(sizes))
    assert number.work.dynamic_macs.size == 16 * 3 * 121
    assert formula.work.read.at(sizes) == number.work.read.size
    assert number.paper_macs is not None
    assert number.paper_macs.size == 10 * 3 * 121


def test_traffic_of_scores_is_there_only_where_they_are_formed() -> None:
    """Of float32 and two heads: products write scores, their scale, softmax and what is no NaN."""
    products, whole = (only(cost_table(model(form))).work for form in ("products", "Attention 3-D"))
    square = {("B", "S", "S"): 4 * 2 * 4 + 2}
    assert {names: count for names, count in products.written.terms.items() if len(names) == 3} == square
    assert not any(len(names) == 3 for names in whole.written.terms)


@pytest.mark.parametrize("rank", [1, 2])
def test_damf_in_linear_form_has_no_square_of_the_length(rank: int) -> None:
    found = only(cost_table(damf(model("Attention 3-D"), rank=rank)))
    assert found.form == "damf"
    assert found.uncounted == 0
    for part in found.work.parts():
        assert not any(names.count("S") > 1 for names in part.terms)
    # Values and output, u and v of two heads with their biases: the column of ones and of its zeros, and few numbers.
    own = 2 * 64 + 2 * 8 + 2 * 9 * 2 * rank
    assert own <= found.parameters < own + 40
    assert str(found.paper_macs) == "2*B*S**2"


def test_damf_with_softmax_keeps_the_square_with_fewer_products() -> None:
    found = only(cost_table(damf(model("Attention 4-D"), rank=1, softmax="exact")))
    assert found.form == "damf, softmax"
    # Of each head one number for the scores and four for the values.
    assert str(found.work.dynamic_macs) == "10*B*S**2"
    assert str(found.paper_macs) == "4*B*S**2"


def test_damf_with_shifts_forms_all_pairs() -> None:
    found = only(cost_table(damf(model("Attention 3-D"), softmax="shift")))
    assert "B*S**2" in str(found.work.dynamic_macs)
    assert str(found.paper_macs) == "2*B*S**2"


def test_damf_keeps_its_row_after_other_passes() -> None:
    replaced = damf(model("Attention 4-D"))
    alone = only(cost_table(replaced))
    after = only(cost_table(run_pipeline(Run(replaced.clone()), CATALOGUE.parse("default", "ort-cpu"))))
    assert after.form == "damf"
    assert abs(after.parameters - alone.parameters) < 10
    assert after.work.dynamic_macs == alone.work.dynamic_macs


def test_what_a_later_rule_makes_of_damfs_nodes_stays_in_its_row() -> None:
    replaced = damf(model("Attention 4-D"))
    alone = only(cost_table(replaced))
    # As the driver leaves it: another rule's name and number, and the nodes of the source that it stands for.
    changed = next(node for node in replaced.graph if node.op_type == "ReduceMax" and RULE in node.metadata_props)
    changed.metadata_props.update({RULE: "later", NUMBER: "77"})
    assert only(cost_table(replaced)) == alone


def test_two_attentions_have_two_rows_and_share_no_node() -> None:
    declared = ", ".join(f"float[8, 8] {name}{layer}" for layer in "ab" for name in "qkvo")
    layers = "".join(
        f"""n{layer} = LayerNormalization({given}, ones)
        {" ".join(f"x{name}{layer} = MatMul(n{layer}, {name}{layer})" for name in "qkv")}
        a{layer} = Attention<q_num_heads = 2, kv_num_heads = 2>(xq{layer}, xk{layer}, xv{layer})
        m{layer} = MatMul(a{layer}, o{layer}) y{layer} = Add(m{layer}, {given}) """
        for layer, given in (("a", "x"), ("b", "ya"))
    )
    text = f"g (float[B, S, 8] x) => (yb) <float[8] ones, {declared}> {{ {layers} }}"
    found = cost_table(testing.model(HEADER + text)).attentions
    assert [each.nodes for each in found] == [5, 5]
    assert [str(each.work.static_macs) for each in found] == [STATIC, STATIC]


def test_projections_that_two_attentions_share_are_counted_once() -> None:
    declared = ", ".join(f"float[8, 8] {name}" for name in ("q", "p", "k", "v"))
    text = f"""g (float[B, S, 8] x) => (y) <float[8] ones, {declared}> {{
        n = LayerNormalization(x, ones) xq = MatMul(n, q) xp = MatMul(n, p) xk = MatMul(n, k) xv = MatMul(n, v)
        a = Attention<q_num_heads = 2, kv_num_heads = 2>(xq, xk, xv)
        b = Attention<q_num_heads = 2, kv_num_heads = 2>(xp, xk, xv) y = Add(a, b) }}"""
    found = cost_table(testing.model(HEADER + text)).attentions
    assert [str(each.work.static_macs) for each in found] == ["192*B*S", "64*B*S"]


def test_values_without_a_projection_do_not_lead_past_a_residual_sum() -> None:
    text = """g (float[B, S, 8] x) => (y) <float[8, 8] w, float[8, 8] q> {
        m = MatMul(x, w) r = Add(m, x) p = MatMul(r, q)
        y = Attention<q_num_heads = 2, kv_num_heads = 2>(p, r, r) }"""
    report = cost_table(testing.model(HEADER + text))
    assert str(only(report).work.static_macs) == "64*B*S"
    assert str(report.total.static_macs) == "128*B*S"


def test_rotary_positions_do_not_hide_the_projection() -> None:
    declared = ", ".join(f"float[8, 8] {name}" for name in "qkv")
    turn = " ".join(
        f"""m{name} = MatMul(n, {name}) s{name} = Reshape(m{name}, split)
        t{name} = Transpose<perm = [0, 2, 1, 3]>(s{name})
        a{name}, b{name} = Split<axis = 3, num_outputs = 2>(t{name}) c{name} = Neg(b{name})
        d{name} = Concat<axis = 3>(c{name}, a{name}) e{name} = Mul(t{name}, cosine) f{name} = Mul(d{name}, sine)
        r{name} = Add(e{name}, f{name})"""
        for name in "qkv"
    )
    inputs = "float[B, S, 8] x, float[1, 1, S, 4] angle"
    text = f"""g ({inputs}) => (y) <float[8] ones, {declared}, int64[4] split = {{0, 0, 2, 4}}> {{
        n = LayerNormalization(x, ones) cosine = Cos(angle) sine = Sin(angle) {turn} y = Attention(rq, rk, rv) }}"""
    assert str(only(cost_table(testing.model(HEADER + text))).work.static_macs) == "192*B*S"


def test_linear_attention_is_found_by_its_structure() -> None:
    """As torch exports it: nothing tells where it comes from."""
    text = f"""g (float[B, S, 8] x) => (float[B, S, 8] y) <{WEIGHTS}, float tiny = {{1}}, float[8] ones> {{
        n = LayerNormalization(x, ones) {PROJECT} kt = Transpose<perm = [0, 2, 1]>(k) c = MatMul(kt, v)
        z = MatMul(q, c) f = Max(z, tiny) a = Div(z, f) o = MatMul(a, wo) y = Add(o, x) }}"""
    found = only(cost_table(testing.model(HEADER + text)))
    assert found.form == "linear"
    assert (str(found.work.static_macs), str(found.work.dynamic_macs)) == (STATIC, "128*B*S")
    assert found.paper_macs is None


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Softmax(x)",
        "t = Transpose(x) a = MatMul(x, t) y = Softmax(a)",
        "a = MatMul(x, w) y = Softmax(a)",
        "a = MatMul(x, w) b = Softmax(a) y = MatMul(b, w)",
    ],
)
def test_a_softmax_without_both_products_of_activations_is_no_attention(nodes: str) -> None:
    report = cost_table(testing.model(HEADER + f"g (float[N, 4] x) => (y) <float[4, 4] w> {{ {nodes} }}"))
    assert report.attentions == ()


def test_calls_of_functions_stay_unknown() -> None:
    text = (
        "g (float[N] x) => (float[N] y) {y = local.f(x)}"
        '<domain: "local", opset_import: ["": 24]> f (a) => (b) {b = Softmax(a)}'
    )
    made = ir.from_onnx_text(HEADER + text)
    made.opset_imports["local"] = 1
    report = cost_table(made)
    assert [each.reason for each in report.unknown] == ["calls a function of the model"]
    assert report.attentions == ()
