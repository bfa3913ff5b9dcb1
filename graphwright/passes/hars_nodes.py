"""What the passes that lower ``hars`` nodes share: patterns that match a whole node, and its options; no rule."""

from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, require
from graphwright.errors import LoadError
from graphwright.plugins.hars import bodies
from graphwright.plugins.hars.meaning import DTYPES

# ReduceMax-18 is the newest operator that the lowerings need.
MIN_OPSET = 18


def softmax_topk(op: PatternOps, logits: Var, bias: Var | None = None) -> tuple[Pattern, ...]:
    values, indices = op.softmax_topk(logits, bias, _domain="hars", _outputs=2)
    return op.named("values", values), indices


def softmax_topk_with_stats(op: PatternOps, logits: Var, bias: Var | None = None) -> tuple[Pattern, ...]:
    values, indices, maximum, log_sum = op.softmax_topk(logits, bias, _domain="hars", _outputs=4)
    return op.named("values", values), indices, op.named("maximum", maximum), log_sum


def router_topk(op: PatternOps, scores: Var, bias: Var | None = None) -> tuple[Pattern, ...]:
    weights, experts = op.router_topk(scores, bias, _domain="hars", _outputs=2)
    return op.named("weights", weights), experts


def router_topk_with_identity(op: PatternOps, scores: Var, bias: Var | None = None) -> tuple[Pattern, ...]:
    weights, experts, identity = op.router_topk(scores, bias, _domain="hars", _outputs=3)
    return op.named("weights", weights), experts, op.named("identity", identity)


def known_options(op: Builder, output: ir.Value, given: ir.Value) -> dict[str, Any]:
    """Return the options of the node that makes an output; refuse what the lowerings do not take."""
    node = output.producer()
    assert node is not None
    require(given.dtype is not None, Reason.UNKNOWN, f"the type of {given.name} is not known")
    require(given.dtype in DTYPES, Reason.DTYPE, f"{given.name} is {given.dtype}; needs float32, float16 or bfloat16")
    require(facts.rank(given) is not None, Reason.UNKNOWN, f"the rank of {given.name} is not known")
    problem = ""
    try:
        bodies.body_of(node, op.opset)
    except LoadError as error:
        problem = str(error)
    require(not problem, Reason.ATTRIBUTE, problem)
    return bodies.options(node)


def require_width(given: ir.Value, axis: int, k: int) -> int:
    """Return the size of the axis that is ranked; refuse where it is not known, not there, or below ``k``."""
    rank = facts.rank(given) or 0
    require(-rank <= axis < rank, Reason.SHAPE, f"axis {axis} of {facts.describe(given)}")
    width = facts.static_dim(given, axis)
    require(width is not None, Reason.UNKNOWN, f"{facts.describe(given)} has no known size on axis {axis}")
    assert width is not None
    require(k <= width, Reason.SHAPE, f"k is {k}, the size of the axis {width}")
    return width
