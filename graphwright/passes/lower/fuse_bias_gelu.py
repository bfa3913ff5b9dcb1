"""Fuse a bias and the ``Gelu`` after it into ONNX Runtime's ``BiasGelu``.

Before:                          After:
    x -- + bias -- Gelu -- y         x, bias -- BiasGelu -- y

Shapes:    x [..., N], bias [N]; N is static, the rest may be dynamic.
Dtypes:    float32 (the CPU provider has no other kernel).
Refuses:   DTYPE other than float32; CONSTANT a bias that is not constant; SHAPE a bias that is not [N];
           SHARED and GRAPH_OUTPUT interior values.
Numerics:  same formula.
Source:    ONNX Runtime, ContribOperators.md, com.microsoft.BiasGelu.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.lower.ort_capabilities import CPU, CUDA, types

FLOATS = types("com.microsoft.BiasGelu", CPU, CUDA)


def gelu_of_sum(op: PatternOps, x: Var, bias: Var) -> Op:
    gelu: Op = op.Gelu(op.Add(x, bias), approximate="none")
    return gelu


def bias_gelu(op: Builder, x: ir.Value, bias: ir.Value) -> ir.Value:
    require(x.dtype in FLOATS, Reason.DTYPE, f"{x.name} is {x.dtype}; BiasGelu runs in float32 here")
    require(facts.constant(bias) is not None, Reason.CONSTANT, f"{bias.name} is no constant, so no bias")
    size = facts.static_dim(x, -1)
    fits = facts.rank(bias) == 1 and size is not None and facts.static_dim(bias, 0) == size
    require(fits, Reason.SHAPE, f"{facts.describe(bias)}; needs [{size or 'a known size'}]")
    result: ir.Value = op.BiasGelu(x, bias, _domain="com.microsoft")
    return result


FUSE_BIAS_GELU = Rule("fuse-bias-gelu", (gelu_of_sum,), bias_gelu, min_opset=20)
