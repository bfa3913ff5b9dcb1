"""Traced patterns: PyTorch functions become patterns, by what the installed exporters make of them.

``engine/traced.py`` says which patterns are used when. This package makes them: ``export.py`` (which imports torch)
traces each function twice, ``generalize.py`` finds what the two traces have in common.
"""

import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from graphwright.engine import traced as kept
from graphwright.engine.rewrite import Rule
from graphwright.engine.traced import Recording, Traced
from graphwright.errors import ExportError, LoadError, MissingDependencyError
from graphwright.tracing.generalize import Graph, NotGeneralError, generalize

if TYPE_CHECKING:
    from graphwright.tracing.export import Export

__all__ = ["Recording", "Traced", "prepare", "record"]


def traced_in(passes: Iterable[object]) -> list[Traced]:
    """Return the traced patterns of those passes that are rules."""
    rules = (each for each in passes if isinstance(each, Rule))
    return [each for rule in rules for each in rule.patterns if isinstance(each, Traced)]


def prepare(passes: Iterable[object]) -> None:
    """Find the patterns of all traced functions of the rules among some passes, tracing what has to be.

    Traced is what neither the records nor the cache have for the installed exporters, if torch is loaded already, and
    in any case what nothing is recorded of. It takes seconds, and the user's cache keeps it.

    Raises:
        MissingDependencyError: a function without a record, and no torch to trace it with.
        ExportError: a function without a record that cannot be traced.
    """
    missing = []
    for each in traced_in(passes):
        if not kept.is_settled(each):
            fresh = kept.fresh_recording(each)
            if fresh is None:
                missing.append(each)
            else:
                kept.settle(each, fresh)
    records = {each: kept.read_recording(each.record_path, each) for each in missing}
    due = [each for each in missing if records[each] is None or "torch" in sys.modules]
    found = _recorded_or_warned(due, records) if due else {}
    for each in missing:
        recording = found.get(each) or records[each]
        assert recording is not None
        kept.settle(each, recording)


def _recorded_or_warned(due: Sequence[Traced], records: dict[Traced, Recording | None]) -> dict[Traced, Recording]:
    found = {}
    for each, result in _trace(due).items():
        if isinstance(result, Recording):
            found[each] = result
            _keep(each, result)
            continue
        recorded = records[each]
        if recorded is None:
            raise result
        warnings.warn(f"{result}; the recorded pattern is used", RuntimeWarning, stacklevel=4)
        notes = {**recorded.notes, "failed": str(result)}
        # Kept too, or each process would try again.
        _keep(each, replace(recorded, versions=kept.installed_versions(), notes=notes))
    return found


def _keep(traced: Traced, recording: Recording) -> None:
    try:
        kept.write_recording(kept.cache_path(traced), recording)
    except OSError:
        return  # a folder that cannot be written costs time, no more


def record(given: Sequence[Traced]) -> dict[Traced, Recording]:
    """Return what the installed exporters make of some functions, without a look at records or cache.

    Raises:
        MissingDependencyError: no torch.
        ExportError: a function that cannot be traced, or whose traces have too little in common.
    """
    found = {}
    for each, result in _trace(given).items():
        if isinstance(result, ExportError):
            raise result
        found[each] = result
    return found


def _trace(given: Sequence[Traced]) -> dict[Traced, Recording | ExportError]:
    """Trace all at once, and one by one where that fails, so that one function does not harm the others."""
    try:
        export = import_module("graphwright.tracing.export")
    except ModuleNotFoundError as error:
        package = (error.name or "torch").split(".")[0]
        names = ", ".join(each.name for each in given)
        hint = "pip install graphwright[torch]"
        raise MissingDependencyError(f"pattern {names}", f"no package {package}", needed=package, hint=hint) from error
    if any(each.lifted for each in given):
        prepare(export.LIFT)
    try:
        pair = export.Export(given, 0), export.Export(given, 1)
        entries, notes = _entries(given, pair, export)
    except Exception as error:  # whatever torch or the function raises
        if len(given) > 1:
            return {each: result for one in given for each, result in _trace([one]).items()}
        return {given[0]: _export_error(given[0], error)}
    return {each: _recording(each, entries[each], notes[each]) for each in given}


def _entries(
    given: Sequence[Traced], pair: "tuple[Export, Export]", export: Any
) -> tuple[dict[Traced, list[dict[str, Any]]], dict[Traced, dict[str, str]]]:
    """Return the patterns of each function, one a spelling, and why an exporter has given none."""
    entries: dict[Traced, list[dict[str, Any]]] = {each: [] for each in given}
    notes: dict[Traced, dict[str, str]] = {each: {} for each in given}
    forms = (False, True) if any(each.lifted for each in given) else (False,)
    for (exporter, first), (_, second) in zip(*map(export.models_of, pair), strict=True):
        failed = next((each for each in (first, second) if isinstance(each, Exception)), None)
        if failed is not None and len(given) > 1:
            raise failed  # to be tried one by one
        if failed is not None:
            notes[given[0]][exporter] = f"{type(failed).__name__}: {(str(failed).splitlines() or [''])[0][:200]}"
            continue
        for lifted in forms:
            graphs = [
                each.graphs(export.normalized(model, lifted=lifted))
                for each, model in zip(pair, (first, second), strict=True)
            ]
            for each, one, other in zip(given, *graphs, strict=True):
                if each.lifted or not lifted:
                    _add(each, one, other, exporter + ("+lifted" if lifted else ""), entries[each], notes[each])
    return entries, notes


def _add(
    traced: Traced, first: Graph, second: Graph, exporter: str, entries: list[dict[str, Any]], notes: dict[str, str]
) -> None:
    try:
        entry = generalize(traced, first, second, exporter)
    except NotGeneralError as error:
        notes[exporter] = str(error)
        return
    if entry is None:
        notes[exporter] = "one operator already"
        return
    for other in entries:
        if {**other, "exporters": 0} == {**entry, "exporters": 0}:
            other["exporters"] += entry["exporters"]
            return
    entries.append(entry)


def _recording(traced: Traced, entries: list[dict[str, Any]], notes: dict[str, str]) -> Recording | ExportError:
    failed = {name: note for name, note in notes.items() if note != "one operator already"}
    newest = [name for name in failed if name.startswith("dynamo") and "lifted" not in name]
    if newest:
        return ExportError(f"pattern {traced.name}", f"{newest[0]}: {failed[newest[0]]}", needed="a general pattern")
    recording = Recording(traced.digest, kept.installed_versions(), tuple(entries), notes)
    try:
        recording.read(traced)
    except LoadError as error:
        return ExportError(f"pattern {traced.name}", error.found, needed="a function that uses all of its arguments")
    return recording


def _export_error(traced: Traced, error: Exception) -> ExportError:
    text = f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:300]}"
    made = ExportError(f"pattern {traced.name}", text, needed="a function that torch exports at these shapes")
    made.__cause__ = error
    return made
