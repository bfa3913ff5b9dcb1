"""TensorRT itself, end to end: engines that are built, run and compared. ``pytest -m tensorrt``, or ``make gpu``.

Nothing here has run on the machines where graphwright is developed: the library cannot be installed there. Each test's
docstring says what it checks, and is printed where the test is skipped. docs/tensorrt.md tells what is checked without
the library.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import graphwright as gw
from graphwright.engine.compare import TOLERANCES, Tolerance, compare
from graphwright.errors import BuildError, LoadError, MissingDependencyError, ProfileError, RequestError
from graphwright.plugins.hars import cuda_build
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.plugins.hars.tensorrt_build import build_plugin
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.tensorrt import library
from graphwright.runtime.tensorrt.scratch import SharedScratch
from graphwright.runtime.tensorrt.session import TensorRTSession

pytestmark = pytest.mark.tensorrt

WIDTH = 64
BLOCK = f"""
    <ir_version: 10, opset_import: ["" : 20]>
    block (float[batch, seq, {WIDTH}] x, float[{WIDTH}, {WIDTH}] w, float[{WIDTH}] g, float[{WIDTH}] b)
        => (float[batch, seq, {WIDTH}] y) {{
        query = MatMul (x, w)
        key = Transpose <perm = [0, 2, 1]> (x)
        scores = MatMul (query, key)
        shares = Softmax <axis = -1> (scores)
        mixed = MatMul (shares, x)
        sum = Add (mixed, x)
        y = LayerNormalization <axis = -1> (sum, g, b)
    }}"""
SEARCH = """
    <ir_version: 10, opset_import: ["" : 20, "hars" : 1]>
    search (float[batch, vocabulary] x, float[batch, 64] scores)
        => (float[batch, 8] values, int64[batch, 8] indices, float[batch, 6] weights, int64[batch, 6] experts) {
        values, indices = hars.softmax_topk <k = 8, temperature = 0.7> (x)
        weights, experts = hars.router_topk <k = 6, scoring = "sigmoid", renormalize = 1> (scores)
    }"""
NONZERO = """
    <ir_version: 10, opset_import: ["" : 20]>
    places (float[n, 8] x) => (int64[2, count] y) { y = NonZero (x) }"""
PROFILE = "batch=1:4:16,seq=1:16:64"
POINTS = [(1, 1), (4, 16), (16, 64), (3, 7)]
# TensorRT chooses kernels that add up in another order; float is exact to 2e-5 on one machine, not between two.
ENGINE = {**TOLERANCES, ir.DataType.FLOAT: Tolerance(1e-5, 2e-4)}


@pytest.fixture(autouse=True)
def _library(request: pytest.FixtureRequest) -> None:
    skip_without_library(request)


def skip_without_library(request: pytest.FixtureRequest) -> None:
    """Skip without the library or the device, and say what is lost."""
    about = " ".join(str(request.function.__doc__).split())
    try:
        if library.tensorrt_library().get_plugin_registry() is None:
            pytest.skip(f"TensorRT's bindings are without the library; would have checked: {about}")
        library.device()
    except MissingDependencyError as error:
        pytest.skip(f"{error.where}: {error.found}; would have checked: {about}")


def block(seed: int = 0) -> ir.Model:
    model = ir.from_onnx_text(BLOCK)
    random = np.random.default_rng(seed)
    for value in list(model.graph.inputs)[1:]:
        assert value.shape is not None
        # Small weights keep the scores small: shares that are nearly 0 and 1 would make any rounding a large one.
        content = random.normal(size=value.shape.numpy()).astype(np.float32) / (32 if len(value.shape) == 2 else 1)
        value.const_value = ir.tensor(content, name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    return model


def request_of(batch: int, seq: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(batch * 100 + seq).normal(size=(batch, seq, WIDTH)).astype(np.float32)}


def same(found: dict[str, Any], expected: dict[str, Any], tolerances: Any = ENGINE) -> None:
    assert compare(expected, found, tolerances) == []


Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Build plans without a cache, at a level that does not take long; TF32 off, so that numbers can be compared."""
    count = iter(range(100))

    def built(model: object, profile: str | None = PROFILE, **flags: Any) -> Path:
        options = {"builder_optimization_level": 1, "tf32": False, "cache": False, "progress": False} | flags
        return gw.build_engine(model, tmp_path / f"{next(count)}.plan", profile=profile, **options).path

    yield built


def test_an_engine_gives_the_numbers_of_onnx_runtime(build: Build) -> None:
    """An attention block built with one profile gives ONNX Runtime's numbers at min, opt, max and between."""
    model = block()
    session, reference = TensorRTSession(build(model)), OrtSession(model)
    for batch, seq in POINTS:
        same(session(request_of(batch, seq)), reference(request_of(batch, seq)))


def test_several_profiles_and_what_none_allows(build: Build) -> None:
    """Requests run in the profile that fits; one outside of every profile is refused, and the session still works."""
    model = block()
    session = TensorRTSession(build(model, "batch=1:1:2,seq=1:8:16;batch=8:8:16,seq=32:64:64"))
    for batch, seq in [(2, 16), (16, 64), (1, 1), (8, 32)]:
        same(session(request_of(batch, seq)), OrtSession(model)(request_of(batch, seq)))
    with pytest.raises(RequestError):
        session(request_of(4, 20))
    same(session(request_of(1, 8)), OrtSession(model)(request_of(1, 8)))


def test_the_sidecar_says_what_the_engine_is(build: Build) -> None:
    """What the sidecar says of inputs, outputs, profiles and the library is what the engine says of itself."""
    from graphwright.runtime.tensorrt.sidecar import Sidecar

    plan = build(block())
    sidecar, session = Sidecar.read(plan), TensorRTSession(plan)
    assert [port.name for port in sidecar.inputs] == ["x"] and [port.name for port in session.outputs] == ["y"]
    assert sidecar.tensorrt == library.tensorrt_library().__version__
    assert sidecar.profiles[0]["x"] == {"min": (1, 1, WIDTH), "opt": (4, 16, WIDTH), "max": (16, 64, WIDTH)}
    assert session.profile.shapes("max") == {"x": (16, 64, WIDTH)}


def test_the_cache_and_the_timing_cache(tmp_path: Path) -> None:
    """A second build of the same takes the first one's plan; another setting does not; the timing cache is written."""
    options: dict[str, Any] = {"profile": PROFILE, "cache": tmp_path / "cache", "progress": False}
    options |= {"timing_cache": tmp_path / "timing", "builder_optimization_level": 1}
    first, second = (gw.build_engine(block(), **options) for _ in range(2))
    assert not first.was_cached and second.was_cached and first.path == second.path
    assert (tmp_path / "timing").stat().st_size > 0
    assert not gw.build_engine(block(), **options | {"strict_nans": True}).was_cached


def test_progress_is_told_and_stops_a_build(tmp_path: Path) -> None:
    """The builder's monitor tells phases and steps; an interrupt in it ends the build, and leaves no plan."""
    heard: list[tuple[str, int, int]] = []
    gw.build_engine(block(), tmp_path / "a.plan", profile=PROFILE, cache=False, progress=lambda *it: heard.append(it))
    assert len(heard) > 3

    def stop(what: str, done: int, total: int) -> None:
        if len(heard) > 2:
            raise KeyboardInterrupt
        heard.append((what, done, total))

    with pytest.raises(KeyboardInterrupt):
        gw.build_engine(block(), tmp_path / "b.plan", profile=PROFILE, cache=False, progress=stop)
    assert not (tmp_path / "b.plan").exists()


def test_cuda_graphs(build: Build) -> None:
    """Recorded launches give the same numbers again, for shapes in turn and with other values."""
    model = block()
    session, reference = TensorRTSession(build(model), cuda_graphs=True), OrtSession(model)
    for batch, seq in POINTS * 3:
        given = {"x": request_of(batch, seq)["x"] * np.float32(1 + batch / 10)}
        same(session(given), reference(given))


def test_engines_share_scratch(build: Build) -> None:
    """Two engines that run in turn with one buffer give the numbers that each gives alone."""
    models, scratch = [block(0), block(1)], SharedScratch()
    sessions = [TensorRTSession(build(model), scratch=scratch) for model in models]
    for _ in range(3):
        for model, session in zip(models, sessions, strict=True):
            same(session(request_of(16, 64)), OrtSession(model)(request_of(16, 64)))


def test_torch_tensors_stay_on_the_device(build: Build) -> None:
    """torch tensors on the device are read in place, results are such tensors, in the order of the current stream."""
    torch = pytest.importorskip("torch", reason="needs torch")
    model = block()
    session, given = TensorRTSession(build(model)), request_of(4, 16)
    with torch.cuda.stream(torch.cuda.Stream()):
        found = session({"x": torch.from_numpy(given["x"]).cuda() * 1})["y"]
        assert found.is_cuda and not torch.isnan(found).any()
        same({"y": found.cpu().numpy()}, OrtSession(model)(given))


def test_an_output_whose_shape_the_data_decides(build: Build) -> None:
    """An output allocator gives NonZero's result its size, none and all among them."""
    session = TensorRTSession(build(ir.from_onnx_text(NONZERO), "n=1:4:8"))
    for rows, value in [(4, 1.0), (8, 0.0), (1, 1.0)]:
        given = np.full((rows, 8), value, np.float32)
        np.testing.assert_array_equal(session(x=given)["y"], np.array(given.nonzero()))


def test_a_plan_without_weights_gets_them_back(build: Build, tmp_path: Path) -> None:
    """A stripped plan is smaller, is refused without its weights, and runs with them; refit takes another model's."""
    models = [block(0), block(1)]
    for number, model in enumerate(models):
        ir.save(model, tmp_path / f"{number}.onnx")
    stripped, free = build(models[0], strip_weights=True), build(models[0], refit="all")
    with pytest.raises(LoadError, match="weights"):
        TensorRTSession(stripped)
    given = request_of(4, 16)
    same(TensorRTSession(stripped, weights=tmp_path / "0.onnx")(given), OrtSession(models[0])(given))
    same(TensorRTSession(free, weights=tmp_path / "1.onnx")(given), OrtSession(models[1])(given))


@pytest.mark.parametrize("flags", [{"version_compatible": True}, {"hardware_compatibility": "ampere+"}], ids=str)
def test_compatible_plans_run_here_too(build: Build, flags: dict[str, Any]) -> None:
    """A plan for other versions or other devices gives the same numbers on this one."""
    model = block()
    same(TensorRTSession(build(model, **flags))(request_of(3, 7)), OrtSession(model)(request_of(3, 7)))


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other"])
def test_a_broken_plan_is_refused(build: Build, damage: str) -> None:
    """A plan that is cut, changed, empty or none gives LoadError, no crash."""
    content = build(block()).read_bytes()
    # Past its first bytes a plan may be weights, which are any bytes.
    flipped = bytes(255 - byte for byte in content[:64]) + content[64:]
    broken = {"cut": content[: len(content) // 2], "changed": flipped, "empty": b"", "other": b"no plan at all" * 100}
    with pytest.raises(LoadError):
        TensorRTSession(broken[damage])


def test_what_cannot_be_built_is_refused(build: Build) -> None:
    """A node that TensorRT has not, and a profile that does not fit, are errors that name them."""
    text = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (int64[m] y) { v, y = Unique (x) }'
    with pytest.raises(BuildError, match="Unique"):
        build(ir.from_onnx_text(text), "n=1:2:4")
    with pytest.raises(ProfileError):
        build(block(), "batch=4:2:8,seq=1:2:4")


@pytest.fixture
def hars_options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param == "quick":
        return {"hars": "quick"}
    headers = os.environ.get("TENSORRT_HEADERS")
    if headers is None:
        pytest.skip("TENSORRT_HEADERS names no folder with NvInferRuntime.h; would have checked: the plugin library")
    return {"hars": "library", "plugins": [build_plugin(headers, tmp_path / "libhars.so", cuda_build.capabilities())]}


@pytest.mark.parametrize("hars_options", ["quick", "library"], indirect=True)
def test_hars_in_an_engine(build: Build, hars_options: dict[str, Any]) -> None:
    """HARS nodes become plugins in either packaging; indices are exact, and one k stays right over changing shapes."""
    model = ir.from_onnx_text(SEARCH)
    reference = model.clone()
    attach_bodies(reference)
    plan = build(model, "batch=1:4:32,vocabulary=1000:32000:128256", **hars_options)
    session = TensorRTSession(plan, plugins=hars_options.get("plugins", ()))
    expected = OrtSession(reference, kernels=False)
    random = np.random.default_rng(3)
    for batch, vocabulary in [(1, 128256), (32, 1000), (4, 32003)]:
        shapes = {"x": (batch, vocabulary), "scores": (batch, 64)}
        given = {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        same(session(given), expected(given))


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", ir.DataType.FLOAT16), ("bf16", ir.DataType.BFLOAT16)])
def test_a_graph_of_a_narrower_type(build: Build, precision: Any, dtype: ir.DataType) -> None:
    """A graph that the precision pass made narrow stays within that type's tolerance of float32."""
    artifact = gw.optimize(block(), profile=PROFILE, target="tensorrt", precision=precision, progress=False)
    session = TensorRTSession(build(artifact, None))
    for batch, seq in POINTS:
        expected = OrtSession(block())(request_of(batch, seq))
        same(session(request_of(batch, seq)), expected, {ir.DataType.FLOAT: TOLERANCES[dtype]})
