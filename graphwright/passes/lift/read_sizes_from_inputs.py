"""Read a size from the graph input that has it, not from a value on the way.

Before:                                            After:
    ids [B,S] -- ... -- x [B,H,S] -- Shape -- Gather [2] -- S      ids [B,S] -- Shape -- Gather [1] -- S

Exporters ask every value for its own sizes, though there are few: those of the inputs. Read from one place, equal sizes
become one value, and no reader of a shape keeps a rule from taking a value out.

Shapes:    x of known rank; each size asked for a number or one that a graph input names too.
Dtypes:    any of x.
Refuses:   OPSET below 15; CONSTANT places that are not constant; UNKNOWN sizes, or names that no input of this graph
           has; ATTRIBUTE places that x does not have, or in steps.
Numerics:  the same.
Source:    ONNX operators Shape-15, Gather-13, Slice-13.
"""

from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Checked, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require


def _shape(op: PatternOps, x: Var) -> Checked:
    inner = op.check(x, "a value that a node makes", lambda value: value.producer() is not None)
    sizes = op.keep(op.Shape(inner, start=op.attr("start"), end=op.attr("end")))
    return op.check(sizes, "start and end that no caller gives", _has_own_bounds)


def _has_own_bounds(sizes: ir.Value) -> bool:
    node = sizes.producer()
    return node is not None and not any(given.is_ref() for given in node.attributes.values())


def gathered(op: PatternOps, x: Var, places: Var) -> Op:
    asked = op.check(places, "one place or a list of them", lambda value: facts.rank(value) in (0, 1))
    node: Op = op.Gather(_shape(op, x), asked, axis=0)
    return node


def sliced(op: PatternOps, x: Var, starts: Var, ends: Var, axes: Var | None = None, steps: Var | None = None) -> Op:
    node: Op = op.Slice(_shape(op, x), starts, ends, axes, steps)
    return node


def sizes_of_inputs(
    op: Builder,
    x: ir.Value,
    start: int | None,
    end: int | None,
    places: ir.Value | None,
    starts: ir.Value | None,
    ends: ir.Value | None,
    steps: ir.Value | None,
) -> ir.Value:
    count = facts.rank(x)
    detail = f"sizes of {facts.describe(x)}"
    require(count is not None, Reason.UNKNOWN, f"{detail}: the rank is not known")
    axes = list(range(count or 0))[start:end]
    asked = _gathered(axes, places, x) if places is not None else _sliced(axes, starts, ends, steps, x)
    parts = [_part(x, axis) for axis in asked]
    if facts.rank(places) == 0:
        value, axis = parts[0]
        require(value is not None, Reason.UNKNOWN, f"{detail}: fold-constants takes numbers")
        single: ir.Value = op.Gather(op.Shape(value), op.constant(np.asarray(axis, np.int64), "axis"), axis=0)
        return single
    require(any(value is not None for value, _ in parts), Reason.UNKNOWN, f"{detail}: fold-constants takes numbers")
    made: list[Any] = [[at] if value is None else op.Shape(value, start=at, end=at + 1) for value, at in parts]
    sizes: ir.Value = made[0] if len(made) == 1 else op.Concat(*made, axis=0)
    return sizes


def _gathered(axes: list[int], places: ir.Value, x: ir.Value) -> list[int]:
    """Return the axes of x that Gather asks for."""
    numbers = facts.integers(places)
    require(numbers is not None, Reason.CONSTANT, f"{places.name}, the places of {facts.describe(x)}, is not constant")
    numbers = numbers or ()
    inside = all(-len(axes) <= number < len(axes) for number in numbers)
    require(inside, Reason.ATTRIBUTE, f"{facts.describe(x)} has no places {list(numbers)}")
    return [axes[number] for number in numbers]


def _sliced(
    axes: list[int], starts: ir.Value | None, ends: ir.Value | None, steps: ir.Value | None, x: ir.Value
) -> list[int]:
    """Return the axes of x that Slice asks for; a list of sizes has one axis only."""
    first, last = facts.integers(starts), facts.integers(ends)
    known = first is not None and last is not None and len(first) == len(last) == 1
    require(known, Reason.CONSTANT, f"the bounds of a slice of the shape of {facts.describe(x)} are not constant")
    require(steps is None or facts.scalar(steps) == 1, Reason.ATTRIBUTE, f"sizes of {facts.describe(x)} in steps")
    asked = axes[slice((first or (0,))[0], (last or (0,))[0])]
    require(bool(asked), Reason.ATTRIBUTE, f"{facts.describe(x)} has no such sizes")
    return asked


def _part(x: ir.Value, axis: int) -> tuple[ir.Value | None, int]:
    """Return the graph input that has a size, and at which axis; or None and the number that it is."""
    size = facts.static_dim(x, axis)
    if size is not None:
        return None, size
    found = input_of(x, axis)
    detail = f"no input of the graph is known to have the size of axis {axis} of {facts.describe(x)}"
    require(found is not None, Reason.UNKNOWN, detail)
    assert found is not None
    return found


def input_of(x: ir.Value, axis: int) -> tuple[ir.Value, int] | None:
    """Return the first input of x's graph that is known to be as long as an axis of x, and its axis; or None."""
    node = x.producer()
    inputs = node.graph.inputs if node is not None and isinstance(node.graph, ir.Graph) else ()
    for value in inputs:
        for other in range(facts.rank(value) or 0):
            if facts.same_dim(facts.dim(value, other), facts.dim(x, axis)):
                return value, other
    return None


READ_SIZES_FROM_INPUTS = Rule("read-sizes-from-inputs", (gathered, sliced), sizes_of_inputs, min_opset=15)
