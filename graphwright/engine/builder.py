"""Records the nodes of a replacement; the driver in ``rewrite.py`` commits them or throws them away."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes import output_shapes
from graphwright.engine.weights import static_shape

Given = ir.Value | np.ndarray | int | float | Sequence[int] | None


class Names:
    """Gives out value and node names that a model does not use yet."""

    def __init__(self, model: ir.Model) -> None:
        self.taken: set[str] = set()
        for graph in facts.graphs(model):
            for value in (*graph.inputs, *graph.initializers.values()):
                self.taken.add(value.name or "")
            for node in graph:
                self.taken.add(node.name or "")
                self.taken.update(value.name or "" for value in node.outputs)

    def fresh(self, wanted: str) -> str:
        """Return the wanted name, or that name with the first number that makes it new."""
        name, count = wanted, 1
        while name in self.taken:
            name, count = f"{wanted}_{count}", count + 1
        self.taken.add(name)
        return name


class Builder:
    """Makes nodes: ``op.Anything(x, y, axis=1)`` is an operator of that name and returns its output.

    ``_domain`` names a domain other than ONNX's; ``_outputs`` above 1 gives a tuple. A float among the inputs becomes
    a constant of the first floating dtype among them; integers and lists of them become int64. No graph is touched.
    """

    def __init__(self, names: Names, prefix: str, opsets: dict[str, int], *, inline_constants: bool = False) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.functions: dict[ir.OperatorIdentifier, ir.Function] = {}
        self._names = names
        self._prefix = prefix
        self._opsets = opsets
        self._inline_constants = inline_constants

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_"):
            raise AttributeError(op_type)

        def make(*inputs: Given, _domain: str = "", _outputs: int = 1, **attributes: Any) -> Any:
            dtypes = [value.dtype for value in inputs if isinstance(value, ir.Value) and value.dtype]
            like = next((dtype for dtype in dtypes if dtype.is_floating_point()), None)
            values = [self._as_value(given, like) for given in inputs]
            given = {name: value for name, value in attributes.items() if value is not None}
            node = ir.node(op_type, values, attributes=given, domain=_domain, num_outputs=_outputs)
            self._finish(node)
            return node.outputs[0] if _outputs == 1 else tuple(node.outputs)

        return make

    @property
    def opset(self) -> int:
        """The version of ONNX's own operators that the graph is written in."""
        return self._opsets.get("", 0)

    def call(self, function: ir.Function, *inputs: Given, **attributes: Any) -> tuple[ir.Value, ...]:
        """Return the outputs of a node that calls a function, which becomes one of the model's own.

        What the outputs are is not inferred: the caller sets their types and shapes.
        """
        node = ir.node(
            function.name,
            [self._as_value(given, None) for given in inputs],
            attributes=attributes,
            domain=function.domain,
            overload=function.overload,
            num_outputs=len(function.outputs),
        )
        self._finish(node)
        self.functions[function.identifier()] = function
        return tuple(node.outputs)

    def branch(self, record: Callable[..., Sequence[ir.Value]], inputs: Sequence[ir.Value] = ()) -> ir.Graph:
        """Return a graph of what is recorded, for ``then_branch`` and the like; it may use any value from outside.

        ``inputs`` are its own, as those of a Loop's body: they get names, and ``record`` takes them after the builder.
        What is used in there alone is no input of the node that gets the graph: use it outside too, or the driver
        does not see that the node comes after it.
        """
        inner = Builder(self._names, self._prefix, self._opsets, inline_constants=True)
        for value in inputs:
            value.name = self._fresh("input")
        outputs = record(inner, *inputs)
        return ir.Graph(inputs, outputs, nodes=inner.nodes, name=self._fresh("branch"))

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Value:
        """Return the first output of a node like the given one, attributes and all, with other inputs."""
        twin = ir.node(
            node.op_type,
            inputs,
            attributes=node.attributes,
            domain=node.domain,
            num_outputs=len(node.outputs),
        )
        self._finish(twin)
        return twin.outputs[0]

    def discard(self) -> None:
        """Take what was recorded off the graph again: as long as a node has inputs, it counts among their users."""
        for node in self.nodes:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
        self.nodes.clear()

    def constant(self, contents: np.ndarray | ir.TensorProtocol, name: str = "constant") -> ir.Value:
        """Return a constant with these contents; an ``onnx_ir.LazyTensor`` is computed only when it is written."""
        tensor = contents if isinstance(contents, ir.TensorProtocol) else ir.tensor(contents)
        if self._inline_constants:
            node = ir.node("Constant", [], attributes={"value": tensor})
            self._finish(node)
            return node.outputs[0]
        shape = ir.Shape(static_shape(tensor))
        value = ir.Value(name=self._fresh(name), type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self.constants.append(value)
        return value

    def _as_value(self, given: Given, like: ir.DataType | None) -> ir.Value | None:
        if given is None or isinstance(given, ir.Value):
            return given
        if isinstance(given, float):
            if like is None:
                raise TypeError(f"the dtype of the constant {given} is not known; give an array")
            return self.constant(np.asarray(given, like.numpy()))
        return self.constant(given if isinstance(given, np.ndarray) else np.asarray(given, np.int64))

    def _finish(self, node: ir.Node) -> None:
        node.name = self._fresh(node.op_type)
        for index, value in enumerate(node.outputs):
            value.name = self._fresh(f"{node.op_type}_out{index}")
        _infer_types(node, self._opsets)
        self.nodes.append(node)

    def _fresh(self, name: str) -> str:
        return self._names.fresh(f"{self._prefix}/{name}")


def _infer_types(node: ir.Node, opsets: dict[str, int]) -> None:
    """Set dtype and shape of a node's outputs by ONNX's own inference, as far as it knows them."""
    version = opsets.get(node.domain)
    definition = facts.schema(node.domain, node.op_type, version)
    if definition is None or version is None:
        return
    inputs = [value for value in node.inputs if value is not None]
    if any(value.type is None for value in inputs):
        return
    types = {value.name or "": _type_proto(value) for value in inputs}
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            definition,
            ir.serde.serialize_node(node),
            types,
            {value.name or "": _tensor_proto(value) for value in inputs if facts.array(value) is not None},
            opset_imports=[onnx.helper.make_opsetid(domain, number) for domain, number in opsets.items()],
        )
    except (onnx.shape_inference.InferenceError, RuntimeError):
        return
    for value in node.outputs:
        if value.name in inferred:
            given = ir.serde.deserialize_type_proto_for_type(inferred[value.name])
            shape = ir.serde.deserialize_type_proto_for_shape(inferred[value.name])
            value.type, value.shape = given, shape
    for value, dims in zip(node.outputs, output_shapes(node), strict=False):
        # ONNX knows no arithmetic with names.
        if dims is not None and value.shape is not None and len(dims) == value.shape.rank():
            known = [facts.dim(value, axis) for axis in range(len(dims))]
            value.shape = ir.Shape([own if other is None else other for own, other in zip(dims, known, strict=True)])


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    return ir.serde.serialize_value(value).type


def _tensor_proto(value: ir.Value) -> onnx.TensorProto:
    tensor = facts.constant(value)
    assert tensor is not None
    return ir.serde.serialize_tensor(tensor)
