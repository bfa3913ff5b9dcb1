"""What of an engine's surroundings is there: the library, the GPU, the kernels that go into the plan."""

from collections.abc import Sequence
from dataclasses import dataclass

from graphwright.errors import MissingDependencyError
from graphwright.runtime.tensorrt import library
from graphwright.runtime.tensorrt.library import Device
from graphwright.runtime.tensorrt.plugins import PluginNode, hars_plugins
from graphwright.runtime.tensorrt.settings import EngineSettings
from graphwright.runtime.tensorrt.sidecar import Plugin


@dataclass(frozen=True)
class Environment:
    """TensorRT's version, the GPU and the quick plugins, as far as they are there; ``absent`` is the rest."""

    tensorrt: str | None = None
    device: Device | None = None
    plugins: tuple[Plugin, ...] = ()
    absent: tuple[MissingDependencyError, ...] = ()


def look(wanted: str | None, device: int, nodes: Sequence[PluginNode], settings: EngineSettings) -> Environment:
    """Look for everything that an engine needs, and note what is not there. ``wanted`` is a version of TensorRT.

    The kernels of HARS nodes are compiled only where all else is there: it takes seconds, and without the rest nobody
    needs them.
    """
    absent: list[MissingDependencyError] = []
    version, gpu = None, None
    plugins: tuple[Plugin, ...] = ()
    try:
        version = library.version_of(library.tensorrt_library())
        _check(version, wanted)
    except MissingDependencyError as error:
        absent.append(error)
    try:
        gpu = library.device(device)
    except MissingDependencyError as error:
        absent.append(error)
    if not absent and settings.hars == "quick":
        try:
            plugins = hars_plugins(nodes)
        except MissingDependencyError as error:
            absent.append(error)
    return Environment(version, gpu, plugins, tuple(absent))


def _check(version: str, wanted: str | None) -> None:
    if wanted is not None and library.release(version) != library.release(wanted):
        hint = f"pip install tensorrt=={'.'.join(map(str, library.release(wanted)))}.*"
        raise MissingDependencyError("TensorRT", f"tensorrt {version}", needed=wanted, hint=hint)
