"""Passes that change the numbers by design: they may, all around them may not, and nobody may make NaN."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.bisect import find_guilty
from graphwright.engine.by_design import Approximations, compare_behind, passes_text, summary
from graphwright.engine.deviation import Deviation, broken, deviations, worst_of
from graphwright.engine.observe import Observer, StopAfter
from graphwright.engine.pipeline import FunctionPass, Pass, Pipeline, RuleMaker, Step, run_pipeline
from graphwright.engine.rewrite import Rule, Run
from graphwright.engine.verification import Evaluator
from graphwright.engine.verify import EachVerifier, RegionVerifier
from graphwright.errors import CheckError, VerificationError
from graphwright.testing import model
from tests.by_design_passes import CLIP, CLIP_ONE, FLIP, FLIP_NEARLY, MODEL, NAN, NEG, NEG_WRONG

POINTS = [{"x": np.float32([0.3, -0.7, 2.0, -1.5])}]


def source() -> ir.Model:
    return model(MODEL)


def pipeline_of(*passes: Pass) -> Pipeline:
    return Pipeline(tuple(Step(each, "lift") for each in passes))


def run(*passes: Pass, observers: tuple[Observer, ...]) -> ir.Model:
    return run_pipeline(Run(source(), observers), pipeline_of(*passes))


def test_region_leaves_out_what_changes_numbers_by_design_and_nothing_else(evaluate: Evaluator) -> None:
    verifier = RegionVerifier(evaluate)
    run(FLIP, CLIP, NEG, observers=(verifier,))
    found = verifier.verification
    assert [each.split(":")[0] for each in found.by_design] == ["#2 clip-tanh", "#3 clip-tanh"]
    assert found.points == 6, "three sizes each of the two others"
    assert found.passed and not found.unverified
    assert found.to_json()["by_design"] == found.by_design


@pytest.mark.parametrize("passes", [(FLIP_NEARLY, CLIP, NEG), (FLIP, CLIP, NEG_WRONG)])
def test_region_and_each_catch_what_is_wrong_around_it(passes: tuple[Pass, ...], evaluate: Evaluator) -> None:
    wrong = next(each.name for each in passes if each in (FLIP_NEARLY, NEG_WRONG))
    for verifier in (RegionVerifier(evaluate), EachVerifier(evaluate, source(), POINTS)):
        with pytest.raises(VerificationError, match=wrong):
            run(*passes, observers=(verifier,))


def test_a_rule_that_does_not_say_so_is_wrong(evaluate: Evaluator) -> None:
    silent = Rule(CLIP.name, CLIP.patterns, CLIP.rewrite)
    for verifier in (RegionVerifier(evaluate), EachVerifier(evaluate, source(), POINTS)):
        with pytest.raises(VerificationError, match="clip-tanh"):
            run(silent, observers=(verifier,))


def test_each_goes_on_from_what_the_pass_made(evaluate: Evaluator) -> None:
    verifier = EachVerifier(evaluate, source(), POINTS)
    run(FLIP, CLIP, NEG, observers=(verifier,))
    assert verifier.verification.points == 2
    assert verifier.verification.by_design == ["clip-tanh (2 applications)"]
    assert verifier.verification.worst_absolute < 1e-6


def test_each_catches_numbers_that_are_lost(evaluate: Evaluator) -> None:
    with pytest.raises(VerificationError, match=r"after pass nan-tanh.*nan where"):
        run(NAN, observers=(EachVerifier(evaluate, source(), POINTS),))


def clip_all(given: ir.Model) -> bool:
    run_pipeline(Run(given), pipeline_of(CLIP))
    return True


def test_a_pass_that_is_no_rule_can_say_so(evaluate: Evaluator) -> None:
    said = FunctionPass("clip-all", clip_all, changes_numbers=True)
    verifier, kept = RegionVerifier(evaluate), Approximations(pipeline_of(said).changing)
    run(said, observers=(verifier, kept))
    assert (verifier.verification.points, verifier.verification.by_design) == (0, ["#1 clip-all"])
    assert [each.op_type for each in kept.found[0].before.graph].count("Tanh") == 2
    for other in (RegionVerifier(evaluate), EachVerifier(evaluate, source(), POINTS)):
        with pytest.raises(VerificationError):
            run(FunctionPass("clip-all", clip_all), observers=(other,))


def test_a_rule_of_a_maker_decides_and_the_maker_has_to_allow_it(evaluate: Evaluator) -> None:
    for rule, named in ((CLIP, ["clip-tanh"]), (FLIP, [])):
        kept = Approximations({rule.name})
        run(RuleMaker(rule.name, lambda given, rule=rule: rule, changes_numbers=True), observers=(kept,))
        assert [each.name for each in kept.found] == named
    with pytest.raises(CheckError, match="says changes_numbers too"):
        run(RuleMaker("clip-tanh", lambda given: CLIP), observers=())


def test_the_models_around_a_pass_are_kept_as_they_were() -> None:
    kept = Approximations(pipeline_of(FLIP, CLIP, NEG).changing)
    run(FLIP, CLIP, NEG, observers=(kept,))
    (found,) = kept.found
    assert summary(kept.found) == {"clip-tanh": 2}
    assert [node.op_type for node in found.before.graph] == ["Mul", "Max", "Tanh", "Neg", "Tanh"]
    assert [node.op_type for node in found.after.graph] == ["Mul", "Max", "Clip", "Neg", "Clip"]


def test_half_a_pass_is_kept_too() -> None:
    kept = Approximations({"clip-tanh"})
    run(CLIP, NEG, observers=(kept, StopAfter(1)))
    assert summary(kept.found) == {"clip-tanh": 1}
    assert [node.op_type for node in kept.found[0].after.graph] == ["Abs", "Clip", "Neg", "Tanh"]


def test_bisect_does_not_blame_it(evaluate: Evaluator) -> None:
    found = find_guilty(source, pipeline_of(FLIP, CLIP, NEG), evaluate, POINTS)
    assert found.application is None
    assert str(found) == "all 4 applications keep the numbers but for clip-tanh (2 applications) by design (2 runs)"
    assert found.to_json()["by_design"] == {"clip-tanh": 2}


@pytest.mark.parametrize(
    ("passes", "number", "name"),
    [
        ((FLIP_NEARLY, CLIP, NEG), 1, "abs-as-max-nearly"),
        ((FLIP, CLIP, NEG_WRONG), 4, "neg-as-product-nearly"),
        ((CLIP_ONE, NEG_WRONG, CLIP), 2, "neg-as-product-nearly"),
        ((FLIP, NAN, NEG), 2, "nan-tanh"),
    ],
)
def test_bisect_finds_what_is_wrong_around_it(
    passes: tuple[Pass, ...], number: int, name: str, evaluate: Evaluator, tmp_path: Path
) -> None:
    found = find_guilty(source, pipeline_of(*passes), evaluate, POINTS, folder=tmp_path)
    assert found.application is not None
    assert (found.application.number, found.application.pass_name) == (number, name)
    assert found.folder is not None and (found.folder / "after.onnx").exists()


def test_behind_it_rounding_may_be_larger_but_a_wrong_pass_is_still_one(evaluate: Evaluator) -> None:
    start, due = source(), evaluate(source(), POINTS[0])
    same = run(NEG, observers=())
    off, far = ({"y": due["y"] * np.float32(factor)} for factor in (1.0001, 1.05))
    assert not compare_behind(start, same, POINTS[0], due, off, evaluate)
    assert compare_behind(start, same, POINTS[0], due, far, evaluate)
    nearly = run(NEG_WRONG, observers=())
    assert compare_behind(start, nearly, POINTS[0], due, evaluate(nearly, POINTS[0]), evaluate)


def test_deviations_by_kind_of_output() -> None:
    expected = {"f": np.float32([3, 4, np.inf]), "i": np.array([1, 2, 3, 4]), "none": np.zeros((0, 2), np.float32)}
    actual = {"f": np.float32([3, 4.5, np.inf]), "i": np.array([1, 2, 3, 5]), "none": np.zeros((0, 2), np.float32)}
    first, second, third = deviations(expected, actual)
    assert (first.absolute, first.relative) == (0.5, 0.125)
    assert first.cosine == pytest.approx(27 / (5 * np.hypot(3, 4.5)))
    assert (second.unequal, second.cosine) == (0.25, None)
    assert str(second) == "i: 25.0% of the elements unequal"
    assert (third.absolute, third.cosine) == (0.0, 1.0)


@pytest.mark.parametrize(("due", "got", "cosine"), [(0, 0, 1), (0, 1, 0), (1, -1, -1), (3e38, 1e-38, 1)])
def test_the_cosine_of_what_is_zero_or_huge(due: float, got: float, cosine: float) -> None:
    (found,) = deviations({"y": np.float32([due, due])}, {"y": np.float32([got, got])})
    assert found.cosine == pytest.approx(cosine)


def test_the_worst_is_the_worst_in_each_respect() -> None:
    first, second = Deviation("y", 1.0, 0.1, 0.9), Deviation("y", 0.5, 0.2, 0.8)
    assert worst_of([first, second, Deviation("i", unequal=0.5), Deviation("i", unequal=0.25)]) == (
        Deviation("y", 1.0, 0.2, 0.8),
        Deviation("i", unequal=0.5),
    )
    assert passes_text({"damf": 6, "other": 1}) == "damf (6 applications), other (1 application)"


@pytest.mark.parametrize(
    ("got", "kind"),
    [
        (np.float32([1, np.nan]), "nan"),
        (np.float32([1, np.inf]), "infinity"),
        (np.float64([1, 2]), "dtype"),
        (np.float32([[1, 2]]), "shape"),
        (None, "missing"),
    ],
)
def test_what_no_pass_may_do(got: np.ndarray | None, kind: str) -> None:
    expected = {"y": np.float32([1, 2]), "i": np.array([1])}
    actual = {"i": np.array([2])} | ({} if got is None else {"y": got})
    assert [(each.output, each.kind) for each in broken(expected, actual)] == [("y", kind)]
    assert [each.output for each in deviations(expected, actual)] == ["i"]


def test_what_was_not_finite_before_may_be_anything() -> None:
    assert not broken({"y": np.float32([np.nan, -np.inf, 1])}, {"y": np.float32([0, np.nan, 2])})
