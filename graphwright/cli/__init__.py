"""The command line: parses, calls, prints. Each verb is in a module for its kind."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from graphwright import __version__
from graphwright.cli import check, engine, look, make, serve
from graphwright.cli.output import report_error, say

__all__ = ["app", "main"]

app = typer.Typer(
    name="graphwright",
    help="A compiler for transformer inference graphs: checked, explained, earned.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 export or load failed, "
    "4 something needed is missing, 5 an engine build failed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"graphwright {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A compiler for transformer inference graphs: checked, explained, earned."""


for _verb, _function, _examples in (*make.VERBS, *check.VERBS, *look.VERBS, *engine.VERBS, *serve.VERBS):
    # A line with \b alone keeps the examples' line breaks.
    app.command(_verb, epilog="\b\nExamples:\n" + "\n".join(f"  graphwright {line}" for line in _examples))(_function)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Example:
        >>> main(["--version"])
        graphwright 0.1.0
        0
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=given, prog_name="graphwright")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return report_error(error, debug="--debug" in given)
    return 0
