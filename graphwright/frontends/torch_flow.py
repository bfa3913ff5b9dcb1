"""What is known of tensors while torch runs a module: which hold the same numbers, and where numbers come from.

``frontends/torch_kinds.py`` counts with it. A mark is a name and a number: results of operators that only move, cast,
scale or mask their argument inherit its marks, and a matrix product ends all of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

# Results that hold the numbers of the first argument in another type, at other places, or in part.
CASTS = {"_to_copy", "clone", "detach", "alias", "contiguous", "lift_fresh", "dropout", "native_dropout"}
PARTS = {"slice", "select", "split", "split_with_sizes", "chunk", "unbind", "narrow"}
PLACES = {"view", "_unsafe_view", "_reshape_alias", "reshape", "transpose", "permute", "t", "expand", "squeeze"}
PLACES |= {"unsqueeze", "repeat", "constant_pad_nd"} | PARTS
# Results that mix numbers: a row of weights stays one, even when others are added or some are left out.
_MIXES = {"add", "sub", "rsub", "mul", "div", "where", "masked_fill", "scatter", "gather", "index", "sum", "clamp"}
_MIXES |= {"bitwise_not", "logical_not", "cat", "stack"}
_SCALES = {"add", "sub", "mul", "div", "clamp", "where", "masked_fill"}

Mark = tuple[str, int]
Marks = frozenset[Mark]
NOTHING: Marks = frozenset()
_OF_A_ROW = {"row", "chosen"}


@dataclass(frozen=True)
class Known:
    """What is known of a tensor: a number for its content, one that casts and factors keep, and where it comes from."""

    content: int
    base: int
    marks: Marks = NOTHING

    def of(self, kind: str) -> set[int]:
        """The numbers of the marks of this kind."""
        return {number for name, number in self.marks if name == kind}


@dataclass(frozen=True)
class Call:
    """One operator of torch as it was run: its arguments, what is known of the tensors among them, and its results."""

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: list[torch.Tensor]
    known: list[Known]
    outputs: list[torch.Tensor]

    @property
    def is_scaling(self) -> bool:
        """Whether only one argument has more than one number."""
        return sum(tensor.numel() > 1 for tensor in self.tensors) == 1

    @property
    def number(self) -> float | None:
        """The second argument, where it is a plain number."""
        given = self.args[1] if len(self.args) > 1 else None
        return float(given) if isinstance(given, int | float) else None

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for two calls that take the same contents to the same places."""
        plain = [repr(each) for each in flat([self.args, self.kwargs]) if not isinstance(each, torch.Tensor)]
        return (self.name, *(each.content for each in self.known), *plain)

    def is_over_last_axes(self, axes: Any) -> bool:
        """Whether these axes of the first tensor are its last ones."""
        rank = self.tensors[0].ndim
        given = sorted(axis % rank for axis in ([axes] if isinstance(axes, int) else axes or range(rank)))
        return given == list(range(rank - len(given), rank)) and len(given) < rank


def inherited(call: Call) -> Marks:
    """The marks that results have from the arguments."""
    if not call.known:
        return NOTHING
    first = call.known[0]
    if call.name in CASTS | PLACES:
        return first.marks | ({("part", first.content)} if call.name in PARTS else NOTHING)
    if call.name == "neg":
        return first.marks | {("negated", 0)}
    if call.name not in _MIXES:
        return NOTHING
    every = frozenset(mark for each in call.known for mark in each.marks)
    if call.name in _SCALES and (call.is_scaling or call.name in {"where", "masked_fill"}):
        return every
    if call.name in {"cat", "stack"}:
        return frozenset(mark for mark in every if mark[0] != "negated") | _turned(call)
    return frozenset(mark for mark in every if mark[0] in _OF_A_ROW)


def _turned(call: Call) -> Marks:
    """Two parts of one tensor side by side, one of them negated."""
    plain = {part for each in call.known if not each.of("negated") for part in each.of("part")}
    negated = {part for each in call.known if each.of("negated") for part in each.of("part")}
    return frozenset(("turned", part) for part in plain & negated)


def flat(values: Iterable[Any]) -> Iterator[Any]:
    """What is in nested lists, tuples and dicts."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from flat(value)
        elif isinstance(value, Mapping):
            yield from flat(value.values())
        else:
            yield value
