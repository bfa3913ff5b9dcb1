"""gw.build_engine with a DOUBLE of the library: what it writes and keeps, and which plugins it brings."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.engine_request import decide
from graphwright.errors import BuildError, MissingDependencyError
from graphwright.frontends.onnx import save_onnx
from graphwright.runtime.tensorrt.cache import EngineCache
from graphwright.runtime.tensorrt.settings import EngineSettings
from graphwright.runtime.tensorrt.sidecar import Sidecar, sidecar_path
from tests.build_engine.cases import HARS, MODEL, PROFILE, build, left_over
from tests.runtime.tensorrt.double import DEVICE, RecordedTensorRT
from tests.runtime.tensorrt.double_parts import Creator


def test_a_plan_and_its_sidecar_are_written_and_the_sidecar_tells_everything(trt: RecordedTensorRT) -> None:
    engine = build(workspace="1G", profile=[PROFILE, "batch=8:16:32,seq=1:8:8"])
    made = Sidecar.read("model.plan")
    made.check_plan(Path("model.plan").read_bytes(), "model.plan")
    assert made == engine.sidecar and engine.path == Path("model.plan") and not engine.was_cached
    assert (made.tensorrt, made.device, made.graphwright) == ("11.4.0.106", DEVICE, gw.__version__)
    assert made.profiles[1]["x"] == {"min": (8, 1, 8), "opt": (16, 8, 8), "max": (32, 8, 8)}
    assert [str(port) for port in made.inputs] == ["x float[batch, seq, 8]", "mask int64[batch, seq]"]
    assert [port.name for port in made.outputs] == ["y", "kept"]
    assert made.flags["workspace"] == f"{2**30}B"
    assert left_over(Path()) == []


def test_an_artifact_and_its_folder_give_the_same_engine_with_the_artifacts_own_profile(trt: RecordedTensorRT) -> None:
    artifact = gw.optimize("model.onnx", profile=PROFILE, target="onnx", progress=False)
    first = build("a.plan", artifact, profile=None)
    artifact.save("folder")
    second = build("b.plan", "folder", profile=None)
    assert first.sidecar == second.sidecar and second.was_cached
    assert first.sidecar.profiles[0]["mask"]["max"] == (8, 64)
    assert "fuse-gelu" in first.sidecar.passes


def test_a_second_build_of_the_same_comes_from_the_cache(trt: RecordedTensorRT) -> None:
    first, second = build("a.plan"), build("b.plan")
    assert (first.was_cached, second.was_cached) == (False, True)
    assert trt.count("build_serialized_network") == 1
    assert Path("a.plan").read_bytes() == Path("b.plan").read_bytes()


def test_without_an_output_the_cache_keeps_the_plan(trt: RecordedTensorRT, tmp_path: Path) -> None:
    engine = build(None, cache=tmp_path / "engines")
    assert engine.path == tmp_path / "engines" / f"{engine.sidecar.key}.plan"
    assert sidecar_path(engine.path).is_file()


def test_without_a_cache_each_build_builds_and_keeps_nothing_else(trt: RecordedTensorRT, tmp_path: Path) -> None:
    build(cache=False)
    build(cache=False)
    assert trt.count("build_serialized_network") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.plan", "model.plan.json"]


@pytest.mark.parametrize("damage", ["cut off", "other bytes", "no sidecar", "no json"])
def test_a_damaged_engine_in_the_cache_is_built_again(trt: RecordedTensorRT, damage: str) -> None:
    plan = build(None).path
    content = plan.read_bytes()
    if damage == "cut off":
        plan.write_bytes(content[:-5])
    elif damage == "other bytes":
        plan.write_bytes(b"x" * len(content))
    elif damage == "no sidecar":
        sidecar_path(plan).unlink()
    else:
        sidecar_path(plan).write_text("{")
    again = build(None)
    assert not again.was_cached and trt.count("build_serialized_network") == 2
    again.sidecar.check_plan(plan.read_bytes(), "plan")


def test_weights_outside_the_file_reach_the_parser_whole(trt: RecordedTensorRT) -> None:
    model = ir.from_onnx_text(MODEL)
    weights = np.arange(8, dtype=np.float32)
    model.graph.initializers["bias"].const_value = ir.tensor(weights, name="bias")
    save_onnx(model, "outside.onnx", external_threshold=1)
    assert build(model="outside.onnx").sidecar.key == build(model=model).sidecar.key
    (parsed,) = trt.parsed
    found = ir.from_proto(parsed).graph.initializers["bias"].const_value
    assert found is not None and np.array_equal(found.numpy(), weights)


def test_the_default_cache_is_the_users(trt: RecordedTensorRT, tmp_path: Path) -> None:
    engine = build(None)
    assert engine.path.is_relative_to(tmp_path / "caches")
    assert EngineCache(engine.path.parent).find(engine.sidecar.key) == engine.sidecar


def test_the_flags_of_build_engine_are_those_of_the_settings() -> None:
    from dataclasses import fields

    from graphwright.runtime.tensorrt.settings import EngineFlags

    assert set(EngineFlags.__annotations__) == {each.name for each in fields(EngineSettings)}


def test_deciding_does_not_change_the_model(no_library: None) -> None:
    model = ir.from_onnx_text(HARS)
    before = ir.to_proto(model).SerializeToString()
    decide(model, profile="batch=1:2:8")
    assert ir.to_proto(model).SerializeToString() == before


# Plugins


def test_hars_nodes_become_plugins_that_are_registered_and_noted(
    trt: RecordedTensorRT, quick: list[tuple[str, str]]
) -> None:
    engine = build(model=ir.from_onnx_text(HARS), profile="batch=1:2:8")
    assert quick == [("softmax_topk", "Float32"), ("registered", "")]
    assert [(each.name, each.version) for each in engine.sidecar.plugins] == [("hars::softmax_topk", "1")]
    assert ("create_network", 1 << 2) in trt.calls
    (node,) = [node for node in trt.parsed[0].graph.node if node.op_type == "softmax_topk"]
    assert {"plugin_namespace", "plugin_version", "aot"} <= {each.name for each in node.attribute}


def test_hars_nodes_may_come_from_a_library_instead(trt: RecordedTensorRT, quick: list[tuple[str, str]]) -> None:
    Path("libhars.so").write_bytes(b"code")
    trt.registry.libraries["libhars.so"] = [Creator("hars", "softmax_topk")]
    engine = build(model=ir.from_onnx_text(HARS), profile="batch=1:2:8", plugins=["libhars.so"], hars="library")
    assert quick == [] and ("load_library", "libhars.so") in trt.calls and ("create_network", 0) in trt.calls
    assert [each.name for each in engine.sidecar.plugins] == ["libhars.so"]


def test_a_node_whose_plugin_no_library_has_is_refused_before_parsing(trt: RecordedTensorRT) -> None:
    Path("libmine.so").write_bytes(b"code")
    trt.registry.libraries["libmine.so"] = [Creator("mine", "Other")]
    text = MODEL.replace('["": 20]', '["": 20, "mine": 1]').replace("Relu(sum)", "mine.Swirl(sum)")
    with pytest.raises(
        MissingDependencyError, match=r"active \(mine::Swirl\).*no plugin mine::Swirl version 1 in libm"
    ):
        build(model=ir.from_onnx_text(text), plugins=["libmine.so"])
    assert trt.count("parse_from_file") == 0
    with pytest.raises(BuildError, match="Swirl"):
        build(model=ir.from_onnx_text(text))
