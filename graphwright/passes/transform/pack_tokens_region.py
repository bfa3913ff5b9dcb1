"""Which nodes work on kept tokens alone: those whose results nobody sees where the mask hides them; no rule.

Every value with tokens must be right at all positions if something reads it that may look at hidden ones: an output, or
an operator that mixes tokens. What such a value is made of must be right too. All other nodes that can, move.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.observe import Reason
from graphwright.engine.rewrite import Refusal, require
from graphwright.passes.transform.pack_tokens_flow import (
    Layout,
    Sizes,
    canonical,
    is_canonical,
    is_finite,
    layout_of,
)
from graphwright.passes.transform.pack_tokens_mask import Sight, sight_of
from graphwright.passes.transform.pack_tokens_positions import is_spread
from graphwright.passes.transform.pack_tokens_reading import Reading, TokenMask
from graphwright.passes.transform.pack_tokens_twins import has_twin

# Views cost nothing, so they stay where everything around them does.
_IDLE = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"})
_ATTENTION_INPUTS = {0, 1, 2}
# What is worth moving: all others only read and write memory.
PRODUCTS = frozenset({"MatMul", "Gemm"})


@dataclass
class Region:
    """What was found in a graph for one token mask.

    ``moved`` work on kept tokens. ``firsts`` read the first token of each row, which is then kept always. ``blind`` are
    the nodes, with the input, that hide what stands at hidden positions. ``dirty`` values hold anything there,
    ``loose`` ones even NaN, as attention gives for a query without keys. ``refused`` says why values must stay whole,
    ``sights`` what is proved of each attention.
    """

    tokens: TokenMask
    sizes: Sizes
    layouts: dict[ir.Value, Layout] = field(default_factory=dict)
    moved: dict[ir.Node, Layout] = field(default_factory=dict)
    firsts: set[ir.Node] = field(default_factory=set)
    blind: dict[ir.Node, int] = field(default_factory=dict)
    dirty: set[ir.Value] = field(default_factory=set)
    loose: set[ir.Value] = field(default_factory=set)
    refused: list[tuple[ir.Node, Reason, str]] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)


def find_region(graph: ir.Graph, mask: ir.Value) -> Region:
    """Return what can be done with an input [B,S] as the token mask.

    Raises:
        Refusal: a mask of which too little is known.
    """
    sizes = facts.dim(mask, 0), facts.dim(mask, 1)
    batch, length = sizes
    detail = f"{facts.describe(mask)}: needs sizes that are known, and more than one position"
    if batch is None or length is None:
        raise Refusal(Reason.UNKNOWN, detail)
    require(length != 1, Reason.SHAPE, detail)
    search = _Search(graph, Region(TokenMask(mask), (batch, length)))
    search.run()
    return search.region


class _Search:
    """The steps, in order."""

    def __init__(self, graph: ir.Graph, region: Region) -> None:
        self.graph, self.region = graph, region
        self.flows: dict[ir.Node, Layout] = {}
        self.can_move: set[ir.Node] = set()
        self.whole: set[ir.Value] = set()

    def run(self) -> None:
        """Fill the region."""
        for value in self.graph.inputs:
            self._start(value)
        for node in self.graph:
            self._follow(node)
        self._keep_whole()
        self._move()

    def _start(self, value: ir.Value) -> None:
        """Any value [B,S,...] has tokens on its first axes."""
        if (facts.rank(value) or 0) < 2 or value.is_initializer():
            return
        if all(facts.same_dim(facts.dim(value, axis), size) for axis, size in enumerate(self.region.sizes)):
            self.region.layouts[value] = canonical(value)

    def _follow(self, node: ir.Node) -> None:
        """Give a node's outputs their layout."""
        layouts = self.region.layouts
        if any(value in layouts for value in node.inputs if value is not None):
            layout = self._of_node(node)
            if layout is not None:
                self.flows[node] = layout
                layouts.update(dict.fromkeys(node.outputs, layout))
                return
        for value in node.outputs:
            self._start(value)

    def _of_node(self, node: ir.Node) -> Layout | None:
        if node.op_type == "Attention" and not node.domain:
            return self._of_attention(node)
        layouts, sizes = self.region.layouts, self.region.sizes
        layout = layout_of(node, layouts, sizes)
        if layout is not None and has_twin(node, layouts, layout, sizes):
            self.can_move.add(node)
            return layout
        return layout if is_finite(node) else None

    def _of_attention(self, node: ir.Node) -> Layout | None:
        try:
            layout, sight = self._sight(node)
        except Refusal as refusal:
            self.region.refused.append((node, refusal.reason, refusal.detail))
            return None
        self.region.sights.append(sight)
        return layout

    def _sight(self, node: ir.Node) -> tuple[Layout, Sight]:
        """Read an attention whose queries, keys and values are those of the tokens; refuse another."""
        layouts = [self.region.layouts.get(value) for value in node.inputs[:3] if value is not None]
        place = facts.place(node)
        one = layouts[0] is not None and layouts in ([(-3, -2)] * 3, [(-4, -2)] * 3)
        require(one, Reason.STRUCTURE, f"{place} is not known to attend among the tokens of the mask")
        others = [*node.inputs[4:], *(out for out in node.outputs[1:] if out.uses() or out.is_graph_output())]
        is_plain = not any(others) and not facts.attribute(node, "softcap")
        require(is_plain, Reason.ATTRIBUTE, f"{place} has a cache, gives scores or caps them")
        mask = node.inputs[3] if len(node.inputs) > 3 else None
        require(mask is not None, Reason.STRUCTURE, f"{place} has no mask")
        assert mask is not None
        require(facts.rank(mask) is not None, Reason.UNKNOWN, f"the rank of {mask.name} is not known")
        lengths = [facts.dim(mask, axis) for axis in (-2, -1)]
        fits = all(facts.same_dim(size, self.region.sizes[1]) for size in lengths)
        require(fits, Reason.SHAPE, f"{facts.describe(mask)} is not known to have the lengths of the tokens")
        sight = sight_of(self.region.tokens, mask)
        require(sight.hides and sight.shows, Reason.STRUCTURE, f"{facts.describe(mask)} shows tokens that are not kept")
        is_of_keys = sight.is_of_keys and not facts.attribute(node, "is_causal")
        assert layouts[0] is not None
        return layouts[0], Sight(sight.hides, sight.shows, is_of_keys)

    def _keep_whole(self) -> None:
        """Gather the values that must be right at every position."""
        pending = [value for value in self.region.layouts if self._is_seen(value)]
        while pending:
            value = pending.pop()
            if value in self.whole:
                continue
            self.whole.add(value)
            node = value.producer()
            if node in self.flows:
                assert node is not None
                hidden = self.region.blind.get(node)
                given = [each for index, each in enumerate(node.inputs) if index != hidden and each is not None]
                pending.extend(each for each in given if each in self.region.layouts)

    def _is_seen(self, value: ir.Value) -> bool:
        """Tell whether something may read a value where the mask hides it; say what."""
        if value.is_graph_output():
            self._refuse(value, Reason.GRAPH_OUTPUT, f"{value.name} shows positions that the mask hides")
            return True
        readers = [node for node, index in value.uses() if not self._is_blind(value, node, index)]
        for node in [each for each in readers if each.op_type != "Attention"][:1]:
            detail = f"{facts.place(node)} may read {value.name} where the mask hides it"
            self._refuse(value, Reason.STRUCTURE, detail)
        return bool(readers)

    def _refuse(self, value: ir.Value, reason: Reason, detail: str) -> None:
        node = value.producer()
        # There is nothing to gain from inputs and what is made of them by shape alone, or from what hides by itself.
        if (
            node in self.flows
            and node not in self.region.blind
            and value.dtype is not None
            and value.dtype.is_floating_point()
        ):
            assert node is not None
            self.region.refused.append((node, reason, detail))

    def _is_blind(self, value: ir.Value, node: ir.Node, index: int) -> bool:
        """Tell whether a use cannot see hidden positions, or passes the question on."""
        if node.graph is not self.graph or node.domain:
            return False
        if self._hides(value, node, index):
            self.region.blind[node] = index
            return True
        if node in self.flows:
            return node.op_type != "Attention" or index in _ATTENTION_INPUTS
        if node.op_type == "Shape":
            return True
        if _reads_first(node, index) and is_canonical(value, self.region.layouts[value]):
            if all(sight.is_of_keys for sight in self.region.sights):
                self.region.firsts.add(node)
                return True
            detail = f"{facts.place(node)} reads the first token, which a causal mask may leave without any key"
            self._refuse(value, Reason.STRUCTURE, detail)
        return False

    def _hides(self, value: ir.Value, node: ir.Node, index: int) -> bool:
        """``x * mask``, ``Where(mask, x, other)`` and ``Where(hidden, other, x)``."""
        layout = self.region.layouts[value]
        if node.op_type not in ("Mul", "Where") or not is_canonical(value, layout) or len(layout) != 2:
            return False
        place = 1 - index if node.op_type == "Mul" else 0
        if place == index:
            return False
        chooser = node.inputs[place]
        found = self.region.tokens.reading(chooser)
        if found is None or chooser is None or not self._fits(found, chooser, node, layout):
            return False
        inverted = node.op_type == "Where" and index == 2
        return found.is_inverted == inverted and is_spread(value, node.outputs[0], layout[0])

    def _fits(self, found: Reading, chooser: ir.Value, node: ir.Node, layout: Layout) -> bool:
        return (found.batch, found.length) == layout and all(
            is_spread(chooser, node.outputs[0], axis) for axis in layout
        )

    def _move(self) -> None:
        region = self.region
        moved = {node for node in self.can_move if not any(value in self.whole for value in node.outputs)}
        for node in reversed([each for each in self.graph if each in moved and each.op_type in _IDLE]):
            if not any(user in moved for value in node.outputs for user, _ in value.uses()):
                moved.discard(node)
        self._leave_islands(moved)
        region.moved = {node: self.flows[node] for node in self.graph if node in moved}
        for node in self.flows:
            hidden = region.blind.get(node)
            given = [each for index, each in enumerate(node.inputs) if index != hidden]
            if node in moved or any(each in region.dirty for each in given):
                region.dirty.update(node.outputs)
                is_loose = node.op_type == "Attention" or any(each in region.loose for each in given)
                region.loose.update(node.outputs if is_loose and node not in moved else ())
        region.firsts = {node for node in region.firsts if node.inputs[0] in region.dirty}
        region.blind = {node: index for node, index in region.blind.items() if node.inputs[index] in region.dirty}

    def _leave_islands(self, moved: set[ir.Node]) -> None:
        """Leave nodes where no product is among those that they are joined to: there and back costs more."""
        left = set(moved)
        while left:
            island, pending = set[ir.Node](), [left.pop()]
            while pending:
                node = pending.pop()
                island.add(node)
                makers = [value.producer() for value in node.inputs if value is not None]
                users = [user for value in node.outputs for user, _ in value.uses()]
                joined = {each for each in (*makers, *users) if each in left}
                left -= joined
                pending.extend(each for each in joined if each is not None)
            if not any(node.op_type in PRODUCTS for node in island) and all(self._may_stay(node) for node in island):
                moved -= island

    def _may_stay(self, node: ir.Node) -> bool:
        """Tell whether a node gives finite numbers for anything that may stand where the mask hides it."""
        behind_attention = bool(self.region.sights) and not all(value in self.whole for value in self._made_of(node))
        return is_finite(node) or not behind_attention

    def _made_of(self, node: ir.Node) -> list[ir.Value]:
        return [value for value in node.inputs if value is not None and value in self.region.layouts]


def _reads_first(node: ir.Node, index: int) -> bool:
    """Tell whether a node takes position 0 of each row of its first input."""
    if index != 0:
        return False
    if node.op_type == "Gather":
        found = facts.array(node.inputs[1])
        return facts.attribute(node, "axis") == 1 and found is not None and found.size == 1 and not found.any()
    if node.op_type != "Slice" or len(node.inputs) < 4:
        return False
    given = [facts.integers(value) for value in node.inputs[1:]]
    return given in ([(0,), (1,), (1,)], [(0,), (1,), (1,), (1,)])


def token_masks(graph: ir.Graph) -> Iterator[ir.Value]:
    """Yield the inputs that may be token masks: two axes of numbers."""
    for value in graph.inputs:
        if facts.rank(value) == 2 and not value.is_initializer() and value.dtype not in (None, ir.DataType.STRING):
            yield value


def is_zero(value: ir.Value | None) -> bool:
    """Tell whether a value is known to be zero, or false, throughout."""
    contents = facts.array(value)
    return ranges.is_always_zero(value) or (contents is not None and not contents.any())
