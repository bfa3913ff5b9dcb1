"""The single hook of a run: observers are told of every pass and every application, and may veto one.

Timing, statistics, printed diffs, region checks, explanations and bisection are all observers; the driver and
the pipeline know none of them by name.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from enum import Enum
from typing import TextIO

import onnx_ir as ir

from graphwright.engine import facts


class Reason(Enum):
    """Why a rewrite was not made. The list is closed: reports and tests count by it."""

    STRUCTURE = "an operator or constant of the pattern is not there"
    OPSET = "the model's operator set lacks the replacement"
    DTYPE = "an element type that the replacement does not take"
    RANK = "the wrong number of axes"
    SHAPE = "sizes that do not fit"
    UNKNOWN = "a shape or type that is not known"
    CONSTANT = "a value that had to be constant, or another constant"
    ATTRIBUTE = "an attribute that the replacement cannot express"
    SHARED = "an interior value is used elsewhere"
    GRAPH_OUTPUT = "an interior value is an output of its graph"
    ORDER = "no place in the graph lies behind all inputs and before all users"
    OUTPUT_TYPE = "the replacement would change an output's dtype or shape"
    KERNEL = "a compiled kernel does it faster"
    RANGE = "numbers that the element type may not hold"
    SENSITIVE = "a result that a narrower element type would spoil"
    SLOWER = "another spelling was measured to be faster here"
    LOWERED = "a lowering of this pipeline has spelled it so, and would again"


@dataclass(frozen=True)
class Application:
    """One rewrite, made or about to be: its number is the same in every run of the same pipeline on the same model.

    ``changes_numbers``: by design, as its pass says.
    """

    number: int
    pass_name: str
    pattern: str
    graph: str
    nodes: tuple[str, ...]
    changes_numbers: bool = False

    def __str__(self) -> str:
        where = f" in {self.graph}" if self.graph else ""
        nodes = f": {', '.join(self.nodes)}" if self.nodes else ""
        return f"#{self.number} {self.pass_name}{where}{nodes}"


@dataclass(frozen=True)
class RefusalRecord:
    """A complete match that was not rewritten."""

    pass_name: str
    pattern: str
    node: str
    reason: Reason
    detail: str


@dataclass(frozen=True)
class MissRecord:
    """An incomplete match: how many of the pattern's operators it bound, and what was needed next."""

    pass_name: str
    pattern: str
    node: str
    matched: int
    size: int
    detail: str


@dataclass(frozen=True)
class Replacement:
    """What an application takes out and puts in, before it is committed."""

    inputs: tuple[ir.Value, ...]
    old_nodes: tuple[ir.Node, ...]
    new_nodes: tuple[ir.Node, ...]
    new_constants: tuple[ir.Value, ...]
    old_outputs: tuple[ir.Value, ...]
    new_outputs: tuple[ir.Value, ...]
    new_functions: tuple[ir.Function, ...] = ()


@dataclass(frozen=True)
class PassOutcome:
    """One pass of one run."""

    name: str
    family: str
    is_rule: bool
    applied: int
    refusals: tuple[RefusalRecord, ...]
    misses: tuple[MissRecord, ...]
    seconds: float
    nodes_before: int
    nodes_after: int
    changes_numbers: bool = False


class Observer:
    """Base of observers: every hook does nothing."""

    def before_pass(self, name: str, model: ir.Model) -> None:
        """Called before each pass, with the model as it stands."""

    def should_apply(self, number: int) -> bool:
        """Tell whether the application of this number may be made; one no ends the run's rewriting."""
        return True

    def slower_than(self, pass_name: str, nodes: Sequence[ir.Node]) -> str:
        """Name what is faster than a rule's replacement of these nodes; an empty text lets the rule go on."""
        return ""

    def before_commit(self, application: Application, replacement: Replacement | None, model: ir.Model) -> None:
        """Called with each application before the graph is edited; raises to stop the run.

        A pass that is no rule gives one application with no replacement, after it has run.
        """

    def after_pass(self, outcome: PassOutcome, model: ir.Model) -> None:
        """Called after each pass whose graph has been checked."""


class StopAfter(Observer):
    """Lets the first ``limit`` applications through."""

    def __init__(self, limit: int) -> None:
        self.limit = limit

    def should_apply(self, number: int) -> bool:
        """Allow numbers up to the limit."""
        return number <= self.limit


class Record(Observer):
    """Keeps every application and outcome of a run."""

    def __init__(self) -> None:
        self.applications: list[Application] = []
        self.outcomes: list[PassOutcome] = []

    def before_commit(self, application: Application, replacement: Replacement | None, model: ir.Model) -> None:
        """Keep the application."""
        self.applications.append(application)

    def after_pass(self, outcome: PassOutcome, model: ir.Model) -> None:
        """Keep the outcome."""
        self.outcomes.append(outcome)


class PrintChanges(Observer):
    """Prints a diff of the node list after each pass that changed something."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.lines: list[str] = []

    def before_pass(self, name: str, model: ir.Model) -> None:
        """Remember the nodes as they were."""
        self.lines = node_lines(model)

    def after_pass(self, outcome: PassOutcome, model: ir.Model) -> None:
        """Print what is different now."""
        diff = unified_diff(
            self.lines, node_lines(model), f"before {outcome.name}", f"after {outcome.name}", lineterm=""
        )
        for line in diff:
            print(line, file=self.stream)


class Progress(Observer):
    """Reports the name of each pass as it starts, and how many are done."""

    def __init__(self, report: Callable[[str, int, int], None], names: Sequence[str]) -> None:
        self.report = report
        self.total = len(names)
        self.done = 0

    def before_pass(self, name: str, model: ir.Model) -> None:
        """Report the pass."""
        self.report(name, self.done, self.total)
        self.done += 1


def node_lines(model: ir.Model) -> list[str]:
    """Return a line per node of every graph of a model, for diffs."""
    return [line for graph in facts.graphs(model) for line in map(_node_line, graph)]


def _node_line(node: ir.Node) -> str:
    outputs = ", ".join(facts.describe(value) for value in node.outputs)
    inputs = ", ".join(value.name or "?" if value is not None else "" for value in node.inputs)
    domain = f"{node.domain}." if node.domain else ""
    attributes = ", ".join(
        f"{name}={given.value}" for name, given in sorted(node.attributes.items()) if given.type not in _BULKY
    )
    return f"{outputs} = {domain}{node.op_type}<{attributes}>({inputs})"


_BULKY = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.TENSOR, ir.AttributeType.TENSORS}
