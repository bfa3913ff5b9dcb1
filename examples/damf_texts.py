"""Real text that every machine with the pinned packages has: first sentences of docstrings, with their library.

Sources are parsed, never imported. A library's own names are taken out of the texts, and a module's texts all go to the
same part, so that nothing but what is said tells the library. The modules of the training part have more texts than are
labelled; those serve where no label is needed.
"""

import ast
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = (
    "huggingface_hub",
    "mypy",
    "networkx",
    "numpy",
    "pygments",
    "scipy",
    "setuptools",
    "sklearn",
    "sympy",
    "torch",
)
# Words that name a library without telling what it does.
NAMES = [*LIBRARIES, "huggingface", "hugging face", "pytorch", "np", "scikit-learn"]
OWN_NAME = re.compile(r"(?<!\w)(" + "|".join(re.escape(name) for name in NAMES) + r")(?!\w)", re.IGNORECASE)
# Of each library's modules, by part: 52 %, 8 %, 40 %.
PARTS = {"train": range(52), "validation": range(52, 60), "test": range(60, 100)}
WORDS = range(7, 41)
# The label of a text whose label is not used.
UNLABELLED = -1
# Of one module: its texts are alike, and more of them would be fewer modules.
MOST = 6


@dataclass(frozen=True)
class Texts:
    """Texts and the numbers of their libraries."""

    texts: list[str]
    labels: list[int]

    def __add__(self, more: "Texts") -> "Texts":
        return Texts(self.texts + more.texts, self.labels + more.labels)


def read(per_library: dict[str, int]) -> dict[str, Texts]:
    """Return each part with at most so many texts of each library; the same on every machine with these packages.

    ``unlabelled`` are further texts of the modules of ``train``; their labels are -1.
    """
    found = {part: Texts([], []) for part in per_library}
    seen: set[str] = set()
    for label, library in enumerate(LIBRARIES):
        room = dict(per_library)
        for path, digest in modules(library):
            part = next(name for name, numbers in PARTS.items() if digest % 100 in numbers)
            if not room.get(part) and not (part == "train" and room.get("unlabelled")):
                continue
            for number, text in enumerate(sentences(path)):
                taker = part if number < MOST and room.get(part) else "unlabelled" if part == "train" else ""
                if text not in seen and room.get(taker):
                    seen.add(text)
                    found[taker].texts.append(text)
                    found[taker].labels.append(UNLABELLED if taker == "unlabelled" else label)
                    room[taker] -= 1
            if not any(room.values()):
                break
    return found


def modules(library: str) -> list[tuple[Path, int]]:
    """Return the library's modules with the digests of their names, in the order of the digests."""
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        return []
    root = Path(spec.submodule_search_locations[0])
    named = {path: path.relative_to(root.parent).as_posix() for path in root.rglob("*.py")}
    digests = {path: int(hashlib.sha256(name.encode()).hexdigest(), 16) for path, name in named.items()}
    return sorted(((path, digest) for path, digest in digests.items() if "test" not in named[path]), key=lambda x: x[1])


def sentences(path: Path) -> Iterator[str]:
    """Yield what the docstrings of a module say first, without names of libraries."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").split("\n\n")[0]
            words = OWN_NAME.sub(" ", first).split()
            if len(words) in WORDS:
                yield " ".join(words)
