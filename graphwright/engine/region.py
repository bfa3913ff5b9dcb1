"""Cut a replacement out of its graph: the matched nodes and the new ones as two models that run alone.

Both have the same inputs and outputs. Constants come along as initializers that share their tensors. So do
the nodes that compute shapes from other values' shapes, since random integers would be no shape. The host
graph is not changed: the models are clones.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.observe import Replacement
from graphwright.errors import RequestError

# Operators that read nothing of their input but its shape.
_SHAPE_READERS = frozenset({"Shape", "Size"})
# A longer computation from shapes than this is cut.
_MOST_SHAPE_NODES = 256
_EXACT = frozenset(
    [
        *(ir.DataType.BOOL, ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
    ]
)


@dataclass
class _Closure:
    """The nodes behind some outputs, in running order, and what they take from outside."""

    inside: set[ir.Node]
    in_context: bool
    nodes: list[ir.Node] = field(default_factory=list)
    inputs: list[ir.Value] = field(default_factory=list)
    constants: list[ir.Value] = field(default_factory=list)
    seen: set[ir.Value] = field(default_factory=set)

    def add(self, value: ir.Value) -> None:
        """Add what a value is made of."""
        stack = [(value, False)]
        while stack:
            current, is_ready = stack.pop()
            node = current.producer()
            if is_ready and node is not None:
                self.nodes.extend(() if node in self.nodes else (node,))
            elif current not in self.seen:
                self.seen.add(current)
                needed = self._expand(current, node)
                if needed is not None:
                    stack.append((current, True))
                    stack.extend((each, False) for each in reversed(needed))

    def _expand(self, value: ir.Value, node: ir.Node | None) -> list[ir.Value] | None:
        """Return what the value's node reads, or None for a value that comes from outside."""
        if node is not None and node in self.inside:
            return reads(node)
        if facts.constant(value) is not None:
            if node is None:
                self.constants.append(value)
                return None
            return []
        added = self._context(value, node)
        if added:
            self.inside |= added
            return self._expand(value, node)
        self.inputs.append(value)
        return None

    def _context(self, value: ir.Value, node: ir.Node | None) -> set[ir.Node] | None:
        """Return the nodes that must come along to make a value, or None where random numbers will do."""
        if self.in_context and node is not None and value.dtype in _EXACT and not _is_odd(node):
            return {node}
        is_shape = value.dtype in (ir.DataType.INT64, ir.DataType.INT32, None) and (facts.rank(value) or 0) < 2
        return _shape_computation(value) if self.in_context or is_shape else None


def region_models(replacement: Replacement, model: ir.Model, *, in_context: bool = False) -> tuple[ir.Model, ir.Model]:
    """Return the region before and after a replacement, each as a model of its own.

    A rule may rest on what the nodes before its match prove, such as that a mask is true throughout. With
    ``in_context`` the nodes that make the region's integers and booleans come along, and those that compute
    anything from shapes and constants alone; other numbers stay inputs. And where the replacement reads what lies
    before an input of the match, such as the input of a projection, the nodes between come along.

    Raises:
        RequestError: nodes that refer to attributes of the function around them mean nothing alone.
    """
    old_nodes, new_nodes = set(replacement.old_nodes), set(replacement.new_nodes)
    if in_context:
        old_nodes |= _between(replacement)
    old = _Closure(set(old_nodes), in_context)
    new = _Closure(old_nodes | new_nodes, in_context)
    new.seen.update(replacement.new_constants)
    new.constants.extend(replacement.new_constants)
    old_outputs, new_outputs = _needed(replacement)
    for value in old_outputs:
        old.add(value)
    for value in new_outputs:
        new.add(value)
    inputs = list(dict.fromkeys((*old.inputs, *new.inputs)))
    names = [value.name or f"output_{index}" for index, value in enumerate(old_outputs)]
    imports = _imports(replacement.old_nodes, model)
    functions = {**{each.identifier(): each for each in replacement.new_functions}, **model.functions}
    before = _model(old, inputs, old_outputs, names, imports, model.ir_version, functions.values())
    after = _model(new, inputs, new_outputs, names, imports, model.ir_version, functions.values())
    for made in (before, after):
        for value, twin in zip(made.graph.outputs, old_outputs, strict=True):
            value.type = twin.type
    return before, after


def _between(replacement: Replacement) -> set[ir.Node]:
    """Return the nodes that lie between what only the replacement reads and what the match reads."""
    read = {value for node in replacement.old_nodes for value in reads(node)}
    starts = {value for value in replacement.inputs if value not in read and facts.constant(value) is None}
    found: set[ir.Node] = set()
    for node in _ancestors(replacement.inputs) if starts else ():
        if not _is_odd(node) and any(value in starts or value.producer() in found for value in reads(node)):
            found.add(node)
    return found


def _ancestors(values: Iterable[ir.Value]) -> list[ir.Node]:
    """Return the nodes that values are made by, and all before them, in running order."""
    ordered: dict[ir.Node, None] = {}
    seen: set[ir.Node] = set()
    stack = [(value.producer(), False) for value in values]
    while stack:
        node, is_ready = stack.pop()
        if node is not None and is_ready:
            ordered[node] = None
        elif node is not None and node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((value.producer(), False) for value in reads(node))
    return list(ordered)


def _needed(replacement: Replacement) -> tuple[list[ir.Value], list[ir.Value]]:
    """Return the outputs before and after that anybody reads; of the others nothing is due."""
    pairs = list(zip(replacement.old_outputs, replacement.new_outputs, strict=True))
    read = [pair for pair in pairs if pair[0].uses() or pair[0].is_graph_output()] or pairs
    return [old for old, _ in read], [new for _, new in read]


def _imports(nodes: Sequence[ir.Node], model: ir.Model) -> dict[str, int]:
    graph = nodes[0].graph if nodes else model.graph
    function = next((each for each in model.functions.values() if each.graph is graph), None)
    return {**model.opset_imports, **(function.opset_imports if function is not None else {})}


def _model(
    closure: _Closure,
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    names: Sequence[str],
    imports: dict[str, int],
    ir_version: int,
    functions: Iterable[ir.Function],
) -> ir.Model:
    referring = next((node for node in closure.nodes if any(each.is_ref() for each in node.attributes.values())), None)
    if referring is not None:
        found = "an attribute that the enclosing function's caller gives"
        raise RequestError(facts.place(referring), found, needed="a node that can run alone")
    imports = dict(imports)
    for node in closure.nodes:
        imports.setdefault(node.domain, 1)
    shared = [value for value in closure.constants if value not in inputs]
    view = ir.GraphView(inputs, outputs, nodes=closure.nodes, initializers=shared, opset_imports=imports, name="region")
    graph = view.clone()
    _name_outputs(graph, names)
    return ir.Model(graph, ir_version=ir_version, functions=[function.clone() for function in functions])


def _name_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    """Name the outputs, through Identity: one of them may be an input, a constant, or there twice."""
    inner = list(graph.outputs)
    taken = {value.name for value in (*graph.inputs, *graph.initializers.values())}
    for value in (value for node in graph for value in node.outputs):
        if value.name in names:
            value.name = f"{value.name}/inner"
    copies = [ir.node("Identity", [value]) for value in inner]
    for copy, name, index in zip(copies, names, range(len(names)), strict=True):
        copy.outputs[0].name = f"{name}/output" if name in taken else name
        copy.name = f"region/output_{index}"
    graph.extend(copies)
    graph.outputs.clear()
    graph.outputs.extend(copy.outputs[0] for copy in copies)


def reads(node: ir.Node) -> list[ir.Value]:
    """Return the values that a node reads, those that its subgraphs capture included."""
    found = [value for value in node.inputs if value is not None]
    for graph in facts.subgraphs(node):
        own = {
            *graph.inputs,
            *graph.initializers.values(),
            *(value for each in graph for value in each.outputs),
        }
        inner: Iterable[ir.Value] = [*(value for each in graph for value in reads(each)), *graph.outputs]
        found.extend(value for value in inner if value not in own)
    return list(dict.fromkeys(found))


def _is_odd(node: ir.Node) -> bool:
    """Tell whether a node is better cut off: it draws at random, or runs graphs of its own."""
    is_random = node.op_type.startswith("Random") or node.op_type in ("Bernoulli", "Multinomial", "Dropout")
    return is_random or next(facts.subgraphs(node), None) is not None


def _shape_computation(value: ir.Value) -> set[ir.Node] | None:
    """Return the nodes that compute a value from shapes and constants alone, or None where it is not so."""
    nodes: set[ir.Node] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if facts.constant(current) is not None:
            continue
        node = current.producer()
        if node is None or _is_odd(node) or len(nodes) > _MOST_SHAPE_NODES:
            return None
        if node not in nodes and node.op_type not in _SHAPE_READERS:
            pending.extend(each for each in node.inputs if each is not None)
        nodes.add(node)
    return nodes
