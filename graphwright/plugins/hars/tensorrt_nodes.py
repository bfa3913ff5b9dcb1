"""HARS nodes as TensorRT takes them: one plugin for each number of inputs and outputs, its indices int32.

A plugin has a fixed number of tensors, so each operator has four: alone, with a bias, with its further outputs
(statistics, or the weight of the zero experts), with both. The node's type is the plugin's name, in the domain that
is also the plugin's namespace; plugin libraries and quick plugins find it alike, and the function body stays, for
every other runtime.

Source: TensorRT's ONNX parser, docs/operators.md: a node of an unknown type is a plugin of that name; its attributes
``plugin_namespace`` and ``plugin_version`` say which one, ``aot`` that of a quick plugin the compiled form is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Names
from graphwright.errors import LoadError
from graphwright.plugins.hars import meaning
from graphwright.plugins.hars.bodies import ATTRIBUTES, attach_bodies, body_of, has_bias, has_output, options

# What the parser reads, beside what the plugin does.
PLUGIN = {"plugin_namespace": meaning.DOMAIN, "plugin_version": str(meaning.VERSION), "aot": 1}


@dataclass(frozen=True)
class Variant:
    """One plugin: an operator with a bias or not, with its further outputs or not."""

    operator: str
    has_bias: bool = False
    has_more: bool = False

    @property
    def name(self) -> str:
        """The plugin's name, without the namespace.

        Example:
            >>> Variant("softmax_topk", has_more=True).name
            'softmax_topk_stats'
        """
        more = "_stats" if self.operator == "softmax_topk" else "_zero_experts"
        return self.operator + "_bias" * self.has_bias + more * self.has_more

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of its input tensors."""
        first = "logits" if self.operator == "softmax_topk" else "scores"
        return (first, "bias") if self.has_bias else (first,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its output tensors; the second are the indices."""
        if self.operator == "router_topk":
            return ("weights", "experts", "identity_weight")[: 2 + self.has_more]
        return ("values", "indices", "maximum", "log_sum")[: 2 + 2 * self.has_more]

    @property
    def attributes(self) -> dict[str, type]:
        """The attributes and their types, in the order in which they are always given."""
        return {name: type(default) for name, default in ATTRIBUTES[self.operator].items()}


VARIANTS = tuple(
    Variant(operator, has_bias, has_more)
    for operator in ATTRIBUTES
    for has_bias in (False, True)
    for has_more in (False, True)
)


def for_tensorrt(model: ir.Model) -> int:
    """Turn every ``hars`` node into the TensorRT plugin of its kind, in place; return how many there were.

    A plugin works on the last axis and takes a bias of whole rows, so a node may get a Transpose or an Expand before
    it. Its indices are int32 in TensorRT: a Cast follows that makes them int64, and changes nothing elsewhere.

    Raises:
        LoadError: a node that means nothing, or an axis other than the last one of a tensor of unknown rank.

    Example:
        >>> text = '''
        ... <ir_version: 10, opset_import: ["" : 20, "hars" : 1]>
        ... g (float[B, 9] x) => (float[B, 2] values, int64[B, 2] indices) {
        ...     values, indices = hars.softmax_topk <k = 2> (x)
        ... }'''
        >>> model = ir.from_onnx_text(text)
        >>> for_tensorrt(model), [node.op_type for node in model.graph]
        (1, ['softmax_topk', 'Cast'])
        >>> list(model.graph.node(0).attributes)
        ['k', 'axis', 'mode', 'temperature', 'plugin_namespace', 'plugin_version', 'aot']
    """
    attach_bodies(model)
    nodes = [node for node in _nodes(model) if node.op_type in ATTRIBUTES and "plugin_namespace" not in node.attributes]
    names = Names(model)
    for node in nodes:
        _convert(node, model, names)
    called = {node.op_identifier() for node in _nodes(model)}
    for identifier in [each for each in model.functions if each[0] == meaning.DOMAIN and each not in called]:
        del model.functions[identifier]
    return len(nodes)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    # attach_bodies left none inside a function.
    return (node for node in list(model.graph.all_nodes()) if node.domain == meaning.DOMAIN)


def _convert(node: ir.Node, model: ir.Model, names: Names) -> None:
    given = options(node)
    body = body_of(node, model.opset_imports.get("", meaning.OPSET))
    variant = Variant(node.op_type, has_bias(node), has_output(node, 2))
    axis = _axis_to_move(node, given["axis"]) if node.op_type == "softmax_topk" else None
    given |= {"axis": -1} if "axis" in given else {}
    if variant.has_bias and node.op_type == "softmax_topk" and not (axis is None and _is_rows(*node.inputs[:2])):
        _expand_bias(node, names)
    if axis is not None:
        _move_axis(node, axis, names)
    _after(node.outputs[1], names, "Cast", to=int(ir.DataType.INT64))
    node.op_type = variant.name
    node.attributes.clear()
    for name, value in {**given, **PLUGIN}.items():
        node.attributes[name] = ir.Attr(name, _KINDS[type(value)], value)
    declared = list(body.attributes.values())
    function = ir.Function(body.domain, variant.name, body.overload, graph=body.graph, attributes=declared)
    model.functions.setdefault(function.identifier(), function)


_KINDS = {int: ir.AttributeType.INT, float: ir.AttributeType.FLOAT, str: ir.AttributeType.STRING}


def _axis_to_move(node: ir.Node, axis: int) -> int | None:
    """Return the axis counted from the front, or None where it is the last one already."""
    if axis == -1:
        return None
    rank = facts.rank(node.inputs[0])
    if rank is None or not -rank <= axis < rank:
        where = f"{node.name or 'a node'} (hars::softmax_topk)"
        raise LoadError(
            where, f"axis {axis} of {facts.describe(node.inputs[0])}", needed="-1, or a tensor with that axis"
        )
    return axis % rank if axis % rank != rank - 1 else None


def _move_axis(node: ir.Node, axis: int, names: Names) -> None:
    """Make the axis the last one; a bias has the shape of the logits."""
    rank = facts.rank(node.inputs[0])
    assert rank is not None
    to_last = [*(each for each in range(rank) if each != axis), axis]
    for position, value in enumerate(node.inputs):
        node.replace_input_with(position, _before(node, names, "Transpose", [value], perm=to_last))
    back = sorted(range(rank), key=to_last.__getitem__)
    for value in node.outputs[:2]:
        _after(value, names, "Transpose", perm=back)


def _is_rows(logits: ir.Value | None, bias: ir.Value | None) -> bool:
    """Tell whether the bias is, but for ones in front, the last axes of the logits: row r takes r modulo its rows."""
    rank = facts.rank(logits)
    if bias is None or bias.shape is None or rank is None:
        return False
    sizes = list(dropwhile(lambda size: size == 1, bias.shape))
    same = (
        facts.same_dim(size, facts.dim(logits, axis)) for axis, size in zip(range(-len(sizes), 0), sizes, strict=True)
    )
    return 1 <= len(sizes) <= rank and all(same)


def _expand_bias(node: ir.Node, names: Names) -> None:
    """Give the bias the shape of the logits."""
    shape = _before(node, names, "Shape", node.inputs[:1])
    node.replace_input_with(1, _before(node, names, "Expand", [node.inputs[1], shape]))


def _before(
    node: ir.Node, names: Names, op_type: str, inputs: Sequence[ir.Value | None], **attributes: Any
) -> ir.Value:
    """Return the output of a new node right before the given one."""
    made = ir.node(op_type, inputs, attributes=attributes, name=names.fresh(f"{node.outputs[0].name}_{op_type}"))
    made.outputs[0].name = names.fresh(f"{node.outputs[0].name}_{op_type.lower()}")
    assert node.graph is not None
    node.graph.insert_before(node, made)
    return made.outputs[0]


def _after(value: ir.Value, names: Names, op_type: str, **attributes: Any) -> None:
    """Put a node between a value and all that use it; what comes out keeps the name, the type and the shape."""
    producer = value.producer()
    assert producer is not None and producer.graph is not None
    graph, users = producer.graph, list(value.uses())
    made = ir.node(op_type, [value], attributes=attributes, name=names.fresh(f"{value.name}_{op_type}"))
    result = made.outputs[0]
    result.name, result.type, result.shape = value.name, value.type, value.shape
    value.name = names.fresh(f"{value.name}_before_{op_type.lower()}")
    if op_type == "Transpose":
        value.shape = None
    for user, position in users:
        user.replace_input_with(position, result)
    for position, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[position] = result
    graph.insert_after(producer, made)
