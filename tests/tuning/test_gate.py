"""The gate lets a rule fire where its alternative was chosen, and leaves all other rules alone."""

from graphwright.engine.observe import Observer, Reason, Record
from graphwright.engine.pipeline import Pipeline, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.passes import CATALOGUE
from graphwright.tuning.choices import CHOICES, Alternative
from graphwright.tuning.gate import Chosen
from graphwright.tuning.regions import find_regions
from graphwright.tuning.spellings import Plan, lowered
from tests.tuning.models import encoder

PLAN = Plan(CATALOGUE.default("ort-cpu"))
BEFORE = lowered(encoder(), Pipeline(PLAN.prefix))
REGIONS = [each for each in find_regions(BEFORE, CHOICES) if each.choice.name == "gelu"]
FUSED, PLAIN = Alternative("BiasGelu", ("fuse-bias-gelu",)), Alternative("Add, Gelu", ())


def applied(gate: Observer, name: str = "fuse-bias-gelu") -> tuple[int, set[str]]:
    record = Record()
    run_pipeline(Run(BEFORE.clone(), [record, gate]), Pipeline((CATALOGUE.find(name),)))
    (outcome,) = record.outcomes
    return outcome.applied, {each.detail for each in outcome.refusals if each.reason is Reason.SLOWER}


def test_a_rule_fires_where_its_alternative_was_chosen() -> None:
    gate = Chosen([(REGIONS[0], FUSED), (REGIONS[1], PLAIN)], ())
    assert applied(gate) == (1, {"Add, Gelu, by measurement on this machine"})


def test_nodes_of_no_region_keep_what_the_pipeline_does() -> None:
    assert applied(Chosen([(REGIONS[0], PLAIN)], ("fuse-bias-gelu",)))[0] == 1
    count, details = applied(Chosen([(REGIONS[0], PLAIN)], ()))
    assert count == 0 and details == {
        "Add, Gelu, by measurement on this machine",
        "the default pipeline: nothing was measured for these nodes",
    }


def test_a_rule_of_no_choice_and_a_run_without_a_gate_are_as_they_were() -> None:
    assert applied(Chosen([(each, PLAIN) for each in REGIONS], ()), "fuse-scaled-matmul") == (0, set())
    assert applied(Observer()) == (2, set())
