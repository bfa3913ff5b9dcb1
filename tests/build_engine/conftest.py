"""A folder and a cache of its own for each test, the library as a DOUBLE or missing, HARS without a compiler."""

import sys
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from graphwright.errors import MissingDependencyError
from graphwright.frontends.onnx import save_onnx
from graphwright.plugins.hars import tensorrt as hars_tensorrt
from graphwright.runtime.tensorrt import library
from tests.build_engine.cases import MODEL
from tests.runtime.tensorrt.double import RecordedTensorRT


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    save_onnx(ir.from_onnx_text(MODEL), tmp_path / "model.onnx")


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> RecordedTensorRT:
    return RecordedTensorRT().install(monkeypatch)


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise MissingDependencyError("GPU", "none", needed="one")

    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr(library, "device", absent)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """HARS's quick plugins without a compiler: which kernels were asked for."""
    asked: list[tuple[str, str]] = []

    def ptx(variant: Any, type_name: str, *, has_temperature: bool = False) -> str:
        asked.append((variant.name, type_name))
        return f".entry {variant.name} {type_name} {has_temperature}"

    monkeypatch.setattr(hars_tensorrt, "ptx", ptx)
    monkeypatch.setattr(hars_tensorrt, "register", lambda **_: asked.append(("registered", "")))
    return asked
