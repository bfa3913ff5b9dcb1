"""Optimizing with passes that change the numbers by design: what is reported, and what is caught all the same."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.cli import main
from graphwright.compilation import run as compilation_run
from graphwright.compilation.settings import Settings
from graphwright.frontends.onnx import save_onnx
from graphwright.optimize import compile_model
from graphwright.report import Report, Verification
from graphwright.testing import model
from tests.by_design_passes import CLIP, CLIP_ONE, FLIP, FLIP_NEARLY, MODEL, NAN, NEG, NEG_WRONG

CORPUS = Path(__file__).parent / "corpus"
LEVELS = ("final", "region", "each")


def quiet(given: object, **options: object) -> gw.Artifact:
    return gw.optimize(given, **{"progress": False, **options})


def checked(given: object, **options: object) -> Verification:
    found = quiet(given, **options).report.verification
    assert found is not None
    return found


def bert() -> ir.Model:
    return model((CORPUS / "bert_dynamo_24.onnxtxt").read_text())


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=["in memory", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "large":
        monkeypatch.setattr(compilation_run, "LARGEST_IN_MEMORY", 0)
    return str(request.param)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("verify", LEVELS)
def test_the_difference_is_measured_and_reported(verify: str) -> None:
    found = checked(model(MODEL), passes=[FLIP, CLIP, NEG], verify=verify)
    assert found.by_design == {"clip-tanh": 2}
    (output,) = found.deviations
    assert output.output == "y"
    assert 0.2 < output.absolute < 0.4, "1 is clipped to 1, tanh(tanh(1)) is 0.64"
    assert output.absolute == found.worst
    assert output.cosine is not None and 0.9 < output.cosine < 1
    assert found.kept_absolute < 1e-6
    assert not found.unverified


def test_nothing_of_it_is_said_where_no_pass_changes_numbers() -> None:
    found = checked(model(MODEL), passes=[FLIP, NEG])
    assert (found.by_design, found.deviations) == ({}, ())
    assert found.worst is not None and found.worst < 1e-6
    assert "by design" not in quiet(model(MODEL), passes=[FLIP, NEG]).report.table()


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("verify", LEVELS)
@pytest.mark.parametrize(
    ("passes", "reference"),
    [
        ([FLIP_NEARLY, CLIP, NEG], "the source model"),
        ([FLIP, CLIP, NEG_WRONG], "the model behind clip-tanh"),
        ([CLIP_ONE, FLIP_NEARLY, CLIP, NEG], "the model behind clip-behind-neg"),
    ],
)
def test_a_wrong_pass_around_it_is_caught(verify: str, passes: list[gw.Rule], reference: str) -> None:
    wrong = next(each.name for each in passes if each in (FLIP_NEARLY, NEG_WRONG))
    with pytest.raises(gw.VerificationError) as caught:
        quiet(model(MODEL), passes=passes, verify=verify)
    assert (reference if verify == "final" else wrong) in str(caught.value)


@pytest.mark.parametrize(("passes", "ops"), [([CLIP, NEG_WRONG], "Clip"), ([FLIP_NEARLY, CLIP], "Tanh")])
def test_the_case_that_is_left_is_that_of_the_wrong_passes_alone(passes: list[gw.Rule], ops: str) -> None:
    with pytest.raises(gw.VerificationError):
        quiet(model(MODEL), passes=passes)
    for name in ("before", "after"):
        types = [node.op_type for node in ir.load(f"graphwright-failure/final/{name}.onnx").graph]
        assert types.count(ops) == 2


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("verify", LEVELS)
def test_numbers_that_are_lost_are_an_error(verify: str) -> None:
    with pytest.raises(gw.VerificationError, match="nan where") as caught:
        quiet(model(MODEL), passes=[FLIP, NAN], verify=verify)
    assert "nan-tanh" in str(caught.value)


def test_a_run_that_is_not_verified_says_it_too() -> None:
    report = quiet(model(MODEL), passes=[CLIP], verify="off").report
    # A narrow terminal folds the sentence.
    assert "Changes numbers by design: clip-tanh (2 applications)." in " ".join(report.table().split())


def test_a_source_of_another_kind_is_compared_up_to_the_pass() -> None:
    torch = pytest.importorskip("torch")

    class Squashed(torch.nn.Module):  # type: ignore[name-defined,misc]
        def forward(self, x):
            return torch.tanh(torch.abs(x)) * 2

    examples = {"x": torch.linspace(-2, 2, 8)}
    found = gw.optimize(Squashed(), examples, passes=[CLIP], progress=False).report.verification
    assert found is not None
    assert (found.reference, found.by_design) == ("PyTorch", {"clip-tanh": 1})
    assert found.worst is not None and found.worst > 0.4
    with pytest.raises(gw.VerificationError, match="those of PyTorch"):
        gw.optimize(Squashed(), examples, passes=[FLIP_NEARLY, CLIP], progress=False)


def test_bisect_says_what_is_by_design() -> None:
    found = gw.bisect(model(MODEL), passes=[FLIP, CLIP, NEG])
    assert found.application is None
    assert "but for clip-tanh (2 applications) by design" in str(found)
    guilty = gw.bisect(model(MODEL), passes=[FLIP, CLIP, NEG_WRONG]).application
    assert guilty is not None and guilty.pass_name == NEG_WRONG.name


@pytest.mark.parametrize("verify", LEVELS)
@pytest.mark.parametrize("options", ["rank=1,softmax=maclaurin", "rank=2,softmax=shift", "rank=1,softmax=exact"])
def test_damf_is_reported(verify: str, options: str) -> None:
    artifact = quiet(bert(), passes=f"default,damf({options})", verify=verify)
    found = artifact.report.verification
    assert found is not None
    assert found.by_design == {"damf": 1}
    assert found.worst is not None and found.worst > 0.01
    assert found.deviations[0].cosine is not None and found.deviations[0].cosine < 0.9999
    assert found.kept_relative < 1e-4
    assert not found.unverified
    if "exact" not in options:
        assert "Attention" not in artifact.report.after.operators


@pytest.mark.parametrize("verify", LEVELS)
@pytest.mark.parametrize("name", ["bert_dynamo_24", "gpt2_dynamo_18"])
def test_damf_at_full_rank_is_compared_like_any_other(name: str, verify: str) -> None:
    given = model((CORPUS / f"{name}.onnxtxt").read_text())
    artifact = quiet(given, passes="default,damf(rank=4,softmax=exact)", verify=verify)
    found = artifact.report.verification
    assert next(row.applied for row in artifact.report.passes if row.name == "damf") == 1
    assert found is not None
    assert (found.by_design, found.deviations, found.unverified) == ({}, (), ())
    assert found.worst is not None and found.worst < 2e-5


def test_damf_at_full_rank_is_caught_where_it_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphwright.passes.transform import damf_layers

    right = damf_layers.factorize

    def wrong(*parts: object, **options: object) -> list[np.ndarray]:
        return [1.01 * each for each in right(*parts, **options)]

    monkeypatch.setattr(damf_layers, "factorize", wrong)
    wheres = {"final": "found other numbers at", "region": r"application #\d+ damf", "each": "after pass damf"}
    for verify, where in wheres.items():
        with pytest.raises(gw.VerificationError, match=where):
            quiet(bert(), passes="default,damf(rank=4,softmax=exact)", verify=verify)


def test_the_report_comes_back_from_json_and_the_page_has_the_figures() -> None:
    report = quiet(bert(), passes="default,damf").report
    assert Report.from_json(json.loads(json.dumps(report.to_json(), allow_nan=False))) == report
    text = " ".join(report.table(width=120).split())
    assert (
        "Changes numbers by design: damf (1 application). Off from the source model at 5 shapes: hidden: up to " in text
    )
    assert "All other passes keep the numbers: worst difference" in text
    report.to_html("report.html")
    page = Path("report.html").read_text()
    assert "Changed by design" in page
    assert "By damf (1 application)" in page
    quiet(bert(), passes="default").report.to_html("plain.html")
    assert "by design" not in Path("plain.html").read_text()


def test_the_command_line_prints_it_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    save_onnx(bert(), "bert.onnx")
    assert main(["optimize", "bert.onnx", "-o", "out", "--passes", "default,damf(rank=2)"]) == 0
    assert "Changes numbers by design: damf (1 application)" in capsys.readouterr().out
    assert main(["optimize", "bert.onnx", "-o", "again", "--passes", "default,damf", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["report"]["verification"]
    assert found["by_design"] == {"damf": 1}
    assert found["deviations"][0].keys() == {"output", "absolute", "relative", "cosine", "unequal"}
    assert json.loads(Path("again/report.json").read_text())["verification"] == found
    assert main(["bisect", "bert.onnx", "--passes", "default,damf", "--profile", "batch=1:2:3,seq=1:4:11"]) == 0
    assert "but for damf (1 application) by design" in capsys.readouterr().out


def test_no_default_pipeline_changes_numbers_but_where_a_target_lacks_their_type() -> None:
    catalogue = gw.passes()
    changing = {target: catalogue.default(target).changing for target in catalogue.defaults}
    # TensorRT has no float64; a model without any is not changed.
    assert changing.pop("tensorrt") == {"narrow-doubles"}
    assert not any(changing.values())
    assert catalogue.parse("default,damf", "onnx").changing == {"damf"}


def test_half_of_the_applications_are_reported_as_half() -> None:
    settings = Settings(progress=False, passes=[CLIP], stop_after=1)
    found = compile_model(model(MODEL), None, settings).report.verification
    assert found is not None
    assert found.by_design == {"clip-tanh": 1}
