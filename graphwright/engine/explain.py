"""Say what did not fuse and why: the nearest misses of a run, best first.

A complete match that was refused stands before an incomplete one; among those the larger matched share is
first. Each (pass, node) pair is listed once, with the pattern that came furthest.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from graphwright.engine.observe import MissRecord, PassOutcome, Reason, RefusalRecord

if TYPE_CHECKING:
    from rich.table import Table

# A pattern that found its root operator and nothing more, or less than a quarter of itself, was not meant
# here.
_FEWEST_MATCHED = 2
_SMALLEST_SHARE = 0.25


@dataclass(frozen=True)
class NearMiss:
    """A rewrite that was not made: where it would have started, how far it came and what was needed there."""

    pass_name: str
    pattern: str
    node: str
    reason: Reason
    detail: str
    matched: int | None = None
    size: int | None = None

    @property
    def share(self) -> float:
        """How much of the pattern was found; 1 for a complete match that was refused."""
        return 1.0 if self.matched is None or not self.size else self.matched / self.size

    @property
    def is_complete(self) -> bool:
        """Whether the whole pattern was found, and a guard refused it."""
        return self.matched is None

    @property
    def found(self) -> str:
        """How much of the pattern was found, as text."""
        return "all" if self.is_complete else f"{self.matched} of {self.size}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return {**asdict(self), "reason": self.reason.name, "share": round(self.share, 4)}


@dataclass(frozen=True)
class Explanation:
    """The nearest misses of a run, best first, and how many hopeless ones were left out."""

    misses: tuple[NearMiss, ...]
    hidden: int = 0

    def text(self) -> str:
        """Return one line a miss.

        Example:
            >>> miss = NearMiss("fuse-gelu", "erf_form", "Mul_3 (Mul)", Reason.DTYPE, "x is INT32")
            >>> print(Explanation((miss,)).text())
            Mul_3 (Mul): fuse-gelu matched all and was refused (DTYPE): x is INT32
        """
        lines = [_line(miss) for miss in self.misses] or ["Nothing came near."]
        if self.hidden:
            lines.append(f"{self.hidden} further nodes matched too little to be listed.")
        return "\n".join(lines)

    def table(self) -> "Table":
        """Return the misses as a table for a terminal."""
        from rich.table import Table

        table = Table("pass", "node", "found", "reason", "needed", title="Nearest misses")
        for miss in self.misses:
            table.add_row(*map(_escaped, (miss.pass_name, miss.node, miss.found, miss.reason.name, miss.detail)))
        if self.hidden:
            table.caption = f"{self.hidden} further nodes matched too little to be listed"
        return table

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        return {"misses": [miss.to_json() for miss in self.misses], "hidden": self.hidden}


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _line(miss: NearMiss) -> str:
    verdict = f"was refused ({miss.reason.name})" if miss.is_complete else "operators"
    joint = "and " if miss.is_complete else ""
    return f"{miss.node}: {miss.pass_name} matched {miss.found} {joint}{verdict}: {miss.detail}"


def explain(outcomes: Iterable[PassOutcome], *, rule: str | None = None, everything: bool = False) -> Explanation:
    """Return the nearest misses of a run that was made with ``explain`` on.

    ``rule`` keeps one pass. Matches of too little are left out and counted, unless ``everything`` is asked
    for.
    """
    best: dict[tuple[str, str], NearMiss] = {}
    for miss in _all(outcomes):
        key = (miss.pass_name, miss.node)
        if rule in (None, miss.pass_name) and (key not in best or _rank(miss) < _rank(best[key])):
            best[key] = miss
    # The sort is stable: equally near ones stay in the order of the passes, then of the graph.
    ordered = sorted(best.values(), key=_rank)
    kept = [miss for miss in ordered if everything or _is_near(miss)]
    return Explanation(tuple(kept), len(ordered) - len(kept))


def _all(outcomes: Iterable[PassOutcome]) -> Iterator[NearMiss]:
    for outcome in outcomes:
        yield from map(_of_refusal, outcome.refusals)
        yield from map(_of_miss, outcome.misses)


def _of_refusal(record: RefusalRecord) -> NearMiss:
    return NearMiss(record.pass_name, record.pattern, record.node, record.reason, record.detail)


def _of_miss(record: MissRecord) -> NearMiss:
    names = (record.pass_name, record.pattern, record.node)
    return NearMiss(*names, Reason.STRUCTURE, record.detail, record.matched, record.size)


def _rank(miss: NearMiss) -> tuple[bool, float, int]:
    return (not miss.is_complete, -miss.share, -(miss.matched or 0))


def _is_near(miss: NearMiss) -> bool:
    if miss.is_complete:
        return True
    return (miss.matched or 0) >= _FEWEST_MATCHED and miss.share >= _SMALLEST_SHARE
