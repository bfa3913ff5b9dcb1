"""Give HARS nodes the function bodies that they mean, wherever they came from."""

import math
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from graphwright.errors import LoadError
from graphwright.plugins.hars import meaning

# The first IR version in which nodes and functions have an overload.
OVERLOAD_IR_VERSION = 10
# The first operator set with all that bodies are written in (Shape with a start).
OLDEST_OPSET = 15
# What each operator takes, in this order everywhere; the default of k stands for "must be given".
ATTRIBUTES: dict[str, dict[str, int | float | str]] = {
    "softmax_topk": {"k": 0, "axis": -1, "mode": "logprob", "temperature": 1.0},
    "router_topk": {
        "k": 0,
        "scoring": "softmax",
        "renormalize": 0,
        "scale": 1.0,
        "zero_experts": 0,
        "scale_zero_experts": 1,
        "groups": 1,
        "top_groups": 1,
    },
}


def attach_bodies(model: ir.Model) -> int:
    """Make every ``hars`` node without a body call the function of its options; return how many there were.

    A model from a tracer, or a file from elsewhere, may hold the nodes alone: then only a runtime with kernels for
    them can run it. With the bodies any runtime can. A function that holds such a node is inlined.

    Raises:
        LoadError: a node that means nothing: an unknown mode, a missing ``k``, an output too many.

    Example:
        >>> text = '''
        ... <ir_version: 8, opset_import: ["" : 20, "hars" : 1]>
        ... g (float[B, 9] x) => (float[B, 2] values, int64[B, 2] indices) {
        ...     values, indices = hars.softmax_topk <k = 2, mode = "prob"> (x)
        ... }'''
        >>> model = ir.from_onnx_text(text)
        >>> attach_bodies(model), [overload for _, _, overload in model.functions]
        (1, ['prob'])
    """
    _inline_holders(model)
    nodes = (node for node in model.graph.all_nodes() if node.domain == meaning.DOMAIN)
    bare = [node for node in nodes if node.op_identifier() not in model.functions]
    for node in bare:
        function = body_of(node, model.opset_imports.get("", meaning.OPSET))
        _fit_outputs(node, function)
        node.overload = function.overload
        model.functions.setdefault(function.identifier(), function)
    if bare:
        model.opset_imports.setdefault(meaning.DOMAIN, meaning.VERSION)
        model.ir_version = max(model.ir_version, OVERLOAD_IR_VERSION)
    return len(bare)


def _inline_holders(model: ir.Model) -> None:
    """Inline every function that holds such a node: ONNX Runtime finds no overload from inside a function."""

    def is_holder(function: ir.Function) -> bool:
        return any(node.domain == meaning.DOMAIN for node in function.all_nodes())

    # Once for each level of functions within functions, at most.
    for _ in range(len(model.functions)):
        if any(map(is_holder, model.functions.values())):
            InlinePass(is_holder)(model)


def body_of(node: ir.Node, opset: int) -> ir.Function:
    """Return the function that a ``hars`` node calls, by its attributes, its inputs and the outputs it has.

    Raises:
        LoadError: the node means nothing.
    """
    if node.op_type not in ATTRIBUTES:
        raise LoadError(_where(node), f"operator {node.op_type!r}", needed=" or ".join(ATTRIBUTES))
    if opset < OLDEST_OPSET:
        raise LoadError(_where(node), f"opset {opset}", needed=f"opset {OLDEST_OPSET} for its body")
    return _softmax_topk(node, opset) if node.op_type == "softmax_topk" else _router_topk(node, opset)


def options(node: ir.Node) -> dict[str, Any]:
    """Return the values of all attributes of a ``hars`` node, with the defaults of those that it does not have.

    Raises:
        LoadError: an attribute of another type, one that refers to the function around the node, or no ``k``.
    """
    found: dict[str, Any] = {}
    for name, default in ATTRIBUTES[node.op_type].items():
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.is_ref():
            raise LoadError(_where(node), f"{name} taken from the function around it", needed="a value of its own")
        value = default if attribute is None else attribute.value
        if not isinstance(value, type(default)):
            raise LoadError(_where(node), f"{name} {value!r}", needed=f"{type(default).__name__}")
        found[name] = value
    if found["k"] < 1:
        raise LoadError(_where(node), f"k {found['k']}", needed="a whole number from 1")
    return found


def has_bias(node: ir.Node) -> bool:
    """Tell whether the second input is there."""
    return len(node.inputs) > 1 and node.inputs[1] is not None


def _softmax_topk(node: ir.Node, opset: int) -> ir.Function:
    given = options(node)
    mode, temperature = given["mode"], np.float32(given["temperature"])
    if mode not in meaning.MODES:
        raise LoadError(_where(node), f"mode {mode!r}", needed=", ".join(meaning.MODES))
    if not 0 < temperature < math.inf:
        raise LoadError(_where(node), f"temperature {temperature}", needed="a finite number above 0")
    return meaning.softmax_topk(
        mode,
        bias=has_bias(node),
        temperature=bool(temperature != 1),
        stats=has_output(node, 2),
        opset=opset,
    )


def _router_topk(node: ir.Node, opset: int) -> ir.Function:
    given = options(node)
    if given["scoring"] not in meaning.SCORINGS:
        raise LoadError(_where(node), f"scoring {given['scoring']!r}", needed=", ".join(meaning.SCORINGS))
    return meaning.router_topk(
        given["scoring"],
        bias=has_bias(node),
        groups=given["groups"] > 1,
        renormalize=bool(given["renormalize"]),
        zero_experts=given["zero_experts"] > 0,
        scale_zero_experts=bool(given["scale_zero_experts"]),
        opset=opset,
    )


def has_output(node: ir.Node, first: int) -> bool:
    """Tell whether an output from ``first`` on is there: one without a name stands for an absent one."""
    return any(value.name != "" for value in node.outputs[first:])


def _fit_outputs(node: ir.Node, function: ir.Function) -> None:
    """Give the node as many outputs as the function has."""
    for value in node.outputs[len(function.outputs) :]:
        if value.uses() or value.is_graph_output():
            raise LoadError(_where(node), f"output {value.name!r}", needed="zero_experts, without which it is 0")
    before = len(node.outputs)
    if before == len(function.outputs):
        return
    node.resize_outputs(len(function.outputs))
    for value, meant in zip(node.outputs[before:], function.outputs[before:], strict=False):
        value.name = f"{node.outputs[0].name}_{meant.name}"


def _where(node: ir.Node) -> str:
    return f"{node.name or 'a node'} ({node.domain}::{node.op_type})"
