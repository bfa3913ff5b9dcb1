"""Artifacts: called, saved whole or not at all, loaded only when they are what was written."""

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright import folder as artifact_folder

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(3, 8)
DUAL = """<ir_version: 10, opset_import: ["": 24]>
dual (float[n] self, float[n] s) => (float[n] y) { y = Sub(self, s) }"""


def weighted(scale: float = 1.0) -> ir.Model:
    weight = ir.tensor(scale * np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32), name="w")
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 8]))
    w = ir.Value(name="w", type=ir.TensorType(ir.DataType.FLOAT), shape=weight.shape, const_value=weight)
    node = ir.node("MatMul", [x, w], name="product")
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, ir.Shape(["n", 64])
    graph = ir.Graph([x], [y], nodes=[node], initializers=[w], opset_imports={"": 24}, name="weighted")
    return ir.Model(graph, ir_version=10)


def make(scale: float = 1.0, profile: str | None = "n=1:4:8") -> gw.Artifact:
    return gw.optimize(weighted(scale), profile=profile, progress=False)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    make().save(tmp_path / "saved")
    return tmp_path / "saved"


def product(scale: float = 1.0) -> np.ndarray:
    (weight,) = (value.const_value for value in weighted(scale).graph.initializers.values())
    assert weight is not None
    return X @ weight.numpy()


def test_inputs_may_have_any_name() -> None:
    artifact = gw.optimize(ir.from_onnx_text(DUAL), progress=False)
    three, one = np.full(2, 3, np.float32), np.ones(2, np.float32)
    assert artifact(self=three, s=one)["y"].tolist() == [2, 2]
    assert artifact({"self": three}, s=one)["y"].tolist() == [2, 2]


def test_torch_tensors_in_give_torch_tensors_out() -> None:
    torch = pytest.importorskip("torch")
    output = make()(x=torch.from_numpy(X))["y"]
    assert isinstance(output, torch.Tensor)
    np.testing.assert_allclose(output.numpy(), product(), rtol=1e-5, atol=1e-5)


def test_several_threads_may_make_the_first_call_at_once(saved: Path) -> None:
    artifact = gw.load(saved)
    barrier = threading.Barrier(8)

    def call(index: int) -> bool:
        barrier.wait()
        given = [np.float32(index + turn) * X[: 1 + turn % 3] for turn in range(20)]
        wanted = [(index + turn) * product()[: 1 + turn % 3] for turn in range(20)]
        found = [artifact(x=each)["y"] for each in given]
        return all(np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(found, wanted, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(call, range(8)))


def test_what_was_saved_comes_back(saved: Path) -> None:
    assert {path.name for path in saved.iterdir()} == {
        "manifest.json",
        "model.onnx",
        "model.onnx.data",
        "report.json",
    }
    first, second = make(), gw.load(saved)
    np.testing.assert_allclose(second(x=X)["y"], product(), rtol=1e-5, atol=1e-5)
    assert second.profile == first.profile
    assert second.report.after == first.report.after
    assert second.target == "ort-cpu"


def test_the_manifest_tells_what_the_artifact_was_made_from(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["source"]["name"] == "weighted"
    assert len(manifest["source"]["sha256"]) == 64
    assert set(manifest["files"]) == {"model.onnx", "model.onnx.data"}
    assert {"graphwright", "onnx", "onnxruntime", "python"} <= set(manifest["versions"])
    assert manifest["saved"].endswith("+00:00")
    assert manifest["pipeline"]
    assert manifest["verification"]["points"]
    assert manifest["profile"]["profiles"] == [{"n": [1, 4, 8]}]


def test_a_loaded_artifact_keeps_its_profile(saved: Path) -> None:
    with pytest.raises(gw.RequestError, match="outside every profile"):
        gw.load(saved)(x=np.zeros((9, 8), np.float32))


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_a_file_that_was_changed_is_refused(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[-1] ^= 1
    (saved / name).write_bytes(content)
    with pytest.raises(gw.LoadError, match="sha256"):
        gw.load(saved)


def test_weights_that_the_manifest_does_not_know_are_refused(saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest["files"]["model.onnx.data"]
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(gw.LoadError, match="sha256"):
        gw.load(saved)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1}',
        '{"format": 1, "files": 3, "profile": {}, "target": ""}',
    ],
)
def test_a_manifest_of_another_form_is_refused(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_text(text)
    with pytest.raises(gw.LoadError):
        gw.load(saved)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"verification": 3}'])
def test_a_report_of_another_form_is_refused(saved: Path, text: str) -> None:
    (saved / "report.json").write_text(text)
    with pytest.raises(gw.LoadError):
        gw.load(saved)


@pytest.mark.parametrize("profile", [5, {"inputs": []}, {"inputs": [{}], "profiles": []}])
def test_a_profile_of_another_form_is_refused(saved: Path, profile: object) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**manifest, "profile": profile}))
    with pytest.raises(gw.LoadError, match="needed a profile"):
        gw.load(saved)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "model.onnx.data", "report.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(gw.LoadError, match=name):
        gw.load(saved)


def test_a_saved_artifact_is_replaced_as_a_whole(saved: Path) -> None:
    make(scale=2.0).save(saved)
    np.testing.assert_allclose(gw.load(saved)(x=X)["y"], product(2.0), rtol=1e-5, atol=1e-5)
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_an_artifact_is_not_replaced_against_the_callers_word(saved: Path) -> None:
    with pytest.raises(gw.UsageError, match="an artifact"):
        make().save(saved, overwrite=False)


def test_an_artifact_may_be_saved_over_itself(saved: Path) -> None:
    artifact = gw.load(saved)
    artifact.save(saved)
    np.testing.assert_allclose(artifact(x=X)["y"], product(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gw.load(saved)(x=X)["y"], product(), rtol=1e-5, atol=1e-5)


def test_an_artifact_outlives_the_folder_that_another_replaces(saved: Path) -> None:
    artifact = gw.load(saved)
    before = artifact(x=X)["y"].copy()
    make(scale=3.0).save(saved)
    np.testing.assert_array_equal(artifact(x=X)["y"], before)


def test_weights_stay_right_when_saving_moves_them_within_their_file(saved: Path) -> None:
    artifact = gw.load(saved)
    initializers = artifact.model.graph.initializers
    (name,) = initializers
    weight = initializers.pop(name)
    extra = ir.tensor(np.zeros(4096, np.float32), name="extra")
    for value in (ir.Value(name="extra", type=ir.TensorType(ir.DataType.FLOAT), const_value=extra), weight):
        value.shape = ir.Shape(value.const_value.shape.numpy())
        initializers[value.name] = value
    artifact.save(saved)
    np.testing.assert_allclose(X @ weight.const_value.numpy(), product(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gw.load(saved)(x=X)["y"], product(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stranger", ["notes.txt", "sub/notes.txt"])
def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, saved: Path, stranger: str) -> None:
    for target in (tmp_path / "mine", saved):
        path = target / stranger
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        with pytest.raises(gw.UsageError, match=stranger.split("/")[0]):
            make().save(target)
        assert path.read_text() == "mine"


def test_an_empty_folder_is_filled_and_missing_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make().save(tmp_path / "empty")
    make().save(tmp_path / "a" / "b" / "c")
    assert gw.load(tmp_path / "a" / "b" / "c").target == gw.load(tmp_path / "empty").target


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path, saved: Path) -> None:
    (tmp_path / "link").symlink_to(saved)
    make(scale=2.0).save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    np.testing.assert_allclose(gw.load(saved)(x=X)["y"], product(2.0), rtol=1e-5, atol=1e-5)


def test_a_save_that_fails_at_the_last_step_leaves_what_was_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def fail_on_the_new_one(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(artifact_folder.os, "rename", fail_on_the_new_one)
    with pytest.raises(gw.OutputError, match="No space left"):
        make(scale=2.0).save(saved)
    monkeypatch.undo()
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]
    np.testing.assert_allclose(gw.load(saved)(x=X)["y"], product(), rtol=1e-5, atol=1e-5)


def test_tokenizer_files_are_taken_along(tmp_path: Path, saved: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        (saved / name).write_text(f'"{name}"')
    gw.load(saved).save(tmp_path / "copy")
    assert (tmp_path / "copy" / "tokenizer.json").read_text() == '"tokenizer.json"'
    gw.optimize(saved, progress=False).save(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_text() == '"config.json"'


def test_an_artifact_may_be_moved(tmp_path: Path, saved: Path) -> None:
    shutil.move(saved, tmp_path / "moved")
    np.testing.assert_allclose(gw.load(tmp_path / "moved")(x=X)["y"], product(), rtol=1e-5, atol=1e-5)
