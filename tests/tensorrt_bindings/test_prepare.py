"""The set-up of the checks says why it cannot be had, and leaves nothing half made."""

from pathlib import Path

import pytest

from tests.tensorrt_bindings import prepare, stub_text

STUB = '''import collections.abc
class Dims:
    """
    A shape.
    """
    def set_flag(self, in: typing.SupportsInt, is_on: bool = None) -> bool:
        """Text with Dims) in it."""
class IPluginV3:
    def clone(self: IPluginV3) -> nvinfer1::v_1_0::IPluginV3:
        """Copy."""
class IHostMemory:
    def add_scale_nd(self, power: Weights = None, channel_axis: typing.SupportsInt) -> list[bool]: ...
class IOutputAllocator:
    """
    class MyAllocator(trt.IOutputAllocator):
        def notify_shape(self, tensor_name, shape):
            ... # here
    """
class Runtime:
    def deserialize_cuda_engine(self, plan: bytes, shape: Dims) -> IHostMemory: ...
bool: DataType
'''
CORRECTED = """import builtins
import collections.abc
class Dims:
    def __iter__(self) -> collections.abc.Iterator[int]: ...
    ...
    def set_flag(self, in_: int, is_on: builtins.bool | None = None) -> builtins.bool:
        ...
class IPluginV3:
    def clone(self) -> IPluginV3:
        ...
class IHostMemory:
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def add_scale_nd(self, power: Weights | None = None, channel_axis: int = ...) -> list[builtins.bool]: ...
class IOutputAllocator:
    ...
    def notify_shape(self, tensor_name: typing.Any, shape: typing.Any) -> typing.Any:
        ...
class Runtime:
    def deserialize_cuda_engine(self, plan: bytes, shape: DimsLike) -> IHostMemory | None: ...
bool: DataType

DimsLike: typing.TypeAlias = Dims | collections.abc.Sequence[int]
"""


def test_a_stub_is_corrected() -> None:
    assert stub_text.corrected(STUB) == CORRECTED


@pytest.mark.parametrize("gone", ["nvinfer1::v_1_0::", " -> bool:", "typing.SupportsInt", "class IHostMemory:\n"])
def test_a_correction_that_no_longer_applies_is_told(gone: str) -> None:
    with pytest.raises(AssertionError, match="finds nothing to correct"):
        stub_text.corrected(
            STUB.replace("list[bool]", "list[str]").replace("bool = None", "int = None").replace(gone, "")
        )


def test_an_unknown_class_of_cpp_is_told() -> None:
    with pytest.raises(AssertionError, match="INew is no class"):
        stub_text.corrected(STUB.replace("v_1_0::IPluginV3", "INew"))


def test_a_file_of_the_plugin_package_is_corrected() -> None:
    text = '    @public_api()\n    def from_tuple(cls, x: Tuple[Union[SymExpr, int]]) -> "SymExprs":\n'
    text += "        self.grid_x = SymInt32(grid_x)\n"
    found = stub_text.corrected_plugin(text)
    assert "public_api" not in found and "x: typing.Iterable[Union[SymExpr, int]]) -> 'typing.Self':" in found
    assert "self.grid_x: SymInt32 | ShapeExpr | int = SymInt32(grid_x)" in found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "bindings"
    monkeypatch.setattr(prepare, "FOLDER", found)
    return found


def fill(folder: Path) -> None:
    (folder / "stubs").mkdir()


def refuse(folder: Path) -> None:
    (folder / "half").mkdir()
    raise prepare.NotPreparedError("no index there")


def test_a_failure_is_told_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "_fill", refuse)
    with pytest.raises(prepare.NotPreparedError, match="no index there"):
        prepare.prepare(folder)
    assert not folder.exists() and len(list(folder.parent.iterdir())) == 1
    assert prepare.missing(folder) == "TensorRT's bindings: no index there; try: make check-tensorrt"


def test_a_success_lasts_until_what_it_depends_on_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not set up" in prepare.missing(folder)
    monkeypatch.setattr(prepare, "_fill", fill)
    prepare.prepare(folder)
    assert prepare.missing(folder) == "" and (folder / "stubs").is_dir()
    assert [path.name for path in folder.parent.iterdir()] == ["bindings"]
    monkeypatch.setattr(prepare, "_fill", refuse)
    prepare.prepare(folder)
    monkeypatch.setattr(prepare, "pins", lambda: ["tensorrt-cu13-bindings==12"])
    assert "other pins" in prepare.missing(folder)


def test_the_command_fails_only_where_it_must(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def cannot() -> None:
        raise prepare.NotPreparedError("no index there")

    monkeypatch.setattr(prepare, "prepare", cannot)
    assert prepare.main([]) == 1 and prepare.main(["--if-possible"]) == 0
    assert capsys.readouterr().out.count("no index there") == 2


def test_a_command_that_fails_or_hangs_gives_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(prepare.NotPreparedError, match="no such package"):
        prepare._run(["sh", "-c", "echo no such package >&2; exit 3"])
    monkeypatch.setattr(prepare, "LIMIT_SECONDS", 0.1)
    with pytest.raises(prepare.NotPreparedError, match="takes more than"):
        prepare._run(["sleep", "5"])
