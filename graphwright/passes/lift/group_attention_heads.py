"""Give ``Attention`` keys and values with their own number of heads, where the graph repeats them for the queries.

Before:                                                          After:
    k [B,K,T,D] - Unsqueeze - Expand [B,K,G,T,D] - Reshape [B,K*G,T,D] --+      q   k   v   mask
    v [B,K,T,E] - Unsqueeze - Expand [B,K,G,T,E] - Reshape [B,K*G,T,E] --+      |   |   |    |
    q [B,K*G,S,D] -------------------------------------------------------+      Attention
                                                             Attention --+          |
                                                                 y [B,K*G,S,E]      y [B,K*G,S,E]

Attention lets K*G heads of queries share K of keys and values, G neighbours each: the copies are not needed. They may
be made by Tile too, before the heads are put in front of the length ([B,T,K,G,D]), or from one head by Expand alone; a
Pad may make them longer (``fuse-attention-sinks``).

Shapes:    as drawn; K and G static, B, S and T may be dynamic.
Dtypes:    those of Attention-24.
Refuses:   UNKNOWN sizes not known to be those of a repetition; SHAPE sizes that are others, or keys and values of
           different numbers of heads; SHARED and GRAPH_OUTPUT present keys, values or scores.
Numerics:  the same.
Source:    Ainslie et al. 2023, arXiv:2305.13245; ONNX operator Attention-24; transformers' repeat_kv.
"""

from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.facts import Dim
from graphwright.engine.pattern import AnyOf, Named, Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Reason, Rule, require


def _repeated(op: PatternOps, x: Var) -> AnyOf:
    """The repeated heads of ``x``, or of what becomes it by a Transpose, and maybe more keys behind them."""
    by_length = op.var(f"{x.name}_by_length")
    repeated = op.named(
        f"{x.name}_repeated",
        op.any_of(
            _copies(op, x, 2),
            op.keep(op.Transpose(op.named(f"{x.name}_whole", _copies(op, by_length, 3)), perm=[0, 2, 1, 3])),
            op.keep(op.Expand(x, op.var(f"_{x.name}_lengths"))),
        ),
    )
    pads = op.check(op.var(f"{x.name}_pads"), "a constant that adds no heads", _adds_no_heads)
    return op.any_of(repeated, op.named(f"{x.name}_padded", op.keep(op.Pad(repeated, pads))))


def _adds_no_heads(pads: ir.Value) -> bool:
    counts = facts.integers(pads)
    return counts is not None and len(counts) == 8 and counts[1] == counts[5] == 0


def _copies(op: PatternOps, x: Var, axis: int) -> Op:
    """Repeat [.., K, ..] along a new axis behind ``axis - 1``, and make one axis of both."""
    single = op.keep(op.Unsqueeze(x, [axis]))
    counts = op.var(f"_{x.name}_counts")
    wide: AnyOf = op.any_of(op.keep(op.Expand(single, counts)), op.keep(op.Tile(single, counts)))
    node: Op = op.Reshape(op.named(f"{x.name}_wide", wide), op.var(f"_{x.name}_sizes"))
    return op.keep(node)


def attention(op: PatternOps, q: Var, k: Var, v: Var, mask: Var | None = None) -> Named:
    return op.named("y", op.Attention(q, _repeated(op, k), _repeated(op, v), mask))


def grouped_attention(op: Builder, y: ir.Value, q: ir.Value, mask: ir.Value | None, **bound: Any) -> ir.Value:
    require(facts.rank(q) == 4, Reason.UNKNOWN, f"{facts.describe(q)} is not known to have four axes")
    k, v = (_longer(op, _single(op, name, bound), bound, name) for name in ("k", "v"))
    detail = f"{facts.describe(k)} and {facts.describe(v)} must have as many heads"
    require(facts.static_dim(k, 1) == facts.static_dim(v, 1), Reason.SHAPE, detail)
    node = y.producer()
    assert node is not None
    return op.copy(node, [q, k, v, mask])


def _longer(op: Builder, value: ir.Value, bound: dict[str, Any], name: str) -> ir.Value:
    padded = bound.get(f"{name}_padded")
    if padded is None:
        return value
    longer: ir.Value = op.Pad(value, bound[f"{name}_pads"])
    sizes = [facts.dim(padded, axis) for axis in range(4)]
    longer.shape = ir.Shape([sizes[0], facts.dim(value, 1), *sizes[2:]])
    return longer


def _single(op: Builder, name: str, bound: dict[str, Any]) -> ir.Value:
    """Return keys or values as they were before the copies; refuse where sizes do not say that there were any."""
    repeated, whole = bound[f"{name}_repeated"], bound.get(f"{name}_whole")
    if whole is not None:
        by_length = bound[f"{name}_by_length"]
        _require_copies(by_length, bound[f"{name}_by_length_wide"], whole, 2)
        result: ir.Value = op.Transpose(by_length, perm=[0, 2, 1, 3])
        return result
    source: ir.Value = bound[name]
    wide = bound.get(f"{name}_wide")
    if wide is not None:
        _require_copies(source, wide, repeated, 1)
        return source
    detail = f"{facts.describe(repeated)} is not known to be one head of {facts.describe(source)} repeated"
    require(facts.rank(source) == 4, Reason.UNKNOWN, detail)
    require(facts.dim(source, 1) == 1, Reason.SHAPE, detail)
    sizes = [facts.dim(source, axis) for axis in (0, 2, 3)]
    _require_sizes(repeated, [sizes[0], facts.dim(repeated, 1), *sizes[1:]], detail)
    return source


def _require_copies(source: ir.Value, wide: ir.Value, whole: ir.Value, axis: int) -> None:
    """Refuse unless [.., K, ..] became [.., K, G, ..] and then [.., K*G, ..], with K on ``axis``."""
    detail = f"{facts.describe(whole)} is not known to be {facts.describe(source)} with its heads repeated"
    require(facts.rank(source) == 4, Reason.UNKNOWN, detail)
    before = [facts.dim(source, each) for each in range(4)]
    heads, count = facts.static_dim(source, axis), facts.static_dim(wide, axis + 1)
    require(heads is not None and count is not None, Reason.UNKNOWN, detail)
    assert heads is not None
    assert count is not None
    _require_sizes(wide, [*before[: axis + 1], count, *before[axis + 1 :]], detail)
    _require_sizes(whole, [*before[:axis], heads * count, *before[axis + 1 :]], detail)


def _require_sizes(value: ir.Value, wanted: list[Dim | None], detail: str) -> None:
    require(facts.rank(value) == len(wanted), Reason.UNKNOWN, detail)
    for axis, size in enumerate(wanted):
        found = facts.dim(value, axis)
        require(not (isinstance(found, int) and isinstance(size, int) and found != size), Reason.SHAPE, detail)
        require(facts.same_dim(found, size), Reason.UNKNOWN, detail)


GROUP_ATTENTION_HEADS = Rule("group-attention-heads", (attention,), grouped_attention, min_opset=23)
