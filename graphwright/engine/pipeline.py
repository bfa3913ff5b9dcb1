"""Ordered passes: their catalogue, their text form, and the run.

Pipeline text is pass names separated by commas, keyword arguments in parentheses: ``fuse-gelu,damf(rank=1)``.
``default`` stands for the target's own pipeline, and then ``-name`` takes a pass out and every other pass is put
where its family and the catalogue place it. Text without ``default`` is run exactly as written.
"""

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedFunctionsPass, RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from graphwright.engine import facts
from graphwright.engine.observe import Application, PassOutcome, Reason, RefusalRecord
from graphwright.engine.pipeline_text import FIRST, check_items, parse_item, split, to_text
from graphwright.engine.rewrite import Rule, Run, apply_rule
from graphwright.engine.structure import check_structure
from graphwright.errors import CheckError, GraphwrightError, PipelineError

FAMILIES = ("lift", "transform", "lower")


@dataclass(frozen=True)
class FunctionPass:
    """A pass that is no local rule: ``function(model, **options)`` edits in place and tells whether it changed
    anything, or returns another model. ``changes_numbers``: by design, as in a ``Rule``. With ``tells``, the function
    gets ``refuse=``, to be called with a node, a ``Reason`` and a detail for what it leaves as it is. Parameters of
    the function that are keyword-only are no options of pipeline text."""

    name: str
    function: Callable[..., bool | ir.Model]
    changes_numbers: bool = False
    tells: bool = False

    @property
    def doc(self) -> str:
        """The documentation of the file that defines the pass."""
        module = inspect.getmodule(self.function)
        return inspect.getdoc(self.function) or (module.__doc__ if module else "") or ""


@dataclass(frozen=True)
class RuleMaker:
    """A rule that takes options: ``make(model, **options)`` checks them, and the model, before anything changes.

    ``changes_numbers``: with some options by design; the rule that is made says whether it does.
    """

    name: str
    make: Callable[..., Rule]
    changes_numbers: bool = False

    @property
    def doc(self) -> str:
        """The documentation of the file that defines the pass."""
        module = inspect.getmodule(self.make)
        return (module.__doc__ or "") if module else ""


Pass = Rule | FunctionPass | RuleMaker


@dataclass(frozen=True)
class Step:
    """One pass of a pipeline, with its arguments."""

    implementation: Pass
    family: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The pass's name."""
        return self.implementation.name

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}({','.join(f'{name}={to_text(value)}' for name, value in self.options.items())})"


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order in which they run; ``str()`` gives text that parses back to the same pipeline."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return ",".join(str(step) for step in self.steps)

    @property
    def changing(self) -> frozenset[str]:
        """The names of the passes that may change the numbers by design."""
        return frozenset(step.name for step in self.steps if step.implementation.changes_numbers)


@dataclass(frozen=True)
class Catalogue:
    """Every pass there is, by family and in running order, and the default pipeline of each target."""

    families: Mapping[str, tuple[Pass, ...]]
    defaults: Mapping[str, tuple[str, ...]]

    def steps(self) -> list[Step]:
        """Return every pass, in running order."""
        return [Step(each, family) for family in FAMILIES for each in self.families.get(family, ())]

    def find(self, name: str) -> Step:
        """Return the pass of this name.

        Raises:
            PipelineError: there is none; the message names the nearest.
        """
        steps = {step.name: step for step in self.steps()}
        if name not in steps:
            near = get_close_matches(name, steps, 3) or sorted(steps)
            raise PipelineError(
                "pipeline",
                f"the unknown pass {name!r}",
                needed="a pass of the catalogue",
                hint=", ".join(near),
            )
        return steps[name]

    def default(self, target: str) -> Pipeline:
        """Return the default pipeline of a target.

        Raises:
            PipelineError: no such target.
        """
        if target not in self.defaults:
            known = ", ".join(sorted(self.defaults))
            raise PipelineError("target", repr(target), needed=f"one of {known}")
        return Pipeline(tuple(self.find(name) for name in self.defaults[target]))

    def parse(self, text: str, target: str) -> Pipeline:
        """Read pipeline text.

        Raises:
            PipelineError: text that is not of the form, an unknown pass or argument.
        """
        items = [parse_item(item) for item in split(text)]
        check_items(items)
        if not any(name == "default" for name, _ in items):
            return Pipeline(tuple(self._step(name, options) for name, options in items))
        chosen = {step.name: step for step in self.default(target).steps}
        for name, options in items:
            if name.startswith("-"):
                chosen.pop(self.find(name[1:]).name, None)
            elif name != "default":
                chosen[name] = self._step(name, options)
        order = [step.name for step in self.steps()]
        return Pipeline(tuple(sorted(chosen.values(), key=lambda step: order.index(step.name))))

    def _step(self, name: str, options: dict[str, Any]) -> Step:
        step = self.find(name)
        takes = _option_names(step.implementation)
        if FIRST in options and takes:
            options = {takes[0]: options[FIRST], **{name: given for name, given in options.items() if name != FIRST}}
        unknown = [option for option in options if option not in takes]
        if unknown:
            needed = f"one of {', '.join(takes)}" if takes else "none: this pass takes no arguments"
            raise PipelineError(name, f"the argument {unknown[0] or options[FIRST]!r}", needed=needed)
        return Step(step.implementation, step.family, options)


def _option_names(implementation: Pass) -> list[str]:
    """Return the options that pipeline text may give."""
    if isinstance(implementation, Rule):
        return []
    made = implementation.function if isinstance(implementation, FunctionPass) else implementation.make
    parameters = list(inspect.signature(made).parameters.values())[1:]
    return [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY]


def run_pipeline(run: Run, pipeline: Pipeline) -> ir.Model:
    """Run the passes in order and return the model; what happened is told to the run's observers.

    After each pass that changed something the unused nodes and functions are removed and the structure is checked.
    Rules of the other families leave alone what a lowering of the same pipeline has made, in this run or an earlier one
    (``Reason.LOWERED``): so a second run of a pipeline has nothing to do.

    Raises:
        StructureError: a pass left a graph that is not valid.
        CheckError: a pass failed; its own error is the cause.
        VerificationError: an observer found different numbers.
    """
    for index, step in enumerate(pipeline.steps):
        if run.stopped:
            break
        later = () if step.family == "lower" else pipeline.steps[index:]
        run.to_come = frozenset(each.name for each in later if each.family == "lower")
        for observer in run.observers:
            observer.before_pass(step.name, run.model)
        outcome = _run_step(run, step)
        for observer in run.observers:
            observer.after_pass(outcome, run.model)
    return run.model


def _run_step(run: Run, step: Step) -> PassOutcome:
    started, before = time.perf_counter(), _count_nodes(run.model)
    applied_before = run.applied
    run.refusals, run.misses = [], []
    changes_numbers = step.implementation.changes_numbers
    try:
        if isinstance(step.implementation, RuleMaker):
            rule = _made(step.implementation, run.model, step.options)
            changes_numbers = rule.changes_numbers
            apply_rule(rule, run)
        elif isinstance(step.implementation, Rule):
            apply_rule(step.implementation, run)
        elif run.may_apply():
            _apply_function(run, step.implementation, step.options)
    except GraphwrightError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise CheckError(f"pass {step.name}", found, hint=f"leave it out with default,-{step.name}") from error
    applied = run.applied - applied_before
    if applied:
        _remove_unused(run.model)
        check_structure(run.model, f"after pass {step.name}")
    return PassOutcome(
        step.name,
        step.family,
        isinstance(step.implementation, Rule | RuleMaker),
        applied,
        tuple(run.refusals),
        tuple(run.misses),
        time.perf_counter() - started,
        before,
        _count_nodes(run.model),
        changes_numbers,
    )


def _made(maker: RuleMaker, model: ir.Model, options: Mapping[str, Any]) -> Rule:
    rule = maker.make(model, **options)
    if rule.changes_numbers and not maker.changes_numbers:
        needed = "a RuleMaker that says changes_numbers too, so that the model before it is kept"
        raise CheckError(f"pass {maker.name}", "a rule that changes numbers", needed=needed)
    return rule


def _apply_function(run: Run, implementation: FunctionPass, options: Mapping[str, Any]) -> None:
    given = {**options, "refuse": partial(_refuse, run, implementation.name)} if implementation.tells else options
    result = implementation.function(run.model, **given)
    if isinstance(result, ir.Model):
        run.replace_model(result)
    elif not result:
        return
    else:
        run.replace_model(run.model)
    run.applied += 1
    application = Application(run.applied, implementation.name, "", "", (), implementation.changes_numbers)
    for observer in run.observers:
        observer.before_commit(application, None, run.model)


def _refuse(run: Run, name: str, node: ir.Node, reason: Reason, detail: str) -> None:
    run.refusals.append(RefusalRecord(name, node.op_type, facts.place(node), reason, detail))


def _remove_unused(model: ir.Model) -> None:
    RemoveUnusedNodesPass()(model)
    # onnx_ir gives this pass's constructor no types.
    if model.functions and RemoveUnusedFunctionsPass()(model).modified:  # type: ignore[no-untyped-call]
        # A runtime may refuse a domain that it does not know, even if no node is of it.
        RemoveUnusedOpsetsPass()(model)


def _count_nodes(model: ir.Model) -> int:
    """Return the number of nodes; a call of a function is one, whatever its body holds."""
    return sum(1 for _ in model.graph.all_nodes())
