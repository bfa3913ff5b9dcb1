"""What the passes that choose the largest of a row share: guards on logits, axes and counts; no rule.

HARS ranks the logits in float32, where the source ranks rounded probabilities. Both put the same classes first, but
where probabilities tie after rounding, the source takes the lowest index and HARS the larger logit.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Pattern, PatternOps
from graphwright.engine.rewrite import Builder, Reason, require
from graphwright.plugins.hars.meaning import DTYPES

# The operators' function bodies are written in the model's own opset, and need IsInf-20.
MIN_OPSET = 20
# Modes by the alternative of ``softmax`` that a pattern took.
MODES = ("prob", "logprob")
FLOAT = ir.DataType.FLOAT


def in_float32(op: PatternOps, value: Pattern) -> AnyOf:
    """Match a value, or its Cast to float32, which the operator makes by itself."""
    return op.any_of(op.keep(op.Cast(value, to=FLOAT.value)), value)


def softmax(op: PatternOps, logits: Pattern) -> AnyOf:
    """Match Softmax (``kind`` 0) or LogSoftmax (1) over ``softmax_axis``."""
    axis = op.attr("softmax_axis")
    return op.any_of(op.Softmax(logits, axis=axis), op.LogSoftmax(logits, axis=axis), tag="kind")


def require_logits(logits: ir.Value) -> None:
    """Refuse logits that the operator does not take."""
    require(logits.dtype is not None, Reason.UNKNOWN, f"the type of {logits.name} is not known")
    require(
        logits.dtype in DTYPES, Reason.DTYPE, f"{logits.name} is {logits.dtype}; needs float32, float16 or bfloat16"
    )


def require_float(value: ir.Value) -> None:
    """Refuse a result that is no rounding of the operator's float32."""
    require(value.dtype in DTYPES, Reason.DTYPE, f"{value.name} is {value.dtype}; the operator gives float32")


def require_axis(value: ir.Value, first: int, second: int) -> int:
    """Refuse two axes of a value that are not the same; return it, -1 for the last."""
    count = facts.rank(value)
    detail = f"axes {first} and {second} of {facts.describe(value)} must be one"
    if count is None:
        require(first == second, Reason.UNKNOWN, f"{detail}, but its rank is not known")
        return first
    require((first - second) % count == 0, Reason.ATTRIBUTE, detail)
    axis = first % count
    return -1 if axis == count - 1 else axis


def require_count(k: ir.Value, value: ir.Value, axis: int) -> int:
    """Refuse a number to choose that is not known, or of which there are not so many; return it."""
    found = facts.integers(k)
    require(found is not None and len(found) == 1, Reason.UNKNOWN, f"{facts.describe(k)} is no constant number")
    assert found is not None
    size = facts.static_dim(value, axis)
    detail = f"k is {found[0]}, axis {axis} of {facts.describe(value)} has {'unknown' if size is None else size}"
    require(found[0] >= 1 and (size is None or found[0] <= size), Reason.SHAPE, detail)
    return found[0]


def cast_like(op: Builder, value: ir.Value, like: ir.Value) -> ir.Value:
    """Return a float32 value in the type of another."""
    if like.dtype in (FLOAT, None):
        return value
    assert like.dtype is not None
    cast: ir.Value = op.Cast(value, to=like.dtype.value)
    return cast
