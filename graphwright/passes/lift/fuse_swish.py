"""Fuse ``x * Sigmoid(alpha * x)`` into ``Swish(x)``: SiLU where alpha is 1, QuickGelu where it is 1.702.

Before:                                        After:
    x --+-- * alpha -- Sigmoid --+                 x -- Swish<alpha> -- y
        +------------------------+-- Mul -- y

Shapes:    x [...] any rank, y like x; no size is read, so any may be dynamic.
Dtypes:    float16, bfloat16, float32, float64.
Refuses:   OPSET below 24; DTYPE unknown or not listed; CONSTANT alpha is not one constant number; RANK
           alpha has more axes than x; ATTRIBUTE alpha is no float32 number (float64 models only); SHARED
           and GRAPH_OUTPUT interior values.
Numerics:  same formula; a backend may round once less.
Source:    Ramachandran et al. 2017, arXiv:1710.05941; Hendrycks and Gimpel 2016, arXiv:1606.08415 (1.702);
           ONNX operator Swish-24.
"""

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.lift import traced_patterns

# The input types of Swish-24.
FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}


def gated_by_own_sigmoid(op: PatternOps, x: Var) -> Op:
    gated: Op = op.Mul(x, op.Sigmoid(x))
    return gated


def gated_by_scaled_sigmoid(op: PatternOps, x: Var, alpha: Var) -> Op:
    gated: Op = op.Mul(x, op.Sigmoid(op.Mul(x, alpha)))
    return gated


def swish(op: Builder, x: ir.Value, alpha: ir.Value | float | None = None) -> ir.Value:
    require(x.dtype in FLOATS, Reason.DTYPE, f"{facts.describe(x)}; Swish takes floats")
    number = _number(alpha, x) if isinstance(alpha, ir.Value) else alpha
    exact = number is None or float(np.float32(number)) == number
    require(exact, Reason.ATTRIBUTE, f"the factor {number!r} has more digits than Swish's float32 attribute")
    fused: ir.Value = op.Swish(x, alpha=number)
    return fused


def _number(value: ir.Value, x: ir.Value) -> float:
    number = facts.scalar(value)
    require(
        number is not None,
        Reason.CONSTANT,
        f"{value.name}, the factor in Sigmoid, is not one constant number",
    )
    assert number is not None
    count = facts.rank(value)
    fits = count == 0 or (count is not None and count <= (facts.rank(x) or 0))
    require(fits, Reason.RANK, f"{facts.describe(value)} may add axes to {facts.describe(x)}")
    return number


PATTERNS = (gated_by_own_sigmoid, gated_by_scaled_sigmoid, *traced_patterns.SWISH)

FUSE_SWISH = Rule("fuse-swish", PATTERNS, swish, min_opset=24)
