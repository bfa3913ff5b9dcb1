"""Plans as torch modules: torch-tensorrt's where it fits, by a double of it, else our own."""

import hashlib
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest

torch = pytest.importorskip("torch")

from graphwright.errors import LoadError, MissingDependencyError, RequestError, UsageError  # noqa: E402
from graphwright.runtime.signature import Port  # noqa: E402
from graphwright.runtime.tensorrt.library import Device  # noqa: E402
from graphwright.runtime.tensorrt.settings import EngineSettings  # noqa: E402
from graphwright.runtime.tensorrt.sidecar import Sidecar  # noqa: E402
from graphwright.runtime.tensorrt.torch_module import EngineModule, as_torch_module  # noqa: E402
from tests.runtime.tensorrt import networks  # noqa: E402
from tests.runtime.tensorrt.networks import expected, request  # noqa: E402
from tests.runtime.tensorrt.runtime_double import VERSION, TensorRTDouble  # noqa: E402


class TorchTensorRTModuleDouble(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, engine: bytes, inputs: list[str], outputs: list[str], *, name: str, settings: Any) -> None:
        super().__init__()
        self.made_of = (engine, inputs, outputs, name, settings)


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """A double of torch-tensorrt that was built for a version of TensorRT."""
    names = (
        "torch_tensorrt",
        "torch_tensorrt._version",
        "torch_tensorrt.dynamo",
        "torch_tensorrt.dynamo.runtime",
    )
    package, versions, dynamo, runtime = (ModuleType(name) for name in names)
    vars(package).update(Device=SimpleNamespace, dynamo=dynamo)
    vars(versions).update(__tensorrt_version__=version)
    vars(dynamo).update(CompilationSettings=SimpleNamespace, runtime=runtime)
    vars(runtime).update(TorchTensorRTModule=TorchTensorRTModuleDouble)
    for name, module in zip(names, (package, versions, dynamo, runtime), strict=True):
        module.__spec__ = ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)


def sidecar_of(plan: bytes) -> Sidecar:
    shapes = {
        "x": {"min": (1, 1, 4), "opt": (2, 8, 4), "max": (4, 16, 4)},
        "ids": {"min": (1, 1), "opt": (2, 8), "max": (4, 16)},
    }
    ports = (Port("x", ir.DataType.FLOAT, ("batch", "seq", 4)), Port("ids", ir.DataType.INT64, ("batch", "seq")))
    outputs = (Port("y", ir.DataType.FLOAT, ("batch", "seq", 4)), Port("total", ir.DataType.FLOAT, ("batch", "seq")))
    digest, device = hashlib.sha256(plan).hexdigest(), Device("NVIDIA H200", "9.0", "13.0")
    made = Sidecar("key", "onnx", digest, "0.1.0", VERSION, device, (shapes,), ports, outputs)
    return replace(made, flags=EngineSettings().to_json())


def test_our_own_module_takes_tensors_in_order_or_by_name(trt: TensorRTDouble) -> None:
    module = as_torch_module(trt.plan(networks.sums()))
    assert isinstance(module, EngineModule)
    given, wanted = request(), expected(request())
    x, ids = torch.from_numpy(given["x"]), torch.from_numpy(given["ids"])
    for found in (module(x, ids), module(x, ids=ids), module(ids=ids, x=x)):
        assert isinstance(found, tuple)
        assert torch.equal(found[0], torch.from_numpy(wanted["y"]))
        assert torch.equal(found[1], torch.from_numpy(wanted["total"]))


def test_one_output_is_no_tuple(trt: TensorRTDouble) -> None:
    network = networks.cache()
    network.outputs = {"sum": network.outputs["sum"]}
    network.compute = lambda given: {"sum": given["cache"].sum(keepdims=True)}
    module = as_torch_module(trt.plan(network))
    assert torch.equal(module(torch.ones(8), torch.ones(1)), torch.tensor([8.0]))


def test_too_many_inputs_and_one_given_twice(trt: TensorRTDouble) -> None:
    module = as_torch_module(trt.plan(networks.sums()))
    x, ids = (torch.from_numpy(array) for array in request().values())
    with pytest.raises(RequestError, match="found 3 inputs; needed at most 2: x, ids"):
        module(x, ids, ids)
    with pytest.raises(RequestError, match="input x given twice"):
        module(x, x=x)


@pytest.mark.parametrize("version", ["11.4.0", ">=11.4,<11.5"])
def test_torch_tensorrt_runs_what_it_was_built_for(
    trt: TensorRTDouble, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    install(monkeypatch, version)
    plan = trt.plan(networks.sums())
    module = as_torch_module(plan, sidecar=sidecar_of(plan), device=0)
    assert isinstance(module, TorchTensorRTModuleDouble)
    engine, inputs, outputs, name, settings = module.made_of
    assert (engine, inputs, outputs, name) == (plan, ["x", "ids"], ["y", "total"], "key")
    assert settings.device.gpu_id == 0 and settings.hardware_compatible is False


def test_its_plan_is_checked_first_as_ours_is(trt: TensorRTDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "11.2.0")
    plan = trt.plan(networks.sums())
    with pytest.raises(LoadError, match=r"a plan of TensorRT 11.2.0.1"):
        as_torch_module(plan, sidecar=replace(sidecar_of(plan), tensorrt="11.2.0.1"))


@pytest.mark.parametrize(
    ("changes", "version", "options", "reason"),
    [
        ({}, "11.0.0", {}, "torch-tensorrt for TensorRT 11.0.0, and a plan of 11.4.0.106"),
        ({}, "", {}, "of unknown version"),
        ({}, None, {}, "no torch-tensorrt"),
        ({"profiles": ({}, {})}, "11.4.0", {}, "2 profiles"),
        ({"outputs": (Port("y", ir.DataType.FLOAT, ("found",)),)}, "11.4.0", {}, "may follow from values"),
        ({"outputs": (Port("y", ir.DataType.FLOAT, None),)}, "11.4.0", {}, "may follow from values"),
        ({"flags": {"strip_weights": True}}, "11.4.0", {}, "without its weights"),
        ({}, "11.4.0", {"cuda_graphs": True}, "CUDA graphs"),
    ],
)
def test_what_torch_tensorrt_cannot_run_is_said_where_it_was_asked_for(
    trt: TensorRTDouble,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    version: str | None,
    options: dict[str, Any],
    reason: str,
) -> None:
    if version is not None:
        install(monkeypatch, version)
    plan = trt.plan(networks.sums())
    sidecar = replace(sidecar_of(plan), **changes)
    with pytest.raises(MissingDependencyError, match=reason):
        as_torch_module(plan, sidecar=sidecar, runtime="torch-tensorrt", **options)
    if "flags" not in changes:
        assert isinstance(as_torch_module(plan, sidecar=sidecar, **options), EngineModule)


def test_a_sum_of_sizes_is_no_unknown_size(trt: TensorRTDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "11.4.0")
    plan = trt.plan(networks.sums())
    outputs = (Port("y", ir.DataType.FLOAT, ("batch + seq", "seq", 4)),)
    module = as_torch_module(plan, sidecar=replace(sidecar_of(plan), outputs=outputs))
    assert isinstance(module, TorchTensorRTModuleDouble)


def test_ours_can_be_asked_for(trt: TensorRTDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "11.4.0")
    plan = trt.plan(networks.sums())
    assert isinstance(as_torch_module(plan, sidecar=sidecar_of(plan), runtime="graphwright"), EngineModule)
    with pytest.raises(UsageError, match="option runtime"):
        as_torch_module(plan, runtime="other")  # type: ignore[arg-type]
