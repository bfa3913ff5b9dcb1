"""Compute at compile time what does not depend on the inputs.

Before:                                       After:
    Constant 2, Constant 3 -- Mul -- n            n = 6 (initializer)
    x [N, 8] -- Shape -- Gather 1 -- m            m = 8 (initializer)

Constant nodes become initializers, save in functions, where ONNX has none and results become Constant
nodes.

Shapes:    constants, and the sizes of any value that are numbers; a name is no number.
Dtypes:    booleans, integers and floats of a byte or more; strings and 4-bit integers are left alone.
Refuses:   operators outside ``RESULT_SIZE`` (below), of random numbers or with graphs among them;
           overridable initializers; results that are graph outputs; more than 16 MiB of input, or a result
           above 1 MiB that is larger than its inputs; what runtimes may answer differently: integer
           division of negative numbers or by zero, casts of floats beyond the range of an integer type,
           into float8, or of float64 into half.
Numerics:  the same bits: only operators whose result IEEE 754 or integer arithmetic fixes. Matrix products,
           powers and transcendental functions are left to the runtime.
Source:    the operators as ``onnx.reference`` computes them.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from graphwright.engine import facts
from graphwright.engine.builder import Names
from graphwright.engine.pipeline import FunctionPass
from graphwright.engine.shapes import infer_shapes

MOST_INPUT = 16 << 20
MOST_GROWTH = 1 << 20

Arrays = Sequence[np.ndarray]


def _first(node: ir.Node, inputs: Arrays) -> int:
    return inputs[0].size


def _together(node: ir.Node, inputs: Arrays) -> int:
    return sum(each.size for each in inputs)


def _broadcast(node: ir.Node, inputs: Arrays) -> int:
    return prod(np.broadcast_shapes(*(each.shape for each in inputs)))


def _expanded(node: ir.Node, inputs: Arrays) -> int:
    return prod(np.broadcast_shapes(inputs[0].shape, tuple(int(size) for size in inputs[1])))


def _gathered(node: ir.Node, inputs: Arrays) -> int:
    length: int = inputs[0].shape[facts.attribute(node, "axis")]
    return inputs[0].size // max(length, 1) * inputs[1].size


def _filled(node: ir.Node, inputs: Arrays) -> int:
    return prod(int(size) for size in inputs[0])


def _counted(node: ir.Node, inputs: Arrays) -> int:
    start, limit, step = (int(each.reshape(())) for each in inputs)
    return max(0, -((start - limit) // step)) if step else MOST_INPUT


def _tiled(node: ir.Node, inputs: Arrays) -> int:
    return inputs[0].size * prod(int(count) for count in inputs[1])


# Operators that are computed, and the number of elements that their result has at most: it is asked before
# anything is computed, since a small file may describe a huge tensor.
RESULT_SIZE: dict[str, Callable[[ir.Node, Arrays], int]] = {
    **dict.fromkeys(("Cast", "Flatten", "Reshape", "Slice", "Squeeze", "Transpose", "Trilu", "Unsqueeze"), _first),
    **dict.fromkeys(("Abs", "Ceil", "Floor", "Identity", "Neg", "Not", "Reciprocal", "Sqrt"), _first),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"), _first),
    **dict.fromkeys(("Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"), _broadcast),
    **dict.fromkeys(("Max", "Min", "Mod", "Mul", "Or", "Sub", "Where", "Xor"), _broadcast),
    "Concat": _together,
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "Gather": _gathered,
    "Range": _counted,
    "Tile": _tiled,
}

# Sums and products of floats depend on their order, and Max and Min of NaN, Range and Mod on the runtime.
INTEGERS_ONLY = frozenset({"Max", "Min", "Mod", "Range", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum"})
# Only copied: these take types that NumPy does not compute with.
COPIES = frozenset(
    {
        "Concat",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Squeeze",
        "Tile",
        "Transpose",
        "Unsqueeze",
    }
)
COMPUTED = frozenset("biuf")
BYTES = {each for each in ir.DataType if each.name not in ("UNDEFINED", "STRING") and each.bitwidth >= 8}
CAST_TO = {each for each in BYTES if not each.name.startswith(("FLOAT8", "COMPLEX"))}


def fold_constants(model: ir.Model) -> bool:
    """Fold in every graph in place; tell whether anything was.

    Example:
        >>> model = ir.from_onnx_text(
        ...     '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y)'
        ...     '<float a = {2}, float b = {3}> {c = Mul(a, b) y = Mul(x, c)}'
        ... )
        >>> fold_constants(model), [node.op_type for node in model.graph]
        (True, ['Mul'])
    """
    changed = again = _fold_all(model)
    # A target of a Reshape that is a constant now says more of its result, and of all that comes of it.
    while again and infer_shapes(model):
        again = _fold_all(model)
    return changed


def _fold_all(model: ir.Model) -> bool:
    bodies = {id(function.graph) for function in model.functions.values()}
    names = Names(model)
    folded = [_fold(graph, names if id(graph) in bodies else None) for graph in list(facts.graphs(model))]
    return any(folded)


def _fold(graph: ir.Graph, names: Names | None) -> bool:
    """Fold one graph; ``names`` are those of a function's model, since its results become nodes."""
    changed = False
    for node in list(graph):
        if node.domain or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
            continue
        tensor = _folded(node, is_function=names is not None)
        if tensor is None:
            continue
        if names is None:
            _become_initializer(node, tensor, graph)
        else:
            _become_constant_node(node, tensor, graph, names)
        changed = True
    return changed


def _folded(node: ir.Node, is_function: bool) -> ir.TensorProtocol | None:
    if node.op_type == "Constant":
        tensor = None if is_function else facts.constant(node.outputs[0])
        return tensor if tensor is not None and tensor.dtype != ir.DataType.STRING else None
    if node.op_type not in RESULT_SIZE and node.op_type != "Shape":
        return None
    sizes = _sizes(node)
    if sizes is not None:
        return ir.tensor(sizes)
    return _computed(node) if node.op_type in RESULT_SIZE else None


def _sizes(node: ir.Node) -> np.ndarray | None:
    """Return what a Shape, or a Gather of a Shape, gives where the sizes asked for are numbers."""
    if node.op_type == "Shape":
        known = _shape(node)
        asked = np.arange(len(known)) if known is not None else None
    elif node.op_type == "Gather" and node.inputs[0] is not None:
        producer = node.inputs[0].producer()
        is_shape = producer is not None and producer.op_type == "Shape" and not producer.domain
        known, asked = (
            (_shape(producer) if producer is not None and is_shape else None),
            facts.array(node.inputs[1]),
        )
    else:
        return None
    if known is None or asked is None or not np.all((asked >= -len(known)) & (asked < len(known))):
        return None
    sizes = [known[int(index)] for index in asked.reshape(-1)]
    if any(size is None for size in sizes):
        return None
    return np.asarray(sizes, np.int64).reshape(asked.shape)


def _shape(node: ir.Node) -> list[int | None] | None:
    """Return what a Shape node gives, with None for the sizes that are no numbers."""
    count = facts.rank(node.inputs[0])
    start, given_end = facts.attribute(node, "start"), node.attributes.get("end")
    if count is None or start is None or (given_end is not None and given_end.is_ref()):
        return None
    end = count if given_end is None else given_end.as_int()
    return [facts.static_dim(node.inputs[0], axis) for axis in range(count)][start:end]


def _computed(node: ir.Node) -> ir.TensorProtocol | None:
    tensors = [facts.constant(value) for value in node.inputs if value is not None]
    if not tensors or any(given.is_ref() for given in node.attributes.values()):
        return None
    known = [tensor for tensor in tensors if tensor is not None and tensor.dtype in BYTES]
    if len(known) < len(tensors) or sum(tensor.nbytes for tensor in known) > MOST_INPUT:
        return None
    arrays = [tensor.numpy() for tensor in known]
    try:
        if not _is_exact(node, arrays) or not _is_small(node, arrays):
            return None
        with np.errstate(all="ignore"):
            result = _evaluate(node, arrays)
    except (IndexError, OverflowError, TypeError, ValueError):
        return None  # not valid; the runtime says so better, and only if the node is ever run
    expected = node.outputs[0].dtype
    tensor = ir.tensor(result)
    return tensor if expected in (None, tensor.dtype) else None


def _is_small(node: ir.Node, arrays: Arrays) -> bool:
    # These make elements of another size than those they read.
    width = 8 if node.op_type in ("Cast", "ConstantOfShape") else max(each.itemsize for each in arrays)
    most = max(MOST_GROWTH, sum(each.nbytes for each in arrays))
    return RESULT_SIZE[node.op_type](node, arrays) * width <= most


def _is_exact(node: ir.Node, arrays: Arrays) -> bool:
    """Tell whether every runtime gives the same bits."""
    kinds = {each.dtype.kind for each in arrays}
    if node.op_type in COPIES:
        return True
    if node.op_type == "Cast":
        return _is_exact_cast(arrays[0], ir.DataType(facts.attribute(node, "to")))
    if not kinds <= COMPUTED:
        return False
    if node.op_type in ("Div", "Mod") and "f" not in kinds:
        return bool(np.all(arrays[0] >= 0) and np.all(arrays[1] > 0))
    return node.op_type not in INTEGERS_ONLY or "f" not in kinds


def _is_exact_cast(contents: np.ndarray, to: ir.DataType) -> bool:
    if to not in CAST_TO or contents.dtype.kind not in COMPUTED:
        return False
    target = to.numpy()
    if target.kind not in "iu" or contents.dtype.kind == "b":
        # Some runtimes round a wider number to float32 first.
        return target.itemsize > 2 or target.kind == "b" or (contents.dtype.kind == "f" and contents.itemsize <= 4)
    limits = np.iinfo(target)
    inside = np.isfinite(contents) & (contents > limits.min - 1) & (contents < limits.max)
    return bool(np.all(inside | (contents == limits.max) & (contents.dtype.kind in "iu")))


def _evaluate(node: ir.Node, arrays: Arrays) -> np.ndarray:
    """Compute one node with ONNX's reference implementation."""
    present = [value is not None for value in node.inputs]
    twin = ir.node(node.op_type, [], attributes=dict(node.attributes))
    proto = ir.serde.serialize_node(twin)
    names = iter(f"input{index}" for index in range(len(arrays)))
    proto.input.extend(next(names) if given else "" for given in present)
    del proto.output[:]
    proto.output.append("result")
    evaluator = _evaluator(proto.SerializeToString(deterministic=True), facts.opset(node) or 1)
    (result,) = evaluator.run(None, {f"input{index}": each for index, each in enumerate(arrays)})
    return np.asarray(result)


@lru_cache(maxsize=256)
def _evaluator(node: bytes, opset: int) -> ReferenceEvaluator:
    proto = onnx.NodeProto()
    proto.ParseFromString(node)
    return ReferenceEvaluator(proto, opsets={"": opset})


def _become_initializer(node: ir.Node, tensor: ir.TensorProtocol, graph: ir.Graph) -> None:
    old = node.outputs[0]
    shape = ir.Shape(tensor.shape.numpy())
    new = ir.Value(name=old.name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    old.replace_all_uses_with(new)
    graph.remove(node, safe=True)
    graph.register_initializer(new)


def _become_constant_node(node: ir.Node, tensor: ir.TensorProtocol, graph: ir.Graph, names: Names) -> None:
    old = node.outputs[0]
    constant = ir.node("Constant", [], attributes={"value": tensor}, name=names.fresh(f"{old.name}/Constant"))
    new = constant.outputs[0]
    new.name, new.type, new.shape = (
        names.fresh(f"{old.name}/folded"),
        ir.TensorType(tensor.dtype),
        ir.Shape(tensor.shape.numpy()),
    )
    graph.insert_before(node, constant)
    old.replace_all_uses_with(new)
    graph.remove(node, safe=True)


FOLD_CONSTANTS = FunctionPass("fold-constants", fold_constants)
