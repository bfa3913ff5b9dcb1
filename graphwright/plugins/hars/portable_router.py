"""``router_topk`` in ONNX's own operators: Softmax or Sigmoid, TopK, GatherElements, and what the options ask for.

Rows are short (experts), so there are no groups as in ``portable.py`` but those of DeepSeek-V3. What costs is the
number of operators: scores that are ranked by themselves and renormalized need no softmax over all experts, since

    softmax(scores)[chosen] / sum(softmax(scores)[chosen]) = softmax(scores[chosen])

With ``exact`` the ranking goes by a double key where a sum over all keys is NaN (``If``), weights that are NaN become
0, and sums are taken in float64: the numbers of the function body. Without, a row with NaN, with +inf, or with nothing
but -inf gives what the runtime's operators make of it, as the routers of transformers do.

Source: DeepSeek-V3, arXiv:2412.19437, section 2.1.2; LongCat-Flash, arXiv:2509.01322, section 2.1.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Builder
from graphwright.plugins.hars.body_text import SMALLEST_SUM
from graphwright.plugins.hars.portable import FLOAT, INT64, key_of


@dataclass(frozen=True)
class _Ranking:
    """How experts are chosen."""

    k: int
    experts: int
    groups: int
    top_groups: int


def router_topk(
    op: Builder,
    scores: ir.Value,
    bias: ir.Value | None = None,
    *,
    k: int,
    scoring: str = "softmax",
    renormalize: bool = False,
    scale: float = 1.0,
    zero_experts: int = 0,
    scale_zero_experts: bool = True,
    groups: int = 1,
    top_groups: int = 1,
    exact: bool = True,
) -> tuple[ir.Value, ...]:
    """Record ``router_topk`` in standard operators; return weights, experts and, with zero experts, their weight.

    Shapes: scores of known rank with a static number of experts on the last axis; all other sizes may be dynamic.
    Dtypes: as ``meaning.router_topk``.
    """
    experts = facts.static_dim(scores, -1)
    assert experts is not None and k <= experts, facts.describe(scores)
    ranking = _Ranking(k, experts, groups, top_groups)
    x = scores if scores.dtype == FLOAT else op.Cast(scores, to=FLOAT.value)
    if bias is None and groups == 1:
        best, chosen = _choose(op, x, x, ranking, exact)
        plain = _weights_of(op, x, best, chosen, scoring, renormalize, exact)
    else:
        shares = op.Softmax(x, axis=-1) if scoring == "softmax" else _sigmoid(op, x, exact)
        _, chosen = _choose(op, x, shares if bias is None else op.Add(shares, bias), ranking, exact)
        plain = op.GatherElements(shares, chosen, axis=-1)
        plain = _renormalized(op, plain, exact) if renormalize else plain
    scaled = plain if scale == 1.0 else op.Mul(plain, float(scale))
    if not zero_experts:
        return (_clean(op, scaled) if exact else scaled), chosen
    is_identity = op.GreaterOrEqual(chosen, [experts - zero_experts])
    weights = scaled if scale_zero_experts else op.Where(is_identity, plain, scaled)
    weights = _clean(op, weights) if exact else weights
    identity_weight = _sum(op, op.Where(is_identity, weights, 0.0), exact, keepdims=0)
    return op.Where(is_identity, 0.0, weights), op.Where(is_identity, [-1], chosen), identity_weight


def _sigmoid(op: Builder, x: ir.Value, exact: bool) -> ir.Value:
    # ONNX Runtime's own Sigmoid is 1.5e-8 for all numbers below -18.
    shares: ir.Value = op.Reciprocal(op.Add(op.Exp(op.Neg(x)), 1.0)) if exact else op.Sigmoid(x)
    return shares


def _weights_of(
    op: Builder, x: ir.Value, best: ir.Value, chosen: ir.Value, scoring: str, renormalize: bool, exact: bool
) -> ir.Value:
    """The weights of experts that were ranked by their own scores."""
    if scoring == "sigmoid":
        weights = _sigmoid(op, best, exact)
        return _renormalized(op, weights, exact) if renormalize else weights
    if renormalize:  # the k largest shares add up to k / E at least: nothing of the smallest sum is left in float32
        shares: ir.Value = op.Softmax(best, axis=-1)
        return shares
    shares = op.GatherElements(op.Softmax(x, axis=-1), chosen, axis=-1)
    return shares


def _renormalized(op: Builder, weights: ir.Value, exact: bool) -> ir.Value:
    quotient: ir.Value = op.Div(weights, op.Add(_sum(op, weights, exact, keepdims=1), SMALLEST_SUM))
    return quotient


def _sum(op: Builder, parts: ir.Value, exact: bool, *, keepdims: int) -> ir.Value:
    wide = op.Cast(parts, to=ir.DataType.DOUBLE.value) if exact else parts
    # Counted from the front: of an empty batch ONNX Runtime 1.31.1 reduces no axis that is counted from the end.
    total = op.ReduceSum(wide, [(facts.rank(parts) or 1) - 1], keepdims=keepdims)
    summed: ir.Value = op.Cast(total, to=FLOAT.value) if exact else total
    return summed


def _clean(op: Builder, weights: ir.Value) -> ir.Value:
    cleaned: ir.Value = op.Where(op.IsNaN(weights), 0.0, weights)
    return cleaned


def _choose(op: Builder, x: ir.Value, key: ir.Value, ranking: _Ranking, exact: bool) -> tuple[ir.Value, ir.Value]:
    """Return the largest keys and their experts; NaN first where it is safe to have any."""
    if not exact:
        return _ranked(op, key, ranking, by_key=False)
    best, chosen = op.If(
        op.IsNaN(op.ReduceSum(key, keepdims=0)),
        then_branch=op.branch(lambda inner: _ranked(inner, key, ranking, by_key=True)),
        else_branch=op.branch(lambda inner: _ranked(inner, key, ranking, by_key=False)),
        _outputs=2,
    )
    sizes = [] if x.shape is None else list(x.shape)[:-1]
    for value, dtype in ((best, FLOAT), (chosen, INT64)):
        value.type, value.shape = ir.TensorType(dtype), ir.Shape([*sizes, ranking.k])
    return best, chosen


def _ranked(op: Builder, key: ir.Value, ranking: _Ranking, *, by_key: bool) -> tuple[ir.Value, ir.Value]:
    if ranking.groups > 1:
        key = _with_open_groups(op, key, ranking, by_key=by_key)
    best, chosen = op.TopK(key_of(op, key) if by_key else key, [ranking.k], _outputs=2)
    return (op.GatherElements(key, chosen, axis=-1) if by_key else best), chosen


def _with_open_groups(op: Builder, key: ir.Value, ranking: _Ranking, *, by_key: bool) -> ir.Value:
    """Return the keys with -inf outside the groups whose two largest keys add up to the most."""
    outer = (facts.rank(key) or 1) - 1
    split = op.Reshape(key, [0] * outer + [ranking.groups, ranking.experts // ranking.groups])
    pair, members = op.TopK(key_of(op, split) if by_key else split, [2], _outputs=2)
    pair = op.GatherElements(split, members, axis=-1) if by_key else pair
    sums = op.ReduceSum(pair, [outer + 1], keepdims=0)
    _, best = op.TopK(key_of(op, sums) if by_key else sums, [ranking.top_groups], _outputs=2)
    numbers = op.constant(np.arange(ranking.groups)[:, None], "groups")
    # [.., groups, top_groups]: each group against each of the best
    is_best = op.Cast(op.Equal(numbers, op.Unsqueeze(best, [-2])), to=FLOAT.value)
    is_open = op.Cast(op.ReduceMax(is_best, [outer + 1], keepdims=1), to=ir.DataType.BOOL.value)
    kept = op.Where(is_open, split, -math.inf)
    joined: ir.Value = op.Reshape(kept, [0] * outer + [ranking.experts])
    return joined
