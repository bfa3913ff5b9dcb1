"""The structural check that follows every pass: cheap, always on, in one walk over the graphs."""

from collections.abc import Callable, Iterator

import onnx
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.weights import static_shape
from graphwright.errors import StructureError

# Operators of these domains must exist in the declared operator set; others belong to a runtime's or a user's library.
CHECKED_DOMAINS = frozenset({"", "ai.onnx.ml", "ai.onnx.preview.training"})


def check_structure(model: ir.Model, where: str = "model") -> None:
    """Check what any ONNX graph must satisfy: order, names, scopes, operators, arity, declared domains.

    Raises:
        StructureError: with the first fault found; ``where`` names the pass that is to blame.
    """
    for fault in faults(model):
        raise StructureError(where, fault, hint="run with --verify region to find the application")


def faults(model: ir.Model) -> Iterator[str]:
    """Yield a sentence for each structural fault of a model."""
    yield from _graph_faults(model.graph, model, model.opset_imports, set())
    for function in model.functions.values():
        opsets = function.opset_imports or model.opset_imports
        yield from _graph_faults(function.graph, model, opsets, set())


def _graph_faults(graph: ir.Graph, model: ir.Model, opsets: dict[str, int], outer: set[ir.Value]) -> Iterator[str]:
    visible = outer | set(graph.inputs) | set(graph.initializers.values())
    names = {value.name for value in visible}
    for node in graph:
        for value in node.inputs:
            if value is not None and value not in visible:
                yield f"{facts.place(node)} reads {value.name!r}, which nothing before it makes"
        yield from _operator_faults(node, model, opsets)
        for inner in facts.subgraphs(node):
            yield from _graph_faults(inner, model, opsets, visible)
        for value in node.outputs:
            if value.name in names and value.name:
                yield f"the name {value.name!r} is used twice; {facts.place(node)} has it again"
            visible.add(value)
            names.add(value.name)
    for value in graph.outputs:
        if value not in visible:
            yield f"graph output {value.name!r} is made by no node"


def _operator_faults(node: ir.Node, model: ir.Model, opsets: dict[str, int]) -> Iterator[str]:
    if node.op_identifier() in model.functions:
        return
    version = opsets.get(node.domain)
    if version is None:
        yield f"{facts.place(node)} is of domain {node.domain!r}, which the model does not import"
        return
    definition = facts.schema(node.domain, node.op_type, version)
    if definition is None:
        if node.domain in CHECKED_DOMAINS:
            yield f"{facts.place(node)} does not exist in opset {version} of {node.domain or 'ai.onnx'}"
        return
    count = len(node.inputs)
    if not definition.min_input <= count <= definition.max_input:
        yield f"{facts.place(node)} has {count} inputs, takes {definition.min_input} to {definition.max_input}"
    for name in node.attributes:
        if name not in definition.attributes and name != "metadata":
            yield f"{facts.place(node)} has an attribute {name!r} that opset {version} does not know"
    for name, declared in definition.attributes.items():
        if declared.required and name not in node.attributes:
            yield f"{facts.place(node)} lacks its attribute {name!r}"


def check_onnx(model: ir.Model, where: str = "model") -> None:
    """Run ONNX's own checker with strict shape inference, on a copy that carries no weights.

    Raises:
        StructureError: the checker's complaint.
    """
    complaint = _call_checker(model, lambda proto: onnx.checker.check_model(proto, full_check=True))
    if complaint:
        raise StructureError(where, complaint, hint="run with --verify region to find the application")


def _call_checker(model: ir.Model, check: Callable[[onnx.ModelProto], None]) -> str:
    try:
        check(weightless_proto(model))
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return " ".join(str(error).split())
    return ""


def weightless_proto(model: ir.Model) -> onnx.ModelProto:
    """Return a protobuf of the model in which large initializers are graph inputs, so that it is small."""
    twin = model.clone()
    for name, value in list(twin.graph.initializers.items()):
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.size <= facts.SMALL_CONSTANT:
            value.const_value = ir.tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=name)
        elif tensor is not None and tensor.size > facts.SMALL_CONSTANT:
            value.dtype, value.shape = tensor.dtype, ir.Shape(static_shape(tensor))
            value.const_value = None
            del twin.graph.initializers[name]
            if not value.is_graph_input():
                twin.graph.inputs.append(value)
    return ir.to_proto(twin)
