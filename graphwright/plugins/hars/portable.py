"""The HARS operators in ONNX's own operators, exact and fast: for runtimes without a kernel.

A long row is split in groups. The k largest elements lie in the k groups with the largest maxima, so only those
groups are ranked::

    x [.., V] - Pad - Reshape [.., G, s] - ReduceMax - TopK k - TopK k ascending - GatherND - TopK k - values, indices

Groups are visited by position, hence equal elements stay in the order of their indices. Sizes inside a row are static,
those in front of it may be dynamic. Padding is -inf behind the last element: it is never chosen, since k groups hold k
elements at least that precede it.

NaN. ONNX Runtime's ReduceMax and TopK lose NaN or not, by position. Its sums never do, so a sum that is needed anyway,
or one more of the row (3 us of 31 for a row of 128,256), decides by ``If`` between the form above and one that ranks by
a double key, as the function body does. The decision is made for all rows at once, yet both ways choose the same
elements, so a row's result does not depend on the others.

With ``exact=False`` the form must be no slower than Softmax and TopK. So probabilities are (Log)Softmax's, ranked after
rounding, by groups where that pays (``row_split.pays``) and without the choice: logits that differ and have the same
probability are ordered by index, and a row with NaN, or nothing but -inf, gives what the runtime makes of it.

How rows are cut, and which length takes which form: ``row_split.py``.

Source: Gaihre et al. 2021 (Dr. Top-k), arXiv:2109.08219; docs/design/0005-hars.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Builder
from graphwright.plugins.hars.row_split import Split, is_grouped, pays, split_row

FLOAT, DOUBLE, INT64 = ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64
# Stand for NaN and +inf in a key of doubles that hold float32: above all others, and in this order.
NAN_KEY, INFINITY_KEY = 1e308, 1e300
# Added to a sum that is 1 at least, or 0 for a row of -inf; it keeps the quotient and the logarithm finite there.
NO_ZERO = 1e-30

Pair = tuple[ir.Value, ir.Value]


def softmax_topk(
    op: Builder,
    logits: ir.Value,
    bias: ir.Value | None = None,
    *,
    k: int,
    axis: int = -1,
    mode: str = "logprob",
    temperature: float = 1.0,
    stats: bool = False,
    exact: bool = True,
) -> tuple[ir.Value, ...]:
    """Record ``softmax_topk`` in standard operators; return values, indices and, with stats, maximum and log_sum.

    Shapes: logits of known rank, with a static V of ``k`` at least on ``axis``; all other sizes may be dynamic.
    Dtypes: as ``meaning.softmax_topk``.
    """
    width, rank = facts.static_dim(logits, axis), facts.rank(logits)
    assert width is not None and rank is not None and k <= width, facts.describe(logits)
    axis %= rank
    is_last = axis == rank - 1
    x = _adjusted(op, logits, bias, temperature)
    if not is_last:
        x = op.Transpose(x, perm=[*range(axis), *range(axis + 1, rank), axis])
    is_summed = mode in ("logprob", "prob") or stats
    is_exact = exact or (pays(width, k) and not is_summed)
    row = _Row(x, rank - 1, width, k, is_summed, is_exact)
    split = split_row(width, k, is_summed=is_summed) if is_exact else None
    results = _short(op, row, mode, stats) if split is None else _long(op, row, split, mode, stats)
    values, indices, *rest = results
    if not is_last:
        back = [*range(axis), rank - 1, *range(axis, rank - 1)]
        values, indices = op.Transpose(values, perm=back), op.Transpose(indices, perm=back)
    return values, indices, *rest


@dataclass(frozen=True)
class _Row:
    """What is ranked: ``x`` with ``outer`` axes before the row."""

    x: ir.Value
    outer: int
    width: int
    k: int
    is_summed: bool
    exact: bool


def _adjusted(op: Builder, logits: ir.Value, bias: ir.Value | None, temperature: float) -> ir.Value:
    x = logits if logits.dtype == FLOAT else op.Cast(logits, to=FLOAT.value)
    x = x if bias is None else op.Add(x, bias)
    if np.float32(temperature) != 1:
        x = op.Mul(x, float(np.float32(1) / np.float32(temperature)))
    return x


def _short(op: Builder, row: _Row, mode: str, stats: bool) -> tuple[ir.Value, ...]:
    """A row as a whole: TopK, and (Log)Softmax for the sum."""
    if mode in ("prob", "logprob") and not row.exact and not stats:
        scores = op.Softmax(row.x, axis=-1) if mode == "prob" else op.LogSoftmax(row.x, axis=-1)
        return _ranked(op, replace(row, x=scores))
    probe = op.ReduceSum(row.x, keepdims=0) if row.exact else None
    best, indices = _select(op, row, probe, lambda inner: _ranked(inner, row))
    values = _own_values(op, best, mode, exact=row.exact)
    if not row.is_summed:
        return values, indices
    first = op.Slice(best, [0], [1], [-1]) if row.exact or stats else None
    is_empty = op.IsInf(first, detect_positive=0) if row.exact else None
    if mode == "prob":
        shares = op.GatherElements(op.Softmax(row.x, axis=-1), indices, axis=-1)
        values = shares if is_empty is None else op.Where(is_empty, 0.0, shares)
    if mode == "prob" and not stats:
        return values, indices
    logs = op.GatherElements(op.LogSoftmax(row.x, axis=-1), indices, axis=-1)
    if mode == "logprob":
        values = logs if is_empty is None else op.Where(is_empty, first, logs)
    if not stats:
        return values, indices
    # The first one is log(1 / sum). The maximum of an empty row is -inf, and so is its sum's logarithm.
    log_sum = op.Neg(op.Slice(logs, [0], [1], [-1]))
    log_sum = log_sum if is_empty is None else op.Where(is_empty, first, log_sum)
    return values, indices, op.Squeeze(first, [-1]), op.Squeeze(log_sum, [-1])


def _long(op: Builder, row: _Row, split: Split, mode: str, stats: bool) -> tuple[ir.Value, ...]:
    """A row in groups: for the ranking where that pays, and for the sum."""
    wide, members, tops = _grouped(op, row, split)
    shape, last = [0] * row.outer + [split.groups, split.size], row.outer + 1
    base = total = None
    if row.is_summed:
        # A row of -inf has this base, and the sum 0.
        base = op.Max(op.ReduceMax(tops, [row.outer], keepdims=1), float(np.finfo(np.float32).min))
        parts = op.ReduceSum(op.Reshape(op.Exp(op.Sub(wide, base)), shape), [last], keepdims=0)
        total = op.ReduceSum(op.Cast(parts, to=DOUBLE.value), [row.outer], keepdims=1)
    parts = total if total is not None else op.ReduceSum(members, [last], keepdims=0)
    probe = op.ReduceSum(parts, keepdims=0)

    def ranked(inner: Builder) -> Pair:
        if is_grouped(row.width, row.k):
            return _by_groups(inner, members, tops, row, split.size)
        best, indices = inner.TopK(row.x, [row.k], _outputs=2)
        return best, indices

    best, indices = _select(op, row, probe, ranked)
    if base is None or total is None:
        return _own_values(op, best, mode), indices
    values = _shares(op, best, base, total, mode)
    if not stats:
        return values, indices
    maximum = op.Squeeze(op.Slice(best, [0], [1], [-1]), [-1])
    return values, indices, maximum, op.Squeeze(op.Cast(op.Log(total), to=FLOAT.value), [-1])


def _grouped(op: Builder, row: _Row, split: Split) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return the row with its padding, its groups [..., G, s], and their maxima [..., G]."""
    padding = split.groups * split.size - row.width
    wide = op.Pad(row.x, [0] * (2 * row.outer + 1) + [padding], -math.inf) if padding else row.x
    members = op.Reshape(wide, [0] * row.outer + [split.groups, split.size])
    # Counted from the front: of an empty batch ONNX Runtime 1.31.1 reduces no axis that is counted from the end.
    return wide, members, op.ReduceMax(members, [row.outer + 1], keepdims=0)


def _ranked(op: Builder, row: _Row) -> Pair:
    """A row as it is, NaN or not: by groups where that pays, else by TopK."""
    split = None if row.exact or not pays(row.width, row.k) else split_row(row.width, row.k, is_summed=False)
    if split is None:
        best, indices = op.TopK(row.x, [row.k], _outputs=2)
        return best, indices
    _, members, tops = _grouped(op, row, split)
    return _by_groups(op, members, tops, row, split.size)


def _select(op: Builder, row: _Row, probe: ir.Value | None, ranked: Callable[[Builder], Pair]) -> Pair:
    """Return the selected and their indices: as ``ranked`` has it, or by the key where the probe is NaN.

    The probe is NaN for other causes too, such as infinities of both signs. Then the key takes longer, and that is all.
    """
    if probe is None:
        return ranked(op)
    best, indices = op.If(
        op.IsNaN(probe),
        then_branch=op.branch(lambda inner: _by_key(inner, row)),
        else_branch=op.branch(ranked),
        _outputs=2,
    )
    sizes = [] if row.x.shape is None else list(row.x.shape)[:-1]
    for value, dtype in ((best, FLOAT), (indices, INT64)):
        value.type, value.shape = ir.TensorType(dtype), ir.Shape([*sizes, row.k])
    return best, indices


def _by_key(op: Builder, row: _Row) -> Pair:
    _, indices = op.TopK(key_of(op, row.x), [row.k], _outputs=2)
    return op.GatherElements(row.x, indices, axis=-1), indices


def key_of(op: Builder, x: ir.Value) -> ir.Value:
    """Return doubles that order like ``x``, NaN first and all of them equal."""
    finite = op.Where(op.IsInf(x, detect_negative=0), INFINITY_KEY, op.Cast(x, to=DOUBLE.value))
    key: ir.Value = op.Where(op.IsNaN(x), NAN_KEY, finite)
    return key


def _by_groups(op: Builder, members: ir.Value, tops: ir.Value, row: _Row, size: int) -> Pair:
    """Rank the groups with the largest maxima only."""
    if row.k == 1:
        _, group = op.TopK(tops, [1], _outputs=2)
        best, place = op.TopK(op.GatherND(members, group, batch_dims=row.outer), [1], _outputs=2)
        return best, op.Add(op.Mul(group, [size]), place)
    _, found = op.TopK(tops, [row.k], sorted=0, _outputs=2)
    groups, _ = op.TopK(found, [row.k], largest=0, _outputs=2)
    chosen = op.GatherND(members, op.Unsqueeze(groups, [-1]), batch_dims=row.outer)
    candidates = op.Reshape(chosen, [0] * row.outer + [row.k * size])
    best, place = op.TopK(candidates, [row.k], _outputs=2)
    # index = groups[slot] * size + place % size = (groups[slot] - slot) * size + place
    slot = op.Div(place, [size])
    skipped = op.Sub(op.GatherElements(groups, slot, axis=-1), slot)
    return best, op.Add(op.Mul(skipped, [size]), place)


def _own_values(op: Builder, best: ir.Value, mode: str, *, exact: bool = True) -> ir.Value:
    """The values of the modes that need no sum over the row."""
    if mode != "prob_renorm":
        return best
    values: ir.Value = op.Softmax(best, axis=-1)
    if not exact:
        return values
    is_empty = op.IsInf(op.Slice(best, [0], [1], [-1]), detect_positive=0)
    values = op.Where(is_empty, 0.0, values)
    return values


def _shares(op: Builder, best: ir.Value, base: ir.Value, total: ir.Value, mode: str) -> ir.Value:
    if mode not in ("logprob", "prob"):
        return _own_values(op, best, mode)
    distance = op.Sub(best, base)
    total = op.Add(total, NO_ZERO)
    if mode == "logprob":
        values: ir.Value = op.Sub(distance, op.Cast(op.Log(total), to=FLOAT.value))
        return values
    values = op.Div(op.Exp(distance), op.Cast(total, to=FLOAT.value))
    return values
