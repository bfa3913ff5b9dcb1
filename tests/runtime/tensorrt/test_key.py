"""The key of an engine in the cache changes when something that matters changes, and only then."""

import tempfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphwright.engine_request import decide
from graphwright.frontends.onnx import load_onnx, save_onnx
from graphwright.plugins.hars import tensorrt as hars_tensorrt
from graphwright.runtime.tensorrt import library
from graphwright.runtime.tensorrt.fingerprint import graph_sha256, stripped
from graphwright.runtime.tensorrt.library import Device
from graphwright.runtime.tensorrt.plugins import with_plugins
from graphwright.runtime.tensorrt.settings import EngineSettings
from tests.runtime.tensorrt.double import RecordedTensorRT

# Each fact of a build with two values or more, and whether a change of it makes another engine.
MATTERS: dict[str, tuple[Any, ...]] = {
    "weight": (1.0, 2.0),
    "operator": ("Relu", "Abs"),
    "alpha": (0.1, 0.2),
    "node_name": ("layer", "another"),
    "output_name": ("y", "z"),
    "opset": (20, 21),
    "profiles": ("n=1:2:4", "n=1:3:4", "n=1:2:4;n=4:5:6", "n=4:5:6;n=1:2:4"),
    "level": (3, 4),
    "workspace": ("1G", "2G", None),
    "tf32": (True, False),
    "strip": (False, True),
    "version_compatible": (False, True),
    "tensorrt": ("11.4.0.106", "11.4.0.107", "11.3.0.1"),
    "gpu": ("NVIDIA H200", "NVIDIA H100"),
    "capability": ("9.0", "10.0"),
    "library": (b"code", b"other code"),
    "ptx": (".entry a", ".entry b"),
}
DOES_NOT: dict[str, tuple[Any, ...]] = {
    "doc": ("", "a remark"),
    "producer": ("one", "two"),
    "metadata": ("", "stack trace"),
    "interior_type": (True, False),
    "graph_name": ("g", "h"),
    "attributes_reversed": (False, True),
    "initializers_reversed": (False, True),
    "weights_outside": (False, True),
    "body": (None, "Neg", "Abs"),
    "by_input": (False, True),
    "workspace_spelling": ("unit", "MiB"),
    "refit_of_stripped": ("off", "identical"),
    "timing_cache": (None, "timing.bin"),
    "library_name": ("liba.so", "libb.so"),
    "library_twice": (False, True),
    "driver": ("13.0", "13.2"),
}


@dataclass(frozen=True)
class Facts:
    """One build: every fact by the names above."""

    values: tuple[tuple[str, Any], ...]

    def __getitem__(self, name: str) -> Any:
        return dict(self.values)[name]

    @property
    def what_matters(self) -> tuple[tuple[str, Any], ...]:
        return tuple((name, value) for name, value in self.values if name in MATTERS)


ALL = MATTERS | DOES_NOT
FIRST = Facts(tuple((name, values[0]) for name, values in ALL.items()))


def model_of(facts: Facts) -> ir.Model:
    attributes = [f"alpha = {facts['alpha']}", 'plugin_namespace = "mine"']
    attributes = ", ".join(reversed(attributes) if facts["attributes_reversed"] else attributes)
    text = f"""<ir_version: 10, opset_import: ["": {facts["opset"]}, "mine": 1, "hars": 1], producer_name: "p">
    {facts["graph_name"]} (float[n, 9] x) => (float[n, 9] {facts["output_name"]}, float[n, 2] v, int64[n, 2] i) {{
        [{facts["node_name"]}] a = {facts["operator"]}(x)
        [m] b = Mul(a, w)
        [add] c = Add(b, u)
        [own] {facts["output_name"]} = mine.Swirl <{attributes}> (c)
        [rank] v, i = hars.softmax_topk <k = 2> (c)
    }}"""
    model = ir.from_onnx_text(text)
    weights = {"w": facts["weight"], "u": 7.0}
    for name in sorted(weights, reverse=facts["initializers_reversed"]):
        (value,) = {each for node in model.graph for each in node.inputs if each is not None and each.name == name}
        value.const_value = ir.tensor(np.full(9, weights[name], np.float32), name=name)
        model.graph.register_initializer(value)
    model.producer_name, model.doc_string = facts["producer"], facts["doc"]
    node = model.graph.node("m")
    node.doc_string, node.metadata_props["trace"] = facts["doc"], facts["metadata"]
    if facts["interior_type"]:
        for name in ("a", "b", "c"):
            (value,) = {each for node in model.graph for each in node.outputs if each.name == name}
            value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["n", 9])
    else:
        # What decides the type of HARS's kernel is not left open.
        model.graph.node("add").outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    if facts["body"]:
        # What the plugin stands in for is a part of the file, not of the engine.
        x = ir.Value(name="x")
        inside = ir.node(facts["body"], [x])
        graph = ir.Graph([x], inside.outputs, nodes=[inside], opset_imports={"": 20})
        function = ir.Function("mine", "Swirl", graph=graph, attributes=[])
        model.functions[function.identifier()] = function
    return model


def key_of(facts: Facts, folder: Path) -> str:
    model = model_of(facts)
    if facts["weights_outside"]:
        save_onnx(model, folder / "model.onnx", external_threshold=1)
        model = load_onnx(folder / "model.onnx")
    shared = folder / facts["library_name"]
    shared.write_bytes(facts["library"])
    strip = facts["strip"]
    size = facts["workspace"]
    in_mib = {"1G": 1024, "2G": 2048, None: None}
    settings_ = EngineSettings(
        builder_optimization_level=facts["level"],
        workspace=size if facts["workspace_spelling"] == "unit" else in_mib[size],
        tf32=facts["tf32"],
        strip_weights=strip,
        refit=facts["refit_of_stripped"] if strip else "off",
        version_compatible=facts["version_compatible"],
        plugins=[shared, shared] if facts["library_twice"] else [shared],
        timing_cache=facts["timing_cache"],
    )
    profiles = facts["profiles"]
    if facts["by_input"]:
        alternatives = [text[2:].split(":") for text in profiles.split(";")]
        profiles = ";".join("x=" + ":".join(f"{size}x9" for size in sizes) for sizes in alternatives)
    gpu = Device(facts["gpu"], facts["capability"], facts["driver"])
    with (
        mock.patch.object(library, "tensorrt_library", lambda: RecordedTensorRT(facts["tensorrt"])),
        mock.patch.object(library, "device", lambda index: gpu),
        mock.patch.object(hars_tensorrt, "ptx", lambda *_, **__: facts["ptx"]),
    ):
        decisions = decide(model, profile=profiles, settings=settings_).decisions
    assert decisions.key is not None and decisions.unsupported == ()
    return decisions.key


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Facts, Facts]:
    """Two builds that differ in a few facts."""
    one = Facts(tuple((name, draw(st.sampled_from(values))) for name, values in ALL.items()))
    changed = draw(st.sets(st.sampled_from(sorted(ALL)), max_size=3))
    other = tuple((name, draw(st.sampled_from(ALL[name])) if name in changed else value) for name, value in one.values)
    return one, Facts(other)


@given(pairs())
@settings(max_examples=60)
def test_keys_are_equal_exactly_where_all_that_matters_is(pair: tuple[Facts, Facts]) -> None:
    one, other = pair
    with tempfile.TemporaryDirectory() as folder:
        same = key_of(one, Path(folder)) == key_of(other, Path(folder))
    assert same == (one.what_matters == other.what_matters)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in ALL.items() for value in values[1:]])
def test_each_fact_alone(name: str, value: Any, tmp_path: Path) -> None:
    other = Facts(tuple((each, value if each == name else given) for each, given in FIRST.values))
    assert (key_of(FIRST, tmp_path) != key_of(other, tmp_path)) == (name in MATTERS)


def test_every_setting_of_the_build_is_in_the_key_or_said_not_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new option must be thought about: it changes the key, or it stands here as one that does not."""
    RecordedTensorRT().install(monkeypatch)
    model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) {y = Relu(x)}')
    shared = tmp_path / "lib.so"
    shared.write_bytes(b"code")
    others: dict[str, Any] = {
        "builder_optimization_level": 5,
        "workspace": 64,
        "version_compatible": True,
        "exclude_lean_runtime": True,
        "hardware_compatibility": "ampere+",
        "weight_streaming": True,
        "strip_weights": True,
        "refit": "all",
        "tf32": False,
        "strict_nans": True,
        "max_aux_streams": 2,
        "max_tactics": 3,
        "tiling_optimization_level": "full",
        "profiling_verbosity": "detailed",
        "plugins": [shared],
        "plugins_to_serialize": [shared],
    }
    # Which packaging runs HARS shows in the digests of the plugins; the rest decides how long a build takes.
    outside = {"hars", "timing_cache", "error_on_timing_cache_miss"}
    assert {each.name for each in fields(EngineSettings)} == {*others, *outside}
    base = {"exclude_lean_runtime": {"version_compatible": True}, "plugins_to_serialize": {"version_compatible": True}}
    for name, value in others.items():
        before = EngineSettings(**base.get(name, {}))
        keys = {
            decide(model, profile="n=1", settings=each).decisions.key
            for each in (before, replace(before, **{name: value}))
        }
        assert len(keys) == 2 and None not in keys, name


def test_what_the_parser_gets_is_what_was_counted(tmp_path: Path) -> None:
    model = model_of(FIRST)
    save_onnx(stripped(model), tmp_path / "given.onnx")
    assert graph_sha256(ir.load(tmp_path / "given.onnx")) == graph_sha256(model)
    text = (tmp_path / "given.onnx").read_bytes()
    assert not any(word in text for word in (b"stack trace", b"a remark", b"one", b"trace"))


def test_a_constant_in_an_attribute_counts() -> None:
    def model(value: int, branch: str) -> ir.Model:
        return ir.from_onnx_text(f"""<ir_version: 10, opset_import: ["": 20]>
        g (float[1] x, bool c) => (float[1] y) {{
            k = Constant <value = float[1] {{{value}}}> ()
            y = If (c) <then_branch = t () => (float[1] a) {{ a = {branch}(k) }},
                        else_branch = e () => (float[1] b) {{ b = Neg(x) }}>
        }}""")

    digests = {graph_sha256(model(value, branch)) for value in (1, 2) for branch in ("Abs", "Exp")}
    assert len(digests) == 4


def test_a_model_from_memory_and_its_file_count_as_the_same(tmp_path: Path) -> None:
    """Rewrites leave Python's and NumPy's numbers in attributes; a file has 32 bits of a real one."""
    model = model_of(FIRST)
    node = model.graph.node("own")
    node.attributes["tiny"] = ir.AttrFloat32("tiny", 1e-12)
    node.attributes["tinies"] = ir.AttrFloat32s("tinies", [1e-12, np.float32(0.1)])
    node.attributes["whole"] = ir.AttrInt64("whole", np.int64(3))
    node.attributes["wholes"] = ir.AttrInt64s("wholes", (np.int64(3), 4))
    node.attributes["words"] = ir.AttrStrings("words", ["a", "b"])
    save_onnx(model, tmp_path / "model.onnx")
    loaded = load_onnx(tmp_path / "model.onnx")
    assert graph_sha256(with_plugins(loaded)) == graph_sha256(with_plugins(model))
