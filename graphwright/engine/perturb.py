"""Variants of a model that differ in one place: what a rule must still be right on."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import onnx
import onnx_ir as ir


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
        settled = inferred(edited)
        onnx.checker.check_model(settled, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError):
        return None  # ValueError: a type number that there is not
    return ir.from_proto(settled)


def inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with its types and shapes inferred, as far as ONNX can.

    Raises:
        onnx.shape_inference.InferenceError: they contradict each other.
    """
    return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
