"""torch.ops.hars: eager, traced, compiled and exported to ONNX."""

import subprocess
import sys
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

import graphwright
from graphwright.errors import RequestError
from graphwright.frontends.torch import trace
from graphwright.plugins.hars import reference, torch_ops
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime.ort import OrtSession

torch_ops.register()
GENERATOR = torch.Generator().manual_seed(5)
CASES: list[dict[str, Any]] = [
    {},
    {"stats": True},
    {"mode": "prob", "temperature": 0.7, "bias": torch.linspace(-1, 1, 50)},
    {"mode": "logit", "axis": 0, "stats": True},
    {"mode": "prob_renorm", "bias": torch.arange(50) % 9 == 4},
]
ROUTERS: list[dict[str, Any]] = [
    {},
    {"renormalize": True, "zero_experts": 5, "bias": torch.linspace(-1, 1, 50), "scale": 2.5},
    {"scoring": "sigmoid", "groups": 5, "top_groups": 2, "scale_zero_experts": False, "zero_experts": 3},
]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR)


class Head(torch.nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options
        self.project = torch.nn.Linear(8, 50)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        values, indices, maximum, log_sum = torch.ops.hars.softmax_topk(self.project(x), 4, **self.options)
        found = {"values": values, "indices": indices}
        return {**found, "maximum": maximum, "log_sum": log_sum} if self.options.get("stats") else found


class Router(torch.nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        weights, experts, identity = torch.ops.hars.router_topk(x, 3, **self.options)
        return weights, experts, identity


@pytest.mark.parametrize("options", CASES)
def test_the_operator_gives_the_reference(options: dict[str, Any]) -> None:
    x = random(6, 50)
    given = {**options, "bias": options["bias"].numpy()} if "bias" in options else options
    if given.get("bias", np.float32(0)).dtype == np.bool_:
        given = {**given, "bias": np.where(given["bias"], np.float32(0), np.float32(-np.inf))}
    found = torch.ops.hars.softmax_topk(x, 4, **options)
    expected = reference.softmax_topk(x.numpy(), 4, **given)
    for one, other in zip(found, expected, strict=False):
        np.testing.assert_allclose(one.numpy(), other, rtol=4e-6, atol=2e-6)
    if not options.get("stats"):
        assert [tensor.shape for tensor in found[2:]] == [(0,), (0,)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", CASES)
def test_opcheck_passes(options: dict[str, Any], dtype: torch.dtype) -> None:
    torch.library.opcheck(torch.ops.hars.softmax_topk.default, (random(6, 50).to(dtype), 4), options)


@pytest.mark.parametrize("options", ROUTERS)
def test_opcheck_passes_for_routers(options: dict[str, Any]) -> None:
    torch.library.opcheck(torch.ops.hars.router_topk.default, (random(6, 50), 4), options)


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        ({"k": 51}, "k"),
        ({"k": 0}, "k"),
        ({"k": 2, "axis": 2}, "axis"),
        ({"k": 2, "mode": "max"}, "mode"),
        ({"k": 2, "temperature": 0.0}, "temperature"),
        ({"k": 2, "bias": torch.zeros(49)}, "bias"),
        ({"k": 2, "logits": torch.zeros(3, 50, dtype=torch.int32)}, "logits"),
        ({"k": 1, "logits": torch.tensor(1.0)}, "logits"),
    ],
)
def test_bad_input_is_a_request_error(arguments: dict[str, Any], where: str) -> None:
    with pytest.raises(RequestError) as caught:
        torch.ops.hars.softmax_topk(**{"logits": torch.zeros(3, 50), **arguments})
    assert where in caught.value.where


@pytest.mark.parametrize("arguments", [{"k": 51}, {"k": 0}, {"k": 2, "axis": 2}, {"k": 2, "bias": torch.zeros(49)}])
def test_the_tracer_sees_the_same_errors(arguments: dict[str, Any]) -> None:
    meta = {name: value.to("meta") if isinstance(value, torch.Tensor) else value for name, value in arguments.items()}
    with pytest.raises(RequestError):
        torch.ops.hars.softmax_topk(torch.zeros(3, 50, device="meta"), **meta)


@pytest.mark.parametrize("name", ["softmax_topk", "router_topk"])
def test_a_gradient_is_an_error_and_not_zero(name: str) -> None:
    values = getattr(torch.ops.hars, name)(random(3, 50).requires_grad_(), 4)[0]
    with pytest.raises(RequestError, match="no_grad"):
        values.sum().backward()


def test_an_empty_batch_gives_empty_results() -> None:
    values, indices, maximum, _ = torch.ops.hars.softmax_topk(torch.zeros(0, 50), 4, stats=True)
    assert (values.shape, indices.shape, maximum.shape) == ((0, 4), (0, 4), (0,))


@pytest.mark.parametrize("module", [Head(stats=True), Head(mode="prob"), Router(), Router(zero_experts=4)])
def test_compile_takes_the_whole_graph(module: torch.nn.Module) -> None:
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True, dynamic=True)
    width = 8 if isinstance(module, Head) else 50
    with torch.no_grad():
        for batch in (3, 5):
            x = random(batch, width)
            found, expected = compiled(x), module(x)
            if isinstance(expected, dict):
                found, expected = found.values(), expected.values()
            for one, other in zip(found, expected, strict=True):
                assert torch.equal(one, other)


@pytest.mark.parametrize("options", [{"stats": True}, {"mode": "prob", "temperature": 0.7}, {"bias": torch.zeros(50)}])
def test_an_exported_program_keeps_its_batch_dynamic(options: dict[str, Any]) -> None:
    module = Head(**options)
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(module, (random(3, 8),), dynamic_shapes=dynamic)
    x = random(7, 8)
    for name, expected in module(x).items():
        assert torch.equal(program.module()(x)[name], expected)


@pytest.mark.parametrize("options", CASES[:3] + CASES[4:])
def test_a_traced_module_holds_the_node_and_its_body(options: dict[str, Any]) -> None:
    module = Head(**options)
    source = trace(module, {"x": random(3, 8)})
    node = next(node for node in source.model.graph if node.domain == "hars")
    assert node.op_identifier() in source.model.functions
    assert {"k", "axis", "mode", "temperature"} == set(node.attributes)
    assert source.reference is not None
    session = OrtSession(source.model)
    for batch in (1, 2, 5):
        x = random(batch, 8).numpy()
        found, expected = session(x=x), source.reference({"x": x})
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", ROUTERS)
def test_a_traced_router_gives_the_numbers_of_the_module(options: dict[str, Any]) -> None:
    source = trace(Router(**options), {"x": random(3, 50)})
    assert source.reference is not None
    session = OrtSession(source.model)
    for batch in (1, 4):
        x = random(batch, 50).numpy()
        found, expected = session(x=x), source.reference({"x": x})
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


def test_optimize_takes_a_module_with_the_operator() -> None:
    module = Head(mode="prob", stats=True)
    # Without a compiled kernel the node would be lowered.
    artifact = graphwright.optimize(module, {"x": random(3, 8)}, passes="default,-lower-without-kernel")
    assert [node.op_type for node in artifact.model.graph if node.domain == "hars"] == ["softmax_topk"]


def test_a_user_of_the_exporter_gets_the_same_file() -> None:
    module = Head(mode="prob").eval()
    program = torch.onnx.export(
        module,
        (random(3, 8),),
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        custom_translation_table=torch_ops.onnx_translations(),
    )
    assert program is not None
    model: ir.Model = program.model
    assert attach_bodies(model) == 1
    x = random(6, 8)
    found = OrtSession(model)({model.graph.inputs[0].name or "": x.numpy()})
    expected = module(x)
    for one, other in zip(found.values(), expected.values(), strict=True):
        np.testing.assert_allclose(one, other.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_nothing_is_registered_by_an_import() -> None:
    code = (
        "import torch, graphwright.frontends.torch, graphwright.plugins.hars.torch_ops as ops\n"
        "assert not hasattr(torch.ops.hars, 'softmax_topk') and ops.onnx_translations() == {}\n"
        "ops.register(); ops.register()\n"
        "assert hasattr(torch.ops.hars, 'softmax_topk') and len(ops.onnx_translations()) == 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
