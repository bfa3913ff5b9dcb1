"""Runs mypy on every file of the package that uses TensorRT, against the stubs made of the bindings."""

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tensorrt_bindings.bindings_classes import Classes
from tests.tensorrt_bindings.prepare import FOLDER, ROOT
from tests.tensorrt_bindings.typed_copy import Access, accesses, casting, modules_of, revealing

PACKAGE = ROOT / "graphwright"
# What is not installed is none of this check's business: the ordinary run of mypy finds it. The packages that are
# skipped have nothing to do with TensorRT's types, and take longer to read than all the rest.
SETTINGS = """
[mypy]
mypy_path = {stubs}
cache_dir = {cache}
strict = True
warn_unreachable = False
warn_unused_ignores = False
warn_redundant_casts = False
ignore_missing_imports = True
[mypy-torch.*,transformers.*,scipy.*,sympy.*,onnxscript.*]
follow_imports = skip
[mypy-tensorrt.*]
ignore_errors = True
"""
TENSORRT = re.compile(r"(?<![\w.])tensorrt\.(?:tensorrt|plugin)\b")
Types = dict[tuple[str, Access], str]


@dataclass
class Findings:
    """What mypy says of some files: errors as ``path:line: text``, and the types of what attributes were asked of."""

    errors: list[str] = field(default_factory=list)
    types: Types = field(default_factory=dict)

    def seen(self) -> list[str]:
        """Every attribute of TensorRT whose owner mypy knew, as ``path:line: type.name``."""
        known = [(path, access, kind) for (path, access), kind in self.types.items() if TENSORRT.search(kind)]
        return sorted(f"{path}:{access.line}: {kind}.{access.name}" for path, access, kind in known)

    def unseen(self) -> list[str]:
        """Every attribute that only TensorRT's objects have, asked of something of unknown type."""
        unknown = [(path, access) for (path, access), kind in self.types.items() if kind == "Any"]
        return sorted(f"{path}:{each.line}: {each.owner}.{each.name}" for path, each in unknown if "_" in each.name)


def users(package: Path = PACKAGE) -> list[Path]:
    """Return the files that use TensorRT: they import it, or get its module from who does."""
    paths = sorted(package.rglob("*.py"))
    return [path for path in paths if modules_of(ast.parse(path.read_text(encoding="utf-8")))]


class Checker:
    """mypy on copies of some files, each in the place of its original."""

    def __init__(self, files: Iterable[Path], aside: Path, root: Path = ROOT) -> None:
        self.aside, self.root = aside, root
        self.sources = {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in files}
        self.classes = Classes.read((FOLDER / "stubs/tensorrt/tensorrt.pyi").read_text())
        settings = SETTINGS.format(stubs=FOLDER / "stubs", cache=FOLDER / "mypy_cache")
        (aside / "mypy.ini").write_text(settings)

    def check(self) -> Findings:
        """Give types to what has none by the attributes that it is asked for, and see whether all fits."""
        types = self._casts(self._types(self.sources))
        copies = {path: casting(source, types.get(path, {})) for path, source in self.sources.items()}
        entries = self._run(copies)
        # What is wrong in a file that these import is told by the ordinary run of mypy.
        mine = [each for each in entries if each["severity"] == "error" and each["file"] in copies]
        errors = [f"{each['file']}:{each['line']}: {each['message']}" for each in mine]
        return Findings(errors, self._types(copies))

    def _types(self, sources: Mapping[str, str]) -> Types:
        """Ask mypy for the types of all owners of attributes that TensorRT's objects have."""
        asked = {path: accesses(source, self.classes.names) for path, source in sources.items()}
        revealed = {path: revealing(source, asked[path]) for path, source in sources.items()}
        places = {
            (path, *place): access
            for path, (_, found) in revealed.items()
            for place, access in zip(found, asked[path], strict=True)
        }
        types: Types = {}
        for entry in self._run({path: copy for path, (copy, _) in revealed.items()}):
            told = re.fullmatch(r'Revealed type is "(.*)"', entry["message"])
            access = places.get((entry["file"], entry["line"], entry["column"]))
            if told and access:
                types[entry["file"], access] = told[1]
        return types

    def _casts(self, types: Types) -> dict[str, dict[Access, str]]:
        """Return a type for every owner that has none; one text in one scope has one type, whatever it is asked for."""
        groups: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        for (path, access), kind in types.items():
            if kind == "Any":
                groups[path, access.scope, access.owner].add(access.name)
        kinds = {group: " | ".join(self.classes.fitting(asked)) for group, asked in groups.items()}
        found: dict[str, dict[Access, str]] = {}
        for path, source in self.sources.items():
            owners = {access: kinds.get((path, access.scope, access.owner)) for access in accesses(source)}
            found[path] = {access: kind for access, kind in owners.items() if kind}
        return found

    def _run(self, copies: Mapping[str, str]) -> list[dict[str, Any]]:
        arguments = []
        for number, (path, copy) in enumerate(copies.items()):
            (self.aside / f"{number}.py").write_text(copy, encoding="utf-8")
            arguments += ["--shadow-file", path, str(self.aside / f"{number}.py")]
        command = [sys.executable, "-m", "mypy", f"--config-file={self.aside / 'mypy.ini'}", "--output=json"]
        command += [*arguments, *copies]
        answer = subprocess.run(command, capture_output=True, text=True, cwd=self.root, timeout=600)
        lines = [line for line in answer.stdout.splitlines() if line]
        # What is no JSON is no finding but a failure of mypy itself.
        works = answer.returncode in (0, 1) and all(line.startswith("{") for line in lines)
        assert works, f"mypy ends with {answer.returncode}: {answer.stdout}{answer.stderr}"
        return [json.loads(line) for line in lines]
