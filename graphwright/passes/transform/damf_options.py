"""The options of damf as pipeline text gives them, and what is wrong with them; no rule."""

import re

from graphwright.errors import PipelineError
from graphwright.plugins.damf.reference import SOFTMAXES

_RANGE = re.compile(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?")


def chosen(text: str | int, total: int, what: str) -> list[int]:
    """Return the numbers that ``all``, a number, or text such as ``0,2-5`` chooses of so many.

    Raises:
        PipelineError: text of another form, or a number that there is not.

    Example:
        >>> chosen("0,2-4", 6, "layers"), chosen("all", 2, "heads")
        ([0, 2, 3, 4], [0, 1])
    """
    if text == "all":
        return list(range(total))
    found: set[int] = set()
    for part in str(text).split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise PipelineError(f"damf({what})", repr(text), needed='all, a number, or text such as "0,2-5"')
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= total:
            raise PipelineError(f"damf({what})", repr(part), needed=f"numbers below {total}, of which the model has")
        found.update(range(first, last + 1))
    return sorted(found)


def chosen_ranks(text: int | str, count: int) -> list[int]:
    """Return a rank for each of so many layers: the same for all, or as text such as ``1,4`` gives them.

    Raises:
        PipelineError: text of another form, as many ranks as there are not layers, or a rank below 1.

    Example:
        >>> chosen_ranks(2, 3), chosen_ranks("1,4", 2)
        ([2, 2, 2], [1, 4])
    """
    parts = str(text).split(",")
    if isinstance(text, bool) or not all(part.strip().isdecimal() for part in parts):
        raise PipelineError("damf(rank)", repr(text), needed="a whole number from 1, or one for each layer")
    ranks = [int(part) for part in parts]
    if 0 in ranks:
        raise PipelineError("damf(rank)", repr(text), needed="ranks from 1 to the head size")
    if len(ranks) not in (1, count) and count:
        raise PipelineError("damf(rank)", f"{len(ranks)} ranks for {count} layers", needed="one, or one for each layer")
    return ranks * count if len(ranks) == 1 else ranks[:count]


def require_softmax(softmax: str) -> None:
    """Raise unless the softmax is one of the three.

    Raises:
        PipelineError: it is not.
    """
    if softmax not in SOFTMAXES:
        raise PipelineError("damf(softmax)", repr(softmax), needed=f"one of {', '.join(SOFTMAXES)}")
