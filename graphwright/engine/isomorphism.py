"""Compare the structure of two models up to the names of values and nodes."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts


def same_graph(first: ir.Model, second: ir.Model) -> bool:
    """Tell whether two models are the same up to names of values and nodes.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y) '
        >>> text += "{h = Exp(x) y = Neg(h)}"
        >>> model, renamed = ir.from_onnx_text(text), ir.from_onnx_text(text.replace("h", "i"))
        >>> same_graph(model, renamed), same_graph(model, ir.from_onnx_text(text.replace("Exp", "Abs")))
        (True, False)
    """
    return not difference(first, second)


def difference(first: ir.Model, second: ir.Model) -> str:
    """Return where two models differ besides names, or an empty text."""
    if first.opset_imports != second.opset_imports:
        return f"opsets {first.opset_imports} and {second.opset_imports}"
    if set(first.functions) != set(second.functions):
        return f"functions {sorted(first.functions)} and {sorted(second.functions)}"
    pairs = [(first.graph, second.graph)]
    pairs += [(first.functions[key].graph, second.functions[key].graph) for key in first.functions]
    return next((found for pair in pairs for found in _Comparison().graphs(*pair)), "")


class _Comparison:
    """Walks two graphs from their outputs and pairs their values; one value never has two partners."""

    def __init__(self) -> None:
        self.partners: dict[ir.Value, ir.Value] = {}
        self.taken: set[ir.Value] = set()

    def graphs(self, first: ir.Graph, second: ir.Graph) -> Iterator[str]:
        """Yield the differences found."""
        counts = [sum(node.op_type != "Constant" for node in graph) for graph in (first, second)]
        operators = [sorted(node.op_type for node in graph) for graph in (first, second)]
        if counts[0] != counts[1]:
            yield f"the operators {operators[0]} and {operators[1]}"
        ends = [(len(graph.inputs), len(graph.outputs)) for graph in (first, second)]
        if ends[0] != ends[1]:
            yield f"{ends[0]} and {ends[1]} inputs and outputs"
            return
        for one, other in zip((*first.inputs, *first.outputs), (*second.inputs, *second.outputs), strict=True):
            texts = [facts.describe(value).partition(" ")[2] for value in (one, other)]
            if texts[0] != texts[1]:
                yield f"{one.name} is {texts[0]} and {texts[1]}"
        for one, other in zip(first.inputs, second.inputs, strict=True):
            self._pair(one, other)
        for one, other in zip(first.outputs, second.outputs, strict=True):
            yield from self._values(one, other)

    def _pair(self, one: ir.Value, other: ir.Value) -> bool:
        if one in self.partners or other in self.taken:
            return self.partners.get(one) is other
        self.partners[one] = other
        self.taken.add(other)
        return True

    def _values(self, one: ir.Value | None, other: ir.Value | None) -> Iterator[str]:
        if one is None or other is None:
            if one is not other:
                yield f"an input that is there only once: {facts.describe(one or other)}"
            return
        contents, others = facts.constant(one), facts.constant(other)
        if contents is not None and others is not None:
            if not _same_tensor(contents, others):
                yield f"the constants {one.name} and {other.name}"
            return
        known = one in self.partners
        if one.index() != other.index() or not self._pair(one, other):
            yield f"{facts.describe(one)} stands where {facts.describe(other)} does"
        elif not known:
            yield from self._nodes(one.producer(), other.producer())

    def _nodes(self, one: ir.Node | None, other: ir.Node | None) -> Iterator[str]:
        if one is None or other is None:
            if one is not other:
                yield f"{facts.place(one)} and {facts.place(other)}"
            return
        kinds = [(node.op_identifier(), len(node.inputs), len(node.outputs)) for node in (one, other)]
        if kinds[0] != kinds[1]:
            yield f"{facts.place(one)} and {facts.place(other)}"
            return
        yield from self._attributes(one, other)
        for values in zip(one.inputs, other.inputs, strict=True):
            yield from self._values(*values)

    def _attributes(self, one: ir.Node, other: ir.Node) -> Iterator[str]:
        bodies = list(facts.subgraphs(one)), list(facts.subgraphs(other))
        for graphs in zip(*bodies, strict=False):
            yield from self.graphs(*graphs)
        for name in sorted({*one.attributes, *other.attributes}):
            contents = [_plain(node, name) for node in (one, other)]
            if contents[0] != contents[1]:
                yield f"{facts.place(one)} has {name}={contents[0]} and {contents[1]}"


def _plain(node: ir.Node, name: str) -> object:
    given = node.attributes.get(name)
    if given is not None and given.is_ref():
        return "reference", given.ref_attr_name
    if given is not None and given.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "graphs"
    value = facts.attribute(node, name)
    if isinstance(value, ir.TensorProtocol):
        return value.dtype, tuple(value.shape), value.tobytes()
    # Both go through the file, where floats are single.
    return float(np.float32(value)) if isinstance(value, float) else value


def _same_tensor(one: ir.TensorProtocol, other: ir.TensorProtocol) -> bool:
    same = (one.dtype, tuple(one.shape)) == (other.dtype, tuple(other.shape))
    if not same or one.dtype == ir.DataType.STRING:
        return same and list(one.numpy().reshape(-1)) == list(other.numpy().reshape(-1))
    return one.tobytes() == other.tobytes()
