"""The report as one HTML file: no script, no network, light or dark as the reader's system is."""

import os
import secrets
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from graphwright.engine.by_design import passes_text
from graphwright.errors import MissingDependencyError, OutputError
from graphwright.report import Report
from graphwright.report.line_plot import latency_curve
from graphwright.report.plot import bar_chart
from graphwright.report.text import changed_operators, headline, refused, verified

if TYPE_CHECKING:
    from jinja2 import Environment


def environment() -> "Environment":
    """Return what the template is rendered with; it escapes every text, since names come from model files.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        hint = "pip install graphwright[report]"
        needed = "the extra report"
        raise MissingDependencyError("HTML report", "no jinja2", needed=needed, hint=hint) from error
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def page(report: Report) -> str:
    """Return the page.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    jinja = environment()
    from markupsafe import Markup

    template = files("graphwright.report").joinpath("report.html.jinja").read_text(encoding="utf-8")
    verification = report.verification
    return jinja.from_string(template).render(
        style=Markup(style()),
        report=report,
        headline=headline(report),
        refused=refused,
        verified=verified(verification) if verification is not None else "Not verified.",
        by_design=passes_text(verification.by_design) if verification is not None else "",
        operators=changed_operators(report),
        chart=Markup(bar_chart(report.latency)) if report.latency else "",
        curve=Markup(latency_curve(report.latency)),
        applied=sum(row.applied for row in report.passes),
    )


def style() -> str:
    """Return the style sheet that every page carries in itself."""
    return files("graphwright.report").joinpath("style.css").read_text(encoding="utf-8")


def write(report: Report, path: Path) -> None:
    """Write the page of a report to a file, whole or not at all.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        OutputError: the file could not be written.
    """
    write_page(page(report), path)


def write_page(text: str, path: Path) -> None:
    """Write a page to a file, whole or not at all.

    Raises:
        OutputError: the file could not be written.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        hint = "choose a file in a folder that exists and may be written"
        raise OutputError(str(path), error.strerror or str(error), needed="a file to write", hint=hint) from error
