"""The file beside a plan: it comes back as it went, and what is none is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest

from graphwright.errors import LoadError
from graphwright.runtime.signature import Port
from graphwright.runtime.tensorrt.library import Device
from graphwright.runtime.tensorrt.sidecar import Plugin, Sidecar, sidecar_path, sidecar_text

IDS = Port("ids", ir.DataType.INT64, ("batch", "seq"))
MASK = Port("mask", ir.DataType.BOOL, ("batch", "past + seq"))
PAST = Port("cache", ir.DataType.FLOAT16, ("batch", 2, "past"))
SHAPES = {
    "ids": {"min": (1, 1), "opt": (2, 8), "max": (4, 16)},
    "mask": {"min": (1, 1), "opt": (2, 12), "max": (4, 48)},
    "cache": {"min": (1, 2, 0), "opt": (2, 2, 4), "max": (4, 2, 32)},
}


def made(plan: bytes, **other: Any) -> Sidecar:
    facts: dict[str, Any] = {
        "key": "0123",
        "onnx_sha256": "ab",
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "graphwright": "0.1.0",
        "tensorrt": "11.4.0.106",
        "device": Device("NVIDIA H200", "9.0", "13.0"),
        "profiles": (SHAPES,),
        "inputs": (IDS, MASK, PAST),
        "outputs": (Port("y", None, None),),
        "passes": ("fuse-gelu",),
        "flags": {"tf32": True},
        "plugins": (Plugin("hars::softmax_topk", "1", "cd"),),
        "timing_cache": "timing.bin",
    }
    return Sidecar(**(facts | other))


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    sidecar = made(b"plan")
    plan = tmp_path / "x.plan"
    sidecar_path(plan).write_text(sidecar_text(sidecar))
    assert Sidecar.read(plan) == Sidecar.read(tmp_path / "x.plan.json") == sidecar


def test_its_fields_are_those_that_others_read() -> None:
    data = made(b"plan").to_json()
    assert list(data) == [
        *("format", "key", "onnx_sha256", "plan_sha256", "graphwright", "passes", "tensorrt", "device", "profiles"),
        *("inputs", "outputs", "flags", "plugins", "timing_cache"),
    ]
    assert data["inputs"][2] == {"name": "cache", "dtype": "FLOAT16", "shape": ["batch", 2, "past"]}
    assert data["profiles"][0]["ids"] == {"min": [1, 1], "opt": [2, 8], "max": [4, 16]}
    assert json.loads(json.dumps(data)) == data


def test_its_profiles_check_requests() -> None:
    bound = made(b"plan").bound_profile()
    assert bound.shapes("max") == {name: corners["max"] for name, corners in SHAPES.items()}
    assert bound.derived == {"past + seq"}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": 2}, "format 2; needed format 1"),
        ({"key": None, "device": {}}, "KeyError"),
        ({"inputs": [{"name": "x", "dtype": "REAL", "shape": []}]}, "KeyError: 'REAL'"),
        ({"inputs": [{"name": "x", "dtype": None, "shape": [1.5]}]}, r"ValueError: shape \[1.5\]"),
        ({"profiles": [{"ids": {"min": [1]}}]}, "KeyError: 'opt'"),
        ({"profiles": [{"ids": 3}]}, "TypeError"),
        ({"profiles": [{"ids": {"min": [1e999], "opt": [1], "max": [1]}}]}, "OverflowError"),
        ({"plugins": [1]}, "TypeError"),
        ({"flags": 3}, "TypeError"),
    ],
)
def test_another_form_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(LoadError, match=text):
        Sidecar.from_json(made(b"plan").to_json() | change)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_object_is_refused(data: object) -> None:
    with pytest.raises(LoadError, match="no object"):
        Sidecar.from_json(data)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"x.plan.json: found no sidecar \(No such file"):
        Sidecar.read(tmp_path / "x.plan")
    for content in (b"\xff{", b"[" * 200_000):
        (tmp_path / "x.plan.json").write_bytes(content)
        with pytest.raises(LoadError, match="no sidecar"):
            Sidecar.read(tmp_path / "x.plan")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.plan.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(LoadError, match="1073741824 bytes"):
        Sidecar.read(tmp_path / "x.plan")


def test_the_plan_of_another_content_is_refused() -> None:
    made(b"plan").check_plan(b"plan", "x.plan")
    with pytest.raises(LoadError, match=r"x\.plan: found 3 bytes with another sha256"):
        made(b"plan").check_plan(b"pla", "x.plan")


def test_profiles_that_do_not_fit_the_inputs_are_refused() -> None:
    with pytest.raises(LoadError, match="input mask: found no shapes"):
        made(b"", profiles=({"ids": SHAPES["ids"]},)).bound_profile()
    short = {"min": (1,), "opt": (1,), "max": (1,)}
    with pytest.raises(LoadError, match=r"input ids: found shapes \(1,\)"):
        made(b"", profiles=(SHAPES | {"ids": short},)).bound_profile()
    mixed = {"min": (1, 1), "opt": (1, 1), "max": (1,)}
    with pytest.raises(LoadError, match=r"input ids: found shapes \(1, 1\), \(1, 1\), \(1,\)"):
        made(b"", profiles=(SHAPES | {"ids": mixed},)).bound_profile()
