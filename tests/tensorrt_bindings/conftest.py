"""Skips what needs TensorRT's bindings where they were not set up."""

import pytest

from tests.tensorrt_bindings.prepare import missing


@pytest.fixture(scope="session")
def bindings() -> None:
    reason = missing()
    if reason:
        pytest.skip(reason)
