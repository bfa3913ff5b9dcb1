"""docs/coverage.md: what is fused of every family through every exporter, and what is not, with reasons."""

from collections.abc import Sequence

from tests.zoo.checks import TARGETS, Result
from tests.zoo.exporters import EXPORTERS
from tests.zoo.families import CONFIGS, POINTS

KINDS = ("attention", "norm", "rotary", "activation", "router")
_LONGEST = 240

HEAD = """# Coverage

What graphwright fuses of {families} families of models through {exporters} ways to export them: found against
expected. Written by `make coverage`; do not edit.

Versions: {versions}.

Each model is tiny and random, with two layers and every parameter perturbed. *Expected* is what torch computes,
counted while it runs: attention, norm, rotary (tensors turned), activation (Gelu and Swish), router. *Found* is what
one operator says after the lift passes and the selections. `all`: everything is found and the numbers hold, and a
second run of a pipeline changes nothing. Numbers: the graphs of the targets {targets}, run by ONNX Runtime
on the CPU, against torch, within the tolerances of `engine/compare.py`, at {points} sets of sizes that no trace saw
(padding left and right, length 1). `-`: the family has no attention of that name.
`broken`: the exporter's graph does not load or is wrong at all these sizes, before any pass; its gaps are listed, too.
"""


def page(results: Sequence[Result], versions: dict[str, str]) -> str:
    """The whole page."""
    by_pair = {(each.family, each.exporter): each for each in results}
    exporters = [name for name in EXPORTERS if any(each.exporter == name for each in results)]
    families = [name for name in CONFIGS if any(each.family == name for each in results)]
    text = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [
        HEAD.format(
            families=len(families),
            exporters=len(exporters),
            versions=text,
            targets=" and ".join(TARGETS),
            points=len(POINTS),
        ),
        _totals(results, exporters),
        _table(by_pair, families, exporters),
        _list("Gaps", "found / expected, and the first reason", list(_gaps(results))),
        _list("Numbers", "where an optimized graph differs", list(_faults(results))),
        _list(
            "Second runs",
            "pipelines that change their own result, and the passes that applied something",
            list(_again(results)),
        ),
        _list("Not exported", "in the exporter's own words", list(_untraced(results))),
        _list("Exporters' own faults", "the graph as exported against torch", list(_theirs(results))),
    ]
    return "\n".join(parts)


def _totals(results: Sequence[Result], exporters: Sequence[str]) -> str:
    rows = [f"## Totals\n\n| exporter | exported | {' | '.join(KINDS)} |", "|---" * (2 + len(KINDS)) + "|"]
    for exporter in exporters:
        own = [each for each in results if each.exporter == exporter and not each.is_absent]
        done = [each for each in own if each.found]
        sums = [
            f"{sum(each.found[kind] for each in done)}/{sum(each.expected[kind] for each in done)}" for kind in KINDS
        ]
        rows.append(f"| {exporter} | {len(done)} of {len(own)} | {' | '.join(sums)} |")
    return "\n".join(rows) + "\n"


def _table(by_pair: dict[tuple[str, str], Result], families: Sequence[str], exporters: Sequence[str]) -> str:
    rows = [
        f"## By family\n\nExpected: {', '.join(KINDS)}.\n",
        f"| family | expected | {' | '.join(exporters)} |",
        "|---" * (2 + len(exporters)) + "|",
    ]
    for family in families:
        cells = [_cell(by_pair.get((family, exporter))) for exporter in exporters]
        counts = next((each.expected for (name, _), each in by_pair.items() if name == family and each.expected), {})
        shown = " ".join(str(counts.get(kind, "?")) for kind in KINDS)
        rows.append(f"| {family} | {shown} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _cell(result: Result | None) -> str:
    if result is None:
        return ""
    if result.untraced:
        return "-" if result.is_absent else "not exported"
    if result.is_broken:
        return "broken"
    texts = [f"{kind} {count}" for kind, count in result.gaps.items()]
    texts += ["numbers"] if result.faults else []
    texts += ["second run"] if result.again else []
    return ", ".join(texts) or "all"


def _list(title: str, about: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}\n", f"{about[0].upper()}{about[1:]}.\n", *(lines or ["None."])]) + "\n"


def _gaps(results: Sequence[Result]) -> list[str]:
    return [
        f"- {each.family}, {each.exporter}: {kind} {count}: {plain(each.reasons.get(kind, ''))}"
        for each in results
        for kind, count in each.gaps.items()
    ]


def _faults(results: Sequence[Result]) -> list[str]:
    return [_first(each, each.faults) for each in results if each.faults]


def _again(results: Sequence[Result]) -> list[str]:
    """One line a pass, with the pairs where it applied something."""
    pairs: dict[str, list[str]] = {}
    for each in results:
        for step in each.again:
            pairs.setdefault(step, []).append(f"{each.family} ({each.exporter})")
    return [
        f"- {step}: {len(names)} of {len(results)} pairs, such as {names[0]}" for step, names in sorted(pairs.items())
    ]


def _untraced(results: Sequence[Result]) -> list[str]:
    return [
        f"- {each.family}, {each.exporter}: {plain(each.untraced)}"
        for each in results
        if each.untraced and not each.is_absent
    ]


def _theirs(results: Sequence[Result]) -> list[str]:
    return [_first(each, each.exporter_faults) for each in results if each.exporter_faults]


def _first(result: Result, faults: Sequence[str]) -> str:
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"- {result.family}, {result.exporter}: {plain(faults[0])}{more}"


def plain(text: str) -> str:
    """Text of others in one line that Markdown takes for text."""
    short = " ".join(text.split())
    short = short if len(short) <= _LONGEST else short[:_LONGEST].rsplit(" ", 1)[0] + " ..."
    return f"`{short.replace('`', chr(39))}`" if short else ""
