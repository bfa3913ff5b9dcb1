"""What the engine is given from outside: something that runs models."""

import pytest

from graphwright.engine.verification import Evaluator
from graphwright.runtime.reference import evaluate as run_reference


@pytest.fixture
def evaluate() -> Evaluator:
    return run_reference
