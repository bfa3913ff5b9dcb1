"""Fuse a residual sum and its RMS norm into ONNX Runtime's ``SkipSimplifiedLayerNormalization``.

Before:                                                 After:
    x ----+                                                 x, skip, scale
    skip -+-- Add -- RMSNormalization<eps> -- y                  |
               +---- total                                  SkipSimplifiedLayerNormalization<eps> -- y
                                                                 +---------------------------------- total

Shapes:    x, skip and y [B,S,E] or [T,E], of the same shape; scale [E]. E is static.
Dtypes:    float32, float16.
Refuses:   RANK of x not known to be 2 or 3; SHAPE x and skip of other shapes; UNKNOWN whether they are equal;
           SHAPE a scale that is not [E], or an E that is not static; ATTRIBUTE a norm over more than the last axis, or
           one computed in another type than float32; DTYPE not listed.
Numerics:  same formula; one rounding less.
Source:    ONNX Runtime, ContribOperators.md, com.microsoft.SkipSimplifiedLayerNormalization.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Named, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.lower.fuse_skip_layer_norm import require_same_shape
from graphwright.passes.lower.ort_capabilities import CPU, CUDA, MICROSOFT, types

FLOATS = types("com.microsoft.SkipSimplifiedLayerNormalization", CPU, CUDA)


def _norm(op: PatternOps, total: Op, scale: Var) -> Op:
    attributes = {name: op.attr(name) for name in ("axis", "epsilon", "stash_type")}
    node: Op = op.RMSNormalization(total, scale, **attributes)
    return node


def post_norm(op: PatternOps, x: Var, skip: Var, scale: Var) -> Op:
    return _norm(op, op.Add(x, skip), scale)


def pre_norm(op: PatternOps, x: Var, skip: Var, scale: Var) -> tuple[Op, Named]:
    total = op.Add(x, skip)
    return _norm(op, total, scale), op.named("total", total)


def skip_rms_norm(
    op: Builder,
    x: ir.Value,
    skip: ir.Value,
    scale: ir.Value,
    axis: int,
    epsilon: float,
    stash_type: int,
    total: ir.Value | None,
) -> ir.Value | tuple[ir.Value, ir.Value]:
    require(x.dtype in FLOATS, Reason.DTYPE, f"{x.name} is {x.dtype}; needs float32 or float16")
    require(scale.dtype == x.dtype, Reason.DTYPE, f"{scale.name} is {scale.dtype}, {x.name} is {x.dtype}")
    count = facts.rank(x)
    require(count in (2, 3), Reason.RANK, f"{facts.describe(x)}; needs 2 or 3 axes")
    require(axis in (-1, (count or 0) - 1), Reason.ATTRIBUTE, f"axis {axis} of {count}; needs the last")
    is_single = stash_type == ir.DataType.FLOAT.value
    require(is_single, Reason.ATTRIBUTE, f"stash_type {stash_type}; the operator computes in float32")
    require_same_shape(x, skip)
    size = facts.static_dim(x, -1)
    fits = facts.rank(scale) == 1 and size is not None and facts.static_dim(scale, 0) == size
    require(fits, Reason.SHAPE, f"{facts.describe(scale)}; needs [{size or 'a known size'}]")
    if total is None:
        y: ir.Value = op.SkipSimplifiedLayerNormalization(x, skip, scale, epsilon=epsilon, _domain=MICROSOFT)
        return y
    y, mean, deviation, total = op.SkipSimplifiedLayerNormalization(
        x, skip, scale, epsilon=epsilon, _domain=MICROSOFT, _outputs=4
    )
    mean.name = deviation.name = ""  # the CPU provider does not compute these two
    return y, total


FUSE_SKIP_RMS_NORM = Rule("fuse-skip-rms-norm", (post_norm, pre_norm), skip_rms_norm, min_opset=23)
