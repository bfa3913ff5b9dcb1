"""Settings for every test: no network, two threads, the same random examples in every run."""

import os

import pytest

# Before anything imports torch or ONNX Runtime, which read them once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("MKL_NUM_THREADS", "2")

from hypothesis import HealthCheck, settings

# deadline=None: the first call of a session compiles and loads, so its time says nothing.
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Say of each skipped test that needs TensorRT why it was, and what it would have checked."""
    skipped = [each for each in terminalreporter.getreports("skipped") if "tensorrt" in each.keywords]
    lines = {each.longrepr[2].removeprefix("Skipped: ") for each in skipped if isinstance(each.longrepr, tuple)}
    if lines:
        terminalreporter.section("skipped: what TensorRT itself would have shown")
    for line in sorted(lines):
        terminalreporter.line(line)
