"""What damf reads of one attention before it changes anything, and the nodes it puts in its place; no rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.rewrite import Builder, Reason, Refusal, require
from graphwright.errors import PipelineError
from graphwright.passes.attention import require_same
from graphwright.passes.transform.damf_causal import causal
from graphwright.passes.transform.damf_linear import Factors, Values, linear
from graphwright.passes.transform.damf_masks import Mask, read_mask, valid_keys
from graphwright.passes.transform.damf_projections import Projection, heads_together, projection
from graphwright.passes.transform.damf_shift import shift
from graphwright.plugins.damf.factors import factorize

FLOATS = {
    "exact": {ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE},
    "maclaurin": {ir.DataType.FLOAT, ir.DataType.DOUBLE},
    "shift": {ir.DataType.FLOAT, ir.DataType.DOUBLE},
}


@dataclass(frozen=True)
class Layer:
    """One attention: its projections, sizes and mask."""

    node: ir.Node
    query: Projection
    key: Projection
    values: ir.Value
    value: Projection | None
    heads: int
    size: int
    value_size: int
    scale: float
    dtype: ir.DataType
    mask: Mask

    @property
    def is_self(self) -> bool:
        """Whether queries and keys are the same positions."""
        return self.query.x is self.key.x

    def factors(self, heads: Sequence[int], rank: int) -> tuple[np.ndarray, np.ndarray]:
        """Return u and v of some heads side by side, [E+1, heads * rank], in float64."""
        matrices = [(each.matrix(), each.offset()) for each in (self.query, self.key)]
        found = []
        for head in heads:
            own = slice(head * self.size, (head + 1) * self.size)
            parts = [(weight[:, own], None if bias is None else bias[own]) for weight, bias in matrices]
            found.append(factorize(*parts[0], *parts[1], scale=self.scale, rank=rank))
        return np.concatenate([u for u, _ in found], 1), np.concatenate([v for _, v in found], 1)


def read_layer(node: ir.Node, softmax: str) -> Layer:
    """Return what is known of an attention.

    Raises:
        Refusal: it has no such form, or not enough is known of it.
        PipelineError: a weight is NaN or infinite.
    """
    q, k, v = (_input(node, index) for index in range(3))
    require(q.dtype is not None, Reason.UNKNOWN, f"the type of {q.name} is not known")
    assert q.dtype is not None
    is_float = q.dtype in FLOATS[softmax]
    require(is_float, Reason.DTYPE, f"{q.name} is {q.dtype}; softmax={softmax} needs float32 or float64")
    sizes = [_heads_and_size(value, node, of) for value, of in ((q, "q"), (k, "kv"), (v, "kv"))]
    (heads, size), (key_heads, key_size), (value_heads, value_size) = sizes
    detail = (
        f"heads: {heads} of {size} for queries, {key_heads} of {key_size} for keys, {value_heads} for values; differ"
    )
    dtype = q.dtype
    q, k = heads_together(q, "queries"), heads_together(k, "keys")
    query, key = projection(q, "queries"), projection(k, "keys")
    require(heads == key_heads == value_heads and size == key_size, Reason.SHAPE, detail)
    for axis in (0, 2):
        require_same(q, axis, k, axis)
    scale = facts.attribute(node, "scale")
    given = node.inputs[3] if len(node.inputs) > 3 else None
    mask = Mask()
    if softmax != "exact":
        require(not facts.attribute(node, "softcap"), Reason.ATTRIBUTE, f"softcap is set; softmax={softmax} has none")
        mask = read_mask(given, bool(facts.attribute(node, "is_causal")), query.x, key.x)
    values, value = _read_values(v)
    number = float(scale) if scale is not None else 1 / float(np.sqrt(size))
    layer = Layer(node, query, key, values, value, heads, size, value_size, number, dtype, mask)
    _check_finite(layer)
    return layer


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _heads_and_size(value: ir.Value, node: ir.Node, of: str) -> tuple[int, int]:
    """Return the number of heads and their size, of [B,H,S,D] or [B,S,H*D]."""
    count = facts.rank(value)
    require(count is not None, Reason.UNKNOWN, f"the rank of {value.name} is not known")
    require(count in (3, 4), Reason.RANK, f"{facts.describe(value)}; needs 3 or 4 axes")
    heads = facts.static_dim(value, 1) if count == 4 else facts.attribute(node, f"{of}_num_heads")
    width = facts.static_dim(value, -1)
    detail = f"the heads of {facts.describe(value)} and their size must be numbers"
    require(isinstance(heads, int) and width is not None, Reason.UNKNOWN, detail)
    assert isinstance(heads, int) and width is not None
    return (heads, width) if count == 4 else (heads, width // heads)


def _read_values(v: ir.Value) -> tuple[ir.Value, Projection | None]:
    """Return the values, with the heads side by side where they were, and their projection if it is theirs alone."""
    try:
        together = heads_together(v, "values")
    except Refusal:
        return v, None
    try:
        return together, projection(together, "values")
    except Refusal:
        return together, None


def _check_finite(layer: Layer) -> None:
    for name, each in (("query", layer.query), ("key", layer.key)):
        offset = each.offset()
        parts = [each.matrix(), np.zeros(0) if offset is None else offset]
        wrong = sum(int(np.count_nonzero(~np.isfinite(part))) for part in parts)
        if wrong:
            found = f"{wrong} numbers that are NaN or infinite in the {name} projection"
            raise PipelineError(f"{facts.place(layer.node)}: damf", found, needed="finite weights")


@dataclass(frozen=True)
class _Group:
    """Some heads of one rank, and their values; which keys are valid, or None for all."""

    heads: Sequence[int]
    rank: int
    values: Values
    valid: ir.Value | None


def emit(op: Builder, layer: Layer, softmax: str, ranks: Mapping[int, int], following: ir.Value | None) -> ir.Value:
    """Return the attention [B,S,H*D] with heads' scores by factors of these ranks, times the matrix that follows.

    Heads of equal rank are a group, with products of their own; heads without a rank stay as they were.
    """
    groups: dict[int | None, list[int]] = {}
    for head in range(layer.heads):
        groups.setdefault(ranks.get(head), []).append(head)
    valid = valid_keys(op, layer.mask, layer.dtype)
    if len(groups) == 1:
        (rank,) = set(ranks.values())
        return _attention(op, layer, softmax, _Group(range(layer.heads), rank, _values(op, layer), valid), following)
    by_head = _values_by_head(op, layer)
    parts = []
    for rank_or_none, heads in groups.items():
        values = _values_of(op, by_head, heads, layer.value_size)
        if rank_or_none is None:
            parts.append(_as_it_was(op, layer, heads, values))
        else:
            parts.append(_attention(op, layer, softmax, _Group(heads, rank_or_none, values, valid), None))
    together = [head for heads in groups.values() for head in heads]
    order = [together.index(head) for head in range(layer.heads)]
    every = op.Reshape(op.Concat(*parts, axis=2), [0, 0, layer.heads, layer.value_size])
    whole: ir.Value = op.Reshape(op.Gather(every, order, axis=2), [0, 0, layer.heads * layer.value_size])
    return whole if following is None else op.MatMul(whole, following)


def _attention(op: Builder, layer: Layer, softmax: str, group: _Group, following: ir.Value | None) -> ir.Value:
    rank, values, valid = group.rank, group.values, group.valid
    u, v = layer.factors(group.heads, rank)
    dtype = layer.dtype.numpy()
    size, count = layer.value_size, len(group.heads)
    if softmax == "exact":
        p, n = _product(op, layer.query.x, u, dtype), _product(op, layer.key.x, v, dtype)
        attributes = {**layer.node.attributes, "scale": 1.0, "q_num_heads": count, "kv_num_heads": count}
        result: ir.Value = op.Attention(p, n, values.spelled(op), *layer.node.inputs[3:4], **attributes)
        return result if following is None else op.MatMul(result, following)
    of_queries = valid if layer.is_self else None
    if softmax == "shift":
        p, n = _product(op, layer.query.x, u, dtype, of_queries), _product(op, layer.key.x, v, dtype, valid)
        factors = Factors(p, n, count, rank, valid is not None)
        result = shift(op, factors, values.spelled(op), size, valid, layer.mask.is_causal)
        return result if following is None else op.MatMul(result, following)
    if layer.mask.is_causal:
        ahead = np.arange(count) * rank
        p = _product(op, layer.query.x, np.insert(u, ahead, 0, axis=1), dtype, of_queries)
        n = _product(op, layer.key.x, _with_ones(v, ahead), dtype, valid)
        result = causal(op, Factors(p, n, count, rank, valid is not None), values.spelled(op), size)
        return result if following is None else op.MatMul(result, following)
    p = _product(op, layer.query.x, u, dtype, of_queries)
    n = _product(op, layer.key.x, _with_ones(v, [0]), dtype, valid)
    following_size = 0 if following is None else facts.static_dim(following, 1) or 0
    return linear(op, Factors(p, n, count, rank, valid is not None), values, following, following_size)


def _with_ones(factor: np.ndarray, places: Any) -> np.ndarray:
    """Insert columns that project everything to 1: zeros, and 1 in the row of the bias."""
    one = np.zeros((len(factor), 1))
    one[-1] = 1
    return np.asarray(np.insert(factor, places, one, axis=1))


def _product(op: Builder, x: ir.Value, factor: np.ndarray, dtype: np.dtype, valid: ir.Value | None = None) -> ir.Value:
    """Return ``[x, 1] factor``, zero where not valid."""
    product: ir.Value = op.MatMul(x, op.constant(np.ascontiguousarray(factor[:-1]).astype(dtype), "factor"))
    if factor[-1].any():
        product = op.Add(product, op.constant(factor[-1].astype(dtype), "factor_bias"))
    return product if valid is None else op.Mul(product, valid)


def _values(op: Builder, layer: Layer) -> Values:
    """Return the values of all heads."""
    width = layer.heads * layer.value_size
    if layer.value is None:
        return Values(_together(op, layer.values, layer), None, width)
    node = layer.values.producer()
    is_packed = node is not None and node.op_type == "Split"
    # A packed projection makes what is replaced too: the values' part is taken out of it.
    return Values(None if is_packed else layer.values, layer.value, width)


def _values_by_head(op: Builder, layer: Layer) -> ir.Value:
    """Return the values [B,T,H,D]."""
    by_head: ir.Value = op.Reshape(_values(op, layer).spelled(op), [0, 0, layer.heads, layer.value_size])
    return by_head


def _values_of(op: Builder, by_head: ir.Value, heads: Sequence[int], size: int) -> Values:
    """Return the values of some heads."""
    width = len(heads) * size
    return Values(op.Reshape(op.Gather(by_head, list(heads), axis=2), [0, 0, width]), None, width)


def _together(op: Builder, values: ir.Value, layer: Layer) -> ir.Value:
    if facts.rank(values) == 3:
        return values
    together: ir.Value = op.Reshape(op.Transpose(values, perm=[0, 2, 1, 3]), [0, 0, layer.heads * layer.value_size])
    return together


def _as_it_was(op: Builder, layer: Layer, heads: Sequence[int], values: Values) -> ir.Value:
    """Return the attention of some heads with the projections that they had."""

    def product(given: Projection) -> ir.Value:
        own = np.concatenate([np.arange(head * layer.size, (head + 1) * layer.size) for head in heads])
        offset = given.offset()
        bias = np.zeros(given.width) if offset is None else offset
        whole = np.concatenate([given.matrix(), bias[None]])[:, own]
        return _product(op, given.x, whole, layer.dtype.numpy())

    count = len(heads)
    attributes = {**layer.node.attributes, "q_num_heads": count, "kv_num_heads": count}
    inputs = [product(layer.query), product(layer.key), values.spelled(op)]
    result: ir.Value = op.Attention(*inputs, *layer.node.inputs[3:4], **attributes)
    return result
