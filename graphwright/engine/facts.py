"""What is known of a value or a node. Unknown is never yes.

Rules ask these functions instead of raw fields of onnx_ir, because two of those fields mislead: an initializer
that callers may override still carries a ``const_value``, and two unknown dimensions compare equal.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

Dim = int | ir.SymbolicDim

# Constants above this size are weights: nobody asks for their value to decide whether a rule applies.
SMALL_CONSTANT = 1024


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor that a value always holds, or None; overridable initializers never count."""
    if value is None or value.is_graph_input():
        return None
    node = value.producer()
    if node is None:  # an initializer, or a constant that a Builder has made and nobody has registered yet
        return value.const_value
    if node.op_type != "Constant" or node.domain != "":
        return None
    return _constant_node_tensor(node)


def _constant_node_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if name == "value":
            return attribute.as_tensor()
        if name in ("value_float", "value_floats"):
            return ir.tensor(np.asarray(attribute.value, np.float32))
        if name in ("value_int", "value_ints"):
            return ir.tensor(np.asarray(attribute.value, np.int64))
    return None


def array(value: ir.Value | None) -> np.ndarray | None:
    """Return the contents of a small constant (1,024 elements at most) as an array, or None."""
    tensor = constant(value)
    if tensor is None or tensor.size > SMALL_CONSTANT or tensor.dtype == ir.DataType.STRING:
        return None
    return tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """Return the number in a constant of one element, whatever its rank, or None."""
    contents = array(value)
    if contents is None or contents.size != 1:
        return None
    return float(contents.reshape(()))


def integers(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the numbers in a small integer constant of rank 0 or 1, or None."""
    contents = array(value)
    if contents is None or contents.ndim > 1 or contents.dtype.kind not in "iu":
        return None
    return tuple(int(number) for number in contents.reshape(-1))


def rank(value: ir.Value | None) -> int | None:
    """Return the number of axes, or None where it is unknown."""
    return None if value is None or value.shape is None else value.shape.rank()


def dim(value: ir.Value | None, axis: int) -> Dim | None:
    """Return one size, a number or a name, or None where it is unknown or the axis is not there."""
    if value is None or value.shape is None or not -value.shape.rank() <= axis < value.shape.rank():
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) or size.value is not None else None


def static_dim(value: ir.Value | None, axis: int) -> int | None:
    """Return one size where it is a number, else None."""
    size = dim(value, axis)
    return size if isinstance(size, int) else None


def same_dim(first: Dim | None, second: Dim | None) -> bool:
    """Tell whether two sizes are known to be equal; two unknown ones are not."""
    if first is None or second is None:
        return False
    if isinstance(first, ir.SymbolicDim) and first.value is None:
        return False
    return first == second


def same_shape(first: ir.Value | None, second: ir.Value | None) -> bool:
    """Tell whether two shapes are known to be equal, size by size."""
    count = rank(first)
    if count is None or count != rank(second):
        return False
    return all(same_dim(dim(first, axis), dim(second, axis)) for axis in range(count))


def opset(node: ir.Node, domain: str = "") -> int | None:
    """Return the operator set version a node is read with, or None where it is not declared."""
    graph = node.graph
    imports = graph.opset_imports if graph is not None else {}
    return node.version or imports.get(domain)


@lru_cache(maxsize=4096)
def schema(domain: str, op_type: str, version: int | None) -> onnx.defs.OpSchema | None:
    """Return the schema of an operator, or None where ONNX has none."""
    try:
        if version is None:
            return onnx.defs.get_schema(op_type, domain)
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


@lru_cache(maxsize=4096)
def _default(domain: str, op_type: str, version: int | None, name: str) -> Any:
    definition = schema(domain, op_type, version)
    if definition is None or name not in definition.attributes:
        return None
    declared = definition.attributes[name].default_value
    if declared is None or declared.type == onnx.AttributeProto.UNDEFINED:
        return None
    return _plain(ir.serde.deserialize_attribute(declared))


def _plain(attribute: ir.Attr) -> Any:
    value = attribute.value
    return tuple(value) if isinstance(value, list) else value


def attribute(node: ir.Node, name: str) -> Any:
    """Return an attribute's value, its schema default where it is not given, or None.

    None too for an attribute that refers to one of the enclosing function: its value is not known here.
    """
    given = node.attributes.get(name)
    if given is not None:
        return None if given.is_ref() else _plain(given)
    return _default(node.domain, node.op_type, opset(node, node.domain), name)


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that a node carries: the branches of If, the bodies of Loop and Scan."""
    for given in node.attributes.values():
        if given.is_ref():
            continue
        if given.type == ir.AttributeType.GRAPH:
            yield given.as_graph()
        elif given.type == ir.AttributeType.GRAPHS:
            yield from given.as_graphs()


@dataclass(frozen=True)
class Scope:
    """A graph, the operator sets its nodes are read with, and whether it is the body of a model-local function."""

    graph: ir.Graph
    opsets: dict[str, int]
    is_function: bool = False


def scopes(model: ir.Model) -> Iterator[Scope]:
    """Yield every graph of a model: the main one, those inside nodes, those of model-local functions."""
    pending = deque([Scope(model.graph, model.opset_imports)])
    for function in model.functions.values():
        pending.append(Scope(function.graph, function.opset_imports or model.opset_imports, True))
    while pending:
        scope = pending.popleft()
        yield scope
        for node in scope.graph:
            pending.extend(Scope(inner, scope.opsets) for inner in subgraphs(node))


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """Yield every graph of a model, in the order of ``scopes``."""
    return (scope.graph for scope in scopes(model))


def describe(value: ir.Value | None) -> str:
    """Return a value's name, dtype and shape as messages show them.

    Example:
        >>> describe(ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["batch", None, 3])))
        'x float32[batch, ?, 3]'
    """
    if value is None:
        return "nothing"
    dtype = value.dtype.numpy().name if value.dtype not in (None, ir.DataType.STRING) else "unknown type"
    if value.shape is None:
        return f"{value.name} {dtype}[?]"
    sizes = (str(size) if isinstance(size, int) else size.value or "?" for size in value.shape)
    return f"{value.name} {dtype}[{', '.join(sizes)}]"


def place(node: ir.Node | None) -> str:
    """Return a node as messages name it: its name, or that of its first output, and its operator."""
    if node is None:
        return "graph input"
    name = node.name or (node.outputs[0].name if node.outputs else "")
    return f"{name or 'unnamed'} ({node.op_type})"
