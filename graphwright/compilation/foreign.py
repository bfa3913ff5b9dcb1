"""Operators that nobody here knows: a model that holds one passes through, and cannot be run to be compared."""

from collections.abc import Iterator

import onnx_ir as ir

from graphwright.plugins.hars import meaning as hars
from graphwright.plugins.linear import meaning as linear

# What ONNX Runtime has operators in, and our own. An operator of these that does not exist is an error.
KNOWN_DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.nchwc",
        "org.pytorch.aten",
    }
    | {hars.DOMAIN, linear.DOMAIN}
)


def foreign_operators(model: ir.Model) -> list[str]:
    """Return the operators of unknown domains that no function of the model defines, each once.

    Example:
        >>> text = "g (float[n] x) => (float[n] y) {y = their.Strange(x)}"
        >>> foreign_operators(ir.from_onnx_text(f'<ir_version: 10, opset_import: ["": 20, "their": 1]> {text}'))
        ['their.Strange']
    """
    found = (
        f"{node.domain}.{node.op_type}"
        for node in _nodes(model)
        if node.domain not in KNOWN_DOMAINS and node.op_identifier() not in model.functions
    )
    return list(dict.fromkeys(found))


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()
