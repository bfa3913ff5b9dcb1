"""Export all families, check them and write docs/coverage.md: ``python -m tests.zoo [--strict] [--only NAME ...]``.

Exports are kept under build/zoo by version, so that a second run only checks. ``--only`` takes families and exporters;
the page is then printed and not written. With ``--strict`` the exit code is 1 if something is not fused, if numbers
differ or if a second run of a pipeline changes something.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.zoo.checks import Result, check, prepare
from tests.zoo.exporters import EXPORTERS
from tests.zoo.families import CONFIGS
from tests.zoo.page import page
from tests.zoo.store import ROOT, key, stored, versions

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"


def pairs(only: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Every family with every exporter, or those that the names leave."""
    unknown = [name for name in only if name not in {*CONFIGS, *EXPORTERS}]
    if unknown:
        raise SystemExit(
            f"no family or exporter {unknown[0]!r}; families: {', '.join(CONFIGS)}; exporters: {', '.join(EXPORTERS)}"
        )
    families = [name for name in CONFIGS if name in only] or list(CONFIGS)
    exporters = [name for name in EXPORTERS if name in only] or list(EXPORTERS)
    return [(family, exporter) for family in families for exporter in exporters]


def run(chosen: Sequence[tuple[str, str]], processes: int, folder: Path) -> list[Result]:
    """Export what is not there yet, then check; progress goes to stderr."""
    prepare()
    context = multiprocessing.get_context("fork")
    families, exporters = zip(*chosen, strict=True)
    folders = [folder] * len(chosen)
    # Apart from the checks: an export is a fork of its worker, which must have no threads of a session.
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for kept in pool.map(stored, families, exporters, folders):
            print(f"{kept.family} {kept.exporter}: {'exported' if kept.ok else kept.reason[:100]}", file=sys.stderr)
    results = []
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        for result in pool.map(check, families, exporters, folders):
            word = "not exported" if result.untraced else "gap" if result.is_failure else "ok"
            print(f"{result.family} {result.exporter}: {word}", file=sys.stderr)
            results.append(result)
    return results


def main() -> int:
    """Parse the command line, and do it."""
    parser = argparse.ArgumentParser(prog="python -m tests.zoo", description=__doc__)
    parser.add_argument("--strict", action="store_true", help="exit code 1 for a gap, other numbers or a second change")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="families, exporters or both")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=ROOT / key(), help="where exports are kept")
    arguments = parser.parse_args()
    results = run(pairs(arguments.only), arguments.processes, arguments.folder)
    text = page(results, versions())
    if arguments.only:
        print(text)
    else:
        PAGE.write_text(text, encoding="utf-8")
    failures = [each for each in results if each.is_failure]
    print(f"{len(results)} pairs, {len(failures)} with a gap or a fault", file=sys.stderr)
    return 1 if arguments.strict and failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
