"""Compiled kernels in a repository: taken along, registered under the server's path, or left to function bodies."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.plugins.hars import native
from graphwright.runtime.ort import OrtSession
from graphwright.triton import sources
from tests.triton.server_double import Server

HEAD = '<ir_version: 10, opset_import: ["": 24]> '
RELU = HEAD + "relu (float[batch, 3] x) => (float[batch, 3] y) { y = Relu(x) }"
PICKER = (
    HEAD
    + """picker (float[batch, 512] logits) => (float[batch, 4] p, int64[batch, 4] i) <int64[1] k = {4}>
    { s = Softmax<axis=-1>(logits)  p, i = TopK<axis=-1>(s, k) }"""
)


def picker(**options: Any) -> gw.Artifact:
    return gw.optimize(ir.from_onnx_text(PICKER), profile="batch=1:2:4", progress=False, **options)


def relu() -> gw.Artifact:
    return gw.optimize(ir.from_onnx_text(RELU), profile="batch=1:2:4", progress=False)


def test_function_bodies_stand_in_for_kernels(tmp_path: Path) -> None:
    made = gw.export_triton(picker(), tmp_path, name="picker")
    row = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    (answer,) = Server(tmp_path, "picker").infer([{"logits": row}])
    assert answer["i"][0].tolist() == np.argsort(-row[0])[:4].tolist()
    if native.available():
        assert any("function bodies: 1" in note for note in made.notes)


@pytest.mark.skipif(not native.available(), reason=native.why_not())
def test_kernels_go_along_and_are_registered_where_the_server_sees_them(tmp_path: Path) -> None:
    made = gw.export_triton(picker(), tmp_path, gw.Serving(kernels="/srv/models/"), name="picker")
    library = "1/libgraphwright_hars.so"
    assert library in made.files
    server = Server(tmp_path, "picker", seen_as="/srv/models")
    assert list(server.config.model_operations.op_library_filename) == [f"/srv/models/picker/{library}"]
    row = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    assert server.infer([{"logits": row}])[0]["i"][0].tolist() == np.argsort(-row[0])[:4].tolist()


@pytest.mark.skipif(not native.available(), reason=native.why_not())
def test_kernels_are_refused_where_they_would_keep_the_model_from_loading(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["": 24, "hars": 1]>
    f (double[batch, 8] x) => (float[batch, 2] v, int64[batch, 2] i) { v, i = hars.softmax_topk<k=2>(x) }"""
    # Such nodes get their bodies when a file is loaded.
    onnx.save(onnx.parser.parse_model(text), tmp_path / "wide.onnx")
    made = gw.optimize(tmp_path / "wide.onnx", profile="batch=1:2:4", progress=False)
    with pytest.raises(gw.UsageError, match="other or unknown types"):
        gw.export_triton(made, tmp_path, gw.Serving(kernels="/models"), name="wide")
    gw.export_triton(made, tmp_path, name="wide")
    assert len(Server(tmp_path, "wide").config.output) == 2


@pytest.mark.skipif(not native.available(), reason=native.why_not())
@pytest.mark.parametrize("kernels", [None, "/models"])
def test_what_is_tried_is_what_the_server_will_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernels: str | None
) -> None:
    made, seen = picker(), []

    def session(*arguments: Any, **options: Any) -> OrtSession:
        seen.append(options["kernels"])
        return OrtSession(*arguments, **options)

    monkeypatch.setattr(sources, "OrtSession", session)
    gw.export_triton(made, tmp_path, gw.Serving(kernels=kernels), name="picker")
    assert seen == [kernels is not None]


def test_kernels_that_were_not_compiled_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = picker(passes="default,-lower-without-kernel")
    monkeypatch.setattr(native, "available", lambda: False)
    with pytest.raises(gw.MissingDependencyError, match="no compiled library"):
        gw.export_triton(made, tmp_path, gw.Serving(kernels="/models"), name="picker")


def test_kernels_that_no_node_wants_are_not_registered(tmp_path: Path) -> None:
    made = gw.export_triton(relu(), tmp_path, gw.Serving(kernels="/models"), name="relu")
    assert made.files == ("1/model.onnx", "config.pbtxt")
    assert not Server(tmp_path, "relu").config.model_operations.op_library_filename
