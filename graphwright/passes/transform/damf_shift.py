"""damf's softmax of powers of two, eq. 15-17 element by element, in standard operators; no rule.

Scores, their largest size c and each row's sum of weights are rounded to powers of two, so that hardware needs shifts
and additions alone. This is for studies of such hardware: on a CPU the S x T matrix and the rounding cost more than the
exact softmax.

Numerics:  every product is exact, as one factor is a power of two; sums in the backend's order.
Source:    Yang et al., "Hardware Friendly Transformer Optimization with Dynamic Attention Matrix Fusion", eq. 15-17;
           plugins/damf/reference.py for signs, masks and causality.
"""

import math

import numpy as np
import onnx_ir as ir

from graphwright.engine.rewrite import Builder
from graphwright.passes.transform.damf_linear import Factors
from graphwright.plugins.damf.reference import LEAST

# Numbers below 2^-100 are multiplied by 2^100 first: logarithms of the smallest ones are not to be trusted.
_SMALL, _LIFT = 2.0**-100, 100


def shift(
    op: Builder, factors: Factors, values: ir.Value, size: int, valid: ir.Value | None, is_causal: bool
) -> ir.Value:
    """Return the attention [B,S,H*D].

    Shapes: factors.queries [B,S,H*r], factors.keys [B,T,H*r], values [B,T,H*D], valid [B|1,T,1] as 1 and 0.
    """
    number = _numbers(factors.dtype)
    queries = _heads(op, factors.queries, factors.heads, factors.rank, [0, 2, 1, 3])
    keys = _heads(op, factors.keys, factors.heads, factors.rank, [0, 2, 3, 1])
    given = _heads(op, values, factors.heads, size, [0, 2, 1, 3])
    scores = op.MatMul(queries, keys)
    allowed = _allowed(op, scores, valid, is_causal, factors.dtype)
    largest = _largest(op, op.Mul(op.Abs(scores), allowed), is_causal, factors.dtype)
    bound = power_of_two(op, op.Max(largest, number(LEAST)))
    rounded = op.Mul(power_of_two(op, scores), allowed)
    total = op.Add(op.Mul(bound, op.MatMul(allowed, given)), op.MatMul(rounded, given))
    counts = op.ReduceSum(allowed, [3], keepdims=1)
    rows = power_of_two(op, op.Add(op.Mul(bound, counts), op.ReduceSum(rounded, [3], keepdims=1)))
    is_empty = op.Equal(rows, number(0.0))
    result = op.Where(is_empty, number(0.0), op.Div(total, op.Where(is_empty, number(1.0), rows)))
    flat: ir.Value = op.Reshape(op.Transpose(result, perm=[0, 2, 1, 3]), [0, 0, factors.heads * size])
    return flat


def power_of_two(op: Builder, value: ir.Value) -> ir.Value:
    """Return ``sign(x) * 2^round(log2 |x|)``, exact for every float.

    ONNX has no operator for a float's exponent. The logarithm gives it up to one; the quotient with that power of two,
    which is exact, tells which. Powers come from a table, because Pow need not be exact.
    """
    assert value.dtype is not None
    dtype = value.dtype.numpy()
    number, info = _numbers(dtype), np.finfo(dtype)
    lowest, highest = int(info.minexp) - int(info.nmant), int(info.maxexp)
    with np.errstate(over="ignore"):
        powers = np.ldexp(np.ones((), dtype), np.arange(lowest, highest + 1)).astype(dtype)
    sizes = op.Abs(value)
    is_small = op.Less(sizes, number(_SMALL))
    lifted = op.Mul(sizes, op.Where(is_small, number(2.0**_LIFT), number(1.0)))
    logarithm = op.Floor(op.Mul(op.Log(op.Max(lifted, number(float(info.tiny)))), number(1 / math.log(2))))
    guess = op.Clip(
        op.Cast(logarithm, to=ir.DataType.INT64.value), np.asarray(int(info.minexp)), np.asarray(highest - 1)
    )
    fraction = op.Div(lifted, op.Gather(powers, op.Sub(guess, np.asarray(lowest)), axis=0))
    # The nearest power is the next where the fraction is above its root; no float is a root of 2^(odd number).
    least = [_above(math.sqrt(0.5) * 2.0**step, dtype) for step in (0, 1, 2)]
    steps = [op.Cast(op.GreaterOrEqual(fraction, number(each)), to=ir.DataType.INT64.value) for each in least]
    exponent = op.Add(op.Add(op.Sub(guess, np.asarray(1)), steps[0]), op.Add(steps[1], steps[2]))
    lowered = op.Sub(exponent, op.Where(is_small, np.asarray(_LIFT), np.asarray(0)))
    place = op.Sub(op.Clip(lowered, np.asarray(lowest), np.asarray(highest)), np.asarray(lowest))
    result: ir.Value = op.Mul(op.Sign(value), op.Gather(powers, place, axis=0))
    return result


def _above(number: float, dtype: np.dtype) -> float:
    """Return the least number of a type that is not below a float64."""
    nearest = dtype.type(number)
    return float(nearest if float(nearest) >= number else np.nextafter(nearest, dtype.type(np.inf)))


def _numbers(dtype: np.dtype):  # type: ignore[no-untyped-def]
    return lambda number: np.asarray(number, dtype)


def _heads(op: Builder, value: ir.Value, heads: int, size: int, perm: list[int]) -> ir.Value:
    apart: ir.Value = op.Transpose(op.Reshape(value, [0, 0, heads, size]), perm=perm)
    return apart


def _allowed(op: Builder, scores: ir.Value, valid: ir.Value | None, is_causal: bool, dtype: np.dtype) -> ir.Value:
    """Return 1 where a query sees a key and 0 elsewhere, [B|1,1,S,T]."""
    lengths = op.Shape(scores, start=2, end=4)
    all_ones = op.Expand(np.ones((1, 1, 1, 1), dtype), lengths)
    allowed: ir.Value = op.Trilu(all_ones, upper=0) if is_causal else all_ones
    if valid is None:
        return allowed
    both: ir.Value = op.Mul(allowed, op.Unsqueeze(op.Transpose(valid, perm=[0, 2, 1]), [1]))
    return both


def _largest(op: Builder, sizes: ir.Value, is_causal: bool, dtype: np.dtype) -> ir.Value:
    """Return the largest of a head's sizes, [B,H,1,1], or of those up to each position, [B,H,S,1]."""
    if not is_causal:
        largest: ir.Value = op.ReduceMax(sizes, [2, 3], keepdims=1)
        return largest
    of_rows = op.ReduceMax(sizes, [3], keepdims=0)
    square = op.Expand(op.Unsqueeze(of_rows, [2]), op.Shape(sizes))
    running: ir.Value = op.ReduceMax(op.Trilu(square, upper=0), [3], keepdims=1)
    return running
