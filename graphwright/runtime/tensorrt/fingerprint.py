"""What of a model goes to TensorRT, and its digest: the two are made from the same thing.

Documentation, metadata, producers, inferred types and the place of weights change nothing in an engine, so they are
neither given to the parser nor counted. Names of nodes and of values are both: they become those of layers and tensors.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine.weights import let_pages_go

# The parser keeps the name for nothing; one for all makes files equal that mean the same.
GRAPH_NAME = "graphwright"


def stripped(model: ir.Model) -> ir.Model:
    """Return a copy with nothing but what TensorRT's parser reads. Weights are shared, the model is not changed."""
    copy = model.clone()
    copy.producer_name = copy.producer_version = copy.domain = copy.doc_string = None
    copy.model_version = None
    copy.metadata_props.clear()
    copy.graph.name = GRAPH_NAME
    for graph in _roots(copy):
        _strip(graph)
    return copy


def graph_sha256(model: ir.Model) -> str:
    """Return a digest of what :func:`stripped` keeps, weights included.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y) {y = Neg(x)}'
        >>> one, other = ir.from_onnx_text(text), ir.from_onnx_text(text)
        >>> other.graph.node(0).doc_string, other.producer_name = "why", "another"
        >>> graph_sha256(one) == graph_sha256(other)
        True
        >>> other.graph.node(0).op_type = "Abs"
        >>> graph_sha256(one) == graph_sha256(other)
        False
    """
    digest = hashlib.sha256()
    for piece in _pieces(model):
        # Lengths first, so that no two sequences of pieces give the same bytes.
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)
    return digest.hexdigest()


def _roots(model: ir.Model) -> Iterator[ir.Graph]:
    yield model.graph
    yield from (function.graph for function in model.functions.values())


def _strip(root: ir.Graph) -> None:
    graphs = [root, *root.subgraphs()]
    for graph in graphs:
        graph.doc_string = None
        graph.metadata_props.clear()
        kept = {id(value) for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            value.doc_string = None
            value.metadata_props.clear()
        for node in graph:
            node.doc_string = None
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
                if id(value) not in kept:
                    value.type = value.shape = None


def _pieces(model: ir.Model) -> Iterator[bytes]:
    yield repr((model.ir_version, sorted(model.opset_imports.items()))).encode()
    yield from _graph(model.graph)
    for identifier in sorted(model.functions):
        function = model.functions[identifier]
        yield repr(("function", identifier, sorted(function.opset_imports.items()))).encode()
        yield from _attributes(function.attributes.values())
        yield from _graph(function.graph)


def _graph(graph: ir.Graph) -> Iterator[bytes]:
    yield repr(("inputs", [_described(value) for value in graph.inputs])).encode()
    yield repr(("outputs", [_described(value) for value in graph.outputs])).encode()
    for name in sorted(graph.initializers):
        tensor = graph.initializers[name].const_value
        yield name.encode()
        if tensor is not None:
            yield from _tensor(tensor)
    for node in graph:
        names = [value.name if value is not None else None for value in node.inputs]
        results = [value.name for value in node.outputs]
        yield repr((node.domain, node.op_type, node.overload, node.name, names, results)).encode()
        yield from _attributes(node.attributes.values())
    yield b"end"


def _described(value: ir.Value) -> tuple[str | None, str, str]:
    return value.name, str(value.type), str([_size(dim) for dim in value.shape] if value.shape is not None else None)


def _size(dim: int | ir.SymbolicDim) -> int | str | None:
    return dim if isinstance(dim, int) else dim.value


def _attributes(attributes: Iterable[ir.Attr]) -> Iterator[bytes]:
    for attribute in sorted(attributes, key=lambda each: each.name):
        yield repr((attribute.name, attribute.type.name, attribute.ref_attr_name)).encode()
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.TENSOR) and attribute.value is not None:
            yield from _graph(attribute.value) if isinstance(attribute.value, ir.Graph) else _tensor(attribute.value)
        elif attribute.type in (ir.AttributeType.GRAPHS, ir.AttributeType.TENSORS):
            for each in attribute.value:
                yield from _graph(each) if isinstance(each, ir.Graph) else _tensor(each)
        else:
            yield repr(_as_in_a_file(attribute.type, attribute.value)).encode()


def _as_in_a_file(kind: ir.AttributeType, value: Any) -> Any:
    """Return an attribute's value as it comes back from a file, whatever number stands for it in memory."""
    if value is None:
        return None
    if kind in (ir.AttributeType.FLOATS, ir.AttributeType.INTS):
        return tuple(_number(each, is_real=kind == ir.AttributeType.FLOATS) for each in value)
    if kind in (ir.AttributeType.FLOAT, ir.AttributeType.INT):
        return _number(value, is_real=kind == ir.AttributeType.FLOAT)
    return tuple(value) if isinstance(value, list) else value


def _number(value: Any, *, is_real: bool) -> float | int:
    # ONNX keeps an attribute's real numbers in 32 bits.
    return float(np.float32(value)) if is_real else int(value)


def _tensor(tensor: ir.TensorProtocol) -> Iterator[bytes]:
    yield repr((tensor.dtype.name, list(tensor.shape.numpy()))).encode()
    if tensor.dtype == ir.DataType.STRING:
        yield repr(tensor.numpy().tolist()).encode()
        return
    yield tensor.tobytes()
    let_pages_go(tensor)
