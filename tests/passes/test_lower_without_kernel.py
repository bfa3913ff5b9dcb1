"""hars nodes where the compiled library is, and where it is not."""

import onnx_ir as ir
import pytest

from graphwright.engine.observe import Reason
from graphwright.passes import CATALOGUE
from graphwright.passes.lower.lower_router_topk import LOWER_ROUTER_TOPK
from graphwright.passes.lower.lower_softmax_topk import LOWER_SOFTMAX_TOPK
from graphwright.passes.lower.lower_without_kernel import LOWER_WITHOUT_KERNEL
from graphwright.plugins.hars import native
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_refuses, model, same_graph

NODES = {
    "a short row": "v, i = hars.softmax_topk <k = 3> (x)",
    "statistics": "v, i, m, l = hars.softmax_topk <k = 3> (x) s = Add(m, l)",
    "a router": "v, i = hars.router_topk <k = 3> (x)",
    "zero experts": "v, i, s = hars.router_topk <k = 3, zero_experts = 4> (x)",
}


def layer(body: str) -> ir.Model:
    outputs = "float[B,3] v, int64[B,3] i" + (", float[B] s" if "s = " in body else "")
    head = '<ir_version: 10, opset_import: ["": 24, "hars": 1]>'
    read = model(f"{head} g (float[B,9] x) => ({outputs}) {{ {body} }}", infer=False)
    attach_bodies(read)
    return read


@pytest.mark.parametrize("body", NODES.values(), ids=NODES)
def test_without_the_library_it_does_what_the_two_passes_do(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: False)
    before = layer(body)
    after = assert_fires(before, LOWER_WITHOUT_KERNEL)
    assert_equivalent(before, after, sizes={"B": 7})
    assert not after.functions
    other = LOWER_ROUTER_TOPK if "router" in body else LOWER_SOFTMAX_TOPK
    assert same_graph(after, apply(before, other).model)


@pytest.mark.parametrize("body", NODES.values(), ids=NODES)
def test_with_the_library_the_nodes_stay(body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: True)
    assert_refuses(layer(body), LOWER_WITHOUT_KERNEL, Reason.KERNEL)


def test_the_guards_of_the_two_passes_hold_here_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", lambda: False)
    before = layer(NODES["a short row"])
    before.graph.inputs[0].shape = ir.Shape(["B", "V"])
    assert_refuses(before, LOWER_WITHOUT_KERNEL, Reason.UNKNOWN)


def test_each_target_has_its_answer() -> None:
    passes = {target: [step.name for step in CATALOGUE.default(target).steps] for target in CATALOGUE.defaults}
    assert {"lower-softmax-topk", "lower-router-topk"} <= set(passes["onnx"])
    assert "lower-without-kernel" in passes["ort-cpu"] and "lower-softmax-topk" not in passes["ort-cpu"]
