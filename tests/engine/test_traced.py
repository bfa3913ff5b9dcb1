"""Traced patterns without PyTorch: where they are read from, and what a damaged file does."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from graphwright.engine import traced as kept
from graphwright.engine.traced import Recording, Traced, cache_path, graph_patterns, read_recording, write_recording
from graphwright.engine.traced_arguments import Argument
from graphwright.engine.traced_source import source_of
from graphwright.errors import UsageError
from tests.engine.traced_formulas import DESCRIPTION, ENTRY, SOURCE, VERSIONS, described, recorded


def installed(monkeypatch: pytest.MonkeyPatch, versions: Mapping[str, str]) -> None:
    monkeypatch.setattr(kept, "installed_versions", lambda: dict(versions))


def named_entry(name: str) -> dict[str, Any]:
    return {**ENTRY, "exporters": [name]}


def settled(given: Traced) -> list[str]:
    return [each.name for each in graph_patterns(given)]


def test_the_record_is_used_where_it_is_of_the_installed_exporters(formulas: Path) -> None:
    given = described()
    write_recording(given.record_path, recorded(given, named_entry("recorded")))
    write_recording(cache_path(given), recorded(given, named_entry("cached")))
    assert settled(given) == ["formula@recorded"]


def test_the_cache_is_used_where_the_record_is_of_other_exporters(formulas: Path) -> None:
    given = described()
    write_recording(given.record_path, recorded(given, named_entry("recorded"), {**VERSIONS, "torch": "2.11.0"}))
    write_recording(cache_path(given), recorded(given, named_entry("cached")))
    assert settled(given) == ["formula@cached"]


def test_an_older_record_is_better_than_none(formulas: Path) -> None:
    given = described()
    write_recording(given.record_path, recorded(given, named_entry("recorded"), {**VERSIONS, "torch": "2.11.0"}))
    assert settled(given) == ["formula@recorded"]


def test_without_exporters_the_record_is_used(formulas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {})
    given = described()
    write_recording(given.record_path, recorded(given, named_entry("recorded")))
    assert kept.fresh_recording(given) is not None
    assert settled(given) == ["formula@recorded"]


def test_the_cache_is_another_for_other_exporters(formulas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = described()
    before = cache_path(given)
    installed(monkeypatch, {**VERSIONS, "onnxscript": "0.8.0"})
    assert cache_path(given) != before


def test_without_record_and_cache_the_error_says_what_to_do(formulas: Path) -> None:
    with pytest.raises(UsageError, match=r"formula: found nothing recorded.*graphwright\.tracing\.prepare"):
        graph_patterns(described())


def test_a_record_of_another_formula_counts_as_none(formulas: Path) -> None:
    given = described()
    write_recording(given.record_path, recorded(given))
    assert read_recording(given.record_path, given) is not None
    formulas.write_text(SOURCE.replace("x * FACTOR", "x + FACTOR"))
    assert read_recording(given.record_path, described()) is None
    assert read_recording(given.record_path, described(dtype="half", name="formula")) is None


def test_the_source_is_what_the_function_uses_and_no_more(formulas: Path) -> None:
    text = source_of("formulas:formula")
    assert "def helper" in text
    assert "FACTOR = 2.0" in text
    assert "stranger" not in text
    assert "OTHER" not in text


@pytest.mark.parametrize("function", ["formulas:missing", "no_such_module:formula", "formulas", len, lambda x: x])
def test_a_function_without_a_source_is_refused(formulas: Path, function: Any) -> None:
    with pytest.raises(UsageError):
        _ = Traced(function, {"x": "T[...]"}).digest


@pytest.mark.parametrize("text", ["T", "T[", "[E]", "T[E, ...]", "T[a-b]", "T[E] x", ""])
def test_an_argument_that_is_no_description_is_refused(formulas: Path, text: str) -> None:
    with pytest.raises(UsageError, match="argument x"):
        Traced("formulas:formula", {"x": text})


def test_examples_that_do_not_differ_are_refused(formulas: Path) -> None:
    with pytest.raises(UsageError, match="two examples that differ"):
        Traced("formulas:formula", DESCRIPTION, {"strength": (4.0, 4.0)})


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({}, {}, "one argument at least"),
        ({"x": "T[a, b, c, d, e, f, g]"}, {}, "6 names of sizes at most"),
        ({"x": "T[E]"}, {"parameters": {"x": (1.0, 2.0)}}, "other names for parameters"),
        ({"x": "T[E]"}, {"sizes": {"D": (8, 10)}}, "needed of E"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    formulas: Path, arguments: dict[str, str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Traced("formulas:formula", arguments, **options)


def test_a_record_is_written_whole(formulas: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = described()
    write_recording(given.record_path, recorded(given))
    before = given.record_path.read_text()

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="full"):
        write_recording(given.record_path, recorded(given, named_entry("new")))
    assert given.record_path.read_text() == before
    assert [each.name for each in given.record_path.parent.iterdir()] == [given.record_path.name]


def test_what_is_written_reads_back(formulas: Path) -> None:
    given = described()
    recording = Recording(given.digest, VERSIONS, (ENTRY, named_entry("second")), {"third": "one operator already"})
    write_recording(given.record_path, recording)
    assert read_recording(given.record_path, given) == recording


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b"null",
        b'{"digest": 1}',
        b"[" * 100_000,
        b'{"digest": "DIGEST", "versions": [], "patterns": []}',
        b'{"digest": "DIGEST", "versions": {}, "patterns": 7}',
        b'{"digest": "DIGEST", "versions": {}, "patterns": [7]}',
        b'{"digest": "DIGEST", "versions": {}, "patterns": [], "notes": 7}',
        b" " * (kept.LARGEST_RECORD + 1),
    ],
)
def test_a_damaged_cache_is_ignored(formulas: Path, contents: bytes) -> None:
    given = described()
    cache_path(given).parent.mkdir(parents=True)
    cache_path(given).write_bytes(contents.replace(b"DIGEST", given.digest.encode()))
    assert read_recording(cache_path(given), given) is None
    assert kept.fresh_recording(given) is None


def test_a_cache_that_is_a_folder_is_ignored(formulas: Path) -> None:
    given = described()
    cache_path(given).mkdir(parents=True)
    assert kept.fresh_recording(given) is None


def test_arguments_read_as_they_are_written() -> None:
    assert Argument.parse("x", "int64[B, 4]") == Argument("int64", ("B", 4), False)
    assert Argument.parse("x", "T[...]").leads
    assert Argument.parse("x", "T[...]").is_variable
    assert not Argument.parse("x", "float32[]").is_variable


def test_the_catalogue_is_used_without_importing_torch() -> None:
    code = (
        "import sys, onnx_ir as ir, graphwright as gw\n"
        'text = \'<ir_version: 10, opset_import: ["": 20]> g (float[N] x) => (float[N] y) '
        "{s = Sigmoid(x) y = Mul(x, s)}'\n"
        "gw.optimize(ir.from_onnx_text(text), target='onnx', verify='off', progress=False)\n"
        "assert 'torch' not in sys.modules and 'onnxscript' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
