"""Files that are written whole, locks, and the engines in a cache's folder."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from graphwright.errors import OutputError
from graphwright.runtime.tensorrt import files
from graphwright.runtime.tensorrt.cache import EngineCache, default_folder, write_engine
from graphwright.runtime.tensorrt.files import copy_whole, locked, write_whole
from graphwright.runtime.tensorrt.sidecar import Sidecar, sidecar_path
from tests.runtime.tensorrt.test_sidecar import made


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.plan"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and [each.name for each in tmp_path.iterdir()] == ["x.plan"]


def test_a_copy_of_nothing_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"b.plan: found No such file"):
        copy_whole(tmp_path / "a.plan", tmp_path / "b.plan")
    assert list(tmp_path.iterdir()) == []


def test_a_copy_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda _: there.append((tmp_path / "b.plan").exists()))
    (tmp_path / "a.plan").write_bytes(b"plan")
    copy_whole(tmp_path / "a.plan", tmp_path / "b.plan")
    assert there == [False] and (tmp_path / "b.plan").read_bytes() == b"plan"


def test_a_file_system_without_locks_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(handle: int, *, blocking: bool) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files, "_take", none)
    with pytest.raises(OutputError, match="No locks available"), locked(tmp_path / "lock"):
        pass


def test_no_room_to_build_in_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def full(path: Path, *given: Any, **named: Any) -> None:
        if path.suffix == ".build":
            raise OSError(28, "No space left on device")
        make(path, *given, **named)

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OutputError, match=r"k.build: found No space left"), EngineCache(tmp_path).building("k"):
        pass


def test_a_second_holder_waits_and_is_told_so_once(tmp_path: Path) -> None:
    waited, order = threading.Event(), []

    def second() -> None:
        with locked(tmp_path / "lock", waited.set):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(20)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]


def test_a_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), locked(tmp_path / "lock"):
        raise ValueError("inside")
    with locked(tmp_path / "lock", lambda: pytest.fail("nobody holds it")):
        pass


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="needed a lock file"), EngineCache(tmp_path / "file").building("k"):
        pass


def test_an_engine_is_found_only_under_its_own_key(tmp_path: Path) -> None:
    cache, sidecar = EngineCache(tmp_path), made(b"plan")
    cache.keep(b"plan", sidecar)
    assert cache.find(sidecar.key) == sidecar
    write_engine(cache.plan("another"), b"plan", sidecar)
    assert cache.find("another") is None and cache.find("none") is None


def test_between_the_two_writes_a_reader_finds_nothing_wrong(tmp_path: Path) -> None:
    cache, old, new = EngineCache(tmp_path), made(b"old"), made(b"new")
    cache.keep(b"old", old)
    # As after the first of the two writes, and as after the second alone.
    cache.plan(old.key).write_bytes(b"new")
    assert cache.find(old.key) is None
    cache.keep(b"new", new)
    assert cache.find(old.key) == new == Sidecar.read(sidecar_path(cache.plan(old.key)))


def test_the_users_folder_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "graphwright" / "tensorrt"
