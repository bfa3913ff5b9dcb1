"""Fuse the spellings of the Gaussian error linear unit into ``Gelu``.

Before (erf):                                     After:
    x --+-- * 1/sqrt(2) -- Erf -- + 1 --+             x -- Gelu<approximate="none"> -- y
        +-- * 0.5 ----------------------+-- Mul -- y

Before (tanh):                                    After:
    x --+-- Pow 3 -- * 0.044715 --+                   x -- Gelu<approximate="tanh"> -- y
        +-------------------------+-- Add -- * sqrt(2/pi) -- Tanh -- + 1 -- * 0.5 x -- y

The half may scale x, the bracket, or the product; the division by sqrt(2) may be a multiplication; the cube
may be a product, and sqrt(2/pi) and x may be taken out of the sum.

Shapes:    x [...] any rank, y like x; no size is read, so any may be dynamic.
Dtypes:    float16, bfloat16, float32, float64.
Refuses:   OPSET below 20; DTYPE unknown or not listed; SHARED and GRAPH_OUTPUT interior values.
Numerics:  same formula; constants rounded to the dtype may differ in the last place.
Source:    Hendrycks and Gimpel 2016, arXiv:1606.08415; ONNX operator Gelu-20.
"""

import math

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.lift import traced_patterns

# The input types of Gelu-20.
FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}

# The values of Gelu's attribute, in the order of the alternatives below.
APPROXIMATIONS = ("none", "tanh")


def _erf_bracket(op: PatternOps, x: Var) -> Op:
    scaled = op.any_of(op.Div(x, math.sqrt(2)), op.Mul(x, 1 / math.sqrt(2)))
    bracket: Op = op.Add(op.Erf(scaled), 1.0)
    return bracket


def _tanh_bracket(op: PatternOps, x: Var) -> Op:
    factor = math.sqrt(2 / math.pi)
    cube = op.any_of(op.Pow(x, 3.0), op.Mul(op.any_of(op.Mul(x, x), op.Pow(x, 2.0)), x))
    square = op.any_of(op.Mul(op.Mul(x, x), 0.044715), op.Mul(x, op.Mul(x, 0.044715)))
    inner = op.any_of(
        op.Mul(op.Add(x, op.Mul(cube, 0.044715)), factor),
        op.Mul(op.Mul(x, factor), op.Add(square, 1.0)),
    )
    bracket: Op = op.Add(op.Tanh(inner), 1.0)
    return bracket


def halved_product(op: PatternOps, x: Var) -> AnyOf:
    """``0.5 * x * bracket`` in each of its associations."""
    bracket = op.any_of(_erf_bracket(op, x), _tanh_bracket(op, x), tag="form")
    return op.any_of(
        op.Mul(op.Mul(x, 0.5), bracket),
        op.Mul(x, op.Mul(bracket, 0.5)),
        op.Mul(op.Mul(x, bracket), 0.5),
        op.Div(op.Mul(x, bracket), 2.0),
        op.Mul(op.Div(x, 2.0), bracket),
    )


def gelu(op: Builder, x: ir.Value, form: int) -> ir.Value:
    require(x.dtype in FLOATS, Reason.DTYPE, f"{facts.describe(x)}; Gelu takes floats")
    fused: ir.Value = op.Gelu(x, approximate=APPROXIMATIONS[form])
    return fused


FUSE_GELU = Rule("fuse-gelu", (halved_product, *traced_patterns.GELU), gelu, min_opset=20)
