"""The model repository on disk: whole or not at all, and nothing of others is replaced unasked."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import graphwright as gw
from graphwright.triton import repository
from graphwright.triton.repository import place

CONFIG = 'name: "m"\n'


def writer(content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "model.onnx").write_text(content) and None


def tree(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_a_folder_with_its_configuration_and_its_version(tmp_path: Path) -> None:
    assert place(tmp_path / "new" / "models", "m", 3, CONFIG, writer("a")) == tmp_path / "new" / "models" / "m"
    assert tree(tmp_path / "new" / "models") == {"m/3/model.onnx": "a", "m/config.pbtxt": CONFIG}


def test_a_second_version_joins_the_first(tmp_path: Path) -> None:
    place(tmp_path, "m", 1, f"# of the first\n{CONFIG}", writer("a"))
    place(tmp_path, "m", 2, f"# of the second\n{CONFIG}", writer("b"))
    assert tree(tmp_path) == {
        "m/1/model.onnx": "a",
        "m/2/model.onnx": "b",
        "m/config.pbtxt": f"# of the second\n{CONFIG}",
    }


def test_versions_are_served_by_one_configuration(tmp_path: Path) -> None:
    place(tmp_path, "m", 1, CONFIG, writer("a"))
    before = tree(tmp_path)
    with pytest.raises(gw.UsageError, match="also serves version 1"):
        place(tmp_path, "m", 2, f"{CONFIG}max_batch_size: 2\n", writer("b"))
    assert tree(tmp_path) == before
    place(tmp_path, "m", 2, f"{CONFIG}max_batch_size: 2\n", writer("b"), overwrite=True)
    assert sorted(tree(tmp_path)) == ["m/1/model.onnx", "m/2/model.onnx", "m/config.pbtxt"]


def test_a_version_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    place(tmp_path, "m", 1, CONFIG, writer("a"))
    with pytest.raises(gw.UsageError, match="version 1"):
        place(tmp_path, "m", 1, CONFIG, writer("b"))
    assert tree(tmp_path)["m/1/model.onnx"] == "a"
    place(tmp_path, "m", 1, CONFIG, writer("b"), overwrite=True)
    assert tree(tmp_path) == {"m/1/model.onnx": "b", "m/config.pbtxt": CONFIG}


@pytest.mark.parametrize("is_new", [True, False])
def test_a_write_that_fails_leaves_nothing(tmp_path: Path, is_new: bool) -> None:
    models = tmp_path / "models"
    if not is_new:
        place(models, "m", 1, CONFIG, writer("a"))

    def fail(folder: Path) -> None:
        (folder / "model.onnx").write_text("half")
        raise OSError(28, "No space left on device")

    before = tree(tmp_path)
    with pytest.raises(gw.OutputError, match="No space left"):
        place(models, "m", 1, CONFIG, fail, overwrite=True)
    assert tree(tmp_path) == before
    assert [path.name for path in tmp_path.rglob(".*")] == []
    assert models.exists() != is_new


def test_a_move_that_fails_brings_the_old_version_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path, "m", 1, CONFIG, writer("a"))
    before, replace = tree(tmp_path), os.replace

    def fail(source: Path, target: Path) -> None:
        if Path(target).name == "config.pbtxt":
            raise OSError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(repository.os, "replace", fail)
    with pytest.raises(gw.OutputError, match="Permission denied"):
        place(tmp_path, "m", 1, CONFIG, writer("b"), overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "a b", "-x", "ä", "x" * 129, "a\n"])
def test_names_that_are_no_folder_and_no_part_of_a_url_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(gw.UsageError, match="model name"):
        place(tmp_path, name, 1, CONFIG, writer("a"))
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("version", [0, -1, 2**63])
def test_versions_are_positive_numbers(tmp_path: Path, version: int) -> None:
    with pytest.raises(gw.UsageError, match="model version"):
        place(tmp_path, "m", version, CONFIG, writer("a"))


def test_a_folder_of_something_else_and_a_file_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(gw.UsageError, match="other files"):
        place(tmp_path, "m", 1, CONFIG, writer("a"), overwrite=True)
    with pytest.raises(gw.UsageError, match="a file"):
        place(tmp_path, "file", 1, CONFIG, writer("a"), overwrite=True)
    assert tree(tmp_path) == {"m/thesis.tex": "mine", "file": "mine"}
