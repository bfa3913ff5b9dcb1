"""The edit of ``precision``: narrower constants, narrower results, and a Cast where two types meet; no rule."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Names
from graphwright.engine.rewrite import RULE, SOURCES
from graphwright.engine.weights import let_pages_go, static_shape

# What a node that stays in float32 is marked with: the reason. It is not asked about again.
MARK = "graphwright.precision"

# They read no numbers, so that they take whatever type there is.
_READ_SIZES = frozenset({"Shape", "Size"})


class Planned(Protocol):
    """A node that is to compute in the narrower type, with the places of those inputs and outputs that are of it."""

    @property
    def node(self) -> ir.Node:
        """The node."""

    @property
    def inputs(self) -> frozenset[int]:
        """Places of inputs."""

    @property
    def outputs(self) -> frozenset[int]:
        """Places of outputs."""


def insert_casts(model: ir.Model, dtype: ir.DataType, plans: Sequence[Planned]) -> None:
    """Give the planned nodes the type, and every other user, and the model's outputs, the float32 that they had."""
    edit = _Edit(model, dtype)
    planned = {plan.node: plan for plan in plans}
    made = [plan.node.outputs[index] for plan in plans for index in sorted(plan.outputs)]
    for value in made:
        # Not its dtype: clones of a model share the objects that are their types.
        value.type = ir.TensorType(dtype)
    for plan in plans:
        for index in sorted(plan.inputs):
            edit.narrow_input(plan.node, index)
        if plan.node.op_type == "Attention" and not plan.node.domain:
            plan.node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", ir.DataType.FLOAT.value)
    for value in made:
        wide = [
            (user, index)
            for user, index in value.uses()
            if not (user in planned and index in planned[user].inputs) and user.op_type not in _READ_SIZES
        ]
        edit.widen(value, [(user, index) for user, index in wide if user not in edit.casts])


class _Edit:
    """One edit of one graph; a value is cast once, whoever uses it."""

    def __init__(self, model: ir.Model, dtype: ir.DataType) -> None:
        self.graph, self.dtype = model.graph, dtype
        self.names = Names(model)
        self.suffix = dtype.name.lower()
        self.casts: set[ir.Node] = set()
        self._narrow: dict[ir.Value, ir.Value] = {}

    def narrow_input(self, node: ir.Node, index: int) -> None:
        value = node.inputs[index]
        assert value is not None
        if value.dtype == self.dtype:
            return
        if value not in self._narrow:
            tensor = facts.constant(value)
            self._narrow[value] = self._cast(value, node) if tensor is None else self._constant(value, tensor)
        node.replace_input_with(index, self._narrow[value])

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
        rounded = narrowed(tensor, self.dtype)
        name = self.names.fresh(f"{value.name}_{self.suffix}")
        kind = ir.TensorType(self.dtype)
        made = ir.Value(name=name, type=kind, shape=ir.Shape(static_shape(tensor)), const_value=rounded)
        self.graph.register_initializer(made)
        return made

    def _cast(self, value: ir.Value, user: ir.Node) -> ir.Value:
        """Cast in front of the first user; the next ones stand behind it."""
        cast = self._node(value, self.dtype, self.names.fresh(f"{value.name}_{self.suffix}"), user)
        self.graph.insert_before(user, cast)
        return cast.outputs[0]

    def _node(self, value: ir.Value, dtype: ir.DataType, name: str, source: ir.Node) -> ir.Node:
        made = ir.Value(name=name, type=ir.TensorType(dtype), shape=value.shape)
        cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", dtype.value)], outputs=[made])
        cast.name = self.names.fresh(f"precision/{name}")
        cast.metadata_props[RULE] = "precision"
        cast.metadata_props[SOURCES] = facts.place(source)
        self.casts.add(cast)
        return cast

    def widen(self, value: ir.Value, users: Sequence[tuple[ir.Node, int]]) -> None:
        """Give users, and the graph where the value is its output, the value in float32."""
        producer = value.producer()
        assert producer is not None
        is_output = value.is_graph_output()
        if not users and not is_output:
            return
        name = value.name or ""
        if is_output:
            value.name = self.names.fresh(f"{name}_{self.suffix}")
        cast = self._node(value, ir.DataType.FLOAT, name if is_output else self.names.fresh(f"{name}_float"), producer)
        self.graph.insert_after(producer, cast)
        for user, index in users:
            user.replace_input_with(index, cast.outputs[0])
        for place, output in enumerate(self.graph.outputs):
            if output is value:
                self.graph.outputs[place] = cast.outputs[0]


def narrowed(tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.LazyTensor:
    """Return a constant rounded to a type, computed when it is read and never kept."""

    def compute() -> ir.TensorProtocol:
        array = tensor.numpy()
        with np.errstate(under="ignore"):
            rounded = array.astype(dtype.numpy())
        let_pages_go(tensor)
        return ir.tensor(rounded, dtype=dtype)

    return ir.LazyTensor(compute, dtype=dtype, shape=ir.Shape(static_shape(tensor)))
