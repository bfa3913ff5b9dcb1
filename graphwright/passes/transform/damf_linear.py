"""The linear form of damf's Maclaurin softmax, in standard operators; no rule.

With p [S,r] and n [T,r], zero where a key is not valid, 1 for each valid key, and c above every |p_m n_k|:

    y_m = (sum_k v_k + p_m (n^T v) / c) / (count + p_m (n^T 1) / c)

Heads stay side by side. One product with all values serves all heads, and a mask of blocks takes what belongs to each:
more sums than needed, in few large products without transposed heads, which is faster as long as H * (r + 1) is not far
above the width of the values. Where it is below, the order of products changes too: n^T (x W) is (n^T x) W, and the
product with the matrix that follows the attention is made before it is multiplied by what is as long as the queries.

Numerics:  c is a factor of the sums over keys, not of each row; sums in the backend's order.
Source:    Katharopoulos et al. 2020, arXiv:2006.16236, for the order of sums; plugins/damf/reference.py for c.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphwright.engine.rewrite import Builder
from graphwright.passes.transform.damf_projections import Projection
from graphwright.plugins.damf.reference import LEAST, MARGIN

# The least sum of weights that is divided by: a row without a valid key has 0 over this.
SMALLEST_SUM = 1e-30


@dataclass(frozen=True)
class Values:
    """What is weighted: [B,T,H*D] as it is, and the projection that makes it, where it is known."""

    value: ir.Value | None
    projection: Projection | None
    width: int

    def spelled(self, op: Builder) -> ir.Value:
        """Return the values [B,T,width]."""
        if self.value is not None:
            return self.value
        assert self.projection is not None
        return self.projection.spelled(op)


@dataclass(frozen=True)
class Factors:
    """p [B,S,H*r], and [1,n] [B,T,1+H*r] that is zero where a key is not valid; head by head."""

    queries: ir.Value
    keys: ir.Value
    heads: int
    rank: int
    is_masked: bool

    @property
    def dtype(self) -> np.dtype:
        """The type of all numbers."""
        assert self.queries.dtype is not None
        return self.queries.dtype.numpy()

    @property
    def width(self) -> int:
        """H * r."""
        return self.heads * self.rank

    def ones(self, rows: int, columns: int) -> np.ndarray:
        """Return a block matrix of ones, [H*rows, H*columns]."""
        return np.kron(np.eye(self.heads), np.ones((rows, columns))).astype(self.dtype)


def linear(op: Builder, factors: Factors, values: Values, following: ir.Value | None, following_size: int) -> ir.Value:
    """Return the attention, times the matrix [H*D,N] that follows it, if one is given.

    Shapes: result [B,S,H*D] or [B,S,N].
    """
    narrow = factors.heads * (factors.rank + 1)
    inverse = op.Reciprocal(_bound(op, factors))
    scales = op.MatMul(inverse, np.hstack([np.zeros((factors.heads, 1), factors.dtype), factors.ones(1, factors.rank)]))
    scales = op.Add(scales, np.eye(1, 1 + factors.width, dtype=factors.dtype))
    counts = op.Mul(op.ReduceSum(factors.keys, [1], keepdims=1), scales)
    sums = _sums(op, factors, values, scales, counts, narrow)
    rows = [0] * factors.heads + list(range(1, 1 + factors.width))
    size = values.width // factors.heads
    blocks = np.vstack([factors.ones(1, size), factors.ones(factors.rank, size)])
    right = op.Mul(op.Gather(sums, rows, axis=1), blocks)
    left = _left(op, factors, counts)
    if following is None:
        result: ir.Value = op.MatMul(left, right)
    elif 2 * narrow <= min(values.width, following_size):
        result = op.MatMul(left, op.MatMul(right, following))
    else:
        result = op.MatMul(op.MatMul(left, right), following)
    return result


def _bound(op: Builder, factors: Factors) -> ir.Value:
    """Return c [B,1,H]."""
    queries = _largest(op, factors.queries, factors, 0)
    keys = _largest(op, factors.keys, factors, 1)
    product = op.Mul(op.Mul(queries, keys), np.asarray(MARGIN, factors.dtype))
    bound: ir.Value = op.Max(product, np.asarray(LEAST, factors.dtype))
    return bound


def _largest(op: Builder, value: ir.Value, factors: Factors, skipped: int) -> ir.Value:
    """Return the largest norm of each head's vectors, [B,1,H]; the first columns may be skipped."""
    if factors.rank == 1:
        largest: ir.Value = op.ReduceMax(op.Abs(value), [1], keepdims=1)
        return op.Slice(largest, [skipped], [skipped + factors.heads], [2]) if skipped else largest
    root: ir.Value = op.Sqrt(op.ReduceMax(squared_norms(op, value, factors, skipped), [1], keepdims=1))
    return root


def squared_norms(op: Builder, value: ir.Value, factors: Factors, skipped: int) -> ir.Value:
    """Return the sum of squares of each head's vectors, [B,L,H]."""
    chosen = np.vstack([np.zeros((skipped, factors.heads), factors.dtype), factors.ones(factors.rank, 1)])
    squares: ir.Value = op.MatMul(op.Mul(value, value), chosen)
    return squares


def _sums(op: Builder, factors: Factors, values: Values, scales: ir.Value, counts: ir.Value, narrow: int) -> ir.Value:
    """Return [1,n/c]^T v for all heads' n and all heads' v, [B,1+H*r,H*D]."""
    across = op.Transpose(factors.keys, perm=[0, 2, 1])
    column = op.Transpose(scales, perm=[0, 2, 1])
    project = values.projection
    if project is None or 2 * narrow > min(values.width, project.inputs):
        plain: ir.Value = op.Mul(op.MatMul(across, values.spelled(op)), column)
        return plain
    of_inputs = op.Mul(op.MatMul(across, project.x), column)
    sums: ir.Value = op.MatMul(of_inputs, project.weight_value(op))
    bias = project.offset()
    if bias is None:
        return sums
    # Not a broadcast Mul: a product of a column and a row is one call.
    with_bias: ir.Value = op.Add(
        sums, op.MatMul(op.Transpose(counts, perm=[0, 2, 1]), bias.astype(factors.dtype)[None])
    )
    return with_bias


def _left(op: Builder, factors: Factors, counts: ir.Value) -> ir.Value:
    """Return [w, w p] with w one over each row's sum of weights, [B,S,H+H*r]."""
    count = op.Slice(counts, [0], [1], [2])
    of_keys = op.Slice(counts, [1], [1 + factors.width], [2])
    if factors.rank == 1:
        total = op.Add(op.Mul(factors.queries, of_keys), count)
    else:
        blocks = op.Mul(op.Transpose(of_keys, perm=[0, 2, 1]), factors.ones(factors.rank, 1))
        total = op.Add(op.MatMul(factors.queries, blocks), count)
    if factors.is_masked:
        total = op.Max(total, np.asarray(SMALLEST_SUM, factors.dtype))
    weight = op.Reciprocal(total)
    spread = weight if factors.rank == 1 else op.MatMul(weight, factors.ones(1, factors.rank))
    left: ir.Value = op.Concat(weight, op.Mul(factors.queries, spread), axis=-1)
    return left
