"""Buffers of a session: allocated once at the largest size, or at the size asked for where there is no more room."""

import pytest

from graphwright.errors import MissingDependencyError
from graphwright.runtime.tensorrt.device_buffers import DeviceBuffers
from tests.runtime.tensorrt.cuda_double import CudaDouble


def test_a_buffer_is_allocated_once_at_its_largest_size() -> None:
    cuda = CudaDouble()
    with cuda.current():
        buffers = DeviceBuffers(cuda, cuda.new_stream())
        assert buffers.address("x", 300, at_most=4000) == buffers.address("x", 4000)
        buffers.address("x", 4001)
    assert buffers.moves == 1 and cuda.calls.count("allocate") == 2


def test_a_request_that_fits_is_served_where_the_largest_does_not_fit() -> None:
    cuda = CudaDouble(size=4096)
    with cuda.current():
        buffers = DeviceBuffers(cuda, cuda.new_stream())
        address = buffers.address("x", 300, at_most=1 << 20)
        assert cuda.bytes_at(address, 300).size == 300
        with pytest.raises(MissingDependencyError, match="no room"):
            buffers.address("y", 1 << 20, at_most=1 << 21)
    buffers.close()
    assert not cuda.memory
