"""Which nodes of a model TensorRT's ONNX parser does not take, and why: the model against the table; no rule.

This is a check against ``tensorrt_operators``, not the parser: a node that passes may still be refused when an engine
is built, and nothing here was compared with a parser at work.

Source: that of ``tensorrt_operators``; ModelImporter.cpp of the parser for the order in which it looks a node up: its
own operators, by their type alone, then a plugin, then a function of the model, by its type alone.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.rewrite import source_names
from graphwright.errors import UsageError
from graphwright.passes.lower import tensorrt_operators as table
from graphwright.passes.lower.tensorrt_restrictions import RESTRICTIONS, Fault
from graphwright.plugins.hars import meaning
from graphwright.plugins.hars.tensorrt_nodes import VARIANTS

SUPPORTED_VERSIONS = table.VERSIONS
PLUGINS = ("hars::softmax_topk", "hars::router_topk")

_OPERATOR_OF = {f"{meaning.DOMAIN}::{each.name}": f"{meaning.DOMAIN}::{each.operator}" for each in VARIANTS}
_LOWER = "optimize(..., target='tensorrt'), which spells what can be spelled"
_FOLD = "fold-constants, or a model with that input as a constant"


@dataclass(frozen=True)
class Unsupported:
    """A node that the parser would refuse: where, what it stands for in the source, why, and what would help."""

    node: str
    operator: str
    source: str
    reason: str
    needed: str
    hint: str = ""

    def to_json(self) -> dict[str, str]:
        """Return plain texts.

        Example:
            >>> Unsupported("n", "Unique", "n", "no such operator", "another one").to_json()["operator"]
            'Unique'
        """
        return asdict(self)


def unsupported(model: ir.Model, version: str = "11.4", *, plugins: Collection[str] = PLUGINS) -> list[Unsupported]:
    """Return what a version of TensorRT would not take, in the order of the graphs, subgraphs and functions too.

    ``plugins`` are those that will be there when the engine is built, as ``domain::operator``. A function is looked
    into only where no plugin takes its place.

    Raises:
        UsageError: a version that there is no table for.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 20]> g (uint8[n] x) => (uint8[n] y) {y = BitwiseNot(x)}'
        >>> [each.reason for each in unsupported(ir.from_onnx_text(text))]
        ['TensorRT 11.4 has no such operator']
    """
    return list(_Check(model, known_version(version), frozenset(plugins)).all())


def known_version(version: str) -> str:
    """Return the version as the table has it: ``11.4.0.106`` is ``11.4``.

    Raises:
        UsageError: a version that there is no table for.

    Example:
        >>> known_version("11.4.0.106")
        '11.4'
    """
    short = ".".join(version.split(".")[:2])
    if short not in SUPPORTED_VERSIONS:
        raise UsageError("TensorRT version", repr(version), needed=f"one of {', '.join(SUPPORTED_VERSIONS)}")
    return short


def source_of(node: ir.Node) -> str:
    """Return what a node stands for in the source: the module that torch's exporter recorded, and the nodes' names.

    Example:
        >>> node = ir.node("CumSum", [], name="node_7")
        >>> node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'module', 'module.encoder', 'cumsum']"
        >>> source_of(node)
        'encoder: node_7 (CumSum)'
    """
    names = ", ".join(source_names(node))
    scopes = re.findall(r"'([^']*)'", node.metadata_props.get("pkg.torch.onnx.name_scopes", ""))
    # The last scope is the operator itself, the first module the call that the exporter traced.
    module = scopes[-2].partition("module.")[2] if len(scopes) > 1 else ""
    return f"{module}: {names}" if module else names


def node_faults(node: ir.Node) -> Iterator[Fault]:
    """Yield what is wrong with a node of an operator that the parser has: what was found and what is needed.

    Example:
        >>> node = ir.node("TopK", [ir.Value(name="x"), ir.Value(name="k")], attributes={"sorted": 0}, num_outputs=2)
        >>> list(node_faults(node))
        [('sorted is 0', 'sorted 1')]
    """
    limits = table.LIMITS.get(node.op_type, table.Limits())
    yield from _type_faults(node, limits)
    yield from _field_faults(node, limits)
    if node.op_type in RESTRICTIONS:
        yield from RESTRICTIONS[node.op_type](node)


def main_values(node: ir.Node) -> list[ir.Value]:
    """Return the inputs and outputs that the table's types are about."""
    version = facts.opset(node)
    definition = facts.schema("", node.op_type, min(version, table.OPSETS[1]) if version else None)
    if definition is None:
        return [value for value in (*node.inputs[:1], *node.outputs[:1]) if value is not None]
    inputs = [definition.inputs[min(index, len(definition.inputs) - 1)].type_str for index in range(len(node.inputs))]
    outputs = [definition.outputs[min(i, len(definition.outputs) - 1)].type_str for i in range(len(node.outputs))]
    main = table.MAIN_TYPE.get(node.op_type, inputs[0] if inputs else "T")
    values: list[ir.Value | None] = [*node.inputs, *node.outputs]
    named = zip(values, (*inputs, *outputs), strict=True)
    both = {main} if node.op_type != "Cast" else {"T1", "T2"}
    return [value for value, kind in named if value is not None and kind in both]


def _type_faults(node: ir.Node, limits: table.Limits) -> Iterator[Fault]:
    allowed = table.TYPES[node.op_type]
    main = main_values(node)
    for value in main:
        # The parser narrows double to float by itself.
        known = ir.DataType.FLOAT if value.dtype == ir.DataType.DOUBLE else value.dtype
        if known is not None and known not in allowed:
            yield f"{facts.describe(value)}", f"one of {_names(allowed)}"
            return
    values: list[ir.Value | None] = [*node.inputs, *node.outputs]
    for each in values:
        if each is not None and each.dtype is not None and each.dtype not in table.TENSORS:
            yield f"{each.name} of type {each.dtype}", "a type that TensorRT has"
            return
    for index, types in limits.types.items():
        given = _input(node, index)
        if given is not None and given.dtype is not None and given.dtype not in types:
            yield facts.describe(given), f"one of {_names(types)}"


def _field_faults(node: ir.Node, limits: table.Limits) -> Iterator[Fault]:
    used = [value for value in node.outputs[limits.outputs :] if value.name] if limits.outputs is not None else []
    if used:
        yield f"the output {used[0].name}", f"{limits.outputs} output only"
    for index, name in limits.absent.items():
        if _input(node, index) is not None:
            yield f"an input {name}", f"no {name}"
    for index, name in limits.constants.items():
        given = _input(node, index)
        if given is not None and facts.constant(given) is None:
            yield f"{name} {given.name}, which is computed", f"{name} known when the engine is built"
    for index, ranks in limits.ranks.items():
        rank = facts.rank(_input(node, index))
        if rank is not None and rank not in ranks:
            yield facts.describe(_input(node, index)), f"{' or '.join(map(str, ranks))} axes"
    for name, values in limits.attributes.items():
        found = facts.attribute(node, name) if values else node.attributes.get(name)
        if found is not None and found not in values:
            shown = found if values else "given"
            yield f"{name} is {shown}", f"{name} {' or '.join(map(str, values))}" if values else f"no {name}"
    for name in limits.ones:
        found = facts.attribute(node, name)
        if any(number != 1 for number in found or ()):
            yield f"{name} {list(found)}", f"{name} of 1"


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _names(types: Collection[ir.DataType]) -> str:
    return ", ".join(sorted(each.name for each in types))


class _Check:
    """One walk over a model."""

    def __init__(self, model: ir.Model, version: str, plugins: frozenset[str]) -> None:
        self.model, self.version, self.plugins = model, version, plugins
        self.overloads: dict[str, set[ir.OperatorIdentifier]] = {}
        for identifier in model.functions:
            self.overloads.setdefault(identifier[1], set()).add(identifier)

    def all(self) -> Iterator[Unsupported]:
        low, high = table.OPSETS
        opset = self.model.opset_imports.get("", self.model.opset_imports.get("ai.onnx", 0))
        if not low <= opset <= high:
            yield Unsupported("model", "", "", f"opset {opset}", f"opset {low} to {high}", "convert the model")
        for value in (*self.model.graph.inputs, *self.model.graph.outputs):
            if value.dtype is not None and value.dtype not in table.TENSORS:
                place = f"{value.name} (network input or output)"
                yield Unsupported(place, "", value.name or "", f"type {value.dtype}", "a type that TensorRT has")
        called: dict[ir.OperatorIdentifier, None] = {}
        yield from self._graph(self.model.graph, 0, called)
        # A function that is called from a function joins the end of the line.
        for identifier in iter(_Line(called)):
            function = self.model.functions[identifier]
            yield from self._graph(function.graph, 1, called, f" of function {identifier[0]}::{identifier[1]}")

    def _graph(
        self, graph: ir.Graph, depth: int, called: dict[ir.OperatorIdentifier, None], where: str = ""
    ) -> Iterator[Unsupported]:
        for node in graph:
            for reason, needed, hint in self._node(node, called):
                operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                yield Unsupported(f"{facts.place(node)}{where}", operator, source_of(node), reason, needed, hint)
            for inner in facts.subgraphs(node):
                if depth + 1 == table.MOST_NESTED:
                    needed = f"at most {table.MOST_NESTED} graphs in each other"
                    yield Unsupported(facts.place(node), node.op_type, "", "graphs in graphs", needed)
                yield from self._graph(inner, depth + 1, called, where)

    def _node(self, node: ir.Node, called: dict[ir.OperatorIdentifier, None]) -> Iterator[tuple[str, str, str]]:
        name = f"{node.domain}::{node.op_type}"
        if self._is_plugin(name):
            yield from _plugin_faults(node, name)
        elif node.domain == meaning.DOMAIN:
            # Its body computes axes from the rank, which the parser does not take.
            hint = "the passes lower-softmax-topk and lower-router-topk before name-hars-plugins"
            yield f"no plugin {name}", "the plugin, or ONNX's own operators", hint
        elif node.op_identifier() in self.model.functions:
            called.setdefault(node.op_identifier())
            yield from self._call_faults(node)
        elif node.domain == "com.microsoft":
            hint = "compile the source model for target tensorrt"
            yield f"an operator of ONNX Runtime's own ({name})", "ONNX's own operators", hint
        elif node.domain not in ("", "ai.onnx"):
            yield f"no plugin {name}", "a plugin of that name, or a function body in the model", "give it in plugins"
        elif not table.has_operator(node.op_type, self.version):
            yield f"TensorRT {self.version} has no such operator", "operators of its parser", _LOWER
        else:
            for found, needed in node_faults(node):
                yield found, needed, _FOLD if "computed" in found else _LOWER

    def _is_plugin(self, name: str) -> bool:
        return name in self.plugins or _OPERATOR_OF.get(name) in self.plugins

    def _call_faults(self, node: ir.Node) -> Iterator[tuple[str, str, str]]:
        inline = "the pass inline-functions"
        function = self.model.functions[node.op_identifier()]
        if node.op_type in table.TYPES:
            yield f"a function named {node.op_type}", "another name: the parser takes it for ONNX's operator", inline
        if len(self.overloads[node.op_type]) > 1:
            yield f"{len(self.overloads[node.op_type])} functions named {node.op_type}", "one of each name", inline
        if len(node.inputs) != len(function.inputs):
            found = f"{len(node.inputs)} inputs to a function of {len(function.inputs)}"
            yield found, "all inputs", inline


def _plugin_faults(node: ir.Node, name: str) -> Iterator[tuple[str, str, str]]:
    if node.domain != meaning.DOMAIN:
        return
    if name not in _OPERATOR_OF or "plugin_namespace" not in node.attributes:
        needed = "the plugin's name and attributes"
        yield f"a node {name} that is not written for the plugin", needed, "the pass name-hars-plugins"


class _Line:
    """Functions to look into, in the order in which they were met; the line may grow while it is walked."""

    def __init__(self, called: dict[ir.OperatorIdentifier, None]) -> None:
        self.called = called

    def __iter__(self) -> Iterator[ir.OperatorIdentifier]:
        done = 0
        while done < len(self.called):
            yield list(self.called)[done]
            done += 1
