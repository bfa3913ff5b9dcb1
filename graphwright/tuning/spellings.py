"""The spellings of a region that are valid on a target: lowered, loaded, and compared by numbers with the default's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine.compare import compare
from graphwright.engine.isomorphism import difference
from graphwright.engine.pipeline import FAMILIES, Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.errors import GraphwrightError
from graphwright.passes.discovery import catalogue
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.signature import inputs_of
from graphwright.tuning.choices import CHOICES, Alternative, Choice

Arrays = Mapping[str, np.ndarray]
# What the pipeline does where its passes are those of no alternative.
AS_GIVEN = "as given"


@dataclass(frozen=True)
class Plan:
    """A pipeline that is tuned: the steps before the first choice, and those behind."""

    pipeline: Pipeline
    choices: tuple[Choice, ...] = CHOICES
    prefix: tuple[Step, ...] = field(init=False)
    tail: tuple[Step, ...] = field(init=False)

    def __post_init__(self) -> None:
        order = [step.name for step in catalogue().steps()]
        first = min(order.index(name) for each in self.choices for name in each.passes)
        later = set(order[first:])
        steps = self.pipeline.steps
        place = next((at for at, step in enumerate(steps) if step.name in later), len(steps))
        object.__setattr__(self, "prefix", steps[:place])
        object.__setattr__(self, "tail", steps[place:])

    @property
    def names(self) -> frozenset[str]:
        """The names of the pipeline's passes."""
        return frozenset(step.name for step in self.pipeline.steps)

    def alternatives(self, choice: Choice) -> tuple[Alternative, ...]:
        """Return a choice's alternatives, the default first."""
        wanted = choice.passes & self.names
        default = next((each for each in choice.alternatives if set(each.passes) == wanted), None)
        if default is None:
            default = Alternative(AS_GIVEN, tuple(sorted(wanted)))
        return (default, *(each for each in choice.alternatives if each is not default))

    def steps(self, choice: Choice, alternative: Alternative) -> Pipeline:
        """Return what is run on a region for an alternative: no passes of the user's own, which may need more."""
        kept = [step for step in self.tail if step.name not in choice.passes and step.family in FAMILIES]
        return Pipeline(with_steps(kept, alternative.passes))

    def tuned(self, chosen: Sequence[Alternative]) -> Pipeline:
        """Return the pipeline with all passes that some region's alternative needs."""
        added = {name for each in chosen for name in each.passes} - self.names
        return Pipeline((*self.prefix, *with_steps(self.tail, sorted(added))))


def with_steps(steps: Sequence[Step], names: Sequence[str]) -> tuple[Step, ...]:
    """Return steps with others put in, each before the first that the catalogue has behind it."""
    order = [step.name for step in catalogue().steps()]
    found = list(steps)
    for name in sorted(names, key=order.index):
        later = set(order[order.index(name) + 1 :])
        place = next((at for at, each in enumerate(found) if each.name in later), len(found))
        found.insert(place, catalogue().find(name))
    return tuple(found)


@dataclass
class Spelling:
    """One valid spelling of a region, ready to run."""

    alternative: Alternative
    model: ir.Model
    session: OrtSession


def lowered(model: ir.Model, pipeline: Pipeline) -> ir.Model:
    """Return what a pipeline makes of a copy of a model.

    Raises:
        CheckError: a pass failed.
    """
    return run_pipeline(Run(model.clone()), pipeline)


def open_session(model: ir.Model, target: str, threads: int | None) -> OrtSession:
    """Return a session that takes inputs of any size.

    Raises:
        LoadError: ONNX Runtime has no kernel for a node.
    """
    return OrtSession(model, BoundProfile(inputs_of(model), ({},)), target=target, threads=threads)


def spellings(
    models: Sequence[tuple[Alternative, ir.Model]], points: Sequence[Arrays], target: str, threads: int | None
) -> tuple[list[Spelling], list[str]]:
    """Return the spellings that run and give the numbers of the first one, and why others do not.

    Raises:
        GraphwrightError: the first one does not run.
    """
    found: list[Spelling] = []
    refused: list[str] = []
    expected: list[Mapping[str, Any]] = []
    for alternative, model in models:
        try:
            session = open_session(model, target, threads)
            outputs = [session(point) for point in points]
        except GraphwrightError as error:
            if not found:
                raise
            refused.append(f"{alternative.name}: {error}")
            continue
        expected = expected or [{name: np.array(value) for name, value in each.items()} for each in outputs]
        if any(compare(due, given) for due, given in zip(expected, outputs, strict=True)):
            refused.append(f"{alternative.name}: other numbers")
            continue
        found.append(Spelling(alternative, model, session))
    return found, refused


def distinct(models: Sequence[tuple[Alternative, ir.Model]]) -> list[tuple[Alternative, ir.Model]]:
    """Return those that differ from all before them: a pass that did not fire makes no new spelling."""
    found: list[tuple[Alternative, ir.Model]] = []
    for alternative, model in models:
        if all(difference(model, other) for _, other in found):
            found.append((alternative, model))
    return found
