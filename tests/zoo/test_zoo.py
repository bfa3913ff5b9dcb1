"""Every family through every exporter: all is fused, two targets keep the numbers, and a second run changes nothing."""

from collections.abc import Callable
from functools import cache

import pytest

from tests.zoo.checks import Result, check_stored
from tests.zoo.exporters import EXPORTERS
from tests.zoo.families import CONFIGS, POINTS, TRACED, dynamic_axes, make_inputs
from tests.zoo.store import Stored, export_to, first_line

Checked = Callable[[str, str], Result]

# One of each exporter, and one of each kind of computation.
FAST = (
    ("bert", "dynamo24-sdpa"),
    ("llama", "torchscript-sdpa"),
    ("t5", "torchscript-sdpa"),
    ("mixtral", "torchscript-eager"),
    ("distilbert", "dynamo20-eager"),
    ("vit", "transformers"),
)
EVERY = [(family, exporter) for family in CONFIGS for exporter in EXPORTERS]
PAIRS = [pytest.param(*pair, marks=() if pair in FAST else pytest.mark.slow) for pair in EVERY]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """The check of a pair, made once; what an exporter cannot trace is in docs/coverage.md, in its own words."""

    @cache
    def check(family: str, exporter: str) -> Result:
        path = tmp_path_factory.mktemp("zoo") / "model.onnx"
        try:
            export_to(family, exporter, path)
        except Exception as error:
            return Result(family, exporter, first_line(error))
        return check_stored(Stored(family, exporter, True, "", 0.0, path))

    return check


@pytest.mark.parametrize(("family", "exporter"), PAIRS)
def test_a_family_is_fused_and_keeps_its_numbers(family: str, exporter: str, checked: Checked) -> None:
    result = checked(family, exporter)
    if result.untraced and (family, exporter) not in FAST:
        pytest.skip(result.untraced)
    assert not result.untraced
    assert not result.gaps, problems(result)
    assert not result.faults


@pytest.mark.slow
@pytest.mark.parametrize(("family", "exporter"), EVERY)
def test_a_second_run_changes_nothing(family: str, exporter: str, checked: Checked) -> None:
    result = checked(family, exporter)
    if result.untraced:
        pytest.skip(result.untraced)
    assert not result.again


def problems(result: Result) -> str:
    return "; ".join(f"{kind} {count}: {result.reasons.get(kind, '')}" for kind, count in result.gaps.items())


def test_there_is_a_fast_pair_for_each_way_to_export() -> None:
    ways = {name.split("-")[0].rstrip("0246") for name in EXPORTERS}
    assert {exporter.split("-")[0].rstrip("0246") for _, exporter in FAST} == ways


@pytest.mark.parametrize("family", CONFIGS)
def test_no_check_has_the_sizes_of_the_trace(family: str) -> None:
    traced = make_inputs(family, TRACED)
    axes = dynamic_axes(traced)
    for sizes in POINTS:
        inputs = make_inputs(family, sizes)
        assert list(inputs) == list(traced)
        for name, array in inputs.items():
            changed = {axis for axis, size in enumerate(array.shape) if size != traced[name].shape[axis]}
            assert changed <= set(axes[name])
            assert 0 in changed
