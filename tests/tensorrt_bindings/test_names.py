"""Names of TensorRT that the package keeps as text, which no type check sees, are names of the bindings."""

import ast
import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from graphwright.runtime.tensorrt import build, decisions, engine
from graphwright.runtime.tensorrt.settings import HARDWARE, REFIT, TILING, VERBOSITY, EngineSettings
from tests.tensorrt_bindings.bindings_classes import Classes
from tests.tensorrt_bindings.prepare import FOLDER

pytestmark = pytest.mark.usefixtures("bindings")
# Every option away from its default, as often as it has values.
OPTIONS: list[dict[str, Any]] = [
    {"builder_optimization_level": 5, "workspace": "2G", "tf32": False, "strict_nans": True},
    {"version_compatible": True, "exclude_lean_runtime": True, "plugins_to_serialize": [__file__]},
    {"weight_streaming": True, "strip_weights": True, "max_aux_streams": 2, "max_tactics": 8},
    {"timing_cache": "cache", "error_on_timing_cache_miss": True, "plugins": [__file__], "hars": "library"},
    *({"refit": name} for name in REFIT if name != "off"),
    *({"hardware_compatibility": name} for name in HARDWARE if name != "none"),
    *({"tiling_optimization_level": name} for name in TILING if name != "none"),
    *({"profiling_verbosity": name} for name in VERBOSITY if name != "layer-names-only"),
]


@pytest.fixture(scope="module")
def classes() -> Classes:
    return Classes.read((FOLDER / "stubs/tensorrt/tensorrt.pyi").read_text())


def test_every_option_is_tried() -> None:
    assert {name for options in OPTIONS for name in options} == {each.name for each in fields(EngineSettings)}


@pytest.mark.parametrize("options", [{}, *OPTIONS], ids=lambda options: "-".join(options) or "none")
def test_what_the_builder_is_told(classes: Classes, options: dict[str, Any]) -> None:
    settings, has = EngineSettings(**options), classes.attributes
    assert set(settings.builder_flags()) <= has["BuilderFlag"]
    assert set(settings.memory_pools()) <= has["MemoryPoolType"]
    for name, value in settings.config().items():
        assert name in has["IBuilderConfig"]
        # A value is a member of the attribute's enumeration, or a number.
        assert value in has[build._ENUMERATIONS[name]] if isinstance(value, str) else name not in build._ENUMERATIONS


def test_types_of_inputs_and_outputs(classes: Classes) -> None:
    known = {name for name in classes.attributes["DataType"] if name.isupper() or name[:-1].isupper()}
    assert set(engine.DTYPES) <= known
    assert {"FLOAT", "HALF", "BF16", "INT32", "INT64", "BOOL"} <= set(engine.DTYPES)


def test_flags_of_the_network(classes: Classes) -> None:
    source = Path(inspect.getfile(decisions.Decisions)).read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    (function,) = (node for node in functions if node.name == "network_flags")
    words = {
        each.value for each in ast.walk(function) if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }
    flags = {word for word in words if word.isupper()}
    assert flags and flags <= classes.attributes["NetworkDefinitionCreationFlag"]
