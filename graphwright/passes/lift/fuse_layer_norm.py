"""Fuse layer normalization spelled in primitives into ``LayerNormalization``.

Before:                                                               After:
    x --+-- ReduceMean --+                                                x -- LayerNormalization -- y
        +----------------+-- Sub --+-- d                                         scale, bias
    d --+-- Pow 2 -- ReduceMean -- + epsilon -- Sqrt --+
        +----------------------------------------------+-- Div -- * scale -- + bias -- y

The square may be d * d and the subtraction made twice; the division may be a product with Reciprocal(Sqrt),
1 / Sqrt or Pow -0.5; the bias may be missing. A half-precision x may be cast to float32 in front and the
quotient back to x's type before the scale: that is what the operator does by itself. Without a scale, or with
one that the operator does not take, it gets one of ones.

Shapes:    x [..., axes], rank known; scale and bias exactly [axes], the trailing axes that both means
           reduce. These sizes may be numbers or names, without a scale numbers; the others may be unknown. y
           like x.
Dtypes:    float16, bfloat16, float32; scale and bias like x. float64 would lose digits: the operator's
           statistics are float32.
Refuses:   OPSET below 17; DTYPE not listed, scale or bias of another one, or a cast back to another one;
           UNKNOWN rank or size; RANK or SHAPE of scale or bias that is not that of the axes, or epsilon
           with more axes than x; ATTRIBUTE axes that are not trailing, or differ; CONSTANT epsilon or axes
           not constant, epsilon below 0; SHARED and GRAPH_OUTPUT interior values.
Numerics:  same formula; in half precision the statistics are float32 where the primitives may round each
           step.
Source:    Ba et al. 2016, arXiv:1607.06450; ONNX operator LayerNormalization-17.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Checked, Op, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Rule
from graphwright.passes.lift import normalization, traced_patterns


def _standardized(op: PatternOps, x: Var, epsilon: Var, mean_axes: Var, variance_axes: Var) -> AnyOf:
    def normalized(value: Pattern) -> AnyOf:
        mean = normalization.mean(op, value, mean_axes)
        deviation = op.Sub(value, mean)
        squared = normalization.square(op, op.any_of(deviation, op.Sub(value, mean)))
        variance = op.Add(normalization.mean(op, squared, variance_axes), epsilon)
        return normalization.over_root(op, deviation, variance)

    return normalization.of_any_width(op, x, normalized)


def scale_and_bias(
    op: PatternOps, x: Var, scale: Var, bias: Var, epsilon: Var, mean_axes: Var, variance_axes: Var
) -> Op:
    total: Op = op.Add(op.Mul(_standardized(op, x, epsilon, mean_axes, variance_axes), scale), bias)
    return total


def scale_alone(op: PatternOps, x: Var, scale: Var, epsilon: Var, mean_axes: Var, variance_axes: Var) -> Checked:
    scaled = op.Mul(_standardized(op, x, epsilon, mean_axes, variance_axes), scale)
    return op.check(scaled, "no bias added to it: the pattern with a bias takes both", _has_no_bias)


def without_scale(op: PatternOps, x: Var, epsilon: Var, mean_axes: Var, variance_axes: Var) -> AnyOf:
    return _standardized(op, x, epsilon, mean_axes, variance_axes)


def _has_no_bias(scaled: ir.Value) -> bool:
    """Tell whether the sum behind a product, if any, is none that the other pattern takes as bias."""
    product, users = scaled.producer(), list(scaled.uses())
    if product is None or len(users) != 1 or scaled.is_graph_output():
        return True
    user, index = users[0]
    if user.op_type != "Add" or user.domain or user.graph is not product.graph:
        return True
    bias = user.inputs[1 - index]
    scale = min(product.inputs, key=lambda value: facts.rank(value) or 0)
    return bias is None or bias.dtype != scaled.dtype or not facts.same_shape(bias, scale)


def layer_norm(
    op: Builder,
    x: ir.Value,
    scale: ir.Value | None,
    epsilon: ir.Value | float,
    mean_axes: normalization.Axes,
    variance_axes: normalization.Axes,
    width: int,
    bias: ir.Value | None = None,
    narrowed_to: int | None = None,
) -> ir.Value:
    normalization.require_dtype(x, width, narrowed_to)
    axis = normalization.first_axis(x, mean_axes, variance_axes)
    if scale is None:
        scale = normalization.ones(op, x, axis)
    for parameter in (scale, bias):
        if parameter is not None:
            normalization.require_like_axes(parameter, x, axis)
    number = normalization.epsilon_of(epsilon, x)
    inputs = (x, scale) if bias is None else (x, scale, bias)
    fused: ir.Value = op.LayerNormalization(*inputs, axis=axis, epsilon=number)
    return fused


PATTERNS = (scale_and_bias, scale_alone, without_scale, *traced_patterns.LAYER_NORM)

FUSE_LAYER_NORM = Rule("fuse-layer-norm", PATTERNS, layer_norm, min_opset=17)
