"""The TensorRT library and the device, asked for when they are needed and never at import.

Callers go through this module (``library.tensorrt_library()``, ``library.device()``), so that a test can put a double
in their place.
"""

import ctypes
import re
from dataclasses import dataclass
from typing import Any

from graphwright.errors import MissingDependencyError
from graphwright.runtime.tensorrt import cuda_driver

# Older parsers and builders are not in the capability table.
OLDEST = (10, 16)
_WHERE = "TensorRT"
_NEEDED_DEVICE = "an NVIDIA GPU and its driver"
# Of NVIDIA's cuda.h: CUdevice_attribute.
_MAJOR, _MINOR = 75, 76
_LONGEST_NAME = 256


@dataclass(frozen=True)
class Device:
    """A GPU: its name, its compute capability, and the CUDA version that its driver offers.

    Example:
        >>> Device("NVIDIA H200", "9.0", "13.0").to_json()
        {'name': 'NVIDIA H200', 'compute_capability': '9.0', 'driver': '13.0'}
    """

    name: str
    compute_capability: str
    driver: str

    def to_json(self) -> dict[str, str]:
        """Plain text by name, for sidecars."""
        return {"name": self.name, "compute_capability": self.compute_capability, "driver": self.driver}


def tensorrt_library() -> Any:
    """Return the module ``tensorrt``.

    Raises:
        MissingDependencyError: the package or its libraries are not there, or too old.
    """
    needed = f"tensorrt {OLDEST[0]}.{OLDEST[1]} or newer"
    hint = "pip install graphwright[tensorrt] on a machine with an NVIDIA GPU; --dry-run needs neither"
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        # Its bindings and its libraries are packages of their own.
        found = "no package tensorrt" if getattr(error, "name", None) == "tensorrt" else f"{error}"
        raise MissingDependencyError(_WHERE, found, needed=needed, hint=hint) from error
    version = version_of(tensorrt)
    if release(version) < OLDEST:
        raise MissingDependencyError(_WHERE, f"tensorrt {version}", needed=needed, hint=hint)
    return tensorrt


def version_of(library: Any) -> str:
    """Return the full version of a TensorRT module, such as 11.4.0.106."""
    return str(library.__version__)


def release(version: str) -> tuple[int, int]:
    """Return the first two numbers of a version.

    Raises:
        MissingDependencyError: the text is no version.

    Example:
        >>> release("11.4.0.106")
        (11, 4)
    """
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None:
        raise MissingDependencyError(_WHERE, f"version {version!r}", needed="a version such as 11.4.0")
    return int(found[1]), int(found[2])


def device(index: int = 0) -> Device:
    """Return what the driver tells about one GPU. It makes no CUDA context and needs neither torch nor TensorRT.

    Raises:
        MissingDependencyError: no driver, or no such GPU.
    """
    driver = cuda_driver.open_driver()
    handle, count, version = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not 0 <= index < count.value:
        found = f"{count.value} devices (driver: {status})"
        raise MissingDependencyError(f"GPU {index}", found, needed=_NEEDED_DEVICE)
    name, numbers = ctypes.create_string_buffer(_LONGEST_NAME), [ctypes.c_int(), ctypes.c_int()]
    status = driver.cuDeviceGet(ctypes.byref(handle), index)
    status = status or driver.cuDeviceGetName(name, _LONGEST_NAME, handle)
    for number, attribute in zip(numbers, (_MAJOR, _MINOR), strict=True):
        status = status or driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle)
    status = status or driver.cuDriverGetVersion(ctypes.byref(version))
    if status:
        raise MissingDependencyError(f"GPU {index}", f"no answer (driver: {status})", needed=_NEEDED_DEVICE)
    capability = ".".join(str(number.value) for number in numbers)
    # The driver gives 13020 for CUDA 13.2.
    return Device(name.value.decode(), capability, f"{version.value // 1000}.{version.value % 1000 // 10}")
