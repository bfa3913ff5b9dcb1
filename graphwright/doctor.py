"""What is installed here, what is missing, and the command that installs it."""

import ctypes.util
import os
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graphwright import __version__
from graphwright.plugins.hars import cuda, native

# Package, module, what it is for, how to install it.
_PACKAGES = (
    ("numpy", "numpy", "arrays", "pip install graphwright"),
    ("onnx", "onnx", "the model format", "pip install graphwright"),
    ("onnx-ir", "onnx_ir", "the graph that passes work on", "pip install graphwright"),
    ("onnxruntime", "onnxruntime", "running models on the CPU", "pip install graphwright"),
    ("onnx-graphsurgeon", "onnx_graphsurgeon", "--gs-script", "pip install graphwright"),
    ("torch", "torch", "PyTorch modules", "pip install graphwright[torch]"),
    ("transformers", "transformers", "Hugging Face models", "pip install graphwright[torch]"),
    ("onnxscript", "onnxscript", "tracing with torch", "pip install graphwright[torch]"),
    ("jinja2", "jinja2", "HTML reports", "pip install graphwright[report]"),
    ("onnxruntime-gpu", "", "target ort-cuda", "pip uninstall onnxruntime && pip install graphwright[gpu]"),
    ("openvino", "openvino", "target openvino", "pip install graphwright[openvino]"),
    (
        "onnxruntime-ep-openvino",
        "onnxruntime_ep_openvino",
        "target openvino in ONNX Runtime",
        "pip install graphwright[openvino-provider]",
    ),
    ("tensorrt", "tensorrt", "target tensorrt", "pip install graphwright[tensorrt]"),
)
# What decides which kernels ONNX Runtime and ours can take.
_CPU_FLAGS = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "amx_bf16",
    "asimd",
)
_LIBRARIES = (("libcuda", "cuda", "the NVIDIA driver"), ("libnvinfer", "nvinfer", "TensorRT"))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for; where ``found`` is empty, ``install`` says what to do."""

    name: str
    found: str
    purpose: str
    install: str = ""


def examine() -> list[Finding]:
    """Look for everything that graphwright can use.

    Example:
        >>> [one.found != "" for one in examine() if one.name in ("graphwright", "numpy")]
        [True, True]
    """
    return [
        Finding("graphwright", __version__, "this package"),
        Finding("python", f"{platform.python_version()} on {platform.machine()}", "3.11 or 3.12 is needed"),
        *(_package(*entry) for entry in _PACKAGES),
        Finding("providers", ", ".join(_providers()), "of ONNX Runtime", "pip install graphwright"),
        Finding("cpu", f"{os.cpu_count()} cores: {' '.join(_cpu_flags()) or 'flags not known'}", "kernels"),
        _compiler(),
        _cpu_kernels(),
        _cuda_kernels(),
        *(_library(*entry) for entry in _LIBRARIES),
    ]


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """Return the findings as one object: what was found by name, and what is missing with its remedy."""
    return {
        "found": {one.name: one.found for one in findings if one.found},
        "missing": {one.name: one.install for one in findings if not one.found},
    }


def _package(name: str, module: str, purpose: str, install: str) -> Finding:
    try:
        return Finding(name, version(name), purpose, install)
    except PackageNotFoundError:
        # A package may be there without its metadata: a system's TensorRT, a source tree.
        found = "installed, version not known" if module and _has_module(module) else ""
        return Finding(name, found, purpose, install)


def _has_module(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _providers() -> list[str]:
    try:
        from graphwright.runtime.providers import available_providers
    except ImportError:
        return []
    return available_providers()


def _cpu_flags() -> list[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    words = set(next(lines, "").split())
    return [flag for flag in _CPU_FLAGS if flag in words]


def _compiler() -> Finding:
    path = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), "")
    return Finding("c++ compiler", path, "compiled kernels", "apt-get install g++, or your system's way")


def _cpu_kernels() -> Finding:
    remedy = "install a C++ compiler, then pip install --force-reinstall graphwright"
    reason = native.why_not()
    if reason:
        return Finding("hars kernels (cpu)", "", reason, remedy)
    return Finding("hars kernels (cpu)", ", ".join(native.isas()), "softmax with top-k, routers and search", remedy)


def _cuda_kernels() -> Finding:
    reason = cuda.why_not()
    purpose = reason or "softmax with top-k, routers and search on a GPU"
    return Finding("hars kernels (cuda)", "" if reason else "can run", purpose, "an NVIDIA GPU and nvcc")


def _library(name: str, short: str, purpose: str) -> Finding:
    found = ctypes.util.find_library(short) or ""
    return Finding(name, found, purpose, f"install {purpose}, if this machine has an NVIDIA GPU")
