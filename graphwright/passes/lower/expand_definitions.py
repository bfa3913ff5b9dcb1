"""Replace operators that TensorRT's parser does not take by what ONNX defines them to be.

Before:                                  After:
    x -- LayerNormalization --+-- y          x -- ReduceMean --+-- mean
                              +-- mean           ...           +-- ... -- y

Many operators of ONNX are functions of others, and their definition says so in nodes. Where the table has not the
operator, or not in the form in which a node uses it, its definition takes its place, if the table has all of that:
LayerNormalization with its statistics, Clip of integers, Swish before TensorRT 11. Attention is replaced in any form,
for the reason that ``lower-attention-for-tensorrt`` gives: that pass before this one takes the usual forms, this one
caches, triangles and windows. The lowest version counts, so that a model is good for all of them.

Shapes:    as the definitions; those of the outputs stay.
Dtypes:    as the definitions; the types of the inputs must be known.
Refuses:   nothing: a node without such a definition stays, and ``verify --target tensorrt`` names it.
Numerics:  those of the definition; a runtime's own kernel may round otherwise.
Source:    the function bodies in ``onnx.defs``.
"""

from typing import Any

import onnx
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Builder, Names
from graphwright.engine.pipeline import FunctionPass
from graphwright.engine.rewrite import RULE, SOURCES, source_names
from graphwright.passes.lift.fold_constants import FOLD_CONSTANTS
from graphwright.passes.lower import tensorrt_operators as table
from graphwright.passes.lower.tensorrt_support import SUPPORTED_VERSIONS, node_faults

NAME = "expand-definitions"
# Operators of which no form is left to the parser.
ALWAYS = frozenset({"Attention"})


def expand_definitions(model: ir.Model) -> bool:
    """Replace them in place, and fold what became constant; tell whether there were any."""
    names, count = Names(model), 0
    for scope in list(facts.scopes(model)):
        for node in [] if scope.is_function else list(scope.graph):
            if node.domain in ("", "ai.onnx") and not _is_taken(node):
                count += _expand(node, names, scope.opsets)
    if count:
        FOLD_CONSTANTS.function(model)
    return count > 0


def _is_taken(node: ir.Node) -> bool:
    """Tell whether every version takes a node as it is."""
    if node.op_type in ALWAYS or not table.has_operator(node.op_type, SUPPORTED_VERSIONS[0]):
        return False
    return not any(True for _ in node_faults(node))


def _expand(node: ir.Node, names: Names, opsets: dict[str, int]) -> bool:
    function = _definition(node, opsets.get("", 0))
    if function is None:
        return False
    op = Builder(names, NAME, opsets)
    outputs = _record(op, node, function)
    used = [value for value in node.outputs if value.name]
    alive = _needed(op.nodes, set(outputs))
    if not all(_is_taken(each) for each in alive):
        return False
    _replace(node, op, alive, used, outputs)
    return True


def _definition(node: ir.Node, opset: int) -> ir.Function | None:
    """Return what ONNX says a node means, or None: no such thing, or written in operators of another time."""
    # onnx gives its schemas' functions no types.
    schema: Any = facts.schema("", node.op_type, opset)
    if schema is None or any(value is not None and value.type is None for value in node.inputs):
        return None
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    given = [_type(value) for value in node.inputs]
    written = ir.serde.serialize_node(node).SerializeToString()
    data = b""
    if schema.has_context_dependent_function:
        version = max((each for each in schema.context_dependent_function_opset_versions if each <= opset), default=0)
        data = schema.get_context_dependent_function_with_opset_version(version, written, given) if version else b""
    elif schema.has_function:
        data = schema.get_function_with_opset_version(opset)
    proto = onnx.FunctionProto.FromString(data)
    if not proto.node:
        return None
    # A definition names outputs that the node has not, and then does not make them.
    given_names = [name for name, value in zip(proto.output, node.outputs, strict=False) if value.name]
    del proto.output[:]
    proto.output.extend(given_names)
    function = ir.serde.deserialize_function(proto)
    return function if all(_is_known(each, opset) for each in function) else None


def _type(value: ir.Value | None) -> bytes:
    return b"" if value is None else ir.serde.serialize_value(value).type.SerializeToString()


def _is_known(node: ir.Node, opset: int) -> bool:
    """Tell whether a node of a definition is one in the model's operator set as well."""
    schema = facts.schema("", node.op_type, opset)
    if schema is None or node.domain or any(True for _ in facts.subgraphs(node)):
        return False
    return all(name in schema.attributes for name in node.attributes) and len(node.inputs) <= schema.max_input


def _record(op: Builder, node: ir.Node, function: ir.Function) -> list[ir.Value]:
    """Record the nodes of a definition; return what stands for each output that the node has."""
    given = [*node.inputs, *[None] * (len(function.inputs) - len(node.inputs))]
    values: dict[ir.Value | None, ir.Value | None] = {None: None, **dict(zip(function.inputs, given, strict=False))}
    for each in function:
        inputs = [values[value] for value in each.inputs]
        if each.op_type == "Identity":
            values[each.outputs[0]] = inputs[0]
            continue
        if each.op_type == "Constant" and "value" in each.attributes and not each.attributes["value"].is_ref():
            values[each.outputs[0]] = op.constant(each.attributes["value"].as_tensor())
            continue
        made = getattr(op, each.op_type)(*inputs, _outputs=len(each.outputs), **_attributes(each, node))
        values.update(zip(each.outputs, (made,) if len(each.outputs) == 1 else made, strict=True))
    found = [values[value] for value in function.outputs]
    return [value for value in found if value is not None]


def _attributes(inner: ir.Node, node: ir.Node) -> dict[str, Any]:
    """Return the attributes of a definition's node; one that the definition takes from the node has its value."""
    found: dict[str, Any] = {}
    for name, attribute in inner.attributes.items():
        value = facts.attribute(node, attribute.ref_attr_name or "") if attribute.is_ref() else attribute.value
        if value is not None:
            found[name] = value
    return found


def _needed(nodes: list[ir.Node], outputs: set[ir.Value]) -> list[ir.Node]:
    """Return those of the nodes that the outputs are made of."""
    wanted, alive = set(outputs), []
    for node in reversed(nodes):
        if any(value in wanted for value in node.outputs):
            wanted.update(value for value in node.inputs if value is not None)
            alive.append(node)
    return alive[::-1]


def _replace(node: ir.Node, op: Builder, alive: list[ir.Node], used: list[ir.Value], outputs: list[ir.Value]) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    made = set(alive)
    for index, value in enumerate(outputs):
        # A value from outside, or one that stands for two outputs, cannot take over a name.
        if value.producer() not in made or value in outputs[:index]:
            outputs[index] = op.Identity(value)
            alive.append(op.nodes[-1])
    wanted = {value for each in alive for value in each.inputs}
    for constant in op.constants:
        if constant in wanted:
            graph.register_initializer(constant)
    for each in alive:
        each.metadata_props.update({RULE: NAME, SOURCES: "\n".join(source_names(node))})
    ir.convenience.replace_nodes_and_values(graph, node, [node], alive, used, outputs)


EXPAND_DEFINITIONS = FunctionPass(NAME, expand_definitions)
