"""The calls of the builder, with a DOUBLE of it: their order, their values, and what is made of each answer."""

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from graphwright.engine_request import EngineRequest, decide
from graphwright.errors import BuildError, MissingDependencyError, UsageError
from graphwright.frontends.onnx import save_onnx
from graphwright.runtime.tensorrt.build import Built, build_plan
from graphwright.runtime.tensorrt.fingerprint import stripped
from graphwright.runtime.tensorrt.monitor import Phases
from graphwright.runtime.tensorrt.parser_errors import ParserFault, nodes_named, parse_error
from graphwright.runtime.tensorrt.settings import EngineSettings
from tests.runtime.tensorrt.double import RecordedTensorRT
from tests.runtime.tensorrt.double_parts import BuilderFlag, Creator, Fault

MODEL = """<ir_version: 10, opset_import: ["": 20]>
g (float[n, 4] x, float[4] fixed) => (float[n, 4] y) {
    [sum] s = Add(x, fixed)
    [last] y = Relu(s)
}"""


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> RecordedTensorRT:
    return RecordedTensorRT().install(monkeypatch)


def build(folder: Path, text: str = MODEL, profile: str = "n=1:2:8", **options: Any) -> Built:
    request = decide(ir.from_onnx_text(text), profile=profile, settings=EngineSettings(**options))
    return build_written(request, folder)


def build_written(request: EngineRequest, folder: Path) -> Built:
    save_onnx(stripped(request.model), folder / "model.onnx")
    return build_plan(folder / "model.onnx", request.model, request.decisions)


def test_the_calls_of_a_build_in_their_order(trt: RecordedTensorRT, tmp_path: Path) -> None:
    built = build(tmp_path, profile="n=1:2:8;n=8:9:10", workspace="1M", tf32=False, timing_cache=tmp_path / "t")
    assert bytes(built.plan[:4]) == b"ftrt" and built.notes == ()
    assert trt.calls == [
        ("current GPU", 0),
        ("init_libnvinfer_plugins",),
        ("Builder",),
        ("create_network", 0),
        ("OnnxParser",),
        ("parse_from_file",),
        ("create_builder_config",),
        ("clear_flag", "TF32"),
        ("set_memory_pool_limit", "WORKSPACE", 2**20),
        ("create_optimization_profile",),
        ("set_shape", "x", (1, 4), (2, 4), (8, 4)),
        ("set_shape", "fixed", (4,), (4,), (4,)),
        ("add_optimization_profile",),
        ("create_optimization_profile",),
        ("set_shape", "x", (8, 4), (9, 4), (10, 4)),
        ("set_shape", "fixed", (4,), (4,), (4,)),
        ("add_optimization_profile",),
        ("create_timing_cache", False),
        ("set_timing_cache", False),
        ("build_serialized_network",),
        ("former GPU",),
    ]


def test_the_engine_is_built_on_the_gpu_that_was_asked_for(trt: RecordedTensorRT, tmp_path: Path) -> None:
    build_written(decide(ir.from_onnx_text(MODEL), profile="n=1:2:8", device=3), tmp_path)
    assert trt.calls[0] == ("current GPU", 3)


def test_options_reach_the_configuration(trt: RecordedTensorRT, tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_bytes(b"code")
    trt.registry.libraries["lib.so"] = [Creator("mine", "F")]
    build(
        tmp_path,
        builder_optimization_level=5,
        hardware_compatibility="sameComputeCapability",
        version_compatible=True,
        exclude_lean_runtime=True,
        weight_streaming=True,
        strip_weights=True,
        max_aux_streams=0,
        max_tactics=7,
        tiling_optimization_level="full",
        profiling_verbosity="DETAILED",
        plugins_to_serialize=[tmp_path / "lib.so"],
    )
    config = trt.config
    assert config is not None
    flags = "EXCLUDE_LEAN_RUNTIME REFIT_IDENTICAL STRIP_PLAN TF32 VERSION_COMPATIBLE WEIGHT_STREAMING"
    assert sorted(flag.name for flag in config.flags) == flags.split()
    assert (config.builder_optimization_level, config.max_aux_streams, config.max_num_tactics) == (5, 0, 7)
    assert config.hardware_compatibility_level.name == "SAME_COMPUTE_CAPABILITY"
    assert (config.tiling_optimization_level.name, config.profiling_verbosity.name) == ("FULL", "DETAILED")
    assert config.plugins_to_serialize == [str(tmp_path / "lib.so")]


def test_before_version_11_the_network_is_made_strongly_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trt = RecordedTensorRT("10.16.1.11").install(monkeypatch)
    build(tmp_path)
    assert ("create_network", 1) in trt.calls


def test_an_option_that_this_version_lacks_is_an_error(trt: RecordedTensorRT, tmp_path: Path) -> None:
    class Older:
        TF32 = BuilderFlag.TF32

    trt.BuilderFlag = Older
    with pytest.raises(BuildError, match="builder flag WEIGHT_STREAMING: found none in this TensorRT"):
        build(tmp_path, weight_streaming=True)


def test_a_builder_that_cannot_be_made_is_a_missing_device(trt: RecordedTensorRT, tmp_path: Path) -> None:
    trt.has_no_device = True
    with pytest.raises(MissingDependencyError, match="factory function returned nullptr; needed a GPU"):
        build(tmp_path)


def test_every_fault_of_the_parser_is_told_three_at_most(trt: RecordedTensorRT, tmp_path: Path) -> None:
    trt.parser_faults = [Fault("sum", "Add", f"reason {number}") for number in range(5)]
    with pytest.raises(BuildError, match=r"sum \(Add\): reason 0; .*reason 2; and 2 more; needed") as caught:
        build(tmp_path)
    assert "reason 3" not in str(caught.value)


def test_a_fault_without_a_name_is_found_by_its_place_if_the_operator_fits(
    trt: RecordedTensorRT, tmp_path: Path
) -> None:
    trt.parser_faults = [Fault("", "Relu", "first", 1), Fault("", "Mul", "second", 1), Fault("", "Relu", "third", 9)]
    with pytest.raises(BuildError) as caught:
        build(tmp_path)
    found = caught.value.found.split("; ")
    assert found[0] == "last (Relu): first"
    assert found[1:] == ["a node without a name (Mul): second", "a node without a name (Relu): third"]


def test_a_name_that_two_nodes_have_is_not_traced_to_either(trt: RecordedTensorRT, tmp_path: Path) -> None:
    model = ir.from_onnx_text(MODEL)
    for node, source in zip(model.graph, ("one", "two"), strict=True):
        node.name, node.metadata_props["graphwright.sources"] = "same", source
    trt.parser_faults = [Fault("same", "Relu", "no")]
    with pytest.raises(BuildError, match=r"found same \(Relu\): no;"):
        build_written(decide(model, profile="n=1:2:8"), tmp_path)
    assert nodes_named("Could not find any implementation for node same.", model) == []


def test_a_fault_inside_functions_names_them() -> None:
    fault = ParserFault("CODE", "no", "n", "Add", functions=("Inner", "Outer"))
    assert "n (Add) in function Inner in Outer: no" in str(parse_error("m", [fault], ""))
    assert "found nothing said" in str(parse_error("m", [], "nothing said"))


def test_a_profile_that_tensorrt_does_not_take_is_an_error(trt: RecordedTensorRT, tmp_path: Path) -> None:
    trt.refuses_profiles = True
    with pytest.raises(BuildError, match=r"profile 0: .*x 1x4:2x4:8x4"):
        build(tmp_path)
    assert trt.count("build_serialized_network") == 0


def test_an_input_whose_values_are_shapes_is_refused_before_the_build(trt: RecordedTensorRT, tmp_path: Path) -> None:
    trt.shape_tensors = {"fixed"}
    with pytest.raises(BuildError, match="input fixed: found values that other shapes depend on"):
        build(tmp_path)
    assert trt.count("build_serialized_network") == 0


def test_the_parsers_inputs_must_all_have_shapes(trt: RecordedTensorRT, tmp_path: Path) -> None:
    request = decide(ir.from_onnx_text(MODEL), profile="n=1:2:8")
    save_onnx(
        ir.from_onnx_text(MODEL.replace("float[4] fixed", "float[4] other").replace("fixed", "other")), tmp_path / "m"
    )
    with pytest.raises(BuildError, match="profile 0: found no shapes for other"):
        build_plan(tmp_path / "m", request.model, request.decisions)


def test_the_double_refuses_what_tensorrt_would(trt: RecordedTensorRT, tmp_path: Path) -> None:
    """Without this rule of the double, the tests of complete profiles could not fail."""
    request = decide(ir.from_onnx_text(MODEL), profile="n=1:2:8")
    save_onnx(ir.from_onnx_text(MODEL.replace("float[n, 4] x", "float[7, 4] x")), tmp_path / "m")
    with pytest.raises(BuildError, match="input x: a static dimension differs"):
        build_plan(tmp_path / "m", request.model, request.decisions)


# The timing cache


def entries(path: Path) -> str:
    return path.read_text()


def test_the_timing_cache_grows_over_builds(trt: RecordedTensorRT, tmp_path: Path) -> None:
    file = tmp_path / "timing.bin"
    build(tmp_path, timing_cache=file)
    trt.new_timing = "second"
    built = build(tmp_path, timing_cache=file)
    assert entries(file) == '["11.4.0.106", ["second", "tactic"]]' and built.notes == ()


def test_what_another_build_wrote_meanwhile_is_kept(trt: RecordedTensorRT, tmp_path: Path) -> None:
    file = tmp_path / "timing.bin"
    trt.while_building = lambda: file.write_text('["11.4.0.106", ["theirs"]]') and None
    build(tmp_path, timing_cache=file)
    assert entries(file) == '["11.4.0.106", ["tactic", "theirs"]]'


@pytest.mark.parametrize("content", ['["11.3.0.1", ["old"]]', "damaged"])
def test_a_timing_cache_that_does_not_fit_is_replaced_and_said_so(
    trt: RecordedTensorRT, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "timing.bin"
    file.write_text(content)
    built = build(tmp_path, timing_cache=file)
    assert entries(file) == '["11.4.0.106", ["tactic"]]'
    assert len(built.notes) == 1 and "timing.bin" in built.notes[0]


@pytest.mark.parametrize("content", ['["11.3.0.1", []]', "damaged", None])
def test_with_error_on_miss_a_timing_cache_must_be_there_and_fit(
    trt: RecordedTensorRT, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "timing.bin"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BuildError, match="timing cache"):
        build(tmp_path, timing_cache=file, error_on_timing_cache_miss=True)
    assert trt.count("build_serialized_network") == 0
    assert content is None or entries(file) == content


def test_a_timing_cache_that_cannot_be_written_costs_no_plan(trt: RecordedTensorRT, tmp_path: Path) -> None:
    file = tmp_path / "timing.bin"
    trt.while_building = lambda: file.with_name("timing.bin.lock").mkdir()
    built = build(tmp_path, timing_cache=file)
    assert bytes(built.plan).startswith(b"ftrt") and not file.exists()
    assert len(built.notes) == 1 and "was not written" in built.notes[0] and "timing.bin" in built.notes[0]


def test_a_timing_cache_that_is_a_folder_is_a_usage_error(trt: RecordedTensorRT, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="timing cache"):
        build(tmp_path, timing_cache=tmp_path)


# Progress


def test_phases_are_told_with_their_parents_and_an_error_is_kept_for_the_end() -> None:
    told: list[str] = []

    def tell(what: str, done: int, total: int) -> None:
        told.append(f"{what} {done}/{total}")
        if done == 2:
            raise ValueError("the listener's own")

    phases = Phases(tell)
    phases.start("outer", None, 3)
    phases.start("inner", "outer", 5)
    assert phases.step("inner", 0) is True
    phases.reraise()
    assert phases.step("inner", 1) is False
    phases.finish("inner")
    assert phases.step("outer", 0) is False
    assert told == ["outer 0/3", "outer: inner 0/5", "outer: inner 1/5", "outer: inner 2/5"]
    with pytest.raises(ValueError, match="listener"):
        phases.reraise()
