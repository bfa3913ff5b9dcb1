"""Trace the patterns of the catalogue anew: ``python -m graphwright.tracing [--check]``.

Writes the records beside the functions. With ``--check`` nothing is written, and the exit code is 1 where a record is
not what the installed exporters give.
"""

import argparse
import sys

from graphwright.engine.traced import Traced, read_recording, write_recording
from graphwright.errors import GraphwrightError
from graphwright.passes import CATALOGUE
from graphwright.tracing import Recording, record, traced_in


def main() -> int:
    """Do it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m graphwright.tracing", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a record is another")
    checks = parser.parse_args().check
    given = traced_in(step.implementation for step in CATALOGUE.steps())
    try:
        found = record(given) if given else {}
    except GraphwrightError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    changed = [(each, recording) for each, recording in found.items() if not _is_recorded(each, recording)]
    for each, recording in changed:
        print(f"{each.record_path}: {'another' if each.record_path.exists() else 'none'}", flush=True)
        if not checks:
            write_recording(each.record_path, recording)
    print(f"{len(found)} traced, {len(changed)} {'differ' if checks else 'written'}")
    return 1 if checks and changed else 0


def _is_recorded(traced: Traced, recording: Recording) -> bool:
    recorded = read_recording(traced.record_path, traced)
    return recorded is not None and recorded.text() == recording.text()


if __name__ == "__main__":
    sys.exit(main())
