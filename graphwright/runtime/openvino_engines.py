"""The two ways into OpenVINO: its own package, and the provider that ONNX Runtime loads as a library.

Both read the same graph and give the same numbers. The package is taken where both are there: it is told the profile's
sizes before it compiles.
"""

import json
from collections import deque
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort

from graphwright.errors import MissingDependencyError, UsageError
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.ort_load import ORT_ERRORS, Options

PACKAGE = "openvino"
PROVIDER_PACKAGE = "onnxruntime_ep_openvino"
PROVIDER = "OpenVINOExecutionProvider"

# What either raises: the package knows RuntimeError alone, which is among them.
ERRORS = ORT_ERRORS
_NOT_LOADED: tuple[type[Exception], ...] = (OSError, *ORT_ERRORS)

Arrays = Mapping[str, np.ndarray]


class Engine(Protocol):
    """A compiled model. ``read`` names the inputs that it takes: one that nothing reads is none to OpenVINO."""

    read: set[str]

    def run(self, arrays: Arrays) -> list[np.ndarray]:
        """Return the outputs, in order; several threads may call it at once."""
        ...


class PackageEngine:
    """A model compiled by the package ``openvino``, with every dimension bounded by the profile."""

    def __init__(self, source: str | bytes, profile: BoundProfile, options: Mapping[str, Any]) -> None:
        self._openvino = import_module(PACKAGE)
        core = self._openvino.Core()
        found = core.read_model(source)
        self._reshape(found, profile)
        self._compiled = core.compile_model(found, "CPU", dict(options))
        self.read = {name for port in self._compiled.inputs for name in port.get_names()}
        self._outputs = range(len(self._compiled.outputs))
        self._idle: deque[Any] = deque()

    def _reshape(self, found: Any, profile: BoundProfile) -> None:
        """Bound each dimension by the profiles, all of them together: what is fixed makes quicker kernels."""
        if not profile.is_bounded:
            return
        openvino = self._openvino
        every = range(len(profile.profiles))
        least, most = ([profile.shapes(which, index) for index in every] for which in ("min", "max"))
        known = {name for port in found.inputs for name in port.get_names()}
        bounds = {}
        for name in known & least[0].keys():
            lows, highs = (zip(*(shapes[name] for shapes in of), strict=True) for of in (least, most))
            sizes = [(min(low), max(high)) for low, high in zip(lows, highs, strict=True)]
            bounds[name] = openvino.PartialShape([openvino.Dimension(*each) for each in sizes])
        found.reshape(bounds)

    def run(self, arrays: Arrays) -> list[np.ndarray]:
        """Run in a request of OpenVINO that no other thread uses now."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.infer(dict(arrays), share_inputs=True, share_outputs=True)
        results = [np.array(request.get_output_tensor(index).data) for index in self._outputs]
        self._idle.append(request)
        return results


class ProviderEngine:
    """A model in ONNX Runtime, whose provider ``onnxruntime-ep-openvino`` gives what it can of it to OpenVINO."""

    def __init__(self, source: str | bytes, profile: BoundProfile, options: Mapping[str, Any]) -> None:
        session_options = Options().to_ort()
        settings = {"load_config": json.dumps({"CPU": dict(options)})}
        session_options.add_provider_for_devices(list(provider_devices()), settings)
        self._session = ort.InferenceSession(source, session_options)
        self.read = {given.name for given in self._session.get_inputs()}

    def run(self, arrays: Arrays) -> list[np.ndarray]:
        """Run the session."""
        found: Sequence[np.ndarray] = self._session.run(None, dict(arrays))
        return list(found)


ENGINES: dict[str, type[PackageEngine] | type[ProviderEngine]] = {
    "package": PackageEngine,
    "provider": ProviderEngine,
}


@cache
def provider_devices() -> tuple[Any, ...]:
    """Return the CPU devices that the provider's library lists; none without it, or on a CPU that it does not know.

    The library is registered once and stays, since sessions may use it.
    """
    if find_spec(PROVIDER_PACKAGE) is None:
        return ()
    package = import_module(PROVIDER_PACKAGE)
    try:
        ort.register_execution_provider_library(PROVIDER, package.get_library_path())
    except _NOT_LOADED:
        return ()  # built for another ONNX Runtime or system: as if it were not there
    every = (device for device in ort.get_ep_devices() if device.ep_name == PROVIDER)
    return tuple(device for device in every if device.device.type == ort.OrtHardwareDeviceType.CPU)


def is_available(engine: str) -> bool:
    """Tell whether an engine can be used here."""
    return find_spec(PACKAGE) is not None if engine == "package" else bool(provider_devices())


def has_engine() -> bool:
    """Tell whether any can; the provider's library is not loaded where the package is there."""
    return any(map(is_available, ENGINES))


def engine_named(name: str | None) -> type[PackageEngine] | type[ProviderEngine]:
    """Return an engine by its name, or the first that is there.

    Raises:
        UsageError: no engine has this name.
        MissingDependencyError: it is not here, or none is.
    """
    if name is not None and name not in ENGINES:
        raise UsageError("engine", repr(name), needed=" or ".join(ENGINES))
    found = next(filter(is_available, ENGINES if name is None else (name,)), None)
    if found is None:
        lacks = {"package": f"no package {PACKAGE}", "provider": f"no device of {PROVIDER}"}
        here = lacks[name] if name is not None else ", ".join(lacks.values())
        hint = "pip install graphwright[openvino]"
        raise MissingDependencyError("target openvino", here, needed="one of them", hint=hint)
    return ENGINES[found]
