"""The linear form of damf's Maclaurin softmax where each query sees the keys up to its own position; no rule.

The positions are cut into chunks of 64. Within a chunk the weights are a product of [1,p/c] and [1,n] under a triangle;
what lies before it comes as the chunk's sum of [1,n]^T [v,1] over all chunks before, a cumulative sum of small ones.
Time and memory grow with the length. c, for each position, is made of the largest norms up to there: a running maximum,
which ONNX has no operator for, takes log2(length) steps of doubling reach in a Loop.

Numerics:  sums within a chunk and of chunks instead of one by one.
Source:    Hua et al. 2022, arXiv:2202.10447, section 3.3, for the chunks; Hillis and Steele 1986,
           doi:10.1145/7902.7903, for the doubling.
"""

import numpy as np
import onnx_ir as ir

from graphwright.engine.rewrite import Builder
from graphwright.passes.transform.damf_linear import SMALLEST_SUM, Factors
from graphwright.plugins.damf.reference import LEAST, MARGIN

# Positions that are weighted as a matrix. Longer ones cost products, shorter ones more and smaller calls.
CHUNK = 64


def causal(op: Builder, factors: Factors, values: ir.Value, size: int) -> ir.Value:
    """Return the attention [B,L,H*D].

    Shapes: both factors [B,L,H*(1+r)], head by head a column of 0 before p, and of 1 before n, which is zero throughout
        where the key is not valid; values [B,L,H*D], D is ``size``.
    """
    columns = factors.rank + 1
    length = op.Shape(values, start=1, end=2)
    missing = op.Mod(op.Neg(length), [CHUNK])
    left = _by_head(op, _padded(op, _normalized(op, factors), missing), factors.heads, columns, [0, 1, 3, 2, 4])
    right = _by_head(op, _padded(op, factors.keys, missing), factors.heads, columns, [0, 1, 3, 4, 2])
    # The 1 after each value adds up the weights; behind the end, where it also lands, the keys are 0.
    heads = op.Reshape(values, [0, 0, factors.heads, size])
    pads = op.Concat([0, 0, 0, 0, 0], missing, [0, 1], axis=0)
    padded = op.Pad(heads, pads, np.ones((), factors.dtype))
    given = _by_head(op, padded, factors.heads, size + 1, [0, 1, 3, 2, 4])
    triangle = np.tri(CHUNK, dtype=factors.dtype)
    within = op.MatMul(op.Mul(op.MatMul(left, right), triangle), given)
    before = op.CumSum(op.MatMul(right, given), np.asarray(1), exclusive=1)
    total = op.Add(within, op.MatMul(left, before))
    weighted, weight = op.Split(total, [size, 1], axis=-1, _outputs=2)
    result = op.Div(weighted, op.Max(weight, np.asarray(SMALLEST_SUM, factors.dtype)))
    flat = op.Reshape(op.Transpose(result, perm=[0, 1, 3, 2, 4]), [0, -1, factors.heads * size])
    cut: ir.Value = op.Slice(flat, [0], length, [1])
    return cut


def _padded(op: Builder, value: ir.Value, missing: ir.Value) -> ir.Value:
    """Return [B,L,N] with zeros behind its end."""
    padded: ir.Value = op.Pad(value, op.Concat([0, 0, 0, 0], missing, [0], axis=0))
    return padded


def _by_head(op: Builder, value: ir.Value, heads: int, size: int, perm: list[int]) -> ir.Value:
    """Return [B,n*C,H*N] as [B,n,H,C,N], or in another order."""
    by_head: ir.Value = op.Transpose(op.Reshape(value, [0, -1, CHUNK, heads, size]), perm=perm)
    return by_head


def _normalized(op: Builder, factors: Factors) -> ir.Value:
    """Return [1,p/c] head by head."""
    heads, rank, dtype = factors.heads, factors.rank, factors.dtype
    one_more = np.kron(np.eye(heads), np.eye(rank + 1)[:, 1:].sum(1)[:, None]).astype(dtype)
    norms = [_norms(op, value, one_more, rank) for value in (factors.queries, factors.keys)]
    largest = running_maximum(op, op.Concat(*norms, axis=2))
    queries, keys = op.Split(largest, [heads, heads], axis=2, _outputs=2)
    bound = op.Max(op.Mul(op.Mul(queries, keys), np.asarray(MARGIN, dtype)), np.asarray(LEAST, dtype))
    first = np.tile(np.eye(1, rank + 1), heads).astype(dtype)
    scales = op.MatMul(op.Reciprocal(bound), one_more.T.copy())
    # Here, not in the factors: a query that is not valid has zeros for p and still this 1.
    normalized: ir.Value = op.Add(op.Mul(factors.queries, scales), first)
    return normalized


def _norms(op: Builder, value: ir.Value, chosen: np.ndarray, rank: int) -> ir.Value:
    """Return the norm of each head's vectors, [B,L,H]; ``chosen`` adds up what belongs to a head."""
    if rank == 1:
        norms: ir.Value = op.MatMul(op.Abs(value), chosen)
        return norms
    root: ir.Value = op.Sqrt(op.MatMul(op.Mul(value, value), chosen))
    return root


def running_maximum(op: Builder, value: ir.Value) -> ir.Value:
    """Return the largest number up to each place of axis 1 of [B,L,N]; none is below zero."""
    length = op.Squeeze(op.Shape(value, start=1, end=2), [0])

    def double(inner: Builder, step: ir.Value, go_on: ir.Value, so_far: ir.Value, reach: ir.Value) -> list[ir.Value]:
        ahead = inner.Unsqueeze(reach, [0])
        pads = inner.Concat([0], ahead, [0, 0], inner.Neg(ahead), [0], axis=0)
        farther = inner.Add(reach, reach)
        return [inner.Less(farther, length), inner.Max(so_far, inner.Pad(so_far, pads)), farther]

    kinds = [ir.DataType.INT64, ir.DataType.BOOL, value.dtype, ir.DataType.INT64]
    shapes = [ir.Shape([]), ir.Shape([]), value.shape, ir.Shape([])]
    inputs = [
        ir.Value(name=None, type=ir.TensorType(kind), shape=None if shape is None else ir.Shape(list(shape)))
        for kind, shape in zip(kinds, shapes, strict=True)
        if kind is not None
    ]
    start = op.constant(np.asarray(1, np.int64), "reach")
    body = op.branch(double, inputs)
    largest, _ = op.Loop(None, op.Less(start, length), value, start, body=body, _outputs=2)
    largest.type, largest.shape = value.type, value.shape
    final: ir.Value = largest
    return final
