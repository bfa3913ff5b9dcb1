"""The words of pipeline text: names, arguments in parentheses, and their values."""

import re
from collections.abc import Sequence
from typing import Any

from graphwright.errors import PipelineError

# The name of an argument that was given without one.
FIRST = ""

_ITEM = re.compile(r"(?P<name>-?[\w.-]+)\s*(?:\((?P<options>.*)\))?", re.DOTALL)


def split(text: str) -> list[str]:
    """Split at the commas outside parentheses and quotes; what never closes is a part of its own."""
    parts = re.findall(r"(?:[^,(\"']|\([^)]*\)|\"[^\"]*\"|'[^']*')+|[(\"']", text)
    return [part.strip() for part in parts if part.strip()]


def parse_item(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the options of one part. A word that comes first may go without its name.

    Example:
        >>> parse_item("precision(bf16)"), parse_item("damf(rank=2,softmax=exact)")
        (('precision', {'': 'bf16'}), ('damf', {'rank': 2, 'softmax': 'exact'}))

    Raises:
        PipelineError: it is no such text.
    """
    found = _ITEM.fullmatch(text)
    if found is None:
        raise PipelineError("pipeline", repr(text), needed="a pass name, or name(argument=value,...)")
    options: dict[str, Any] = {}
    for part in split(found["options"] or ""):
        name, separator, value = part.partition("=")
        if not separator and not options and part.isidentifier():
            options[FIRST] = part
            continue
        if not separator or not name.strip().isidentifier():
            raise PipelineError(f"pipeline, {found['name']}", repr(part), needed="argument=value")
        options[name.strip()] = from_text(value.strip())
    return found["name"], options


def check_items(items: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Refuse what would have no effect: a pass taken out of nothing, arguments of what takes none.

    Raises:
        PipelineError: there is such an item.
    """
    taken_out = [name for name, _ in items if name.startswith("-")]
    if taken_out and not any(name == "default" for name, _ in items):
        hint = f"default,{taken_out[0]}"
        raise PipelineError("pipeline", f"{taken_out[0]!r} alone", needed="default beside it", hint=hint)
    for name, options in items:
        if options and (name == "default" or name in taken_out):
            raise PipelineError("pipeline", f"arguments of {name!r}", needed="none there")


def from_text(text: str) -> Any:
    """Return the number, truth value or text that an argument stands for."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def to_text(value: Any) -> str:
    """Return the text that ``from_text`` reads back."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and from_text(value) == value and re.fullmatch(r"[\w.%-]+", value):
        return value
    return f'"{value}"' if isinstance(value, str) else str(value)
