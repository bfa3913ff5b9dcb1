"""Fuse a matrix product and the bias behind it into ``Gemm``.

Before:                                  After:
    a --+                                    a, b, bias -- Gemm -- y
    b --+-- MatMul -- + bias -- y

The product may be a Gemm without a third input already: its alpha, transA and transB stay.

Shapes:    a [M, K], b [K, N], rank 2 and nothing else (Gemm flattens no axes); bias broadcasts to [M, N]
           axis by axis, each size 1 or the same number or name, so that y stays [M, N].
Dtypes:    float16, bfloat16, float32, float64. Integers wrap around in MatMul but pass through alpha and
           beta, which are floats, in Gemm.
Refuses:   DTYPE unknown or not listed; UNKNOWN rank or size; RANK of a or b not 2, of bias above 2; SHAPE
           of a bias that does not broadcast to [M, N]; ATTRIBUTE alpha or a transposition that a function's
           caller sets; SHARED and GRAPH_OUTPUT interior values.
Numerics:  same formula; a backend may add the bias before the last rounding.
Source:    ONNX operator Gemm-13.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require

FLOATS = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE}


def product_and_bias(op: PatternOps, a: Var, b: Var, bias: Var) -> Op:
    total: Op = op.Add(op.MatMul(a, b), bias)
    return total


def gemm_and_bias(op: PatternOps, a: Var, b: Var, bias: Var) -> Op:
    product = op.Gemm(a, b, alpha=op.attr("alpha"), transA=op.attr("trans_a"), transB=op.attr("trans_b"))
    total: Op = op.Add(product, bias)
    return total


def gemm(
    op: Builder,
    a: ir.Value,
    b: ir.Value,
    bias: ir.Value,
    alpha: float | None = 1.0,
    trans_a: int | None = 0,
    trans_b: int | None = 0,
) -> ir.Value:
    require(a.dtype in FLOATS, Reason.DTYPE, f"{facts.describe(a)}; fused for floats only")
    for matrix in (a, b):
        require(
            facts.rank(matrix) is not None,
            Reason.UNKNOWN,
            f"the rank of {facts.describe(matrix)} is not known",
        )
        require(facts.rank(matrix) == 2, Reason.RANK, f"{facts.describe(matrix)} has not 2 axes")
    given = None not in (alpha, trans_a, trans_b)
    require(given, Reason.ATTRIBUTE, "an attribute of Gemm comes from the caller of the function")
    _require_fits(bias, facts.dim(a, 1 if trans_a else 0), facts.dim(b, 0 if trans_b else 1))
    # Attributes at their defaults are left out.
    fused: ir.Value = op.Gemm(
        a, b, bias, alpha=None if alpha == 1.0 else alpha, transA=trans_a or None, transB=trans_b or None
    )
    return fused


def _require_fits(bias: ir.Value, rows: facts.Dim | None, columns: facts.Dim | None) -> None:
    count = facts.rank(bias)
    detail = f"{facts.describe(bias)} added to [{rows or '?'}, {columns or '?'}]"
    require(count is not None, Reason.UNKNOWN, detail)
    assert count is not None
    require(count <= 2, Reason.RANK, detail)
    for axis, size in ((-1, columns), (-2, rows))[:count]:
        own = facts.dim(bias, axis)
        if own == 1:
            continue
        require(own is not None and size is not None, Reason.UNKNOWN, detail)
        require(facts.same_dim(own, size), Reason.SHAPE, detail)


FUSE_GEMM_BIAS = Rule("fuse-gemm-bias", (product_and_bias, gemm_and_bias), gemm)
