"""Queries, keys and values as Attention-24 takes them: guards on their sizes, and four axes for three; no rule."""

from collections.abc import Callable
from typing import NamedTuple

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.rewrite import Builder, Reason, require
from graphwright.passes.attention import require_same


class Operands(NamedTuple):
    """Queries, keys and values."""

    q: ir.Value
    k: ir.Value
    v: ir.Value


class Apart(NamedTuple):
    """Queries, keys and values of four axes, of those that a Reshape folded into three."""

    q: ir.Value | None
    k: ir.Value | None
    v: ir.Value | None

    def operands(self) -> Operands | None:
        """Return them where all three were folded from the same batch and heads."""
        if self.q is None or self.k is None or self.v is None:
            return None
        pairs = ((facts.dim(self.q, axis), facts.dim(x, axis)) for x in (self.k, self.v) for axis in (0, 1))
        return Operands(self.q, self.k, self.v) if all(facts.same_dim(one, two) for one, two in pairs) else None


Unfold = Callable[[ir.Value], ir.Value]


def require_fitting_sizes(q: ir.Value, k: ir.Value, v: ir.Value) -> None:
    """Refuse sizes that MatMul broadcasts and Attention does not.

    One head of keys and values for all queries is what both repeat. Sizes that a product adds up over are equal in
    every run that works, known or not.
    """
    for value in (q, k, v):
        require(value.shape is not None, Reason.UNKNOWN, f"the rank of {value.name} is not known; needs 3 or 4")
        fits = facts.rank(value) in (3, 4) and facts.rank(value) == facts.rank(q)
        require(fits, Reason.RANK, f"{facts.describe(value)}; needs [batch, heads, length, size] or three axes for all")
    require_same(q, 0, k, 0)
    require_same(k, 0, v, 0)
    if facts.rank(q) == 4 and not facts.dim(k, 1) == facts.dim(v, 1) == 1:
        require_same(q, 1, k, 1)
        require_same(k, 1, v, 1)
    _require_not_different(q, -1, k, -1)
    _require_not_different(k, -2, v, -2)


def _require_not_different(first: ir.Value, axis: int, second: ir.Value, other: int) -> None:
    here, there = facts.static_dim(first, axis), facts.static_dim(second, other)
    detail = f"axis {axis} of {facts.describe(first)} must equal axis {other} of {facts.describe(second)}"
    require(here is None or there is None or here == there, Reason.SHAPE, detail)


def at_four_axes(
    op: Builder, given: Operands, apart: Operands | None, y_apart: ir.Value | None
) -> tuple[Operands, Unfold]:
    """Return operands of four axes, and what makes of Attention's result the one that is replaced.

    Three axes are taken ``apart`` where they were folded, others get heads of 1. ``y_apart`` is the result with its
    heads apart, where that is what is replaced.
    """
    q, _, v = given
    if facts.rank(q) == 4:
        return given, lambda result: result
    if apart is None:
        require(y_apart is None, Reason.RANK, f"{facts.describe(q)}: its heads were not folded from four axes")
        return Operands(*(_with_heads(op, value) for value in given)), lambda result: op.Squeeze(result, [1])
    if y_apart is not None:
        _require_apart(y_apart, apart)
        return apart, lambda result: result
    size = facts.static_dim(v, 2)
    width = [size] if size is not None else op.Shape(v, start=2, end=3)
    shape = op.Concat([-1], op.Shape(q, start=1, end=2), width, axis=0)
    return apart, lambda result: op.Reshape(result, shape)


def _require_apart(y: ir.Value, apart: Operands) -> None:
    detail = f"{facts.describe(y)} is not known to have the heads of {facts.describe(apart.q)} again"
    require(facts.rank(y) == 4, Reason.UNKNOWN, detail)
    for axis, like in ((0, apart.q), (1, apart.q), (2, apart.q), (3, apart.v)):
        require(facts.same_dim(facts.dim(y, axis), facts.dim(like, axis)), Reason.UNKNOWN, detail)


def _with_heads(op: Builder, value: ir.Value) -> ir.Value:
    """[N,S,D] -> [N,1,S,D]"""
    with_heads: ir.Value = op.Unsqueeze(value, [1])
    with_heads.shape = ir.Shape([facts.dim(value, 0), 1, facts.dim(value, 1), facts.dim(value, 2)])
    return with_heads
