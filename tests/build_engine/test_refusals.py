"""What gw.build_engine refuses before anything slow starts, and how a build ends that fails or is stopped."""

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from graphwright.errors import BuildError, LoadError, MissingDependencyError, OutputError, ProfileError, UsageError
from tests.build_engine.cases import MODEL, build, left_over
from tests.runtime.tensorrt.double import RecordedTensorRT
from tests.runtime.tensorrt.double_parts import Fault


def test_an_engine_that_cannot_be_built_is_an_error_with_tensorrts_words_and_nothing_is_left(
    trt: RecordedTensorRT, tmp_path: Path
) -> None:
    trt.build_problem = "Internal Error (Could not find any implementation for node {ForeignNode[added...active]}.)"
    with pytest.raises(
        BuildError, match=r"added \(Add\), active \(Relu\).*Could not find any implementation"
    ) as caught:
        build()
    assert caught.value.exit_code == 5
    assert not Path("model.plan").exists() and left_over(tmp_path) == []


def test_an_error_of_the_parser_names_our_node_and_what_it_was_made_from(trt: RecordedTensorRT) -> None:
    model = ir.from_onnx_text(MODEL)
    model.graph.node(1).metadata_props.update(
        {"graphwright.rule": "fuse-nothing", "graphwright.sources": "encoder.3/max\nencoder.3/zero"}
    )
    trt.parser_faults = [Fault("active", "Relu", "no importer")]
    expected = r"active \(Relu\) \[from encoder.3/max, encoder.3/zero, made by fuse-nothing\]: no importer"
    with pytest.raises(BuildError, match=expected):
        build(model=model)


def test_progress_comes_from_the_builders_monitor(trt: RecordedTensorRT) -> None:
    told: list[tuple[str, int, int]] = []
    build(progress=lambda *what: told.append(what))
    assert ("Building Engine: Tactics", 3, 4) in told and told[-1] == ("Building Engine", 1, 2)


def test_an_interrupt_stops_the_build_and_comes_out(trt: RecordedTensorRT) -> None:
    def tell(what: str, done: int, total: int) -> None:
        if "Tactics" in what and done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(progress=tell)
    assert not Path("model.plan").exists()
    assert not build().was_cached, "the next build starts anew"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"profile": "batch=4:2:8,seq=1"}, ProfileError, "4:2:8.*min <= opt <= max"),
        ({"profile": "batch=1:2:8"}, ProfileError, "also for seq"),
        ({"profile": None}, ProfileError, "no profile for batch, seq of x float"),
        ({"profile": "x=1x2:1x2:1x2,mask=1x1"}, ProfileError, "rank 2; needed rank 3"),
        ({"profile": "x=1x1x9,mask=1x1"}, ProfileError, "9 on axis 2; needed 8"),
        ({"model": "no.onnx"}, LoadError, "no such file"),
        ({"model": object()}, UsageError, "a object; needed an artifact"),
        ({"output": None, "cache": False}, UsageError, "output: found none, and no cache"),
        ({"output": "no/folder.plan"}, OutputError, "no folder"),
        ({"output": "."}, OutputError, "a folder of that name"),
        ({"plugins": ["no.so"]}, MissingDependencyError, "plugin library no.so: found No such file"),
        ({"refit": "sometimes"}, UsageError, "option refit"),
        ({"tensorrt_version": "9.1"}, UsageError, "9.1.*or newer"),
        ({"tensorrt_version": "eleven"}, UsageError, "'eleven'; needed a version such as 11.4"),
    ],
)
def test_bad_input_is_refused_before_the_library_is_asked(
    trt: RecordedTensorRT, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        build(**options)
    assert trt.calls == []


@pytest.mark.parametrize("k", [3841, 100000])
def test_k_over_the_limit_is_refused_before_the_library_is_asked(trt: RecordedTensorRT, k: int) -> None:
    text = """<ir_version: 10, opset_import: ["": 20]>
    g (float[batch, 200000] x) => (float[batch, K] values, int64[batch, K] indices) <int64[1] k = {K}> {
        [top] values, indices = TopK(x, k)
    }""".replace("K}", f"{k}}}").replace(", K]", f", {k}]")
    with pytest.raises(BuildError, match=rf"top \(TopK\).*{k}"):
        build(model=ir.from_onnx_text(text), profile="batch=1:2:8")
    assert trt.calls == []


def test_an_operator_of_onnx_runtime_is_refused_with_its_node(trt: RecordedTensorRT) -> None:
    text = MODEL.replace('["": 20]', '["": 20, "com.microsoft": 1]').replace("Relu(sum)", "com.microsoft.FastGelu(sum)")
    with pytest.raises(BuildError, match=r"active \(.*FastGelu\)"):
        build(model=ir.from_onnx_text(text))
    assert trt.calls == []


def test_without_library_or_device_the_error_says_what_is_missing(no_library: None) -> None:
    with pytest.raises(MissingDependencyError, match=r"TensorRT: found .*; needed tensorrt 10.16 or newer") as caught:
        build()
    assert caught.value.exit_code == 4


def test_another_version_than_the_one_insisted_on_is_missing(trt: RecordedTensorRT) -> None:
    with pytest.raises(MissingDependencyError, match=r"tensorrt 11.4.0.106; needed 11.0"):
        build(tensorrt_version="11.0")
    assert build(tensorrt_version="11.4").sidecar.tensorrt == "11.4.0.106"
