"""Fuse a product, its transposed operand and its scale into ONNX Runtime's ``FusedMatMul``.

Before:                                                  After:
    b -- Transpose last two axes --+                         a --+
    a -----------------------------+-- MatMul -- * s -- y    b --+-- FusedMatMul<alpha=s, transB=1> -- y

Shapes:    a [..., M, K], b [..., K, N] or, transposed, [..., N, K].
Dtypes:    float32 (the CPU provider has no other kernel).
Refuses:   OPSET below 13; DTYPE other than float32; ATTRIBUTE a permutation that is not given as the swap of
           the last two axes; RANK a number of more axes than the product is known to have; SHARED and
           GRAPH_OUTPUT interior values.
Numerics:  the scale is applied inside the product.
Source:    ONNX Runtime, ContribOperators.md, com.microsoft.FusedMatMul.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Checked, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.lower.ort_capabilities import CPU, CUDA, types

FLOATS = types("com.microsoft.FusedMatMul", CPU, CUDA)


def _number(op: PatternOps, times: Var) -> Checked:
    return op.check(times, "a constant number", lambda value: facts.scalar(value) is not None)


def transposed_and_scaled(op: PatternOps, a: Var, b: Var, times: Var) -> Op:
    node: Op = op.Mul(op.named("product", transposed(op, a, b)), _number(op, times))
    return node


def scaled(op: PatternOps, a: Var, b: Var, times: Var) -> Op:
    node: Op = op.Mul(op.named("product", op.MatMul(a, b)), _number(op, times))
    return node


def transposed(op: PatternOps, a: Var, b: Var) -> Op:
    node: Op = op.MatMul(a, op.named("swapped", op.Transpose(b, perm=op.attr("perm"))))
    return node


def fused(
    op: Builder,
    a: ir.Value,
    b: ir.Value,
    times: ir.Value | None,
    product: ir.Value | None,
    swapped: ir.Value | None,
    perm: tuple[int, ...] | None,
) -> ir.Value:
    require(a.dtype in FLOATS, Reason.DTYPE, f"{a.name} is {a.dtype}; FusedMatMul runs in float32 here")
    if swapped is not None:
        count = len(perm or ())
        swap = (*range(count - 2), count - 1, count - 2)
        require(
            count > 1 and perm == swap,
            Reason.ATTRIBUTE,
            f"the permutation is {perm}; needs the last two swapped",
        )
    if times is not None:
        fits = (facts.rank(times) or 0) <= (facts.rank(product) or 0)
        require(fits, Reason.RANK, f"{facts.describe(times)} may have more axes than {facts.describe(product)}")
    result: ir.Value = op.FusedMatMul(
        a, b, alpha=facts.scalar(times), transB=None if swapped is None else 1, _domain="com.microsoft"
    )
    return result


FUSE_SCALED_MATMUL = Rule("fuse-scaled-matmul", (transposed_and_scaled, scaled, transposed), fused)
