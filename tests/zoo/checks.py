"""One family through one exporter: what is fused, the numbers of two targets, and whether a second run changes more."""

import sys
import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.zoo.exporters import constants_of
from tests.zoo.families import POINTS, build, make_inputs
from tests.zoo.store import Stored, first_line, stored

if TYPE_CHECKING:
    import onnx_ir as ir

# Portable, and with ONNX Runtime's own operators.
TARGETS = ("onnx", "ort-cpu")
NOT_LOADED = "ONNX Runtime does not load it"


@dataclass(frozen=True)
class Result:
    """Counts by kind with reasons of the gaps; what was wrong with the numbers, ours and the exporter's own; and what a
    second run of a pipeline did where it changed the graph.
    """

    family: str
    exporter: str
    untraced: str = ""
    expected: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    exporter_faults: tuple[str, ...] = ()

    @property
    def gaps(self) -> dict[str, str]:
        """The kinds of which less than expected was found, or more, with found / expected."""
        return {
            kind: f"{found}/{self.expected[kind]}" for kind, found in self.found.items() if found != self.expected[kind]
        }

    @property
    def is_absent(self) -> bool:
        """Whether there is nothing to export: the family has no attention of that name."""
        return self.untraced.startswith("ValueError: ") and self.untraced.endswith(" attention")

    @property
    def is_failure(self) -> bool:
        """Whether graphwright fell short; what an exporter cannot trace, or gets wrong, is not its fault."""
        return not self.is_broken and bool(self.gaps or self.faults or self.again)

    @property
    def is_broken(self) -> bool:
        """Whether the graph is useless as exported: ONNX Runtime does not load it, or it is wrong at all sizes."""
        return len(self.exporter_faults) >= len(POINTS) or any(NOT_LOADED in each for each in self.exporter_faults)


def check(family: str, exporter: str, folder: Path | None = None) -> Result:
    """Export, or take the export from the store, and check it."""
    kept = stored(family, exporter, folder)
    return check_stored(kept) if kept.ok else Result(family, exporter, kept.reason)


def check_stored(kept: Stored) -> Result:
    """Check an export; nothing that goes wrong is raised, all is in the result."""
    from graphwright.frontends.onnx import load_onnx

    model, counts = load_onnx(kept.path), expected(kept.family)
    try:
        found, reasons = _coverage(model)
    except Exception as error:
        return Result(kept.family, kept.exporter, faults=(f"lift: {first_line(error)}",))
    faults: list[str] = []
    again: list[str] = []
    exporter_faults: list[str] = []
    for target in TARGETS:
        try:
            optimized, _ = _optimized(model, target)
            ours, theirs = _numbers(model, optimized, kept)
            again += [f"{target}: {name}" for name in _second_run(optimized, target)]
        except Exception as error:
            ours, theirs = [first_line(error)], []
        faults += [f"{target}: {each}" for each in ours]
        exporter_faults += [each for each in theirs if each not in exporter_faults]
    problems = (tuple(faults), tuple(again), tuple(exporter_faults))
    return Result(kept.family, kept.exporter, "", counts, found, reasons, *problems)


@cache
def expected(family: str, attention: str = "") -> dict[str, int]:
    """What torch computes in one run of the family, by kind; without a name of an attention, with the first it has."""
    import torch

    from graphwright.frontends.torch_call import NamedCall, inference, to_torch
    from graphwright.frontends.torch_kinds import Counter

    try:
        module = build(family, attention or "sdpa")
    except ValueError:
        if attention:
            raise
        module = build(family, "eager")
    inputs = make_inputs(family)
    call = NamedCall(module, list(inputs), constants_of(module))
    with inference(module), Counter() as counter:
        call(*(to_torch(array, torch.device("cpu")) for array in inputs.values()))
    return counter.counts


def _coverage(model: "ir.Model") -> tuple[dict[str, int], dict[str, str]]:
    from graphwright.coverage import Coverage, explained, lift
    from graphwright.engine.kinds import KINDS, count_kinds, pieces

    lifted, outcomes = lift(model)
    coverage = Coverage(None, count_kinds(lifted), explained(pieces(lifted), outcomes))
    return coverage.found, {kind: coverage.reason(kind) for kind in KINDS}


def _numbers(model: "ir.Model", optimized: "ir.Model", kept: Stored) -> tuple[list[str], list[str]]:
    """What is wrong with the numbers of the optimized graph, and what was wrong before it was optimized."""
    from graphwright.engine.compare import compare
    from graphwright.errors import LoadError

    try:
        run_source = _session(model)
    except LoadError as error:
        return [], [f"{NOT_LOADED}: {error.found}"]
    ours: list[str] = []
    theirs: list[str] = []
    run, not_loaded = None, ""
    try:
        run = _session(optimized)
    except LoadError as error:  # What the source says at each size is asked all the same.
        not_loaded = first_line(error)
    for inputs, wanted in kept.points:
        sizes = " ".join(f"{name}{list(array.shape)}" for name, array in inputs.items())
        source = _answer(run_source, inputs)
        if isinstance(source, str) or (differences := compare(wanted, source)):
            theirs.append(f"at {sizes}: {source if isinstance(source, str) else differences[0]}")
        if isinstance(source, str):
            continue
        found = not_loaded or _answer(run, inputs)
        if isinstance(found, str):
            ours.append(f"at {sizes}: {found}")
        # Where the export itself is off, the optimized graph must do what the export does.
        elif compare(wanted, found) and (differences := compare(source, found)):
            ours.append(f"at {sizes}: {differences[0]}")
    return ours, theirs


def _session(model: "ir.Model") -> Any:
    """ONNX Runtime, doing what is written and nothing else."""
    from graphwright.runtime.bound import BoundProfile
    from graphwright.runtime.ort import OrtSession
    from graphwright.runtime.signature import inputs_of

    anything = BoundProfile(inputs_of(model), ({},))
    return OrtSession(model, anything, threads=1, optimize=False, prepack=False, kernels=False)


def _answer(run: Any, inputs: Any) -> Any:
    """The outputs, or the first line of the error."""
    from graphwright.errors import GraphwrightError

    try:
        return run(inputs)
    except GraphwrightError as error:
        return first_line(error)


def _optimized(model: "ir.Model", target: str) -> tuple["ir.Model", list[str]]:
    """The model after the target's default pipeline, and the passes that changed it."""
    from graphwright.compilation.steps import build_pipeline
    from graphwright.engine.observe import Record
    from graphwright.engine.pipeline import run_pipeline
    from graphwright.engine.rewrite import Run

    record = Record()
    result = run_pipeline(Run(model.clone(), [record]), build_pipeline(None, target))
    return result, [outcome.name for outcome in record.outcomes if outcome.applied]


def _second_run(optimized: "ir.Model", target: str) -> list[str]:
    """The passes that applied something, where the whole of it changes the graph; one may undo another."""
    from graphwright.engine.isomorphism import same_graph

    result, names = _optimized(optimized, target)
    return [] if same_graph(optimized, result) else names


def prepare() -> None:
    """Load all that is needed, before processes are forked; and no warnings, as each export has its own."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    import onnxscript  # noqa: F401  # loaded once for all exports
    import torch
    import transformers.exporters.exporter_onnx  # noqa: F401  # as above

    import graphwright.frontends.torch  # noqa: F401  # as above

    torch.set_num_threads(1)
