"""Helpers to test a pass, for graphwright and for authors of plug-ins.

A test writes its graphs as ONNX text, applies one pass and looks at what came out::

    before = model('<ir_version: 10, opset_import: ["": 24]> '
                   'g (float[N, 4] x) => (float[N, 4] y) {s = Sigmoid(x) y = Mul(x, s)}')
    after = assert_fires(before, FUSE_SWISH)
    assert_equivalent(before, after, sizes={"N": 7})
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import onnx
import onnx_ir as ir

from graphwright.engine import sample
from graphwright.engine.compare import TOLERANCES, Tolerance
from graphwright.engine.isomorphism import difference, same_graph
from graphwright.engine.observe import MissRecord, Reason, Record, RefusalRecord
from graphwright.engine.open_order import with_sorted
from graphwright.engine.pipeline import Pass, Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.engine.structure import check_onnx, check_structure
from graphwright.engine.ties import compare_choices, rankings, with_data
from graphwright.engine.verify import RegionVerifier
from graphwright.runtime.reference import Reference, evaluate

__all__ = [
    "Outcome",
    "apply",
    "assert_equivalent",
    "assert_fires",
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
        proto = _infer(proto)
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

    With ``regions``, every application is also compared, by numbers, with what it replaces.

    Raises:
        StructureError: the pass left a graph that is not valid.
        VerificationError: an application changes the numbers.
    """
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


def perturb(given: ir.Model, seed: int = 0) -> Iterator[tuple[str, ir.Model]]:
    """Yield variants of a model that differ from it in one place, each with a sentence that says where.

    Another user of an interior value; an interior value that is an output; another number in a constant;
    another axis; another float type throughout. Variants that ONNX does not accept are left out.
    """
    rng = np.random.default_rng(seed)
    proto = ir.to_proto(given)
    for edits in (_more_users, _more_outputs, _other_constants, _other_axes, _other_dtypes):
        for sentence, edited in edits(proto, rng):
            variant = _settled(edited)
            if variant is not None:
                yield sentence, variant


Edited = Iterator[tuple[str, onnx.ModelProto]]


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _interior(proto: onnx.ModelProto) -> list[str]:
    ends = {each.name for each in proto.graph.output}
    nodes = (node for node in proto.graph.node if node.op_type != "Constant")
    return [name for node in nodes for name in node.output if name and name not in ends]


def _more_users(proto: onnx.ModelProto, rng: np.random.Generator) -> Edited:
    for name in _interior(proto):
        edited = _copy(proto)
        edited.graph.node.append(onnx.helper.make_node("Identity", [name], ["perturbed"]))
        edited.graph.output.add().name = "perturbed"
        yield f"another user of {name}", edited


def _more_outputs(proto: onnx.ModelProto, rng: np.random.Generator) -> Edited:
    for name in _interior(proto):
        edited = _copy(proto)
        edited.graph.output.add().name = name
        yield f"{name} is an output", edited


def _other_constants(proto: onnx.ModelProto, rng: np.random.Generator) -> Edited:
    for index in range(len(_tensors(proto))):
        edited = _copy(proto)
        tensor = _tensors(edited)[index]
        contents = onnx.numpy_helper.to_array(tensor).copy()
        if contents.dtype.kind not in "iuf" or not contents.size:
            continue
        place = int(rng.integers(contents.size))
        number = contents.reshape(-1)[place]
        step = 1 if contents.dtype.kind in "iu" else 0.05 + abs(number)
        # Infinity and a step would be infinity or NaN.
        changed = number + np.asarray(step).astype(contents.dtype) if np.isfinite(number) else 0
        contents.reshape(-1)[place] = changed
        tensor.CopyFrom(onnx.numpy_helper.from_array(contents, tensor.name))
        yield f"constant {tensor.name or index} has another number at {place}", edited


def _tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    values = [each for node in proto.graph.node if node.op_type == "Constant" for each in node.attribute]
    return [*proto.graph.initializer, *(each.t for each in values if each.name == "value")]


def _other_axes(proto: onnx.ModelProto, rng: np.random.Generator) -> Edited:
    given = [
        (node, place)
        for node, each in enumerate(proto.graph.node)
        for place, attribute in enumerate(each.attribute)
        if attribute.name in ("axis", "axes", "perm", "keepdims", "to")
    ]
    for (node, place), step in product(given, (-1, 1)):
        edited = _copy(proto)
        changed = edited.graph.node[node].attribute[place]
        changed.i += step
        changed.ints[:] = [axis + step for axis in reversed(changed.ints)]
        yield f"{changed.name} of {edited.graph.node[node].output[0]} is another", edited


def _other_dtypes(proto: onnx.ModelProto, rng: np.random.Generator) -> Edited:
    single = onnx.TensorProto.FLOAT
    for other in (onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
        edited = _copy(proto)
        for each in edited.graph.input:
            if each.type.tensor_type.elem_type == single:
                each.type.tensor_type.elem_type = other
        for tensor in _tensors(edited):
            if tensor.data_type == single:
                contents = onnx.numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(other))
                tensor.CopyFrom(onnx.numpy_helper.from_array(contents, tensor.name))
        yield f"all of type {onnx.TensorProto.DataType.Name(other)}", edited


def _settled(edited: onnx.ModelProto) -> ir.Model | None:
    """Return the model with types and shapes inferred anew, or None where it is not valid."""
    del edited.graph.value_info[:]
    for output in edited.graph.output:
        output.ClearField("type")
    try:
        inferred = _infer(edited)
        onnx.checker.check_model(inferred, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError):
        return None  # ValueError: a type number that there is not
    return ir.from_proto(inferred)


def _infer(proto: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
