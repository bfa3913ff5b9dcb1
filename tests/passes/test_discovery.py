"""Passes of other packages join the catalogue, and a name clash names both sides."""

from importlib.metadata import EntryPoint

import pytest

from graphwright.engine.pipeline import FunctionPass
from graphwright.engine.rewrite import Rule
from graphwright.errors import PipelineError
from graphwright.passes import CATALOGUE
from graphwright.passes.discovery import GROUP, catalogue, extended

MINE = FunctionPass("fold-mine", lambda model: False)
TAKEN = Rule("fuse-gelu", (), lambda op: None)
NO_PASS = 3


def entry(name: str, attribute: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{attribute}", GROUP)


def test_a_pass_joins_its_family_and_no_default() -> None:
    found = extended(CATALOGUE, (entry("transform.fold-mine", "MINE"),))
    assert found.find("fold-mine").family == "transform"
    assert str(found.parse("default,fold-mine", "onnx")).split(",").count("fold-mine") == 1
    assert "fold-mine" not in str(found.default("onnx"))


@pytest.mark.parametrize(
    ("name", "attribute", "needed"),
    [
        ("lift.fuse-gelu", "TAKEN", "of graphwright and of"),
        ("fold-mine", "MINE", "a dot, and the pass's name"),
        ("early.fold-mine", "MINE", "lift or transform or lower"),
        ("lift.other-name", "MINE", "named 'other-name'"),
        ("lift.no-pass", "NO_PASS", "a Rule or FunctionPass"),
        ("lift.missing", "MISSING", "AttributeError"),
    ],
)
def test_an_entry_that_is_wrong_is_named(name: str, attribute: str, needed: str) -> None:
    with pytest.raises(PipelineError, match=needed) as caught:
        extended(CATALOGUE, (entry(name, attribute),))
    assert name in str(caught.value)


def test_without_other_packages_the_catalogue_is_our_own() -> None:
    assert [step.name for step in catalogue().steps()] == [step.name for step in CATALOGUE.steps()]
