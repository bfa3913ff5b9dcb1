"""What the spellings of layer and RMS normalization have in common: patterns and guards, no rule."""

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Op, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, require

# Both operators keep their statistics in float32, so float64 primitives would lose digits.
FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT})
HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
FLOAT32 = int(ir.DataType.FLOAT)

Axes = ir.Value | tuple[int, ...] | None


# What the tag of ``of_any_width`` says of a region between two casts, and of one without.
NARROWED, PLAIN = 0, 1


def of_any_width(op: PatternOps, x: Pattern, normalized: Callable[[Pattern], Pattern]) -> AnyOf:
    """Match what is made of ``x``, or of ``x`` cast to float32 and then cast back; the tag ``width`` says which."""
    wide = op.keep(op.Cast(x, to=FLOAT32))
    narrowed = op.Cast(normalized(wide), to=op.attr("narrowed_to"))
    return op.any_of(narrowed, normalized(x), tag="width")


def mean(op: PatternOps, value: Pattern, axes: Var) -> AnyOf:
    """Match a mean that keeps its axes, given as an input (opset 18 on) or as an attribute."""
    return op.any_of(
        op.ReduceMean(value, axes, keepdims=1),
        op.ReduceMean(value, keepdims=1, axes=op.attr(axes.name)),
    )


def square(op: PatternOps, value: Pattern) -> AnyOf:
    """Match ``value * value``."""
    return op.any_of(op.Pow(value, 2.0), op.Mul(value, value))


def over_root(op: PatternOps, value: Pattern, variance: Op) -> AnyOf:
    """Match ``value / sqrt(variance)``."""
    root = op.Sqrt(variance)
    return op.any_of(
        op.Div(value, root),
        op.Mul(value, op.any_of(op.Reciprocal(root), op.Div(1.0, root), op.Pow(variance, -0.5))),
        op.Div(value, op.Pow(variance, 0.5)),
    )


def first_axis(x: ir.Value, *given: Axes) -> int:
    """Return the negative axis from which on all the given axes lists reduce, or refuse."""
    count = facts.rank(x)
    require(count is not None, Reason.UNKNOWN, f"the rank of {facts.describe(x)} is not known")
    assert count is not None
    for axes in given:
        numbers = facts.integers(axes) if isinstance(axes, ir.Value) else axes
        require(bool(numbers), Reason.CONSTANT, "the axes of a mean are not given as a constant")
        assert numbers is not None
        found = sorted(axis % count for axis in numbers)
        trailing = found == list(range(count - len(found), count))
        require(trailing, Reason.ATTRIBUTE, f"the mean is over axes {list(numbers)}; only trailing axes fit")
        length = len(numbers)
        require(length == len(_numbers(given[0])), Reason.ATTRIBUTE, "the two means are over different axes")
    return -length


def _numbers(axes: Axes) -> tuple[int, ...]:
    return (facts.integers(axes) if isinstance(axes, ir.Value) else axes) or ()


def require_like_axes(parameter: ir.Value, x: ir.Value, axis: int) -> None:
    """Refuse a scale or bias that is not of x's dtype and exactly of the shape of x from the axis on."""
    detail = f"{facts.describe(parameter)} beside {facts.describe(x)}, normalized from axis {axis} on"
    require(parameter.dtype == x.dtype, Reason.DTYPE, detail)
    require(facts.rank(parameter) is not None, Reason.UNKNOWN, detail)
    require(facts.rank(parameter) == -axis, Reason.RANK, detail)
    for index in range(axis, 0):
        sizes = facts.dim(parameter, index), facts.dim(x, index)
        require(None not in sizes, Reason.UNKNOWN, detail)
        require(facts.same_dim(*sizes), Reason.SHAPE, detail)


def ones(op: Builder, x: ir.Value, axis: int) -> ir.Value:
    """Return a scale that changes nothing, for the axes of x from a negative one on, or refuse."""
    sizes = [facts.static_dim(x, index) for index in range(axis, 0)]
    known = [size for size in sizes if size is not None]
    detail = f"without a scale the sizes of {facts.describe(x)} from axis {axis} on must be numbers"
    require(len(known) == len(sizes), Reason.UNKNOWN, detail)
    assert x.dtype is not None
    return op.constant(np.ones(known, x.dtype.numpy()), "ones")


def epsilon_of(value: ir.Value | float, x: ir.Value) -> float:
    """Return the constant that is added to the variance, or refuse; a traced pattern gives the number itself."""
    if isinstance(value, float):
        require(value >= 0, Reason.CONSTANT, f"epsilon is {value}; needed 0 or more")
        return value
    number = facts.scalar(value)
    require(
        number is not None,
        Reason.CONSTANT,
        f"{value.name}, added to the variance, is not one constant number",
    )
    assert number is not None
    fits = (facts.rank(value) or 0) <= (facts.rank(x) or 0)
    require(fits, Reason.RANK, f"{facts.describe(value)} adds axes to {facts.describe(x)}")
    require(math.isfinite(number) and number >= 0, Reason.CONSTANT, f"{value.name} is {number}; needed 0 or more")
    return number


def require_dtype(x: ir.Value, width: int, narrowed_to: int | None) -> None:
    """Refuse what the operator does not take.

    Where ``width`` says so, the region computes in float32 and ``narrowed_to`` is the type of the cast behind it, None
    where a function's caller sets it.
    """
    if width != NARROWED:
        require(x.dtype in FLOATS, Reason.DTYPE, f"{facts.describe(x)}; takes float16, bfloat16 and float32")
        return
    same = x.dtype in HALVES and narrowed_to == x.dtype
    detail = f"{facts.describe(x)}, normalized in float32, is cast to {narrowed_to}, not back to its half type"
    require(same, Reason.DTYPE, detail)
