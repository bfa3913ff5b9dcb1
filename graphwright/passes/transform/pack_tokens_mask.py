"""What a mask of attention hides, proved from the nodes that make it of the token mask; no rule.

A mask of scores hides the tokens that are not kept where every entry of a hidden key is false, or a number so low that
its probability is 0 beside any other. That takes an entry that is not low: each kept token must see itself.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts, ranges
from graphwright.engine.observe import Reason
from graphwright.engine.rewrite import Refusal, require
from graphwright.passes.transform.pack_tokens_positions import is_spread, places
from graphwright.passes.transform.pack_tokens_reading import Reading, TokenMask

# Scores are far smaller, so that a sum with this number leaves a probability of exactly 0. Exporters write -inf or
# -3.4e38; -10000, which older ones wrote, is too near to scores to prove anything.
LOW = -1e30
# What is added to scores beside it and cannot change that.
SMALL = 1e20


# Which comparisons of places, each with a number added, hold where both places are the same.
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
}


@dataclass(frozen=True)
class Sight:
    """What a mask of scores [.., S, S] says: ``hides`` every key that is not kept; ``shows`` each kept token itself.

    ``is_of_keys``: every query sees the same keys.
    """

    hides: bool
    shows: bool
    is_of_keys: bool


ALL = Sight(hides=False, shows=True, is_of_keys=True)


def sight_of(tokens: TokenMask, mask: ir.Value | None) -> Sight:
    """Return what a mask of scores of four axes, or fewer, says; refuse what is not understood.

    Raises:
        Refusal: an operator or a number that proves nothing.
    """
    require(mask is not None, Reason.STRUCTURE, "attention without a mask sees every token")
    assert mask is not None
    proof = _Proof(tokens, mask)
    return proof.of_condition(mask) if mask.dtype == ir.DataType.BOOL else proof.of_numbers(mask)


class _Proof:
    """One mask of scores, followed back to what it is made of; all parts are spread over the axes of ``whole``."""

    def __init__(self, tokens: TokenMask, whole: ir.Value) -> None:
        self.tokens, self.whole = tokens, whole

    def of_condition(self, value: ir.Value, *, inverted: bool = False) -> Sight:
        """Return what a boolean part says; ``inverted``: where it is false, keys are seen."""
        found = self.tokens.reading(value)
        if found is not None:
            return self.of_reading(found, value, inverted)
        if ranges.is_always_true(value) and not inverted:
            return ALL
        node = value.producer()
        op_type = node.op_type if node is not None and not node.domain else ""
        if node is not None and op_type == "Not":
            return self.of_condition(_input(node, 0), inverted=not inverted)
        if node is not None and op_type == ("Or" if inverted else "And"):
            return _both(*(self.of_condition(_input(node, each), inverted=inverted) for each in (0, 1)))
        if node is not None and op_type in ("Expand", "Identity", "Unsqueeze") and _keeps_last_axes(node):
            return self.of_condition(_input(node, 0), inverted=inverted)
        is_diagonal = not inverted and self.shows_itself(value, op_type, node)
        require(is_diagonal, Reason.STRUCTURE, _unknown(value))
        return Sight(hides=False, shows=True, is_of_keys=False)

    def of_numbers(self, value: ir.Value) -> Sight:
        """Return what numbers that are added to scores say."""
        if ranges.is_always_zero(value) or _is_small(value):
            return ALL
        node = value.producer()
        op_type = node.op_type if node is not None and not node.domain else ""
        if node is not None and op_type == "Where":
            return self.of_choice(node)
        if node is not None and op_type == "Add":
            return _both(*(self.of_numbers(_input(node, each)) for each in (0, 1)))
        if node is not None and op_type == "Mul":
            return self.of_product(node)
        if node is not None and op_type in ("Expand", "Identity", "Unsqueeze") and _keeps_last_axes(node):
            return self.of_numbers(_input(node, 0))
        contents = facts.constant(value)
        is_diagonal = contents is not None and _is_open(contents.numpy() == 0) and bool((contents.numpy() <= 0).all())
        require(is_diagonal, Reason.STRUCTURE, _unknown(value))
        return Sight(hides=False, shows=True, is_of_keys=False)

    def of_choice(self, node: ir.Node) -> Sight:
        """``Where(c, kept, low)`` hides what c does; ``Where(c, low, kept)`` what its inverse does."""
        low = [_is_low(node.inputs[index]) for index in (1, 2)]
        detail = f"{facts.place(node)} does not choose between a mask and -inf, or below {LOW:g}"
        require(low.count(True) == 1, Reason.CONSTANT, detail)
        chosen = self.of_condition(_input(node, 0), inverted=low[0])
        return _both(chosen, self.of_numbers(_input(node, 2 if low[0] else 1)))

    def of_product(self, node: ir.Node) -> Sight:
        """``(1 - mask) * low``, with a mask of ones and zeros."""
        for value, number in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            found = self.tokens.reading(value)
            if found is not None and found.is_unit and found.is_inverted and _is_low(number, infinite=False):
                assert value is not None
                return self.of_reading(found, value, True)
        raise Refusal(Reason.CONSTANT, f"{facts.place(node)} is not (1 - mask) times a number below {LOW:g}")

    def of_reading(self, found: Reading, value: ir.Value, inverted: bool) -> Sight:
        """A condition on keys hides them; one on queries shows a kept query all keys."""
        require(found.is_inverted == inverted, Reason.STRUCTURE, f"{facts.describe(value)} keeps what is to be hidden")
        ways = {(-4, -1): True, (-4, -2): False}
        detail = f"axes {found.batch} and {found.length} of {facts.describe(value)} are not those of rows and keys"
        is_known = (found.batch, found.length) in ways and self._is_spread(value, (found.batch, found.length))
        require(is_known, Reason.STRUCTURE, detail)
        is_of_keys = ways[found.batch, found.length]
        return Sight(hides=is_of_keys, shows=True, is_of_keys=is_of_keys)

    def shows_itself(self, value: ir.Value, op_type: str, node: ir.Node | None) -> bool:
        """Tell whether a condition on positions holds on the diagonal, as "not later than the query" does."""
        contents = facts.constant(value)
        if contents is not None and contents.dtype == ir.DataType.BOOL:
            return _is_open(contents.numpy())
        if node is None or op_type not in _COMPARISONS:
            return False
        sides = [self._place(_input(node, index)) for index in (0, 1)]
        if sides[0] is None or sides[1] is None or {sides[0][0], sides[1][0]} != {-1, -2}:
            return False
        return _COMPARISONS[op_type](sides[0][1], sides[1][1])

    def _place(self, value: ir.Value) -> tuple[int, float] | None:
        """Return the axis that a value counts along, and the number that is added to each place."""
        found = places(value)
        if found is not None and list(found.values()) == [1]:
            (axis,) = found
            return (axis, 0.0) if self._is_spread(value, (axis,)) else None
        node = value.producer()
        if node is None or node.domain or node.op_type not in ("Add", "Sub"):
            return None
        inner, number = self._place(_input(node, 0)), facts.scalar(node.inputs[1])
        if inner is None or number is None:
            return None
        return inner[0], inner[1] + (number if node.op_type == "Add" else -number)

    def _is_spread(self, value: ir.Value, axes: tuple[int, ...]) -> bool:
        return all(is_spread(value, self.whole, axis) for axis in axes)


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _unknown(value: ir.Value) -> str:
    return f"{facts.describe(value)}, in the mask of attention, may show what the token mask hides, or hide a token"


def _both(first: Sight, second: Sight) -> Sight:
    return Sight(first.hides or second.hides, first.shows and second.shows, first.is_of_keys and second.is_of_keys)


def _is_low(value: ir.Value | None, *, infinite: bool = True) -> bool:
    number = facts.scalar(value)
    return number is not None and number <= LOW and (infinite or np.isfinite(number))


def _keeps_last_axes(node: ir.Node) -> bool:
    """Tell whether a view leaves queries and keys where they are; an expansion repeats what is said of all."""
    if node.op_type != "Unsqueeze":
        return True
    axes, count = facts.integers(node.inputs[1]), facts.rank(node.outputs[0])
    return axes is not None and count is not None and all(axis % count < count - 2 for axis in axes)


def _is_small(value: ir.Value | None) -> bool:
    """Tell whether numbers are taken from a constant that is far from what masks, as a bias by distance is."""
    while value is not None:
        contents = facts.constant(value)
        if contents is not None:
            is_float = contents.dtype.is_floating_point()
            return is_float and bool((np.abs(contents.numpy().astype(np.float64)) <= SMALL).all())
        node = value.producer()
        if node is None or node.domain or node.op_type not in (*ranges.MOVES, "Gather"):
            return False
        value = node.inputs[0]
    return False


def _is_open(shown: np.ndarray) -> bool:
    """Tell whether each token sees itself in a constant mask, of whatever length."""
    if shown.ndim < 2 or shown.shape[-1] != shown.shape[-2]:
        return False
    return bool(np.diagonal(shown, axis1=-2, axis2=-1).all())
