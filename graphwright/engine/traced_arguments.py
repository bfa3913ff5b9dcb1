"""The arguments of a traced function, ``T[..., E]`` each, and what they ask of what a match binds to them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pattern import Condition
from graphwright.errors import UsageError

LEADING = "..."

_FORM = re.compile(r"(\w+)\[([^\]]*)\]")


@dataclass(frozen=True)
class Argument:
    """One tensor: a dtype's name or a type variable; sizes that are numbers or names, ``...`` in front of them or not.

    Example:
        >>> Argument.parse("x", "T[..., 2, E]")
        Argument(dtype='T', dims=(2, 'E'), leads=True)
    """

    dtype: str
    dims: tuple[int | str, ...]
    leads: bool

    @classmethod
    def parse(cls, name: str, text: str) -> "Argument":
        """Read the text form.

        Raises:
            UsageError: text that is not of the form.
        """
        found = _FORM.fullmatch(text.strip())
        parts = [part.strip() for part in found[2].split(",") if part.strip()] if found else []
        leads = parts[:1] == [LEADING]
        dims = parts[1:] if leads else parts
        if found is None or not all(part.isdigit() or part.isidentifier() for part in dims):
            raise UsageError(f"argument {name}", repr(text), needed="a type and sizes, as in T[..., E] or int64[B, 4]")
        return cls(found[1], tuple(int(part) if part.isdigit() else part for part in dims), leads)

    @property
    def is_variable(self) -> bool:
        """Whether the dtype is a type variable: any, but the same wherever the name stands."""
        return self.dtype.upper() not in ir.DataType.__members__ and self.dtype not in _NUMPY_NAMES


_NUMPY_NAMES = {"float32": ir.DataType.FLOAT, "float64": ir.DataType.DOUBLE}


def onnx_type(name: str) -> ir.DataType:
    """Return the ONNX type of a dtype's name."""
    return _NUMPY_NAMES.get(name) or ir.DataType[name.upper()]


def places(arguments: Mapping[str, Argument]) -> dict[str, list[tuple[str, int]]]:
    """Return, for each size's name, the arguments and their axes, counted from behind, that have it."""
    found: dict[str, list[tuple[str, int]]] = {}
    for name, argument in arguments.items():
        for index, dim in enumerate(argument.dims):
            if isinstance(dim, str):
                found.setdefault(dim, []).append((name, index - len(argument.dims)))
    return found


def argument_conditions(arguments: Mapping[str, Argument]) -> Iterator[Condition]:
    """Yield what the shapes and types of the arguments ask for: unknown is never yes.

    A number of axes; sizes that are numbers; sizes, leading parts and types of one name known to be equal.
    """
    for name, argument in arguments.items():
        if argument.dims or not argument.leads:
            least = "or more " if argument.leads else ""
            needed = f"{name} to have {len(argument.dims)} {least}axes"
            yield Condition(needed, partial(_has_rank, name, len(argument.dims), argument.leads))
        for index, dim in enumerate(argument.dims):
            if isinstance(dim, int):
                axis = index - len(argument.dims)
                yield Condition(f"{name} to have size {dim} on axis {axis}", partial(_has_size, name, axis, dim))
    for size, found in places(arguments).items():
        for first, second in pairwise(found):
            yield Condition(f"{first[0]} and {second[0]} of one {size}", partial(_same_size, first, second))
    leading = [(name, len(each.dims)) for name, each in arguments.items() if each.leads]
    for one, other in pairwise(leading):
        yield Condition(f"{one[0]} and {other[0]} of the same leading sizes", partial(_same_leading, one, other))
    yield from _type_conditions(arguments)


def _type_conditions(arguments: Mapping[str, Argument]) -> Iterator[Condition]:
    by_type: dict[str, list[str]] = {}
    for name, argument in arguments.items():
        if argument.is_variable:
            by_type.setdefault(argument.dtype, []).append(name)
        else:
            wanted = onnx_type(argument.dtype)
            yield Condition(f"{name} to be {argument.dtype}", partial(_has_dtype, name, wanted))
    for variable, names in by_type.items():
        yield Condition(f"{' and '.join(names)} of one type {variable}", partial(_same_dtype, variable, names))


def _has_rank(name: str, count: int, leads: bool, values: Mapping[str, Any]) -> bool:
    found = facts.rank(values[name])
    return found is not None and (found >= count if leads else found == count)


def _has_size(name: str, axis: int, size: int, values: Mapping[str, Any]) -> bool:
    return facts.static_dim(values[name], axis) == size


def _same_size(first: tuple[str, int], second: tuple[str, int], values: Mapping[str, Any]) -> bool:
    sizes = [facts.dim(values[name], axis) for name, axis in (first, second)]
    return facts.same_dim(*sizes)


def _same_leading(first: tuple[str, int], second: tuple[str, int], values: Mapping[str, Any]) -> bool:
    one, other = values[first[0]], values[second[0]]
    counts = facts.rank(one), facts.rank(other)
    if counts[0] is None or counts[1] is None or counts[0] - first[1] != counts[1] - second[1]:
        return False
    leading = range(counts[0] - first[1])
    return all(facts.same_dim(facts.dim(one, axis), facts.dim(other, axis)) for axis in leading)


def _has_dtype(name: str, wanted: ir.DataType, values: Mapping[str, Any]) -> bool:
    return bool(values[name].dtype == wanted)


def _same_dtype(variable: str, names: list[str], values: Mapping[str, Any]) -> bool:
    """Tell whether all the arguments are of one type, and every Cast that is to that type casts to it."""
    found = {values[name].dtype for name in names}
    if len(found) > 1 or (None in found and (len(names) > 1 or variable in values)):
        return False
    return variable not in values or values[variable] == next(iter(found))
