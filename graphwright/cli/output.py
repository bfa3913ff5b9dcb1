"""What verbs print: data on stdout, one JSON object where asked for; progress and errors on stderr."""

import json
import shutil
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from graphwright.errors import GraphwrightError

# Where stdout is no terminal: a file or a pipe.
_WIDTH = 120
_INTERNAL = "run again with --debug and report what it prints"


def say(text: str) -> None:
    """Print data."""
    sys.stdout.write(text + "\n")


def say_json(data: Any) -> None:
    """Print one JSON object."""
    say(json.dumps(data, indent=1, default=str))


def note(text: str) -> None:
    """Print a remark on stderr."""
    sys.stderr.write(text + "\n")


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[int] = (),
    width: int | None = None,
) -> None:
    """Print a table; ``right`` numbers the columns that hold figures, ``width`` is the terminal's if None."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        is_number = index in right
        shown.add_column(name, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    for row in rows:
        shown.add_row(*(escape(str(cell)) for cell in row))
    width = width or shutil.get_terminal_size((_WIDTH, 24)).columns
    Console(file=sys.stdout, width=width, highlight=False).print(shown)


def report_error(error: BaseException, *, debug: bool) -> int:
    """Print an error as one paragraph on stderr and return its exit code."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, GraphwrightError):
        note(f"error: {one_line(str(error))}")
        return error.exit_code
    if isinstance(error, MemoryError):
        note("error: memory: found too little of it; try: a smaller profile, or --verify off")
        return 1
    note(f"error: internal: {type(error).__name__}: {one_line(str(error))}; try: {_INTERNAL}")
    return 1


def one_line(text: str) -> str:
    """Return text in one line, without characters that steer a terminal: names come from model files.

    Example:
        >>> one_line("a\\n  b\\x1b[31mc")
        'a b\\\\x1b[31mc'
    """
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in joined)
