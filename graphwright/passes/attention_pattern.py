"""The product of queries and keys, and the softmax over it, as exporters spell them; patterns, no rule."""

import math
from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Checked, Named, Op, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, require
from graphwright.passes.attention import require_no_new_axes, require_swaps_last_axes
from graphwright.passes.attention_scores import FLOATS

# What the tag ``softmax`` says.
IN_FLOAT32 = 0


def product(op: PatternOps, k: Var) -> Op:
    """Match ``q k^T``, with constant numbers on either; ``keys`` and ``scale_of`` read what it binds."""
    node: Op = op.MatMul(_scaled(op, whole(op, "q"), "q"), _scaled(op, _transposed(op, k), "k"))
    return node


def softmax_of(op: PatternOps, scores: Pattern) -> AnyOf:
    """Match a softmax over the last axis, computed in its own type or in float32 between two Casts."""
    in_float32 = op.Softmax(op.Cast(scores, to=ir.DataType.FLOAT.value), axis=-1)
    return op.any_of(op.Cast(in_float32, to=op.attr("_to")), op.Softmax(scores, axis=-1), tag="softmax")


def whole(op: PatternOps, name: str) -> Named:
    """Match a value, and where a Reshape folds its four axes into three, that of four axes (``<name>_apart``)."""
    folded = op.check(op.keep(op.Reshape(op.var(f"{name}_apart"), op.var(f"_{name}"))), "folded heads", _folds_heads)
    return op.named(name, op.any_of(folded, op.var(f"{name}_value")))


def _folds_heads(value: ir.Value) -> bool:
    node = value.producer()
    source = node.inputs[0] if node is not None else None
    sides = ((facts.dim(value, axis), facts.dim(source, axis)) for axis in (-2, -1))
    is_fold = facts.rank(value) == 3 and facts.rank(source) == 4
    return is_fold and all(facts.same_dim(one, two) for one, two in sides)


def _number(op: PatternOps, name: str) -> Checked:
    return op.check(op.var(name), "a constant number", lambda value: facts.scalar(value) is not None)


def _scaled(op: PatternOps, value: Pattern, name: str) -> AnyOf:
    """``value``, or ``value`` times or divided by a constant number."""
    times, over = _number(op, f"times_{name}"), _number(op, f"over_{name}")
    return op.any_of(op.Mul(value, times), op.Div(value, over), value)


def _transposed(op: PatternOps, k: Var) -> AnyOf:
    flat = op.named("k_flat", op.Transpose(op.Reshape(k, op.var("_flat")), perm=[0, 2, 1]))
    return op.any_of(
        op.Transpose(k, perm=[0, 1, 3, 2]),
        op.Transpose(op.var("k_by_length"), perm=[0, 2, 3, 1]),
        op.named("k_swapped", op.Reshape(flat, op.var("_swapped"))),
        op.Transpose(whole(op, "k_folded"), perm=[0, 2, 1]),
        whole(op, "k_transposed"),
    )


def keys(
    op: Builder,
    k: ir.Value | None = None,
    k_by_length: ir.Value | None = None,
    k_flat: ir.Value | None = None,
    k_swapped: ir.Value | None = None,
    k_folded: ir.Value | None = None,
    k_folded_apart: ir.Value | None = None,
    k_transposed: ir.Value | None = None,
    k_transposed_apart: ir.Value | None = None,
    **_: Any,
) -> tuple[ir.Value, ir.Value | None]:
    """Return the keys as they are before any transpose, and those of four axes where a Reshape folded their heads."""
    if k_folded is not None:
        return k_folded, k_folded_apart
    if k_by_length is not None:
        return op.Transpose(k_by_length, perm=[0, 2, 1, 3]), None
    if k_transposed is not None:
        apart = None if k_transposed_apart is None else op.Transpose(k_transposed_apart, perm=[0, 1, 3, 2])
        perm = [0, 2, 1] if facts.rank(k_transposed) == 3 else [0, 1, 3, 2]
        return op.Transpose(k_transposed, perm=perm), apart
    assert k is not None
    if k_flat is not None and k_swapped is not None:
        require_swaps_last_axes(k, k_flat, k_swapped)
    return k, None


def scale_of(bound: dict[str, Any]) -> float:
    """Return ``times_q * times_k / (over_q * over_k)``, of those that were matched."""
    scale = 1.0
    for name, value in bound.items():
        number = facts.scalar(value) if name.startswith(("times_", "over_")) else None
        if number is not None:
            require_no_new_axes(value)
            fits = 0 < number < math.inf
            require(fits, Reason.CONSTANT, f"the scale {value.name} is {number}; needs a finite one above zero")
            scale = scale * number if name.startswith("times_") else scale / number
    return scale


def require_types(q: ir.Value, v: ir.Value) -> None:
    """Refuse types that Attention does not take, or that differ."""
    require(q.dtype in FLOATS, Reason.DTYPE, f"{q.name} is {q.dtype}; needs float32, float16 or bfloat16")
    require(v.dtype == q.dtype, Reason.DTYPE, f"{v.name} is {v.dtype}, {q.name} is {q.dtype}")


def precision_of(softmax: int, q: ir.Value) -> int | None:
    """Return the attribute that says in which type the softmax is computed, None for the queries' own."""
    return ir.DataType.FLOAT.value if softmax == IN_FLOAT32 and q.dtype != ir.DataType.FLOAT else None
