"""``tune=True`` and ``--tune``: end to end with real times, in the report, the manifest and the cache."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.cli import main
from graphwright.compilation.settings import Settings
from graphwright.engine.pipeline import FunctionPass
from graphwright.engine.sample import bind_dims, sample_inputs
from graphwright.errors import UsageError, VerificationError
from graphwright.frontends.onnx import save_onnx
from graphwright.optimize import compile_model
from graphwright.report import Report
from graphwright.report.tuning import CACHED, MEASURED, Tried, Tuning
from graphwright.runtime.reference import evaluate
from graphwright.tuning import decide
from graphwright.tuning.cache import VARIABLE
from tests.tuning.models import MadeUp, classifier, encoder

PROFILE = "B=1:2:4,S=2:5:8"


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "choices"))
    return tmp_path / "choices"


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUp:
    """Real sessions and times that are made up, so that the outcome is known."""
    measure = MadeUp("MultiHeadAttention")
    monkeypatch.setattr(decide, "interleaved", lambda calls, **options: measure(calls, options["seconds"]))
    return measure


def test_a_model_is_tuned_with_real_times_and_then_from_the_cache(own_folders: Path) -> None:
    """Whatever wins here, the numbers are checked and a second run measures nothing."""
    settings = Settings(profile="B=1:2:4", tune=True, tuning_seconds=0.01, progress=False, verify="region")
    first = compile_model(classifier(), None, settings)
    second = compile_model(classifier(), None, settings)
    assert first.report.tuning is not None and second.report.tuning is not None
    assert {each.origin for each in first.report.tuning.regions[:1]} == {MEASURED}
    assert {each.origin for each in second.report.tuning.regions[:1]} == {CACHED}
    assert all(taken > 0 for taken in first.report.tuning.regions[0].milliseconds.values())
    assert list(own_folders.iterdir())
    verification = first.report.verification
    assert verification is not None and verification.points
    inputs = sample_inputs(classifier(), bind_dims(classifier().graph.inputs, sizes={"B": 3}))
    found, due = first(**inputs), evaluate(classifier(), inputs)
    np.testing.assert_allclose(found["values"], due["values"], atol=1e-5)


def test_the_report_and_the_manifest_say_what_was_tried(made_up: MadeUp, tmp_path: Path) -> None:
    artifact = gw.optimize(encoder(), profile=PROFILE, tune=True, progress=False)
    tuning = artifact.report.tuning
    assert tuning is not None and tuning.kept and made_up.asked
    text = artifact.report.table(width=200)
    assert "MultiHeadAttention 1000.000" in text and "the whole model" in text and tuning.outcome.split(".")[0] in text
    assert Report.from_json(json.loads(json.dumps(artifact.report.to_json()))) == artifact.report
    artifact.report.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Tuning</h2>" in page and "MultiHeadAttention" in page and tuning.machine["processor"] in page
    artifact.save(tmp_path / "saved")
    noted = gw.load(tmp_path / "saved").manifest["tuning"]
    assert noted["kept"] and set(noted["chosen"].values()) == {"MultiHeadAttention"}
    assert gw.load(tmp_path / "saved").report.tuning == tuning


def test_a_report_without_tuning_says_nothing_of_it(tmp_path: Path) -> None:
    artifact = gw.optimize(encoder(), profile=PROFILE, progress=False)
    assert artifact.report.tuning is None and "tuning" not in artifact.manifest
    assert "Tuning" not in artifact.report.table(width=200)
    old = {name: value for name, value in artifact.report.to_json().items() if name != "tuning"}
    assert Report.from_json(old) == artifact.report


def test_the_choices_may_be_stopped_after_any_application(made_up: MadeUp) -> None:
    settings = Settings(profile=PROFILE, tune=True, progress=False)
    whole = compile_model(encoder(), None, settings).report
    some = compile_model(encoder(), None, Settings(profile=PROFILE, tune=True, progress=False, stop_after=3)).report
    assert whole.pipeline == some.pipeline
    assert sum(row.applied for row in some.passes) == 3 < sum(row.applied for row in whole.passes)


def test_progress_names_what_is_timed(made_up: MadeUp) -> None:
    told: list[str] = []
    gw.optimize(encoder(), profile=PROFILE, tune=True, progress=lambda what, done, total: told.append(what))
    assert "tune 1/3: attention" in told and "tune: the whole model" in told


def test_a_profile_without_bounds_is_refused() -> None:
    with pytest.raises(UsageError, match="no bounds for B, S") as caught:
        gw.optimize(encoder(), tune=True, progress=False)
    assert caught.value.hint == "--profile B=1:8:32,S=1:8:32"


def test_fixed_sizes_need_no_profile(made_up: MadeUp) -> None:
    given = encoder()
    for value in given.graph.inputs:
        value.shape = ir.Shape([2 if dim == "B" else 5 if dim == "S" else dim for dim in value.shape or ()])
    tuning = gw.optimize(given, tune=True, progress=False).report.tuning
    assert tuning is not None and tuning.regions[0].shapes == ("fixed",)


@pytest.mark.parametrize(
    ("option", "value"), [("tuning_seconds", 0.0), ("tuning_seconds", float("nan")), ("tune", "yes")]
)
def test_a_wrong_option_is_refused(option: str, value: object) -> None:
    with pytest.raises(UsageError, match="option tune"):
        Settings(**{option: value})  # type: ignore[arg-type]


def test_a_precision_that_changes_the_numbers_is_refused() -> None:
    with pytest.raises(UsageError, match="precision"):
        gw.optimize(encoder(), profile=PROFILE, tune=True, precision="fp16", progress=False)


def run(*arguments: str) -> int:
    save_onnx(encoder(), Path("model.onnx"))
    return main(["optimize", "model.onnx", "-o", "out", "--quiet", *arguments])


def test_the_command_line_tunes(made_up: MadeUp, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--profile", PROFILE, "--tune", "--tuning-cache", str(tmp_path / "mine"), "--json")
    assert run(*given) == 0
    data = json.loads(capsys.readouterr().out)["report"]["tuning"]
    assert data["kept"] and data["regions"][0]["chosen"] == "MultiHeadAttention"
    assert list((tmp_path / "mine").iterdir()) and not (tmp_path / "choices").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--tune",), 2, "no bounds for B, S"),
        (("--tune", "--target", "tensorrt", "--profile", PROFILE), 2, "TensorRT times its own kernels"),
        (("--tune", "--target", "openvino", "--profile", PROFILE), 2, "leave tune out"),
        (("--tune", "--tune-seconds", "-1", "--profile", PROFILE), 2, "more than 0"),
    ],
)
def test_what_cannot_be_tuned_is_said_in_a_line(
    arguments: tuple[str, ...], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == code
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and not Path("out").exists()


def test_a_target_that_is_not_here_ends_with_its_own_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphwright.runtime import ort_load

    monkeypatch.setattr(ort_load.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert run("--tune", "--target", "ort-cuda", "--profile", PROFILE) == 4
    assert "CUDAExecutionProvider" in capsys.readouterr().err


def test_a_region_that_was_not_timed_is_shown_too() -> None:
    tried = Tried("gelu", "n", 2, ("B=2",), {}, "BiasGelu", "BiasGelu", "not timed", "the time was over")
    assert "1 not timed" in Tuning(regions=(tried,)).outcome


def test_a_tuned_result_with_other_numbers_names_a_way_that_keeps_the_choices(made_up: MadeUp) -> None:
    def double_a_weight(model: ir.Model) -> bool:
        weight = model.graph.initializers["l0_b1"]
        weight.const_value = ir.tensor(weight.const_value.numpy() * 2 + 1, name=weight.name)  # type: ignore[union-attr]
        return True

    passes = ["default", FunctionPass("double-a-weight", double_a_weight)]
    with pytest.raises(VerificationError) as caught:
        gw.optimize(encoder(), profile=PROFILE, passes=passes, tune=True, progress=False)
    assert "--tune --stop-after N" in caught.value.hint
    with pytest.raises(VerificationError) as caught:
        gw.optimize(encoder(), profile=PROFILE, passes=passes, progress=False)
    assert "graphwright bisect" in caught.value.hint
