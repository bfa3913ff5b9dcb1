"""What a rule is: data, a name with pattern functions and a rewrite function that share parameter names."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import onnx_ir as ir

from graphwright.engine import pattern, traced
from graphwright.engine.builder import Names
from graphwright.engine.observe import MissRecord, Observer, Reason, RefusalRecord
from graphwright.engine.pattern import GraphPattern
from graphwright.engine.traced import Traced


class Refusal(Exception):
    """A rewrite's no, with its reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


def require(condition: bool, reason: Reason, detail: str) -> None:
    """Refuse the rewrite unless the condition holds.

    Raises:
        Refusal: the condition is false.
    """
    if not condition:
        raise Refusal(reason, detail)


@dataclass(frozen=True)
class Rule:
    """A named rewrite: patterns, and a function from what they bind to the replacing value or values.

    A pattern is a function (``engine/pattern.py``), or a PyTorch function that is traced (``engine/traced.py``).
    The rewrite takes a ``Builder`` and any of the names that the patterns bind; a name that the match did not bind
    arrives as the parameter's default, or None, and ``**others`` takes what has no parameter of its own.
    ``changes_numbers`` says that it does so by design: the difference is then reported, not refused (``by_design``).
    """

    name: str
    patterns: tuple[Callable[..., Any] | Traced, ...]
    rewrite: Callable[..., Any]
    min_opset: int = 13
    changes_numbers: bool = False

    @property
    def doc(self) -> str:
        """The documentation of the file that defines the rule."""
        module = inspect.getmodule(self.rewrite)
        return (module.__doc__ or "") if module else ""


@dataclass
class Run:
    """What one run of a pipeline shares between its passes."""

    model: ir.Model
    observers: Sequence[Observer] = ()
    applied: int = 0
    stopped: bool = False
    refusals: list[RefusalRecord] = field(default_factory=list)
    misses: list[MissRecord] = field(default_factory=list)
    explain: bool = False
    # Lowerings that are still to come: what they have made in an earlier run of the pipeline stays as it is.
    to_come: frozenset[str] = frozenset()
    _names: Names | None = None

    @property
    def names(self) -> Names:
        """The names in use; read from the model when first asked for."""
        if self._names is None:
            self._names = Names(self.model)
        return self._names

    def replace_model(self, model: ir.Model) -> None:
        """Go on with another model, which a pass has made."""
        self.model, self._names = model, None

    def may_apply(self) -> bool:
        """Tell whether every observer allows the next application."""
        self.stopped = self.stopped or not all(each.should_apply(self.applied + 1) for each in self.observers)
        return not self.stopped


def graph_patterns(rule: Rule) -> Iterator[GraphPattern]:
    """Yield what a rule's patterns describe, in order; a traced one may have several spellings.

    Raises:
        UsageError: nothing is recorded of a traced pattern.
    """
    for each in rule.patterns:
        if isinstance(each, Traced):
            yield from traced.graph_patterns(each)
        else:
            yield _described(each)


@lru_cache(maxsize=1024)
def _described(function: Callable[..., Any]) -> GraphPattern:
    """Return what a pattern function describes; each is called once."""
    return pattern.trace(function)


@lru_cache(maxsize=1024)
def _parameters(function: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """Return the names a rewrite takes with their defaults, and whether it takes all others too."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    named = [each for each in parameters if each.kind is not each.VAR_KEYWORD]
    defaults = {each.name: None if each.default is each.empty else each.default for each in named}
    return defaults, len(named) < len(parameters)


def arguments(function: Callable[..., Any], bindings: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of a rewrite for what a match bound."""
    defaults, takes_all = _parameters(function)
    known = {name: value for name, value in bindings.items() if takes_all or name in defaults}
    return defaults | known
