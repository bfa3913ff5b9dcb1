"""What the operator ``Linear`` means: an ONNX function of domain ``graphwright``, in standard operators.

``Linear(x, weight, bias?, residual?) -> y`` with ``y = activation(x @ weight + bias) + residual``. Where ``transposed``
is 1 the weight is [N, K]. The residual is added behind the activation, as a layer's is.

A function exists once for each set of options (``overload``), since a body cannot leave out a step. A node without a
bias but with a residual leaves its third input empty. An activation of ONNX is its operator, so its first opset is the
body's too: Gelu needs 20 and Swish 24.

Source: ONNX operators MatMul-13, Gemm-13, Gelu-20, Swish-24; epilogues as in NVIDIA cuBLASLt and CUTLASS.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from graphwright.engine.builder import Builder

DOMAIN = "graphwright"
VERSION = 1
OPERATOR = "Linear"
# What bodies are written in, unless a model has another: ONNX wants one opset for a model and its functions.
OPSET = 24
DTYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Activation:
    """An operator of ONNX of one input, with the attributes that it needs, and its first opset."""

    operator: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    opset: int = 13


NONE = "none"
ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": Activation("Gelu", {"approximate": "none"}, 20),
    "gelu_tanh": Activation("Gelu", {"approximate": "tanh"}, 20),
    "swish": Activation("Swish", {}, 24),
    "relu": Activation("Relu"),
    "tanh": Activation("Tanh"),
    "sigmoid": Activation("Sigmoid"),
}


def linear(
    activation: str = NONE,
    *,
    bias: bool = False,
    residual: bool = False,
    transposed: bool = False,
    opset: int = OPSET,
) -> ir.Function:
    """Return the function of one set of options.

    Shapes: x [..., K], weight [K, N] ([N, K] where transposed), bias [N], residual and y [..., N].
    Dtypes: float16, bfloat16, float32, float64, one for all.

    Example:
        >>> function = linear("gelu", bias=True)
        >>> function.overload, [node.op_type for node in function]
        ('gelu_bias', ['MatMul', 'Add', 'Gelu'])
    """
    return ir.serde.deserialize_function(_proto(activation, bias, residual, transposed, opset))


@cache
def _proto(activation: str, bias: bool, residual: bool, transposed: bool, opset: int) -> onnx.FunctionProto:
    steps = [("MatMul", "x, matrix" if transposed else "x, weight")]
    steps += [("Add", "{}, bias")] if bias else []
    steps += [(_written(ACTIVATIONS[activation]), "{}")] if activation != NONE else []
    steps += [("Add", "{}, residual")] if residual else []
    lines = ["matrix = Transpose <perm = [1, 0]> (weight)"] if transposed else []
    last = ""
    for index, (operator, given) in enumerate(steps):
        made = "y" if index == len(steps) - 1 else f"step_{index}"
        lines.append(f"{made} = {operator} ({given.format(last)})")
        last = made
    inputs = "x, weight, bias, residual" if residual else "x, weight, bias" if bias else "x, weight"
    head = f'<domain: "{DOMAIN}", opset_import: ["": {opset}]>'
    attributes = '<activation: string = "none", transposed: int = 0>'
    proto = onnx.parser.parse_function(f"{head} {OPERATOR} {attributes} ({inputs}) => (y) {{ {' '.join(lines)} }}")
    parts = {"bias": bias, "residual": residual, "transposed": transposed}
    proto.overload = "_".join((activation, *(name for name, is_set in parts.items() if is_set)))
    return proto


def _written(activation: Activation) -> str:
    given = ", ".join(f'{name} = "{value}"' for name, value in activation.attributes.items())
    return f"{activation.operator} <{given}>" if given else activation.operator


def call_linear(
    op: Builder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None = None,
    residual: ir.Value | None = None,
    *,
    activation: str = NONE,
    transposed: bool = False,
) -> ir.Value:
    """Record a ``Linear`` node and its function; return what it makes."""
    function = linear(
        activation, bias=bias is not None, residual=residual is not None, transposed=transposed, opset=op.opset
    )
    given: dict[str, Any] = {} if activation == NONE else {"activation": activation}
    given |= {"transposed": 1} if transposed else {}
    (y,) = op.call(function, *(x, weight, bias, residual)[: len(function.inputs)], **given)
    y.type = None if x.dtype is None else ir.TensorType(x.dtype)
    if x.shape is not None and weight.shape is not None:
        y.shape = ir.Shape([*list(x.shape)[:-1], weight.shape[0 if transposed else 1]])
    return y
