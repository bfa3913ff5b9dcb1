"""What the engine is given from outside: something that runs models."""

from pathlib import Path

import pytest

from graphwright.engine import traced
from graphwright.engine.verification import Evaluator
from graphwright.runtime.reference import evaluate as run_reference
from tests.engine.traced_formulas import SOURCE, VERSIONS


@pytest.fixture
def evaluate() -> Evaluator:
    return run_reference


@pytest.fixture
def formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module with a formula, a cache of its own, and exporters of VERSIONS."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(traced, "installed_versions", lambda: dict(VERSIONS))
    path = tmp_path / "formulas.py"
    path.write_text(SOURCE)
    return path
