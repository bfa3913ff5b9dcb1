"""The axes of scores, and masks that follow them through a Reshape; no rule.

Scores are [leading axes..., S, T]. Exporters see the leading ones as [B, H], as [B*H], or as [B, windows, H]: a
Reshape that keeps S and T keeps the rows, so a mask can be moved from one form to the other.
"""

from dataclasses import dataclass, replace

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.facts import Dim
from graphwright.engine.rewrite import Builder, Reason, require

Leads = tuple[Dim | None, ...]
# A vector of sizes, as an input of a node takes it.
Sizes = list[int] | ir.Value


@dataclass(frozen=True)
class Axes:
    """The sizes of scores, and values of which a size can be read where it is no number."""

    leads: Leads
    rows: Dim | None
    columns: Dim | None
    sources: tuple[ir.Value, ...] = ()

    def dim(self, axis: int) -> Dim | None:
        """Return the size of an axis that is counted from the end."""
        every = (*self.leads, self.rows, self.columns)
        return every[axis] if -len(every) <= axis < 0 else None

    def seen_as(self, value: ir.Value) -> "Axes":
        """Return the axes after a Reshape; refuse one that is not known to keep the rows."""
        detail = f"{facts.describe(value)} is not known to have rows as the scores: {self.rows} of {self.columns}"
        count = facts.rank(value)
        require(count is not None, Reason.UNKNOWN, detail)
        for axis, size in ((-2, self.rows), (-1, self.columns)):
            require(facts.same_dim(facts.dim(value, axis), size), Reason.UNKNOWN, detail)
        return replace(self, leads=leads_of(value))

    def leads_as(self, other: "Axes") -> bool:
        """Tell whether the leading axes are known to be those of others."""
        pairs = zip(self.leads, other.leads, strict=False)
        return len(self.leads) == len(other.leads) and all(facts.same_dim(one, two) for one, two in pairs)

    def fitted(self, *masks: ir.Value) -> ir.Shape:
        """Return the shape of what masks of these scores, none larger than the scores, give together."""
        count = max(facts.rank(mask) or 0 for mask in masks)
        return ir.Shape([self._fitted(axis, masks) for axis in range(-count, 0)])

    def _fitted(self, axis: int, masks: tuple[ir.Value, ...]) -> Dim | None:
        sizes = [facts.dim(mask, axis) for mask in masks if (facts.rank(mask) or 0) >= -axis]
        if all(size == 1 for size in sizes):
            return 1
        whole = self.dim(axis)
        return whole if any(facts.same_dim(size, whole) for size in sizes) else None


def leads_of(value: ir.Value) -> Leads:
    """Return the sizes of all axes but the last two."""
    return tuple(facts.dim(value, axis) for axis in range((facts.rank(value) or 2) - 2))


def moved(op: Builder, mask: ir.Value, old: Axes, new: Axes) -> ir.Value:
    """Return a mask of scores with ``old`` axes as it is for the ``new`` ones; axes of 1 stay where they can."""
    if (facts.rank(mask) or 0) <= 2:
        return mask
    missing = len(old.leads) + 2 - (facts.rank(mask) or 0)
    if missing:
        mask = _shaped(op.Unsqueeze(mask, list(range(missing))), [1] * missing, mask)
    front, back = _shared(old.leads, new.leads)
    before, after = old.leads[front : len(old.leads) - back], new.leads[front : len(new.leads) - back]
    own = leads_of(mask)[front : front + len(before)]
    if all(size == 1 for size in own):
        return _renumbered(op, mask, front, len(before), len(after))
    from_sizes, to_sizes = _sizes(op, before, after, new.sources)
    if not all(facts.same_dim(one, two) for one, two in zip(own, before, strict=True)):
        wide: ir.Value = op.Expand(mask, _joined(op, [[1] * front, *from_sizes, [1] * (back + 2)]))
        mask = _shaped(wide, before, mask, front)
    rest = op.Shape(mask, start=front + len(before))
    first = [op.Shape(mask, start=0, end=front)] if front else []
    return _shaped(op.Reshape(mask, _joined(op, [*first, *to_sizes, rest])), after, mask, front, len(before))


def _renumbered(op: Builder, mask: ir.Value, front: int, count: int, wanted: int) -> ir.Value:
    """Give a mask ``wanted`` axes of 1 in place of ``count``."""
    if wanted > count:
        return _shaped(op.Unsqueeze(mask, list(range(front, front + wanted - count))), [1] * wanted, mask, front, count)
    if wanted < count:
        return _shaped(op.Squeeze(mask, list(range(front, front + count - wanted))), [1] * wanted, mask, front, count)
    return mask


def _shaped(
    value: ir.Value, middle: Leads | list[int], like: ir.Value, front: int = 0, count: int | None = None
) -> ir.Value:
    """Set a shape: that of ``like`` with the sizes of ``middle`` in place of ``count`` behind the first."""
    sizes = list(like.shape or ())
    taken = (len(middle) if (facts.rank(value) or 0) == len(sizes) else 0) if count is None else count
    value.shape = ir.Shape([*sizes[:front], *middle, *sizes[front + taken :]])
    return value


def _shared(old: Leads, new: Leads) -> tuple[int, int]:
    """Return how many leading axes are the same in both, in front and at the back."""
    most = min(len(old), len(new))
    back = next((n for n in range(most) if not facts.same_dim(old[-1 - n], new[-1 - n])), most)
    front = next((n for n in range(most - back) if not facts.same_dim(old[n], new[n])), most - back)
    return front, back


def _sizes(op: Builder, before: Leads, after: Leads, sources: tuple[ir.Value, ...]) -> tuple[list[Sizes], list[Sizes]]:
    """Return two lists of sizes with the same product; what no value has is computed from the others."""
    old, new = ([_read(op, size, sources) for size in leads] for leads in (before, after))
    unknown = [size for size in old + new if size is None]
    require(len(unknown) <= 1, Reason.UNKNOWN, f"the axes {before} and {after} of the scores are not known")
    if None in old:
        rest = [size for size in old if size is not None]
        whole = _product(op, [size for size in new if size is not None])
        old[old.index(None)] = op.Div(whole, _product(op, rest)) if rest else whole
    return [size for size in old if size is not None], [[-1] if size is None else size for size in new]


def _read(op: Builder, size: Dim | None, sources: tuple[ir.Value, ...]) -> Sizes | None:
    if isinstance(size, int):
        return [size]
    for value in sources:
        for axis in range(facts.rank(value) or 0):
            if facts.same_dim(size, facts.dim(value, axis)):
                found: ir.Value = op.Shape(value, start=axis, end=axis + 1)
                return found
    return None


def _product(op: Builder, sizes: list[Sizes]) -> Sizes:
    whole = sizes[0]
    for size in sizes[1:]:
        whole = op.Mul(whole, size)
    return whole


def _joined(op: Builder, parts: list[Sizes]) -> ir.Value:
    given = [part for part in parts if isinstance(part, ir.Value) or part]
    joined: ir.Value = op.Concat(*given, axis=0)
    return joined
