"""Helpers to test a pass, for graphwright and for authors of plug-ins.

A test writes its graphs as ONNX text, applies one pass and looks at what came out::

    before = model('<ir_version: 10, opset_import: ["": 24]> '
                   'g (float[N, 4] x) => (float[N, 4] y) {s = Sigmoid(x) y = Mul(x, s)}')
    after = assert_fires(before, FUSE_SWISH)
    assert_equivalent(before, after, sizes={"N": 7})
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import numpy as np
import onnx
import onnx_ir as ir

from graphwright.engine import sample
from graphwright.engine.compare import TOLERANCES, Tolerance
from graphwright.engine.isomorphism import difference, same_graph
from graphwright.engine.observe import MissRecord, Reason, Record, RefusalRecord
from graphwright.engine.open_order import with_sorted
from graphwright.engine.perturb import inferred, perturb
from graphwright.engine.pipeline import Pass, Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import Rule, Run
from graphwright.engine.structure import check_onnx, check_structure
from graphwright.engine.ties import compare_choices, rankings, with_data
from graphwright.engine.verify import RegionVerifier
from graphwright.errors import MissingDependencyError
from graphwright.runtime.reference import Reference, evaluate
from graphwright.tracing import prepare

__all__ = [
    "Outcome",
    "apply",
    "assert_equivalent",
    "assert_fires",
    "assert_matches_oracle",
    "assert_refuses",
    "difference",
    "model",
    "perturb",
    "same_graph",
]


def model(text: str, *, seed: int = 0, infer: bool = True) -> ir.Model:
    """Read a model from ONNX text; its shapes are inferred unless ``infer`` is false.

    Values that the text declares behind the outputs, with a shape but without contents, and that no node
    makes, become initializers with numbers drawn by the seed.

    Raises:
        ValueError: a value to be drawn whose shape or type is not a float tensor's of known sizes.

    Example:
        >>> text = "g (float[N, 4] x) => (float[N, 4] y) <float[4] w> {y = Mul(x, w)}"
        >>> example = model('<ir_version: 10, opset_import: ["": 24]> ' + text)
        >>> list(example.graph.initializers), example.graph.initializers["w"].const_value.shape
        (['w'], Shape([4]))
    """
    proto = onnx.parser.parse_model(text)
    made = {name for node in proto.graph.node for name in node.output}
    weights = [each for each in proto.graph.value_info if each.name not in made]
    rng = np.random.default_rng(seed)
    for weight in weights:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(_drawn(weight, rng), weight.name))
        proto.graph.value_info.remove(weight)
    if infer:
        proto = inferred(proto)
    return ir.from_proto(proto)


def _drawn(weight: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray:
    kind = weight.type.tensor_type
    sizes = [size.dim_value for size in kind.shape.dim]
    dtype = ir.DataType(kind.elem_type)
    if not dtype.is_floating_point() or any(size.HasField("dim_param") for size in kind.shape.dim):
        raise ValueError(f"{weight.name}: only float tensors of known sizes are drawn")
    return rng.normal(0.1, 0.5, sizes).astype(dtype.numpy())


@dataclass(frozen=True)
class Outcome:
    """What one pass did to a copy of a model."""

    model: ir.Model
    applied: int
    patterns: tuple[str, ...]
    refusals: tuple[RefusalRecord, ...]
    misses: tuple[MissRecord, ...]

    @property
    def reasons(self) -> set[Reason]:
        """The reasons of all refusals."""
        return {refusal.reason for refusal in self.refusals}


def apply(before: ir.Model, tested: Pass, *, regions: bool = False) -> Outcome:
    """Run one pass on a copy of a model, with the structural check after it.

    With ``regions``, every application is also compared, by numbers, with what it replaces. Traced patterns that
    nobody has traced yet are traced first.

    Raises:
        StructureError: the pass left a graph that is not valid.
        VerificationError: an application changes the numbers.
        MissingDependencyError, ExportError: a traced pattern that cannot be traced.
    """
    prepare([tested])
    record = Record()
    observers = [record, RegionVerifier(evaluate, prepare=Reference)] if regions else [record]
    run = Run(before.clone(), observers, explain=True)
    after = run_pipeline(run, Pipeline((Step(tested, "lift"),)))
    check_structure(after, tested.name)
    (outcome,) = record.outcomes
    patterns = tuple(each.pattern for each in record.applications)
    return Outcome(after, outcome.applied, patterns, outcome.refusals, outcome.misses)


def assert_fires(
    before: ir.Model,
    tested: Pass,
    times: int = 1,
    after: ir.Model | str | None = None,
    *,
    regions: bool = True,
) -> ir.Model:
    """Assert that a pass applies so many times, never again, and leaves valid ONNX; return its result.

    ``after`` is the expected result, up to names. With ``regions``, every application is also compared with
    what it replaces, by numbers.
    """
    outcome = apply(before, tested, regions=regions)
    detail = "; ".join(str(each) for each in (*outcome.refusals, *outcome.misses))
    assert outcome.applied == times, f"{tested.name} applied {outcome.applied} times, not {times}: {detail}"
    check_onnx(outcome.model, tested.name)
    if after is not None:
        expected = model(after) if isinstance(after, str) else after
        found = difference(outcome.model, expected)
        assert not found, found
    again = apply(outcome.model, tested)
    assert not again.applied, f"{tested.name} applied {again.applied} times more on its own result"
    assert _text(again.model) == _text(outcome.model), f"{tested.name} changed its own result without saying so"
    return outcome.model


def assert_refuses(before: ir.Model, tested: Pass, reason: Reason) -> Outcome:
    """Assert that a pass leaves a model as it is, for this reason; STRUCTURE means that nothing matched."""
    outcome = apply(before, tested)
    assert not outcome.applied, f"{tested.name} applied {outcome.applied} times: {outcome.patterns}"
    assert _text(outcome.model) == _text(before), f"{tested.name} changed the model without an application"
    if reason is Reason.STRUCTURE:
        assert not outcome.refusals, f"{tested.name} matched: {outcome.refusals}"
    else:
        assert reason in outcome.reasons, f"{tested.name} refused for {outcome.refusals}, missed {outcome.misses}"
    return outcome


def _text(given: ir.Model) -> bytes:
    contents: bytes = ir.to_proto(given).SerializeToString(deterministic=True)
    return contents


def assert_equivalent(
    before: ir.Model,
    after: ir.Model,
    *,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    tolerances: Mapping[ir.DataType, Tolerance] = TOLERANCES,
) -> None:
    """Assert that two different models give the same numbers, the first one computing in float64.

    ``sizes`` are those of named dimensions. Outputs that are empty or hold one number throughout prove
    nothing and fail. Of indices that tie either is right (``engine.ties``).
    """
    assert _text(before) != _text(after), "the models are the same: the pass did not fire"
    before, after = with_sorted(before), with_sorted(after)
    shapes = sample.bind_dims(before.graph.inputs, sizes=sizes)
    inputs = sample.sample_inputs(before, shapes, seed)
    single = evaluate(before, inputs)
    actual = evaluate(after, inputs)
    for name, value in single.items():
        assert value.size, f"{name} is empty: it proves nothing"
        assert value.size == 1 or np.ptp(value.astype(np.float64)) > 0, f"{name} is constant: it proves nothing"
        assert actual[name].dtype == value.dtype, f"{name} is {actual[name].dtype}, was {value.dtype}"
        assert np.isfinite(value.astype(np.float64)).all(), f"{name} is not finite: it proves nothing"
    expected = evaluate(before, inputs, double=True)
    wide = partial(evaluate, with_data(before), inputs, double=True)
    found = compare_choices(expected, actual, rankings(before), wide, tolerances)
    assert not found, "; ".join(map(str, found))


def assert_matches_oracle(rule: Rule, *, seed: int = 0) -> int:
    """Assert that a rule keeps the numbers of the PyTorch functions that its traced patterns are given as.

    Each function is exported by each exporter, the rule must fire on the graph, and the result is compared with the
    function itself in float64, at sizes other than the traced ones and at sizes of 1. Where an exporter makes one
    operator of the function the rule need not fire.

    Returns:
        The number of graphs on which the rule fired.

    Raises:
        MissingDependencyError: PyTorch is not installed.
    """
    try:
        oracle = import_module("graphwright.tracing.oracle")
    except ModuleNotFoundError as error:
        hint = "pip install graphwright[torch]"
        package = error.name or "torch"
        raise MissingDependencyError(f"rule {rule.name}", f"no {package}", needed=package, hint=hint) from error
    fired: int = oracle.check_against_functions(rule, seed)
    return fired
