"""Rules given as a PyTorch function alone: they fire on what each exporter makes of models that use the function."""

import json
import sys
import warnings
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from graphwright.engine import traced as kept
from graphwright.engine.rewrite import Builder, Reason, Rule
from graphwright.engine.traced import Recording, Traced, cache_path, graph_patterns, read_recording
from graphwright.errors import ExportError, MissingDependencyError
from graphwright.passes import LIFT
from graphwright.passes.lift.fuse_swish import FUSE_SWISH
from graphwright.runtime.reference import evaluate
from graphwright.testing import apply, assert_equivalent, assert_fires, assert_matches_oracle, assert_refuses, model
from graphwright.tracing import __main__ as command
from graphwright.tracing import prepare, record, traced_in
from graphwright.tracing.export import DYNAMO_OPSETS, TORCHSCRIPT_OPSET, normalized, quiet
from tests.tracing import functions

EXPORTERS = (*(f"dynamo{opset}" for opset in DYNAMO_OPSETS), f"torchscript{TORCHSCRIPT_OPSET}")


def steep_mish(op: Builder, x: ir.Value, steepness: float) -> Any:
    """x * tanh(softplus(s * x)) -> Mish(s * x) / s"""
    return op.Mul(op.Mish(op.Mul(x, steepness)), 1 / steepness)


def described(function: Any, arguments: dict[str, str], **options: Any) -> Traced:
    """A description that no other shares: what is settled on, is settled on for each."""
    return Traced(function, arguments, **options)


STEEPNESS = {"steepness": (1.25, 3.0)}


def soft_gate(**options: Any) -> Traced:
    return described(functions.soft_gate, {"x": "T[...]"}, parameters=STEEPNESS, **options)


# In the normalized form alone: the other takes as long again.
SOFT_GATE = Rule("fuse-soft-gate", (soft_gate(lifted=False),), steep_mish, min_opset=18)


class TwoLayers(torch.nn.Module):
    """Another module than the traced function, of other shapes, that uses it twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(6, 10), torch.nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functions.soft_gate(self.second(functions.soft_gate(self.first(x), 2.0)), 1.5)


@cache
def exported(exporter: str) -> ir.Model:
    """The two layers as an exporter has them, with one dynamic axis."""
    example, network = torch.randn(3, 6), TwoLayers().eval()
    with quiet(), torch.no_grad():
        if exporter.startswith("dynamo"):
            dynamic = ({0: torch.export.Dim("batch")},)
            opset = int(exporter.removeprefix("dynamo"))
            program = torch.onnx.export(network, (example,), dynamic_shapes=dynamic, opset_version=opset, verbose=False)
            assert program is not None
            return program.model
        file, names = BytesIO(), ["x"]
        options = {"dynamo": False, "opset_version": TORCHSCRIPT_OPSET, "dynamic_axes": {"x": {0: "batch"}}}
        torch.onnx.export(network, (example,), file, input_names=names, **options)  # type: ignore[arg-type]
        return ir.from_proto(onnx.load_from_string(file.getvalue()))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_a_rule_given_as_a_function_fires_on_other_modules_that_use_it(exporter: str) -> None:
    before = normalized(exported(exporter))
    after = assert_fires(before, SOFT_GATE, 2)
    assert [node.op_type for node in after.graph] == 2 * ["Gemm", "Mul", "Mish", "Mul"]
    for batch in (1, 2, 7):
        assert_equivalent(before, after, sizes={"batch": batch})
        x = np.random.default_rng(batch).normal(size=(batch, 6)).astype(np.float32)
        with torch.no_grad():
            expected = TwoLayers().eval()(torch.from_numpy(x)).numpy()
        (found,) = evaluate(after, {after.graph.inputs[0].name or "": x}).values()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_exporters_spell_the_function_in_two_ways_that_are_kept() -> None:
    prepare([SOFT_GATE])
    (given,) = traced_in([SOFT_GATE])
    operators = {
        pattern.name: sorted(node["op"] for node in entry["nodes"])
        for pattern, entry in zip(graph_patterns(given), cached(given).patterns, strict=True)
    }
    newer, older = operators
    assert "dynamo20" in newer and "dynamo24" in newer and "torchscript17" in older
    assert operators[older] == ["Mul", "Mul", "Softplus", "Tanh"]
    assert operators[newer] == ["Greater", "Mul", "Mul", "Softplus", "Tanh", "Where"]


def cached(given: Traced) -> Recording:
    recording = read_recording(cache_path(given), given)
    assert recording is not None
    return recording


HEAD = '<ir_version: 12, opset_import: ["": 24]> g (float[B, 5] x) => (float[B, 5] y) '
BODY = "b = Mul(x, two) c = Greater(b, limit) s = Softplus(b) w = Where(c, b, s) t = Tanh(w) y = Mul(x, t)"


def text(body: str = BODY, limit: str = "20", signature: str = HEAD) -> str:
    return f"{signature}<float two = {{2}}, float limit = {{{limit}}}> {{{body}}}"


def test_the_traced_spelling_matches_as_text() -> None:
    for body in (
        BODY,
        BODY.replace("Mul(x, t)", "Mul(t, x)"),
        "b = Mul(two, x) s = Softplus(b) t = Tanh(s) y = Mul(x, t)",
    ):
        assert_fires(model(text(body)), SOFT_GATE)


@pytest.mark.parametrize(
    ("near_miss", "reason"),
    [
        (text(limit="19"), Reason.STRUCTURE),
        (text(BODY.replace("Greater", "Less")), Reason.STRUCTURE),
        (text(BODY.replace("Where(c, b, s)", "Where(c, s, b)")), Reason.STRUCTURE),
        (text(BODY.replace("Mul(x, t)", "Mul(b, t)")), Reason.STRUCTURE),
        (text(BODY.replace("Greater(b", "Greater(x")), Reason.STRUCTURE),
        (text(signature=HEAD.replace("(float[B, 5] y)", "(float[B, 5] y, float[B, 5] t)")), Reason.GRAPH_OUTPUT),
        (
            text(BODY + " z = Neg(w)", signature=HEAD.replace("(float[B, 5] y)", "(float[B, 5] y, float[B, 5] z)")),
            Reason.SHARED,
        ),
        (text(signature=HEAD.replace("24", "17")), Reason.OPSET),
    ],
)
def test_near_misses_are_left_alone(near_miss: str, reason: Reason) -> None:
    assert_refuses(model(near_miss), SOFT_GATE, reason)


def test_a_traced_function_is_cached_and_read_back(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare([SOFT_GATE])
    again = soft_gate(lifted=False)
    monkeypatch.setattr("graphwright.tracing.record", None)
    monkeypatch.setattr("graphwright.tracing._trace", None)
    prepare([Rule("fuse-soft-gate", (again,), steep_mish)])
    assert kept.is_settled(again)
    assert [each.parent.name for each in own_cache.rglob("soft_gate-*.json")] == ["traced"]


def test_a_recorded_pattern_is_traced_anew_where_torch_is_loaded_and_another(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[Traced] = []

    def trace(given: Sequence[Traced]) -> dict[Traced, Any]:
        traced.extend(given)
        return {each: ExportError("pattern", "a function that fails") for each in given}

    monkeypatch.setattr("graphwright.tracing._trace", trace)
    monkeypatch.setattr(kept, "installed_versions", lambda: {"torch": "99", "onnxscript": "99"})
    copies = tuple(described(each.function, dict(each.arguments), lifted=False) for each in traced_in([FUSE_SWISH])[:1])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        prepare([Rule("fuse-swish", copies, steep_mish)])
    assert traced == list(copies)
    assert "the recorded pattern is used" in str(told[0].message)
    assert kept.is_settled(copies[0])
    traced.clear()
    again = described(copies[0].function, dict(copies[0].arguments), lifted=False)
    prepare([Rule("fuse-swish", (again,), steep_mish)])
    assert not traced, "the failure is remembered"
    monkeypatch.setattr(kept, "installed_versions", lambda: {"torch": "98", "onnxscript": "99"})
    monkeypatch.delitem(sys.modules, "torch")
    others = (described(copies[0].function, dict(copies[0].arguments), lifted=False),)
    prepare([Rule("fuse-swish", others, steep_mish)])
    assert not traced
    assert kept.is_settled(others[0])


def test_without_torch_a_function_without_a_record_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "graphwright.tracing.export")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError, match=r"sharp_gate.*torch.*pip install") as found:
        prepare([Rule("made-up", (described(functions.sharp_gate, {"x": "T[...]"}),), steep_mish)])
    assert found.value.exit_code == 4


def test_a_cache_that_cannot_be_written_costs_time_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare([SOFT_GATE])
    (given,) = traced_in([SOFT_GATE])
    recording = cached(given)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("graphwright.tracing._trace", lambda due: dict.fromkeys(due, recording))
    other = soft_gate()
    prepare([Rule("fuse-soft-gate", (other,), steep_mish)])
    assert kept.is_settled(other)


@pytest.mark.slow
def test_the_older_exporter_may_be_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise RuntimeError("no such exporter")

    monkeypatch.setattr("graphwright.tracing.export.Export.torchscript", gone)
    given = soft_gate(lifted=False)
    recording = record([given])[given]
    assert [each["exporters"] for each in recording.patterns] == [["dynamo20", "dynamo24"]]
    assert recording.notes == {"torchscript17": "RuntimeError: no such exporter"}


def test_one_shipped_pattern_is_what_the_exporters_give() -> None:
    (given, *_) = traced_in([FUSE_SWISH])
    assert_recorded([given])


def assert_recorded(given: Sequence[Traced]) -> None:
    """With the versions that the records name; with others, that each can be traced."""
    for each, recording in record(given).items():
        recorded = read_recording(each.record_path, each)
        assert recorded is not None, f"{each.name}: run python -m graphwright.tracing"
        if recorded.versions == kept.installed_versions():
            assert recorded.text() == recording.text(), f"{each.name}: run python -m graphwright.tracing"


@pytest.mark.slow
def test_every_shipped_pattern_is_what_the_exporters_give() -> None:
    assert_recorded(traced_in(LIFT))


def shipped() -> list[tuple[Rule, Traced]]:
    return [(rule, each) for rule in LIFT if isinstance(rule, Rule) for each in traced_in([rule])]


@pytest.mark.parametrize(("rule", "given"), shipped(), ids=lambda each: each.name)
def test_every_shipped_pattern_is_read_without_being_traced(rule: Rule, given: Traced) -> None:
    recorded = read_recording(given.record_path, given)
    assert recorded is not None, f"{given.name}: run python -m graphwright.tracing"
    assert recorded.read(given)
    assert not [name for name in recorded.notes if "dynamo" in name and recorded.notes[name] != "one operator already"]


def test_a_rule_is_compared_with_its_function() -> None:
    assert assert_matches_oracle(SOFT_GATE) == len(EXPORTERS)


@pytest.mark.slow
def test_a_wrong_rule_is_found_by_its_function() -> None:
    wrong = Rule("fuse-soft-gate", SOFT_GATE.patterns, lambda op, x: op.Mul(x, op.Sigmoid(x)))
    with pytest.raises(AssertionError, match="fuse-soft-gate on soft_gate of dynamo20"):
        assert_matches_oracle(wrong)


def test_the_command_says_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings = {each: read_recording(each.record_path, each) for _, each in shipped()}
    monkeypatch.setattr(command, "record", lambda given: {each: recordings[each] for each in given})
    monkeypatch.setattr(command, "traced_in", lambda passes: list(recordings))
    monkeypatch.setattr("sys.argv", ["tracing", "--check"])
    assert command.main() == 0
    (other, *_) = recordings
    recordings[other] = Recording(other.digest, {"torch": "99"}, ())
    assert command.main() == 1
    assert str(other.record_path) in capsys.readouterr().out
    monkeypatch.setattr(Traced, "record_path", property(lambda given: tmp_path / f"{given.name}.json"))
    monkeypatch.setattr("sys.argv", ["tracing"])
    assert command.main() == 0
    assert read_recording(tmp_path / f"{other.name}.json", other) == recordings[other]


def test_the_records_are_json_of_one_line_a_node() -> None:
    for _, given in shipped():
        told = json.loads(given.record_path.read_text())
        nodes = sum(len(entry["nodes"]) for entry in told["patterns"])
        assert given.record_path.read_text().count('{"op"') == nodes


def test_a_rule_with_a_traced_pattern_explains_itself() -> None:
    outcome = apply(model(text(limit="19")), SOFT_GATE)
    nearest = max(outcome.misses, key=lambda each: each.matched)
    assert "the constant 20" in nearest.detail
    assert nearest.pattern.startswith("soft_gate@dynamo20")
