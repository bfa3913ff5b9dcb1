"""Every call of TensorRT in the package fits the signatures of the bindings, as mypy sees them."""

import re
from pathlib import Path

import pytest

from tests.tensorrt_bindings.bindings_classes import Classes
from tests.tensorrt_bindings.prepare import FOLDER
from tests.tensorrt_bindings.type_check import PACKAGE, Checker, Findings, users

pytestmark = pytest.mark.usefixtures("bindings")

# What the stubs must let through.
RIGHT = """
import tensorrt as trt


class Monitor(trt.IProgressMonitor):
    def __init__(self) -> None:
        trt.IProgressMonitor.__init__(self)

    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None: ...

    def phase_finish(self, phase_name: str) -> None: ...

    def step_complete(self, phase_name: str, step: int) -> bool:
        return True


def build(path: str, cache: bytes) -> bytes:
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(path):
        raise ValueError([parser.get_error(i).desc() for i in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
    config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    config.progress_monitor = Monitor()
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 8), [4, 64], trt.Dims([16, 512]))
    config.add_optimization_profile(profile)
    timing = config.create_timing_cache(cache)
    assert timing is not None
    config.set_timing_cache(timing, False)
    plan = builder.build_serialized_network(network, config)
    return b"" if plan is None else bytes(plan)


def run(plan: bytes, address: int, stream: int) -> list[int]:
    engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(plan)
    assert engine is not None
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    assert context is not None
    context.set_device_memory(address, engine.device_memory_size_v2)
    context.set_input_shape("x", (1, 8))
    context.set_tensor_address("x", address)
    assert context.execute_async_v3(stream) and not context.infer_shapes()
    return list(context.get_tensor_shape("x"))
"""

# Each line with a mark is wrong for the reason beside it, and no other one is.
WRONG = """
from typing import Any
import tensorrt as trt
import tensorrt.plugin as trtp


def load() -> Any:
    return trt


def typed(builder: trt.Builder) -> None:
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.FP16)  #! gone since 11
    config.max_workspace_size = 1  #! gone since 10
    config.builder_optimization_level = "3"  #! text
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 2), (3, 4))  #! no largest shape
    profile.set_shape("x", (1.0,), (2.0,), (3.0,))  #! floats
    config.set_timing_cache(b"", False)  #! bytes
    bytes(builder.build_serialized_network(builder.create_network(0), config))  #! may be None
    trt.OnnxParser(builder, trt.Logger())  #! no network
    trtp.KernelLaunchParams().grid  #! no such attribute


class Monitor(trt.IProgressMonitor):
    def step_complete(self, phase: str) -> bool:  #! called with two
        return True


def of_unknown_type(engine: Any, native: Any, trt: Any) -> None:
    engine.num_io_tensors
    engine.get_binding_name(0)  #! gone since 10, on what is asked for tensors
    engine.get_tensor_mode(0)  #! a name is needed
    trt.NoSuchClass()  #! of the module in an argument
    native.set_input_shape("x", "y")  #! text as a shape
    native.execute_async_v2([], 0)  #! gone, on what gets shapes
    runtime = trt.Runtime(trt.Logger())
    runtime.deserialize_cuda_engine(b"").num_io_tensors  #! may be None


class Session:
    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.trt = load()
        self.context: Any = engine.create_execution_context()

    def run(self) -> None:
        self.context.set_tensor_address("x")  #! no address
        self.context.execute_async_v3(stream=0)  #! the argument has another name
        self.trt.Logger.LOUD  #! no such level
"""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    folder, aside = tmp_path_factory.mktemp("samples"), tmp_path_factory.mktemp("copies")
    for name, text in (("right.py", RIGHT), ("wrong.py", WRONG)):
        (folder / name).write_text(text)
    return Checker(sorted(folder.glob("*.py")), aside, folder).check()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    return Checker(users(), tmp_path_factory.mktemp("copies")).check()


def test_what_is_right_passes(samples: Findings) -> None:
    assert [error for error in samples.errors if error.startswith("right.py")] == []


def test_what_is_wrong_is_found_and_nothing_else(samples: Findings) -> None:
    marked = {number for number, line in enumerate(WRONG.splitlines(), 1) if "#!" in line}
    found = {int(error.split(":")[1]): error for error in samples.errors if error.startswith("wrong.py")}
    assert marked - set(found) == set(), "wrong, and not found"
    assert {line: error for line, error in found.items() if line not in marked} == {}


def test_nothing_of_unknown_type_is_left(samples: Findings) -> None:
    assert samples.unseen() == []


def test_every_file_that_uses_tensorrt_is_found() -> None:
    names = {path.relative_to(PACKAGE).as_posix() for path in users()}
    imported = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^\s*(import|from) tensorrt\b", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert imported <= names and "plugins/hars/tensorrt.py" in names
    assert any(name.startswith("runtime/tensorrt/") for name in names)


def test_every_call_fits_the_bindings(package: Findings) -> None:
    assert package.errors == []


def test_every_call_is_seen(package: Findings) -> None:
    """An attribute that only TensorRT's objects have, of something of unknown type, would be let through unchecked."""
    assert package.unseen() == []
    assert len(package.seen()) > 50


def test_the_stub_has_no_name_of_cpp_left_and_the_classes_are_read() -> None:
    stub = (FOLDER / "stubs/tensorrt/tensorrt.pyi").read_text()
    assert "::" not in stub
    classes = Classes.read(stub)
    assert "step_complete" in classes.attributes["IProgressMonitor"]
    assert {"set_shape", "num_io_tensors"} <= classes.names and "append" not in classes.names
    assert "op" in classes.attributes["ITopKLayer"] and "name" in classes.attributes["ITopKLayer"], (
        "those of ILayer too"
    )
    assert classes.fitting({"num_io_tensors", "name"}) == ["ICudaEngine"]
    assert classes.fitting({"name"}) == [] and classes.fitting({"no_such_thing"}) == []


def test_the_folder_is_where_git_looks_away() -> None:
    assert Path(FOLDER).relative_to(PACKAGE.parent).parts[0] == "build"
    assert "/build/" in (PACKAGE.parent / ".gitignore").read_text().splitlines()
