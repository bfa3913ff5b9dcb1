"""HARS nodes as plugins: written once, taken by the table, the same numbers everywhere else."""

import numpy as np
import onnx_ir as ir

from graphwright.passes.lower.lower_softmax_topk import LOWER_SOFTMAX_TOPK
from graphwright.passes.lower.name_hars_plugins import NAME_HARS_PLUGINS
from graphwright.passes.lower.tensorrt_support import unsupported
from graphwright.plugins.hars.bodies import attach_bodies
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_fires, model


def layer(body: str, inputs: str = "float[B,9] x", outputs: str = "float[B,3] v, int64[B,3] i") -> ir.Model:
    head = '<ir_version: 10, opset_import: ["": 24, "hars": 1]>'
    read = model(f"{head} g ({inputs}) => ({outputs}) {{ {body} }}", infer=False)
    attach_bodies(read)
    return read


SEARCH = "v, i = hars.softmax_topk <k = 3> (x)"


def test_a_search_is_named_and_its_indices_cast() -> None:
    before = layer(SEARCH)
    assert [each.hint for each in unsupported(before)] == ["the pass name-hars-plugins"]
    after = assert_fires(before, NAME_HARS_PLUGINS, regions=False)
    assert [node.op_type for node in after.graph] == ["softmax_topk", "Cast"]
    assert after.graph.node(0).attributes["plugin_namespace"].value == "hars"
    assert not unsupported(after)
    x = np.random.default_rng(0).normal(size=(4, 9)).astype(np.float32)
    expected, found = evaluate(before, {"x": x}), evaluate(after, {"x": x})
    np.testing.assert_array_equal(found["i"], expected["i"])
    np.testing.assert_array_equal(found["v"], expected["v"])


def test_a_bias_has_a_plugin_of_its_own() -> None:
    before = layer("v, i = hars.softmax_topk <k = 3> (x, b)", "float[B,9] x, float[9] b")
    after = assert_fires(before, NAME_HARS_PLUGINS, regions=False)
    assert after.graph.node(0).op_type == "softmax_topk_bias"
    assert not unsupported(after)


def test_without_the_plugin_the_node_is_named() -> None:
    after = assert_fires(layer(SEARCH), NAME_HARS_PLUGINS, regions=False)
    (found,) = unsupported(after, plugins=())
    assert found.reason == "no plugin hars::softmax_topk" and "lower-softmax-topk" in found.hint


def test_in_standard_operators_no_plugin_is_needed() -> None:
    after = assert_fires(layer(SEARCH), LOWER_SOFTMAX_TOPK, regions=False)
    assert not unsupported(after, plugins=())
    assert not apply(after, NAME_HARS_PLUGINS).applied


def test_a_model_without_such_nodes_stays() -> None:
    before = model('<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y) { y = Relu(x) }')
    assert not apply(before, NAME_HARS_PLUGINS).applied
