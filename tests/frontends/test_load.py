"""What ``load`` takes, and what importing it costs."""

import subprocess
import sys
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from graphwright import frontends
from graphwright.errors import LoadError, MissingDependencyError, UsageError

TEXT = '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y) {y = Relu(x)}'


def test_paths_and_objects_give_the_same_model(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(TEXT)
    path = tmp_path / "relu.onnx"
    path.write_bytes(proto.SerializeToString())
    sources = [frontends.load(item) for item in (path, str(path), proto, ir.from_onnx_text(TEXT))]
    assert [source.name for source in sources] == ["relu", "relu", "g", "g"]
    assert {ir.to_onnx_text(source.model) for source in sources} == {ir.to_onnx_text(sources[0].model)}
    assert all(source.reference is None and len(source.sha256) == 64 for source in sources)


def test_a_missing_path_and_wrong_example_inputs_are_refused() -> None:
    with pytest.raises(LoadError, match="no such file"):
        frontends.load("missing.onnx")
    with pytest.raises(UsageError, match="a mapping"):
        frontends.load(onnx.parser.parse_model(TEXT), [1, 2])


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "graphwright.frontends.transformers", None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(MissingDependencyError, match="pip install graphwright"):
        frontends.load(tmp_path)


def test_importing_the_frontends_loads_no_framework() -> None:
    heavy = "{'torch', 'transformers', 'onnxruntime', 'onnx_graphsurgeon'}"
    code = f"import sys, graphwright.frontends; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
