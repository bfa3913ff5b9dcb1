"""Calls of torch-tensorrt fit its source, which is read and never imported: it needs TensorRT's libraries."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tensorrt_bindings.prepare import FOLDER
from tests.tensorrt_bindings.type_check import PACKAGE

pytestmark = pytest.mark.usefixtures("bindings")
SOURCE = FOLDER / "site/torch_tensorrt"


def imported(tree: ast.AST) -> dict[str, str]:
    """Names that come from torch_tensorrt, and what they are called there."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch_tensorrt":
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
    return found


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of something of torch_tensorrt, by its name there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            text = ast.unparse(node.func)
            if text in names:
                yield names[text], node
            elif text.startswith("torch_tensorrt."):
                yield text.split(".")[-1], node


def signature_of(name: str) -> inspect.Signature:
    """The parameters of a class or a function of torch-tensorrt; a dataclass has its fields."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                methods = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
                return signature(methods[0].args, drop=1) if methods else fields(node)
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return signature(node.args, drop=0)
    raise AssertionError(f"torch-tensorrt has no {name}")


def signature(given: ast.arguments, drop: int) -> inspect.Signature:
    kind = inspect.Parameter
    plain = [*given.posonlyargs, *given.args][drop:]
    required = len(plain) - len(given.defaults)
    parameters = [
        kind(each.arg, kind.POSITIONAL_OR_KEYWORD, default=kind.empty if number < required else None)
        for number, each in enumerate(plain)
    ]
    parameters += [kind(given.vararg.arg, kind.VAR_POSITIONAL)] if given.vararg else []
    for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        parameters.append(kind(each.arg, kind.KEYWORD_ONLY, default=kind.empty if default is None else None))
    parameters += [kind(given.kwarg.arg, kind.VAR_KEYWORD)] if given.kwarg else []
    return inspect.Signature(parameters)


def fields(node: ast.ClassDef) -> inspect.Signature:
    kind = inspect.Parameter
    found = [each for each in node.body if isinstance(each, ast.AnnAssign)]
    parameters = [
        kind(ast.unparse(each.target), kind.POSITIONAL_OR_KEYWORD, default=None if each.value else kind.empty)
        for each in found
    ]
    return inspect.Signature(parameters)


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if "torch_tensorrt" in path.read_text(encoding="utf-8")]


def test_calls_are_found() -> None:
    assert {name for path in FILES for name, _ in calls(path)} >= {
        "TorchTensorRTModule",
        "CompilationSettings",
        "Device",
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_arguments_fit(path: Path) -> None:
    for name, call in calls(path):
        keywords = {each.arg: None for each in call.keywords if each.arg is not None}
        found = signature_of(name)
        # What goes on into **kwargs is checked there, at run time: here it would let every name through.
        named = {each for each in keywords if each not in found.parameters}
        assert not named or any(each.kind is each.VAR_KEYWORD for each in found.parameters.values()), (name, named)
        found.bind(*call.args, **keywords)


def test_a_wrong_call_does_not_fit() -> None:
    with pytest.raises(TypeError):
        signature_of("TorchTensorRTModule").bind(b"", [], [], no_such_argument=1)
    with pytest.raises(TypeError):
        signature_of("CompilationSettings").bind(enabled_precision=1)


def imports() -> list[tuple[str, str]]:
    """What is imported from torch_tensorrt, as module and name."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in FILES]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    found = [(node.module or "", alias.name) for node in nodes for alias in node.names]
    return [(module, name) for module, name in found if module.split(".")[0] == "torch_tensorrt"]


@pytest.mark.parametrize(("module", "name"), imports())
def test_names_are_there(module: str, name: str) -> None:
    path = SOURCE.parent.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    bound: set[str] = set()
    # Some are bound below an ``if``.
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            bound |= {ast.unparse(target) for target in node.targets}
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            bound.add(node.name)
    assert name in bound


def test_no_attribute_of_the_package_is_read_that_it_does_not_have() -> None:
    top = (SOURCE / "__init__.py").read_text(encoding="utf-8")
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
        read = {node.attr for node in nodes if ast.unparse(node.value) == "torch_tensorrt"}
        assert [name for name in read if not re.search(rf"\b{name}\b", top)] == []
        assert 'getattr(torch_tensorrt, "' not in text, "it would hide a name that is not there"
