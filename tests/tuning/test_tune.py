"""Tuning chooses which rules fire where: by times that are made up here, from the cache, and within its limits."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx_ir as ir
import pytest

from graphwright.engine.observe import Reason, Record
from graphwright.engine.pipeline import Pipeline, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.errors import MissingDependencyError, UsageError
from graphwright.passes import CATALOGUE
from graphwright.report.tuning import CACHED, NOT_TIMED
from graphwright.testing import assert_equivalent, difference
from graphwright.tuning import tune
from graphwright.tuning.cache import ChoiceCache
from graphwright.tuning.choices import CHOICES
from graphwright.tuning.spellings import Plan
from graphwright.tuning.tune import Tuned, check_tunable
from tests.tuning.models import MadeUp, classifier, encoder, gated, tuned

DEFAULT = CATALOGUE.default("ort-cpu")
NAMES = [(choice.name, each.name) for choice in CHOICES for each in choice.alternatives]
MODELS: Mapping[str, Callable[[], ir.Model]] = {
    **dict.fromkeys(("attention", "residual norm", "gelu"), partial(encoder, inner=(16,))),
    "gate and up projections": gated,
    **dict.fromkeys(("residual RMS norm", "softmax with the largest"), classifier),
}


def result(given: ir.Model, found: Tuned) -> tuple[ir.Model, Record]:
    record = Record()
    observers = [record, *([found.gate] if found.gate else [])]
    return run_pipeline(Run(given.clone(), observers), found.pipeline), record


def operators(given: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in given.graph)


@pytest.mark.parametrize(("choice", "name"), NAMES)
def test_every_alternative_gives_the_same_numbers(choice: str, name: str, tmp_path: Path) -> None:
    given = MODELS[choice]()
    found = tuned(given, tmp_path, MadeUp(name))
    tried = [each for each in found.report.regions if each.choice == choice]
    after, _ = result(given, found)
    # Where a choice is to leave the graph as it is, there is nothing to compare.
    for sizes in ({"B": 1, "S": 2}, {"B": 3, "S": 7}) if difference(given, after) else ():
        assert_equivalent(given, after, sizes=sizes)
    # Without a compiled library the pipeline spells both alternatives of a search the same: there is no choice.
    if tried:
        assert [each.chosen for each in tried] == [name] * len(tried)
    else:
        assert choice == "softmax with the largest"


def test_what_was_chosen_is_what_the_graph_shows(tmp_path: Path) -> None:
    given = encoder()
    found = tuned(given, tmp_path, MadeUp("MultiHeadAttention"))
    after, record = result(given, found)
    assert operators(after)["MultiHeadAttention"] == 2 and not operators(after)["Attention"]
    assert found.report.kept and found.report.whole is not None
    assert {each.pass_name for each in record.applications} >= {"lower-attention-to-mha", "merge-attention-heads"}


def test_a_pass_that_lost_is_refused_with_the_winner(tmp_path: Path) -> None:
    given = encoder()
    _, record = result(given, tuned(given, tmp_path, MadeUp("Add, LayerNormalization")))
    lost = next(each for each in record.outcomes if each.name == "spell-residual-as-sum")
    assert lost.applied == 0 and {each.reason for each in lost.refusals} == {Reason.SLOWER}
    assert "Add, LayerNormalization" in lost.refusals[0].detail


def test_regions_of_one_model_may_be_lowered_differently(tmp_path: Path) -> None:
    class OfTheWidest(MadeUp):
        def __call__(self, contenders: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
            times = super().__call__(contenders, seconds)
            is_second_gelu = sum("BiasGelu" in each for each in self.asked) == 2
            wins = "Add, Gelu" in contenders and is_second_gelu
            return {**times, "Add, Gelu": [0.5] * 5} if wins else times

    given = encoder(inner=(16, 24))
    found = tuned(given, tmp_path, OfTheWidest())
    assert [each.chosen for each in found.report.regions if each.choice == "gelu"] == ["BiasGelu", "Add, Gelu"]
    after, _ = result(given, found)
    assert operators(after)["BiasGelu"] == 1 and operators(after)["Gelu"] == 1
    assert_equivalent(given, after, sizes={"B": 2, "S": 5})


def test_the_default_stays_where_nothing_is_faster(tmp_path: Path) -> None:
    measure = MadeUp("none of them", whole=False)
    found = tuned(encoder(), tmp_path, measure)
    assert found.gate is None and found.pipeline == DEFAULT and found.report.whole is None
    assert all(each.chosen == each.default for each in found.report.regions)


def test_the_default_stays_where_the_whole_is_not_faster(tmp_path: Path) -> None:
    found = tuned(encoder(), tmp_path, MadeUp("MultiHeadAttention", whole=False))
    assert found.gate is None and found.pipeline == DEFAULT
    assert found.report.whole is not None and not found.report.kept
    assert "the default is kept" in found.report.outcome


def test_what_is_in_the_cache_is_not_measured_again(tmp_path: Path) -> None:
    first = tuned(encoder(), tmp_path, MadeUp("MultiHeadAttention"))
    again = MadeUp("heads apart")
    second = tuned(encoder(), tmp_path, again)
    assert not again.asked
    assert {each.origin for each in second.report.regions} == {CACHED}
    assert second.report.whole is not None and second.report.whole.origin == CACHED
    assert [each.chosen for each in first.report.regions] == [each.chosen for each in second.report.regions]
    assert first.pipeline == second.pipeline


def test_weights_do_not_count_and_shapes_do(tmp_path: Path) -> None:
    tuned(encoder(), tmp_path, MadeUp())
    other = encoder()
    for value in other.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy() * 2)
    again = MadeUp()
    assert not tuned(other, tmp_path, again).report.kept and not again.asked
    tuned(encoder(inner=(24, 24)), tmp_path, again)
    # The attention and the norms are those of before.
    assert again.asked == [("BiasGelu", "Add, Gelu")]


@pytest.mark.parametrize(("name", "value"), [("processor", "another"), ("cores", 77), ("onnxruntime_version", "9.9.9")])
def test_another_machine_measures_anew(
    name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned(classifier(), tmp_path, MadeUp())
    monkeypatch.setattr(tune, name, lambda: value)
    again = MadeUp()
    tuned(classifier(), tmp_path, again)
    assert again.asked


def test_other_threads_measure_anew(tmp_path: Path) -> None:
    tuned(classifier(), tmp_path, MadeUp())
    again = MadeUp()
    tuned(classifier(), tmp_path, again, threads=1)
    assert again.asked


def test_a_damaged_cache_is_written_anew(tmp_path: Path) -> None:
    tuned(classifier(), tmp_path, MadeUp())
    for path in tmp_path.iterdir():
        path.write_bytes(b"{")
    again = MadeUp()
    tuned(classifier(), tmp_path, again)
    last = MadeUp()
    tuned(classifier(), tmp_path, last)
    assert again.asked and not last.asked


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = tuned(encoder(), tmp_path / "file", MadeUp("MultiHeadAttention"))
    assert found.report.kept and all("not kept" in each.note for each in found.report.regions)


def test_when_the_time_is_over_the_default_stays(tmp_path: Path) -> None:
    measure = MadeUp("MultiHeadAttention")
    found = tuned(encoder(), tmp_path, measure, seconds=1e-9)
    assert [each.origin for each in found.report.regions][1:] == [NOT_TIMED] * 2
    assert all(each.chosen == each.default for each in found.report.regions[1:])
    assert len(measure.asked) <= 2


def test_an_alternative_with_other_numbers_or_without_a_kernel_is_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphwright.errors import LoadError
    from graphwright.tuning import spellings

    real = spellings.open_session

    def refusing(model: ir.Model, target: str, threads: int | None) -> object:
        if any(node.op_type == "MultiHeadAttention" for node in model.graph):
            raise LoadError("model", "no kernel", needed="one")
        session = real(model, target, threads)
        if any(node.op_type == "SkipLayerNormalization" for node in model.graph):
            return lambda inputs: {name: value + 1 for name, value in session(inputs).items()}
        return session

    monkeypatch.setattr(spellings, "open_session", refusing)
    found = tuned(encoder(), tmp_path, MadeUp("MultiHeadAttention"))
    notes = [each.note for each in found.report.regions]
    assert "MultiHeadAttention: model: found no kernel" in notes[0]
    assert "SkipLayerNormalization: other numbers" in notes[1]
    assert "MultiHeadAttention" not in found.report.regions[0].milliseconds


def test_passes_of_a_pipeline_that_are_no_alternative_are_the_default(tmp_path: Path) -> None:
    pipeline = CATALOGUE.parse("default,pack-qkv,lower-attention", "ort-cpu")
    found = tuned(encoder(), tmp_path, MadeUp("heads together"), pipeline)
    attention = found.report.regions[0]
    assert (attention.default, attention.chosen) == ("as given", "heads together")
    after, _ = result(encoder(), found)
    assert operators(after)["Attention"] == 2 and operators(after)["MatMul"] == 12


def test_a_choice_adds_its_passes_where_the_catalogue_has_them() -> None:
    plan = Plan(DEFAULT)
    wanted = ("com.microsoft.Attention", "SkipLayerNormalization")
    chosen = [each for choice in CHOICES for each in choice.alternatives if each.name in wanted]
    names = [step.name for step in plan.tuned(chosen).steps]
    order = [step.name for step in CATALOGUE.steps()]
    assert names == sorted(names, key=order.index) and len(names) == len(set(names))
    assert set(names) - plan.names == {"lower-attention-to-mha", "fuse-attention-projections", "fuse-skip-layer-norm"}


def test_a_model_without_regions_is_left_alone(tmp_path: Path) -> None:
    from graphwright.testing import model

    measure = MadeUp()
    given = model('<ir_version: 10, opset_import: ["": 24]> g (float[B,4] x) => (float[B,4] y) {y = Relu(x)}')
    found = tuned(given, tmp_path, measure)
    assert not measure.asked and not found.report.regions and found.pipeline == DEFAULT


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnx"])
def test_targets_that_choose_their_own_kernels_are_refused(target: str) -> None:
    with pytest.raises(UsageError, match=r"option tune.*leave tune out"):
        check_tunable(target, CATALOGUE.default(target))


def test_passes_that_change_the_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="damf"):
        check_tunable("ort-cpu", CATALOGUE.parse("default,damf(rank=1)", "ort-cpu"))


def test_a_provider_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphwright.runtime import ort_load

    monkeypatch.setattr(ort_load.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError, match="CUDAExecutionProvider"):
        check_tunable("ort-cuda", CATALOGUE.default("ort-cuda"))


def test_several_profiles_are_timed_together(tmp_path: Path) -> None:
    from graphwright.tuning.tune import Tuner
    from tests.tuning.models import points

    given, measure = classifier(), MadeUp()
    both = [*points(given, B=2), *points(given, B=5)]
    tuner = Tuner("ort-cpu", both, ("B=2", "B=5"), ChoiceCache(tmp_path), measure=measure)
    report = tuner.tune(given, DEFAULT).report
    assert all(each.shapes == ("B=2", "B=5") for each in report.regions)
    assert len(measure.asked) == 2 * len(report.regions)
    assert replace(report, seconds=0.0).regions[0].milliseconds == dict.fromkeys(report.regions[0].milliseconds, 4000.0)


def test_a_user_pass_stays_in_the_pipeline(tmp_path: Path) -> None:
    from graphwright.compilation.steps import build_pipeline

    pipeline = build_pipeline(["default", lambda graph: None], "ort-cpu")
    found = tuned(encoder(), tmp_path, MadeUp("MultiHeadAttention"), Pipeline(pipeline.steps))
    assert "gs:<lambda>" in str(found.pipeline) and found.report.kept
