"""Fuse a residual sum, with the bias before it, and its norm into ONNX Runtime's ``SkipLayerNormalization``.

Before:                                                        After:
    x -- + bias --+                                                x, skip, scale, shift, bias
    skip ---------+-- Add -- LayerNormalization<eps> -- y               |
                      |                                        SkipLayerNormalization<eps> -- y
                      +---- sum                                         +-------------------- sum

Shapes:    x, skip and y [B,S,E] or [T,E], of the same shape; scale, shift and bias [E]. E is static.
Dtypes:    float32, float16.
Refuses:   RANK of x not known to be 2 or 3; SHAPE x and skip of other shapes; UNKNOWN whether they are equal;
           SHAPE a scale, shift or bias that is not [E], or an E that is not static; CONSTANT a bias that is
           not constant; ATTRIBUTE a norm over more than the last axis; DTYPE not listed; SHARED and
           GRAPH_OUTPUT interior values.
Numerics:  same formula; one rounding less.
Source:    ONNX Runtime, ContribOperators.md, com.microsoft.SkipLayerNormalization.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.lower.ort_capabilities import CPU, CUDA, types

FLOATS = types("com.microsoft.SkipLayerNormalization", CPU, CUDA)


def _norm(op: PatternOps, total: Op, scale: Var, shift: Var) -> Op:
    node: Op = op.LayerNormalization(total, scale, shift, axis=op.attr("axis"), epsilon=op.attr("epsilon"))
    return node


def post_norm_of_bias(op: PatternOps, x: Var, skip: Var, bias: Var, scale: Var, shift: Var) -> Op:
    return _norm(op, op.Add(op.Add(x, bias), skip), scale, shift)


def pre_norm_of_bias(op: PatternOps, x: Var, skip: Var, bias: Var, scale: Var, shift: Var) -> tuple[Op, Named]:
    total = op.Add(op.Add(x, bias), skip)
    return _norm(op, total, scale, shift), op.named("total", total)


def post_norm(op: PatternOps, x: Var, skip: Var, scale: Var, shift: Var) -> Op:
    return _norm(op, op.Add(x, skip), scale, shift)


def pre_norm(op: PatternOps, x: Var, skip: Var, scale: Var, shift: Var) -> tuple[Op, Named]:
    total = op.Add(x, skip)
    return _norm(op, total, scale, shift), op.named("total", total)


def skip_layer_norm(
    op: Builder,
    x: ir.Value,
    skip: ir.Value,
    bias: ir.Value | None,
    scale: ir.Value,
    shift: ir.Value,
    axis: int,
    epsilon: float,
    total: ir.Value | None,
) -> ir.Value | tuple[ir.Value, ir.Value]:
    require(
        x.dtype in FLOATS,
        Reason.DTYPE,
        f"{x.name} is {x.dtype}; SkipLayerNormalization takes float32 and float16",
    )
    count = facts.rank(x)
    require(count in (2, 3), Reason.RANK, f"{facts.describe(x)}; needs 2 or 3 axes")
    require(axis in (-1, (count or 0) - 1), Reason.ATTRIBUTE, f"axis {axis} of {count}; needs the last")
    require_same_shape(x, skip)
    size = facts.static_dim(x, -1)
    for vector in (scale, shift, bias):
        fits = vector is None or (facts.rank(vector) == 1 and size is not None and facts.static_dim(vector, 0) == size)
        require(fits, Reason.SHAPE, f"{facts.describe(vector)}; needs [{size or 'a known size'}]")
    if bias is not None:
        require(facts.constant(bias) is not None, Reason.CONSTANT, f"{bias.name} is no constant, so no bias")
    inputs = (x, skip, scale, shift, bias)
    if total is None:
        y: ir.Value = op.SkipLayerNormalization(*inputs, epsilon=epsilon, _domain="com.microsoft")
        return y
    y, mean, deviation, total = op.SkipLayerNormalization(*inputs, epsilon=epsilon, _domain="com.microsoft", _outputs=4)
    mean.name = deviation.name = ""  # the CPU provider does not compute these two
    return y, total


def require_same_shape(x: ir.Value, skip: ir.Value) -> None:
    """Refuse a residual of another shape (SHAPE), or of one that is not known to be equal (UNKNOWN)."""
    detail = f"{facts.describe(x)} and {facts.describe(skip)} must be of one shape"
    require(facts.rank(skip) in (None, facts.rank(x)), Reason.SHAPE, detail)
    for axis in range(facts.rank(skip) or 0):
        sizes = facts.static_dim(x, axis), facts.static_dim(skip, axis)
        require(None in sizes or sizes[0] == sizes[1], Reason.SHAPE, detail)
    require(facts.same_shape(x, skip), Reason.UNKNOWN, detail)


# With the bias first: the other two would leave it out where they fit as well.
PATTERNS = (post_norm_of_bias, pre_norm_of_bias, post_norm, pre_norm)

FUSE_SKIP_LAYER_NORM = Rule("fuse-skip-layer-norm", PATTERNS, skip_layer_norm, min_opset=17)
