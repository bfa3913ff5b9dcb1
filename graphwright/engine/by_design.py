"""Passes that change the numbers by design: what must hold around them all the same, and how far off they are.

A pass that approximates says so (``Rule.changes_numbers``). What it makes is not compared with what it replaces; the
passes before it, between two of them and behind the last one must still keep the numbers. So the models just before and
just behind it are kept, as clones that share their weights, and the stretches between are compared each for itself.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from graphwright.engine.compare import TOLERANCES, Difference, Tolerance, as_declared
from graphwright.engine.observe import Observer, PassOutcome
from graphwright.engine.ties import compare_with_source
from graphwright.engine.verification import Evaluator, Inputs
from graphwright.errors import GraphwrightError

# Behind an approximation, outputs may be off by so many tolerances if the models agree: in float32 by a hundredth of
# their size. MiniLM with damf needs 13 (maclaurin, rank 1) and 33 (shift, rank 4).
_MOST_ROUNDING = 500.0
# Integers of 8 bits: another order of sums puts a number on the next of 254 steps, which a layer or two make larger.
_QUANTUM = Tolerance(1e-3, 1e-1)


@dataclass(frozen=True)
class Approximation:
    """A pass that changed the numbers by design, and the models just before and just behind it."""

    name: str
    applied: int
    before: ir.Model
    after: ir.Model


class Approximations(Observer):
    """Keeps the models around each pass that changes the numbers; ``names`` are those that may (Pipeline.changing)."""

    def __init__(self, names: Collection[str]) -> None:
        self.names = names
        self.found: list[Approximation] = []
        self._before: ir.Model | None = None

    def before_pass(self, name: str, model: ir.Model) -> None:
        """Keep the model, if the pass may change its numbers."""
        self._before = model.clone() if name in self.names else None

    def after_pass(self, outcome: PassOutcome, model: ir.Model) -> None:
        """Keep the result, if it did."""
        if self._before is not None and outcome.changes_numbers and outcome.applied:
            self.found.append(Approximation(outcome.name, outcome.applied, self._before, model.clone()))
        self._before = None


def summary(found: Sequence[Approximation]) -> dict[str, int]:
    """Return the applications of each pass that changed the numbers, in running order."""
    counts: dict[str, int] = {}
    for each in found:
        counts[each.name] = counts.get(each.name, 0) + each.applied
    return counts


def passes_text(counts: Mapping[str, int]) -> str:
    """Return passes with their applications as messages show them.

    Example:
        >>> passes_text({"damf": 6, "other": 1})
        'damf (6 applications), other (1 application)'
    """
    return ", ".join(f"{name} ({count} application{'s' * (count != 1)})" for name, count in counts.items())


def compare_behind(
    start: ir.Model,
    end: ir.Model,
    inputs: Inputs,
    expected: Mapping[str, np.ndarray],
    actual: Mapping[str, np.ndarray],
    evaluate: Evaluator,
    tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
) -> list[Difference]:
    """Compare two models with exact passes between them, the first of which an approximation has made.

    Approximations may make rounding larger: a sum that nearly cancels, a score next to where it is rounded to another
    power of two. So where the outputs differ, the passes are judged with both models run alike, node by node, in
    their own dtypes or in float64. If they agree, the outputs themselves may be further apart, by what a runtime's
    other order of sums does, though not by as much as a wrong kernel.
    """
    found = compare_with_source(start, inputs, expected, actual, evaluate, tolerances)
    if not found or not any(_agree(start, end, inputs, evaluate, tolerances, in_double) for in_double in (False, True)):
        return found
    looser = _loosened(end, tolerances)
    return compare_with_source(start, inputs, expected, actual, evaluate, looser)


def _loosened(model: ir.Model, tolerances: Mapping[ir.DataType, Tolerance]) -> dict[ir.DataType, Tolerance]:
    """Return what outputs may be off by where models agree: at least what the coarsest type inside of them takes."""
    looser = {dtype: each.times(_MOST_ROUNDING) for dtype, each in tolerances.items()}
    inside = {value.dtype for node in model.graph.all_nodes() for value in node.outputs}
    coarse = [each for dtype, each in tolerances.items() if dtype in inside]
    coarse += [_QUANTUM for node in model.graph.all_nodes() if node.op_type == "QuantizeLinear"][:1]
    for dtype, each in looser.items():
        relative = max([each.relative, *(other.relative for other in coarse)])
        looser[dtype] = Tolerance(max([each.absolute, *(other.absolute for other in coarse)]), relative)
    return looser


def _agree(
    start: ir.Model,
    end: ir.Model,
    inputs: Inputs,
    evaluate: Evaluator,
    tolerances: Mapping[ir.DataType, Tolerance],
    in_double: bool,
) -> bool:
    try:
        due = evaluate(start, inputs, double=in_double)
        got = evaluate(end, inputs, double=in_double)
    except GraphwrightError:
        return False
    if in_double:
        # The tolerance of the outputs' own dtype holds, since passes may have rounded weights to it.
        dtypes = {value.name: value.dtype for value in end.graph.outputs}
        got = {name: as_declared(array, dtypes.get(name)) for name, array in got.items()}
    return not compare_with_source(start, inputs, due, got, evaluate, tolerances)
