"""Each kind of function that can be traced, and those that cannot; the rules of the catalogue against theirs."""

from typing import Any

import onnx_ir as ir
import pytest

from graphwright.engine.rewrite import Builder, Rule
from graphwright.engine.traced import Traced, cache_path, read_recording
from graphwright.errors import ExportError
from graphwright.passes import LIFT
from graphwright.passes.lift.fuse_gelu import FUSE_GELU
from graphwright.passes.lift.fuse_layer_norm import FUSE_LAYER_NORM
from graphwright.passes.lift.fuse_mish import FUSE_MISH
from graphwright.passes.lift.fuse_rms_norm import FUSE_RMS_NORM
from graphwright.passes.lift.fuse_swish import FUSE_SWISH
from graphwright.testing import apply, assert_matches_oracle
from graphwright.tracing import prepare, record, traced_in
from graphwright.tracing.export import DYNAMO_OPSETS, TORCHSCRIPT_OPSET, Export, normalized
from tests.tracing import functions

EXPORTERS = (*(f"dynamo{opset}" for opset in DYNAMO_OPSETS), f"torchscript{TORCHSCRIPT_OPSET}")


def described(function: Any, arguments: dict[str, str], **options: Any) -> Traced:
    return Traced(function, arguments, **options)


def soft_gate(**options: Any) -> Traced:
    return described(functions.soft_gate, {"x": "T[...]"}, parameters={"steepness": (1.25, 3.0)}, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule", [FUSE_GELU, FUSE_SWISH, FUSE_MISH, FUSE_RMS_NORM, FUSE_LAYER_NORM], ids=lambda rule: rule.name
)
def test_rules_of_the_catalogue_with_traced_patterns_alone_keep_the_functions_numbers(rule: Rule) -> None:
    alone = Rule(rule.name, tuple(traced_in([rule])), rule.rewrite, rule.min_opset)
    assert assert_matches_oracle(alone) >= len(alone.patterns)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_patterns_written_by_hand_cover_the_traced_spellings_but_one(exporter: str) -> None:
    given = traced_in(LIFT)
    rules = [rule for rule in LIFT if isinstance(rule, Rule) and traced_in([rule])]
    export = Export(given, 0)
    before = normalized(export.torchscript() if "script" in exporter else export.dynamo(int(exporter[6:])))
    after = before
    for rule in rules:
        by_hand = tuple(each for each in rule.patterns if not isinstance(each, Traced))
        after = apply(after, Rule(rule.name, by_hand, rule.rewrite, rule.min_opset)).model
    left = {node.op_type for node in after.graph} - {"Gelu", "Swish", "Mish", "RMSNormalization", "LayerNormalization"}
    # Softplus with its threshold: what Mish's traced pattern is for.
    assert left == (set() if "script" in exporter else {"Greater", "Softplus", "Where", "Tanh", "Mul"})
    for rule in rules:
        after = apply(after, rule).model
    assert {node.op_type for node in after.graph}.isdisjoint(left)


def thrice(op: Builder, x: ir.Value, sharpness: float, offset: float) -> Any:
    inner = op.Sub(op.Mul(x, sharpness**0.5), offset)
    return op.Sum(op.Mul(op.Tanh(inner), 1 / sharpness), x)


def gate_again(op: Builder, x: ir.Value, gate: ir.Value) -> Any:
    root = op.Sqrt(op.Sum(op.Mul(x, x), 1.0))
    return op.Div(op.Sum(root, op.Reciprocal(root)), op.Exp(op.Mul(gate, gate)))


def both_again(op: Builder, x: ir.Value) -> Any:
    root = op.Pow(op.Abs(x), 0.5)
    return op.Sum(root, 2.0), op.Mul(root, x)


def width_again(op: Builder, x: ir.Value) -> Any:
    return op.Mul(op.Tanh(op.Mul(x, x.shape[-1] ** -0.5)), x)


def widened_again(op: Builder, x: ir.Value, T: int) -> Any:
    wide = op.Cast(x, to=1)
    return op.Cast(op.Mul(op.Tanh(op.Exp(wide)), op.Sum(wide)), to=T)


def turned_again(op: Builder, x: ir.Value, cos: ir.Value, sin: ir.Value) -> Any:
    first, second = op.Split(x, axis=-1, num_outputs=2, _outputs=2)
    return op.Sum(op.Mul(x, cos), op.Mul(op.Concat(op.Neg(second), first, axis=-1), sin))


TABLE = "T[B, 1, S, D]"
EXAMPLES = {
    "half of a size": (
        turned_again,
        described(functions.turned, {"x": "T[B, H, S, D]", "cos": TABLE, "sin": TABLE}, sizes={"D": (8, 12)}),
    ),
    "parameters": (
        thrice,
        described(functions.sharp_gate, {"x": "T[...]"}, parameters={"sharpness": (3.0, 7.0), "offset": (0.25, 0.6)}),
    ),
    "a module with shared parts": (gate_again, described(functions.Gate, {"x": "T[..., E]", "gate": "T[E]"})),
    "two results": (both_again, described(functions.two_results, {"x": "T[...]"})),
    "a size that is read": (
        width_again,
        described(functions.scaled_by_width, {"x": "T[..., D]"}, sizes={"D": (8, 10)}),
    ),
    "half precision": (widened_again, described(functions.widened, {"x": "T[...]"}, dtype="half")),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_each_kind_of_function_gives_a_rule_that_keeps_its_numbers(name: str) -> None:
    rewrite, given = EXAMPLES[name]
    assert assert_matches_oracle(Rule("made-up", (given,), rewrite)) == len(EXPORTERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (described(functions.with_a_table, {"x": "T[..., D]"}, sizes={"D": (8, 10)}), "explained by nothing"),
        (described(functions.ignores, {"x": "T[...]", "other": "T[...]"}), "does not use"),
        (described(functions.fails, {"x": "T[...]"}), "ValueError: no such luck"),
    ],
    ids=lambda each: getattr(each, "name", None),
)
def test_what_cannot_be_traced_is_an_error_that_says_why(given: Traced, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        record([given])


@pytest.mark.slow
def test_one_function_that_fails_does_not_harm_the_others() -> None:
    good = soft_gate(lifted=False)
    bad = described(functions.fails, {"x": "T[...]"})
    with pytest.raises(ExportError, match="no such luck"):
        prepare([Rule("made-up", (good, bad), turned_again)])
    recording = read_recording(cache_path(good), good)
    assert recording is not None
    assert recording.patterns
