"""Profiles: the shapes that a model is meant for, as text.

::

    profile   = "*" | one (";" one)*                            "*": any size of at least one
    one       = entry ("," entry)*
    entry     = name "=" sizes                                  split at the last "="
    sizes     = shape | shape ":" shape ":" shape               min, opt and max; one shape stands for all
    shape     = number ("x" number)*

A name is an input's (``input_ids=1x1:8x128:32x512``) or a dimension's (``batch=1:8:32``). A name that holds a
comma, a semicolon, a quote or outer spaces is written as a JSON string.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from graphwright.errors import ProfileError
from graphwright.runtime.bound import BoundProfile, Range
from graphwright.runtime.signature import inputs_of

Entry = tuple[Range, ...]

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PIECE = re.compile(rf'(?:{_QUOTED}|[^,;"])+|[,;]')
_SHAPE = re.compile(r"\d{1,18}(?:x\d{1,18})*")
_PLAIN_NAME = re.compile(r'[^\s,;"](?:[^,;"]*[^\s,;"])?')
_FORM = "name=min:opt:max, such as seq=1:128:512 or input_ids=1x1:8x128:32x512"


@dataclass(frozen=True)
class Profile:
    """Ranges of sizes for a model's inputs, not yet fitted to a model. No alternative means any size.

    Raises:
        ProfileError: a name stands twice, or a range is not ordered.

    Example:
        >>> profile = Profile.parse("batch=1:8:32, seq=1:128:512; encoder/x:0=1x3")
        >>> print(profile)
        batch=1:8:32,seq=1:128:512;encoder/x:0=1x3
        >>> Profile.parse(str(profile)) == profile
        True
    """

    alternatives: tuple[tuple[tuple[str, Entry], ...], ...]

    def __post_init__(self) -> None:
        for alternative in self.alternatives:
            names = [name for name, _ in alternative]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ProfileError(f"profile entry {twice[0]}", "it more than once", needed="one entry a name")
            for name, entry in alternative:
                _check_order(name, entry)

    @classmethod
    def unbounded(cls) -> "Profile":
        """Any size of at least one."""
        return cls(())

    @classmethod
    def parse(cls, text: str) -> "Profile":
        """Read a profile's text.

        Raises:
            ProfileError: the text has another form.
        """
        if text.strip() == "*":
            return cls.unbounded()
        return cls(tuple(tuple(map(_read_entry, pieces)) for pieces in _split(text)))

    def __str__(self) -> str:
        if not self.alternatives:
            return "*"
        return ";".join(
            ",".join(f"{_write_name(name)}={_write_entry(entry)}" for name, entry in alternative)
            for alternative in self.alternatives
        )

    def bind(self, model: ir.Model) -> BoundProfile:
        """Fit the profile to a model's inputs.

        Raises:
            ProfileError: a name that the model does not have, a rank or a fixed size that contradicts it, two
                ranges for one dimension, or a dynamic dimension without a range.
        """
        from graphwright.runtime.bind import bind

        return bind(self, inputs_of(model))


def _split(text: str) -> Iterator[list[str]]:
    """The entries of each alternative, as text."""
    pieces: list[str] = []
    position, expects_entry = 0, True
    for match in _PIECE.finditer(text):
        is_separator = match.group() in (",", ";")
        if match.start() != position or is_separator == expects_entry:
            raise ProfileError("profile", f"{text!r}", needed=_FORM)
        position, expects_entry = match.end(), is_separator
        if not is_separator:
            pieces.append(match.group().strip())
        if match.group() == ";":
            yield pieces
            pieces = []
    if position != len(text) or expects_entry:
        raise ProfileError("profile", f"{text!r}", needed=_FORM)
    yield pieces


def _read_entry(text: str) -> tuple[str, Entry]:
    name, found, sizes = text.rpartition("=")
    name, corners = name.strip(), [corner.strip() for corner in sizes.split(":")]
    if not found or not name or not all(map(_SHAPE.fullmatch, corners)):
        raise ProfileError("profile", f"{text!r}", needed=_FORM)
    if len(corners) not in (1, 3):
        raise ProfileError("profile", f"{text!r} with {len(corners)} shapes", needed="one shape, or min:opt:max")
    shapes = [tuple(map(int, corner.split("x"))) for corner in (corners * 3)[:3]]
    if len({len(shape) for shape in shapes}) != 1:
        raise ProfileError("profile", f"{text!r} with shapes of several ranks", needed="the same rank three times")
    return _read_name(name), tuple(Range(*sizes) for sizes in zip(*shapes, strict=True))


def _read_name(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(json.loads(text))
    except ValueError:
        raise ProfileError("profile", f"the name {text}", needed="a JSON string, or a name without quotes") from None


def _write_name(name: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name)


def _write_entry(entry: Entry) -> str:
    corners = ["x".join(str(getattr(given, which)) for given in entry) for which in ("min", "opt", "max")]
    return corners[0] if len(set(corners)) == 1 else ":".join(corners)


def _check_order(name: str, entry: Entry) -> None:
    if not entry:
        raise ProfileError(f"profile entry {name}", "no size", needed=_FORM)
    for given in entry:
        if given.max is None or not 0 <= given.min <= given.opt <= given.max:
            found = f"{given.min}:{given.opt}:{given.max}"
            raise ProfileError(f"profile entry {name}", found, needed="0 <= min <= opt <= max")
