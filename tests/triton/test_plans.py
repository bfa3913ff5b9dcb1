"""TensorRT plans become model repositories. No TensorRT made these plans, and nothing here runs one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.runtime.signature import Port
from graphwright.runtime.tensorrt.library import Device
from graphwright.runtime.tensorrt.settings import EngineSettings
from graphwright.runtime.tensorrt.sidecar import Plugin, Sidecar, sidecar_path
from tests.triton.server_double import read_config, refusals

H200 = Device("NVIDIA H200", "9.0", "13.0")


def plan(folder: Path, *, content: bytes = b"plan", **changes: Any) -> Path:
    """A plan that no TensorRT made, beside the sidecar that build-engine would write."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "bert.plan"
    path.write_bytes(content)
    corners = {"min": (1, 1), "opt": (4, 16), "max": (8, 32)}
    second = {"min": (1, 1), "opt": (1, 64), "max": (2, 128)}
    fields = {
        "profiles": ({"ids": corners}, {"ids": second}),
        "inputs": (Port("ids", ir.DataType.INT64, ("batch", "seq")),),
        "outputs": (Port("hidden", ir.DataType.FLOAT16, ("batch", "seq", 32)),),
        "plugins": (),
        **changes,
    }
    made = Sidecar("k", "a", hashlib.sha256(b"plan").hexdigest(), "0.1.0", "11.4.0", H200, **fields)
    sidecar_path(path).write_text(json.dumps(made.to_json()))
    return path


def test_a_plan_is_served_with_its_profiles(tmp_path: Path) -> None:
    plugin = Plugin("hars::softmax_topk", "1", "c" * 64)
    flags = EngineSettings(version_compatible=True, plugins=("a.so",), hars="library").to_json()
    source = plan(tmp_path / "built", plugins=(plugin,), flags=flags)
    made = gw.export_triton(source, tmp_path / "models", gw.Serving(instances=2, cuda_graphs=True))
    assert made.files == ("1/model.plan", "1/model.plan.json", "config.pbtxt")
    config = read_config(made.config)
    assert refusals(config) == []
    assert (config.name, config.backend, config.default_model_filename) == ("bert", "tensorrt", "model.plan")
    assert (made.max_batch, [list(one.dims) for one in config.input]) == (2, [[-1]])
    assert list(config.instance_group[0].profile) == ["0", "1"]
    assert [(one.batch_size, list(one.input["ids"].dim)) for one in config.optimization.cuda.graph_spec] == [
        (2, [16]),
        (1, [64]),
    ]
    notes = "\n".join(made.notes)
    for text in (
        "TensorRT 11.4.0",
        "H200",
        "hars::softmax_topk 1",
        "plugins=/path/to/a.so",
        "version-compatible=true",
        "needs the GPU",
    ):
        assert text in notes
    assert Sidecar.read(tmp_path / "models" / "bert" / "1" / "model.plan").device == H200


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, "the server needs TensorRT 11.4.0, and NVIDIA H200 (compute capability 9.0)"),
        ({"hardware_compatibility": "ampere+"}, "any GPU from Ampere on"),
        ({"hardware_compatibility": "same-compute-capability"}, "any GPU of compute capability 9.0"),
        ({"weight_streaming": True}, "no budget for weight streaming"),
    ],
)
def test_what_the_server_needs_for_a_plan_is_said(tmp_path: Path, options: dict[str, Any], found: str) -> None:
    made = gw.export_triton(plan(tmp_path, flags=EngineSettings(**options).to_json()), tmp_path / "models")
    assert found in "\n".join(made.notes)
    assert found in made.config
    assert "backend-config" not in made.config


def test_a_plan_without_weights_is_refused(tmp_path: Path) -> None:
    source = plan(tmp_path, flags=EngineSettings(strip_weights=True).to_json())
    with pytest.raises(gw.UsageError, match="stripped"):
        gw.export_triton(source, tmp_path / "models")


def test_one_profile_of_a_plan_has_its_own_batch(tmp_path: Path) -> None:
    made = gw.export_triton(plan(tmp_path), tmp_path / "models", gw.Serving(profiles=(0,)))
    config = read_config(made.config)
    assert (made.max_batch, list(config.instance_group[0].profile)) == (8, ["0"])
    assert not any("plugins" in note for note in made.notes)


def test_a_plan_that_is_not_the_one_that_was_built_is_refused(tmp_path: Path) -> None:
    with pytest.raises(gw.LoadError, match="sha256"):
        gw.export_triton(plan(tmp_path, content=b"other"), tmp_path / "models")
    source = plan(tmp_path)
    sidecar_path(source).unlink()
    with pytest.raises(gw.LoadError, match="no sidecar"):
        gw.export_triton(source, tmp_path / "models")
    with pytest.raises(gw.UsageError, match="threads"):
        gw.export_triton(plan(tmp_path), tmp_path / "models", gw.Serving(threads=2))
    with pytest.raises(gw.UsageError, match="tensorrt runs on"):
        gw.export_triton(plan(tmp_path), tmp_path / "models", gw.Serving(device="cpu"))
    assert not (tmp_path / "models").exists()
