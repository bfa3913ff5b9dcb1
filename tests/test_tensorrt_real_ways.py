"""TensorRT itself by the other ways: whole models through its parser, artifacts, torch modules, ONNX Runtime.

As in test_tensorrt_real.py, nothing here has run where graphwright is developed.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright import engine_request
from graphwright.errors import BuildError
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.runtime import ort
from graphwright.runtime.tensorrt.session import TensorRTSession
from graphwright.runtime.tensorrt.sidecar import sidecar_path
from tests.test_tensorrt_real import POINTS, PROFILE, WIDTH, block, request_of, same, skip_without_library

pytestmark = pytest.mark.tensorrt
# Those of test_tensorrt_families.py, which needs torch to be imported.
FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "gpt2", "llama", "qwen3", "gemma2", "t5",
            "bart", "vit", "clip", "swin", "mixtral")  # fmt: skip
# An operator and its inputs that the table takes, at the edge of what it takes.
EDGES = {
    "the largest k": (
        "float[4000] x",
        "float[3839] y, int64[3839] i",
        "k = Constant <value_ints = [3839]> () y, i = TopK (x, k)",
    ),
    "a sum along an axis": ("float[2, 9] x", "float[2, 9] y", "a = Constant <value_int = 1> () y = CumSum (x, a)"),
    "opset 24": ("float[2, 9] x", "float[2, 9] y", "y = Swish (x)"),
}


@pytest.fixture(autouse=True)
def _library(request: pytest.FixtureRequest) -> None:
    skip_without_library(request)


def plan_of(model: object, path: Path, profile: str | None = PROFILE, **flags: Any) -> Path:
    options = {"builder_optimization_level": 1, "tf32": False, "cache": False, "progress": False} | flags
    return gw.build_engine(model, path, profile=profile, **options).path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_parsed_built_and_right(family: str, tmp_path: Path) -> None:
    """What the table calls supported the parser takes: each family builds, and gives its source model's numbers."""
    pytest.importorskip("transformers", reason="needs torch and transformers")
    from tests import test_tensorrt_families as families

    assert set(FAMILIES) == set(families.FAMILIES)
    model = families.built(family)
    inputs = families.inputs_of(model)
    artifact = gw.optimize(model, inputs, target="tensorrt", verify="off", progress=False)
    shapes = ",".join(f"{name}={'x'.join(map(str, array.shape))}" for name, array in inputs.items())
    session = TensorRTSession(plan_of(artifact, tmp_path / "model.plan", shapes))
    same(session(inputs), ort.OrtSession(artifact.model, kernels=False)(inputs))


@pytest.mark.parametrize("edge", EDGES)
def test_the_table_is_right_at_its_edges(edge: str, tmp_path: Path) -> None:
    """Nodes that the table takes only just are parsed and built."""
    inputs, outputs, nodes = EDGES[edge]
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 24]> g ({inputs}) => ({outputs}) {{ {nodes} }}')
    assert unsupported(model) == []
    assert plan_of(model, tmp_path / "edge.plan", None).stat().st_size > 0


def test_the_parsers_own_error_names_our_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the table out of the way, the parser refuses Unique, and its error is told with our node's name."""
    monkeypatch.setattr(engine_request, "_unsupported", lambda *_, **__: ())
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (int64[m] y) { [odd] v, y = Unique (x) }'
    with pytest.raises(BuildError, match="odd"):
        plan_of(ir.from_onnx_text(text), tmp_path / "odd.plan", "n=1:2:4")


def test_an_artifact_builds_and_runs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An artifact of target tensorrt builds its engine at its first call, keeps it, and is the same after loading."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    artifact = gw.optimize(block(), profile=PROFILE, target="tensorrt", progress=False)
    artifact.save(tmp_path / "saved")
    loaded = gw.load(tmp_path / "saved")
    for batch, seq in POINTS:
        given = request_of(batch, seq)
        expected = ort.OrtSession(block())(given)
        # TF32 is on here, as it is for whoever builds without asking.
        for each in (artifact, loaded):
            np.testing.assert_allclose(each(**given)["y"], expected["y"], atol=2e-2)
    assert len(list((tmp_path / "cache").rglob("*.plan"))) == 1


def test_the_command_line(tmp_path: Path) -> None:
    """build-engine writes a plan and a sidecar, says so as JSON, and finds them again the second time."""
    ir.save(block(), tmp_path / "block.onnx")
    command = [sys.executable, "-m", "graphwright", "build-engine", str(tmp_path / "block.onnx"), "--json", "--quiet"]
    command += ["-o", str(tmp_path / "block.plan"), f"--minShapes=x:1x1x{WIDTH}", f"--optShapes=x:4x16x{WIDTH}"]
    command += [f"--maxShapes=x:16x64x{WIDTH}", "--cache-dir", str(tmp_path / "cache")]
    first, second = (subprocess.run(command, capture_output=True, text=True) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert json.loads(first.stdout) != json.loads(second.stdout), "the second was cached"
    assert sidecar_path(tmp_path / "block.plan").is_file()
    same(TensorRTSession(tmp_path / "block.plan")(request_of(1, 1)), ort.OrtSession(block())(request_of(1, 1)))


@pytest.mark.parametrize("runtime", ["auto", "graphwright", "torch-tensorrt"])
def test_a_plan_as_a_torch_module(runtime: Any, tmp_path: Path) -> None:
    """as_torch_module runs a plan by torch-tensorrt where its TensorRT is the plan's, and by our own module."""
    torch = pytest.importorskip("torch", reason="needs torch")
    from graphwright.runtime.tensorrt.torch_module import as_torch_module

    if runtime == "torch-tensorrt":
        pytest.importorskip("torch_tensorrt", reason="needs torch-tensorrt for the TensorRT that is installed")
    module, given = as_torch_module(plan_of(block(), tmp_path / "block.plan"), runtime=runtime), request_of(4, 16)
    found = module(torch.from_numpy(given["x"]).cuda())
    same({"y": found.cpu().numpy()}, ort.OrtSession(block())(given))


def test_onnx_runtime_with_its_tensorrt(tmp_path: Path) -> None:
    """ONNX Runtime's TensorRT provider takes the profile, keeps its engines, and takes no graph for another."""
    onnxruntime = pytest.importorskip("onnxruntime")
    from graphwright.runtime.profile import Profile
    from graphwright.runtime.tensorrt.ort_provider import OrtTensorRT

    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu with TensorRT 10; would have checked: profile, engine cache, graph names")
    for seed in (0, 1):
        model = block(seed)
        options = OrtTensorRT(cache=tmp_path / "cache", builder_optimization_level=1)
        session = ort.OrtSession(model, Profile.parse(PROFILE).bind(model), target="ort-cuda", tensorrt=options)
        given = request_of(4, 16)
        np.testing.assert_allclose(session(given)["y"], ort.OrtSession(model)(given)["y"], atol=2e-2)
    assert len(list((tmp_path / "cache").rglob("*.engine"))) == 2
