"""What TensorRT's ONNX parser refuses for more than the look of one field: predicates over a node; no rule.

Each restriction takes a node of its operator and gives a sentence with what was found and one with what is needed.
What is not known (a rank, a constant computed elsewhere) is no fault: the parser sees it when it parses.

Source: that of ``tensorrt_operators``; IAttention in NvInfer.h for a mask beside ``is_causal``, AttentionHelpers.cpp of
the parser for the scale, of which it takes the root.
"""

from collections.abc import Callable, Iterator, Mapping

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.passes.lower.tensorrt_operators import MOST_K

Fault = tuple[str, str]
Restriction = Callable[[ir.Node], Iterator[Fault]]


def _given(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _attention(node: ir.Node) -> Iterator[Fault]:
    if facts.attribute(node, "is_causal") and _given(node, 3) is not None:
        yield "a mask and is_causal", "one of the two: the mask with the triangle in it"
    scale = facts.attribute(node, "scale")
    if scale is not None and not scale > 0:
        yield f"the scale {scale}", "a scale above 0, since queries and keys are multiplied by its root"
    sizes = [facts.static_dim(_given(node, index), 3) for index in (0, 2)]
    if None not in sizes and sizes[0] != sizes[1]:
        yield f"queries of size {sizes[0]}, values of size {sizes[1]}", "one size"
    mask = _given(node, 3)
    for axis, other, length in ((2, 0, "queries"), (3, 1, "keys")):
        if facts.rank(mask) == 4 and facts.dim(mask, axis) == 1 and facts.static_dim(_given(node, other), 2) != 1:
            yield f"the mask {facts.describe(mask)}", f"as many numbers on axis {axis} as there are {length}"


def _topk(node: ir.Node) -> Iterator[Fault]:
    found = facts.integers(_given(node, 1))
    if found is not None and any(k > MOST_K for k in found):
        yield f"K = {found[0]}", f"K of at most {MOST_K}"


def _zero_point(node: ir.Node) -> Iterator[Fault]:
    given = _given(node, 2)
    if given is None:
        return
    tensor = facts.constant(given)
    if tensor is None:
        yield f"a zero point {given.name} that is computed", "no zero point, or a constant 0"
    elif tensor.numpy().astype(float).any():
        yield f"the zero point {given.name}, which is not 0", "symmetric quantization"


def _conditional(node: ir.Node) -> Iterator[Fault]:
    branches = list(facts.subgraphs(node))
    if len(branches) != 2:
        return
    for one, other in zip(branches[0].outputs, branches[1].outputs, strict=False):
        ranks = facts.rank(one), facts.rank(other)
        if None not in ranks and ranks[0] != ranks[1]:
            yield f"outputs of {ranks[0]} and of {ranks[1]} axes", "the same number of axes from both branches"
        if one.name == other.name:
            yield f"two outputs named {one.name!r}", "different names in the two branches"


def _loop(node: ir.Node) -> Iterator[Fault]:
    for body in facts.subgraphs(node):
        for given, result in zip(body.inputs[2:], body.outputs[1:], strict=False):
            sizes = [given.shape, result.shape]
            if None not in sizes and _differ(given, result):
                found = f"{facts.describe(given)} becomes {facts.describe(result)}"
                yield found, "carried values that keep their shape"


def _differ(first: ir.Value, second: ir.Value) -> bool:
    if facts.rank(first) != facts.rank(second):
        return True
    pairs = [(facts.static_dim(first, axis), facts.static_dim(second, axis)) for axis in range(facts.rank(first) or 0)]
    return any(one is not None and other is not None and one != other for one, other in pairs)


def _dropout(node: ir.Node) -> Iterator[Fault]:
    training = _given(node, 2)
    if training is not None and facts.scalar(training) != 0:
        yield f"a training mode {training.name} that is not known to be false", "a model for inference"


def _static_input(node: ir.Node) -> Iterator[Fault]:
    given = _given(node, 0)
    if given is not None and given.shape is not None and not given.shape.is_static():
        yield facts.describe(given), "an input without dynamic sizes"


def _ranked_axis(node: ir.Node) -> Iterator[Fault]:
    given, axis = _given(node, 0), facts.attribute(node, "axis")
    if given is not None and given.shape is not None and facts.static_dim(given, axis) is None:
        yield f"axis {axis} of {facts.describe(given)}", "a size that is known when the engine is built"


def _one_activation(node: ir.Node) -> Iterator[Fault]:
    for name in ("activations", "activation_alpha", "activation_beta"):
        values = facts.attribute(node, name) or ()
        half = len(values) // 2
        if facts.attribute(node, "direction") == "bidirectional" and values[:half] != values[half:]:
            yield f"{name} {list(values)}", "the same in both directions"


def _letters(node: ir.Node) -> Iterator[Fault]:
    equation = facts.attribute(node, "equation") or ""
    strange = sorted({char for char in equation if not ("a" <= char <= "z" or char in "->,. ")})
    if strange:
        yield f"{''.join(strange)} in the equation", "lower-case letters"


def _resize(node: ir.Node) -> Iterator[Fault]:
    axes, rank = facts.attribute(node, "axes"), facts.rank(_given(node, 0))
    if axes and _given(node, 2) is not None and rank is not None and list(axes) != list(range(rank)):
        yield f"scales for the axes {list(axes)}", f"scales for all {rank} axes, in order"


RESTRICTIONS: Mapping[str, Restriction] = {
    "Attention": _attention,
    "DequantizeLinear": _zero_point,
    "Dropout": _dropout,
    "Einsum": _letters,
    "EyeLike": _static_input,
    "GRU": _one_activation,
    "Hardmax": _ranked_axis,
    "If": _conditional,
    "LSTM": _one_activation,
    "Loop": _loop,
    "QuantizeLinear": _zero_point,
    "RNN": _one_activation,
    "Resize": _resize,
    "TopK": _topk,
}
