"""What a model computes against what was fused of it: expected, found, and why not for each that is missing.

``found`` counts the operators of each kind after the lift passes and the selections, before any target's spelling.
``expected`` counts what torch itself does, where the model comes from torch. ``leftovers`` needs no torch: computations
that the lifted graph still spells in primitives, each with the nearest miss of the rules that are for its kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from graphwright.compilation.steps import build_pipeline
from graphwright.engine import facts
from graphwright.engine.explain import NearMiss
from graphwright.engine.explain import explain as explain_outcomes
from graphwright.engine.kinds import KINDS, Piece, count_kinds, downstream, pieces
from graphwright.engine.observe import PassOutcome, Record
from graphwright.engine.pipeline import run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.frontends import Source
from graphwright.passes.discovery import catalogue

# Passes that fuse a choice of the largest. They are transforms, since they change the work; all else is in lift.
SELECTIONS = ("fuse-beam-candidates", "fuse-router", "fuse-softmax-topk", "fuse-softmax-argmax")
# A pass is for a kind if its name has one of these words.
WORDS = {
    "attention": ("fuse-attention", "sdpa"),
    "norm": ("norm",),
    "rotary": ("rotary", "rope"),
    "activation": ("gelu", "swish", "silu", "mish"),
    "router": ("router", "topk", "argmax", "beam"),
}
# Of the rules for a kind, those for a piece that is known by one of these operators.
OPERATOR_WORDS = {"Erf": ("gelu",), "Tanh": ("gelu", "mish"), "Sigmoid": ("swish", "silu")}
# A miss this near to a leftover is about it; one further may be about the next layer's.
_NEAR = 4


@dataclass(frozen=True)
class Leftover:
    """A computation of a kind that is still in primitives: where, and what kept the nearest pass from it."""

    kind: str
    node: str
    pass_name: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """Return the fields."""
        return vars(self).copy()


@dataclass(frozen=True)
class Coverage:
    """Counts by kind: what torch does (None where there is no torch module), what was found, and what is left over."""

    expected: dict[str, int] | None
    found: dict[str, int]
    leftovers: tuple[Leftover, ...]

    @property
    def gaps(self) -> dict[str, int]:
        """How many of each kind are missing; without a count by torch, how many are left over."""
        counts = {kind: sum(each.kind == kind for each in self.leftovers) for kind in KINDS}
        if self.expected is not None:
            counts = {kind: self.expected[kind] - self.found[kind] for kind in KINDS}
        return {kind: number for kind, number in counts.items() if number > 0}

    def reason(self, kind: str) -> str:
        """The first reason why one of this kind was not fused, with its node; empty where nothing is known."""
        first = next((each for each in self.leftovers if each.kind == kind), None)
        if first is None:
            return "nothing that looks like one is left" if kind in self.gaps else ""
        return (
            f"{first.node}: {first.pass_name}: {first.reason}" if first.pass_name else f"{first.node}: {first.reason}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists and texts; ``reasons`` has the first of each kind."""
        left = [each.to_json() for each in self.leftovers]
        reasons = {kind: self.reason(kind) for kind in KINDS}
        return {
            "expected": self.expected,
            "found": self.found,
            "gaps": self.gaps,
            "reasons": reasons,
            "leftovers": left,
        }


def cover(source: Source) -> Coverage:
    """Return the coverage of a source that has been read or traced; its model is not changed.

    Raises:
        StructureError, CheckError: a pass failed.
    """
    lifted, outcomes = lift(source.model)
    return Coverage(expected(source), count_kinds(lifted), explained(pieces(lifted), outcomes))


def expected(source: Source) -> dict[str, int] | None:
    """Return the counts of one run of the torch module that the source comes from, or None where there is none."""
    if source.reference is None or source.example_inputs is None:
        return None
    from graphwright.frontends.torch_kinds import Counter

    with Counter() as counter:
        source.reference(source.example_inputs)
    counts: dict[str, int] = counter.counts
    return counts


def found(model: ir.Model) -> dict[str, int]:
    """Return the counts of the lifted graph of a model, which is not changed."""
    return count_kinds(lift(model)[0])


def leftovers(model: ir.Model) -> tuple[Leftover, ...]:
    """Return what the lifted graph of a model still spells in primitives; the model is not changed.

    Example:
        >>> text = '''<ir_version: 10, opset_import: ["": 20]>
        ...     g (double[n] x) => (double[n] y) {half = Constant<value_int=1>()
        ...     s = Sigmoid(x)
        ...     y = Mul(x, s)}'''
        >>> [each.kind for each in leftovers(ir.from_onnx_text(text))]
        []
    """
    lifted, outcomes = lift(model)
    return explained(pieces(lifted), outcomes)


def lift(model: ir.Model) -> tuple[ir.Model, Sequence[PassOutcome]]:
    """Run the lift passes and the selections on a clone, with explanations on."""
    names = [each.name for each in catalogue().families["lift"]]
    record = Record()
    pipeline = build_pipeline(",".join([*names, *SELECTIONS]), "onnx", ())
    return run_pipeline(Run(model.clone(), [record], explain=True), pipeline), record.outcomes


def explained(found: Sequence[Piece], outcomes: Sequence[PassOutcome]) -> tuple[Leftover, ...]:
    """Return the pieces with the nearest miss that is about each."""
    misses = explain_outcomes(outcomes, everything=True).misses
    return tuple(_explained(piece, misses) for piece in found)


def _explained(piece: Piece, misses: Sequence[NearMiss]) -> Leftover:
    where = facts.place(piece.node)
    around = {facts.place(node): distance for node, distance in reversed(list(downstream(piece.node)))} | {where: 0}
    words = OPERATOR_WORDS.get(piece.node.op_type, WORDS[piece.kind])
    near = [miss for miss in misses if miss.node in around and any(word in miss.pass_name for word in words)]
    if not near:
        return Leftover(piece.kind, where, "", "no rule came near")

    def rank(miss: NearMiss) -> tuple[bool, bool, bool, float, int]:
        distance = around[miss.node]
        prepares = not miss.pass_name.startswith("fuse")
        return prepares, distance > _NEAR, not miss.is_complete, -miss.share, distance

    best = min(near, key=rank)
    verdict = best.reason.name if best.is_complete else f"{best.found} matched"
    return Leftover(piece.kind, where, best.pass_name, f"{verdict}, {best.detail}")
