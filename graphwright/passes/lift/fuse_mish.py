"""Fuse ``x * Tanh(Softplus(x))`` into ``Mish(x)``.

Before:                                        After:
    x --+-- Softplus -- Tanh --+                   x -- Mish -- y
        +----------------------+-- Mul -- y

Shapes:    x [...] any rank, y like x; no size is read, so any may be dynamic.
Dtypes:    float16, bfloat16, float32, float64.
Refuses:   OPSET below 22; DTYPE unknown or not listed; SHARED and GRAPH_OUTPUT interior values.
Numerics:  same formula; a backend may round less often.
Source:    Misra 2019, arXiv:1908.08681; ONNX operator Mish-22.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.lift import traced_patterns

# The input types of Mish-22.
FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}


def gated_by_tanh_of_softplus(op: PatternOps, x: Var) -> Op:
    gated: Op = op.Mul(x, op.Tanh(op.Softplus(x)))
    return gated


def mish(op: Builder, x: ir.Value) -> ir.Value:
    require(x.dtype in FLOATS, Reason.DTYPE, f"{facts.describe(x)}; Mish takes floats")
    fused: ir.Value = op.Mish(x)
    return fused


FUSE_MISH = Rule("fuse-mish", (gated_by_tanh_of_softplus, *traced_patterns.MISH), mish, min_opset=22)
