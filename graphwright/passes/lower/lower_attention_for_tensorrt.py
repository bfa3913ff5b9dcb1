"""Spell ``Attention`` as products and a softmax, the scale on the queries, as TensorRT finds and fuses attention.

Before:                     After:
    q   k   v   mask            q [B,H,S,D] - * scale ---+
    |   |   |    |              k [B,H,T,D] - Transpose -+- MatMul - + mask - Softmax -+
    Attention<scale>            v [B,H,T,E] -------------------------------------------+- MatMul - y
         |
         y

TensorRT's parser knows ``Attention``, and makes of it one fused kernel or fails: whether it may fall back to several
is an attribute of the parser's own that an ONNX model cannot carry. In float32 there is no fused kernel. Written out,
the same layer is fused where there is a kernel and built where there is none; for that the scale has to be on the
queries. Masks, rows without a key, soft caps and grouped heads are as in ``lower-attention``.

Shapes:    those of ``lower-attention``.
Dtypes:    float16, bfloat16, float32, float64.
Refuses:   what ``lower-attention`` refuses; ``expand-definitions`` writes that out.
Numerics:  same formula; the queries are scaled, which rounds each once.
Source:    ONNX operator Attention-24, its function body; TensorRT documentation, "Fused Attention", second method;
           NVIDIA/TensorRT issues 4705 and 4739 for engines that the operator itself keeps from being built.
"""

from typing import Any

import onnx_ir as ir

from graphwright.engine.rewrite import Builder, Rule
from graphwright.passes.lower.lower_attention import attention, products_and_softmax


def scaled_queries(op: Builder, _lengths: ir.Value | None = None, **bound: Any) -> ir.Value:
    return products_and_softmax(op, **bound, scale_queries=True)


LOWER_ATTENTION_FOR_TENSORRT = Rule("lower-attention-for-tensorrt", (attention,), scaled_queries, min_opset=23)
