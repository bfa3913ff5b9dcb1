"""A model's copy that computes in float64, to compare rounded results with.

Every float, float16 and bfloat16 becomes a double: inputs, initializers, constants, Cast targets. Whether an
operator takes doubles is read from ONNX's own schemas. Where it does not, as RotaryEmbedding, and is defined by
operators that do, these take its place.
"""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from graphwright.engine import facts

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
_FLOAT_TYPES = {"tensor(float)", "tensor(float16)", "tensor(bfloat16)"}
# Attributes that name the type of an output or of a step. Not stash_type: normalizations take no double there
# and compute in the type of their input anyway.
_TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "softmax_precision")
# These see the bits of a number, and a double has others.
_BITWISE = {"BitCast"}
# Statistics of training that these may also give, in single precision only.
_SINGLE_OUTPUTS = {"LayerNormalization": 1}
# Where definitions of operators stand until they are inlined.
_DEFINITIONS = "graphwright.definitions"


def to_double(model: ir.Model) -> ir.Model | None:
    """The model in float64, or None where :func:`obstacle` names an operator that has no such form.

    Dtypes: float, float16 and bfloat16 become double; every other type stays.

    Example:
        >>> x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
        >>> node = ir.node("Exp", [x])
        >>> graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20})
        >>> to_double(ir.Model(graph, ir_version=10)).graph.inputs[0].dtype
        DOUBLE
    """
    double = _defined(inlined(model))
    if _first_obstacle(double) is not None:
        return None
    opset = _opset(double)
    for node in double.graph.all_nodes():
        _convert(node, opset)
        for output in node.outputs:
            output.type = _double_type(output.type)
    for graph in double.graphs():
        for value in (*graph.inputs, *graph.initializers.values()):
            value.type = _double_type(value.type)
            if value.const_value is not None:
                value.const_value = _as_double(value.const_value)
    return double


def obstacle(model: ir.Model) -> str | None:
    """Why the model has no double form: the first node and what it lacks. None where it has one."""
    return _first_obstacle(_defined(inlined(model)))


def inlined(model: ir.Model) -> ir.Model:
    """A copy of a model without functions: what their bodies compute stands in the graph."""
    copy = model.clone()
    if copy.functions:
        InlinePass()(copy)
    return copy


def _defined(model: ir.Model) -> ir.Model:
    """Put what ONNX defines them to be in the place of operators that take no doubles; the model itself is changed."""
    opset = _opset(model)
    for number, node in enumerate(list(model.graph.all_nodes())):
        function = _definition(node, opset) if _obstacle(node, opset) is not None else None
        if function is not None:
            function.name, function.domain = f"{node.op_type}_{number}", _DEFINITIONS
            model.functions[function.identifier()] = function
            node.op_type, node.domain = function.name, function.domain
            node.attributes.clear()
    if model.functions:
        InlinePass()(model)
    return model


def _definition(node: ir.Node, opset: int) -> ir.Function | None:
    """Return what ONNX says that a node with these attributes and inputs means, or None."""
    # onnx gives its schemas' functions no types.
    schema: Any = _schema(node, opset)
    if schema is None or not schema.has_context_dependent_function or _is_lenient(node):
        return None
    if any(value is not None and value.type is None for value in node.inputs):
        return None
    types = [b"" if x is None else ir.serde.serialize_value(x).type.SerializeToString() for x in node.inputs]
    version = max(each for each in schema.context_dependent_function_opset_versions if each <= opset)
    written = ir.serde.serialize_node(node).SerializeToString()
    body = schema.get_context_dependent_function_with_opset_version(version, written, types)
    proto = onnx.FunctionProto.FromString(body)
    if not proto.node or any(_changed(each, version, opset) for each in proto.node):
        return None
    function = ir.serde.deserialize_function(proto)
    function.opset_imports[""] = opset
    return function


def _is_lenient(node: ir.Node) -> bool:
    """Tell whether the definition would run what the operator does not take: tables for one row of a larger batch."""
    if node.op_type != "RotaryEmbedding" or (len(node.inputs) > 3 and node.inputs[3] is not None):
        return False
    x, cos = node.inputs[:2]
    return not facts.same_dim(facts.dim(x, 0), facts.dim(cos, 0))


def _changed(node: onnx.NodeProto, version: int, opset: int) -> bool:
    """Tell whether an operator of a definition has lost an attribute or an input since it was written."""
    then, now = (onnx.defs.get_schema(node.op_type, each) for each in (version, opset))
    return not set(then.attributes) <= set(now.attributes) or then.max_input > now.max_input


def _opset(model: ir.Model) -> int:
    return model.opset_imports.get("", 1)


def _first_obstacle(model: ir.Model) -> str | None:
    opset = _opset(model)
    for node in model.graph.all_nodes():
        found = _obstacle(node, opset)
        if found is not None:
            return f"{node.name or 'a node without a name'} ({node.op_type}): {found}"
    return None


def _schema(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type):
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _obstacle(node: ir.Node, opset: int) -> str | None:
    schema = _schema(node, opset)
    if schema is None:
        return f"domain {node.domain or 'ai.onnx'} opset {opset} has no such operator in ONNX's schemas"
    if node.op_type in _BITWISE:
        return "it sees bits, and a double has others"
    if any(attribute.is_ref() for attribute in node.attributes.values()) and node.op_type in (
        "Cast",
        "Constant",
    ):
        return "its type depends on an attribute of the function that it stands in"
    if node.op_type == "Constant" and "sparse_value" in node.attributes:
        return "a sparse constant"
    outputs = node.outputs[: _SINGLE_OUTPUTS.get(node.op_type)]
    for formals, values in ((schema.inputs, node.inputs), (schema.outputs, outputs)):
        for index, value in enumerate(values):
            if value is None or not formals:
                continue
            formal = formals[min(index, len(formals) - 1)]
            is_float = value.dtype is None or value.dtype in FLOATS
            if is_float and formal.types & _FLOAT_TYPES and "tensor(double)" not in formal.types:
                return f"{formal.name} may be no double"
    return None


def _convert(node: ir.Node, opset: int) -> None:
    """Turn the types that a node's attributes hold or imply to double."""
    for name, attribute in list(node.attributes.items()):
        if attribute.type == ir.AttributeType.TENSOR:
            node.attributes[name] = ir.AttrTensor(name, _as_double(attribute.as_tensor()))
        elif name in _TYPE_ATTRIBUTES and attribute.value in FLOATS:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.DOUBLE))
    for name in ("value_float", "value_floats"):
        if node.op_type == "Constant" and name in node.attributes:
            number = np.asarray(node.attributes.pop(name).value, np.float64)
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(number))
    if node.op_type == "ConstantOfShape" and "value" not in node.attributes:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(np.zeros(1, np.float64)))
    schema = _schema(node, opset)
    for name in _TYPE_ATTRIBUTES:
        known = schema.attributes.get(name) if schema is not None else None
        if known is not None and name not in node.attributes and known.default_value.i in FLOATS:
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.DOUBLE))


def _as_double(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype not in FLOATS:
        return tensor
    return ir.Tensor(tensor.numpy().astype(np.float64), name=tensor.name)


def _double_type(kind: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    if isinstance(kind, ir.SequenceType | ir.OptionalType):
        return type(kind)(_double_type(kind.elem_type) or kind.elem_type)
    if isinstance(kind, ir.TensorType) and kind.dtype in FLOATS:
        return ir.TensorType(ir.DataType.DOUBLE)
    return kind
