"""Makes TensorRT's Python bindings importable where TensorRT is not: ``python -m tests.tensorrt_bindings.prepare``.

The bindings are a wheel of their own, without the library. They load libraries of three names, so empty ones of these
names are compiled beside them: then the module imports, and everything in it that is Python or a signature can be
looked at. Nothing that asks the library for something works, and nothing here claims that it does.

What is made, below ``build/tensorrt-bindings``: ``site/tensorrt`` (to be put on the path of a process of its own) and
``stubs/tensorrt`` (for mypy). The wheel is proprietary: neither may be committed, and both lie where git looks away.
torch-tensorrt comes along for its source, which is read and not imported.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.tensorrt_bindings import stub_text

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build/tensorrt-bindings"
CONSTRAINTS = ROOT / "constraints.txt"
PACKAGES = ("tensorrt-cu13-bindings", "pybind11-stubgen", "torch-tensorrt")
# What the bindings link to, and the functions of C linkage that they take from there.
LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
# pybind11 shows the defaults of arguments as their repr; the generator asks where such an enumeration lives.
ENUMERATIONS = {
    "ExecutionContextAllocationStrategy": "tensorrt.tensorrt",
    "DataType": "tensorrt.tensorrt",
    "EngineStat": "tensorrt.tensorrt",
    "PluginFieldType": "tensorrt.tensorrt",
    "Severity": "tensorrt.tensorrt.ILogger",
}
LIMIT_SECONDS = 120


class NotPreparedError(Exception):
    """Why the bindings cannot be had here."""


def pins() -> list[str]:
    """Return the requirements as constraints.txt pins them.

    Example:
        >>> [pin.split("==")[0] for pin in pins()]
        ['tensorrt-cu13-bindings', 'pybind11-stubgen', 'torch-tensorrt']
    """
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return [line for name in PACKAGES for line in lines if line.startswith(f"{name}==")]


def state() -> str:
    """Return what the folder depends on, as a digest: the pins, this Python, and the code that fills it."""
    sources = [Path(__file__), Path(stub_text.__file__)]
    parts = [*pins(), sys.version, *(path.read_text(encoding="utf-8") for path in sources)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def missing(folder: Path = FOLDER) -> str:
    """Return why the folder cannot be used, with what to do; empty where it can."""
    if (folder / "state").is_file() and (folder / "state").read_text() == state():
        return ""
    reason = folder.with_name("tensorrt-bindings-reason.txt")
    told = reason.read_text() if reason.is_file() else "not set up, or for another Python or other pins"
    return f"TensorRT's bindings: {told}; try: make check-tensorrt"


def prepare(folder: Path = FOLDER) -> None:
    """Fill the folder, unless it is filled; it appears whole or not at all.

    Raises:
        NotPreparedError: the reason, which ``missing`` tells from then on.
    """
    reason = folder.with_name("tensorrt-bindings-reason.txt")
    if not missing(folder):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="making-", dir=folder.parent) as aside:
        try:
            _fill(Path(aside))
        except NotPreparedError as error:
            reason.write_text(str(error))
            raise
        (Path(aside) / "state").write_text(state())
        os.chmod(aside, 0o755)
        shutil.rmtree(folder, ignore_errors=True)
        # Leaves an empty folder behind, so that the temporary one can be taken away as usual.
        Path(aside).rename(folder)
        Path(aside).mkdir()
    reason.unlink(missing_ok=True)


def _fill(folder: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        raise NotPreparedError("needs Linux and a C compiler")
    site, stubs = folder / "site", folder / "stubs"
    options = ("--disable-pip-version-check", "--only-binary=:all:", "--no-deps", "--retries=1", "--timeout=10")
    _run([sys.executable, "-m", "pip", "install", "-q", *options, f"--target={site}", *pins()])
    # The wheel's own name for the module is another one, so that the package tensorrt can require it.
    (site / "tensorrt").symlink_to("tensorrt_bindings")
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name in LIBRARIES:
        _run([compiler, "-shared", "-fPIC", str(source), "-o", str(site / "tensorrt_bindings" / name)])
    places = [text for name, place in ENUMERATIONS.items() for text in ("--enum-class-locations", f"{name}:{place}")]
    generate = ("-m", "pybind11_stubgen", "tensorrt", "--print-invalid-expressions-as-is", *places, "-o", str(stubs))
    _run([sys.executable, *generate], site)
    stub = stubs / "tensorrt/tensorrt.pyi"
    stub.write_text(stub_text.corrected(stub.read_text()))
    _write_plugin_stub(site, stubs / "tensorrt/plugin")


def _write_plugin_stub(site: Path, target: Path) -> None:
    """``tensorrt.plugin`` is Python, but puts its names in place as it is imported: the stub says what is where."""
    target.mkdir()
    for path in (site / "tensorrt_bindings/plugin").glob("_*.py"):
        if path.name != "__init__.py":
            (target / path.name).write_text(stub_text.corrected_plugin(path.read_text()))
    code = "import json, tensorrt.plugin as p; print(json.dumps({n: getattr(p, n).__module__ for n in p.__all__}))"
    answer = _run([sys.executable, "-c", code], site)
    exported: dict[str, str] = json.loads(answer.splitlines()[-1])
    lines = [f"from {module} import {name} as {name}\n" for name, module in exported.items()]
    (target / "__init__.pyi").write_text("".join(lines))


def _run(command: Sequence[str], path: Path | None = None) -> str:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else None
    name = " ".join([Path(command[0]).name, *command[1:4]])
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=LIMIT_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise NotPreparedError(f"{name} takes more than {LIMIT_SECONDS} s") from error
    if answer.returncode:
        said = (answer.stderr or answer.stdout).strip().splitlines()
        raise NotPreparedError(f"{name} fails: {said[-1] if said else answer.returncode}")
    return answer.stdout


def main(arguments: Sequence[str]) -> int:
    """Prepare; ``--if-possible`` answers 0 in any case, after saying why."""
    try:
        prepare()
    except NotPreparedError as error:
        print(f"TensorRT's bindings: {error}\nThe checks against them are skipped." if arguments else f"{error}")
        return 0 if arguments == ["--if-possible"] else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
