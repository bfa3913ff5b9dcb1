"""Fuse RMS normalization spelled in primitives into ``RMSNormalization``.

Before:                                                                     After:
    x --+-- Pow 2 -- ReduceMean -- + epsilon -- Sqrt -- Reciprocal --+          x -- RMSNormalization -- y
        +------------------------------------------------------------+-- Mul        scale
                                                             * scale -- y

The square may be x * x; the product with Reciprocal(Sqrt) may be one with 1 / Sqrt or Pow -0.5, or a
division by Sqrt. A half-precision x may be cast to float32 in front and the product back to x's type before
the scale, as LLaMA does: that is what the operator does by itself. Without a scale, or with one that the
operator does not take, it gets one of ones.

Shapes:    x [..., axes], rank known; scale exactly [axes], the trailing axes that the mean reduces. These
           sizes may be numbers or names, without a scale numbers; the others may be unknown. y like x.
Dtypes:    float16, bfloat16, float32; scale like x. float64 would lose digits: the operator's mean is
           float32.
Refuses:   OPSET below 23; DTYPE not listed, scale of another one, or a cast back to another one; UNKNOWN
           rank or size; RANK or SHAPE of a scale that is not that of the axes, or epsilon with more axes
           than x; ATTRIBUTE axes that are not trailing; CONSTANT epsilon or axes not constant, epsilon
           below 0; SHARED and GRAPH_OUTPUT interior values.
Numerics:  same formula; in half precision the mean is float32 where the primitives may round each step.
Source:    Zhang and Sennrich 2019, arXiv:1910.07467; ONNX operator RMSNormalization-23.
"""

import onnx_ir as ir

from graphwright.engine.pattern import AnyOf, Op, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Rule
from graphwright.passes.lift import normalization, traced_patterns


def _over_rms(op: PatternOps, x: Var, epsilon: Var, axes: Var) -> AnyOf:
    def normalized(value: Pattern) -> AnyOf:
        variance = op.Add(normalization.mean(op, normalization.square(op, value), axes), epsilon)
        return normalization.over_root(op, value, variance)

    return normalization.of_any_width(op, x, normalized)


def scaled(op: PatternOps, x: Var, scale: Var, epsilon: Var, axes: Var) -> Op:
    product: Op = op.Mul(_over_rms(op, x, epsilon, axes), scale)
    return product


def without_scale(op: PatternOps, x: Var, epsilon: Var, axes: Var) -> AnyOf:
    return _over_rms(op, x, epsilon, axes)


def rms_norm(
    op: Builder,
    x: ir.Value,
    scale: ir.Value | None,
    epsilon: ir.Value | float,
    axes: normalization.Axes,
    width: int,
    narrowed_to: int | None = None,
) -> ir.Value:
    normalization.require_dtype(x, width, narrowed_to)
    axis = normalization.first_axis(x, axes)
    if scale is None:
        scale = normalization.ones(op, x, axis)
    normalization.require_like_axes(scale, x, axis)
    fused: ir.Value = op.RMSNormalization(x, scale, axis=axis, epsilon=normalization.epsilon_of(epsilon, x))
    return fused


FUSE_RMS_NORM = Rule("fuse-rms-norm", (scaled, without_scale, *traced_patterns.RMS_NORM), rms_norm, min_opset=23)
