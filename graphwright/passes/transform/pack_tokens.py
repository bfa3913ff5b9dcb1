"""Compute norms, products and activations for the tokens that the mask keeps, not for padding.

Before:                                    After:
    mask [B,S]                                 mask -- NonZero -- kept [N]; CumSum * mask -- slots [B,S]
    x [B,S,E] -- Wq, Wk, Wv -- q, k, v         x -- Gather(kept) -- Concat(0) -- [Wq|Wk|Wv] [N+1,3E] -- Gather(slots)
    q, k, v -- Attention (mask) -- a           q, k, v -- Attention (mask) -- a
    a -- Wo -- Add x -- norm -- ... -- y       a -- Gather(kept) -- Wo -- Add -- norm -- ... [N,E]
    y * mask -- ReduceSum -- z                 y -- Concat(0) -- Gather(slots) * mask -- ReduceSum -- z

The token mask is the input of two axes from which the masks of attention are proved to be made: a hidden key has a
weight of exactly 0 for every kept query, so that any finite number may stand in its place. It pays where a batch has
rows of different lengths; where nothing is hidden it costs some copies.

It applies where nobody can see hidden positions: behind a product with the mask, a choice by it, or a read of the first
token, which is then kept whatever the mask says (with all of a row of which nothing else is kept). An output of the
model that shows hidden positions keeps all that it is made of as it is; ``padding="free"`` makes such outputs zero
there first (compilation/padding.py).

Shapes:    mask [B,S], values [B,S,...] of known sizes behind B and S, which may be dynamic; S is not 1.
Dtypes:    any that the operators take; the mask an integer, a float or a boolean.
Refuses:   UNKNOWN a mask of attention, or a token mask, of unknown rank or sizes; SHAPE a token mask of one position, a
           mask of attention of other lengths; CONSTANT a masking number above -1e30; ATTRIBUTE attention with a cache,
           with scores as an output or capped; STRUCTURE attention among other tokens, without a mask or with one that
           is not proved to hide what the token mask hides, operators that may read hidden positions, nothing but
           cheap operators to gain from, a first token under a causal mask; GRAPH_OUTPUT an output that shows hidden
           positions.
Numerics:  the same sums, each in the order that the backend's product takes for another number of rows. Tokens that
           are hidden and read by nobody are not computed.
Source:    effective transformer, github.com/bytedance/effective_transformer (2020); Zhai et al. 2023, ByteTransformer,
           arXiv:2210.03052, section III.D; ONNX operators NonZero, Gather, CumSum.
"""

from collections.abc import Callable

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Builder, Names
from graphwright.engine.observe import Reason
from graphwright.engine.pipeline import FunctionPass
from graphwright.engine.rewrite import Refusal
from graphwright.passes.transform.pack_tokens_places import COUNT, Places
from graphwright.passes.transform.pack_tokens_region import PRODUCTS, Region, find_region, is_zero, token_masks
from graphwright.passes.transform.pack_tokens_twins import rest_of, twins

Refuse = Callable[[ir.Node, Reason, str], None]


def pack_tokens(model: ir.Model, *, refuse: Refuse = lambda node, reason, detail: None) -> bool:
    """Move what works on each token alone to the tokens that are kept, in place; tell whether there was any.

    Only the main graph is looked at.
    """
    attention = next((node for node in model.graph if node.op_type == "Attention" and not node.domain), None)
    if attention is None:
        return False
    best: Region | None = None
    refused = [(attention, Reason.STRUCTURE, "no input of two axes is a mask of tokens")]
    for mask in token_masks(model.graph):
        try:
            region = find_region(model.graph, mask)
        except Refusal as refusal:
            refused = [(attention, refusal.reason, refusal.detail)]
            continue
        if best is None or _worth(region) > _worth(best):
            best = region
    if best is not None:
        refused = best.refused
        if not refused and not all(_worth(best)):
            refused = [_nothing_to_gain(attention, best)]
    for node, reason, detail in refused:
        refuse(node, reason, detail)
    if best is None or not all(_worth(best)):
        return False
    _rewrite(model, best)
    return True


def _nothing_to_gain(attention: ir.Node, region: Region) -> tuple[ir.Node, Reason, str]:
    mask = region.tokens.mask.name
    return attention, Reason.STRUCTURE, f"no product works on each token alone with {mask} as the token mask"


def _worth(region: Region) -> tuple[int, int]:
    """Return of how much attention it is proved that it follows the mask, and how many products move."""
    return len(region.sights), sum(node.op_type in PRODUCTS for node in region.moved)


def _rewrite(model: ir.Model, region: Region) -> None:
    """Record for each node what it needs, in the order of the graph, and put it before the node."""
    graph = model.graph
    op = Builder(Names(model), "pack-tokens", dict(model.opset_imports))
    places = Places(op, region)
    for node in list(graph):
        if node in region.moved:
            _move(node, region, places)
        else:
            _serve(node, region, places)
        for value in op.constants:
            graph.register_initializer(value)
        graph.insert_before(node, op.nodes)
        op.constants, op.nodes = [], []


def _move(node: ir.Node, region: Region, places: Places) -> None:
    made = twins(node, region.layouts, region.moved[node], region.sizes, places)
    for old, new in zip(node.outputs, made, strict=True):
        # The type of an operator outside ONNX's definitions is that of the one it stands for.
        new.type = new.type or old.type
        if new.shape is None:
            new.shape = ir.Shape([COUNT, *(rest_of(old, region.moved[node]) or ())])
        places.known[old] = new


def _serve(node: ir.Node, region: Region, places: Places) -> None:
    """Give a node that stays what it reads of nodes that moved."""
    if node in region.firsts:
        _replace(node, places.first(node))
        return
    for index, value in enumerate(node.inputs):
        if value is None or value not in region.dirty:
            continue
        is_moved = value.producer() in region.moved
        if region.blind.get(node) == index:
            shown = places.unpacked(value, zero=True)
            if node.op_type == "Where" and is_zero(node.inputs[3 - index]):
                _replace(node, shown)
                return
            node.replace_input_with(index, shown)
        elif node.op_type == "Shape" and is_moved:
            _replace(node, _shape(node, value, region, places))
            return
        elif is_moved or (node.op_type == "Attention" and value in region.loose):
            node.replace_input_with(index, places.unpacked(value, zero=False))


def _shape(node: ir.Node, value: ir.Value, region: Region, places: Places) -> ir.Value:
    """Return the shape that a value had, from those of the mask and of one token."""
    op, mask = places.op, region.tokens.mask
    rest = op.Shape(places.packed(value), start=1)
    head = op.Shape(mask) if len(region.layouts[value]) == 2 else op.ReduceProd(op.Shape(mask), [0], keepdims=1)
    whole = op.Concat(head, rest, axis=0)
    chosen = range(facts.rank(value) or 0)[facts.attribute(node, "start") or 0 : facts.attribute(node, "end")]
    cut: ir.Value = op.Slice(whole, [chosen.start], [chosen.stop], [0])
    return cut


def _replace(node: ir.Node, made: ir.Value) -> None:
    """Let a value take the place of a node's output, with its name where it is an output of the graph."""
    old = node.outputs[0]
    made.type, made.shape = old.type, old.shape
    is_output, name = old.is_graph_output(), old.name
    old.replace_all_uses_with(made, replace_graph_outputs=True)
    if is_output:
        old.name = f"{name}/before-pack-tokens"
        made.name = name


PACK_TOKENS = FunctionPass("pack-tokens", pack_tokens, tells=True)
