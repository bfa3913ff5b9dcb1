"""Progress of long work: a bar on a terminal's stderr, a function of the caller's, or nothing."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str, int, int], None]


@contextmanager
def progress_bar(wanted: bool | Tell | None) -> Iterator[Tell]:
    """Give a function of (what, done, total). None: a bar where stderr is a terminal; True: one anyway.

    Example:
        >>> with progress_bar(lambda what, done, total: print(what, done, total)) as tell:
        ...     tell("load", 0, 3)
        load 0 3
    """
    if callable(wanted):
        yield wanted
    elif wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield lambda what, done, total: None
    else:
        with _bar() as tell:
            yield tell


@contextmanager
def _bar() -> Iterator[Tell]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=24), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True, force_terminal=True), transient=True) as progress:
        task = progress.add_task("start", total=None)

        def tell(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        yield tell
