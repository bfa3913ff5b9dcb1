"""Which class of the bindings has which attributes, read from their stub."""

import ast
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

# More candidates than these tell nothing about a type.
MOST_CANDIDATES = 3


@dataclass(frozen=True)
class Classes:
    """Attributes by class, those of base classes among them."""

    attributes: dict[str, frozenset[str]]

    @classmethod
    def read(cls, stub: str) -> "Classes":
        """Read a stub; a class comes after its bases there."""
        found: dict[str, frozenset[str]] = {}
        for node in ast.parse(stub).body:
            if isinstance(node, ast.ClassDef):
                inherited = [found.get(ast.unparse(base), frozenset()) for base in node.bases]
                found[node.name] = frozenset(_names(node)).union(*inherited)
        return cls(found)

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name, but for those that ordinary objects have as well."""
        plain = {name for kind in (str, list, dict, set, bytes) for name in dir(kind)}
        return frozenset().union(*self.attributes.values()) - plain

    def fitting(self, asked: Collection[str]) -> list[str]:
        """Return the classes that have the most of these attributes; none where that could be any or is hardly one.

        A name without an underscore is many things' name, so at least one with an underscore must be there.
        """
        scores = {name: len(has.intersection(asked)) for name, has in self.attributes.items()}
        best = max(scores.values())
        telling = any("_" in name and name in self.names for name in asked)
        found = [name for name, score in scores.items() if score == best]
        return found if telling and len(found) <= MOST_CANDIDATES else []


def _names(node: ast.ClassDef) -> list[str]:
    found = []
    for each in node.body:
        if isinstance(each, ast.FunctionDef):
            found.append(each.name)
        elif isinstance(each, ast.AnnAssign):
            found.append(ast.unparse(each.target))
    return [name for name in found if not name.startswith("__")]
