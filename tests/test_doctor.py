"""What doctor says of the compiled kernels, there or not."""

import subprocess
import sys

import pytest

from graphwright import doctor
from graphwright.plugins.hars import cuda, native


def finding(name: str) -> doctor.Finding:
    return next(one for one in doctor.examine() if one.name == name)


def test_kernels_that_are_there_show_their_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_not", lambda: "")
    monkeypatch.setattr(native, "isas", lambda: ("avx2", "scalar"))
    assert finding("hars kernels (cpu)").found == "avx2, scalar"


def test_kernels_that_are_missing_show_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_not", lambda: "built without a compiler")
    monkeypatch.setattr(cuda, "why_not", lambda: "no driver")
    cpu, gpu = finding("hars kernels (cpu)"), finding("hars kernels (cuda)")
    assert not cpu.found and cpu.purpose == "built without a compiler" and "C++ compiler" in cpu.install
    assert not gpu.found and gpu.purpose == "no driver"
    assert {cpu.name, gpu.name} <= doctor.as_json([cpu, gpu])["missing"].keys()


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "graphwright", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and "0.1.0" in done.stdout
