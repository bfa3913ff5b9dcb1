"""Shapes through If, Loop and Scan: bodies are walked with what is known around them."""

from collections.abc import Callable, Sequence
from typing import Protocol

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.shapes.fallback import Inferred
from graphwright.engine.shapes.known import Dims, Known, operand


class Walker(Known, Protocol):
    """What control flow asks of the walk."""

    budget: list[int]

    def graph(self, graph: ir.Graph) -> None:
        """Walk the nodes of a body."""

    def learn(self, value: ir.Value, dtype: ir.DataType | None, shape: Dims | None) -> None:
        """Take note of what a body's input is."""


# How often a loop's body is walked for the sizes that no iteration changes, before they count as unknown.
MOST_ROUNDS = 3


def joined(first: Dims | None, second: Dims | None) -> Dims | None:
    """Return what two shapes have in common."""
    if first is None or second is None or len(first) != len(second):
        return None
    return tuple(one if one == other else None for one, other in zip(first, second, strict=True))


def _body(node: ir.Node, name: str) -> ir.Graph | None:
    given = node.attributes.get(name)
    return None if given is None or given.is_ref() else given.as_graph()


def _if(node: ir.Node, walk: Walker) -> Sequence[Inferred]:
    branches = [branch for branch in (_body(node, "then_branch"), _body(node, "else_branch")) if branch is not None]
    for branch in branches:
        walk.graph(branch)
    if len(branches) < 2:
        return [(None, None)] * len(node.outputs)
    pairs = zip(branches[0].outputs, branches[1].outputs, strict=False)
    results = [(walk.dtype(first), joined(walk.shape(first), walk.shape(second))) for first, second in pairs]
    return _filled(results, node)


def _loop(node: ir.Node, walk: Walker) -> Sequence[Inferred]:
    body = _body(node, "body")
    if body is None or len(body.inputs) < 2:
        return [(None, None)] * len(node.outputs)
    walk.learn(body.inputs[0], ir.DataType.INT64, ())
    walk.learn(body.inputs[1], ir.DataType.BOOL, ())
    states, results = node.inputs[2:], body.outputs[1:]
    kept = _settled(walk, body, states, body.inputs[2:], results)
    stacked = [(walk.dtype(value), _stacked(walk.shape(value), 0)) for value in results[len(states) :]]
    return _filled([*kept, *stacked], node)


def _scan(node: ir.Node, walk: Walker) -> Sequence[Inferred]:
    body, count = _body(node, "body"), facts.attribute(node, "num_scan_inputs")
    if body is None or count is None or not 0 <= count <= len(node.inputs):
        return [(None, None)] * len(node.outputs)
    states = node.inputs[: len(node.inputs) - count]
    axes = facts.attribute(node, "scan_input_axes") or (0,) * count
    for index, value in enumerate(body.inputs[len(states) :]):
        given = operand(node, len(states) + index)
        walk.learn(value, walk.dtype(given), _without(walk.shape(given), axes[index] if index < len(axes) else 0))
    kept = _settled(walk, body, states, body.inputs, body.outputs)
    results = body.outputs[len(states) :]
    out_axes = facts.attribute(node, "scan_output_axes") or (0,) * len(results)
    stacked = [
        (walk.dtype(value), _stacked(walk.shape(value), axis)) for value, axis in zip(results, out_axes, strict=False)
    ]
    return _filled([*kept, *stacked], node)


def _settled(
    walk: Walker,
    body: ir.Graph,
    states: Sequence[ir.Value | None],
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
) -> list[Inferred]:
    """Return the shapes that carried values have in every iteration: the first, where the body keeps it."""
    assumed = [walk.shape(state) for state in states]
    for _ in range(MOST_ROUNDS):
        after = _walked(walk, body, states, inputs, outputs, assumed)
        if after == assumed:
            break
        assumed = after if walk.budget[0] > 0 else [None] * len(states)
    else:
        assumed = [None] * len(states)
        _walked(walk, body, states, inputs, outputs, assumed)
    return [(walk.dtype(state), shape) for state, shape in zip(states, assumed, strict=True)]


def _walked(
    walk: Walker,
    body: ir.Graph,
    states: Sequence[ir.Value | None],
    inputs: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    assumed: list[Dims | None],
) -> list[Dims | None]:
    """Walk a body once under an assumption and return what of it still holds at its end."""
    for value, state, shape in zip(inputs, states, assumed, strict=False):
        walk.learn(value, walk.dtype(state), shape)
    walk.graph(body)
    ends = [walk.shape(value) for value in outputs[: len(states)]]
    return [joined(shape, end) for shape, end in zip(assumed, [*ends, *[None] * len(states)], strict=False)]


def _without(shape: Dims | None, axis: int) -> Dims | None:
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    axis %= len(shape)
    return shape[:axis] + shape[axis + 1 :]


def _stacked(shape: Dims | None, axis: int) -> Dims | None:
    if shape is None:
        return None
    axis = axis % (len(shape) + 1)
    return (*shape[:axis], None, *shape[axis:])


def _filled(results: Sequence[Inferred], node: ir.Node) -> Sequence[Inferred]:
    return [*results, *[(None, None)] * len(node.outputs)][: len(node.outputs)]


BODIES: dict[str, Callable[[ir.Node, Walker], Sequence[Inferred]]] = {"If": _if, "Loop": _loop, "Scan": _scan}
