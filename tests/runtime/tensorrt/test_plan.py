"""Plans that cannot run here are refused before TensorRT loads them, each with what is wrong and what to do."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.errors import LoadError, MissingDependencyError, UsageError
from graphwright.runtime.signature import Port
from graphwright.runtime.tensorrt import library, messages
from graphwright.runtime.tensorrt.fingerprint import graph_sha256
from graphwright.runtime.tensorrt.library import Device
from graphwright.runtime.tensorrt.plan import check_fits, read_plan
from graphwright.runtime.tensorrt.session import TensorRTSession
from graphwright.runtime.tensorrt.settings import EngineSettings
from graphwright.runtime.tensorrt.sidecar import Plugin, Sidecar, sidecar_path, sidecar_text
from tests.runtime.tensorrt import networks
from tests.runtime.tensorrt.networks import expected, request
from tests.runtime.tensorrt.runtime_double import VERSION, TensorRTDouble

H200 = Device("NVIDIA H200", "9.0", "13.0")


def sidecar_of(plan: bytes, **changes: object) -> Sidecar:
    shapes = {
        "x": {"min": (1, 1, 4), "opt": (2, 8, 4), "max": (4, 16, 4)},
        "ids": {"min": (1, 1), "opt": (2, 8), "max": (4, 16)},
    }
    ports = (Port("x", ir.DataType.FLOAT, ("batch", "seq", 4)), Port("ids", ir.DataType.INT64, ("batch", "seq")))
    outputs = (Port("y", ir.DataType.FLOAT, ("batch", "seq", 4)),)
    digest = hashlib.sha256(plan).hexdigest()
    made = Sidecar("key", "onnx", digest, "0.1.0", VERSION, H200, (shapes,), ports, outputs)
    return replace(made, **{"flags": EngineSettings().to_json(), **changes})  # type: ignore[arg-type]


def written(tmp_path: Path, plan: bytes, **changes: object) -> Path:
    path = tmp_path / "x.plan"
    path.write_bytes(plan)
    sidecar_path(path).write_text(sidecar_text(sidecar_of(plan, **changes)))
    return path


def refused(trt: TensorRTDouble, plan: object, kind: type[Exception] = LoadError, **options: object) -> str:
    with pytest.raises(kind) as caught:
        TensorRTSession(plan, **options)  # type: ignore[arg-type]
    return str(caught.value)


def nothing_loaded(trt: TensorRTDouble) -> bool:
    return "deserialize_cuda_engine" not in trt.said


def test_a_plan_with_its_sidecar_has_the_models_names(trt: TensorRTDouble, tmp_path: Path) -> None:
    session = TensorRTSession(written(tmp_path, trt.plan(networks.sums())))
    assert [str(port) for port in session.profile.inputs] == ["x float[batch, seq, 4]", "ids int64[batch, seq]"]
    assert str(session.outputs[0]) == "y float[batch, seq, 4]"
    np.testing.assert_array_equal(session(request())["y"], expected(request())["y"])


def test_a_profile_may_use_those_names(trt: TensorRTDouble, tmp_path: Path) -> None:
    session = TensorRTSession(written(tmp_path, trt.plan(networks.sums())), "batch=1:1:2,seq=1:2:8")
    assert session.profile.max_shapes() == {"x": (2, 8, 4), "ids": (2, 8)}


def test_names_that_two_ranges_share_are_told_apart(trt: TensorRTDouble, tmp_path: Path) -> None:
    network = networks.sums()
    network.profiles[0]["ids"] = ((1, 1), (2, 8), (4, 12))  # type: ignore[index]
    session = TensorRTSession(written(tmp_path, trt.plan(network)))
    assert session.profile.max_shapes() == {"x": (4, 16, 4), "ids": (4, 12)}


def test_a_plan_without_a_sidecar_runs(trt: TensorRTDouble, tmp_path: Path) -> None:
    path = tmp_path / "bare.plan"
    path.write_bytes(trt.plan(networks.sums()))
    np.testing.assert_array_equal(TensorRTSession(path)(request())["y"], expected(request())["y"])


@pytest.mark.parametrize("content", [b"", b"ftrt", b"\x08\x0aonnx model" * 9, b"PK\x03\x04" + bytes(200)])
def test_what_is_no_plan(trt: TensorRTDouble, content: bytes) -> None:
    assert "needed a TensorRT plan" in refused(trt, content)
    assert nothing_loaded(trt)


def test_a_missing_file_and_a_wrong_kind(trt: TensorRTDouble, tmp_path: Path) -> None:
    assert "No such file" in refused(trt, tmp_path / "none.plan")
    assert "a dict" in refused(trt, {}, UsageError)


def test_a_plan_that_was_cut_or_changed(trt: TensorRTDouble, tmp_path: Path) -> None:
    path = written(tmp_path, trt.plan(networks.sums()))
    path.write_bytes(path.read_bytes()[:-1])
    assert "another sha256 than its sidecar has" in refused(trt, path)
    assert nothing_loaded(trt)


def test_a_broken_sidecar(trt: TensorRTDouble, tmp_path: Path) -> None:
    path = written(tmp_path, trt.plan(networks.sums()))
    sidecar_path(path).write_text("{")
    assert "no sidecar" in refused(trt, path)


def test_a_plan_of_an_older_version(trt: TensorRTDouble, tmp_path: Path) -> None:
    path = written(tmp_path, trt.plan(networks.sums()), tensorrt="11.2.1.5")
    text = refused(trt, path)
    assert "found a plan of TensorRT 11.2.1.5; needed TensorRT 11.4.0.106" in text
    assert "tensorrt==11.2.1" in text and "--version-compatible" in text and nothing_loaded(trt)


def test_a_plan_of_a_newer_version_is_refused_from_its_first_bytes(trt: TensorRTDouble) -> None:
    plan = bytearray(trt.plan(networks.sums()))
    plan[24:28] = bytes([11, 5, 0, 1])
    assert "a plan of TensorRT 11.5.0.1" in refused(trt, bytes(plan))
    assert nothing_loaded(trt)


def test_a_version_compatible_plan_runs_later_and_its_code_is_allowed(trt: TensorRTDouble, tmp_path: Path) -> None:
    trt.__version__ = "11.3.0.1"
    plan = trt.plan(networks.sums())
    trt.__version__ = VERSION
    flags = EngineSettings(version_compatible=True).to_json()
    session = TensorRTSession(written(tmp_path, plan, tensorrt="11.3.0.1", flags=flags))
    np.testing.assert_array_equal(session(request())["y"], expected(request())["y"])
    newer = read_plan(written(tmp_path, plan, tensorrt="11.5.0.1", flags=flags))
    with pytest.raises(LoadError, match=r"a plan of TensorRT 11.5.0.1"):
        check_fits(newer, VERSION, H200)


def test_without_a_sidecar_the_library_decides_over_an_older_plan(trt: TensorRTDouble) -> None:
    trt.__version__ = "11.3.0.1"
    plan = trt.plan(networks.sums())
    trt.__version__ = VERSION
    text = refused(trt, plan)
    assert "expecting library version 11.3.0.1" in text and "(it is of TensorRT 11.3.0.1)" in text


def test_a_layout_that_is_not_known_tells_no_version() -> None:
    assert read_plan(b"ftrt" + (7).to_bytes(4, "little") + bytes(40)).version is None


@pytest.mark.parametrize(
    ("capability", "level", "runs"),
    [
        ("9.0", "none", True),
        ("8.0", "none", False),
        ("12.0", "none", False),
        ("8.6", "ampere+", True),
        ("7.5", "ampere+", False),
        ("8.0", "same-compute-capability", False),
    ],
)
def test_a_plan_for_another_gpu(
    trt: TensorRTDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: str, level: str, runs: bool
) -> None:
    monkeypatch.setattr(library, "device", lambda index=0: Device("another", capability, "13.0"))
    flags = EngineSettings(hardware_compatibility=level).to_json()
    path = written(tmp_path, trt.plan(networks.sums()), flags=flags)
    if runs:
        TensorRTSession(path)
        return
    text = refused(trt, path)
    assert f"NVIDIA H200 (compute capability 9.0); needed one for another (compute capability {capability})" in text
    assert nothing_loaded(trt)


def test_damage_that_only_tensorrt_sees(trt: TensorRTDouble) -> None:
    messages.logger(trt).log(trt.ILogger.Severity.ERROR, "of an earlier call")
    text = refused(trt, trt.plan(networks.sums())[:-5])
    assert "found Serialization (it is damaged); needed a whole plan" in text and ".cpp" not in text


def test_a_plugin_that_is_not_there_names_the_library_that_it_was_built_with(
    trt: TensorRTDouble, tmp_path: Path
) -> None:
    plugins = (Plugin("mine.so", "", hashlib.sha256(b"plugins").hexdigest()), Plugin("hars::softmax_topk", "1", "ab"))
    path = written(tmp_path, trt.plan(networks.sums(), plugin="mine"), plugins=plugins)
    text = refused(trt, path, MissingDependencyError)
    assert "Cannot find creator of plugin mine" in text and "needed the plugin libraries mine.so (sha256" in text
    assert "hars::softmax_topk" not in text
    (tmp_path / "mine.so").write_bytes(b"plugins")
    for _ in range(2):
        session = TensorRTSession(path, plugins=[tmp_path / "mine.so"])
    np.testing.assert_array_equal(session(request())["y"], expected(request())["y"])


def test_a_plugin_library_that_was_changed_since_is_refused(trt: TensorRTDouble, tmp_path: Path) -> None:
    """The process runs the old code, under whatever name and digest the new file has."""
    plan, path = trt.plan(networks.sums()), tmp_path / "mine.so"
    path.write_bytes(b"plugins")
    TensorRTSession(plan, plugins=[path])
    path.write_bytes(b"newer plugins")
    text = refused(trt, plan, MissingDependencyError, plugins=[path])
    assert "mine.so: found another content" in text and "start a new process" in text


def test_a_plugin_library_that_is_none(trt: TensorRTDouble, tmp_path: Path) -> None:
    plan = trt.plan(networks.sums())
    assert "No such file" in refused(trt, plan, MissingDependencyError, plugins=[tmp_path / "none.so"])
    (tmp_path / "bad.so").write_bytes(b"other")
    text = refused(trt, plan, MissingDependencyError, plugins=[tmp_path / "bad.so"])
    assert "plugin is registered already" in text and nothing_loaded(trt)


def test_types_and_formats_that_a_session_cannot_serve(trt: TensorRTDouble) -> None:
    packed = networks.sums(packed=frozenset({"y"}))
    assert "output y: found a packed format; needed the linear format" in refused(trt, trt.plan(packed))
    narrow = networks.sums()
    narrow.outputs = {"y": ("INT4", (-1, -1, 4))}
    assert "output y: found type INT4; needed a type of whole bytes" in refused(trt, trt.plan(narrow))


def test_a_runtime_that_cannot_be_made(trt: TensorRTDouble) -> None:
    def fails(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    trt.Runtime = fails  # type: ignore[assignment]
    text = refused(trt, trt.plan(networks.sums()), MissingDependencyError)
    assert "returned nullptr; needed a GPU and a driver that it can use" in text


def test_the_library_is_asked_for_before_the_device(trt: TensorRTDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingDependencyError("TensorRT", "no package tensorrt", needed="tensorrt")

    monkeypatch.setattr(library, "tensorrt_library", missing)
    assert "no package tensorrt" in refused(trt, trt.plan(networks.sums()), MissingDependencyError)


TEXT = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) <float[1] w = {2.0}> {y = Mul(x, w)}'


def stripped(trt: TensorRTDouble, tmp_path: Path, refit: str, *, refittable: bool = True) -> tuple[Path, Path]:
    model = ir.from_onnx_text(TEXT)
    ir.save(model, tmp_path / "model.onnx")
    flags = EngineSettings(strip_weights=True, refit=refit).to_json()
    plan = trt.plan(networks.sums(refittable=refittable))
    return written(tmp_path, plan, flags=flags, onnx_sha256=graph_sha256(model)), tmp_path / "model.onnx"


def test_a_plan_without_weights_takes_them_from_the_model(trt: TensorRTDouble, tmp_path: Path) -> None:
    path, weights = stripped(trt, tmp_path, "off")
    assert "a plan without its weights" in refused(trt, path) and nothing_loaded(trt)
    TensorRTSession(path, weights=weights)
    assert trt.said[-2:] == ["refit_from_file", "refit_cuda_engine"]


def test_other_weights_only_where_the_plan_was_built_for_them(trt: TensorRTDouble, tmp_path: Path) -> None:
    path, weights = stripped(trt, tmp_path, "identical")
    other = ir.from_onnx_text(TEXT.replace("2.0", "3.0"))
    ir.save(other, weights)
    assert "another graph or other weights" in refused(trt, path, weights=weights) and nothing_loaded(trt)
    path, weights = stripped(trt, tmp_path, "all")
    ir.save(other, weights)
    TensorRTSession(path, weights=weights)


def test_weights_that_do_not_fit(trt: TensorRTDouble, tmp_path: Path) -> None:
    path, weights = stripped(trt, tmp_path, "all")
    trt.failing.add("refit_from_file")
    assert "no weights for w1" in refused(trt, path, weights=weights)
    path, weights = stripped(trt, tmp_path, "all", refittable=False)
    assert "a plan whose weights are fixed" in refused(trt, path, weights=weights)
    assert "no such file" in refused(trt, path, weights=tmp_path / "none.onnx")


def test_warnings_of_the_library_are_no_errors(trt: TensorRTDouble) -> None:
    own = messages.logger(trt)
    own.log(trt.ILogger.Severity.WARNING, "slow")
    own.log(trt.ILogger.Severity.INTERNAL_ERROR, "Error Code 9: broken")
    own.log(trt.ILogger.Severity.ERROR, "broken")
    assert messages.taken(trt, "nothing") == "broken"
    assert messages.taken(trt, "nothing") == "nothing"
