"""Cast what an operator of TensorRT's does not take to a type that it takes, and back.

Before:                            After:
    x bool -- ReduceMax -- y bool      x -- Cast int32 -- ReduceMax -- Cast bool -- y

    x int64 -- NonZero -- y            x -- Cast float32 -- NonZero -- y

Booleans go through int32, or through float32 where only floats are taken; back, what is not 0 is true. NonZero looks
at integers as floats, of which none but 0 is 0. Other integers keep their type: in float32 they would be rounded.

Shapes:    any.
Dtypes:    bool everywhere; int32 and int64 for NonZero.
Refuses:   nothing: a node that this does not help stays, and ``verify --target tensorrt`` names it.
Numerics:  the same.
Source:    ``tensorrt_operators`` for the types.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Names
from graphwright.engine.pipeline import FunctionPass
from graphwright.engine.rewrite import RULE, SOURCES, source_names
from graphwright.passes.lower import tensorrt_operators as table
from graphwright.passes.lower.tensorrt_support import main_values

NAME = "cast-for-tensorrt"
_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)


def cast_for_tensorrt(model: ir.Model) -> bool:
    """Cast in place; tell whether there was anything to cast."""
    names, count = Names(model), 0
    for scope in list(facts.scopes(model)):
        for node in [] if scope.is_function else list(scope.graph):
            found = _wider(node)
            if found is not None:
                _cast(node, *found, names)
                count += 1
    return count > 0


def _wider(node: ir.Node) -> tuple[ir.DataType, ir.DataType] | None:
    """Return the type of a node's main values, which is one, and the type that they have to go through, or None."""
    if node.domain or node.op_type not in table.TYPES or any(True for _ in facts.subgraphs(node)):
        return None
    allowed = table.TYPES[node.op_type]
    dtypes = {value.dtype for value in main_values(node)} - {None}
    refused = dtypes - allowed
    if len(refused) != 1:
        return None
    dtype = refused.pop()
    if dtype == ir.DataType.BOOL:
        through = next((each for each in (ir.DataType.INT32, ir.DataType.FLOAT) if each in allowed), None)
        return None if through is None else (dtype, through)
    return (dtype, ir.DataType.FLOAT) if node.op_type == "NonZero" and dtype in _INTEGERS else None


def _cast(node: ir.Node, dtype: ir.DataType, wider: ir.DataType, names: Names) -> None:
    graph = node.graph
    assert graph is not None
    main = set(main_values(node))
    casts: dict[ir.Value, ir.Value] = {}
    for index, value in enumerate(node.inputs):
        if value is None or value not in main:
            continue
        if value not in casts:
            casts[value] = _made(node, value, wider, names)
            producer = casts[value].producer()
            assert producer is not None
            graph.insert_before(node, producer)
        node.replace_input_with(index, casts[value])
    for value in node.outputs:
        if value in main:
            _cast_back(node, value, dtype, wider, names)


def _made(node: ir.Node, value: ir.Value, dtype: ir.DataType, names: Names) -> ir.Value:
    cast = ir.node("Cast", [value], attributes={"to": dtype.value}, name=names.fresh(f"{NAME}/Cast"))
    cast.metadata_props.update({RULE: NAME, SOURCES: "\n".join(source_names(node))})
    result = cast.outputs[0]
    result.name, result.dtype, result.shape = names.fresh(f"{value.name}/cast"), dtype, value.shape
    return result


def _cast_back(node: ir.Node, value: ir.Value, dtype: ir.DataType, wider: ir.DataType, names: Names) -> None:
    """Put a Cast between an output and its users; what comes out keeps the name."""
    graph = node.graph
    assert graph is not None
    users = list(value.uses())
    result = _made(node, value, dtype, names)
    result.name, value.name = value.name, result.name
    value.type = ir.TensorType(wider)
    for user, index in users:
        user.replace_input_with(index, result)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = result
    producer = result.producer()
    assert producer is not None
    graph.insert_after(node, producer)


CAST_FOR_TENSORRT = FunctionPass(NAME, cast_for_tensorrt)
