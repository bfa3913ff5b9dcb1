"""The report as text for a terminal."""

import io
import shutil
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from graphwright.engine.by_design import passes_text
from graphwright.report import TARGET, Latency, PassRow, Report, Verification
from graphwright.report.tuning import Tuning

_MIB = 2**20
# Where the output is no terminal: a file or a pipe.
_WIDTH = 120
# Operators that are the same before and after say nothing; of the others the most frequent are shown.
_MOST_OPERATORS = 12
# A sentence names so many outputs, the table of the page all.
_MOST_OUTPUTS = 3
# Nodes that the target does not take: the rest are in the report as JSON and HTML.
_MOST_REFUSALS = 3


def render(report: Report, width: int | None) -> str:
    """Return the report's tables as plain text."""
    parts: list[Text | Table] = [Text(headline(report)), _passes(report), _census(report)]
    if report.verification is not None:
        parts.append(Text(verified(report.verification)))
    refusals = [one for one in report.explanations if one.pass_name == TARGET]
    if refusals:
        parts.append(Text(f"{report.target} would not take {len(refusals)} of the nodes, for example:"))
        parts += [Text(f"  {one.node}: {one.detail}") for one in refusals[:_MOST_REFUSALS]]
    if report.tuning is not None:
        parts += [Text(report.tuning.outcome), *([_tuning(report.tuning)] if report.tuning.regions else [])]
    if report.latency:
        parts.append(_latency(report.latency))
    return _printed(parts, width)


def latency_text(latency: Sequence[Latency], width: int | None = None) -> str:
    """Return times as a table: a row a shape, a column a contender, and the ratios to the first one."""
    return _printed([_latency(latency)], width)


def _printed(parts: Sequence[Text | Table], width: int | None) -> str:
    stream = io.StringIO()
    width = width or shutil.get_terminal_size((_WIDTH, 24)).columns
    console = Console(file=stream, width=width, color_system=None, highlight=False)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def headline(report: Report) -> str:
    """Return one line: what was compiled, for what, and what it gained."""
    before, after = report.before, report.after
    weights = f"weights {before.weight_bytes / _MIB:.1f} -> {after.weight_bytes / _MIB:.1f} MiB"
    padding = ", zeros at hidden positions (padding=free)" if report.padding == "free" else ""
    return f"{report.model} for {report.target}: {before.nodes} -> {after.nodes} nodes, {weights}{padding}"


def refused(row: PassRow) -> str:
    """Return the reasons of a pass's refusals with their counts, most frequent first."""
    ordered = sorted(row.refused.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered)


def verified(verification: Verification) -> str:
    """Return a sentence on how the result was checked, and what came of it."""
    by_design = f"Changes numbers by design: {passes_text(verification.by_design)}"
    if verification.mode == "off":
        reason = f": {verification.unverified[0]}" if verification.unverified else " (verify=off)"
        alone = f" {verification.regions} comparisons of single steps." if verification.regions else ""
        return f"Not verified{reason}.{alone}" + (f" {by_design}." if verification.by_design else "")
    parts = []
    if verification.by_design:
        parts.append(f"{by_design}. {_deviations(verification)}")
    elif verification.points:
        worst = max(verification.points, key=lambda point: point.absolute)
        relative = max(point.relative for point in verification.points)
        parts.append(
            f"Same numbers as {verification.reference} at {len(verification.points)} shapes; "
            f"worst difference {worst.absolute:.1e} (relative {relative:.1e})."
        )
    if verification.regions:
        parts.append(f"{verification.regions} comparisons of single steps.")
    if verification.mode == "region" and verification.by_design:
        count = sum(verification.by_design.values())
        parts.append(f"{count} step{'s' * (count != 1)} not compared, by design.")
    if verification.skipped:
        parts.append(f"Skipped {len(verification.skipped)} shapes that the source cannot run.")
    if verification.unverified:
        parts.append(f"{len(verification.unverified)} steps could not be compared alone.")
    return " ".join(parts)


def _deviations(verification: Verification) -> str:
    kept = f"worst difference {verification.kept_absolute:.1e} (relative {verification.kept_relative:.1e})"
    off = "; ".join(map(str, verification.deviations[:_MOST_OUTPUTS]))
    more = len(verification.deviations) - _MOST_OUTPUTS
    off += f"; and {more} further outputs" if more > 0 else ""
    where = f"{verification.reference} at {len(verification.points)} shapes"
    return f"Off from {where}: {off}. All other passes keep the numbers: {kept}."


def changed_operators(report: Report) -> list[tuple[str, int, int]]:
    """Return operators whose count changed, with both counts, the largest change first."""
    names = {*report.before.operators, *report.after.operators}
    rows = [(name, report.before.operators.get(name, 0), report.after.operators.get(name, 0)) for name in names]
    changed = [row for row in rows if row[1] != row[2]]
    return sorted(changed, key=lambda row: (-abs(row[1] - row[2]), row[0]))


def _passes(report: Report) -> Table:
    table = _table("pass", "family", title="Passes")
    table.columns[0].no_wrap = True
    for name in ("applied", "in result", "nodes", "seconds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("refused")
    shown = [row for row in report.passes if row.applied or row.refused]
    for row in shown:
        nodes = f"{row.nodes_before} -> {row.nodes_after}" if row.nodes_before != row.nodes_after else ""
        surviving = "-" if row.surviving is None else str(row.surviving)
        cells = (row.name, row.family, str(row.applied), surviving, nodes, f"{row.seconds:.3f}", refused(row))
        table.add_row(*map(escape, cells))
    if len(shown) < len(report.passes):
        table.caption = f"{len(report.passes) - len(shown)} further passes found nothing to do"
        table.caption_justify = "left"
    return table


def _table(*columns: str, title: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _census(report: Report) -> Table:
    changed = changed_operators(report)
    table = _table("operator", title="Operators")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for name, before, after in changed[:_MOST_OPERATORS]:
        table.add_row(escape(name), str(before), str(after))
    if len(changed) > _MOST_OPERATORS:
        table.add_row(f"({len(changed) - _MOST_OPERATORS} more)", "", "")
    table.add_row("all", str(report.before.nodes), str(report.after.nodes), end_section=True)
    return table


def _tuning(tuning: Tuning) -> Table:
    table = _table("choice", title="Tuning: median ms of each alternative")
    table.add_column("regions", justify="right")
    for name in ("tried", "chosen", "origin"):
        table.add_column(name)
    for one in (*tuning.regions, *([tuning.whole] if tuning.whole is not None else [])):
        tried = ", ".join(f"{name} {taken:.3f}" for name, taken in one.milliseconds.items())
        chosen = f"{one.chosen} (default)" if one.chosen == one.default else one.chosen
        origin = f"{one.origin}: {one.note}" if one.note else one.origin
        table.add_row(*map(escape, (one.choice, str(one.count), tried or "-", chosen, origin)))
    return table


def _latency(latency: Sequence[Latency]) -> Table:
    contenders = list(dict.fromkeys(one.contender for one in latency))
    table = _table("shape", title="Latency in ms, median (p10 to p90)")
    for name in contenders:
        table.add_column(escape(name), justify="right")
    for name in contenders[1:]:
        table.add_column(f"{escape(name)} / {escape(contenders[0])}", justify="right")
    cells = {(one.shape, one.contender): one for one in latency}
    for shape in dict.fromkeys(one.shape for one in latency):
        row = [cells.get((shape, name)) for name in contenders]
        times = ["-" if one is None else f"{one.median:.2f} ({one.p10:.2f} to {one.p90:.2f})" for one in row]
        table.add_row(escape(shape), *times, *(_ratio(one, row[0]) for one in row[1:]))
    return table


def _ratio(one: Latency | None, base: Latency | None) -> str:
    return "-" if one is None or base is None or not base.median else f"{one.median / base.median:.3f}"
