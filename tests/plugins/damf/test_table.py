"""Table II to the printed digit."""

import json

import pytest

from graphwright.plugins.damf.table import (
    BERT_BASE,
    BERT_DAMF,
    BERT_LINEAR,
    BERT_SMALL,
    Layer,
    figures,
    ratios,
    table,
    to_json,
)


def test_the_papers_figures() -> None:
    assert figures(BERT_BASE, "paper").row()[2:] == ("9.00", "12.78", "4.06", "314.77")
    assert figures(BERT_SMALL, "paper").row()[2:] == ("4.00", "8.52", "5.97", "142.74")
    assert figures(BERT_DAMF, "paper").row()[2:] == ("4.51", "0.03", "0.02", "153.39")


def test_the_same_of_all_heads() -> None:
    damf = figures(BERT_DAMF, "consistent")
    assert round(damf.mebibytes, 4) == 4.5703
    assert damf.dynamic_macs == 2 * 128**2 * 12
    for layer in (BERT_BASE, BERT_SMALL):
        assert figures(layer, "consistent").row()[2:] == figures(layer, "paper").row()[2:]


def test_all_products() -> None:
    assert figures(BERT_BASE, "complete").row()[2:] == ("9.01", "25.17", "7.69", "327.16")
    # Of each head [S,2] by [2,65] and as much for the sums over keys.
    assert figures(BERT_LINEAR, "complete").dynamic_macs == 2 * 12 * 128 * 2 * 65
    # Of full rank, scores and values cost what they cost in exact attention.
    full = figures(Layer("full", 768, 12, rank=64), "complete")
    assert full.dynamic_macs == figures(BERT_BASE, "complete").dynamic_macs


def test_only_the_complete_count_has_a_linear_form() -> None:
    with pytest.raises(ValueError, match="no linear form"):
        figures(BERT_LINEAR, "paper")


def test_the_papers_ratios_follow_from_what_it_prints() -> None:
    parameters, dynamic, macs = ratios()
    base, small, damf = (figures(layer, "paper") for layer in (BERT_BASE, BERT_SMALL, BERT_DAMF))
    assert parameters.printed == int(100 * base.parameters / damf.parameters) / 100
    assert dynamic.printed == round(round(small.dynamic_macs / 1e6, 2) / round(damf.dynamic_macs / 1e6, 2))
    assert macs.printed == round(base.macs / small.macs, 2)
    assert (round(dynamic.consistent, 1), round(macs.consistent, 2)) == (32.5, 2.05)


def test_the_table_is_json() -> None:
    data = json.loads(json.dumps(to_json()))
    assert len(data["rows"]) == len(table()) == 10
    assert data["rows"][0]["layer"]["name"] == "BERT-base"
    assert list(data["formulas"]) == ["paper", "consistent", "complete"]
