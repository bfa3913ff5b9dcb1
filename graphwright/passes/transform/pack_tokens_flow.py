"""Which operators work on each token alone, and where the tokens are in what they give; no rule.

A layout names the axes of a value, from the end, that count rows and positions: (-3, -2) in [B,S,E], (-4, -2) in
[B,H,S,D], (-2,) where both are one axis [B*S,E]. An operator works token by token where an element of its result
depends on elements of the same token alone, and on values that have no tokens.
"""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.passes.transform.pack_tokens_positions import dims, is_spread, product, through_view

Layout = tuple[int, ...]
Layouts = Mapping[ir.Value, Layout]
# The sizes of the token mask: rows and positions.
Sizes = tuple[facts.Dim, facts.Dim]

UNARY = frozenset(
    [
        *(
            "Abs",
            "Ceil",
            "Celu",
            "Clip",
            "Cos",
            "Elu",
            "Erf",
            "Exp",
            "Floor",
            "Gelu",
            "HardSigmoid",
            "HardSwish",
            "IsInf",
        ),
        *("IsNaN", "LeakyRelu", "Log", "Mish", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin"),
        *("Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu", "Cast", "Identity", "Neg"),
    ]
)
ELEMENTWISE = UNARY | frozenset(
    [
        *(
            "Add",
            "And",
            "Div",
            "Equal",
            "Greater",
            "GreaterOrEqual",
            "Less",
            "LessOrEqual",
            "Max",
            "Mean",
            "Min",
            "Mod",
        ),
        *("Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Where", "Xor"),
    ]
)
NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
SOFTMAXES = frozenset({"LogSoftmax", "Softmax"})
REDUCTIONS = frozenset({"ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare"})
RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze", "Unsqueeze"})

# Operators that make finite numbers of finite ones, whatever those are.
FINITE = RESHAPES | frozenset(
    [
        *("Add", "Cast", "Concat", "Expand", "Identity", "Mul", "Neg", "RotaryEmbedding", "Slice", "Split", "Sub"),
        "Transpose",
    ]
)


def canonical(value: ir.Value, merged: bool = False) -> Layout:
    """Return the layout whose tokens are on the first axes."""
    count = facts.rank(value) or 0
    return (-count,) if merged else (-count, 1 - count)


def is_canonical(value: ir.Value, layout: Layout | None) -> bool:
    """Tell whether the tokens are on the first axes, one or two."""
    return layout is not None and layout == canonical(value, len(layout) == 1)


def layout_of(node: ir.Node, layouts: Layouts, sizes: Sizes) -> Layout | None:
    """Return the layout of a node's outputs if it works token by token, else None."""
    if node.domain or any(True for _ in facts.subgraphs(node)):
        return None
    given = {index for index, value in enumerate(node.inputs) if value is not None and value in layouts}
    if node.op_type in ELEMENTWISE:
        return _elementwise(node, layouts)
    if node.op_type == "Concat":
        return _concat(node, layouts)
    flow = _FLOWS.get(node.op_type)
    if flow is None:
        return None
    place, function = flow
    # Angles may be those of each token.
    others = {value for value in node.inputs[1:] if value is not None and value in layouts}
    is_rotary = node.op_type == "RotaryEmbedding" and all(is_canonical(each, layouts[each]) for each in others)
    if given != {place} and not (is_rotary and place in given):
        return None
    value = node.inputs[place]
    assert value is not None
    return function(node, value, layouts[value], sizes)


def is_finite(node: ir.Node) -> bool:
    """Tell whether a node makes finite numbers of finite ones: of rows of zeros, and of what is made of those."""
    if node.op_type in NORMS:
        epsilon = facts.attribute(node, "epsilon")
        return epsilon is not None and epsilon > 0
    return node.op_type in FINITE


def behind(node: ir.Node, value: ir.Value, axis: int | None) -> int | None:
    """Return an axis of a value counted from the end, or None where it is not known."""
    count = facts.rank(value)
    return None if axis is None or not count else axis % count - count


def _elementwise(node: ir.Node, layouts: Layouts) -> Layout | None:
    out, found = node.outputs[0], set()
    for value in node.inputs:
        if value is not None and value in layouts:
            if not all(is_spread(value, out, axis) for axis in layouts[value]):
                return None
            found.add(layouts[value])
    return found.pop() if len(found) == 1 else None


def _concat(node: ir.Node, layouts: Layouts) -> Layout | None:
    found = {layouts.get(value) if value is not None else None for value in node.inputs}
    layout = found.pop()
    axis = behind(node, node.outputs[0], facts.attribute(node, "axis"))
    return layout if not found and layout is not None and axis is not None and axis not in layout else None


def _matmul(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    return layout if facts.rank(node.inputs[1]) == 2 and -1 not in layout else None


def _gemm(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    if layout != (-2,) or facts.attribute(node, "transA"):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    is_row = bias is None or facts.rank(bias) == 1 or (facts.rank(bias) == 2 and facts.dim(bias, 0) == 1)
    return layout if is_row else None


def _gather(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    """Rows of a table: each index gives all axes behind the one that is looked up."""
    axis = behind(node, node.inputs[0], facts.attribute(node, "axis")) if node.inputs[0] is not None else None
    return None if axis is None else tuple(each + axis + 1 for each in layout)


def _norm(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    axis = behind(node, value, facts.attribute(node, "axis"))
    if axis is None or any(out.uses() or out.is_graph_output() for out in node.outputs[1:]):
        return None
    return layout if axis > max(layout) else None


def _softmax(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    axis = behind(node, value, facts.attribute(node, "axis"))
    return layout if axis is not None and axis not in layout else None


def reduced_axes(node: ir.Node, value: ir.Value) -> list[int] | None:
    """Return the axes, counted from the end, that a node reads from its last input, as reductions and Slice have."""
    place = 3 if node.op_type == "Slice" else 1
    found = facts.integers(node.inputs[place]) if len(node.inputs) > place else None
    count = facts.rank(value)
    return [axis % count - count for axis in found] if found and count else None


def _reduce(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    axes = reduced_axes(node, value)
    if axes is None or set(axes) & set(layout):
        return None
    if facts.attribute(node, "keepdims"):
        return layout
    return tuple(each + sum(axis > each for axis in axes) for each in layout)


def _slice(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    axes = reduced_axes(node, value)
    return layout if axes is not None and not set(axes) & set(layout) else None


def _transpose(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    perm, count = facts.attribute(node, "perm"), facts.rank(value)
    if perm is None or not count:
        return None
    return tuple(list(perm).index(axis % count) - count for axis in layout)


def _reshape(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    after = node.outputs[0]
    moved = through_view(value, after, layout)
    if moved is not None and list(moved) == sorted(set(moved)):
        return moved
    old, new = dims(value), dims(after)
    if old is None or new is None or not is_canonical(value, layout):
        return None
    if len(layout) == 2:
        rest = product(new[1:])
        return canonical(after, merged=True) if rest is not None and rest == product(old[2:]) else None
    rest = product(new[2:]) if len(new) > 1 else None
    is_split = len(new) > 1 and facts.same_dim(new[0], sizes[0]) and facts.same_dim(new[1], sizes[1])
    return canonical(after) if is_split and rest is not None and rest == product(old[1:]) else None


def _expand(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    return layout if all(is_spread(value, node.outputs[0], axis) for axis in layout) else None


def _rotary(node: ir.Node, value: ir.Value, layout: Layout, sizes: Sizes) -> Layout | None:
    return layout if layout in ((-3, -2), (-4, -2)) and facts.rank(value) == -layout[0] else None


_Flow = Callable[[ir.Node, ir.Value, Layout, Sizes], Layout | None]

# By operator, the input that holds tokens and what becomes of their layout.
_FLOWS: dict[str, tuple[int, _Flow]] = {
    **dict.fromkeys(NORMS, (0, _norm)),
    **dict.fromkeys(SOFTMAXES, (0, _softmax)),
    **dict.fromkeys(REDUCTIONS, (0, _reduce)),
    **dict.fromkeys(RESHAPES, (0, _reshape)),
    "Expand": (0, _expand),
    "Gather": (1, _gather),
    "Gemm": (0, _gemm),
    "MatMul": (0, _matmul),
    "RotaryEmbedding": (0, _rotary),
    "Slice": (0, _slice),
    "Split": (0, _softmax),
    "Transpose": (0, _transpose),
}
