"""The verb build-engine: its spellings, its dry run, what it prints, its exit codes."""

import json
import os
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from graphwright.cli import main
from graphwright.errors import MissingDependencyError
from graphwright.frontends.onnx import save_onnx
from graphwright.runtime.tensorrt import library
from graphwright.runtime.tensorrt.sidecar import Sidecar
from tests.build_engine.cases import HARS, MODEL, PROFILE
from tests.runtime.tensorrt.double import RecordedTensorRT

GOLDEN = Path(__file__).with_name("dry_run.json")


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert main(["build-engine", *arguments]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


TRTEXEC = (
    *("--onnx=model.onnx", "--saveEngine=model.plan", "--memPoolSize=workspace:1024", "--builderOptimizationLevel=4"),
    *("--profile=0", "--minShapes=x:1x1x8,mask:1x1", "--optShapes=x:2x16x8,mask:2x16"),
    *("--maxShapes=x:8x64x8,mask:8x64", "--profile=1", "--minShapes=x:8x1x8,mask:8x1"),
    *("--optShapes=x:16x8x8,mask:16x8", "--maxShapes=x:32x8x8,mask:32x8", "--versionCompatible"),
    *("--hardwareCompatibilityLevel=ampere+", "--stripWeights", "--timingCacheFile=timing.bin", "--noTF32"),
    *("--maxAuxStreams=0", "--skipInference", "--dryRun"),
)
OURS = (
    *("model.onnx", "-o", "model.plan", "--workspace", "1G", "--builder-optimization-level", "4"),
    *("--profile", PROFILE, "--profile", "batch=8:16:32,seq=1:8:8", "--version-compatible"),
    *("--hardware-compatibility-level", "ampere+", "--strip-weights", "--timing-cache-file", "timing.bin"),
    *("--no-tf32", "--max-aux-streams", "0", "--dry-run"),
)


def test_both_spellings_decide_the_same(trt: RecordedTensorRT, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, _ = run(capsys, *TRTEXEC, "--json")
    ours, _ = run(capsys, *OURS, "--json")
    assert json.loads(theirs) == json.loads(ours)
    assert trt.calls == []


def test_what_a_dry_run_prints_is_complete_and_stable(
    trt: RecordedTensorRT,
    quick: list[tuple[str, str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The golden file; ``GRAPHWRIGHT_GOLDEN=write`` writes it anew, which a change of the key's parts needs."""
    save_onnx(ir.from_onnx_text(HARS), "hars.onnx")
    given = ("hars.onnx", "-o", "hars.plan", "--profile", "batch=1:2:8;batch=8:16:32", "--json", "--dry-run")
    found = {"there": run(capsys, *given, "--cache-dir", "engines", "--workspace", "2G", "--refit")[0]}
    monkeypatch.setattr(library, "tensorrt_library", raiser("TensorRT", "no package tensorrt"))
    monkeypatch.setattr(library, "device", raiser("GPU", "no CUDA driver"))
    found["missing"] = run(capsys, *given, "--no-cache")[0]
    text = json.dumps({name: json.loads(each) for name, each in found.items()}, indent=1) + "\n"
    if os.environ.get("GRAPHWRIGHT_GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def raiser(where: str, found: str) -> Any:
    def absent(*_: object) -> None:
        raise MissingDependencyError(where, found, needed="it")

    return absent


def test_a_dry_run_decides_what_the_build_then_calls(trt: RecordedTensorRT, capsys: pytest.CaptureFixture[str]) -> None:
    decided = json.loads(run(capsys, *OURS, "--json")[0])
    run(capsys, *(each for each in OURS if each != "--dry-run"))
    assert [call[1] for call in trt.calls if call[0] == "set_flag"] == decided["builder_flags"]
    shapes = [
        ("set_shape", name, *(tuple(corners[which]) for which in ("min", "opt", "max")))
        for profile in decided["profiles"]
        for name, corners in profile.items()
    ]
    assert [call for call in trt.calls if call[0] == "set_shape"] == shapes and len(shapes) == 4
    assert Sidecar.read("model.plan").key == decided["key"]
    assert Path("timing.bin").is_file()


def test_the_verb_prints_the_result_on_stdout_and_progress_on_stderr(
    trt: RecordedTensorRT, capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = run(capsys, "model.onnx", "-o", "model.plan", "--profile", PROFILE)
    assert out == "model.plan: built, TensorRT 11.4.0.106, NVIDIA H200, 1 profiles\n"
    assert "build-engine: Building Engine (1 of 2)" in err
    out, err = run(capsys, "model.onnx", "-o", "model.plan", "--profile", PROFILE, "--json", "--quiet")
    assert json.loads(out)["was_cached"] is True and err == ""


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("model.onnx", "--profile", "batch=1,seq=1"), 4, "needed tensorrt"),
        (("model.onnx", "--dry-run"), 2, "no profile for batch, seq"),
        (("model.onnx", "--fp16"), 2, "--precision fp16"),
        (("--dry-run",), 2, "MODEL and --onnx: found neither"),
        (("model.onnx", "--onnx", "model.onnx"), 2, "found both"),
        (("model.onnx", "--minShapes=x:1x1x8", "--maxShapes=x:1x1x8"), 2, "each of the three once"),
        (("model.onnx", "--minShapes=x", "--optShapes=x", "--maxShapes=x"), 2, "needed name:1x8"),
        (("model.onnx", "--profile=1", "--optShapes=x:1x1x8,mask:1x1"), 2, "1 for 1 profiles; needed 0"),
        (("model.onnx", "--profile", PROFILE, "--optShapes=x:1x1x8"), 2, "one of the spellings"),
        (("model.onnx", "--refit", "--refit-identical", "--dry-run"), 2, "one of the two"),
        (("model.onnx", "--workspace=1", "--memPoolSize=workspace:1"), 2, "one of the two"),
        (("model.onnx", "--memPoolSize=dlaSRAM:1"), 2, "workspace:SIZE"),
        (("no.onnx", "--profile", PROFILE), 3, "no such file"),
    ],
)
def test_errors_have_their_exit_codes_and_say_what_was_wrong(
    no_library: None, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, text: str
) -> None:
    out, err = run(capsys, *arguments, code=code)
    assert out == "" and text in err and err.startswith("error: ") and err.count("\n") == 1


def test_a_dry_run_of_what_cannot_be_built_prints_it_and_fails(
    no_library: None, capsys: pytest.CaptureFixture[str]
) -> None:
    text = MODEL.replace("Relu(sum)", "Clip(sum)").replace("[same] kept = Identity(mask)", "kept = BitwiseNot(mask)")
    save_onnx(ir.from_onnx_text(text), "bad.onnx")
    out, err = run(capsys, "bad.onnx", "--profile", PROFILE, "--dry-run", "--json", code=5)
    assert [one["operator"] for one in json.loads(out)["unsupported"]] == ["BitwiseNot"]
    assert "BitwiseNot" in err
    assert run(capsys, "model.onnx", "--profile", PROFILE, "--dry-run")[0].count("missing") == 2
