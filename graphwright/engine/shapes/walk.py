"""The walk that gives every value of a model its shape, and the commit of what it found.

Graph inputs and weights are believed. Every other shape is computed from them, operator by operator; what the
file declares fills the gaps. A declaration that contradicts a computed size shows that the file was edited
and its declarations were left behind: then none is believed, and the walk is done again without them.

Names that ONNX's C++ inference makes up (``unk__0``) are dropped. They are unique in one call, but files that
were joined, or declared wrongly, use one for several sizes. So the inference of whole models is not called,
only that of one node (``fallback.py``), and only names of that node's inputs are taken from it.
"""

import re
from collections.abc import Sequence

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes import control_flow
from graphwright.engine.shapes.compute import COMPUTE
from graphwright.engine.shapes.contents import elements_of
from graphwright.engine.shapes.fallback import Inferred, infer_by_onnx, output_dtype
from graphwright.engine.shapes.known import Dims, as_sizes, constant_elements, has_reference, unknown_elements
from graphwright.engine.shapes.layout import LAYOUT
from graphwright.engine.shapes.sizes import Size, beyond_zero
from graphwright.engine.shapes.windows import WINDOWS

RULES = {**LAYOUT, **COMPUTE, **WINDOWS}

_MADE_UP = re.compile(r"unk__\d+")
# Calls inside calls that are followed; beyond it nothing is known of a call.
DEEPEST_CALL = 8


def infer_shapes(model: ir.Model) -> bool:
    """Give every value of a model its shape and dtype as far as they can be told; return whether any changed.

    Shapes: sizes of graph inputs keep their names; sizes computed from them are written in these names. The
        names of graph outputs stay; so does every known size, unless the computed one contradicts it.

    Example:
        >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (y) {y = Relu(x)}'
        >>> model = ir.from_onnx_text(text)
        >>> infer_shapes(model), str(model.graph.outputs[0].shape), infer_shapes(model)
        (True, '[N,4]', False)
    """
    walk = Walk(model)
    walk.whole_model()
    if walk.refuted:
        walk = Walk(model, believes=False)
        walk.whole_model()
    return walk.commit()


def infer_function(model: ir.Model, function: ir.Function) -> bool:
    """Give every value of one of a model's functions what ``infer_shapes`` would; return whether any changed."""
    walk = Walk(model)
    walk.function(function)
    return walk.commit()


class Walk:
    """One pass over a model in running order; ``Known`` to the tables."""

    def __init__(self, model: ir.Model, *, believes: bool = True, caller: "Walk | None" = None) -> None:
        self.model = model
        self.refuted = False
        self._believes = believes
        self._shapes: dict[ir.Value, Dims | None] = {}
        self._dtypes: dict[ir.Value, ir.DataType | None] = {}
        self._contents: dict[ir.Value, Dims | None] = {}
        # Sizes of what every run computes: of nodes that stand in no branch and no function.
        self._lengths: set[Size | None] = set()
        self._opsets: dict[str, int] = {}
        self.depth: int = 0 if caller is None else caller.depth + 1
        # What may still be walked: bodies are walked more than once, and a hostile file nests them.
        self.budget: list[int] = [_budget(model)] if caller is None else caller.budget

    def whole_model(self) -> None:
        """Walk the main graph and, with nothing known of their inputs, the functions."""
        for function in self.model.functions.values():
            self.function(function)
        self._opsets = dict(self.model.opset_imports)
        self.graph(self.model.graph)

    def function(self, function: ir.Function) -> None:
        """Walk the body of a function, with nothing known of its inputs."""
        self._opsets = dict(function.opset_imports) or dict(self.model.opset_imports)
        self.graph(function.graph)

    def graph(self, graph: ir.Graph) -> None:
        """Walk the nodes of a graph; what is known of its inputs is set before."""
        for node in graph:
            self.budget[0] -= 1
            self._node(node)

    def shape(self, value: ir.Value | None) -> Dims | None:
        """Return the sizes of a tensor."""
        if value is None:
            return None
        if value not in self._shapes:
            self._shapes[value] = self._given_shape(value)
        return self._shapes[value]

    def dtype(self, value: ir.Value | None) -> ir.DataType | None:
        """Return the type of a tensor's elements; None for what is no tensor."""
        if value is None:
            return None
        if value not in self._dtypes:
            declared = value.dtype if _is_tensor(value) else None
            stored = facts.constant(value) if declared is None else None
            self._dtypes[value] = stored.dtype if stored is not None else declared
        return self._dtypes[value]

    def contents(self, value: ir.Value | None) -> Dims | None:
        """Return the elements of an integer tensor of rank 0 or 1."""
        if value is None:
            return None
        if value not in self._contents:
            stored = facts.constant(value) is not None
            self._contents[value] = constant_elements(value) if stored else unknown_elements(value, self)
        return self._contents[value]

    def is_length(self, size: Size | None) -> bool:
        """Tell whether some tensor of every run that works has an axis of this size: then it is not negative."""
        return size in self._lengths

    def learn(self, value: ir.Value, dtype: ir.DataType | None, shape: Dims | None) -> None:
        """Take note of what was computed of a value; what the file declares fills its gaps."""
        if not _is_tensor(value):
            return
        declared = self._declared(value)
        if shape is not None:
            # Max(0, length - 1), as of a Slice, where that is a length anyway.
            shape = tuple(least if self.is_length(least := beyond_zero(size)) else size for size in shape)
        self._shapes[value] = found = _merged(shape, declared)
        node = value.producer()
        if found is not None and node is not None and node.graph is self.model.graph:
            self._lengths.update(size for size in found if isinstance(size, str))
        self._dtypes[value] = value.dtype if value.dtype is not None else dtype
        self.refuted = self.refuted or _contradicts(shape, declared)
        self._contents.pop(value, None)

    def _given_shape(self, value: ir.Value) -> Dims | None:
        stored = facts.constant(value)
        if stored is not None:
            return tuple(int(size) for size in stored.shape.numpy())
        if not _is_tensor(value):
            return None
        is_interface = value.is_graph_input() and value.graph is self.model.graph
        return as_sizes(value.shape) if is_interface else self._declared(value)

    def _declared(self, value: ir.Value) -> Dims | None:
        if not self._believes:
            return None
        declared = as_sizes(value.shape)
        return None if declared is None else tuple(None if _is_made_up(size) else size for size in declared)

    def _node(self, node: ir.Node) -> None:
        for value, (dtype, shape) in zip(node.outputs, self._outputs(node), strict=True):
            self.learn(value, dtype, shape)
        if node.outputs and node.domain == "":
            self._contents[node.outputs[0]] = elements_of(node, self)

    def _outputs(self, node: ir.Node) -> Sequence[Inferred]:
        function = self.model.functions.get(node.op_identifier())
        if function is not None:
            return self._call(function, node)
        if node.domain == "" and node.op_type in control_flow.BODIES:
            return control_flow.BODIES[node.op_type](node, self)
        for body in facts.subgraphs(node):
            self.graph(body)
        version = self._opsets.get(node.domain)
        if has_reference(node):
            return [(output_dtype(node, index, version, self), None) for index in range(len(node.outputs))]
        rule = RULES.get(node.op_type) if node.domain == "" else None
        if rule is None:
            return infer_by_onnx(node, self._opsets, self)
        shapes = [*rule(node, self), *[None] * len(node.outputs)]
        dtypes = [output_dtype(node, index, version, self) for index in range(len(node.outputs))]
        if None in dtypes:
            # The schema alone does not tell: DequantizeLinear-23 has an attribute, or its scale's type.
            dtypes = [dtype for dtype, _ in infer_by_onnx(node, self._opsets, self)]
        return list(zip(dtypes, shapes, strict=False))

    def _call(self, function: ir.Function, node: ir.Node) -> Sequence[Inferred]:
        """Walk a function's body with what is known of the arguments of one call."""
        if self.depth >= DEEPEST_CALL or self.budget[0] < 0:
            return [(None, None)] * len(node.outputs)
        inner = Walk(self.model, believes=False, caller=self)
        inner._opsets = dict(function.opset_imports) or self._opsets
        for value, given in zip(function.inputs, node.inputs, strict=False):
            inner._shapes[value], inner._dtypes[value] = self.shape(given), self.dtype(given)
            inner._contents[value] = self.contents(given)
        inner.graph(function.graph)
        results = [(inner.dtype(value), inner.shape(value)) for value in function.outputs]
        return [*results, *[(None, None)] * len(node.outputs)][: len(node.outputs)]

    def commit(self) -> bool:
        """Write what was found to the model."""
        outputs = set(self.model.graph.outputs)
        changed = False
        for value in list(self._shapes):
            if value.is_graph_input() and value.graph is self.model.graph:
                continue
            dims = self._shapes[value]
            if value in outputs:
                dims = _with_declared_names(dims, value.shape)
            elif dims is None and not self._believes and value.shape is not None and _is_tensor(value):
                value.shape, changed = None, True
            changed = _write(value, self._dtypes.get(value), dims) or changed
        return changed


def _budget(model: ir.Model) -> int:
    return 1000 + 20 * sum(graph.num_nodes() for graph in facts.graphs(model))


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)


def _is_made_up(size: object) -> bool:
    return isinstance(size, str) and _MADE_UP.search(size) is not None


def _merged(computed: Dims | None, declared: Dims | None) -> Dims | None:
    if computed is None or declared is None or len(computed) != len(declared):
        return declared if computed is None else computed
    return tuple(second if first is None else first for first, second in zip(computed, declared, strict=True))


def _contradicts(computed: Dims | None, declared: Dims | None) -> bool:
    """A declared number contradicts another number, and a computed name too: that may have any value."""
    if computed is None or declared is None:
        return False
    if len(computed) != len(declared):
        return True
    pairs = zip(computed, declared, strict=True)
    return any(isinstance(second, int) and first is not None and first != second for first, second in pairs)


def _with_declared_names(dims: Dims | None, declared: ir.Shape | None) -> Dims | None:
    """The names of a graph's outputs are the user's."""
    if dims is None or declared is None or len(dims) != len(declared):
        return dims
    pairs = zip(dims, declared, strict=True)
    return tuple(
        size if isinstance(own, int) or not own.value or _is_made_up(own.value) else own.value for size, own in pairs
    )


def _write(value: ir.Value, dtype: ir.DataType | None, dims: Dims | None) -> bool:
    changed = False
    if value.type is None and dtype is not None:
        value.type = ir.TensorType(dtype)
        changed = True
    before = None if value.shape is None else [size if isinstance(size, int) else size.value for size in value.shape]
    if dims is None or before == list(dims) or not _is_tensor(value):
        return changed
    value.shape = ir.Shape(dims)
    return True
