"""Join a product with a constant matrix, and its bias, activation and residual, into ``graphwright.Linear``.

Before:                                                          After:
    x -- MatMul w -- + b -- Gelu -- + residual -- y                  x, w, b, residual -- Linear<gelu> -- y

    x -- Gemm w, b -- Relu -- y                                      x, w, b -- Linear<relu> -- y

    x -- MatMul w -- + residual -- y                                 x, w, , residual -- Linear -- y

The product may be a Gemm of alpha and beta 1, its weight transposed or not. The activation is Gelu, either form, Swish,
Relu, Tanh, Sigmoid or none. A product with no epilogue stays. Targets lower the node again, each in its way
(``spell-linear``, ``lower-linear-for-ort``); left in, its body runs anywhere. Opt-in: docs/design/0011-linear.md.

Shapes:    x [..., K], w [K, N] constant ([N, K] of a Gemm that transposes it), b [N] constant, residual of y's shape.
Dtypes:    float16, bfloat16, float32, float64.
Refuses:   OPSET below 13; DTYPE not listed; CONSTANT a weight or bias that is not constant, or lies in a function's
           body; RANK a weight that is no matrix; SHAPE a bias that is not [N], a residual of another shape; UNKNOWN
           whether the residual has y's shape; ATTRIBUTE a transposition that a function's caller sets; SHARED and
           GRAPH_OUTPUT interior values. Where the residual or the activation is refused, the rest is joined without it.
Numerics:  the same operators in the same order.
Source:    docs/design/0011-linear.md.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Checked, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.plugins.linear.meaning import ACTIVATIONS, DTYPES, NONE, call_linear

NAMES = tuple(ACTIVATIONS)
# What an operator must have as its schema has it, since Linear says nothing of it.
DEFAULTS = {"Swish": {"alpha": 1.0}}


def _is_changing(value: ir.Value) -> bool:
    return facts.constant(value) is None


def _biased(op: PatternOps, x: Var, weight: Var) -> AnyOf:
    bias, turned = op.var("bias"), op.attr("transposed")
    gemm = op.Gemm(x, weight, bias, alpha=1.0, beta=1.0, transA=0, transB=turned)
    constant = op.check(bias, "a constant", lambda value: facts.constant(value) is not None)
    return op.any_of(op.Add(op.MatMul(x, weight), constant), gemm)


def _product(op: PatternOps, x: Var, weight: Var) -> AnyOf:
    plain = op.Gemm(x, weight, alpha=1.0, transA=0, transB=op.attr("transposed"))
    return op.any_of(_biased(op, x, weight), op.MatMul(x, weight), plain)


def _activated(op: PatternOps, x: Var, weight: Var) -> AnyOf:
    inner = _product(op, x, weight)
    forms = [
        getattr(op, each.operator)(inner, **each.attributes, **DEFAULTS.get(each.operator, {}))
        for each in ACTIVATIONS.values()
    ]
    return op.any_of(*forms, tag="kind")


def _other(op: PatternOps, residual: Var) -> Checked:
    return op.check(residual, "no constant", _is_changing)


def with_activation_and_residual(op: PatternOps, x: Var, weight: Var, residual: Var) -> Op:
    total: Op = op.Add(op.named("inner", _activated(op, x, weight)), _other(op, residual))
    return total


def with_residual(op: PatternOps, x: Var, weight: Var, residual: Var) -> Op:
    total: Op = op.Add(op.named("inner", _product(op, x, weight)), _other(op, residual))
    return total


def with_activation(op: PatternOps, x: Var, weight: Var) -> AnyOf:
    return _activated(op, x, weight)


def with_bias(op: PatternOps, x: Var, weight: Var) -> AnyOf:
    return _biased(op, x, weight)


def joined(
    op: Builder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None,
    residual: ir.Value | None,
    inner: ir.Value | None,
    kind: int | None,
    transposed: int | None = 0,
) -> ir.Value:
    require(x.dtype in DTYPES, Reason.DTYPE, f"{facts.describe(x)}; joined for floats only")
    require(transposed is not None, Reason.ATTRIBUTE, "transB comes from the caller of the function")
    # ONNX Runtime finds no overload from inside a function, where constants are nodes.
    fixed = facts.constant(weight) is not None and weight.producer() is None
    require(fixed, Reason.CONSTANT, f"{facts.describe(weight)} is no initializer that stays")
    require(facts.rank(weight) == 2, Reason.RANK, f"{facts.describe(weight)} has not 2 axes")
    if bias is not None:
        require(facts.constant(bias) is not None, Reason.CONSTANT, f"{facts.describe(bias)} is not constant")
        size = facts.static_dim(weight, 0 if transposed else 1)
        fits = facts.rank(bias) == 1 and size is not None and facts.static_dim(bias, 0) == size
        require(fits, Reason.SHAPE, f"the bias {facts.describe(bias)} of {size} columns")
    if residual is not None and inner is not None:
        _require_same_shape(inner, residual)
    activation = NONE if kind is None else NAMES[kind]
    return call_linear(op, x, weight, bias, residual, activation=activation, transposed=bool(transposed))


def _require_same_shape(inner: ir.Value, residual: ir.Value) -> None:
    detail = f"the residual {facts.describe(residual)} of {facts.describe(inner)}"
    count = facts.rank(inner)
    require(facts.rank(residual) in (None, count), Reason.SHAPE, detail)
    for axis in range(count or 0):
        sizes = facts.static_dim(inner, axis), facts.static_dim(residual, axis)
        require(None in sizes or sizes[0] == sizes[1], Reason.SHAPE, detail)
    require(facts.same_shape(inner, residual), Reason.UNKNOWN, detail)


# The longest first: the others would leave out what fits as well.
PATTERNS = (with_activation_and_residual, with_residual, with_activation, with_bias)

FUSE_LINEAR = Rule("fuse-linear", PATTERNS, joined)
