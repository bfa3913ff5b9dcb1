"""Fuse the spellings of the Gaussian error linear unit into ``Gelu``.

Before (erf):                                     After:
    x --+-- * 1/sqrt(2) -- Erf -- + 1 --+             x -- Gelu<approximate="none"> -- y
        +-- * 0.5 ----------------------+-- Mul -- y

Before (tanh):                                    After:
    x --+-- Pow 3 -- * 0.044715 --+                   x -- Gelu<approximate="tanh"> -- y
        +-------------------------+-- Add -- * sqrt(2/pi) -- Tanh -- + 1 -- * 0.5 x -- y

The half may scale x, the bracket, or the product; the division may be a multiplication.

Shapes:    x [...] any rank, y like x; no size is read, so any may be dynamic.
Dtypes:    float16, bfloat16, float32, float64.
Refuses:   OPSET below 20; DTYPE unknown or not listed; SHARED and GRAPH_OUTPUT interior values.
Numerics:  same formula; constants rounded to the dtype may differ in the last place.
Source:    Hendrycks and Gimpel 2016, arXiv:1606.08415; ONNX operator Gelu-20.
"""

import math

import onnx_ir as ir

from graphwright.engine.pattern import AnyOf, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require

# The input types of Gelu-20.
FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}


def _halved_product(op: PatternOps, x: Var, bracket: Op) -> AnyOf:
    """``0.5 * x * bracket`` in each of its associations."""
    return op.any_of(
        op.Mul(op.Mul(x, 0.5), bracket),
        op.Mul(x, op.Mul(bracket, 0.5)),
        op.Mul(op.Mul(x, bracket), 0.5),
        op.Div(op.Mul(x, bracket), 2.0),
        op.Mul(op.Div(x, 2.0), bracket),
    )


def erf_form(op: PatternOps, x: Var) -> AnyOf:
    scaled = op.any_of(op.Div(x, math.sqrt(2)), op.Mul(x, 1 / math.sqrt(2)))
    return _halved_product(op, x, op.Add(op.Erf(scaled), 1.0))


def tanh_form(op: PatternOps, x: Var) -> AnyOf:
    cube = op.any_of(op.Pow(x, 3.0), op.Mul(op.Mul(x, x), x))
    inner = op.any_of(
        op.Mul(op.Add(x, op.Mul(cube, 0.044715)), math.sqrt(2 / math.pi)),
        op.Mul(op.Mul(x, math.sqrt(2 / math.pi)), op.Add(op.Mul(op.Mul(x, x), 0.044715), 1.0)),
        op.Mul(op.Mul(x, math.sqrt(2 / math.pi)), op.Add(op.Mul(x, op.Mul(x, 0.044715)), 1.0)),
    )
    return _halved_product(op, x, op.Add(op.Tanh(inner), 1.0))


def _require_float(x: ir.Value) -> None:
    require(x.dtype in FLOATS, Reason.DTYPE, f"{x.name} is {x.dtype}; Gelu takes floats")


def gelu_of_erf(op: Builder, x: ir.Value) -> ir.Value:
    _require_float(x)
    return op.Gelu(x)


def gelu_of_tanh(op: Builder, x: ir.Value) -> ir.Value:
    _require_float(x)
    return op.Gelu(x, approximate="tanh")


FUSE_GELU = Rule("fuse-gelu", (erf_form,), gelu_of_erf, min_opset=20)
FUSE_GELU_TANH = Rule("fuse-gelu-tanh", (tanh_form,), gelu_of_tanh, min_opset=20)
