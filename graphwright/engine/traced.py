"""Patterns given as a PyTorch function: what is told of them, and where the patterns traced from them are kept.

A ``Traced`` stands in a rule's ``patterns`` like a pattern function. This module never imports torch: it reads what
``graphwright.tracing`` has recorded, in this order:

1. the record beside the function's file, where it is of the installed exporters, or where none is installed;
2. the user's cache, by function, description and versions of the exporters;
3. what ``graphwright.tracing.prepare`` has traced in this process (it does so where torch is loaded anyway, or where
   nothing at all is recorded);
4. the record, of whatever exporters.

A record of another source or description than the function's own counts as none.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from platformdirs import user_cache_dir

from graphwright import __version__
from graphwright.engine.pattern import GraphPattern
from graphwright.engine.traced_arguments import Argument, places
from graphwright.engine.traced_pattern import read_pattern
from graphwright.engine.traced_source import named, source_of
from graphwright.errors import LoadError, UsageError

# What makes the graphs; another version of one of them may spell a function in another way.
EXPORTERS = ("torch", "onnxscript")

# Raised when the form of the records, or how patterns are made of graphs, changes.
FORMAT = 1

# As many sizes are told from each other when a function is traced.
MOST_SIZES = 6

# Larger files are no records.
LARGEST_RECORD = 1 << 20


@dataclass(frozen=True, eq=False)
class Traced:
    """A pattern that is traced from a PyTorch function, or a ``torch.nn.Module`` class, at example shapes.

    ``function`` is the function, or ``"module:name"``, which is imported only to be traced. ``arguments`` are its
    tensors: a type and sizes each, as in ``{"x": "T[..., E]", "weight": "T[E]"}``. A type that is no dtype's name is a
    variable, and so is a size that is no number; ``...`` is any number of axes. What the text says is asked of the
    values that a match binds: as many axes, the same sizes and types where the names are the same.

    ``parameters`` are numbers of the rule, which the function takes by name, with two examples each: constants of the
    graph that change with them bind them. ``sizes`` names those sizes that the function reads as numbers, with two
    examples each; the others are dynamic when it is traced. ``dtype`` is the one that type variables are traced at, or
    "half": float16 and bfloat16; a variable matches other types too, a dtype's name that type alone. ``bound`` are
    further arguments of the rule's rewrite. ``lifted``: the pattern is also made in the form that the lift family
    leaves, for a rule that runs behind it.

    Raises:
        UsageError: text that is not of the form, or that contradicts itself.
    """

    function: str | Callable[..., Any]
    arguments: Mapping[str, str]
    parameters: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    dtype: str = "float32"
    bound: Mapping[str, Any] = field(default_factory=dict)
    lifted: bool = True
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            suffix = "" if self.dtype == "float32" else f"_{self.dtype}"
            object.__setattr__(self, "name", named(self.function)[1] + suffix)
        for name, examples in (*self.parameters.items(), *self.sizes.items()):
            if len(set(examples)) != 2:
                raise UsageError(f"pattern {self.name}", f"{name}={examples}", needed="two examples that differ")
        names = places(self.given)
        if not self.given or len(names) > MOST_SIZES or self.parameters.keys() & self.given.keys():
            needed = f"one argument at least, {MOST_SIZES} names of sizes at most, other names for parameters"
            found = (
                f"arguments {', '.join(self.given)}; sizes {', '.join(names)}; parameters {', '.join(self.parameters)}"
            )
            raise UsageError(f"pattern {self.name}", found, needed=needed)
        if not self.sizes.keys() <= names.keys():
            raise UsageError(f"pattern {self.name}", f"sizes {', '.join(self.sizes)}", needed=f"of {', '.join(names)}")

    @cached_property
    def given(self) -> dict[str, Argument]:
        """The arguments, read."""
        return {name: Argument.parse(name, text) for name, text in self.arguments.items()}

    @cached_property
    def digest(self) -> str:
        """What the traced patterns depend on besides the exporters: the function's source and the description."""
        told = [self.arguments, self.parameters, self.sizes, self.dtype, self.lifted, FORMAT]
        told = [dict(each) if isinstance(each, Mapping) else each for each in told]
        text = json.dumps([source_of(self.function), *told])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def record_path(self) -> Path:
        """Where the record that is shipped with the function lies, or would lie."""
        return named(self.function)[2].parent / "recorded" / f"{self.name}.json"


@dataclass(frozen=True)
class Recording:
    """Traced patterns as they are kept: what they were traced from, by which exporters, and one entry a pattern.

    ``notes`` say why an exporter has given none.
    """

    digest: str
    versions: Mapping[str, str]
    patterns: tuple[Any, ...]
    notes: Mapping[str, str] = field(default_factory=dict)

    def read(self, traced: Traced) -> tuple[GraphPattern, ...]:
        """Return the patterns.

        Raises:
            LoadError: an entry is not of the form.
        """
        numbers = dict(traced.parameters)
        return tuple(read_pattern(traced.name, each, traced.given, numbers, traced.bound) for each in self.patterns)

    def text(self) -> str:
        """Return it as JSON, one line a node, as it is kept."""
        head = {"digest": self.digest, "versions": dict(self.versions), "notes": dict(self.notes)}
        lines = [f" {_json(name)}: {_json(each)}," for name, each in head.items()]
        patterns = ",\n".join(_pattern_text(each) for each in self.patterns)
        return "\n".join(["{", *lines, f' "patterns": [{patterns}]', "}", ""])


def _json(told: Any) -> str:
    return json.dumps(told, allow_nan=False)


def _pattern_text(entry: Mapping[str, Any]) -> str:
    nodes = ",\n".join(f"  {_json(node)}" for node in entry["nodes"])
    return f'{{\n  "exporters": {_json(entry["exporters"])}, "roots": {_json(entry["roots"])}, "nodes": [\n{nodes}]}}'


@lru_cache(maxsize=1)
def installed_versions() -> dict[str, str]:
    """Return the versions of the exporters, without what stands behind a plus; empty where one is not installed."""
    try:
        return {name: version(name).partition("+")[0] for name in EXPORTERS}
    except PackageNotFoundError:
        return {}


def cache_path(traced: Traced) -> Path:
    """Return where the user's cache keeps, or would keep, what the installed exporters make of a function."""
    # Our own version too: the passes that normalize a graph decide what its pattern is.
    told = [traced.digest, installed_versions(), __version__]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    return Path(user_cache_dir("graphwright")) / "traced" / f"{traced.name}-{key[:32]}.json"


def read_recording(path: Path, traced: Traced) -> Recording | None:
    """Return what a file records of a function, or None: not there, damaged, or of another source."""
    try:
        if path.stat().st_size > LARGEST_RECORD:
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
        versions = {str(name): str(number) for name, number in told["versions"].items()}
        recording = Recording(told["digest"], versions, tuple(told["patterns"]), dict(told.get("notes", {})))
        if recording.digest != traced.digest:
            return None
        recording.read(traced)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, LoadError):
        return None
    return recording


def write_recording(path: Path, recording: Recording) -> None:
    """Write a file aside and move it into place.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=".", suffix=".json", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(recording.text())
        os.chmod(aside, 0o644)  # a temporary file is the owner's alone
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


# What this process has settled on, for each description.
_SETTLED: WeakKeyDictionary[Traced, tuple[GraphPattern, ...]] = WeakKeyDictionary()


def fresh_recording(traced: Traced) -> Recording | None:
    """Return the patterns of the installed exporters, recorded or cached; None where they would have to be traced."""
    recorded = read_recording(traced.record_path, traced)
    installed = installed_versions()
    if recorded is not None and (not installed or recorded.versions == installed):
        return recorded
    cached = read_recording(cache_path(traced), traced)
    return cached if cached is not None and cached.versions == installed else None


def settle(traced: Traced, recording: Recording) -> None:
    """Let the matcher use these patterns from now on.

    Raises:
        LoadError: an entry is not of the form.
    """
    _SETTLED[traced] = recording.read(traced)


def is_settled(traced: Traced) -> bool:
    """Tell whether this process has the patterns already."""
    return traced in _SETTLED


def graph_patterns(traced: Traced) -> tuple[GraphPattern, ...]:
    """Return the patterns that a description stands for, by the order above.

    Raises:
        UsageError: nothing is recorded, and nobody has traced it.
    """
    if traced not in _SETTLED:
        recording = fresh_recording(traced) or read_recording(traced.record_path, traced)
        if recording is None:
            hint = "call graphwright.tracing.prepare with the rule"
            raise UsageError(f"pattern {traced.name}", "nothing recorded", needed="traced patterns", hint=hint)
        settle(traced, recording)
    return _SETTLED[traced]
