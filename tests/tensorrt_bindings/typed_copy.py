"""Copies of a source file in which mypy sees what is TensorRT's.

The package loads TensorRT when it is needed and not before, so its functions get the module as an argument, or from a
function that returns Any, and hand TensorRT's objects on as Any: mypy would let everything pass. A copy is the
original line by line, but the module's name means the module; ``revealing`` asks mypy for the type of whatever an
attribute is asked of, ``casting`` gives a type to what had none.
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

MODULES = {"trt": "tensorrt", "trtp": "tensorrt.plugin"}
LOADER = "tensorrt_library"
# A name for the module that no file has.
PRIVATE = "_tensorrt_of_the_check"


@dataclass(frozen=True)
class Edit:
    """So many bytes of a line, from a column on, become another text."""

    line: int
    column: int
    length: int
    text: str


@dataclass(frozen=True)
class Access:
    """An attribute that something is asked for: its name, its owner as text, the scope in which that text means it."""

    name: str
    owner: str
    scope: str
    line: int
    column: int
    end_line: int
    end_column: int

    def around(self, before: str, after: str) -> list[Edit]:
        """Return the edits that put text around the owner."""
        return [Edit(self.line, self.column, 0, before), Edit(self.end_line, self.end_column, 0, after)]


def modules_of(tree: ast.AST) -> dict[str, str]:
    """Return the names that mean a module of TensorRT in a file, and the module; none where it uses none.

    Example:
        >>> modules_of(ast.parse("def f(trt): return trt.Logger()"))
        {'trt': 'tensorrt'}
        >>> modules_of(ast.parse("from tensorrt_libs import x"))
        {}
    """
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            mine = [alias for alias in node.names if alias.name.split(".")[0] == "tensorrt"]
            found |= {alias.asname or "tensorrt": alias.name if alias.asname else "tensorrt" for alias in mine}
        elif isinstance(node, ast.Assign) and _is_loader(node.value):
            found |= {target.id: "tensorrt" for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.arg | ast.Name | ast.Attribute):
            name = _module_name(node)
            found |= {name: MODULES[name]} if name else {}
    return found


def _is_loader(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == LOADER


def _module_name(node: ast.arg | ast.Name | ast.Attribute) -> str:
    """Return the usual name for the module that a name or ``self.name`` stands for; empty for anything else."""
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else node.arg
    return name.strip("_") if name.strip("_") in MODULES else ""


def accesses(source: str, names: Collection[str] | None = None) -> list[Access]:
    """Return every attribute of these names, or of any name, that is asked for, in the order of the text."""
    return list(_accesses(ast.parse(source), names, "", ""))


def _accesses(node: ast.AST, names: Collection[str] | None, scope: str, owner_scope: str) -> Iterator[Access]:
    # Python 3.11 does not know the places within an f-string; mypy sees them all the same.
    if isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.ClassDef):
        scope = owner_scope = f"{owner_scope}.{node.name}"
    elif isinstance(node, ast.FunctionDef):
        scope = f"{owner_scope}.{node.name}"
    elif isinstance(node, ast.Attribute) and (names is None or node.attr in names):
        value = node.value
        assert value.end_lineno is not None and value.end_col_offset is not None
        text = ast.unparse(value)
        of = owner_scope if text.startswith("self.") else scope
        yield Access(node.attr, text, of, value.lineno, value.col_offset, value.end_lineno, value.end_col_offset)
    for child in ast.iter_child_nodes(node):
        yield from _accesses(child, names, scope, owner_scope)


def revealing(source: str, asked: list[Access]) -> tuple[str, list[tuple[int, int]]]:
    """Return a copy in which mypy tells the type of each owner, and the place at which it tells it."""
    copy = _copy(source, [edit for each in asked for edit in each.around("reveal_type(", ")")])
    return copy, list(_revealed(ast.parse(copy)))


def _revealed(node: ast.AST) -> Iterator[tuple[int, int]]:
    if isinstance(node, ast.JoinedStr):
        return
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
        function, arguments = node.value.func, node.value.args
        if isinstance(function, ast.Name) and function.id == "reveal_type":
            yield arguments[0].lineno, arguments[0].col_offset
    for child in ast.iter_child_nodes(node):
        yield from _revealed(child)


def casting(source: str, types: Mapping[Access, str]) -> str:
    """Return a copy in which these owners have these types, written as names of TensorRT with | between them."""
    edits = []
    for access, kind in types.items():
        full = " | ".join(f"{PRIVATE}.{name}" for name in kind.split(" | "))
        edits += access.around(f'{PRIVATE}_cast("{full}", ', ")")
    return _copy(source, edits)


def _copy(source: str, edits: list[Edit]) -> str:
    tree = ast.parse(source)
    modules = modules_of(tree)
    lines = source.encode().splitlines(keepends=True)
    edits = [*edits, *_module_edits(tree, modules)]
    for edit in sorted(edits, key=lambda each: (each.line, each.column, -each.length), reverse=True):
        line = lines[edit.line - 1]
        lines[edit.line - 1] = line[: edit.column] + edit.text.encode() + line[edit.column + edit.length :]
    return b"".join(lines).decode() + _imports(tree, modules)


def _module_edits(tree: ast.Module, modules: Collection[str]) -> Iterator[Edit]:
    """Whatever gives one of the names another meaning gives it to another name; ``self.trt`` is the module as well."""
    for node in ast.walk(tree):
        is_stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in modules
        if is_stored or (isinstance(node, ast.arg | ast.keyword) and node.arg in modules):
            assert isinstance(node, ast.Name | ast.arg | ast.keyword)
            yield Edit(node.lineno, node.col_offset, 0, "_")
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and (name := _module_name(node)):
            yield Edit(node.lineno, node.col_offset, len(ast.unparse(node)), name)


def _imports(tree: ast.Module, modules: Mapping[str, str]) -> str:
    on_top = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    lines = [f"import {module} as {name}" for name, module in modules.items() if name not in on_top]
    lines += [f"import tensorrt as {PRIVATE}", f"from typing import cast as {PRIVATE}_cast"]
    return "\n" + "\n".join(lines) + "\n"
