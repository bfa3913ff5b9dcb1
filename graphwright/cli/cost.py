"""What ``inspect --cost`` and ``inspect --damf-table`` print."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from graphwright.cli.output import one_line, say, table

_HEADINGS = {
    "static_macs": "static MACs",
    "dynamic_macs": "dynamic MACs",
    "dynamic_macs_as_in_the_paper": "the paper's",
    "flops": "operations",
    "bytes_read": "bytes read",
    "bytes_written": "written",
}
_MIB = 2**20
_WIDTH = 10_000
# A sum's sign that stands in no bracket.
_SIGN = re.compile(r" ([+-]) (?![^(]*\))")


def print_costs(costs: Mapping[str, Any]) -> None:
    """Print the cost of a model: formulas, and numbers at the corners of a profile."""
    for which, one in costs.items():
        sizes = ", ".join(f"{name}={size}" for name, size in (one["dims"] or {}).items()) or "fixed sizes"
        unknown = f", {len(one['unknown'])} nodes not counted" if one["unknown"] else ""
        say("")
        if one["dims"] is None:
            say(f"cost by operator, a formula for each figure{unknown}")
        else:
            flops, moved = one["flops"] / 1e9, one["bytes"] / _MIB
            say(f"cost at {which} ({sizes}): {flops:.3g} GFLOP, {moved:.4g} MiB moved{unknown}")
        _print("operator", [(name, each) for name, each in _operators(one)], is_formula=one["dims"] is None)
        _print_attentions(one["attentions"], is_formula=one["dims"] is None)
        for reason in dict.fromkeys(f"{each['op_type']}: {each['reason']}" for each in one["unknown"][:3]):
            say(f"not counted: {reason}")


def _operators(cost: Mapping[str, Any]) -> list[tuple[str, Any]]:
    counted = sum(each["nodes"] for each in cost["operators"].values())
    shown = [(name, each) for name, each in cost["operators"].items() if each["parameters"] or each["bytes"]]
    return [*shown, ("all", {**cost, "nodes": counted})]


def _print_attentions(attentions: list[dict[str, Any]], *, is_formula: bool) -> None:
    """Print a row an attention; those that cost the same share one."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for each in attentions:
        alike.setdefault(str({**each, "node": "", "nodes": 0}), []).append(each)
    if not alike:
        return
    say("\nattention with its projections; dynamic MACs of all products, and as the paper of DAMF counts them")
    rows = []
    for group in alike.values():
        first = group[0]
        incomplete = f", {first['uncounted']} nodes not counted" if first["uncounted"] else ""
        more = f"\nand {len(group) - 1} more, each" if len(group) > 1 else ""
        rows.append((f"{one_line(first['node'])}\n{first['form']}{incomplete}{more}", first))
    _print("attention", rows, is_formula=is_formula)


def _print(what: str, rows: Sequence[tuple[str, Mapping[str, Any]]], *, is_formula: bool) -> None:
    """Print figures whole: a terminal that is too narrow breaks lines, where a table would cut off digits.

    The formulas of all operations are left out: they are twice the MACs and a little, and JSON has them.
    """
    names = [name for name in _HEADINGS if name in rows[0][1] and not (is_formula and name == "flops")]
    count = ["nodes"] if what == "operator" else []
    shown = [(name, *(_shown(each[key]) for key in (*count, "parameters", *names))) for name, each in rows]
    columns = (what, *count, "parameters", *(_HEADINGS[name] for name in names))
    table(columns, shown, right=range(1, len(columns)), width=_WIDTH)


def _shown(figure: int | str | None) -> str:
    """Numbers in groups of three; formulas with a product a line."""
    if figure is None:
        return "-"
    return f"{figure:,}" if isinstance(figure, int) else _SIGN.sub(r" \1\n", figure)


def damf_json() -> dict[str, Any]:
    """Return Table II for ``--json``."""
    from graphwright.plugins.damf.table import to_json

    return to_json()


def print_damf_table() -> None:
    """Print Table II with its formulas."""
    from graphwright.plugins.damf.table import BERT_BASE, FORMULAS, SYMBOLS, ratios
    from graphwright.plugins.damf.table import table as figures

    say(f"One attention layer, length {BERT_BASE.length}: Table II of the DAMF paper in three ways of counting")
    columns = ("layer", "convention", "parameters, MiB", "dynamic MACs, M", "of all, %", "MACs, M")
    table(columns, [each.row() for each in figures()], right=(2, 3, 4, 5), width=_WIDTH)
    say("\nTimes less than BERT-base")
    rows = [
        (each.what, f"{each.printed:g}", each.origin, f"{each.consistent:.2f}", f"{each.complete:.2f}")
        for each in ratios()
    ]
    table(("", "paper", "which is", "consistent", "complete, linear"), rows, right=(1, 3, 4), width=_WIDTH)
    say(f"\n{SYMBOLS}")
    for name, (meaning, *lines) in FORMULAS.items():
        say(f"{name}: {meaning}")
        for line in lines:
            say(f"  {line}")
