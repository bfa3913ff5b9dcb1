"""Imports point one way, and heavy packages are imported only where they belong."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "graphwright"

# Top to bottom. A module may import from its own entry and from lower rows; entries of one row are strangers,
# unless NEIGHBOURS says otherwise. The package's own __init__ is above all of them.
ROWS = (
    ("", "__main__"),
    ("cli", "testing"),
    ("bench", "compare_models", "coverage", "diagnose", "doctor", "triton"),
    ("optimize",),
    ("compilation",),
    ("tuning",),
    ("tracing",),
    ("artifact",),
    ("build_engine",),
    ("engine_request",),
    ("folder", "report"),
    ("damf", "frontends", "passes", "runtime"),
    ("plugins",),
    ("engine",),
    ("errors",),
)
ROW = {entry: row for row, entries in enumerate(ROWS) for entry in entries}

# A profile is plain data about shapes: tracing a model needs it as much as running one does.
NEIGHBOURS = {("frontends", "graphwright.runtime.profile")}

# Package -> the only places below graphwright/ that may import it.
HOMES = {
    "torch": (
        "damf/",
        "frontends/torch.py",
        "frontends/torch_call.py",
        "frontends/torch_flow.py",
        "frontends/torch_kinds.py",
        "frontends/transformers.py",
        "passes/lift/spellings.py",
        "plugins/hars/torch_ops.py",
        "runtime/tensorrt/torch_module.py",
        "tracing/export.py",
        "tracing/oracle.py",
    ),
    "transformers": ("damf/training.py", "frontends/torch.py", "frontends/transformers.py"),
    "onnxruntime": ("runtime/", "plugins/hars/onnx_run.py"),
    "openvino": ("runtime/openvino.py",),
    "tensorrt": ("runtime/tensorrt/", "plugins/"),
    "torch_tensorrt": ("runtime/tensorrt/", "plugins/"),
}


def modules() -> list[str]:
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def entry_of(path: str) -> str:
    """``passes/lift/x.py`` -> ``passes``; ``cli.py`` -> ``cli``; ``__init__.py`` -> the empty text."""
    first = path.split("/")[0].removesuffix(".py")
    return "" if first == "__init__" else first


def is_typing_guard(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def called_import(node: ast.Call) -> str | None:
    """The module that ``import_module("x")`` or ``__import__("x")`` names."""
    name = ast.unparse(node.func).split(".")[-1]
    if name in {"import_module", "__import__"} and node.args and isinstance(node.args[0], ast.Constant):
        return str(node.args[0].value)
    return None


def imports(path: str, tree: ast.AST, typing_only: bool = False) -> Iterator[tuple[str, int, bool]]:
    """Every (module, line, for type checkers only) that a file imports, at any depth."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, typing_only
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node)
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno, typing_only
        elif isinstance(node, ast.Call) and (name := called_import(node)):
            yield name, node.lineno, typing_only
        yield from imports(path, node, typing_only or is_typing_guard(node))


def absolute(path: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    folder = ("graphwright/" + path).split("/")[: -node.level]
    return ".".join([*folder, node.module] if node.module else folder)


def faults(path: str, source: str) -> list[str]:
    """What the imports of one file do against the rules above."""
    entry = entry_of(path)
    if entry not in ROW:
        return [f"{path}: no row of ROWS names {entry!r}"]
    found = []
    for module, line, typing_only in imports(path, ast.parse(source)):
        fault = layer_fault(entry, module) or (None if typing_only else home_fault(path, module))
        if fault:
            found.append(f"{path}:{line}: {fault}")
    return found


def layer_fault(entry: str, module: str) -> str | None:
    root, _, rest = module.partition(".")
    target = rest.split(".")[0]
    if root != "graphwright" or target == entry or not entry or target == "__version__":
        return None
    if any(entry == user and f"{module}.".startswith(f"{used}.") for user, used in NEIGHBOURS):
        return None
    if ROW.get(target, -1) <= ROW[entry]:
        return f"{entry} may not import {module}"
    return None


def home_fault(path: str, module: str) -> str | None:
    homes = HOMES.get(module.split(".")[0])
    if homes is None or path.startswith(homes):
        return None
    return f"{module} is imported only in {', '.join(homes)}"


@pytest.mark.parametrize("path", modules())
def test_imports_point_one_way(path: str) -> None:
    assert faults(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("errors.py", "from graphwright.engine import facts"),
        ("engine/facts.py", "from graphwright.runtime.ort import OrtSession"),
        ("engine/facts.py", "def f():\n    import graphwright.passes.lift"),
        ("engine/verify.py", "from ..runtime import ort"),
        ("engine/verify.py", "import graphwright"),
        ("passes/lift/gelu.py", "from graphwright.frontends import onnx"),
        ("frontends/onnx.py", "from graphwright.runtime.ort import OrtSession"),
        ("frontends/onnx.py", "from graphwright.runtime import profiles_of_old"),
        ("plugins/hars/meaning.py", "if TYPE_CHECKING:\n    from graphwright.runtime import profile"),
        ("optimize.py", "from graphwright import cli"),
        ("runtime/ort.py", "import torch"),
        ("frontends/onnx.py", "import torch.export"),
        ("cli.py", "def doctor():\n    from importlib import import_module\n    import_module('torch')"),
        ("engine/verify.py", "import onnxruntime as ort"),
        ("runtime/ort.py", "import tensorrt"),
        ("runtime/ort.py", "import openvino"),
        ("new_idea.py", ""),
    ],
)
def test_a_planted_fault_is_found(path: str, source: str) -> None:
    assert len(faults(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from graphwright.optimize import optimize"),
        ("cli.py", "from graphwright.optimize import optimize"),
        ("artifact.py", "from graphwright import __version__\nfrom graphwright.report import Report"),
        ("frontends/__init__.py", "from graphwright.runtime.profile import Profile\nfrom . import onnx"),
        ("frontends/torch.py", "import torch\nfrom ..errors import ExportError"),
        ("runtime/ort.py", "import onnxruntime\nif TYPE_CHECKING:\n    import torch"),
        ("passes/lift/gelu.py", "from graphwright.engine.rewrite import Rule\nimport onnx_ir as ir"),
    ],
)
def test_what_is_allowed_is_not_reported(path: str, source: str) -> None:
    assert faults(path, source) == []


def test_importing_graphwright_loads_no_heavy_package() -> None:
    code = "import json, sys, graphwright; print(json.dumps(sorted(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    loaded = set(json.loads(answer.stdout))
    assert "graphwright" in loaded
    assert loaded.isdisjoint({*HOMES, "onnxscript"})
