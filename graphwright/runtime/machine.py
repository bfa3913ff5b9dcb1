"""What a time depends on besides the model: the processor, the number of its cores, the GPU, ONNX Runtime."""

import os
import platform
from pathlib import Path

import onnxruntime as ort


def processor() -> str:
    """Return the name of the processor, or its architecture where it has none."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        found = next(names, "")
        if found:
            return found
    return platform.processor() or platform.machine()


def cores() -> int:
    """Return the number of cores that this process may use.

    Example:
        >>> cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def graphics() -> str:
    """Return the name of the first GPU with its compute capability and the CUDA version of its driver.

    Raises:
        MissingDependencyError: there is no NVIDIA driver, or no GPU.
    """
    from graphwright.runtime.tensorrt.library import device

    found = device(0)
    return f"{found.name}, compute capability {found.compute_capability}, driver for CUDA {found.driver}"


def onnxruntime_version() -> str:
    """Return the version of ONNX Runtime.

    Example:
        >>> onnxruntime_version().count(".") >= 2
        True
    """
    return str(ort.__version__)
