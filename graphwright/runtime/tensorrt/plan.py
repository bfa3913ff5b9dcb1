"""A plan as a file: whether it is one, whole, and made for this library and this GPU. Asked before anything loads it.

TensorRT refuses such plans too, some after seconds, some with a message that names neither file nor remedy. What a
sidecar and the first bytes tell needs no library at all.

Source: the header is what ``trtexec --getPlanVersionOnly`` reads (NVIDIA/TensorRT, samples): four bytes ``ftrt``, the
    number of the layout, and in layout 0 the version of TensorRT in bytes 24 to 27.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from graphwright.errors import LoadError, UsageError
from graphwright.runtime.tensorrt.library import Device
from graphwright.runtime.tensorrt.sidecar import Sidecar, sidecar_path

_TAG = b"ftrt"
_HEADER, _VERSION = 28, slice(24, 28)
_KNOWN_LAYOUT = 0

# The name of the HardwareCompatibilityLevel that runs on other GPUs, as flags have it.
_AMPERE = "ampere_plus"


@dataclass(frozen=True)
class PlanFile:
    """A plan's bytes, what its sidecar says, and the version of TensorRT that made it, where either tells."""

    where: str
    content: bytes
    sidecar: Sidecar | None
    version: str | None

    @property
    def is_version_compatible(self) -> bool:
        """Whether it was built to run on later versions as well, as its sidecar says."""
        return self.sidecar is not None and bool(self.sidecar.flags.get("version_compatible"))


def read_plan(plan: str | Path | bytes, sidecar: Sidecar | None = None) -> PlanFile:
    """Return a plan with its sidecar, which a path has beside it; one without a sidecar is taken too.

    Raises:
        UsageError: neither a path nor bytes.
        LoadError: no such file, no plan, or not the one that the sidecar is about.

    Example:
        >>> read_plan(b"ftrt" + bytes(20) + bytes([11, 4, 0, 106])).version
        '11.4.0.106'
    """
    if isinstance(plan, bytes | bytearray | memoryview):
        return _checked("plan", bytes(plan), sidecar)
    if not isinstance(plan, str | Path):
        raise UsageError("plan", f"a {type(plan).__name__}", needed="a path or bytes")
    path = Path(plan)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LoadError(str(path), error.strerror or str(error), needed="a plan, as build-engine writes it") from error
    if sidecar is None and sidecar_path(path).exists():
        sidecar = Sidecar.read(path)
    return _checked(str(path), content, sidecar)


def check_fits(plan: PlanFile, library_version: str, device: Device) -> None:
    """Refuse a plan that this TensorRT or this GPU cannot run.

    Raises:
        LoadError: it was made by another version, or for another GPU.
    """
    _check_version(plan, library_version)
    if plan.sidecar is not None:
        _check_device(plan.where, plan.sidecar, device)


def _checked(where: str, content: bytes, sidecar: Sidecar | None) -> PlanFile:
    hint = "build the engine again with graphwright build-engine"
    if len(content) < _HEADER:
        raise LoadError(where, f"{len(content)} bytes", needed="a TensorRT plan", hint=hint)
    if sidecar is not None:
        sidecar.check_plan(content, where)
        # Who built it knows: a layout that is not known here is no fault then.
        return PlanFile(where, content, sidecar, sidecar.tensorrt)
    if not content.startswith(_TAG):
        found = f"{len(content)} bytes that begin with {content[:4]!r}"
        raise LoadError(where, found, needed=f"a TensorRT plan, which begins with {_TAG!r}", hint=hint)
    is_known = int.from_bytes(content[4:8], "little") == _KNOWN_LAYOUT
    return PlanFile(where, content, None, ".".join(map(str, content[_VERSION])) if is_known else None)


def _check_version(plan: PlanFile, library_version: str) -> None:
    if plan.version is None:
        return
    made, here = _release(plan.version), _release(library_version)
    # Without a sidecar nobody knows whether an older plan was built to run later; the library does.
    may_be_compatible = plan.sidecar is None or plan.is_version_compatible
    if made == here or (made < here and may_be_compatible):
        return
    hint = f"build it again with this version, or pip install tensorrt=={'.'.join(map(str, made))}"
    if made < here:
        hint += "; --version-compatible makes plans that later versions run"
    needed = f"TensorRT {library_version}, the version that is installed"
    raise LoadError(plan.where, f"a plan of TensorRT {plan.version}", needed=needed, hint=hint)


def _release(version: str) -> tuple[int, ...]:
    """Return the first three numbers: a build number alone changes nothing in a plan."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def _check_device(where: str, sidecar: Sidecar, device: Device) -> None:
    made, here = sidecar.device.compute_capability, device.compute_capability
    level = str(sidecar.flags.get("hardware_compatibility", "")).lower()
    if made == here or (level == _AMPERE and _release(here) >= (8, 0)):
        return
    raise LoadError(
        where,
        f"a plan for {sidecar.device.name} (compute capability {made})",
        needed=f"one for {device.name} (compute capability {here})",
        hint="build it on this GPU, or with --hardware-compatibility-level for others of its kind",
    )
