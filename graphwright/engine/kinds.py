"""The five kinds of computation that every transformer is made of: count them in a graph, and find those in pieces.

A computation that one operator says is counted. One that is still spelled in primitives is found by what it cannot do
without, such as a Softmax whose result a MatMul takes: a wider look than any rule's pattern, which changes nothing.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphwright.engine import facts

KINDS = ("attention", "norm", "rotary", "activation", "router")

# Operators that are whole ones of a kind: ONNX's, ONNX Runtime's (com.microsoft) and graphwright's (hars).
OPERATORS = {
    "attention": {
        *("Attention", "com.microsoft::Attention", "com.microsoft::MultiHeadAttention"),
        *("com.microsoft::GroupQueryAttention", "com.microsoft::PackedMultiHeadAttention"),
    },
    "norm": {
        *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
        *("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization"),
    },
    "rotary": {"RotaryEmbedding", "com.microsoft::RotaryEmbedding"},
    "activation": {
        *("Gelu", "Swish", "Mish", "com.microsoft::Gelu", "com.microsoft::FastGelu", "com.microsoft::BiasGelu"),
        "com.microsoft::QuickGelu",
    },
    "router": {"hars::router_topk", "hars::softmax_topk"},
}
_KIND_OF = {operator: kind for kind, operators in OPERATORS.items() for operator in operators}

# How far a result is followed; the longest way that an exporter is known to take has five operators.
_REACH = 6
# Operators that take numbers to other places or to another type, and those that mask or scale them as well.
_MOVES = {"Cast", "Dropout", "Identity", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Expand", "Split"}
_MASKS = _MOVES | {"Where", "Mul", "Div", "IsNaN"}
_PARTS = _MOVES | {"Gather", "Neg"}
_SHIFTS = {"Cast", "Identity", "Add", "Max", "Clip"}
_ROWS = _MOVES | {"Add", "Where", "Mul", "Max"}


@dataclass(frozen=True)
class Piece:
    """A computation of a kind that is spelled in primitives, and the node it is known by."""

    kind: str
    node: ir.Node


def count_kinds(model: ir.Model) -> dict[str, int]:
    """How many operators of each kind are in the main graph and the graphs in its nodes.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[n] x) => (float[n] y) {y = Swish(x)}'
        >>> count_kinds(ir.from_onnx_text(text))
        {'attention': 0, 'norm': 0, 'rotary': 0, 'activation': 1, 'router': 0}
    """
    counts = dict.fromkeys(KINDS, 0)
    for node in model.graph.all_nodes():
        kind = _KIND_OF.get(f"{node.domain}::{node.op_type}" if node.domain else node.op_type)
        if kind is not None:
            counts[kind] += 1
    return counts


def pieces(model: ir.Model) -> list[Piece]:
    """What looks like a computation of a kind in primitives, in the order of the graph."""
    found = []
    for node in model.graph.all_nodes():
        looks = _LOOKS.get(node.op_type, ()) if node.domain == "" else ()
        found += [Piece(kind, node) for kind, is_one in looks if is_one(node)]
    return found


def downstream(
    node: ir.Node, reach: int = _REACH, through: Collection[str] | None = None
) -> Iterator[tuple[ir.Node, int]]:
    """Nodes that use a node's results, and those that use theirs, nearest first, with the distance.

    ``through`` limits the way: what a node of another operator makes is not followed.
    """
    seen, edge = {id(node)}, [node]
    for distance in range(1, reach + 1):
        following = [user for each in edge for output in each.outputs for user in output.consumers()]
        edge = list({id(user): user for user in following if id(user) not in seen}.values())
        seen.update(map(id, edge))
        yield from ((each, distance) for each in edge)
        edge = [each for each in edge if through is None or each.op_type in through]


def _upstream(value: ir.Value | None, through: Collection[str], reach: int = _REACH) -> Iterator[ir.Node]:
    """The nodes that a value is made by, through these operators."""
    edge = [value]
    for _ in range(reach):
        nodes = [node for each in edge if each is not None and (node := each.producer()) is not None]
        yield from nodes
        edge = [given for node in nodes if node.op_type in through for given in node.inputs]


def _reaches(node: ir.Node, wanted: Collection[str], through: Collection[str]) -> bool:
    return any(each.op_type in wanted for each, _ in downstream(node, through=through))


def _is_attention(softmax: ir.Node) -> bool:
    return _reaches(softmax, {"MatMul", "Einsum"}, _MASKS)


def _is_norm(mean: ir.Node) -> bool:
    squares = [node for node in _upstream(mean.inputs[0], {"Cast", "Identity"}) if _is_square(node)]
    roots = (node for node, _ in downstream(mean, through=_SHIFTS))
    return bool(squares) and any(
        node.op_type == "Sqrt" or (node.op_type == "Pow" and facts.scalar(node.inputs[1]) in (0.5, -0.5))
        for node in roots
    )


def _is_square(node: ir.Node) -> bool:
    if node.op_type == "Pow":
        return facts.scalar(node.inputs[1]) == 2
    return node.op_type == "Mul" and node.inputs[0] is node.inputs[1]


def _is_gelu(step: ir.Node) -> bool:
    """Erf or Tanh, 1 more, and a product with numbers that are not constant; or Mish, Tanh of Softplus of x times x."""
    softplus = step.inputs[0].producer() if step.inputs[0] is not None else None
    if softplus is not None and softplus.op_type == "Softplus":
        users = (node for node, _ in downstream(step, through={"Cast"}) if node.op_type == "Mul")
        return any(given is softplus.inputs[0] for node in users for given in node.inputs)
    added = [
        node
        for node, _ in downstream(step, through={"Cast", "Identity"})
        if node.op_type == "Add" and any(facts.scalar(given) == 1 for given in node.inputs)
    ]
    products = [node for each in added for node, _ in downstream(each, through={"Cast", "Mul", "Identity"})]
    return any(node.op_type == "Mul" and not _is_scaling(node) for node in products)


def _is_scaling(node: ir.Node) -> bool:
    return any(facts.scalar(given) is not None for given in node.inputs)


def _is_swish(sigmoid: ir.Node) -> bool:
    """A Sigmoid times what it was made of."""
    gates = {id(sigmoid.inputs[0])}
    scaled = sigmoid.inputs[0].producer() if sigmoid.inputs[0] is not None else None
    if scaled is not None and scaled.op_type in {"Mul", "Cast"}:
        gates.update(map(id, scaled.inputs))
    users = [node for node, _ in downstream(sigmoid, through={"Cast"}) if node.op_type == "Mul"]
    return any(id(given) in gates for node in users for given in node.inputs)


def _is_rotary(concat: ir.Node) -> bool:
    """Two parts of one tensor side by side, one negated, in a product; or both halves of a rotation."""
    negated, plain = set[int](), set[int]()
    for given in concat.inputs:
        way = list(_upstream(given, _PARTS))
        roots = {id(each) for node in way if node.op_type in _PARTS for each in node.inputs[:1]}
        is_negated = any(node.op_type == "Neg" for node in _upstream(given, _MOVES))
        (negated if is_negated else plain).update(roots)
    if negated & plain:
        return _reaches(concat, {"Mul"}, _MOVES)
    makers = [next(iter(_upstream(given, ())), None) for given in concat.inputs]
    factors = [_factors(node, operator) for operator in ("Sub", "Add") for node in makers if node is not None]
    known = [each for each in factors if each]
    return len(known) == 2 and known[0] == known[1]


def _factors(node: ir.Node, operator: str) -> frozenset[int]:
    """The four factors of ``a * b - c * d`` or ``a * b + c * d``."""
    products = [given.producer() for given in node.inputs if given is not None]
    if node.op_type != operator or not all(each is not None and each.op_type == "Mul" for each in products):
        return frozenset()
    return frozenset(id(given) for each in products if each is not None for given in each.inputs)


def _is_router(topk: ir.Node) -> bool:
    before = {node.op_type for node in _upstream(topk.inputs[0], _ROWS)}
    return bool(before & {"Softmax", "Sigmoid"}) or _reaches(topk, {"Softmax"}, _MOVES)


_LOOKS: dict[str, tuple[tuple[str, Callable[[ir.Node], bool]], ...]] = {
    "Softmax": (("attention", _is_attention),),
    "ReduceMean": (("norm", _is_norm),),
    "Concat": (("rotary", _is_rotary),),
    "Erf": (("activation", _is_gelu),),
    "Tanh": (("activation", _is_gelu),),
    "Sigmoid": (("activation", _is_swish),),
    "TopK": (("router", _is_router),),
}
