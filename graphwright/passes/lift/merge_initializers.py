"""Keep one of several initializers that hold the same bytes.

Before:                       After:
    w (1, 2), v (1, 2)            w (1, 2)
    Add(x, w), Add(y, v)          Add(x, w), Add(y, w)

Shapes:    equal ones only.
Dtypes:    all but strings; equal ones only.
Refuses:   initializers that callers may override, that are outputs of their graph, of different graphs, or
           that are computed when they are written (``onnx_ir.LazyTensor``).
Numerics:  the same bits.
Source:    onnx_ir's DeduplicateHashedInitializersPass does the same, but reads every weight to hash it;
           this one reads a sample of those that share dtype and shape, and the whole of those that share
           the sample.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pipeline import FunctionPass

# Bytes read from each end to tell tensors apart: one page of a memory-mapped file.
SAMPLE = 4096


def merge_initializers(model: ir.Model) -> bool:
    """Merge equal initializers in every graph in place; tell whether there were any.

    Example:
        >>> model = ir.from_onnx_text(
        ...     '<ir_version: 10, opset_import: ["": 24]> g (float[2] x) => (float[2] y)'
        ...     '<float[2] w = {1, 2}, float[2] v = {1, 2}> {a = Add(x, w) y = Add(a, v)}'
        ... )
        >>> merge_initializers(model), list(model.graph.initializers)
        (True, ['w'])
    """
    merged = [_merge(graph) for graph in list(facts.graphs(model))]
    return any(merged)


def _merge(graph: ir.Graph) -> bool:
    candidates = {value: _tensor(value) for value in graph.initializers.values()}
    groups = [[value for value, tensor in candidates.items() if tensor is not None]]
    for key in (_type, _sample, _digest):
        groups = [part for group in groups for part in _split(group, key)]
    for kept, *others in groups:
        for value in others:
            assert value.name is not None
            value.replace_all_uses_with(kept)
            del graph.initializers[value.name]
    return bool(groups)


def _tensor(value: ir.Value) -> ir.TensorProtocol | None:
    tensor = facts.constant(value)
    fits = tensor is not None and not isinstance(tensor, ir.LazyTensor) and tensor.dtype != ir.DataType.STRING
    return tensor if fits and not value.is_graph_output() else None


def _split(values: list[ir.Value], key: Callable[[ir.TensorProtocol], Hashable]) -> list[list[ir.Value]]:
    """Return the groups of two or more values whose tensors have the same key."""
    groups = defaultdict(list)
    for value in values:
        assert value.const_value is not None
        groups[key(value.const_value)].append(value)
    return [group for group in groups.values() if len(group) > 1]


def _type(tensor: ir.TensorProtocol) -> Hashable:
    return tensor.dtype, tuple(tensor.shape)


def _sample(tensor: ir.TensorProtocol) -> Hashable:
    contents = _bytes(tensor)
    return contents[:SAMPLE].tobytes(), contents[-SAMPLE:].tobytes()


def _digest(tensor: ir.TensorProtocol) -> Hashable:
    return hashlib.sha256(_bytes(tensor).data).digest()


def _bytes(tensor: ir.TensorProtocol) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)


MERGE_INITIALIZERS = FunctionPass("merge-initializers", merge_initializers)
