"""The library and the device: found, too old, or not there; the driver is a DOUBLE of libcuda."""

import ctypes
import sys
from types import ModuleType
from typing import Any

import pytest

from graphwright.errors import MissingDependencyError
from graphwright.runtime.tensorrt import cuda_driver, library
from graphwright.runtime.tensorrt.library import Device


class Driver:
    """Answers as libcuda does: through pointers, with a status."""

    def __init__(self, status: int = 0, devices: int = 1) -> None:
        self.status, self.devices = status, devices

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0

    def cuDeviceGet(self, handle: Any, index: int) -> int:
        handle._obj.value = index + 40
        return 0

    def cuDeviceGetName(self, name: Any, length: int, handle: ctypes.c_int) -> int:
        name.value = f"GPU {handle.value}".encode()
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: ctypes.c_int) -> int:
        value._obj.value = {75: 10, 76: 3}[attribute]
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = 13020
        return 0


def test_a_device_is_told_by_the_driver_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "open_driver", lambda: Driver(devices=2))
    assert library.device(1) == Device("GPU 41", "10.3", "13.2")


@pytest.mark.parametrize(
    ("driver", "index", "text"),
    [
        (Driver(status=100), 0, r"GPU 0: found 0 devices \(driver: 100\)"),
        (Driver(devices=2), 2, "GPU 2: found 2 devices"),
        (Driver(devices=2), -1, "GPU -1"),
    ],
)
def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, driver: Driver, index: int, text: str) -> None:
    monkeypatch.setattr(cuda_driver, "open_driver", lambda: driver)
    with pytest.raises(MissingDependencyError, match=text):
        library.device(index)


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(MissingDependencyError, match="no CUDA driver") as caught:
        library.device()
    assert caught.value.exit_code == 4


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"no package tensorrt; needed tensorrt 10.16 or newer"):
        library.tensorrt_library()


@pytest.mark.parametrize(("version", "is_taken"), [("10.15.1", False), ("10.16.0", True), ("11.4.0.106", True)])
def test_versions(monkeypatch: pytest.MonkeyPatch, version: str, is_taken: bool) -> None:
    module = ModuleType("tensorrt")
    module.__dict__["__version__"] = version
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    if is_taken:
        assert library.version_of(library.tensorrt_library()) == version
        return
    with pytest.raises(MissingDependencyError, match=r"found tensorrt 10\.15\.1"):
        library.tensorrt_library()


def test_text_that_is_no_version() -> None:
    with pytest.raises(MissingDependencyError, match="version 'eleven'"):
        library.release("eleven")
