"""Sessions in OpenVINO: numbers beside torch's, requests, threads, and artifacts for the target.

What needs the package says so where it is skipped; what must hold without it runs everywhere.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

import graphwright as gw
from graphwright import doctor
from graphwright.engine.compare import TOLERANCES, compare
from graphwright.engine.deviation import deviations
from graphwright.errors import LoadError, MissingDependencyError, ProfileError, RequestError, UsageError
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime import openvino_engines
from graphwright.runtime.openvino import OpenVINOSession
from graphwright.runtime.openvino_engines import is_available
from graphwright.runtime.ort import OrtSession

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
each_engine = pytest.mark.parametrize(
    "engine",
    [
        pytest.param(name, marks=pytest.mark.skipif(not is_available(name), reason=f"no {name} of OpenVINO here"))
        for name in openvino_engines.ENGINES
    ],
)

SIZES = {"vocab_size": 100, "num_hidden_layers": 2}
PROFILE = "batch=1:2:4,seq=1:16:48"
# None of them is one that the models are traced at; the last two have padding on either side.
SHAPES = ((1, 1), (1, 23), (2, 7), (3, 48))


def model_of(body: str, domains: str = "", functions: str = "") -> ir.Model:
    return ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 20{domains}]> g {body} {functions}')


def relu() -> ir.Model:
    return model_of("(float[n, 2] x) => (float[n, 2] y) {y = Relu(x)}")


def bert() -> nn.Module:
    return BertModel(BertConfig(hidden_size=64, num_attention_heads=4, intermediate_size=96, **SIZES))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(n_embd=64, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2, **SIZES))


@cache
def perturbed(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(7)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@cache
def traced(make: Callable[[], nn.Module]) -> gw.Artifact:
    return gw.optimize(perturbed(make), profile=PROFILE, target="openvino", verify="off", progress=False)


def padded(names: list[str], batch: int, seq: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 100, (batch, seq), generator=torch.Generator().manual_seed(seq))
    mask = torch.ones_like(ids)
    if batch > 1:
        mask[0, : seq // 2], mask[1, seq - seq // 3 :] = 0, 0
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return {name: given[name] for name in names}


def both(make: Callable[[], nn.Module], session: OpenVINOSession, batch: int, seq: int) -> tuple[Any, Any]:
    """What torch gives, and the session: one batch, padding left and right."""
    given = padded([port.name for port in session.profile.inputs], batch, seq)
    with torch.no_grad():
        due = perturbed(make)(**given)
    got = session(given)
    assert all(isinstance(value, torch.Tensor) for value in got.values())
    return {name: due[name].numpy() for name in got}, {name: value.numpy() for name, value in got.items()}


@each_engine
@pytest.mark.parametrize("make", [bert, gpt2])
def test_float32_is_torchs_within_the_table(make: Callable[[], nn.Module], engine: str) -> None:
    session = OpenVINOSession(traced(make).model, PROFILE, threads=1, engine=engine)
    for shape in SHAPES:
        assert compare(*both(make, session, *shape)) == []


@each_engine
@pytest.mark.parametrize("make", [bert, gpt2])
def test_bfloat16_is_off_by_no_more_than_its_tolerance(make: Callable[[], nn.Module], engine: str) -> None:
    session = OpenVINOSession(traced(make).model, PROFILE, threads=1, precision="bf16", engine=engine)
    allowed = {ir.DataType.FLOAT: TOLERANCES[ir.DataType.BFLOAT16]}
    for shape in SHAPES:
        assert compare(*both(make, session, *shape), allowed) == []


@needs_openvino
def test_bfloat16_rounds_where_the_cpu_has_it() -> None:
    if "BF16" not in __import__("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    session = OpenVINOSession(traced(bert).model, PROFILE, precision="bf16")
    assert max(each.relative for each in deviations(*both(bert, session, 2, 7))) > 1e-4


@needs_openvino
def test_an_artifact_is_verified_saved_loaded_and_runs_in_its_precision(tmp_path: Path) -> None:
    model = model_of("(float[n, 64] x, float[64, 8] w) => (float[n, 8] y) {y = MatMul(x, w)}")
    made = gw.optimize(model, profile="n=1:2:4", target="openvino", precision="bf16", verify="region", progress=False)
    assert made.report.verification is not None
    assert made.report.verification.by_design == {"bf16 in OpenVINO": 1}
    assert made.report.verification.kept_relative < 2e-5
    assert [each.output for each in made.report.verification.deviations] == ["y"]
    made.save(tmp_path / "a")
    back = gw.load(tmp_path / "a")
    random = np.random.default_rng(1)
    given = {"x": random.normal(size=(3, 64)).astype(np.float32), "w": random.normal(size=(64, 8)).astype(np.float32)}
    assert isinstance(back.session(threads=1), OpenVINOSession)
    np.testing.assert_array_equal(back(given)["y"], made(given)["y"])
    plain = OrtSession(made.model, "n=1:2:4")(given)
    assert compare(plain, back(given), {ir.DataType.FLOAT: TOLERANCES[ir.DataType.BFLOAT16]}) == []
    back.save(tmp_path / "a")
    assert back(given)["y"].shape == (3, 8)


@needs_openvino
def test_the_search_for_the_largest_runs_in_standard_operators() -> None:
    text = '(float[n, 32] x) => (float[n, 3] v, int64[n, 3] i) {v, i = hars.softmax_topk<k = 3, mode = "prob">(x)}'
    model = model_of(text, ', "hars": 1')
    attach_bodies(model)
    made = gw.optimize(model, profile="n=1:2:4", target="openvino", progress=False)
    assert "TopK" in made.report.after.operators
    assert all("." not in name for name in made.report.after.operators)
    x = np.random.default_rng(2).permutation(64).astype(np.float32).reshape(2, 32) / 16
    assert compare(OrtSession(model)(x=x), made(x=x)) == []


@each_engine
def test_functions_are_inlined_as_openvino_knows_no_bodies(engine: str) -> None:
    body = '<domain: "their", opset_import: ["": 20]> Twice (a) => (b) {b = Add(a, a)}'
    model = model_of("(float[n] x) => (float[n] y) {y = their.Twice(x)}", ', "their": 1', body)
    assert OpenVINOSession(model, engine=engine)(x=np.float32([1, 2]))["y"].tolist() == [2, 4]


@needs_openvino
def test_an_artifacts_file_is_read_as_the_model_is(tmp_path: Path) -> None:
    ir.save(relu(), tmp_path / "m.onnx")
    x = np.float32([[-1, 2]])
    assert OpenVINOSession(tmp_path / "m.onnx", "n=1:2:4")(x=x)["y"].tolist() == [[0, 2]]


@needs_openvino
def test_numpy_in_numpy_out_and_torch_in_torch_out_on_memory_of_their_own() -> None:
    session = OpenVINOSession(relu(), "n=1:2:4")
    x = np.float32([[-1, 2], [3, -4]])
    x.flags.writeable = False
    first = session({"x": x})["y"]
    second = session(x=torch.tensor([[5.0, 6.0]]))["y"]
    assert isinstance(second, torch.Tensor) and second.tolist() == [[5, 6]]
    assert first.tolist() == [[0, 2], [3, 0]]
    assert session(x=np.ones((2, 4), np.float32)[:, ::2])["y"].tolist() == [[1, 1], [1, 1]]


@needs_openvino
def test_a_sequence_of_one_does_not_spoil_the_longer_ones_behind_it() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    torch.manual_seed(0)
    layer = Layer().eval()
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("seq")}
    program = torch.onnx.export(layer, (torch.ones(2, 7, 32),), dynamo=True, dynamic_shapes=(sizes,), verbose=False)
    assert program is not None
    session = OpenVINOSession(program.model)
    for length in (1, 16):
        x = torch.randn(4, length, 32)
        (found,) = session({session.profile.inputs[0].name: x}).values()
        with torch.inference_mode():
            torch.testing.assert_close(found, layer(x), rtol=1e-4, atol=1e-5)


@each_engine
def test_several_threads_get_their_own_numbers(engine: str) -> None:
    session = OpenVINOSession(relu(), "n=1:64:512", engine=engine)
    sizes = [1 + 37 * index % 500 for index in range(60)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: session(x=np.full((n, 2), n, np.float32))["y"], sizes))
    assert all(y.shape == (n, 2) and (y == n).all() for n, y in zip(sizes, found, strict=True))


@each_engine
def test_inputs_that_are_outputs_and_inputs_that_nothing_reads_are_served(engine: str) -> None:
    session = OpenVINOSession(
        model_of("(float[n] x, float[n] unused) => (float[n] y, float[n] x) {y = Relu(x)}"), engine=engine
    )
    x = np.float32([-1, 2])
    got = session(x=x, unused=x)
    assert got["y"].tolist() == [0, 2] and got["x"].tolist() == [-1, 2]
    assert not np.shares_memory(got["x"], x)


@needs_openvino
def test_requests_outside_the_profile_are_refused() -> None:
    session = OpenVINOSession(relu(), "n=1:2:4")
    with pytest.raises(RequestError, match="n = 5"):
        session(x=np.zeros((5, 2), np.float32))
    with pytest.raises(RequestError, match="given twice"):
        session({"x": np.zeros((1, 2), np.float32)}, x=np.zeros((1, 2), np.float32))
    with pytest.raises(RequestError, match="type double"):
        session(x=np.zeros((1, 2)))


@needs_openvino
def test_several_profiles_bound_the_sizes_together() -> None:
    session = OpenVINOSession(relu(), "n=1:2:4;n=16:16:32")
    for size in (4, 32):
        assert session(x=np.ones((size, 2), np.float32))["y"].shape == (size, 2)
    with pytest.raises(RequestError, match="outside every profile"):
        session(x=np.ones((9, 2), np.float32))


@each_engine
@pytest.mark.parametrize("number", [2**31, -(2**31) - 1])
def test_integers_that_openvino_would_cut_off_are_refused(number: int, engine: str) -> None:
    session = OpenVINOSession(model_of("(int64[n] x) => (int64[n] y) {y = Identity(x)}"), engine=engine)
    with pytest.raises(RequestError, match="32 bits"):
        session(x=np.array([0, number]))
    edge = np.array([2**31 - 1, -(2**31)])
    assert session(x=edge)["y"].tolist() == edge.tolist()


@needs_openvino
def test_a_default_cannot_be_overridden_and_is_used() -> None:
    default = ir.tensor(np.float32([1, 2]))
    model = model_of("(float[2] x, float[2] w) => (float[2] y) {y = Add(x, w)}")
    model.graph.inputs[1].const_value = default
    model.graph.register_initializer(model.graph.inputs[1])
    session, x = OpenVINOSession(model), np.float32([10, 20])
    assert session(x=x)["y"].tolist() == [11, 22]
    with pytest.raises(RequestError, match="keeps its default"):
        session(x=x, w=x)


@each_engine
def test_a_node_that_refuses_the_values_is_an_error_of_the_request(engine: str) -> None:
    model = model_of("(float[a, b] x, float[c, d] z) => (float[a, d] y) {y = MatMul(x, z)}")
    with pytest.raises(RequestError, match="incompatible") as caught:
        OpenVINOSession(model, engine=engine)(x=np.ones((2, 3), np.float32), z=np.ones((2, 2), np.float32))
    assert ".cpp" not in str(caught.value)


@needs_openvino
@pytest.mark.parametrize(
    ("model", "found"),
    [
        (lambda: model_of("(float[n] x) => (float[n] y) {y = their.Strange(x)}", ', "their": 1'), "their.Strange"),
        (lambda: model_of("(string[n] x) => (string[n] y) {y = Identity(x)}"), "string"),
        (lambda: model_of("(bfloat16[n] x) => (bfloat16[n] y) {y = Relu(x)}"), "bfloat16"),
    ],
)
def test_a_model_that_openvino_cannot_run_is_refused(model: Callable[[], ir.Model], found: str) -> None:
    with pytest.raises(LoadError, match=found) as caught:
        OpenVINOSession(model())
    assert ".cpp" not in str(caught.value) and caught.value.exit_code == 3


@needs_openvino
def test_options_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ProfileError):
        OpenVINOSession(relu(), "rows=1:2:4")
    with pytest.raises(ProfileError, match="bound to inputs"):
        OpenVINOSession(relu(), OpenVINOSession(model_of("(int32[n] z) => (int32[n] y) {y = Neg(z)}")).profile)
    with pytest.raises(UsageError, match="fp32 or bf16"):
        OpenVINOSession(relu(), precision="int4")


def test_a_precision_that_the_target_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="fp32 or bf16"):
        gw.optimize(relu(), target="openvino", precision="fp16", progress=False)


def test_without_the_package_a_model_is_made_and_checked_but_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(openvino_engines, "provider_devices", lambda: ())
    monkeypatch.setattr("graphwright.compilation.run.has_provider_for", lambda target: target != "openvino")
    made = gw.optimize(relu(), profile="n=1:2:4", target="openvino", precision="bf16", progress=False)
    assert made.report.verification is not None and made.report.verification.points
    assert "not installed" in made.report.verification.unverified[0]
    with pytest.raises(MissingDependencyError, match=r"pip install graphwright\[openvino\]") as caught:
        made(x=np.zeros((1, 2), np.float32))
    assert caught.value.exit_code == 4


def test_a_library_that_does_not_load_is_as_if_it_were_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, path: str) -> None:
        raise RuntimeError("built for another version")

    package = SimpleNamespace(get_library_path=lambda: "nowhere.so", __spec__=object())
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_openvino", package)
    monkeypatch.setattr("onnxruntime.register_execution_provider_library", refuse)
    monkeypatch.setattr(openvino_engines, "provider_devices", openvino_engines.provider_devices.__wrapped__)
    assert openvino_engines.provider_devices() == ()
    assert not openvino_engines.is_available("provider")


def test_the_provider_serves_where_it_lists_a_device_and_the_package_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(openvino_engines, "provider_devices", lambda: (object(),))
    assert [name for name in openvino_engines.ENGINES if is_available(name)] == ["provider"]
    assert openvino_engines.engine_named(None) is openvino_engines.ProviderEngine
    with pytest.raises(MissingDependencyError, match="no package openvino"):
        OpenVINOSession(relu(), engine="package")
    monkeypatch.setattr(openvino_engines, "provider_devices", lambda: ())
    with pytest.raises(MissingDependencyError, match="no device"):
        OpenVINOSession(relu(), engine="provider")
    with pytest.raises(UsageError, match="package or provider"):
        OpenVINOSession(relu(), engine="another")


def test_doctor_tells_of_the_package() -> None:
    found = next(one for one in doctor.examine() if one.name == "openvino")
    assert bool(found.found) == (find_spec("openvino") is not None)
    assert "graphwright[openvino]" in found.install
