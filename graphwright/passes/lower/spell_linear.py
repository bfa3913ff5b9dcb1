"""Spell ``graphwright.Linear`` in ONNX's own operators.

Before:                                                     After:
    x, w, b, residual -- Linear<gelu> -- y                      x -- MatMul w -- + b -- Gelu -- + residual -- y

    x [M,K], w, b -- Linear<relu> -- y                          x -- Gemm w, b -- Relu -- y

What ``fuse-linear`` joined comes apart as it was; OpenVINO and TensorRT find the epilogue of a product themselves. The
body leaves the model when nobody calls it any more. It runs before the passes that quantise or narrow products.

Shapes:    x [..., K] of any rank; Gemm where it is known to be 2 and there is a bias or a transposed weight.
Dtypes:    float16, bfloat16, float32, float64.
Refuses:   OPSET below 13, or below that of the activation (20 for Gelu, 24 for Swish); ATTRIBUTE an activation that is
           not known, an attribute that a function's caller sets.
Numerics:  the same operators in the same order.
Source:    docs/design/0011-linear.md; ONNX operators MatMul-13, Gemm-13.
"""

import onnx_ir as ir

from graphwright.engine.rewrite import Builder, Rule
from graphwright.passes.linear_nodes import MIN_OPSET, activated, is_transposed, known_activation, linear_node, product


def standard_operators(
    op: Builder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None,
    residual: ir.Value | None,
    y: ir.Value,
) -> ir.Value:
    _, activation = known_activation(op, y)
    made = activated(op, product(op, x, weight, bias, is_transposed(y)), activation)
    return made if residual is None else op.Add(made, residual)


SPELL_LINEAR = Rule("spell-linear", (linear_node,), standard_operators, min_opset=MIN_OPSET)
