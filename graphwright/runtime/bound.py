"""A profile that has been fitted to a model's inputs: it checks requests and gives shapes to try."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import onnx_ir as ir

from graphwright.errors import ProfileError, RequestError
from graphwright.runtime import dims
from graphwright.runtime.signature import Port, Request, describe

Which = Literal["min", "opt", "max"]
Shapes = dict[str, tuple[int, ...]]

# Sizes to try where nothing bounds them: the batch small, lengths odd enough to show a mix-up of axes.
_FREE_BATCH = (1, 2, 3)
_FREE_LENGTH = (1, 8, 13)


@dataclass(frozen=True)
class Range:
    """The sizes that one dimension may take. ``max`` is None where nothing bounds it."""

    min: int
    opt: int
    max: int | None

    def __contains__(self, size: int) -> bool:
        return self.min <= size and (self.max is None or size <= self.max)

    def __str__(self) -> str:
        if self.max is None:
            return f"{self.min} or more"
        return f"{self.min}:{self.opt}:{self.max}" if self.min < self.max else str(self.min)

    def clamp(self, size: int) -> int:
        """The allowed size nearest to the one given."""
        size = max(size, self.min)
        return size if self.max is None else min(size, self.max)


@dataclass(frozen=True)
class BoundProfile:
    """The ranges of every dimension of a model's inputs, one mapping a profile.

    Example:
        >>> ids = Port("ids", ir.DataType.INT64, ("batch", "seq"))
        >>> bound = BoundProfile((ids,), ({"batch": Range(1, 2, 4), "seq": Range(1, 16, 64)},))
        >>> bound.shapes("max")
        {'ids': (4, 64)}
        >>> BoundProfile.from_json(bound.to_json()) == bound
        True
    """

    inputs: tuple[Port, ...]
    profiles: tuple[Mapping[str, Range], ...]

    @property
    def is_bounded(self) -> bool:
        """Whether every dimension has a maximum, so that buffers can be allocated for it."""
        return all(given.max is not None for ranges in self.profiles for given in ranges.values())

    def sizes(self, which: Which, profile: int = 0) -> dict[str, int]:
        """The size of every free dimension at one corner of a profile."""
        return {dim: _corner(given, which, self._is_batch(dim)) for dim, given in self.profiles[profile].items()}

    def shapes(self, which: Which, profile: int = 0) -> Shapes:
        """The shape of every input at one corner of a profile; optional inputs are left out."""
        return self._shapes_at(self.sizes(which, profile))

    def max_shapes(self) -> Shapes:
        """The largest shape of every input over all profiles, axis by axis."""
        largest = [self.shapes("max", index) for index in range(len(self.profiles))]
        return {
            name: tuple(map(max, *(shapes[name] for shapes in largest), shape)) for name, shape in largest[0].items()
        }

    def points(self) -> list[Shapes]:
        """Shapes worth trying: min, opt, max; between them length 1, one row, a prime length."""
        found: list[Shapes] = []
        for index in range(len(self.profiles)):
            for sizes in self._sizes_to_try(index):
                shapes = self._shapes_at(sizes)
                if shapes not in found:
                    found.append(shapes)
        return found

    def check(self, inputs: Request) -> dict[str, int]:
        """Refuse a request that the model or every profile refuses; give the sizes of its dimensions.

        Raises:
            RequestError: an input is missing, unknown, of the wrong type, rank or size, or the sizes lie
                outside every profile.
        """
        self._check_names(inputs)
        sizes: dict[str, int] = {}
        origin: dict[str, str] = {}
        for port in self.inputs:
            if port.name in inputs:
                _check_port(port, inputs[port.name], sizes, origin, self.derived)
        for port, axis, dim in self._axes():
            if dim in self.derived and port.name in inputs:
                _check_derived(port, axis, dim, inputs[port.name].shape[axis], sizes)
        self._check_ranges(sizes, origin)
        return sizes

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dicts, for the manifest."""
        return {
            "inputs": [
                {
                    "name": port.name,
                    "dtype": port.dtype.name if port.dtype is not None else None,
                    "shape": list(port.dims) if port.dims is not None else None,
                    "optional": port.is_optional,
                }
                for port in self.inputs
            ],
            "profiles": [
                {dim: [given.min, given.opt, given.max] for dim, given in ranges.items()} for ranges in self.profiles
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "BoundProfile":
        """The profile that :meth:`to_json` wrote.

        Raises:
            ProfileError: the data has another form.
        """
        try:
            ports = tuple(
                Port(
                    port["name"],
                    ir.DataType[port["dtype"]] if port["dtype"] is not None else None,
                    tuple(port["shape"]) if port["shape"] is not None else None,
                    port["optional"],
                )
                for port in data["inputs"]
            )
            return cls(ports, tuple({dim: Range(*given) for dim, given in one.items()} for one in data["profiles"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ProfileError("manifest", f"a profile without {error}", hint="write the artifact again") from error

    @cached_property
    def derived(self) -> frozenset[str]:
        """Dimensions whose size follows from others, such as ``past + seq``."""
        return derived_dims(self.inputs)

    def _axes(self) -> Iterator[tuple[Port, int, int | str]]:
        for port in self.inputs:
            for axis, dim in enumerate(port.dims or ()):
                yield port, axis, dim

    def _is_batch(self, name: str) -> bool:
        """A dimension that leads some input and stands nowhere else counts as the batch."""
        places = {axis for port, axis, dim in self._axes() if dim == name and len(port.dims or ()) > 1}
        return places == {0}

    def _shapes_at(self, sizes: Mapping[str, int]) -> Shapes:
        shapes = {}
        for port in self.inputs:
            if not port.is_optional and port.dims is not None:
                shapes[port.name] = tuple(dims.size(dim, sizes) or 0 for dim in port.dims)
        return shapes

    def _sizes_to_try(self, index: int) -> Iterator[dict[str, int]]:
        corners = {which: self.sizes(which, index) for which in ("min", "opt", "max")}
        yield from corners.values()
        ranges = self.profiles[index]
        for batch, pick_length in ((2, lambda given, opt: 1), (1, lambda given, opt: opt), (3, _prime_below)):
            yield {
                dim: given.clamp(batch if self._is_batch(dim) else pick_length(given, corners["opt"][dim]))
                for dim, given in ranges.items()
            }

    def _check_names(self, inputs: Request) -> None:
        known = [port.name for port in self.inputs]
        unknown = [name for name in inputs if name not in known]
        if unknown:
            raise RequestError("request", f"unknown input {', '.join(unknown)}", needed=f"some of {', '.join(known)}")
        missing = [port for port in self.inputs if port.name not in inputs and not port.is_optional]
        if missing:
            given = ", ".join(inputs) or "no inputs"
            raise RequestError("request", given, needed=f"also {', '.join(map(str, missing))}")

    def _check_ranges(self, sizes: Mapping[str, int], origin: Mapping[str, str]) -> None:
        if any(not _outside(ranges, sizes) for ranges in self.profiles):
            return
        nearest = min(self.profiles, key=lambda ranges: _distance(ranges, sizes))
        outside = _outside(nearest, sizes)
        found = ", ".join(f"{dim} = {sizes[dim]} ({origin[dim]})" for dim in outside)
        needed = ", ".join(f"{dim} {_words(nearest[dim])}" for dim in outside)
        text = ",".join(f"{dim}={given}" for dim, given in nearest.items())
        nearest_text = "" if not self.is_bounded else f"; the nearest profile is {text}"
        raise RequestError(
            "request outside every profile",
            found,
            needed=needed + nearest_text,
            hint="split or pad the request, or optimize with a wider profile",
        )


def derived_dims(ports: tuple[Port, ...]) -> frozenset[str]:
    """The expressions among the dimensions of which every name is a dimension itself.

    Example:
        >>> mask = Port("mask", None, ("batch", "past + seq"))
        >>> derived_dims((mask,)), derived_dims((mask, Port("x", None, ("past", "seq"))))
        (frozenset(), frozenset({'past + seq'}))
    """
    texts = {dim for port in ports for dim in port.dims or () if isinstance(dim, str)}
    names = {text for text in texts if dims.is_name(text)}
    return frozenset(text for text in texts - names if dims.symbols(text) and dims.symbols(text) <= names)


def _corner(given: Range, which: Which, is_batch: bool) -> int:
    if given.max is None:
        return (_FREE_BATCH if is_batch else _FREE_LENGTH)[("min", "opt", "max").index(which)]
    return {"min": given.min, "opt": given.opt, "max": given.max}[which]


def _prime_below(given: Range, opt: int) -> int:
    """The largest prime below the optimum that the range allows, else the first one above it."""
    top = opt + 100 if given.max is None else given.max
    below = (size for size in range(opt - 1, max(given.min, 2) - 1, -1) if _is_prime(size))
    above = (size for size in range(opt + 1, top + 1) if _is_prime(size))
    return next(below, None) or next(above, opt)


def _is_prime(size: int) -> bool:
    return size > 1 and all(size % factor for factor in range(2, int(size**0.5) + 1))


def _check_port(port: Port, value: Any, sizes: dict[str, int], origin: dict[str, str], derived: frozenset[str]) -> None:
    where = f"input {port.name}"
    if port.dtype is None:
        return
    dtype, shape = describe(port.name, value)
    if dtype != port.dtype:
        raise RequestError(where, f"type {dtype.name.lower()}", needed=port.dtype.name.lower(), hint="convert it")
    if port.dims is None:
        return
    if len(shape) != len(port.dims):
        raise RequestError(where, f"rank {len(shape)} (shape {list(shape)})", needed=f"rank {len(port.dims)}: {port}")
    for axis, (dim, found) in enumerate(zip(port.dims, shape, strict=True)):
        if isinstance(dim, int) and dim != found:
            raise RequestError(where, f"size {found} on axis {axis}", needed=f"{dim}: {port}")
        if isinstance(dim, str) and dim not in derived:
            place = origin.setdefault(dim, f"axis {axis} of {port.name}")
            if sizes.setdefault(dim, found) != found:
                raise RequestError(where, f"{dim} = {found} on axis {axis}", needed=f"{sizes[dim]}, as {place} has")


def _check_derived(port: Port, axis: int, dim: int | str, found: int, sizes: Mapping[str, int]) -> None:
    needed = dims.size(dim, sizes)
    if needed is not None and needed != found:
        raise RequestError(f"input {port.name}", f"size {found} on axis {axis}", needed=f"{dim} = {needed}")


def _outside(ranges: Mapping[str, Range], sizes: Mapping[str, int]) -> list[str]:
    return [dim for dim, given in ranges.items() if dim in sizes and sizes[dim] not in given]


def _distance(ranges: Mapping[str, Range], sizes: Mapping[str, int]) -> tuple[int, int]:
    outside = _outside(ranges, sizes)
    return len(outside), sum(abs(sizes[dim] - ranges[dim].clamp(sizes[dim])) for dim in outside)


def _words(given: Range) -> str:
    return str(given) if given.max is None else f"{given.min} to {given.max}"
