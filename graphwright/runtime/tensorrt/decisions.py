"""Everything that is decided about an engine before TensorRT is asked for anything.

``build-engine --dry-run`` prints these decisions, the build applies them, the key of the cache is made of them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphwright import __version__
from graphwright.errors import ProfileError
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.signature import Port
from graphwright.runtime.tensorrt import library
from graphwright.runtime.tensorrt.library import Device
from graphwright.runtime.tensorrt.plugins import HARS_NAMES
from graphwright.runtime.tensorrt.settings import EngineSettings
from graphwright.runtime.tensorrt.sidecar import (
    Plugin,
    ProfileShapes,
    Sidecar,
    plugin_to_json,
    port_to_json,
    profile_to_json,
)

FORMAT = 1
# Of the key of the cache: raised when engines of older versions must not be used any more.
KEY_FORMAT = 1
_LEAK = (
    "HARS is compiled into the plan: TensorRT 11.1 and 11.2 keep memory at every change of shape of such a plugin "
    "(NVIDIA/TensorRT#4849); where shapes change often, build its library and take --hars library"
)


@dataclass(frozen=True)
class Decisions:
    """What an engine is built from and how. ``tensorrt`` and ``device`` are None where they are not there.

    ``missing`` tells what could not be found; ``unsupported`` which nodes the parser does not take, as plain data.
    ``operators`` are those that plugins run; ``plugins`` are compiled into the engine or loaded for it, those in
    ``serialized`` go into the plan; ``passes`` are the rewrites behind the model.
    """

    model: str
    onnx_sha256: str
    settings: EngineSettings
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    profiles: tuple[ProfileShapes, ...]
    checked_for: str
    tensorrt: str | None = None
    device: Device | None = None
    device_number: int = 0
    operators: tuple[str, ...] = ()
    plugins: tuple[Plugin, ...] = ()
    serialized: tuple[Plugin, ...] = ()
    passes: tuple[str, ...] = ()
    unsupported: tuple[Mapping[str, str], ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def network_flags(self) -> tuple[str, ...]:
        """The members of TensorRT's NetworkDefinitionCreationFlag to create the network with."""
        flags = []
        version = self.tensorrt or self.checked_for
        if library.release(version)[0] < 11:
            # From 11 on every network is strongly typed.
            flags.append("STRONGLY_TYPED")
        if self.settings.hars == "quick" and any(name in HARS_NAMES for name in self.operators):
            flags.append("PREFER_AOT_PYTHON_PLUGINS")
        return tuple(flags)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing before the engine serves anybody."""
        is_quick = "PREFER_AOT_PYTHON_PLUGINS" in self.network_flags
        shapes = [corners for profile in self.profiles for corners in profile.values()]
        if is_quick and (len(self.profiles) > 1 or any(one["min"] != one["max"] for one in shapes)):
            return (_LEAK,)
        return ()

    @property
    def key(self) -> str | None:
        """The name of the engine in the cache: 32 hex digits, or None where the library or the device is missing."""
        if self.tensorrt is None or self.device is None or self.missing:
            return None
        text = json.dumps(self.key_parts(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def key_parts(self) -> dict[str, Any]:
        """Return what makes one engine another: content, never a path or a name of a file.

        The driver's version is left out, since a plan outlives it; so is whatever only decides how long the build
        takes or where its result goes.
        """
        assert self.device is not None
        return {
            "format": KEY_FORMAT,
            "graph": self.onnx_sha256,
            "profiles": [profile_to_json(one) for one in self.profiles],
            "network_flags": self.network_flags,
            "builder_flags": [name for name in self.settings.builder_flags() if name != "ERROR_ON_TIMING_CACHE_MISS"],
            "config": self.settings.config(),
            "memory_pools": self.settings.memory_pools(),
            "tensorrt": self.tensorrt,
            "gpu": [self.device.name, self.device.compute_capability],
            "plugins": sorted({plugin.sha256 for plugin in self.plugins}),
            "plugins_to_serialize": sorted({plugin.sha256 for plugin in self.serialized}),
        }

    def sidecar(self, key: str, plan: bytes | memoryview) -> Sidecar:
        """Return what is written beside the plan that was built."""
        assert self.device is not None and self.tensorrt is not None
        timing = self.settings.timing_cache
        return Sidecar(
            key,
            self.onnx_sha256,
            hashlib.sha256(plan).hexdigest(),
            __version__,
            self.tensorrt,
            self.device,
            self.profiles,
            self.inputs,
            self.outputs,
            passes=self.passes,
            flags=self.settings.to_json(),
            plugins=self.plugins,
            timing_cache=Path(timing).name if timing is not None else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the decisions as plain data, in a fixed order."""
        return {
            "format": FORMAT,
            "model": self.model,
            "onnx_sha256": self.onnx_sha256,
            "passes": list(self.passes),
            "tensorrt": self.tensorrt,
            "checked_for": self.checked_for,
            "device": self.device.to_json() if self.device is not None else None,
            "device_number": self.device_number,
            "inputs": [port_to_json(port) for port in self.inputs],
            "outputs": [port_to_json(port) for port in self.outputs],
            "profiles": [profile_to_json(one) for one in self.profiles],
            "network_flags": list(self.network_flags),
            "builder_flags": list(self.settings.builder_flags()),
            "config": self.settings.config(),
            "memory_pools": self.settings.memory_pools(),
            "settings": self.settings.to_json(),
            "plugin_operators": list(self.operators),
            "plugins": [plugin_to_json(one) for one in self.plugins],
            "plugins_to_serialize": [plugin_to_json(one) for one in self.serialized],
            "unsupported": [dict(one) for one in self.unsupported],
            "missing": list(self.missing),
            "notes": list(self.notes),
            "key": self.key,
        }


def profile_shapes(bound: BoundProfile) -> tuple[ProfileShapes, ...]:
    """Return the shapes of every input at min, opt and max, for each profile.

    Raises:
        ProfileError: an input without a known rank, or a dimension without a maximum.
    """
    for port in bound.inputs:
        if port.dims is None and not port.is_optional:
            needed, hint = "a tensor of known rank", "export the model again, with the rank of its inputs"
            raise ProfileError(f"input {port.name}", "a rank that the model leaves open", needed=needed, hint=hint)
    open_dims = [dim for ranges in bound.profiles for dim, given in ranges.items() if given.max is None]
    if open_dims:
        names = list(dict.fromkeys(open_dims))
        owners = [str(port) for port in bound.inputs if set(port.dims or ()) & set(names)]
        hint = f"add --profile {','.join(f'{name}=1:8:32' for name in names)}"
        found = f"no profile for {', '.join(names)} of {'; '.join(owners)}"
        raise ProfileError("profile", found, needed="min, opt and max of every dynamic dimension", hint=hint)
    return tuple(_shapes(bound, index) for index in range(len(bound.profiles)))


def _shapes(bound: BoundProfile, index: int) -> ProfileShapes:
    corners = {which: bound.shapes(which, index) for which in _CORNERS}
    return {name: {which: corners[which][name] for which in _CORNERS} for name in corners["min"]}


_CORNERS: Sequence[Any] = ("min", "opt", "max")
