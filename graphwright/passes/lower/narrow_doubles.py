"""Compute in float32 what a model computes in float64, as TensorRT's parser would by itself, but checked.

Before:                                     After:
    x double -- Mul(number double) -- y         x -- Cast float32 -- Mul(number float32) -- Cast double -- y

TensorRT has no float64: its parser narrows constants and casts and says nothing of what is lost. Narrowed here, every
runtime computes what TensorRT will, and the loss is measured. Inputs and outputs keep their types. Numbers above
float32's largest become its largest, as the parser has it; infinities stay. So do the bodies of ``hars`` functions:
TensorRT runs plugins in their place.

Shapes:    any.
Dtypes:    float64.
Refuses:   a model with sequences of float64 or with BitCast: TensorRT has neither, and ``verify --target tensorrt``
           names them.
Numerics:  float32 instead of float64, by design: reported against the float64 model.
Source:    onnx-tensorrt, docs/operators.md, on DOUBLE.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Names
from graphwright.engine.pipeline import FunctionPass
from graphwright.plugins.hars import meaning

DOUBLE, FLOAT = ir.DataType.DOUBLE, ir.DataType.FLOAT
# Attributes that name an element type.
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_datatype", "softmax_precision", "stash_type"})
_LARGEST = np.finfo(np.float32).max


def narrow_doubles(model: ir.Model) -> bool:
    """Narrow in place; tell whether anything was float64 but inputs and outputs."""
    if not _has_doubles(model) or not _may_be_narrowed(model):
        return False
    names = Names(model)
    kept = [value for value in model.graph.inputs if value.dtype == DOUBLE]
    ends = [value.dtype == DOUBLE for value in model.graph.outputs]
    for value in kept:
        _narrow_input(model.graph, value, names)
    for graph in _graphs(model):
        for value in list(graph.initializers.values()):
            if value not in kept and value.const_value is not None and value.dtype == DOUBLE:
                value.const_value = _narrowed(value.const_value)
                value.type = ir.TensorType(FLOAT)
        for node in graph:
            if not _is_edge(node, model.graph):
                _narrow_attributes(node)
        for value in _values(graph):
            if value.dtype == DOUBLE and value not in kept and not _is_edge(value.producer(), model.graph):
                # A new type, since clones of a model share the old one.
                value.type = ir.TensorType(FLOAT)
    for index, is_double in enumerate(ends):
        if is_double:
            _widen_output(model.graph, index, names)
    return True


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield the graphs whose nodes TensorRT computes: for ``hars`` functions it has plugins."""
    bodies = {id(function.graph) for function in model.functions.values() if function.domain == meaning.DOMAIN}
    return (graph for graph in facts.graphs(model) if id(graph) not in bodies)


def _has_doubles(model: ir.Model) -> bool:
    """Tell whether anything is float64 but the inputs, and outputs that a Cast makes."""
    inputs = set(model.graph.inputs)
    for graph in _graphs(model):
        for value in (*_values(graph), *graph.initializers.values()):
            if value.dtype == DOUBLE and value not in inputs and not _is_edge(value.producer(), model.graph):
                return True
    return any(
        value.dtype == DOUBLE and any(user.op_type != "Cast" for user, _ in value.uses())
        for value in model.graph.inputs
    )


def _may_be_narrowed(model: ir.Model) -> bool:
    """Tell whether all float64 is in tensors whose bits nobody looks at."""
    for graph in _graphs(model):
        for value in _values(graph):
            if value.dtype == DOUBLE and not isinstance(value.type, ir.TensorType):
                return False
        if any(node.op_type == "BitCast" for node in graph):
            return False
    return True


def _is_edge(node: ir.Node | None, graph: ir.Graph) -> bool:
    """Tell whether a node makes an output float64 from something else, for nobody else."""
    if node is None or node.op_type != "Cast" or node.graph is not graph:
        return False
    source, result = node.inputs[0], node.outputs[0]
    is_last = result.is_graph_output() and not result.uses()
    return is_last and result.dtype == DOUBLE and source is not None and source.dtype != DOUBLE


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _narrow_input(graph: ir.Graph, value: ir.Value, names: Names) -> None:
    users = list(value.uses())
    if not users:
        return
    cast = ir.node("Cast", [value], attributes={"to": FLOAT.value}, name=names.fresh("narrow-doubles/Cast"))
    result = cast.outputs[0]
    result.name, result.dtype, result.shape = names.fresh(f"{value.name}/float32"), FLOAT, value.shape
    for user, index in users:
        user.replace_input_with(index, result)
    graph.insert_before(graph[0], cast)


def _narrow_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if name in _TYPE_ATTRIBUTES and attribute.value == DOUBLE.value:
            node.attributes[name] = ir.AttrInt64(name, FLOAT.value)
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == DOUBLE:
            node.attributes[name] = ir.AttrTensor(name, _narrowed(attribute.as_tensor()))
            for value in node.outputs:
                value.const_value = None


def _narrowed(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    wide = tensor.numpy()
    clipped = np.where(np.isfinite(wide), np.clip(wide, -_LARGEST, _LARGEST), wide)
    return ir.tensor(clipped.astype(np.float32), name=tensor.name)


def _widen_output(graph: ir.Graph, index: int, names: Names) -> None:
    """Make an output float64 again; it keeps its name."""
    value = graph.outputs[index]
    if value.dtype == DOUBLE:
        return
    cast = ir.node("Cast", [value], attributes={"to": DOUBLE.value}, name=names.fresh("narrow-doubles/Cast"))
    result = cast.outputs[0]
    result.name, value.name = value.name, names.fresh(f"{value.name}/float32")
    result.type, result.shape = ir.TensorType(DOUBLE), value.shape
    graph.append(cast)
    for place, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[place] = result


NARROW_DOUBLES = FunctionPass("narrow-doubles", narrow_doubles, changes_numbers=True)
