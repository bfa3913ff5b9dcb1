"""The nearest misses, best first."""

import io
import json

import onnx_ir as ir
from rich.console import Console

from graphwright.engine.explain import explain
from graphwright.engine.observe import MissRecord, PassOutcome, Reason, Record, RefusalRecord
from graphwright.engine.pipeline import Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.passes.lift.fuse_gelu import FUSE_GELU


def outcome(*records: RefusalRecord | MissRecord) -> PassOutcome:
    refusals = tuple(each for each in records if isinstance(each, RefusalRecord))
    misses = tuple(each for each in records if isinstance(each, MissRecord))
    return PassOutcome("pass", "lift", True, 0, refusals, misses, 0.0, 1, 1)


def miss(node: str, matched: int, size: int, name: str = "fuse", detail: str = "needs Erf") -> MissRecord:
    return MissRecord(name, "pattern", node, matched, size, detail)


REFUSED = RefusalRecord("fuse", "pattern", "last (Mul)", Reason.OPSET, "needs opset 20, model has 17")


def test_refusals_come_first_and_then_the_larger_share() -> None:
    found = explain([outcome(miss("a", 2, 4), miss("b", 10, 10), miss("c", 3, 4), REFUSED)])
    assert [each.node for each in found.misses] == ["last (Mul)", "b", "c", "a"]
    assert found.misses[0].reason is Reason.OPSET
    assert found.misses[1].reason is Reason.STRUCTURE


def test_a_node_is_listed_once_with_the_pattern_that_came_furthest() -> None:
    found = explain([outcome(miss("a", 2, 5, detail="less"), miss("a", 4, 5, detail="more"), miss("a", 3, 5))])
    assert [each.detail for each in found.misses] == ["more"]


def test_a_refusal_hides_the_misses_of_its_node() -> None:
    found = explain([outcome(miss("last (Mul)", 9, 10), REFUSED)])
    assert [each.is_complete for each in found.misses] == [True]


def test_two_passes_may_miss_the_same_node() -> None:
    found = explain([outcome(miss("a", 2, 4, "one")), outcome(miss("a", 2, 4, "two"))])
    assert [each.pass_name for each in found.misses] == ["one", "two"]


def test_hopeless_matches_are_counted_and_shown_when_asked_for() -> None:
    records = outcome(miss("root only", 1, 2), miss("a seventh", 2, 14), miss("near", 2, 4))
    found = explain([records])
    assert ([each.node for each in found.misses], found.hidden) == (["near"], 2)
    everything = explain([records], everything=True)
    assert (len(everything.misses), everything.hidden) == (3, 0)


def test_one_rule_can_be_asked_for() -> None:
    found = explain([outcome(miss("a", 2, 4, "one"), miss("b", 2, 4, "two"))], rule="two")
    assert [each.node for each in found.misses] == ["b"]


def test_text_table_and_json_say_the_same() -> None:
    found = explain([outcome(miss("a [x] (Mul)", 3, 4, detail="needs [1] Erf"), miss("b", 1, 9), REFUSED)])
    assert found.text().splitlines() == [
        "last (Mul): fuse matched all and was refused (OPSET): needs opset 20, model has 17",
        "a [x] (Mul): fuse matched 3 of 4 operators: needs [1] Erf",
        "1 further nodes matched too little to be listed.",
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(found.table())
    printed = console.export_text()
    assert "a [x] (Mul)" in printed and "needs [1] Erf" in printed, "names are no markup"
    first, second = json.loads(json.dumps(found.to_json()))["misses"]
    assert (first["reason"], first["matched"], first["share"]) == ("OPSET", None, 1.0)
    assert (second["reason"], second["matched"], second["size"]) == ("STRUCTURE", 3, 4)


def test_nothing_near_is_said_so() -> None:
    assert explain([]).text() == "Nothing came near."


def test_a_gelu_with_a_wrong_constant_is_explained_by_node_and_need() -> None:
    text = (
        '<ir_version: 10, opset_import: ["": 20]> g (float[N] x) => (float[N] y) '
        "<float[1] r = {1.5}, float[1] one = {1}, float[1] half = {0.5}>"
        "{d = Div(x, r) e = Erf(d) p = Add(e, one) h = Mul(x, half) y = Mul(h, p)}"
    )
    record = Record()
    run_pipeline(Run(ir.from_onnx_text(text), [record], explain=True), Pipeline((Step(FUSE_GELU, "lift"),)))
    best = explain(record.outcomes).misses[0]
    assert best.pass_name == "fuse-gelu"
    assert best.matched == 5, "all but the divisor of x"
    assert "the constant 1.41421" in best.detail and "r " in best.detail
