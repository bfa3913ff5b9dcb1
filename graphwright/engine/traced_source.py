"""The source of a function and of what it uses in its file, read as text: nothing is imported."""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from graphwright.errors import UsageError


def named(function: str | Callable[..., Any]) -> tuple[str, str, Path]:
    """Return a function's module, its name in there and the module's file.

    Raises:
        UsageError: it does not stand at the top of a module's file.
    """
    if isinstance(function, str):
        module, _, name = function.partition(":")
        path = _file_of(module)
    else:
        module, name = function.__module__, getattr(function, "__qualname__", "?")
        has_file = name.isidentifier() and (inspect.isfunction(function) or inspect.isclass(function))
        file = inspect.getsourcefile(function) if has_file else None
        path = Path(file) if file and Path(file).is_file() else None
    if path is None or not name.isidentifier():
        needed = 'a function or class at the top of a module\'s file, or "module:name"'
        raise UsageError("traced pattern", repr(function), needed=needed)
    return module, name, path


def _file_of(module: str) -> Path | None:
    loaded = sys.modules.get(module)
    try:
        origin = loaded.__file__ if loaded is not None else getattr(find_spec(module), "origin", None)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(origin) if origin else None


def source_of(function: str | Callable[..., Any]) -> str:
    """Return the definition of a function and those of the names in its file that it uses, directly or not.

    What it takes from other modules is not looked at.

    Raises:
        UsageError: there is no such definition.
    """
    _, name, path = named(function)
    definitions = _definitions(path, path.stat().st_mtime_ns)
    if name not in definitions:
        raise UsageError(f"traced pattern {name}", f"no such definition in {path}", needed="one at its top")
    used, pending = {name: definitions[name]}, [name]
    while pending:
        _, uses = used[pending.pop()]
        new = [each for each in sorted(uses) if each in definitions and each not in used]
        used |= {each: definitions[each] for each in new}
        pending += new
    return "\n".join(used[each][0] for each in sorted(used))


@lru_cache(maxsize=64)
def _definitions(path: Path, changed: int) -> dict[str, tuple[str, frozenset[str]]]:
    """Return the text of each top-level definition of a file, and the names it uses; ``changed`` keys the cache."""
    text = path.read_text(encoding="utf-8")
    found = {}
    for node in ast.parse(text).body:
        for name in _names(node):
            uses = frozenset(each.id for each in ast.walk(node) if isinstance(each, ast.Name))
            found[name] = (ast.get_source_segment(text, node) or "", uses)
    return found


def _names(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign):
        yield from (each.id for target in node.targets for each in ast.walk(target) if isinstance(each, ast.Name))
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id
