"""Attention whose scores come from short factors: where it fires, and what it computes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphwright.cli import main
from graphwright.engine import sample
from graphwright.engine.cost import cost_table
from graphwright.engine.pipeline import run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.errors import PipelineError
from graphwright.passes import CATALOGUE
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_fires, model, same_graph
from tests.passes.damf_layers import LAYERS, Layer, arrays, damf, drawn, expected, stacked

CORPUS = Path(__file__).parents[1] / "corpus"
MARK = "graphwright.damf"


def assert_as_the_reference(
    layer: Layer, softmax: str, rank: int, sizes: Mapping[str, int], seed: int = 0, times: int = 1
) -> ir.Model:
    before = layer.model()
    outcome = apply(before, damf(rank=rank, softmax=softmax))
    assert outcome.applied == times, (outcome.refusals, outcome.misses)
    inputs = drawn(before, sizes, seed)
    found = evaluate(outcome.model, inputs)["out"]
    wide = evaluate(outcome.model, inputs, double=True)["out"] if softmax == "maclaurin" else found
    wanted = expected(layer, before, inputs, rank, softmax)
    # Weights are rounded to float32 in the graph, not in the reference.
    np.testing.assert_allclose(wide, wanted, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    return outcome.model


SIZES = {"B": 2, "S": 5, "T": 7}


@pytest.mark.parametrize("softmax", ["maclaurin", "exact"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_the_reference_says(name: str, softmax: str) -> None:
    layer = LAYERS[name]
    for rank in (1, 3):
        after = assert_as_the_reference(layer, softmax, rank, SIZES)
        left = [node.op_type for node in after.graph if node.op_type in ("Attention", "Softmax")]
        assert left == (["Attention"] if softmax == "exact" else [])


@pytest.mark.parametrize("name", LAYERS)
def test_full_rank_with_the_exact_softmax_is_the_source(name: str) -> None:
    layer = LAYERS[name]
    before = layer.model()
    after = apply(before, damf(rank=layer.size, softmax="exact")).model
    inputs = drawn(before, SIZES, 3)
    np.testing.assert_allclose(evaluate(after, inputs)["out"], evaluate(before, inputs)["out"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "cross with keys", "is_causal", "mask: causal and keys"])
def test_shifts_are_close_to_the_reference(name: str) -> None:
    """Scores next to the middle of two powers may round to either, so most numbers agree, not all."""
    layer = LAYERS[name]
    before = layer.model()
    after = apply(before, damf(rank=1, softmax="shift")).model
    inputs = drawn(before, {"B": 3, "S": 6, "T": 6}, 1)
    found = evaluate(after, inputs)["out"]
    near = np.isclose(found, expected(layer, before, inputs, 1, "shift"), rtol=1e-4, atol=1e-4)
    assert near.mean() > 0.9


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(sorted(LAYERS)),
    rank=st.integers(1, 4),
    b=st.sampled_from([1, 2, 3]),
    s=st.sampled_from([1, 2, 7]),
    t=st.sampled_from([1, 2, 7]),
    seed=st.integers(0, 99),
)
def test_same_numbers_at_any_size(name: str, rank: int, b: int, s: int, t: int, seed: int) -> None:
    assert_as_the_reference(LAYERS[name], "maclaurin", rank, {"B": b, "S": s, "T": t}, seed)


@pytest.mark.parametrize("softmax", ["maclaurin", "exact", "shift"])
def test_nothing_is_left_of_the_full_projections(softmax: str) -> None:
    after = apply(Layer(heads=4, size=8, v_size=8).model(), damf(softmax=softmax)).model
    widths = {tuple(value.shape) for value in after.graph.initializers.values() if len(value.shape) == 2}
    own = [name for name in ("wq", "wk") if name in after.graph.initializers]
    assert not own, own
    assert (8, 4) in widths  # one vector for each head


def test_no_tensor_is_as_large_as_length_times_length() -> None:
    for layer in (Layer(), Layer(is_causal=True), Layer(mask="causal and keys"), Layer(mask="keys, expanded")):
        for rank in (2, "2:1"):
            after = apply(layer.model(), damf(rank=rank)).model
            values = [value for node in after.graph for value in node.outputs if value.shape is not None]
            assert len(values) > 10
            for value in values:
                assert [str(size) for size in value.shape].count("S") < 2, value


def test_a_second_run_changes_nothing() -> None:
    for softmax in ("maclaurin", "exact", "shift"):
        for layer in (Layer(), Layer(is_apart=True), Layer(is_causal=True)):
            assert_fires(layer.model(), damf(rank=2, softmax=softmax), regions=False)
    assert_fires(Layer(heads=4).model(), damf(rank=2, heads="1,2"), regions=False)
    assert_fires(Layer(heads=4).model(), damf(rank="2:1:1:4"), regions=False)


def test_layers_are_chosen_by_number_and_keep_it() -> None:
    before = stacked(Layer(), Layer(), Layer())
    first = apply(before, damf(layers=1, rank=2)).model
    assert [node.op_type for node in first.graph].count("Attention") == 2
    second = apply(first, damf(layers="1-2", rank=2))
    assert second.applied == 1
    assert [node.op_type for node in second.model.graph].count("Attention") == 1
    assert apply(second.model, damf(layers="0", rank=2, softmax="exact")).applied == 1
    with pytest.raises(PipelineError, match="numbers below 3"):
        apply(second.model, damf(layers="3"))


def test_each_layer_may_have_its_own_rank() -> None:
    before = stacked(Layer(), Layer(), Layer())
    after = apply(before, damf(rank="1,4", layers="0,2", softmax="exact")).model
    left = [node for node in after.graph if node.op_type == "Attention"]
    assert [node.metadata_props.get(MARK) for node in left] == ["0", None, "2"]
    assert [node.inputs[0].shape[2] for node in left] == [2, 8, 8]


def by_head(
    layer: Layer, before: ir.Model, inputs: Mapping[str, np.ndarray], kinds: Sequence[tuple[int, str]]
) -> np.ndarray:
    """What the reference makes of a layer whose heads have ranks and softmaxes of their own."""
    apart, parts = replace(layer, has_following=False), []
    for head, (rank, softmax) in enumerate(kinds):
        own = slice(head * layer.v_size, (head + 1) * layer.v_size)
        parts.append(expected(apart, before, inputs, rank, softmax)[..., own])
    whole = np.concatenate(parts, -1)
    return whole @ arrays(layer, before)["wo"] if layer.has_following else whole


def assert_by_head(
    layer: Layer, kinds: Sequence[tuple[int, str]], options: Mapping[str, object], sizes: Mapping[str, int] = SIZES
) -> ir.Model:
    before = layer.model()
    outcome = apply(before, damf(**options))
    assert outcome.applied == 1, (outcome.refusals, outcome.misses)
    inputs = drawn(before, sizes, 1)
    found, wanted = evaluate(outcome.model, inputs)["out"], by_head(layer, before, inputs, kinds)
    near = np.isclose(found, wanted, rtol=1e-3, atol=1e-4)
    # Scores next to the middle of two powers may round to either.
    assert near.mean() > 0.9 if options.get("softmax") == "shift" else near.all()
    return outcome.model


@pytest.mark.parametrize("softmax", ["maclaurin", "exact"])
@pytest.mark.parametrize("layer", [Layer(heads=4), Layer(heads=4, is_apart=True, is_causal=True)])
def test_heads_that_are_not_chosen_stay_as_they_were(layer: Layer, softmax: str) -> None:
    full, short = (layer.size, "exact"), (1, softmax)
    assert_by_head(layer, [short, full, short, full], {"rank": 1, "heads": "0,2", "softmax": softmax})


FOUR = {
    "plain": Layer(heads=4),
    "heads apart, without what follows": Layer(heads=4, is_apart=True, has_following=False),
    "is_causal, Gemm": Layer(heads=4, is_causal=True, spelling="gemm"),
    "keys, packed": Layer(heads=4, mask="keys, expanded", spelling="packed", is_apart=True),
    "causal and keys": Layer(heads=4, mask="causal and keys"),
    "cross with keys, without biases": Layer(heads=4, is_cross=True, mask="keys as -inf", has_bias=False),
}


@pytest.mark.parametrize("softmax", ["maclaurin", "exact", "shift"])
@pytest.mark.parametrize("name", FOUR)
def test_each_head_may_have_its_own_rank(name: str, softmax: str) -> None:
    kinds = [(rank, softmax) for rank in (2, 1, 4, 1)]
    sizes = SIZES if FOUR[name].is_cross else SIZES | {"S": 7}
    after = assert_by_head(FOUR[name], kinds, {"rank": "2:1:4:1", "softmax": softmax}, sizes)
    operators = [node for node in after.graph if node.op_type in ("Attention", "Softmax")]
    assert [node.inputs[0].shape[2] for node in operators] == ([2, 2, 4] if softmax == "exact" else [])
    # Of a packed projection the values' part alone is left.
    assert (8, 4 * (4 + 4 + 3)) not in {tuple(value.shape) for value in after.graph.initializers.values()}


@settings(max_examples=8, deadline=None)
@given(
    name=st.sampled_from(sorted(FOUR)),
    softmax=st.sampled_from(["maclaurin", "exact"]),
    ranks=st.lists(st.integers(1, 4), min_size=4, max_size=4),
    size=st.sampled_from([1, 2, 67]),
)
def test_same_numbers_for_any_ranks(name: str, softmax: str, ranks: list[int], size: int) -> None:
    options = {"rank": ":".join(map(str, ranks)), "softmax": softmax}
    assert_by_head(FOUR[name], [(rank, softmax) for rank in ranks], options, {"B": 2, "S": size, "T": 3})


@pytest.mark.parametrize("softmax", ["maclaurin", "exact"])
def test_ranks_are_those_of_the_chosen_heads(softmax: str) -> None:
    full = (4, "exact")
    kinds = [full, (2, softmax), full, (1, softmax)]
    assert_by_head(Layer(heads=4), kinds, {"rank": "2:1", "heads": "1,3", "softmax": softmax})


def test_equal_ranks_by_head_are_one_rank() -> None:
    for softmax in ("maclaurin", "exact", "shift"):
        each, one = (apply(Layer().model(), damf(rank=rank, softmax=softmax)).model for rank in ("2:2", 2))
        assert same_graph(each, one)


def test_layers_may_have_ranks_by_head_or_one() -> None:
    after = apply(stacked(Layer(), Layer()), damf(rank="3:1,2", softmax="exact")).model
    left = [node.inputs[0].shape[2] for node in after.graph if node.op_type == "Attention"]
    assert left == [3, 1, 4]
    assert not damf(rank="4:4,4", softmax="exact").make(stacked(Layer(), Layer())).changes_numbers
    assert damf(rank="4:3,4", softmax="exact").make(stacked(Layer(), Layer())).changes_numbers


def test_the_cost_report_counts_all_groups_of_heads() -> None:
    """Scores of a head as the paper counts them: its size and 1; of the linear form two numbers, of one head."""

    def cost(**options: object) -> tuple[str, str, int]:
        (found,) = cost_table(apply(Layer(heads=4).model(), damf(**options)).model).attentions
        assert not found.uncounted
        return found.form, str(found.paper_macs), found.parameters

    straight = cost(rank=2, softmax="exact")
    assert straight[:2] == ("damf, softmax", "12*B*S**2")
    assert cost(rank="2:1:1:4", softmax="exact") == straight
    assert cost(rank="2:1", heads="1,3", softmax="exact")[:2] == ("damf, softmax", "15*B*S**2")
    assert cost(rank="2:1:1:4")[:2] == ("damf", "2*B*S**2")
    assert cost(rank="2:1", heads="1,3")[:2] == ("damf and softmax", "12*B*S**2")


CORPUS_TIMES = {"bert_dynamo_24": 1, "bert_torchscript_13": 1, "bert_dynamo_18_sdpa": 1, "gpt2_dynamo_18": 1}


@pytest.mark.parametrize(
    "text", ["damf", "damf(rank=2)", 'damf(rank="2:1")', "damf(rank=4,softmax=exact)", "damf(softmax=shift)"]
)
@pytest.mark.parametrize("name", CORPUS_TIMES)
def test_it_fires_on_what_exporters_write(name: str, text: str) -> None:
    before = model((CORPUS / f"{name}.onnxtxt").read_text())
    for target in ("onnx", "ort-cpu"):
        lifted = run_pipeline(Run(before.clone()), CATALOGUE.parse("default,-clean-up,-fuse-scaled-matmul", target))
        pipeline = CATALOGUE.parse(text, target)
        assert str(pipeline) == text
        after = run_pipeline(Run(lifted.clone()), pipeline)
        count = [node.op_type for node in after.graph].count("Attention")
        assert count == (CORPUS_TIMES[name] if "exact" in text else 0)
        shapes = sample.bind_dims(before.graph.inputs, sizes={"batch": 2, "seq": 5})
        inputs = sample.sample_inputs(before, shapes, 0)
        gap = max(
            np.abs(a - b).max()
            for a, b in zip(evaluate(before, inputs).values(), evaluate(after, inputs).values(), strict=True)
        )
        assert gap < 1e-5 if "rank=4" in text else 1e-3 < gap < 10


def test_it_is_in_no_default_pipeline_and_listed_as_changing_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert all("damf" not in names for names in CATALOGUE.defaults.values())
    assert main(["passes", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["passes"]}
    assert (rows["damf"]["default_in"], rows["damf"]["changes_numbers"]) == ([], True)
    assert rows["fuse-gelu"]["changes_numbers"] is False
    assert main(["passes"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith(("damf ", "fuse-swish "))]
    assert [("changed" in line, "kept" in line) for line in lines] == [(False, True), (True, False)]
