"""Fuse rotary positions, in each spelling of the exporters, into ``RotaryEmbedding``.

Before:                                                          After:
    x --+-- * cos ------------------------------------+              x -- RotaryEmbedding -- y
        +-- Slice r/2: -- Neg --+                     |                   c, s
        +-- Slice :r/2 ---------+-- Concat -- * sin --+-- Add -- y
    cos = [c c], sin = [s s]

The halves may be one Split, or be turned one by one: ``Concat(a * c - b * s, b * c + a * s)``. Pairs of neighbours
are slices with step 2, stacked behind a new last axis and joined, with tables [c0 c0 c1 c1 ..]: that is
``interleaved``. Where only the first r of D numbers are turned and the others put behind them, that is
``rotary_embedding_dim``. Tables that are the same for the whole batch are expanded, which the operator
does not do by itself. With heads behind positions, the operator works on heads side by side. Two values that are
turned against each other and then joined are joined before.

Shapes:    x [B,H,S,D], or [B,S,H,D] with H and D numbers; cos and sin [b,1,S,r], [b,S,1,r] or fewer axes, where b is B
           or 1; c and s [b,S,r/2] with axes of 1 besides. r is a number, the others may be names.
Dtypes:    float16, bfloat16, float32; cos and sin like x.
Refuses:   OPSET below 23; DTYPE not listed, or tables of another; RANK x not of 4 axes, tables of more; UNKNOWN batch,
           length or number of heads; SHAPE tables that differ for each head, or of other sizes than x;
           SHARED and GRAPH_OUTPUT interior values.
Numerics:  same formula; in half precision a backend may round once less.
Source:    Su et al. 2021, arXiv:2104.09864; ONNX operator RotaryEmbedding-23.
"""

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Checked, Named, Op, Pattern, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.lift import rotary
from graphwright.passes.lift.read_sizes_from_inputs import input_of

# Which of the pattern's alternatives turn pairs of neighbours.
NEIGHBOURS = (1, 2)
# Of cosine and sine: the half that the table is made of, None for a constant one, and the table.
Tables = tuple[tuple[ir.Value | None, ir.Value], ...]
# Of four axes: batch, and where heads and positions may stand.
HEADS_FIRST, POSITIONS_FIRST = (1, 2), (2, 1)


def _table(op: PatternOps, double: Pattern, name: str) -> AnyOf:
    """Match a table, with axes of 1 put in or not, without consuming it."""
    wide = op.keep(op.Unsqueeze(double, op.var(f"_{name}_wide")))
    wider = op.keep(op.Unsqueeze(wide, op.var(f"_{name}_wider")))
    return op.any_of(*(op.named(name, each) for each in (wide, double, wider)))


def _constant(op: PatternOps, name: str) -> Named:
    table = op.check(op.var(f"_{name}"), "a constant table with equal halves", rotary.is_table_by_halves)
    return op.named(name, table)


def _by_halves(op: PatternOps, x: Pattern, cos: Var, sin: Var) -> Op:
    first, second = rotary.halves(op, x, "half")
    turned = op.Concat(op.Neg(second), first, axis=-1)
    names = ((each, f"{each.name}_table") for each in (cos, sin))
    c, s = (op.any_of(_table(op, rotary.by_halves(op, each), name), _constant(op, name)) for each, name in names)
    total: Op = op.Add(op.Mul(x, c), op.Mul(turned, s))
    return total


def _by_neighbours(op: PatternOps, x: Pattern, cos: Var, sin: Var) -> Op:
    even, odd = rotary.neighbours(op, x, "other")
    turned = rotary.stacked(op, op.Neg(odd), even, "turned")
    c, s = (_table(op, rotary.by_neighbours(op, each, each.name), f"{each.name}_table") for each in (cos, sin))
    total: Op = op.Add(op.Mul(x, c), op.Mul(turned, s))
    return total


def _pair(op: PatternOps, a: Pattern, b: Pattern, cos: Var, sin: Var) -> tuple[Op, Op]:
    """Match ``a * c - b * s`` and ``b * c + a * s``."""
    c, s = (_table(op, each, f"{each.name}_table") for each in (cos, sin))
    return op.Sub(op.Mul(a, c), op.Mul(b, s)), op.Add(op.Mul(b, c), op.Mul(a, s))


def _turned(op: PatternOps, x: Pattern, cos: Var, sin: Var) -> AnyOf:
    pairs = _pair(op, *rotary.neighbours(op, x, "each"), cos, sin)
    return op.any_of(
        _by_halves(op, x, cos, sin),
        _by_neighbours(op, x, cos, sin),
        rotary.stacked(op, *pairs, "pairs"),
        op.Concat(*_pair(op, *rotary.halves(op, x, "one"), cos, sin), axis=-1),
        tag="form",
    )


def two_values(op: PatternOps, a: Var, b: Var, cos: Var, sin: Var) -> Op:
    both: Op = op.Concat(*_pair(op, a, b, cos, sin), axis=-1)
    return both


def two_values_behind_others(op: PatternOps, others: Var, a: Var, b: Var, cos: Var, sin: Var) -> Op:
    all_three: Op = op.Concat(others, *_pair(op, a, b, cos, sin), axis=-1)
    return all_three


def part_of_head(op: PatternOps, x: Var, cos: Var, sin: Var) -> Checked:
    head, tail = rotary.head_and_tail(op, x, "part")
    whole = op.Concat(_turned(op, op.named("head", head), cos, sin), op.named("tail", tail), axis=-1)
    return op.check(whole, "the numbers that were turned, then all others", _is_complete)


def whole_head(op: PatternOps, x: Var, cos: Var, sin: Var) -> AnyOf:
    return _turned(op, x, cos, sin)


def _is_complete(value: ir.Value) -> bool:
    node = value.producer()
    tail = node.inputs[1] if node is not None else None
    found = rotary.part(tail) if tail is not None else None
    return node is not None and found is not None and found[0] == facts.static_dim(node.inputs[0], -1)


def rotary_embedding(
    op: Builder,
    x: ir.Value | None,
    cos: ir.Value | None,
    sin: ir.Value | None,
    cos_table: ir.Value,
    sin_table: ir.Value,
    form: int | None,
    head: ir.Value | None,
    a: ir.Value | None,
    b: ir.Value | None,
    others: ir.Value | None,
) -> ir.Value:
    if a is not None:
        joined: ir.Value = op.Concat(a, b, axis=-1)
        turned = _rotary(op, joined, a, ((cos, cos_table), (sin, sin_table)), {})
        return turned if others is None else op.Concat(others, turned, axis=-1)
    assert x is not None
    options = {"interleaved": 1} if form in NEIGHBOURS else {}
    size = facts.static_dim(head, -1) if head is not None else None
    options |= {} if size is None else {"rotary_embedding_dim": size}
    return _rotary(op, x, x, ((cos, cos_table), (sin, sin_table)), options)


def _rotary(op: Builder, x: ir.Value, source: ir.Value, tables: Tables, options: dict[str, int]) -> ir.Value:
    """Return x turned; ``source`` is x, or a value of the graph with the same batch."""
    require(
        x.dtype in rotary.FLOATS, Reason.DTYPE, f"{facts.describe(x)}; RotaryEmbedding takes float16, bfloat16, float32"
    )
    for _, table in tables:
        require(table.dtype == x.dtype, Reason.DTYPE, f"{facts.describe(table)} beside {facts.describe(x)}")
    require(facts.rank(x) is not None, Reason.UNKNOWN, f"the rank of {facts.describe(x)} is not known; needs 4")
    require(facts.rank(x) == 4, Reason.RANK, f"{facts.describe(x)}; needs [batch, heads, length, size]")
    heads, length = _layout(x, tables[0][1])
    turned = options.get("rotary_embedding_dim", facts.static_dim(x, -1))
    caches = [_cache(x, half, table, (heads, length), turned, op) for half, table in tables]
    caches = _of_batch(op, caches, x, source, length)
    if (heads, length) == HEADS_FIRST:
        result: ir.Value = op.RotaryEmbedding(x, *caches, **options)
        return result
    count = facts.static_dim(x, heads)
    detail = f"the number of heads of {facts.describe(x)} must be known where they stand behind the positions"
    require(count is not None, Reason.UNKNOWN, detail)
    flat = op.RotaryEmbedding(op.Reshape(x, [0, 0, -1]), *caches, num_heads=count, **options)
    result = op.Reshape(flat, [0, 0, count or 0, -1])
    return result


def _layout(x: ir.Value, table: ir.Value) -> tuple[int, int]:
    """Return the axes of heads and of positions: the table is the same for all heads, and as long as x."""
    count = facts.rank(table)
    require(count is not None and 2 <= count <= 4, Reason.RANK, f"{facts.describe(table)} beside {facts.describe(x)}")
    missing = 4 - (count or 0)
    fitting = [
        (heads, length)
        for heads, length in (HEADS_FIRST, POSITIONS_FIRST)
        if (missing > heads or facts.dim(table, heads - 4) == 1)
        and facts.same_dim(facts.dim(table, length - 4), facts.dim(x, length))
    ]
    known = all(facts.dim(each, axis) is not None for each in (x, table) for axis in (-3, -2))
    detail = f"{facts.describe(table)} must be of one head and as long as {facts.describe(x)}"
    require(bool(fitting) or known or missing > 1, Reason.UNKNOWN, detail)
    require(bool(fitting), Reason.SHAPE, detail)
    return fitting[0]


def _cache(
    x: ir.Value, half: ir.Value | None, table: ir.Value, layout: tuple[int, int], turned: int | None, op: Builder
) -> ir.Value:
    """Return a half of a table as [b,S,r/2]; a half of None is that of a constant table."""
    axes = list(range(facts.rank(table) or 0)) if half is None else rotary.axes_of_half(table, half)
    if half is None:
        half = op.constant(rotary.first_half(table), "table")
    detail = f"{facts.describe(half)}, of which {facts.describe(table)} is made, beside {facts.describe(x)}"
    size = facts.static_dim(half, -1)
    require(size is not None and turned is not None, Reason.UNKNOWN, detail)
    require(2 * (size or 0) == turned, Reason.SHAPE, detail)
    require(_layout(x, table) == layout, Reason.SHAPE, detail)
    heads, length = layout
    places = [axis + 4 - (facts.rank(table) or 0) for axis in axes]
    require(length in places, Reason.SHAPE, detail)
    cache = half
    if heads in places:
        cache = op.Squeeze(cache, [places.index(heads)])
    if 0 not in places:
        cache = op.Unsqueeze(cache, [0])
    return cache


def _of_batch(op: Builder, caches: list[ir.Value], x: ir.Value, source: ir.Value, length: int) -> list[ir.Value]:
    """Return caches [b,S,r/2] for the batch of x: those that are the same throughout are expanded.

    The size of the batch is read from a graph input if one has it: then it is one value for all layers.
    """
    wanted = facts.dim(x, 0)
    shared = [cache for cache in caches if not facts.same_dim(facts.dim(cache, 0), wanted)]
    if not shared:
        return caches
    for cache in shared:
        detail = f"{facts.describe(cache)} must be of the batch of {facts.describe(x)}, or of one"
        require(facts.dim(cache, 0) is not None and wanted is not None, Reason.UNKNOWN, detail)
        require(facts.dim(cache, 0) == 1, Reason.SHAPE, detail)
    if isinstance(wanted, int):
        shape: ir.Value | np.ndarray = np.asarray([wanted, 1, 1], np.int64)
    else:
        value, axis = input_of(source, 0) or (source, 0)
        shape = op.Concat(op.Shape(value, start=axis, end=axis + 1), [1, 1], axis=0)
    expanded = {cache: op.Expand(cache, shape) for cache in shared}
    for cache, made in expanded.items():
        made.shape = ir.Shape([wanted, facts.dim(x, length), facts.static_dim(cache, -1)])
    return [expanded.get(cache, cache) for cache in caches]


FUSE_ROTARY = Rule(
    "fuse-rotary", (part_of_head, whole_head, two_values, two_values_behind_others), rotary_embedding, min_opset=23
)
