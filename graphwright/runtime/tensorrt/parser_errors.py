"""What TensorRT's parser and builder say, with the nodes of our model and what these were made from.

An error names a node of the file that was parsed. That file comes from rewrites, so its node may be none of the user's;
each of ours knows the nodes of the source model that it stands for, and the rule that made it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx_ir as ir

from graphwright.engine.rewrite import RULE, SOURCES
from graphwright.errors import BuildError
from graphwright.runtime.tensorrt.plugins import all_nodes

if TYPE_CHECKING:
    import tensorrt as trt

_SHOWN = 3
# Layer names in messages: "Could not find any implementation for node {ForeignNode[/a/MatMul.../b/Add]}".
_NAME = re.compile(r"[\w/.:\-]+")
_EDGES = ".:-"
_HINT = "graphwright verify --target tensorrt MODEL lists every node that the parser does not take"


@dataclass(frozen=True)
class ParserFault:
    """One error of the parser: the node in the model that was parsed, and the source nodes behind it."""

    code: str
    description: str
    node: str
    operator: str
    sources: tuple[str, ...] = ()
    rule: str = ""
    functions: tuple[str, ...] = ()

    def __str__(self) -> str:
        made = f", made by {self.rule}" if self.rule else ""
        origin = f" [from {', '.join(self.sources[:_SHOWN])}{made}]" if self.sources or made else ""
        within = f" in function {' in '.join(self.functions)}" if self.functions else ""
        return f"{self.node or 'a node without a name'} ({self.operator}){within}{origin}: {self.description}"


def parser_faults(parser: "trt.OnnxParser", model: ir.Model) -> list[ParserFault]:
    """Return the errors of a parser that refused a model; ``model`` is the one that was given to it."""
    by_name = _by_name(model)
    return [_fault(parser.get_error(index), by_name, list(model.graph)) for index in range(parser.num_errors)]


def _by_name(model: ir.Model) -> dict[str, ir.Node]:
    """Return the nodes that have a name of their own."""
    # Names need not be unique in ONNX: where they are not, none is better than the wrong one.
    nodes = [node for node in all_nodes(model) if node.name]
    counts = Counter(node.name for node in nodes)
    return {str(node.name): node for node in nodes if counts[node.name] == 1}


def _fault(error: "trt.ParserError", by_name: dict[str, ir.Node], top: Sequence[ir.Node]) -> ParserFault:
    name, operator, index = error.node_name(), error.node_operator(), error.node()
    node = by_name.get(name) if name else None
    if node is None and not name and 0 <= index < len(top) and top[index].op_type == operator:
        node = top[index]
    code = str(getattr(error.code(), "name", error.code()))
    description = " ".join(str(error.desc()).split()) or code
    sources, rule = _origin(node)
    shown = name or (node.name or "" if node is not None else "")
    return ParserFault(code, description, shown, operator, sources, rule, tuple(error.local_function_stack()))


def _origin(node: ir.Node | None) -> tuple[tuple[str, ...], str]:
    if node is None:
        return (), ""
    recorded = node.metadata_props.get(SOURCES, "").split("\n")
    return tuple(name for name in recorded if name and name != node.name), node.metadata_props.get(RULE, "")


def parse_error(where: str, faults: Sequence[ParserFault], otherwise: str) -> BuildError:
    """Return the error to raise: the first faults, and how many more there are."""
    texts = list(dict.fromkeys(map(str, faults)))
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    found = "; ".join(texts[:_SHOWN]) + more or otherwise
    return BuildError(f"{where}: TensorRT's parser", found, needed="operators that it takes", hint=_HINT)


def nodes_named(text: str, model: ir.Model) -> list[str]:
    """Return the nodes that a message names, each with its source nodes, in the order of the message.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y) {y = Neg(x)}'
        >>> model = ir.from_onnx_text(text)
        >>> model.graph.node(0).name = "/layer.0/Neg"
        >>> nodes_named("no implementation for node {ForeignNode[/layer.0/Neg.../layer.1/Neg]}", model)
        ['/layer.0/Neg (Neg)']
    """
    known = _by_name(model)
    words = (part.strip(_EDGES) for word in _NAME.findall(text) for part in word.split("..."))
    found = dict.fromkeys(word for word in words if word in known)
    return [_with_origin(known[name]) for name in found]


def _with_origin(node: ir.Node) -> str:
    sources, _ = _origin(node)
    return f"{node.name} ({node.op_type})" + (f" [from {', '.join(sources[:_SHOWN])}]" if sources else "")
