"""How far Triton may join requests: which dimension is the batch, and how large a profile lets it become.

Triton puts requests of the same shape together along the first axis of every input, and hands each its rows of every
output. It knows of sizes below a maximum alone, so the profile has to allow one row too.
"""

from collections.abc import Sequence

from graphwright.errors import ProfileError, UsageError
from graphwright.runtime import dims
from graphwright.runtime.bound import BoundProfile, Shapes, Which
from graphwright.runtime.signature import Port
from graphwright.triton.config import Sample

_WHERE = "batching"
_UNBATCHED = "serve it without batching (--max-batch 0)"


def batch_dimension(inputs: Sequence[Port], outputs: Sequence[Port]) -> str:
    """Return the name of the dimension that leads every input and output and stands nowhere else.

    Raises:
        ProfileError: there is none.

    Example:
        >>> batch_dimension([Port("x", None, ("n", "n_2"))], [Port("y", None, ("n",))])
        'n'
    """
    ports = (*inputs, *outputs)
    leads = [port.dims[0] if port.dims else None for port in ports]
    first = leads[0] if inputs else None
    needed = "one dynamic dimension that leads every input and output and stands nowhere else"
    hint = f"name it alike everywhere in the export, or {_UNBATCHED}"
    if not isinstance(first, str):
        raise ProfileError(_WHERE, str(ports[0]) if inputs else "no inputs", needed=needed, hint=hint)
    for port, lead in zip(ports, leads, strict=True):
        if lead != first:
            raise ProfileError(_WHERE, f"{first} at the head of {ports[0].name}, but {port}", needed=needed, hint=hint)
        inside = [dim for dim in (port.dims or ())[1:] if isinstance(dim, str)]
        if any(first == dim or first in dims.symbols(dim) for dim in inside):
            raise ProfileError(_WHERE, f"{first} inside {port}", needed=needed, hint=hint)
    return first


def chosen_profiles(profile: BoundProfile, numbers: Sequence[int] | None) -> tuple[int, ...]:
    """Return the numbers of the profiles to serve: those given, else all.

    Raises:
        UsageError: a number that there is not, or one twice.
    """
    if numbers is None:
        return tuple(range(len(profile.profiles)))
    there = len(profile.profiles)
    if not numbers or len(set(numbers)) < len(numbers) or not all(0 <= number < there for number in numbers):
        found = ", ".join(map(str, numbers)) or "none"
        raise UsageError("profile numbers", found, needed=f"different ones of 0 to {there - 1}")
    return tuple(numbers)


def largest_batch(profile: BoundProfile, batch: str, numbers: Sequence[int], wanted: int | None) -> int:
    """Return the largest batch that every profile to serve allows, or the smaller one that is wanted.

    Raises:
        ProfileError: no maximum, or more than one row at least.
        UsageError: a larger one is wanted.

    Example:
        >>> from graphwright.runtime.profile import Profile
        >>> from graphwright.runtime.bind import bind
        >>> bound = bind(Profile.parse("n=1:4:8;n=1:1:2"), [Port("x", None, ("n",))])
        >>> largest_batch(bound, "n", (0, 1), None), largest_batch(bound, "n", (0,), 6)
        (2, 6)
    """
    ranges = [profile.profiles[number][batch] for number in numbers]
    bounds = [one.max for one in ranges if one.max is not None]
    if any(one.min > 1 for one in ranges):
        found = f"{batch}={', '.join(map(str, ranges))}"
        raise ProfileError(_WHERE, found, needed="a minimum of 1, since Triton sends single requests too")
    if not bounds and wanted is None:
        hint = f"optimize with a profile such as {batch}=1:8:32, or give --max-batch"
        raise ProfileError(_WHERE, f"a profile without a maximum of {batch}", needed="one", hint=hint)
    largest = min(bounds, default=wanted or 0)
    if wanted is not None and wanted > largest:
        found = f"a largest batch of {wanted}"
        raise UsageError(_WHERE, found, needed=f"at most {largest}, which the profile allows", hint="a wider profile")
    return wanted or largest


def preferred_batches(profile: BoundProfile, batch: str, numbers: Sequence[int], largest: int) -> tuple[int, ...]:
    """Return the sizes that the engine was made for, and the largest: batches to wait for.

    A batch of one is nothing to wait for.
    """
    best = {profile.sizes("opt", number)[batch] for number in numbers} if profile.is_bounded else set()
    return tuple(sorted({size for size in best if 1 < size < largest} | {largest}))


def shapes_of(profile: BoundProfile, which: Which, number: int, rows: dict[str, int]) -> Shapes:
    """Return the shapes at one corner of a profile with some of the sizes replaced."""
    sizes = profile.sizes(which, number) | rows
    return {
        port.name: tuple(dims.size(dim, sizes) or 0 for dim in port.dims)
        for port in profile.inputs
        if not port.is_optional and port.dims is not None
    }


def samples(
    profile: BoundProfile, numbers: Sequence[int], batch: str | None, largest: int, corners: Sequence[Which]
) -> tuple[Sample, ...]:
    """Return the corners of the profiles that have an element in every input, each once, named after the profile."""
    found: dict[str, Sample] = {}
    for number in numbers if profile.is_bounded else ():
        for which in corners:
            rows = min(profile.sizes(which, number)[batch], largest) if batch is not None else 1
            shapes = shapes_of(profile, which, number, {batch: rows} if batch is not None else {})
            inner = {name: shape[batch is not None :] for name, shape in shapes.items()}
            if all(0 not in shape for shape in shapes.values()):
                found.setdefault(f"{rows} {inner}", Sample(f"profile {number}, {which}", rows, inner))
    return tuple(found.values())
