"""Fit a profile to a model's inputs: one range for every dynamic dimension, or an error that says why not."""

from collections.abc import Sequence
from dataclasses import replace

from graphwright.errors import ProfileError
from graphwright.runtime import dims
from graphwright.runtime.bound import BoundProfile, Range, derived_dims
from graphwright.runtime.profile import Entry, Profile
from graphwright.runtime.signature import Port, named_dims


def bind(profile: Profile, ports: Sequence[Port]) -> BoundProfile:
    """Fit a profile to the inputs given; :meth:`Profile.bind` does it for a model's.

    Raises:
        ProfileError: as :meth:`Profile.bind` says.
    """
    known = tuple(_with_rank(port, profile) for port in ports)
    derived = derived_dims(known)
    free = [dim for dim in _texts(known) if dim not in derived]
    if not profile.alternatives:
        return BoundProfile(known, ({dim: Range(1, 1, None) for dim in free},))
    return BoundProfile(known, tuple(_Ranges(known, derived).fit(one, free) for one in profile.alternatives))


def _texts(ports: Sequence[Port]) -> list[str]:
    """Every dimension that is no number, once, in the order of the inputs."""
    return list(dict.fromkeys(dim for port in ports for dim in port.dims or () if isinstance(dim, str)))


def _with_rank(port: Port, profile: Profile) -> Port:
    """An input of unknown rank takes the rank that the profile gives it."""
    if port.dims is not None or port.dtype is None:
        return port
    ranks = {len(entry) for one in profile.alternatives for name, entry in one if name == port.name}
    if len(ranks) == 1:
        return replace(port, dims=named_dims(port.name, [None] * ranks.pop()))
    if profile.alternatives and not port.is_optional:
        raise ProfileError(
            f"input {port.name}",
            "a rank that the model leaves open",
            needed=f"an entry {port.name}=min:opt:max of one rank",
        )
    return port


class _Ranges:
    """The ranges of one alternative, gathered entry by entry."""

    def __init__(self, ports: Sequence[Port], derived: frozenset[str]) -> None:
        self.ports = {port.name: port for port in ports}
        self.derived = derived
        self.texts = _texts(ports)
        self.found: dict[str, Range] = {}
        self.origin: dict[str, str] = {}

    def fit(self, alternative: Sequence[tuple[str, Entry]], free: Sequence[str]) -> dict[str, Range]:
        for name, entry in alternative:
            if self._names_input(name, entry):
                self._take_shape(self.ports[name], entry)
            else:
                self._take_dim(name, entry)
        missing = [dim for dim in free if dim not in self.found]
        if missing:
            given = ", ".join(self.found) or "none"
            raise ProfileError(
                "profile",
                f"ranges for {given}",
                needed=f"also for {', '.join(missing)}",
                hint=f"add {','.join(f'{dim}=1:8:32' for dim in missing)}",
            )
        for dim in self.texts:
            if dim in self.derived:
                self._check_derived(dim)
        return {dim: self.found[dim] for dim in free}

    def _names_input(self, name: str, entry: Entry) -> bool:
        port, is_dim = self.ports.get(name), name in self.texts
        if port is None and not is_dim:
            there_are = f"inputs {', '.join(self.ports) or 'none'}; dimensions {', '.join(self.texts) or 'none'}"
            raise ProfileError("profile", f"the name {name}", needed=f"one the model has ({there_are})")
        is_shape = port is not None and port.dims is not None and len(port.dims) == len(entry)
        if port is not None and is_dim and is_shape and len(entry) == 1 and port.dims != (name,):
            raise ProfileError(
                "profile",
                f"the name {name}, which is an input and a dimension of another one",
                needed="a name with one meaning",
                hint=f"rename the dimension {name}",
            )
        return port is not None and (is_shape or not is_dim)

    def _take_shape(self, port: Port, entry: Entry) -> None:
        where = f"profile entry {port.name}"
        if port.dims is None:
            raise ProfileError(where, "an input that is no tensor", needed="a tensor")
        if len(port.dims) != len(entry):
            raise ProfileError(where, f"rank {len(entry)}", needed=f"rank {len(port.dims)}: {port}")
        for axis, (dim, given) in enumerate(zip(port.dims, entry, strict=True)):
            if isinstance(dim, str):
                self._assign(dim, given, f"axis {axis} of {port.name}")
            elif (given.min, given.max) != (dim, dim):
                raise ProfileError(where, f"{given} on axis {axis}", needed=f"{dim}, which the model fixes: {port}")

    def _take_dim(self, name: str, entry: Entry) -> None:
        if len(entry) != 1:
            raise ProfileError(f"profile entry {name}", f"rank {len(entry)}", needed="one number, as for any dimension")
        self._assign(name, entry[0], f"entry {name}")

    def _assign(self, dim: str, given: Range, origin: str) -> None:
        before = self.found.setdefault(dim, given)
        if before != given:
            raise ProfileError(
                f"dimension {dim}",
                f"{given} ({origin})",
                needed=f"{before}, as {self.origin[dim]} says",
                hint="dimensions that share a name move together",
            )
        self.origin.setdefault(dim, origin)

    def _check_derived(self, dim: str) -> None:
        corners = []
        for which in ("min", "opt", "max"):
            corners.append(
                dims.size(
                    dim,
                    {name: getattr(given, which) for name, given in self.found.items() if name not in self.derived},
                )
            )
        text = ":".join(map(str, corners))
        given = self.found.get(dim)
        if None in corners:
            raise ProfileError(f"dimension {dim}", f"{text} at min, opt and max", needed="a size of at least zero each")
        if given is not None and [given.min, given.opt, given.max] != corners:
            raise ProfileError(f"dimension {dim}", f"{given} ({self.origin[dim]})", needed=f"{text}, as its names give")
