"""Kept tokens of a value, and values in which kept tokens are back in their places; no rule.

Places count from 1 in the order of the mask, 0 stands for a hidden position and reads a row that is put in front:
zeros, or what a projection makes of zeros. Such rows are finite, and hidden keys have a weight of 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Builder
from graphwright.engine.weights import concatenated, static_shape
from graphwright.passes.transform.pack_tokens_region import Region
from graphwright.passes.transform.pack_tokens_twins import rest_of

# The name of the number of kept tokens in shapes.
COUNT = "kept_tokens"


@dataclass(frozen=True)
class Projection:
    """``x @ weight + bias`` of kept tokens."""

    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None


@dataclass
class Places:
    """Records what turns [B,S,...] into [N,...] and back, each thing once."""

    op: Builder
    region: Region
    known: dict[ir.Value, ir.Value] = field(default_factory=dict)
    spread: dict[tuple[ir.Value, bool], ir.Value] = field(default_factory=dict)
    _indices: dict[str, ir.Value] = field(default_factory=dict)
    _fronted: dict[ir.Value, ir.Value] = field(default_factory=dict)
    _wide: dict[ir.Value, tuple[ir.Value, int, int]] = field(default_factory=dict)

    def packed(self, value: ir.Value) -> ir.Value:
        """Return the kept tokens of a value."""
        if value not in self.known:
            self.known[value] = self.chosen(value, "BS" if len(self.region.layouts[value]) == 2 else "merged")
        return self.known[value]

    def chosen(self, value: ir.Value, axes: str) -> ir.Value:
        """Return what belongs to each kept token of a value with rows ("B"), positions ("S") or both ("BS") first."""
        if axes == "BS":
            rest = [facts.static_dim(value, axis) for axis in range(2, facts.rank(value) or 2)]
            value = self.op.Reshape(value, [-1, *(size or 0 for size in rest)])
            axes = "merged"
        chosen: ir.Value = self.op.Gather(value, self.index(axes), axis=0)
        return chosen

    def index(self, name: str) -> ir.Value:
        """Return indices: of kept tokens in [B*S] ("merged"), their rows "B" and positions "S"; the places "slots" of
        [B,S], "shown" the same with 0 where only the first token keeps a position, "firsts" those of first tokens."""
        if name not in self._indices:
            made = getattr(self, f"_make_{name.lower()}")()
            self._indices[name] = made
        return self._indices[name]

    def _make_mask(self) -> ir.Value:
        mask = self.region.tokens.mask
        made: ir.Value = mask if mask.dtype == ir.DataType.BOOL else self.op.Cast(mask, to=ir.DataType.BOOL.value)
        return made

    def _make_kept(self) -> ir.Value:
        """The mask, flat; where first tokens are read they are kept, with all of a row of which nothing else is."""
        op, kept = self.op, self.index("mask")
        if self.region.firsts:
            positions = op.Range(np.asarray(0), op.Squeeze(self.index("length"), [0]), np.asarray(1))
            is_first = op.Equal(positions, np.asarray(0))
            count = op.ReduceSum(op.Cast(kept, to=ir.DataType.INT64.value), [1], keepdims=1)
            kept = op.Or(op.Or(kept, is_first), op.Equal(count, np.asarray(0)))
        flat: ir.Value = op.Reshape(kept, [-1])
        return flat

    def _make_length(self) -> ir.Value:
        length: ir.Value = self.op.Shape(self.region.tokens.mask, start=1, end=2)
        return length

    def _make_merged(self) -> ir.Value:
        found: ir.Value = self.op.Reshape(self.op.NonZero(self.index("kept")), [-1])
        found.shape = ir.Shape([COUNT])
        return found

    def _make_b(self) -> ir.Value:
        rows: ir.Value = self.op.Div(self.index("merged"), self.index("length"))
        return rows

    def _make_s(self) -> ir.Value:
        positions: ir.Value = self.op.Mod(self.index("merged"), self.index("length"))
        return positions

    def _make_slots(self) -> ir.Value:
        op, mask = self.op, self.region.tokens.mask
        ones = op.Cast(self.index("kept"), to=ir.DataType.INT64.value)
        flat = op.Mul(op.CumSum(ones, np.asarray(0)), ones)
        slots: ir.Value = op.Reshape(flat, op.Shape(mask))
        slots.shape = ir.Shape(list(self.region.sizes))
        return slots

    def _make_shown(self) -> ir.Value:
        if not self.region.firsts:
            return self.index("slots")
        shown: ir.Value = self.op.Where(self.index("mask"), self.index("slots"), np.asarray(0))
        return shown

    def _make_firsts(self) -> ir.Value:
        firsts: ir.Value = self.op.Sub(self.op.Gather(self.index("slots"), np.asarray(0), axis=1), np.asarray(1))
        return firsts

    def first(self, node: ir.Node) -> ir.Value:
        """Return what a node that reads the first token of each row gives."""
        value = node.inputs[0]
        assert value is not None
        chosen = self.op.Gather(self.packed(value), self.index("firsts"), axis=0)
        if facts.rank(node.outputs[0]) == facts.rank(value):
            chosen = self.op.Unsqueeze(chosen, [1])
        return _like(chosen, node.outputs[0])

    def unpacked(self, value: ir.Value, *, zero: bool) -> ir.Value:
        """Return a value with kept tokens in their places. Hidden ones: zeros, or only finite numbers."""
        if (value, zero) not in self.spread:
            found = None if zero else self._part(value)
            slots = "shown" if zero else "slots"
            if found is None:
                made = self.op.Gather(self._with_front(self.packed(value)), self._slots_for(value, slots), axis=0)
            else:
                made = self._cut(*found, value)
            self.spread[value, zero] = _like(made, value)
        return self.spread[value, zero]

    def _slots_for(self, value: ir.Value, slots: str) -> ir.Value:
        if len(self.region.layouts[value]) == 2:
            return self.index(slots)
        flat: ir.Value = self.op.Reshape(self.index(slots), [-1])
        return flat

    def _with_front(self, packed: ir.Value) -> ir.Value:
        """Return kept tokens behind a row of zeros."""
        if packed not in self._fronted:
            assert packed.dtype is not None
            sizes = [facts.static_dim(packed, axis) or 0 for axis in range(1, facts.rank(packed) or 1)]
            zeros = np.zeros([1, *sizes], packed.dtype.numpy())
            self._fronted[packed] = self.op.Concat(self.op.constant(zeros, "hidden"), packed, axis=0)
        return self._fronted[packed]

    def _part(self, value: ir.Value) -> tuple[ir.Value, int, int] | None:
        """Return rows [N+1,W] that hold a value's kept tokens, with the column they start at, and W."""
        if value not in self._wide:
            projection = _projection(value, self.region)
            if projection is None:
                return self._split_part(value)
            members = _siblings(projection, self.region)
            weights = [each.weight for each in members.values()]
            rows = self.op.MatMul(self._with_front(self.packed(projection.x)), _joined(self.op, weights))
            if projection.bias is not None:
                rows = self.op.Add(rows, _joined(self.op, [each.bias for each in members.values() if each.bias]))
            start, width = 0, sum(_width(weight) for weight in weights)
            for member, each in members.items():
                self._wide[member] = rows, start, width
                start += _width(each.weight)
        return self._wide[value]

    def _split_part(self, value: ir.Value) -> tuple[ir.Value, int, int] | None:
        """Outputs of a Split are read from what is split."""
        node = value.producer()
        if node is None or node.op_type != "Split" or node not in self.region.moved or facts.rank(value) != 3:
            return None
        whole = node.inputs[0]
        sizes = [facts.static_dim(out, -1) for out in node.outputs]
        axis = facts.attribute(node, "axis")
        if whole is None or axis not in (2, -1) or any(size is None for size in sizes):
            return None
        rows, start = self._with_front(self.packed(whole)), 0
        for out, size in zip(node.outputs, sizes, strict=True):
            self._wide[out] = rows, start, facts.static_dim(whole, -1) or 0
            start += size or 0
        return self._wide[value]

    def _cut(self, rows: ir.Value, start: int, whole: int, value: ir.Value) -> ir.Value:
        """Read columns of rows: [N+1,W] is [(N+1)*n,W/n], of which a token's part is one row or several."""
        op, width = self.op, facts.static_dim(value, -1) or 0
        slots = self.index("slots")
        if width == whole:
            cut: ir.Value = op.Gather(rows, slots, axis=0)
            return cut
        size = gcd(start, width, whole)
        index = op.Add(op.Mul(slots, np.asarray(whole // size)), np.asarray(start // size))
        if width > size:
            index = op.Add(op.Unsqueeze(index, [2]), np.arange(width // size))
        cut = op.Gather(op.Reshape(rows, [-1, size]), index, axis=0)
        return cut if width == size else op.Reshape(cut, [0, 0, width])


def _like(made: ir.Value, value: ir.Value) -> ir.Value:
    made.type, made.shape = value.type, value.shape
    return made


def _joined(op: Builder, parts: Sequence[ir.Value]) -> ir.Value:
    if len(parts) == 1:
        return parts[0]
    tensors = [tensor for tensor in map(facts.constant, parts) if tensor is not None]
    return op.constant(concatenated(tensors, -1 % len(static_shape(tensors[0]))), "packed")


def _width(weight: ir.Value) -> int:
    return facts.static_dim(weight, 1) or 0


def _projection(value: ir.Value, region: Region) -> Projection | None:
    """Return the projection, with constant weights, that a value of three axes is; nothing else needs its product."""
    node, bias = value.producer(), None
    if node is None or node not in region.moved or facts.rank(value) != 3:
        return None
    if node.op_type == "Add":
        products = [each for each in node.inputs if each is not None and _is_product(each, region)]
        if len(products) != 1 or len(products[0].uses()) != 1:
            return None
        bias = node.inputs[1] if products[0] is node.inputs[0] else node.inputs[0]
        node = products[0].producer()
    if node is None or not _is_product(node.outputs[0], region):
        return None
    x, weight = node.inputs
    assert x is not None and weight is not None
    contents = facts.constant(bias)
    if bias is not None and (contents is None or static_shape(contents) != (_width(weight),)):
        return None
    return Projection(x, weight, bias)


def _is_product(value: ir.Value, region: Region) -> bool:
    node = value.producer()
    if node is None or node.op_type != "MatMul" or node not in region.moved:
        return False
    return facts.constant(node.inputs[1]) is not None and rest_of(value, region.layouts[value]) is not None


def _siblings(projection: Projection, region: Region) -> dict[ir.Value, Projection]:
    """Return all projections of the same tokens that are needed in their places only, in the order of the graph."""
    found: dict[ir.Value, Projection] = {}
    for product, _ in projection.x.uses():
        for value in product.outputs:
            adders = [user for user, _ in value.uses() if user.op_type == "Add" and user in region.moved]
            end = adders[0].outputs[0] if len(value.uses()) == 1 and adders else value
            other = _projection(end, region)
            if other is None or other.x is not projection.x or (other.bias is None) != (projection.bias is None):
                continue
            if not any(user in region.moved for user, _ in end.uses()):
                found[end] = other
    return found
