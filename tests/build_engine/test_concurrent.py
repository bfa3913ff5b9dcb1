"""Builds of one engine at the same time: one builds, the others wait; a killed one holds nobody up."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from graphwright.build_engine import Engine
from tests.build_engine.cases import build, left_over
from tests.runtime.tensorrt.double import RecordedTensorRT

ROOT = Path(__file__).parents[2]


def test_two_threads_that_want_one_engine_build_it_once(trt: RecordedTensorRT) -> None:
    both_started = threading.Barrier(2, timeout=20)
    trt.while_building = lambda: time.sleep(0.3)
    engines: list[Engine] = []

    def one(name: str) -> None:
        both_started.wait()
        engines.append(build(name))

    threads = [threading.Thread(target=one, args=(name,)) for name in ("a.plan", "b.plan")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trt.count("build_serialized_network") == 1
    assert sorted(engine.was_cached for engine in engines) == [False, True]
    assert Path("a.plan").read_bytes() == Path("b.plan").read_bytes()


PROCESS = """
import os, sys, time
from pathlib import Path
import pytest
import graphwright as gw
from tests.runtime.tensorrt.double import RecordedTensorRT
trt = RecordedTensorRT().install(pytest.MonkeyPatch())
def building():
    with open("log", "a") as file: file.write(sys.argv[1] + "\\n")
    time.sleep(1.5)
    if sys.argv[2] == "dies": os._exit(9)
trt.while_building = building
gw.build_engine("model.onnx", sys.argv[1], profile="batch=1:2:8,seq=1:16:64", progress=False)
"""


def start(name: str, how: str = "lives") -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", PROCESS, name, how], env=environment)


def test_two_processes_that_want_one_engine_build_it_once(tmp_path: Path) -> None:
    running = [start("a.plan"), start("b.plan")]
    assert [each.wait(60) for each in running] == [0, 0]
    assert len(Path("log").read_text().splitlines()) == 1
    assert Path("a.plan").read_bytes() == Path("b.plan").read_bytes()
    (kept,) = (tmp_path / "caches").rglob("*.plan")
    assert kept.read_bytes() == Path("a.plan").read_bytes()


def test_a_build_that_was_killed_holds_nobody_up_and_leaves_nothing(trt: RecordedTensorRT, tmp_path: Path) -> None:
    assert start("a.plan", "dies").wait(60) == 9
    assert left_over(tmp_path), "the killed build should have left its work, or this test shows nothing"
    assert not build("a.plan").was_cached
    assert left_over(tmp_path) == []
