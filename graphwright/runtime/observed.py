"""How large the values of a model get on given inputs: the model is run with a maximum behind each of them."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from graphwright.errors import GraphwrightError, VerificationError
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.signature import inputs_of
from graphwright.runtime.time_limit import CHECKED_RUN

Arrays = Mapping[str, np.ndarray]

_PREFIX = "graphwright magnitude "
# IsInf takes float32 from opset 10 on and ReduceMax has its axes as an input since 18; without axes both forms agree.
_OLDEST_OPSET = 13


def magnitudes(model: ir.Model, inputs: Iterable[Arrays], threads: int | None = None) -> dict[str, float]:
    """Return the largest finite magnitude of each float32 value of the model's graph, by name, over all the inputs.

    Values without elements or with NaN among them are left out, and so are inputs that the model cannot be run on.

    Raises:
        VerificationError: it can be run on none of them.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[N] x) => (float[N] y) {h = Exp(x) y = Neg(h)}'
        >>> from graphwright.engine.shapes import infer_shapes
        >>> model = ir.from_onnx_text(text)
        >>> infer_shapes(model), magnitudes(model, [{"x": np.float32([0, 0])}, {"x": np.float32([-2])}])
        (True, {'x': 2.0, 'h': 1.0, 'y': 1.0})
    """
    where = f"model {model.graph.name or 'without a name'}"
    if model.opset_imports.get("", 0) < _OLDEST_OPSET:
        raise VerificationError(where, f"opset {model.opset_imports.get('')}", needed=f"{_OLDEST_OPSET} to observe it")
    watched = _watched(model)
    free = BoundProfile(inputs_of(watched), ({},))
    session = OrtSession(watched, free, threads=threads, prepack=False, seconds=CHECKED_RUN, kernels=False)
    found: dict[str, float] = {}
    failure: GraphwrightError | None = None
    is_run = False
    for given in inputs:
        try:
            seen = session(given)
        except GraphwrightError as error:
            failure = error
            continue
        is_run = True
        for name, value in seen.items():
            if name.startswith(_PREFIX) and np.isfinite(value):
                name = name.removeprefix(_PREFIX)
                found[name] = max(found.get(name, 0.0), float(value))
    if not is_run:
        text = str(failure) if failure is not None else "no inputs"
        raise VerificationError(where, text, needed="inputs to observe its numbers on", hint="give example_inputs")
    return found


def _watched(model: ir.Model) -> ir.Model:
    copy = model.clone()
    graph = copy.graph
    made = [value for node in graph for value in node.outputs]
    for value in (*graph.inputs, *made):
        # A sequence has the type of its tensors, and no maximum.
        if value.dtype == ir.DataType.FLOAT and value.name and isinstance(value.type, ir.TensorType):
            graph.outputs.append(_magnitude(graph, value))
    return copy


def _magnitude(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """Append the nodes that find the largest magnitude; infinities stand for themselves in every float type."""
    name, floats = f"{_PREFIX}{value.name}", ir.TensorType(ir.DataType.FLOAT)
    if f"{_PREFIX}zero" not in graph.initializers:
        zero = ir.Value(name=f"{_PREFIX}zero", type=floats, shape=ir.Shape([]), const_value=ir.tensor(np.float32(0)))
        graph.register_initializer(zero)
    infinite = ir.Node("", "IsInf", [value])
    finite = ir.Node("", "Where", [infinite.outputs[0], graph.initializers[f"{_PREFIX}zero"], value])
    size = ir.Node("", "Abs", [finite.outputs[0]])
    largest = ir.Node("", "ReduceMax", [size.outputs[0]], [ir.AttrInt64("keepdims", 0)])
    for node in (infinite, finite, size, largest):
        node.name = node.outputs[0].name = f"{name} {node.op_type}"
        graph.append(node)
    result = largest.outputs[0]
    result.name, result.type, result.shape = name, floats, ir.Shape([])
    return result
