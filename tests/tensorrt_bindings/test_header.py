"""The enumerations in our own declarations of TensorRT's header have the numbers of the real ones.

The plugin library is driven without TensorRT with these declarations (tests/plugins/hars/test_tensorrt_plugin.py).
"""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.tensorrt_bindings.prepare import FOLDER, ROOT

pytestmark = pytest.mark.usefixtures("bindings")
HEADER = (ROOT / "tests/plugins/hars/tensorrt_headers/NvInferRuntime.h").read_text(encoding="utf-8")
# Enumerations that the bindings have under another name, or below a class.
NAMES = {"Severity": "ILogger.Severity"}


def declared() -> dict[str, dict[str, int]]:
    """Return every enumeration of the header: members without their k, and their numbers."""
    found = re.findall(r"enum class (\w+) : int32_t \{ (.*?) \};", HEADER)
    return {name: {key: int(value) for key, value in re.findall(r"k(\w+) = (\d+)", text)} for name, text in found}


@pytest.fixture(scope="module")
def real() -> dict[str, dict[str, int]]:
    code = """
import functools, json, sys, tensorrt
names = json.load(sys.stdin)
find = lambda name: functools.reduce(lambda at, each: getattr(at, each, None), name.split("."), tensorrt)
kinds = {name: find(real) for name, real in names.items()}
print(json.dumps({n: {k: int(v) for k, v in kind.__members__.items()} for n, kind in kinds.items() if kind}))
"""
    environment = {**os.environ, "PYTHONPATH": str(FOLDER / "site")}
    request = json.dumps({name: NAMES.get(name, name) for name in declared()})
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, input=request, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    found: dict[str, dict[str, int]] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", declared())
def test_numbers(real: dict[str, dict[str, int]], name: str) -> None:
    members = declared()[name]
    assert members and name in real
    assert {key: real[name].get(key) for key in members} == members
