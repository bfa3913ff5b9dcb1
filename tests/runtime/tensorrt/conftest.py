"""The library, the device and its driver, replaced by doubles that are named as doubles."""

import pytest

from graphwright.runtime.tensorrt import cuda_driver, library
from tests.runtime.tensorrt.cuda_double import CudaDouble
from tests.runtime.tensorrt.runtime_double import TensorRTDouble


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaDouble:
    made = CudaDouble()
    monkeypatch.setattr(cuda_driver, "cuda", lambda device=0: made)
    monkeypatch.setattr(library, "device", lambda index=0: library.Device("NVIDIA H200", "9.0", "13.0"))
    return made


@pytest.fixture
def trt(cuda: CudaDouble, monkeypatch: pytest.MonkeyPatch) -> TensorRTDouble:
    made = TensorRTDouble(cuda)
    monkeypatch.setattr(library, "tensorrt_library", lambda: made)
    return made
