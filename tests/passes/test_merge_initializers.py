"""merge-initializers: equal bytes only, and never what callers may change."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine.observe import Reason
from graphwright.passes.lift.merge_initializers import MERGE_INITIALIZERS, SAMPLE, merge_initializers
from graphwright.testing import assert_equivalent, assert_fires, assert_refuses, model

HEAD = '<ir_version: 12, opset_import: ["": 24]> g (float[N, 2] x) => (float[N, 2] y) '
BODY = "{a = Mul(x, w) y = Add(a, v)}"

EXAMPLES = {
    "two": HEAD + "<float[2] w = {1, 2}, float[2] v = {1, 2}> " + BODY,
    "three": HEAD + "<float[2] w = {1, 2}, float[2] v = {1, 2}, float[2] u = {1, 2}> {a = Mul(x, w) b = Mul(a, u) y = "
    "Add(b, v)}",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_equal_initializers_become_one(name: str) -> None:
    before = model(EXAMPLES[name])
    after = assert_fires(before, MERGE_INITIALIZERS)
    assert list(after.graph.initializers) == ["w"]
    assert_equivalent(before, after, sizes={"N": 3})


KEPT = {
    "other numbers": HEAD + "<float[2] w = {1, 2}, float[2] v = {1, 3}> " + BODY,
    "zeros of two signs": HEAD + "<float[2] w = {0.0, 1}, float[2] v = {-0.0, 1}> " + BODY,
    "other shape": HEAD + "<float[2] w = {1, 2}, float[1, 2] v = {1, 2}> " + BODY,
    "other type": HEAD.replace("float[N, 2] y", "double[N, 2] y")
    + "<float w = {0}, int32 v = {0}> {a = Mul(x, w) b = Cast <to = 11> (v) c = Cast <to = 11> (a) y = "
    "Add(c, b)}",
    "overridable": HEAD.replace("x)", "x, float[2] v = {1, 2})") + "<float[2] w = {1, 2}> " + BODY,
    "both overridable": HEAD.replace("x)", "x, float[2] w = {1, 2}, float[2] v = {1, 2})") + BODY,
    "output": HEAD.replace("2] y", "2] y, float[2] v") + "<float[2] w = {1, 2}, float[2] v = {1, 2}> " + BODY,
}


@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_the_same_stays(name: str) -> None:
    assert_refuses(model(KEPT[name]), MERGE_INITIALIZERS, Reason.STRUCTURE)


def large(middle: float) -> np.ndarray:
    contents = np.ones(4 * SAMPLE, np.float32)
    contents[len(contents) // 2] = middle
    return contents


def with_weights(*tensors: ir.TensorProtocol) -> ir.Model:
    values = [
        ir.Value(name=f"w{i}", type=ir.TensorType(t.dtype), shape=ir.Shape([t.size]), const_value=t)
        for i, t in enumerate(tensors)
    ]
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["N", 1]))
    nodes = []
    for value in values:
        nodes.append(ir.node("Add", [nodes[-1].outputs[0] if nodes else x, value]))
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, initializers=values, opset_imports={"": 24})
    return ir.Model(graph, ir_version=12)


def test_tensors_that_share_their_ends_are_compared_whole() -> None:
    given = with_weights(*(ir.tensor(large(middle)) for middle in (1.0, 2.0, 1.0)))
    assert merge_initializers(given)
    assert list(given.graph.initializers) == ["w0", "w1"]


def test_a_lazy_tensor_is_not_computed() -> None:
    def compute() -> ir.TensorProtocol:
        raise AssertionError("computed")

    lazy = [ir.LazyTensor(compute, dtype=ir.DataType.FLOAT, shape=ir.Shape([4 * SAMPLE])) for _ in range(2)]
    values = with_weights(*(ir.tensor(large(1.0)) for _ in lazy))
    for value, tensor in zip(values.graph.initializers.values(), lazy, strict=True):
        value.const_value = tensor
    assert not merge_initializers(values)


def test_external_tensors_of_one_file_are_merged(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(large(1.0).tobytes() * 2)
    size = large(1.0).nbytes
    tensors = [
        ir.ExternalTensor(
            "weights",
            offset,
            size,
            ir.DataType.FLOAT,
            shape=ir.Shape([4 * SAMPLE]),
            name="w",
            base_dir=tmp_path,
        )
        for offset in (0, size)
    ]
    given = with_weights(*(ir.tensor(large(2.0 + index)) for index in range(2)))
    for value, tensor in zip(given.graph.initializers.values(), tensors, strict=True):
        value.const_value = tensor
    assert merge_initializers(given)
    for tensor in tensors:
        tensor.release()
