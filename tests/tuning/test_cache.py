"""Choices are kept in a file each; what cannot be trusted counts as not there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from graphwright.errors import OutputError
from graphwright.tuning import cache
from graphwright.tuning.cache import ChoiceCache, Kept, default_folder, key_of

PARTS = {"region": "ab", "shapes": [[2, 3]], "processor": "one"}
KEPT = Kept({"a": 0.5, "b": 0.25}, "b")


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    made = ChoiceCache(tmp_path / "new" / "folder")
    assert made.find(PARTS) is None
    made.keep(PARTS, KEPT)
    assert made.find({**PARTS, "shapes": ((2, 3),)}) == KEPT
    assert [path.name for path in made.folder.iterdir()] == [f"{key_of(PARTS)}.json"]


@pytest.mark.parametrize("other", [{"processor": "two"}, {"shapes": [[2, 4]]}, {"threads": "1"}])
def test_other_circumstances_have_another_key(tmp_path: Path, other: dict[str, object]) -> None:
    made = ChoiceCache(tmp_path)
    made.keep(PARTS, KEPT)
    assert made.find({**PARTS, **other}) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00\xff\xfe",
        b"[]",
        b"null",
        b"[" * 100000,
        b" " * (2 << 20),
        json.dumps({"format": 2, "parts": PARTS, "medians": {"a": 1.0}, "chosen": "a"}).encode(),
        json.dumps({"format": 1, "parts": {}, "medians": {"a": 1.0}, "chosen": "a"}).encode(),
        json.dumps({"format": 1, "parts": PARTS, "medians": {"a": 1.0}, "chosen": "b"}).encode(),
        json.dumps({"format": 1, "parts": PARTS, "medians": {"a": "fast"}, "chosen": "a"}).encode(),
        json.dumps({"format": 1, "parts": PARTS, "medians": {"a": float("nan")}, "chosen": "a"}).encode(),
        json.dumps({"format": 1, "parts": PARTS, "medians": {"a": -1.0}, "chosen": "a"}).encode(),
        json.dumps({"format": 1, "parts": PARTS, "medians": [], "chosen": "a"}).encode(),
    ],
)
def test_a_damaged_or_foreign_file_counts_as_not_there(tmp_path: Path, content: bytes) -> None:
    made = ChoiceCache(tmp_path)
    made.path(PARTS).write_bytes(content)
    assert made.find(PARTS) is None
    made.keep(PARTS, KEPT)
    assert made.find(PARTS) == KEPT


def test_a_folder_in_the_place_of_a_file_counts_as_not_there(tmp_path: Path) -> None:
    made = ChoiceCache(tmp_path)
    made.path(PARTS).mkdir()
    assert made.find(PARTS) is None
    assert made.try_to_keep(PARTS, KEPT).startswith("not kept: ")


def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = ChoiceCache(tmp_path / "file")
    with pytest.raises(OutputError):
        made.keep(PARTS, KEPT)
    assert "not kept" in made.try_to_keep(PARTS, KEPT) and made.find(PARTS) is None


def test_the_folder_may_be_named_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.delenv(cache.VARIABLE, raising=False)
    assert default_folder().name == "tuning"
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path / "mine"))
    assert default_folder() == tmp_path / "mine"


WRITER = """
import sys
from pathlib import Path
from graphwright.tuning.cache import ChoiceCache, Kept
made = ChoiceCache(Path(sys.argv[1]))
for count in range(100):
    made.keep({"region": "ab"}, Kept({"a": 1.0, sys.argv[2]: float(count)}, "a"))
    assert made.find({"region": "ab"}) is not None
"""


def test_two_processes_write_at_once_and_every_reader_finds_a_whole_file(tmp_path: Path) -> None:
    root = Path(cache.__file__).parents[2]
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    running = [subprocess.Popen([*command, name], cwd=root) for name in ("one", "two")]
    made = ChoiceCache(tmp_path)
    found = [made.find({"region": "ab"}) for _ in range(200)]
    assert [each.wait(60) for each in running] == [0, 0]
    assert all(each is None or each.chosen == "a" for each in found)
    assert made.find({"region": "ab"}) is not None and len(list(tmp_path.iterdir())) == 1
