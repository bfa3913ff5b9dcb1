"""Element types from the operators' schemas, and ONNX's own inference for operators without a rule."""

from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes import sizes
from graphwright.engine.shapes.known import Dims, Known, operand

Inferred = tuple[ir.DataType | None, Dims | None]

_DTYPES = {
    f"tensor({name})": dtype
    for name, dtype in zip(
        ("float", "double", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool"),
        (
            ir.DataType.FLOAT,
            ir.DataType.DOUBLE,
            ir.DataType.FLOAT16,
            ir.DataType.BFLOAT16,
            ir.DataType.INT64,
            ir.DataType.INT32,
            ir.DataType.INT8,
            ir.DataType.UINT8,
            ir.DataType.BOOL,
        ),
        strict=True,
    )
}


_NUMBERS = {
    "value_int": ir.DataType.INT64,
    "value_ints": ir.DataType.INT64,
    "value_float": ir.DataType.FLOAT,
    "value_floats": ir.DataType.FLOAT,
}


def output_dtype(node: ir.Node, index: int, version: int | None, known: Known) -> ir.DataType | None:
    """Return the element type of an output where the operator's schema tells it."""
    if node.domain == "" and node.op_type in ("Cast", "Constant", "ConstantOfShape"):
        return _from_attribute(node)
    source = _dtype_source(node.domain, node.op_type, version, index)
    if source is None or isinstance(source, ir.DataType):
        return source
    return known.dtype(operand(node, source))


def _from_attribute(node: ir.Node) -> ir.DataType | None:
    if node.op_type == "Cast":
        to = facts.attribute(node, "to")
        return None if to is None else ir.DataType(to)
    if node.op_type == "Constant":
        tensor = facts.constant(node.outputs[0])
        # A number that the caller of a function gives has the type that the attribute's name says.
        return next(map(_NUMBERS.get, node.attributes), None) if tensor is None else tensor.dtype
    if "value" not in node.attributes:
        return ir.DataType.FLOAT
    fill = facts.attribute(node, "value")
    return None if fill is None else ir.DataType(fill.dtype)


@lru_cache(maxsize=4096)
def _dtype_source(domain: str, op_type: str, version: int | None, index: int) -> ir.DataType | int | None:
    """Return the type itself, or the number of the input that has the same."""
    definition = facts.schema(domain, op_type, version)
    if definition is None or not definition.outputs:
        return None
    declared = definition.outputs[min(index, len(definition.outputs) - 1)]
    if len(declared.types) == 1:
        return _DTYPES.get(next(iter(declared.types)))
    alike = (place for place, given in enumerate(definition.inputs) if given.type_str == declared.type_str)
    return next(alike, None)


def infer_by_onnx(node: ir.Node, opsets: dict[str, int], known: Known) -> list[Inferred]:
    """Return type and shape of each output as ONNX's inference gives them; nothing where it fails.

    A name is kept only where it is the name of a size of an input: others were made up.
    """
    nothing: list[Inferred] = [(None, None)] * len(node.outputs)
    version = opsets.get(node.domain)
    definition = facts.schema(node.domain, node.op_type, version)
    if definition is None or version is None or any(facts.subgraphs(node)):
        return nothing
    inputs = {value.name or "": value for value in node.inputs if value is not None}
    types = {name: given for name, value in inputs.items() if (given := _type_proto(value, known)) is not None}
    if len(types) < len(inputs):
        return nothing
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            definition,
            ir.serde.serialize_node(node),
            types,
            {name: given for name, value in inputs.items() if (given := _tensor_proto(value, known)) is not None},
            opset_imports=[onnx.helper.make_opsetid(domain, number) for domain, number in opsets.items()],
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, TypeError):
        return nothing
    names = {size for value in inputs.values() for size in known.shape(value) or ()}
    return [_from_type(inferred.get(value.name or ""), names) for value in node.outputs]


def _from_type(given: onnx.TypeProto | None, names: set[sizes.Size | None]) -> Inferred:
    if given is None or not given.HasField("tensor_type"):
        return None, None
    tensor = given.tensor_type
    dtype = ir.DataType(tensor.elem_type) if tensor.elem_type else None
    if not tensor.HasField("shape"):
        return dtype, None
    given_sizes = (size.dim_value if size.HasField("dim_value") else size.dim_param for size in tensor.shape.dim)
    return dtype, tuple(size if isinstance(size, int) or size in names else None for size in given_sizes)


def _type_proto(value: ir.Value, known: Known) -> onnx.TypeProto | None:
    dtype = known.dtype(value)
    if dtype is not None:
        return onnx.helper.make_tensor_type_proto(int(dtype), known.shape(value))
    return ir.serde.serialize_value(value).type if value.type is not None else None


def _tensor_proto(value: ir.Value, known: Known) -> onnx.TensorProto | None:
    if facts.array(value) is not None:
        tensor = facts.constant(value)
        return None if tensor is None else ir.serde.serialize_tensor(tensor)
    elements, shape, dtype = known.contents(value), known.shape(value), known.dtype(value)
    if elements is None or shape is None or dtype is None or not all(isinstance(each, int) for each in elements):
        return None
    contents = np.asarray(elements, dtype.numpy()).reshape(() if shape == () else -1)
    return ir.serde.serialize_tensor(ir.tensor(contents))
