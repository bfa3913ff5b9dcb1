"""ONNX Runtime's TensorRT provider: its options, and sessions that ask for it. What it does with them is not run."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from graphwright.errors import LoadError, MissingDependencyError, ProfileError, UsageError
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.ort_load import Options
from graphwright.runtime.tensorrt.ort_provider import NAME, OrtTensorRT

# The keys that the provider of onnxruntime-gpu 1.31.1 knows, of those that are used here.
KNOWN = {
    *("device_id", "trt_extra_plugin_lib_paths", "trt_op_types_to_exclude", "trt_max_workspace_size"),
    *("trt_builder_optimization_level", "trt_cuda_graph_enable", "trt_engine_cache_enable", "trt_engine_cache_path"),
    *("trt_engine_cache_prefix", "trt_timing_cache_enable", "trt_timing_cache_path", "trt_fp16_enable"),
    *("trt_bf16_enable", "trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"),
}
PROFILE = "batch=1:2:4,seq=1:8:16"


def model(weight: float = 2.0, name: str = "x", last: int = 4, to: str = "") -> ir.Model:
    body = f"y = Mul({name}, w)" if not to else f"a = Cast<to = {to}>({name}) b = Cast<to = 1>(a) y = Mul(b, w)"
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[batch, seq, {last}] {name}) => '
        f"(float[batch, seq, {last}] y) <float[1] w = {{{weight}}}> {{ {body} }}"
    )


def options_of(made: ir.Model, provider: OrtTensorRT | None = None, profile: str | None = PROFILE) -> dict[str, str]:
    found = (provider or OrtTensorRT()).prepared(made, profile, Options(), "ort-cuda")[1].first
    assert found is not None and found.name == NAME and set(found.options) <= KNOWN
    return dict(found.options)


def graph_name(made: ir.Model, provider: OrtTensorRT | None = None, profile: str = PROFILE) -> str:
    return str((provider or OrtTensorRT()).prepared(made, profile, Options(), "ort-cuda")[0].graph.name)


def test_the_profile_is_spelled_as_the_provider_reads_it() -> None:
    found = options_of(model())
    spelled = [found[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")]
    assert spelled == ["x:1x1x4", "x:2x8x4", "x:4x16x4"]


def test_several_profiles_become_one_that_holds_them_all() -> None:
    found = options_of(model(), profile="batch=2:2:4,seq=4:8:16;batch=1:1:1,seq=16:128:512")
    spelled = [found[f"trt_profile_{which}_shapes"] for which in ("min", "opt", "max")]
    assert spelled == ["x:1x4x4", "x:2x8x4", "x:4x512x4"]


def test_without_a_profile_the_provider_finds_the_shapes_itself() -> None:
    assert not any("profile" in name for name in options_of(model(), profile=None))


def test_a_name_that_the_option_cannot_hold_is_refused() -> None:
    named = model()
    named.graph.inputs[0].name = "a:b"
    with pytest.raises(ProfileError, match="a:b"):
        options_of(named)


def test_every_option_reaches_the_provider(tmp_path: Path) -> None:
    library = tmp_path / "mine.so"
    library.write_bytes(b"plugins")
    given = OrtTensorRT(
        cache=tmp_path,
        plugins=[library],
        exclude=["softmax_topk"],
        workspace=1 << 30,
        builder_optimization_level=4,
        cuda_graphs=True,
        device=1,
    )
    found = options_of(model(), given)
    assert set(found) == KNOWN - {"trt_fp16_enable", "trt_bf16_enable"}
    assert found["trt_extra_plugin_lib_paths"] == str(library.resolve())
    assert (found["device_id"], found["trt_op_types_to_exclude"]) == ("1", "softmax_topk")
    assert found["trt_max_workspace_size"] == str(1 << 30)
    assert found["trt_engine_cache_path"] == found["trt_timing_cache_path"] == str(tmp_path.resolve())


def test_no_cache_is_no_cache() -> None:
    assert not any("cache" in name for name in options_of(model(), OrtTensorRT(cache=False)))


@pytest.mark.parametrize(("to", "option"), [("10", "trt_fp16_enable"), ("16", "trt_bf16_enable")])
def test_the_types_of_the_graph_are_allowed_and_no_others(to: str, option: str) -> None:
    found = options_of(model(to=to))
    assert found[option] == "True" and len({"trt_fp16_enable", "trt_bf16_enable"} & set(found)) == 1


def test_the_name_of_the_graph_changes_with_all_that_changes_the_engine(tmp_path: Path) -> None:
    libraries = [tmp_path / name for name in ("a.so", "b.so")]
    libraries[0].write_bytes(b"one")
    libraries[1].write_bytes(b"two")
    names = [
        graph_name(model()),
        graph_name(model(weight=3.0)),
        graph_name(model(last=5)),
        graph_name(model(), profile="batch=1:2:4,seq=1:8:17"),
        graph_name(model(), OrtTensorRT(builder_optimization_level=1)),
        *(graph_name(model(), OrtTensorRT(plugins=[path])) for path in libraries),
    ]
    assert len(set(names)) == len(names)


def test_the_name_of_the_graph_stays_where_nothing_matters(tmp_path: Path) -> None:
    same = model()
    same.graph.name, same.producer_name, same.graph.doc_string = "other", "someone", "why"
    assert graph_name(same) == graph_name(model()) == graph_name(model(), OrtTensorRT(cache=tmp_path))
    assert options_of(model())["trt_engine_cache_prefix"] == graph_name(model())
    assert same.graph.name == "other"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"builder_optimization_level": 6}, "0 to 5"),
        ({"workspace": 0}, "at least 1"),
        ({"plugins": ["a;b.so"]}, "semicolon"),
    ],
)
def test_values_that_it_would_not_take(given: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        OrtTensorRT(**given)


def test_a_plugin_library_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MissingDependencyError, match=r"none\.so"):
        options_of(model(), OrtTensorRT(plugins=[tmp_path / "none.so"]))


def test_a_session_without_the_provider_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(MissingDependencyError, match=f"needed {NAME}; try: install onnxruntime-gpu"):
        OrtSession(model(), PROFILE, target="ort-cuda", tensorrt=OrtTensorRT())


def test_it_goes_with_target_cuda_only() -> None:
    with pytest.raises(UsageError, match="target ort-cpu; needed target ort-cuda"):
        OrtSession(model(), PROFILE, tensorrt=OrtTensorRT())


class SessionDouble:
    """A session on the CPU that says it runs on the providers it was asked for, and remembers them."""

    asked: Any = None
    # What is left of them where a library does not load.
    loads = True

    def __init__(self, source: Any, options: Any, providers: Any) -> None:
        type(self).asked = providers
        self.session = REAL(source, options, providers=["CPUExecutionProvider"])

    def get_providers(self) -> list[str]:
        names = [each if isinstance(each, str) else each[0] for each in self.asked]
        return names if self.loads else names[1:]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


REAL = onnxruntime.InferenceSession


@pytest.fixture
def session_double(monkeypatch: pytest.MonkeyPatch) -> type[SessionDouble]:
    names = [NAME, "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", SessionDouble)
    monkeypatch.setattr(SessionDouble, "loads", True)
    return SessionDouble


def test_a_session_asks_for_it_before_cuda_and_the_cpu(session_double: type[SessionDouble], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    ir.save(model(), path)
    for source in (model(), path):
        session = OrtSession(source, PROFILE, target="ort-cuda", tensorrt=OrtTensorRT(cache=tmp_path))
        x = np.ones((2, 3, 4), np.float32)
        np.testing.assert_array_equal(session(x=x)["y"], x * 2)
        first, *others = session_double.asked
        assert first[0] == NAME and first[1]["trt_profile_max_shapes"] == "x:4x16x4"
        assert others == ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_a_provider_that_does_not_load_is_an_error(
    session_double: type[SessionDouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_double, "loads", False)
    with pytest.raises(MissingDependencyError, match=f"found CUDAExecutionProvider; needed {NAME}"):
        OrtSession(model(), PROFILE, target="ort-cuda", tensorrt=OrtTensorRT(cache=False))


def test_a_path_without_a_model(session_double: type[SessionDouble], tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="no model"):
        OrtSession(tmp_path / "none.onnx", PROFILE, target="ort-cuda", tensorrt=OrtTensorRT())
