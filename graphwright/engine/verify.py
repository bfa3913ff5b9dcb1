"""Prove by numbers that a rewrite kept the meaning: each application alone, each pass, or the finished model.

The engine runs no model itself: an ``Evaluator`` is handed in. The tolerances are those of ``compare.py``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphwright.engine.by_design import compare_behind, passes_text
from graphwright.engine.compare import TOLERANCES, Difference, Tolerance, compare
from graphwright.engine.deviation import broken
from graphwright.engine.equivalence import Fault, Outcome, check_equivalence, prepare_with
from graphwright.engine.observe import Application, Observer, PassOutcome, Replacement
from graphwright.engine.region import region_models
from graphwright.engine.reproduce import write_reproducer
from graphwright.engine.ties import compare_with_source
from graphwright.engine.verification import (
    Evaluator,
    Inputs,
    Prepare,
    Unverified,
    Verification,
    sizes_text,
    verify_final,
)
from graphwright.errors import GraphwrightError, RequestError, VerificationError

__all__ = [
    "TOLERANCES",
    "Difference",
    "EachVerifier",
    "Evaluator",
    "RegionVerifier",
    "Tolerance",
    "Unverified",
    "Verification",
    "compare",
    "verify_final",
]

# Far apart, so that no two points of a run share a seed.
_SEEDS_PER_APPLICATION = 1000


class RegionVerifier(Observer):
    """Compares each application's region before and after, and other passes' whole models, on random inputs.

    What cannot be run alone is recorded in ``verification.unverified`` with its reason. ``prepare`` makes a
    model ready once for several inputs, which saves time; ``folder`` is where a failure writes its
    reproducer.
    """

    def __init__(
        self,
        evaluate: Evaluator,
        *,
        prepare: Prepare | None = None,
        folder: Path | None = None,
        tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
        seed: int = 0,
    ) -> None:
        self.verification = Verification("region")
        self._prepare = prepare if prepare is not None else prepare_with(evaluate)
        self._folder = folder
        self._tolerances = tolerances
        self._seed = seed
        self._before: ir.Model | None = None
        self._whole: Application | None = None

    def before_pass(self, name: str, model: ir.Model) -> None:
        """Keep the model as it is: a pass that is no rule is compared as a whole."""
        self._before, self._whole = model.clone(), None

    def before_commit(self, application: Application, replacement: Replacement | None, model: ir.Model) -> None:
        """Check an application of a rule; one of another kind of pass waits until its graph has been checked.

        A region that fails on any numbers of its inputs' types is tried again with the nodes that make its
        integers and booleans, because a rule may rest on what those prove. An application that changes the numbers
        by design is not compared.

        Raises:
            VerificationError: the replacement cannot be run, or its numbers differ.
        """
        if application.changes_numbers:
            self.verification.by_design.append(str(application))
            return
        if replacement is None:
            self._whole = application
            return
        try:
            alone = region_models(replacement, model)
            result = self._check(application, *alone)
            if result.fault is not None or not result.points:
                in_context = region_models(replacement, model, in_context=True)
                if _size(in_context) > _size(alone):
                    result = self._check(application, *in_context)
                    proven = result.points and result.fault is None
                    self.verification.in_context.extend([str(application)] if proven else [])
        except RequestError as error:
            result = Outcome(reasons=[str(error)])
        self._keep(application, result)

    def after_pass(self, outcome: PassOutcome, model: ir.Model) -> None:
        """Check a pass that is no rule.

        Raises:
            VerificationError: the model cannot be run any more, or its numbers differ.
        """
        if self._whole is not None and self._before is not None:
            # Passes that are no rules mostly compute the same in the same order, so float64 has little to add
            # here.
            result = self._check(self._whole, self._before, model, in_double=False)
            self._keep(self._whole, result)
        self._before = self._whole = None

    def _check(self, application: Application, before: ir.Model, after: ir.Model, *, in_double: bool = True) -> Outcome:
        seed = self._seed + _SEEDS_PER_APPLICATION * application.number
        return check_equivalence(
            before, after, self._prepare, seed=seed, in_double=in_double, tolerances=self._tolerances
        )

    def _keep(self, application: Application, result: Outcome) -> None:
        for expected, actual in result.points:
            self.verification.add(str(application), expected, actual, [])
        if result.fault is not None:
            self.verification.differences.append(result.fault.difference)
            raise self._failure(application, result.fault)
        if not result.points:
            self.verification.unverified.append(Unverified(str(application), result.reasons[0]))

    def _failure(self, application: Application, fault: Fault) -> VerificationError:
        where, needed = f"application {application}", "the numbers of the nodes it replaces"
        found = f"a difference at {sizes_text(fault.inputs)}: {fault.difference}"
        hint = f"leave the pass out with default,-{application.pass_name}"
        if self._folder is not None:
            text = str(VerificationError(where, found, needed=needed, hint=hint))
            place = self._folder / f"{application.number}-{application.pass_name}"
            written = write_reproducer(place, fault.before, fault.after, fault.inputs, text)
            hint += f"; the case is in {written}"
        return VerificationError(where, found, needed=needed, hint=hint)


def _size(models: tuple[ir.Model, ir.Model]) -> int:
    return sum(model.graph.num_nodes() for model in models)


class EachVerifier(Observer):
    """Compares the whole model with the source model after each pass that changed something.

    The source is run when this is made, before any pass can edit a model that was handed in without a copy. Behind a
    pass that changes the numbers by design, its result takes the source's place.
    """

    def __init__(
        self,
        evaluate: Evaluator,
        source: ir.Model,
        inputs: Sequence[Inputs],
        *,
        tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
    ) -> None:
        self.verification = Verification("each")
        self._evaluate = evaluate
        self._tolerances = tolerances
        self._source = source.clone()
        self._points = [(each, evaluate(source, each)) for each in inputs]

    def after_pass(self, outcome: PassOutcome, model: ir.Model) -> None:
        """Compare the model as the pass left it.

        Raises:
            VerificationError: the model cannot be run any more, or its numbers differ.
        """
        found: list[tuple[Inputs, dict[str, np.ndarray]]] = []
        for inputs, expected in self._points if outcome.applied else ():
            where = f"after pass {outcome.name}"
            try:
                actual = self._evaluate(model, inputs)
            except GraphwrightError as error:
                raise self._failure(where, f"a model that cannot be run: {error}") from error
            differences = self._differences(outcome, model, inputs, expected, actual)
            if not outcome.changes_numbers:
                self.verification.add(f"{where} at {sizes_text(inputs)}", expected, actual, differences)
            if differences:
                raise self._failure(where, f"other numbers at {sizes_text(inputs)}: {differences[0]}")
            found.append((inputs, actual))
        if outcome.changes_numbers and outcome.applied:
            self.verification.by_design.append(passes_text({outcome.name: outcome.applied}))
            self._source, self._points = model.clone(), found

    def _differences(
        self, outcome: PassOutcome, model: ir.Model, inputs: Inputs, expected: Inputs, actual: Inputs
    ) -> list[Difference]:
        if outcome.changes_numbers:
            return broken(expected, actual)
        if self.verification.by_design:
            return compare_behind(self._source, model, inputs, expected, actual, self._evaluate, self._tolerances)
        return compare_with_source(self._source, inputs, expected, actual, self._evaluate, self._tolerances)

    def _failure(self, where: str, found: str) -> VerificationError:
        hint = "run with verify=region, or bisect, to find the application"
        return VerificationError(where, found, needed="the source model's numbers", hint=hint)
