"""Attention whose scores come from short factors: where it fires, and what it computes."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphwright.engine import sample
from graphwright.engine.pipeline import run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.errors import PipelineError
from graphwright.passes import CATALOGUE
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_fires, model
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
        after = apply(layer.model(), damf(rank=2)).model
        values = [value for node in after.graph for value in node.outputs if value.shape is not None]
        assert len(values) > 10
        for value in values:
            assert [str(size) for size in value.shape].count("S") < 2, value


def test_a_second_run_changes_nothing() -> None:
    for softmax in ("maclaurin", "exact", "shift"):
        for layer in (Layer(), Layer(is_apart=True), Layer(is_causal=True)):
            assert_fires(layer.model(), damf(rank=2, softmax=softmax), regions=False)
    assert_fires(Layer(heads=4).model(), damf(rank=2, heads="1,2"), regions=False)


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


@pytest.mark.parametrize("softmax", ["maclaurin", "exact"])
@pytest.mark.parametrize("layer", [Layer(heads=4), Layer(heads=4, is_apart=True, is_causal=True)])
def test_heads_that_are_not_chosen_stay_as_they_were(layer: Layer, softmax: str) -> None:
    before = layer.model()
    outcome = apply(before, damf(rank=1, heads="0,2", softmax=softmax))
    inputs = drawn(before, SIZES, 0)
    weights = arrays(layer, before)
    full = expected(replace(layer, has_following=False), before, inputs, layer.size, "exact")
    short = expected(replace(layer, has_following=False), before, inputs, 1, softmax)
    mixed = np.concatenate([(short if head in (0, 2) else full)[..., head * 3 : head * 3 + 3] for head in range(4)], -1)
    found = evaluate(outcome.model, inputs)["out"]
    np.testing.assert_allclose(found, mixed @ weights["wo"], rtol=1e-3, atol=1e-4)


CORPUS_TIMES = {"bert_dynamo_24": 1, "bert_torchscript_13": 1, "bert_dynamo_18_sdpa": 1, "gpt2_dynamo_18": 1}


@pytest.mark.parametrize("text", ["damf", "damf(rank=2)", "damf(rank=4,softmax=exact)", "damf(softmax=shift)"])
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


def test_it_is_in_no_default_pipeline() -> None:
    assert all("damf" not in names for names in CATALOGUE.defaults.values())
