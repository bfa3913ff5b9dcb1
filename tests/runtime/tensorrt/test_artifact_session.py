"""An artifact of target tensorrt runs the engine that is built for it, or says what is missing."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.artifact import Artifact, load
from graphwright.errors import MissingDependencyError, ProfileError
from graphwright.runtime.tensorrt.session import TensorRTSession
from tests.runtime.tensorrt.context_double import Network
from tests.runtime.tensorrt.runtime_double import TensorRTDouble

TEXT = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) {y = Neg(x)}'


def artifact_of(profile: str | None = "n=1:4:8") -> Artifact:
    made = gw.optimize(ir.from_onnx_text(TEXT), profile=profile, target="onnx", progress=False)
    return Artifact(made.model, made.report, made.profile, {**made.manifest, "target": "tensorrt"})


@pytest.fixture
def built(trt: TensorRTDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was asked to be built; the answer is a plan of the double."""
    network = Network(
        inputs={"x": ("FLOAT", (-1,))},
        outputs={"y": ("FLOAT", (-1,))},
        profiles=[{"x": ((1,), (4,), (8,))}],
        compute=lambda given: {"y": -given["x"]},
        shapes=lambda shapes, _: {"y": shapes["x"]},
    )
    path = tmp_path / "cached.plan"
    path.write_bytes(trt.plan(network))
    asked: list[Any] = []

    def build_engine(model: Any, **options: Any) -> Any:
        asked.append(model)
        return SimpleNamespace(path=path)

    monkeypatch.setattr(import_module("graphwright.build_engine"), "build_engine", build_engine)
    return asked


def test_calling_it_builds_once_and_runs_the_plan(built: list[Any]) -> None:
    artifact = artifact_of()
    for size in (3, 8):
        x = np.arange(size, dtype=np.float32)
        np.testing.assert_array_equal(artifact(x=x)["y"], -x)
    assert built == [artifact]
    assert isinstance(artifact.session(), TensorRTSession)


def test_one_that_was_loaded_runs_too_and_saving_it_builds_nothing(built: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    artifact_of().save(folder)
    artifact = load(folder)
    artifact.save(folder)
    assert built == []
    np.testing.assert_array_equal(artifact(x=np.ones(2, np.float32))["y"], [-1, -1])


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed; would check what it says without")
def test_without_the_library_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="no package tensorrt"):
        artifact_of()(x=np.ones(2, np.float32))


def test_without_a_profile_no_engine_can_be_built() -> None:
    with pytest.raises(ProfileError, match="needed min, opt and max of every dynamic dimension"):
        artifact_of(None).session()
