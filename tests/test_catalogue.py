"""What holds for every pass: names, documentation, tests, numbers of perturbed examples and of the corpus."""

import ast
import importlib
import importlib.util
import os
import re
import sys
from collections import Counter
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.engine import sample
from graphwright.engine.compare import compare
from graphwright.engine.observe import Reason, Record
from graphwright.engine.open_order import with_sorted
from graphwright.engine.pipeline import FunctionPass, run_pipeline
from graphwright.engine.rewrite import Rule, Run
from graphwright.engine.structure import check_onnx
from graphwright.engine.ties import compare_choices, rankings, with_data
from graphwright.engine.verify import RegionVerifier
from graphwright.errors import RequestError, VerificationError
from graphwright.passes import CATALOGUE
from graphwright.plugins.hars import native
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, model, perturb

TESTS = Path(__file__).parent
CORPUS = sorted((TESTS / "corpus").glob("*.onnxtxt"))
GOLDEN = TESTS / "corpus" / "golden.txt"
PASSES = {step.name: step.implementation for step in CATALOGUE.steps()}
SECTIONS = ("Shapes", "Dtypes", "Refuses", "Numerics", "Source")
# Sizes of named dimensions at which the corpus is compared: the traced one, one token, a prime.
SIZES = ({"batch": 2, "seq": 3}, {"batch": 1, "seq": 1}, {"batch": 3, "seq": 7})


def module_of(name: str) -> ModuleType:
    """The file that a pass has for itself."""
    family = CATALOGUE.find(name).family
    return importlib.import_module(f"graphwright.passes.{family}.{name.replace('-', '_')}")


def section(name: str, title: str) -> str:
    """The text of one section of a pass's documentation."""
    text = module_of(name).__doc__ or ""
    found = re.search(rf"^{title}:\s(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def documented_reasons(name: str) -> set[Reason]:
    return {each for each in Reason if re.search(rf"\b{each.name}\b", section(name, "Refuses"))}


def test_file(name: str) -> Path:
    return TESTS / "passes" / f"test_{name.replace('-', '_')}.py"


test_file.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test by its name


@cache
def examples(name: str) -> dict[str, str]:
    """The graphs on which a pass fires, from the tests of that pass."""
    path = test_file(name)
    if not path.exists():
        return {}
    spec = importlib.util.spec_from_file_location(f"examples_of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return dict(getattr(module, "EXAMPLES", {}))


def test_names_are_unique_and_equal_to_the_file() -> None:
    names = [step.name for step in CATALOGUE.steps()]
    assert len(names) == len(set(names))
    for name, given in PASSES.items():
        constant = name.replace("-", "_").upper()
        assert getattr(module_of(name), constant, None) is given, f"{name}: no {constant} in the file of that name"


def test_every_file_of_a_family_is_in_the_catalogue() -> None:
    for family in CATALOGUE.families:
        for path in (Path(module_of("fuse-gelu").__file__ or "").parents[1] / family).glob("*.py"):
            defines = re.search(r"^[A-Z_]+ = (Rule|FunctionPass)\(", path.read_text(), re.MULTILINE)
            assert not defines or path.stem.replace("_", "-") in PASSES, path


def test_default_pipelines_run_in_the_order_of_the_catalogue() -> None:
    order = list(PASSES)
    for target in CATALOGUE.defaults:
        places = [order.index(step.name) for step in CATALOGUE.default(target).steps]
        assert places == sorted(set(places)), target


@pytest.mark.parametrize("name", PASSES)
def test_the_documentation_has_every_section(name: str) -> None:
    text = module_of(name).__doc__ or ""
    titles = [title for title in SECTIONS if section(name, title)]
    assert titles == list(SECTIONS)
    assert text.index("Before") < text.index("After") < text.index("Shapes:")


RULES = [name for name, given in PASSES.items() if isinstance(given, Rule)]


@pytest.mark.parametrize("name", PASSES)
def test_every_pass_has_tests(name: str) -> None:
    assert test_file(name).exists()


@pytest.mark.parametrize("name", RULES)
def test_every_documented_reason_is_asserted(name: str) -> None:
    path = test_file(name)
    tree = ast.parse(path.read_text())
    named = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Reason"
    }
    missing = {each.name for each in documented_reasons(name)} - named
    assert not missing, f"{path.name} asserts no {', '.join(sorted(missing))}"


@pytest.mark.parametrize("name", RULES)
def test_every_reason_that_a_rule_gives_is_documented(name: str) -> None:
    named = set(re.findall(r"\bReason\.([A-Z_]+)", Path(module_of(name).__file__ or "").read_text()))
    missing = named - {each.name for each in documented_reasons(name)}
    assert not missing, f"{name} does not say when it refuses for {', '.join(sorted(missing))}"


@pytest.mark.parametrize("name", PASSES)
def test_perturbed_examples_keep_their_numbers(name: str) -> None:
    fired = 0
    for index, text in enumerate(examples(name).values()):
        for sentence, variant in perturb(model(text, seed=index), seed=index):
            outcome = apply(variant, PASSES[name])
            if outcome.applied:
                check_onnx(outcome.model, name)
                fired += same_numbers(variant, outcome.model, f"{name}, {sentence}")
    assert fired or not examples(name), f"no perturbed example of {name} fires: the test proves nothing"


def same_numbers(before: ir.Model, after: ir.Model, where: str) -> bool:
    """Assert that two models agree where the first can be run; tell whether it could."""
    before, after = with_sorted(before), with_sorted(after)
    shapes = sample.bind_dims(before.graph.inputs, sizes={"B": 2, "S": 3, "M": 3, "N": 3, "E": 8})
    try:
        inputs = sample.sample_inputs(before, shapes)
        with np.errstate(all="ignore"):
            expected = evaluate(before, inputs, double=True)
            single = evaluate(before, inputs)
    except (RequestError, VerificationError):
        return False
    wide = partial(evaluate, with_data(before), inputs, double=True)
    found = compare_choices(expected, evaluate(after, inputs), rankings(before), wide)
    # What the original itself computes no better in its own dtype proves nothing either way.
    found = [each for each in found if each.output not in {other.output for other in compare(expected, single)}]
    assert not found, f"{where}: {'; '.join(map(str, found))}"
    return True


@cache
def optimized(path: Path, target: str) -> tuple[ir.Model, ir.Model, Record]:
    before = model(path.read_text())
    record = Record()
    run = Run(before.clone(), [record, RegionVerifier(evaluate)])
    # What is recorded must not depend on this machine's compiler.
    with patch.object(native, "available", return_value=True):
        return before, run_pipeline(run, CATALOGUE.default(target)), record


@pytest.mark.parametrize("target", CATALOGUE.defaults)
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_default_pipelines_keep_the_numbers_of_the_corpus(path: Path, target: str) -> None:
    before, after, _ = optimized(path, target)
    check_onnx(after, target)
    for seed, sizes in enumerate(SIZES):
        assert_equivalent(before, after, sizes=sizes, seed=seed)


@pytest.mark.parametrize("target", CATALOGUE.defaults)
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_second_run_of_a_default_pipeline_applies_nothing(path: Path, target: str) -> None:
    _, after, _ = optimized(path, target)
    for given in (after.clone(), ir.from_proto(ir.to_proto(after))):
        record = Record()
        with patch.object(native, "available", return_value=True):
            run_pipeline(Run(given, [record]), CATALOGUE.default(target))
        assert not [str(each) for each in record.applications]


def test_default_pipelines_give_what_is_recorded() -> None:
    lines = []
    for path in CORPUS:
        for target in CATALOGUE.defaults:
            _, after, record = optimized(path, target)
            applied = {each.name: each.applied for each in record.outcomes if each.applied}
            operators = sorted(Counter(node.op_type for node in after.graph.all_nodes()).items())
            lines += [f"{path.stem} {target}"]
            lines += [f"  {name} {count}" for name, count in applied.items()]
            lines += ["  = " + " ".join(f"{name}:{count}" for name, count in operators)]
    text = "\n".join(lines) + "\n"
    if os.environ.get("GRAPHWRIGHT_GOLDEN") == "write":
        GOLDEN.write_text(text)
    assert GOLDEN.read_text() == text, "run with GRAPHWRIGHT_GOLDEN=write if this is what you meant"


def test_function_passes_say_whether_they_changed_anything() -> None:
    for name, given in PASSES.items():
        for text in examples(name).values() if isinstance(given, FunctionPass) else ():
            once = apply(model(text), given)
            assert once.applied, f"{name} does not fire on its own example"
            assert not apply(once.model, given).applied, f"{name} fires again on its own result"
