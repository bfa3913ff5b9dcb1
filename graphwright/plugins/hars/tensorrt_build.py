"""The plugin library for TensorRT, built by whoever has TensorRT's headers: it may not be shipped with them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from graphwright.errors import BuildError, MissingDependencyError
from graphwright.plugins.hars import cuda_build

_WHERE = "hars: TensorRT plugin library"
_SOURCES = ("tensorrt_plugin.cu", "softmax_topk.cu", "router.cu")


def build_plugin(headers: str | Path, target: str | Path, architectures: Sequence[int] = (80, 90, 100)) -> Path:
    """Compile the library to ``target`` with the headers of a TensorRT of version 10 or 11; return its path.

    The newest architecture goes in as PTX too, for GPUs that come later.

    Raises:
        MissingDependencyError: no nvcc, or no ``NvInferRuntime.h`` among the headers.
        BuildError: nvcc refuses.
    """
    compiler = cuda_build.nvcc()
    if compiler is None:
        raise MissingDependencyError(_WHERE, "no nvcc", needed="the CUDA toolkit")
    if not (Path(headers) / "NvInferRuntime.h").is_file():
        hint = "take the include folder of TensorRT's archive"
        raise MissingDependencyError(
            _WHERE, f"no NvInferRuntime.h in {headers}", needed="TensorRT's headers", hint=hint
        )
    codes = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in architectures]
    codes.append(f"-gencode=arch=compute_{max(architectures)},code=compute_{max(architectures)}")
    sources = [str(cuda_build.SOURCES / name) for name in _SOURCES]
    flags = [*cuda_build.FLAGS, *cuda_build.OBJECT_FLAGS, *codes, f"-I{headers}", "--shared", "-o", str(target)]
    answer = subprocess.run([compiler, *flags, *sources], capture_output=True, text=True, errors="replace", check=False)
    if answer.returncode:
        raise BuildError(_WHERE, f"nvcc fails: {answer.stderr.strip()[:600]}", needed="a toolkit that knows the GPUs")
    return Path(target)
