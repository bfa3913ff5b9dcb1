"""Numbers that are made of integers and constants alone: positions, angles of rotation, masks; no rule.

They are few, and a narrower type spoils them: float16 has no 2,049, bfloat16 no 257, and a short calibration text shows
neither. A product with a matrix of constants ends them, since that is a layer that takes integers for its features.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.ranges import MOVES

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

_SOURCES = frozenset({"Cast", "ConstantOfShape", "EyeLike", "OneHot", "Range", "Where"})
_OF_ELEMENTS = frozenset(
    {
        *("Abs", "Add", "Ceil", "Clip", "Concat", "Cos", "Div", "Exp", "Floor", "Log", "Max", "Min", "Mul", "Neg"),
        *("Pad", "Pow", "Reciprocal", "Round", "Sin", "Split", "Sqrt", "Sub", "Tan", "Trilu", "Where"),
        *("ReduceMax", "ReduceMin", "ReduceSum", "CumSum", "GatherElements", "GatherND", "ScatterND"),
    }
)


def made_of_integers(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes whose float results are made of integers, booleans and constants without any weights.

    Example:
        >>> text = "g (int64[S] at, float[S, 2] x) => (y) {p = Cast<to = 1>(at) a = Cos(p) b = Neg(x) y = Mul(a, b)}"
        >>> model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 24]> ' + text)
        >>> from graphwright.engine.shapes import infer_shapes
        >>> infer_shapes(model), [node.op_type for node in model.graph if node in made_of_integers(model.graph)]
        (True, ['Cast', 'Cos'])
    """
    found: set[ir.Node] = set()
    made: set[ir.Value] = set()
    for node in graph:
        if not node.domain and _is_made(node, made):
            found.add(node)
            made.update(node.outputs)
    return found


def _is_made(node: ir.Node, made: set[ir.Value]) -> bool:
    floats = [value for value in node.inputs if value is not None and value.dtype in FLOATS]
    if not all(value in made or facts.constant(value) is not None for value in floats):
        return False
    if node.op_type == "MatMul":
        return any(value in made for value in floats) and not any(_is_matrix(value) for value in floats)
    if node.op_type in ("Gather", "GatherElements", "GatherND"):
        return node.inputs[0] in made
    return node.op_type in MOVES | _OF_ELEMENTS | _SOURCES


def _is_matrix(value: ir.Value) -> bool:
    tensor = facts.constant(value)
    return tensor is not None and sum(size != 1 for size in tensor.shape) > 1
