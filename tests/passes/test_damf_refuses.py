"""What damf does not replace, and what is an error; the model stays as it was."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.observe import Reason
from graphwright.engine.pipeline import Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.errors import PipelineError, UsageError
from graphwright.passes import CATALOGUE
from graphwright.passes.transform.damf import DAMF
from graphwright.testing import apply, model
from tests.passes.damf_layers import HEAD, MASKS, Layer, damf, inferred, stacked

Change = tuple[str, str]


def contents(given: ir.Model) -> bytes:
    written: bytes = ir.to_proto(given).SerializeToString(deterministic=True)
    return written


def assert_fails(before: ir.Model, text: str, **options: object) -> None:
    """Assert that the pass raises with this in its message, and changes nothing."""
    kept = contents(before)
    with pytest.raises(UsageError, match=text):
        run_pipeline(Run(before), Pipeline((Step(DAMF, "transform", options),)))
    assert contents(before) == kept


EIGHT = f"int8[8,8] eight = {{{', '.join('1' * 64)}}}, bool yes"
REASONS: dict[str, tuple[Reason, Layer, tuple[Change, ...], str]] = {
    "another operator between": (
        Reason.STRUCTURE,
        Layer(),
        (("(q, k, v)", "(qr, k, v)"), ("z =", "qr = Sin(q) z =")),
        "",
    ),
    "another operator between, heads apart": (
        Reason.STRUCTURE,
        Layer(is_apart=True),
        (("(q6, k6, v6)", "(q6, kr, v6)"), ("z1 =", "kr = Sin(k6) z1 =")),
        "rotary",
    ),
    "queries that are an input": (
        Reason.STRUCTURE,
        Layer(),
        (("(q, k, v)", "(r, k, v)"), ("[B,S,8] x", "[B,S,8] x, float[B,S,8] r")),
        "",
    ),
    "weights that are computed": (
        Reason.CONSTANT,
        Layer(),
        (("MatMul(x, wq)", "MatMul(x, wr)"), ("q1 =", "wr = Sin(wq) q1 =")),
        "not constant",
    ),
    "weights that callers may replace": (
        Reason.CONSTANT,
        Layer(),
        (("[B,S,8] x", "[B,S,8] x, float[8,8] wq"),),
        "not constant",
    ),
    "quantised weights": (
        Reason.CONSTANT,
        Layer(),
        (
            ("MatMul(x, wq)", "MatMul(x, wr)"),
            ("q1 =", "wr = DequantizeLinear(eight, nought) q1 ="),
            ("bool yes", EIGHT),
        ),
        "quantised",
    ),
    "a bias that is no constant": (
        Reason.CONSTANT,
        Layer(),
        (("Add(k1, bk)", "Add(k1, kr)"), ("k1 =", "kr = Sin(bk) k1 =")),
        "bias",
    ),
    "queries that others use": (
        Reason.SHARED,
        Layer(),
        (("MatMul(z, wo)", "MatMul(z, wo2)"), ("out =", "wr = ReduceMax <keepdims = 0> (q1) wo2 = Mul(wo, wr) out =")),
        "",
    ),
    "one projection for keys and values": (Reason.SHARED, Layer(v_size=4), (("(q, k, v)", "(q, k, k)"),), ""),
    "a softcap": (Reason.ATTRIBUTE, Layer(attributes="scale = 0.4, softcap = 2.0"), (), "softcap"),
    "grouped heads": (
        Reason.SHAPE,
        Layer(heads=4),
        (
            ("kv_num_heads = 4", "kv_num_heads = 2"),
            ("float[8,16] wk", "float[8,8] wk"),
            ("float[16] bk", "float[8] bk"),
            ("float[8,12] wv", "float[8,6] wv"),
            ("float[12] bv", "float[6] bv"),
        ),
        "",
    ),
    "causality of other positions": (Reason.UNKNOWN, Layer(is_cross=True, is_causal=True), (), ""),
    "a mask of queries and keys": (
        Reason.STRUCTURE,
        Layer(mask="keys, expanded"),
        (("bool[B,1,1,S] keys", "bool[B,1,S,S] keys"),),
        "mask of keys",
    ),
    "a mask of each head": (
        Reason.STRUCTURE,
        Layer(mask="keys, expanded"),
        (("bool[B,1,1,S] keys", "bool[B,2,1,S] keys"),),
        "mask of keys",
    ),
    "a bias of positions": (
        Reason.CONSTANT,
        Layer(mask="keys as -inf"),
        (("float low = {-inf}", "float low = {-3}"),),
        "chooses",
    ),
    "keys that come later": (
        Reason.STRUCTURE,
        Layer(mask="causal"),
        (("LessOrEqual(across, down)", "GreaterOrEqual(across, down)"),),
        "causal",
    ),
    "only keys before": (
        Reason.STRUCTURE,
        Layer(mask="causal"),
        (("LessOrEqual(across, down)", "Less(across, down)"),),
        "causal",
    ),
    "positions from 1": (
        Reason.STRUCTURE,
        Layer(mask="causal"),
        (("Range(zero_i, ns, one_i)", "Range(one_i, np1, one_i)"), ("at =", "np1 = Add(ns, one_i) at =")),
        "causal",
    ),
    "a triangle above the diagonal": (
        Reason.STRUCTURE,
        Layer(mask="triangle"),
        (("upper = 0", "upper = 1"),),
        "causal",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_refuses_and_says_why(name: str) -> None:
    reason, layer, changes, text = REASONS[name]
    before = layer.model(*changes)
    assert_fails(before, f"{reason.name}.*{text}")


@pytest.mark.parametrize(
    "name", ["a softcap", "a mask of queries and keys", "keys that come later", "a bias of positions"]
)
def test_the_exact_softmax_takes_what_is_inside_attention(name: str) -> None:
    _, layer, changes, _ = REASONS[name]
    assert apply(layer.model(*changes), damf(softmax="exact")).applied == 1


def test_a_projection_that_is_an_output_stays() -> None:
    assert_fails(Layer().model((") => (", ") => (float[B,S,8] q, ")), "GRAPH_OUTPUT")


def test_an_old_opset_is_refused() -> None:
    """Nothing older than 23 has Attention; a model may import it all the same."""
    before = Layer().model()
    before.opset_imports[""] = before.graph.opset_imports[""] = 22
    outcome = run_on_copy(before)
    assert {refusal.reason for refusal in outcome.refusals} == {Reason.OPSET}


def run_on_copy(before: ir.Model) -> Run:
    run = Run(before.clone())
    run_pipeline(run, Pipeline((Step(DAMF, "transform"),)))
    return run


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types_have_no_linear_form(dtype: str) -> None:
    typed = ("[B,S,8] x", "[B,S,5] out", "[8,8] wq", "[8,8] wk", "[8,6] wv", "[6,5] wo")
    before = Layer(has_bias=False).model(*((f"float{name}", f"{dtype}{name}") for name in typed))
    assert_fails(before, "DTYPE")
    assert apply(before, damf(softmax="exact", rank=2)).applied == 1


def test_unknown_sizes_are_refused() -> None:
    before = Layer().model()
    for node in before.graph:
        for value in node.outputs:
            if value.name == "q":
                value.shape = ir.Shape(["B", None, 8])
    assert_fails(before, "UNKNOWN")


def test_the_rank_of_queries_must_be_known_and_3_or_4() -> None:
    before = Layer().model()
    node = next(node for node in before.graph if node.op_type == "Attention")
    node.inputs[0].shape = None
    assert_fails(before, "UNKNOWN")
    node.inputs[0].shape = ir.Shape(["B", 8])
    assert_fails(before, "RANK")


def test_what_is_refused_stays_beside_what_is_replaced() -> None:
    before = stacked(Layer(), Layer(attributes="scale = 0.4, softcap = 2.0"), Layer())
    outcome = apply(before, damf())
    assert outcome.applied == 2
    assert outcome.reasons == {Reason.ATTRIBUTE}
    assert [node.op_type for node in outcome.model.graph].count("Attention") == 1
    assert_fails(before, "ATTRIBUTE", layers="0,1")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        *(({"rank": rank}, f"found {rank!r}; needed ranks from 1") for rank in (0, "1:0")),
        *(({"rank": rank}, "rank 5; needed 1 to 4") for rank in (5, "1:5")),
        *(({"rank": rank}, f"found {rank}; needed a whole number") for rank in (-1, 1.5, True)),
        *(({"rank": text}, "2 ranks for 1 layers") for text in ("1,2", "1:2,2")),
        ({"rank": "1:2:3"}, "3 ranks for 2 heads; needed one, or one for each chosen"),
        ({"rank": "1:2", "heads": "1"}, "2 ranks for 1 heads"),
        *(({"rank": text}, "one for each head of a layer") for text in ("1:", ":", "1;2", "1:a", "1::2", "1-2", "")),
        ({"softmax": "linear"}, "one of exact, maclaurin, shift"),
        *(({"layers": text}, found) for text, found in (("1", "numbers below 1"), ("some", "'some'"))),
        *(({"heads": text}, "numbers below 2") for text in ("1-5", "1-0")),
        ({"budget": "0.5%"}, "evaluate"),
        *(({"budget": text, "evaluate": lambda model: 1.0}, "share of the score") for text in ("some", "300%")),
        ({"budget": "1%", "evaluate": lambda model: float("nan")}, "score nan"),
    ],
)
def test_options_that_are_wrong(options: dict[str, object], text: str) -> None:
    assert_fails(Layer().model(), text, **options)


def test_a_model_without_attention() -> None:
    assert_fails(model(f"{HEAD} (float[N] x) => (float[N] y) {{ y = Relu(x) }}"), "without attention")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["wq", "bq", "wk", "bk"])
@pytest.mark.parametrize("softmax", ["exact", "maclaurin"])
def test_weights_that_are_no_numbers(name: str, number: float, softmax: str) -> None:
    before = Layer().model()
    value = before.graph.initializers[name]
    broken = value.const_value.numpy().copy()
    broken.flat[3] = number
    value.const_value = ir.tensor(broken, name=name)
    assert_fails(before, "1 numbers that are NaN or infinite", softmax=softmax)


def test_nothing_is_changed_where_a_later_layer_is_wrong() -> None:
    assert_fails(stacked(Layer(), Layer(heads=4, size=2, v_size=3)), "rank 3; needed 1 to 2", rank=3)


@pytest.mark.parametrize("text", ["damf(rnk=1)", "damf(rank=1,softmx=exact)"])
def test_an_argument_that_there_is_not(text: str) -> None:
    with pytest.raises(PipelineError, match="rank, softmax, layers, heads, budget, evaluate"):
        CATALOGUE.parse(text, "onnx")


@pytest.mark.parametrize(
    "text",
    ['damf(rank="1,4",layers="0,2-3")', 'damf(rank="1:1:4,2")', "damf(budget=0.5%)", "damf(rank=8,softmax=exact)"],
)
def test_pipeline_text_parses_back(text: str) -> None:
    assert str(CATALOGUE.parse(text, "onnx")) == text


def test_a_triangle_of_constants_is_causal_and_one_that_is_nearly_one_is_not() -> None:
    """Lengths are fixed here: a constant has one."""
    static = [("float[B,S,8] x", "float[B,5,8] x"), ("float[B,S,5] out", "float[B,5,5] out")]
    layer = Layer(mask="triangle")
    for numbers, is_causal in ((np.tri(5), True), (np.tri(5, k=1), False), (np.tri(5).T, False)):
        for kind, given in (("bool", numbers), ("float", np.where(numbers, 0, -np.inf))):
            text = ", ".join(
                "1" if kind == "bool" and n else "0" if kind == "bool" or n == 0 else "-inf" for n in given.flat
            )
            constant = ("bool yes = {1}", f"bool yes = {{1}}, {kind}[1,1,5,5] m = {{{text}}}")
            before = layer.model(*static, (MASKS["triangle"].nodes.replace("(y)", "(x)"), ""), constant)
            if is_causal:
                after = apply(before, damf()).model
                assert "CumSum" in {node.op_type for node in after.graph}
            else:
                assert_fails(before, "STRUCTURE.*causal")


def test_a_rotated_model_of_an_exporter() -> None:
    text = (Path(__file__).parents[1] / "corpus" / "llama_dynamo_18.onnxtxt").read_text()
    lifted = run_pipeline(Run(model(text)), CATALOGUE.default("onnx"))
    for softmax in ("exact", "maclaurin", "shift"):
        assert_fails(lifted, "rotary", softmax=softmax)


def test_a_mask_of_another_length_is_refused() -> None:
    before = inferred(Layer(mask="numbers of the caller").text.replace("float[B,1,1,S] keys", "float[B,1,1,M] keys"))
    assert_fails(before, "UNKNOWN|STRUCTURE")
