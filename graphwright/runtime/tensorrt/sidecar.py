"""The file beside a plan that tells what the plan is: ``X.plan`` has ``X.plan.json``.

A plan itself is opaque. Whoever runs it, serves it or asks why it is slow reads here what it was built from, for which
shapes, with which library and for which GPU.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from graphwright.errors import LoadError
from graphwright.runtime.bound import BoundProfile, Range, derived_dims
from graphwright.runtime.signature import Port
from graphwright.runtime.tensorrt.library import Device

FORMAT = 1
# Input -> "min", "opt" and "max" -> shape.
ProfileShapes = Mapping[str, Mapping[str, tuple[int, ...]]]
_LARGEST = 1 << 24
_HINT = "build the engine again"


@dataclass(frozen=True)
class Plugin:
    """A plugin that the engine uses: its name with its namespace, its version, the sha256 of its code."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Sidecar:
    """What a plan was built from, with what, for what. ``passes`` are the rewrites that fired, in their order.

    ``profiles`` has, for each optimization profile, the shapes of every input that is not optional; ``inputs`` and
    ``outputs`` have ONNX types and the names of their dimensions.

    Example:
        >>> port = Port("x", ir.DataType.FLOAT, ("n", 3))
        >>> shapes = {"x": {"min": (1, 3), "opt": (4, 3), "max": (8, 3)}}
        >>> made = Sidecar("k", "a", "b", "0.1.0", "11.4.0", Device("H200", "9.0", "13.0"), (shapes,), (port,), (port,))
        >>> Sidecar.from_json(made.to_json()) == made
        True
        >>> made.bound_profile().shapes("opt")
        {'x': (4, 3)}
    """

    key: str
    onnx_sha256: str
    plan_sha256: str
    graphwright: str
    tensorrt: str
    device: Device
    profiles: tuple[ProfileShapes, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    passes: tuple[str, ...] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()
    timing_cache: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dicts."""
        return {
            "format": FORMAT,
            "key": self.key,
            "onnx_sha256": self.onnx_sha256,
            "plan_sha256": self.plan_sha256,
            "graphwright": self.graphwright,
            "passes": list(self.passes),
            "tensorrt": self.tensorrt,
            "device": self.device.to_json(),
            "profiles": [profile_to_json(one) for one in self.profiles],
            "inputs": [port_to_json(port) for port in self.inputs],
            "outputs": [port_to_json(port) for port in self.outputs],
            "flags": dict(self.flags),
            "plugins": [plugin_to_json(one) for one in self.plugins],
            "timing_cache": self.timing_cache,
        }

    @classmethod
    def from_json(cls, data: Any, where: str = "sidecar") -> "Sidecar":
        """Return what :meth:`to_json` wrote.

        Raises:
            LoadError: the data has another form.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = f"format {data.get('format')!r}" if isinstance(data, dict) else "no object"
            raise LoadError(where, found, needed=f"format {FORMAT}", hint=_HINT)
        try:
            return cls(
                **{name: str(data[name]) for name in _TEXTS},
                device=Device(**{name: str(data["device"][name]) for name in Device.__dataclass_fields__}),
                profiles=tuple(map(_profile, data["profiles"])),
                inputs=tuple(map(_port, data["inputs"])),
                outputs=tuple(map(_port, data["outputs"])),
                passes=tuple(map(str, data["passes"])),
                flags=dict(data["flags"]),
                plugins=tuple(
                    Plugin(*(str(one[name]) for name in Plugin.__dataclass_fields__)) for one in data["plugins"]
                ),
                timing_cache=data["timing_cache"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            found = f"{type(error).__name__}: {error}"
            raise LoadError(where, found, needed="what build-engine wrote", hint=_HINT) from error

    @classmethod
    def read(cls, path: str | Path) -> "Sidecar":
        """Read the sidecar of a plan; ``path`` is the plan's or the sidecar's own.

        Raises:
            LoadError: there is none, or it is none.
        """
        path = Path(path)
        path = path if path.suffix == ".json" else sidecar_path(path)
        try:
            if path.stat().st_size > _LARGEST:
                raise LoadError(str(path), f"{path.stat().st_size} bytes", needed="a sidecar", hint=_HINT)
            data = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            found = f"no sidecar ({getattr(error, 'strerror', None) or error})"
            hint = "copy the file beside the plan, or build the engine again"
            raise LoadError(str(path), found, needed="what build-engine wrote beside the plan", hint=hint) from error
        return cls.from_json(data, str(path))

    def check_plan(self, plan: bytes, where: str) -> None:
        """Refuse a plan that is not the one that this sidecar is about.

        Raises:
            LoadError: another content, as after a copy that broke off.
        """
        if hashlib.sha256(plan).hexdigest() != self.plan_sha256:
            found = f"{len(plan)} bytes with another sha256 than its sidecar has"
            raise LoadError(
                where, found, needed="the plan that was built", hint="copy both files again, or build again"
            )

    def bound_profile(self) -> BoundProfile:
        """Return the profiles as ranges of dimensions, which check requests.

        Raises:
            LoadError: a profile lacks an input, or has another rank than the input.
        """
        derived = derived_dims(self.inputs)
        return BoundProfile(self.inputs, tuple(self._ranges(one, derived) for one in self.profiles))

    def _ranges(self, profile: ProfileShapes, derived: frozenset[str]) -> dict[str, Range]:
        ranges = {}
        for port in self.inputs:
            corners = profile.get(port.name)
            if corners is None or port.dims is None or {len(shape) for shape in corners.values()} != {len(port.dims)}:
                found = "no shapes" if corners is None else f"shapes {', '.join(map(str, corners.values()))}"
                raise LoadError(f"sidecar: input {port.name}", found, needed=str(port), hint=_HINT)
            for axis, dim in enumerate(port.dims):
                if isinstance(dim, str) and dim not in derived:
                    ranges[dim] = Range(*(corners[which][axis] for which in ("min", "opt", "max")))
        return ranges


_TEXTS = ("key", "onnx_sha256", "plan_sha256", "graphwright", "tensorrt")


def sidecar_path(plan: str | Path) -> Path:
    """Return where the sidecar of a plan lies.

    Example:
        >>> sidecar_path("out/bert.plan").name
        'bert.plan.json'
    """
    plan = Path(plan)
    return plan.with_name(plan.name + ".json")


def sidecar_text(sidecar: Sidecar) -> str:
    """Return the file's content."""
    return json.dumps(sidecar.to_json(), indent=1) + "\n"


def port_to_json(port: Port) -> dict[str, Any]:
    """Return an input or output as plain data; the type is ONNX's name of it, such as FLOAT16."""
    return {
        "name": port.name,
        "dtype": port.dtype.name if port.dtype is not None else None,
        "shape": list(port.dims) if port.dims is not None else None,
    }


def profile_to_json(profile: ProfileShapes) -> dict[str, dict[str, list[int]]]:
    """Return a profile's shapes as plain data."""
    return {name: {which: list(shape) for which, shape in corners.items()} for name, corners in profile.items()}


def plugin_to_json(plugin: Plugin) -> dict[str, str]:
    """Return a plugin as plain data."""
    return {"name": plugin.name, "version": plugin.version, "sha256": plugin.sha256}


def _port(data: Mapping[str, Any]) -> Port:
    dtype = ir.DataType[data["dtype"]] if data["dtype"] is not None else None
    sizes = None if data["shape"] is None else tuple(data["shape"])
    if sizes is not None and not all(isinstance(each, int | str) for each in sizes):
        raise ValueError(f"shape {list(sizes)}")
    return Port(str(data["name"]), dtype, sizes)


def _profile(data: Mapping[str, Any]) -> ProfileShapes:
    return {
        str(name): {which: tuple(map(int, corners[which])) for which in ("min", "opt", "max")}
        for name, corners in data.items()
    }
