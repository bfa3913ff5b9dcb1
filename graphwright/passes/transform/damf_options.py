"""The options of damf as pipeline text gives them, and what is wrong with them; no rule."""

import re
from collections.abc import Sequence

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


def chosen_ranks(text: int | str, heads: Sequence[int]) -> list[tuple[int, ...]]:
    """Return a rank for each chosen head of each layer; ``heads`` tells how many each layer has.

    One number is for all. Commas stand between layers, colons between the chosen heads of one: in ``1:1:4,2`` the
    heads of the first layer have ranks of their own, and those of the second share one.

    Raises:
        PipelineError: text of another form, a rank below 1, or neither one rank nor one for each layer or head.

    Example:
        >>> chosen_ranks(2, [3, 3]), chosen_ranks("1:1:4,2", [3, 3])
        ([(2, 2, 2), (2, 2, 2)], [(1, 1, 4), (2, 2, 2)])
    """
    layers = [part.split(":") for part in str(text).split(",")]
    if isinstance(text, bool) or not all(part.strip().isdecimal() for parts in layers for part in parts):
        needed = "a whole number from 1, one for each layer (1,4), or one for each head of a layer (1:1:4,2)"
        raise PipelineError("damf(rank)", repr(text), needed=needed)
    ranks = [tuple(map(int, parts)) for parts in layers]
    if any(0 in each for each in ranks):
        raise PipelineError("damf(rank)", repr(text), needed="ranks from 1 to the head size")
    if len(ranks) not in (1, len(heads)) and heads:
        found = f"{len(ranks)} ranks for {len(heads)} layers"
        raise PipelineError("damf(rank)", found, needed="one, or one for each layer, between commas")
    if len(ranks) == 1:
        ranks *= len(heads)
    return [_for_each_head(own, count) for own, count in zip(ranks, heads, strict=False)]


def _for_each_head(ranks: tuple[int, ...], count: int) -> tuple[int, ...]:
    if len(ranks) not in (1, count):
        found = f"{len(ranks)} ranks for {count} heads"
        raise PipelineError("damf(rank)", found, needed="one, or one for each chosen head, between colons")
    return ranks * count if len(ranks) == 1 else ranks


def ranks_text(ranks: Sequence[Sequence[int]]) -> str:
    """Return the text that :func:`chosen_ranks` reads these ranks from.

    Example:
        >>> ranks_text([(1, 1, 4), (2, 2, 2)])
        '1:1:4,2'
    """
    return ",".join(":".join(map(str, own if len(set(own)) > 1 else own[:1])) for own in ranks)


def require_softmax(softmax: str) -> None:
    """Raise unless the softmax is one of the three.

    Raises:
        PipelineError: it is not.
    """
    if softmax not in SOFTMAXES:
        raise PipelineError("damf(softmax)", repr(softmax), needed=f"one of {', '.join(SOFTMAXES)}")
