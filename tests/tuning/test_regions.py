"""Regions are found where a choice is about them, cut out, and told apart by what their speed depends on."""

import onnx_ir as ir
import pytest

from graphwright.engine.pipeline import Pipeline
from graphwright.passes import CATALOGUE
from graphwright.testing import model
from graphwright.tuning.choices import CHOICES, choice_of
from graphwright.tuning.regions import Region, find_regions, fingerprint
from graphwright.tuning.spellings import Plan, lowered
from tests.tuning.models import classifier, encoder


def regions(given: ir.Model) -> list[Region]:
    plan = Plan(CATALOGUE.default("ort-cpu"))
    return find_regions(lowered(given, Pipeline(plan.prefix)), CHOICES)


def test_every_pass_of_a_choice_is_in_the_catalogue_and_in_one_choice_only() -> None:
    for choice in CHOICES:
        for name in choice.passes:
            assert CATALOGUE.find(name).name == name
            assert [each.name for each in CHOICES if name in each.passes] == [choice.name]
    assert choice_of("infer-shapes") is None


def test_the_regions_of_two_layers_are_of_three_kinds() -> None:
    found = regions(encoder())
    assert [each.choice.name for each in found] == ["attention"] * 2 + ["residual norm"] * 4 + ["gelu"] * 2
    assert len({each.kind for each in found}) == 3


def test_layers_of_other_sizes_are_of_other_kinds() -> None:
    kinds = {name: set() for name in ("attention", "residual norm", "gelu")}  # type: dict[str, set[str]]
    for each in regions(encoder(inner=(16, 24))):
        kinds[each.choice.name].add(each.kind)
    assert {name: len(found) for name, found in kinds.items()} == {"attention": 1, "residual norm": 1, "gelu": 2}


def test_an_attention_region_holds_its_projections_and_the_expansion_of_its_mask() -> None:
    region = next(each for each in regions(encoder()) if each.choice.name == "attention")
    operators = [node.op_type for node in region.model.graph]
    assert operators.count("MatMul") == 3 and operators.count("Expand") == 1
    assert {value.name for value in region.model.graph.inputs} >= {"x", "m"}


def test_what_others_use_is_in_no_region() -> None:
    text = "g (float[B,8] x, float[B,8] r) => (float[B,8] y, float[B,1] mean) <float[8] g, float[8] h>"
    body = "t = Add(x, r) y, mean = LayerNormalization(t, g, h)"
    assert not regions(model(f'<ir_version: 10, opset_import: ["": 24]> {text} {{ {body} }}'))


def test_a_softmax_with_topk_and_a_residual_rms_norm_are_regions() -> None:
    assert [each.choice.name for each in regions(classifier())] == ["residual RMS norm", "softmax with the largest"]


HEAD = '<ir_version: 10, opset_import: ["": 24]> g (float[N,4] x) => (y)'


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("<float[4] w> {y = Mul(x, w)}", "<float[4] v> {y = Mul(x, v)}", True),
        ("<float[4] w> {y = Mul(x, w)}", "<float[1] w> {y = Mul(x, w)}", False),
        ("<float[4] w> {y = Mul(x, w)}", "<float[4] w> {y = Add(x, w)}", False),
        ("{y = Softmax <axis = 0> (x)}", "{y = Softmax <axis = 1> (x)}", False),
        ("<int64[1] s = {2}> {y = Split <num_outputs = 2> (x)}", "{y = Split <num_outputs = 2> (x)}", True),
        ("<int64[2] s = {2, -1}> {y = Reshape(x, s)}", "<int64[2] s = {4, -1}> {y = Reshape(x, s)}", False),
        ("{h = Exp(x) y = Sub(h, x)}", "{h = Exp(x) y = Sub(x, h)}", False),
    ],
)
def test_a_fingerprint_is_of_what_speed_depends_on(one: str, other: str, same: bool) -> None:
    first, second = (
        fingerprint(model(f"{HEAD} {body}", seed=seed, infer=False)) for seed, body in enumerate((one, other))
    )
    assert (first == second) is same


def test_a_constant_node_is_as_good_as_an_initializer() -> None:
    given = "<int64[2] s = {2, -1}> {y = Reshape(x, s)}"
    made = "{s = Constant <value = int64[2] {2, -1}> () y = Reshape(x, s)}"
    assert fingerprint(model(f"{HEAD} {given}", infer=False)) == fingerprint(model(f"{HEAD} {made}", infer=False))
