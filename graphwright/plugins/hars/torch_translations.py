"""The torch operators in ONNX, as ``torch.onnx.export`` asks for them: nodes of domain ``hars``, without bodies.

The exporter calls each function while onnxscript records. ``bodies.attach_bodies`` adds the bodies afterwards, since
onnxscript knows no function with an overload.
"""

from functools import cache
from typing import Any

import onnx_ir as ir

from graphwright.plugins.hars import meaning
from graphwright.plugins.hars.bodies import ATTRIBUTES


def softmax_topk(
    logits: Any,
    k: int,
    bias: Any = None,
    axis: int = -1,
    mode: str = "logprob",
    temperature: float = 1.0,
    stats: bool = False,
) -> tuple[Any, ...]:
    """Record ``torch.ops.hars.softmax_topk``; outputs that there are not are empty, as in torch."""
    inputs = (logits,) if bias is None else (logits, _as_offset(bias))
    outputs = _operator("softmax_topk", 4 if stats else 2)(*inputs, k=k, axis=axis, mode=mode, temperature=temperature)
    return tuple(outputs) if stats else (*outputs, _nothing(), _nothing())


def router_topk(
    scores: Any,
    k: int,
    bias: Any = None,
    scoring: str = "softmax",
    renormalize: bool = False,
    scale: float = 1.0,
    zero_experts: int = 0,
    scale_zero_experts: bool = True,
    groups: int = 1,
    top_groups: int = 1,
) -> tuple[Any, ...]:
    """Record ``torch.ops.hars.router_topk``; without zero experts the identity weight is 0."""
    inputs = (scores,) if bias is None else (scores, _as_offset(bias))
    outputs = _operator("router_topk", 3 if zero_experts else 2)(
        *inputs,
        k=k,
        scoring=scoring,
        renormalize=int(renormalize),
        scale=scale,
        zero_experts=zero_experts,
        scale_zero_experts=int(scale_zero_experts),
        groups=groups,
        top_groups=top_groups,
    )
    return tuple(outputs) if zero_experts else (*outputs, _zeros_beside(outputs[0]))


@cache
def _operator(name: str, outputs: int) -> Any:
    """Return an operator that onnxscript can record: the function body comes later, from ``attach_bodies``."""
    import onnxscript
    from onnx.defs import OpSchema

    parameter, kinds = OpSchema.FormalParameter, OpSchema.AttrType
    of = {int: kinds.INT, float: kinds.FLOAT, str: kinds.STRING}
    schema = OpSchema(
        name,
        meaning.DOMAIN,
        meaning.VERSION,
        inputs=[
            parameter("scores", "T"),
            parameter("bias", "tensor(float)", param_option=OpSchema.FormalParameterOption.Optional),
        ],
        outputs=[parameter(f"output_{i}", f"tensor({'int64' if i == 1 else 'float'})") for i in range(outputs)],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "")],
        attributes=[
            OpSchema.Attribute(each, of[type(default)], required=True) for each, default in ATTRIBUTES[name].items()
        ],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(meaning.DOMAIN, meaning.VERSION), name, schema)


def _as_offset(bias: Any) -> Any:
    """Return the bias in float32, a mask as 0 where it is true and -inf elsewhere."""
    op = _standard()

    if bias.dtype == ir.DataType.BOOL:
        return op.Where(bias, op.Constant(value_float=0.0), op.Constant(value_float=float("-inf")))
    return bias if bias.dtype == ir.DataType.FLOAT else op.Cast(bias, to=ir.DataType.FLOAT)


def _nothing() -> Any:
    """Return an empty tensor, one of its own each time: an output of the torch operator that there is not."""
    from onnx import TensorProto, helper

    op = _standard()

    return op.Constant(value=helper.make_tensor("empty", TensorProto.FLOAT, [0], []))


def _zeros_beside(weights: Any) -> Any:
    """Return zeros in the shape of the weights without their last axis."""
    op = _standard()

    return op.Expand(op.Constant(value_float=0.0), op.Shape(weights, start=0, end=-1))


def _standard() -> Any:
    """Return ONNX's own operators: the exporter converts them to the opset that was asked for."""
    from onnxscript import opset18

    return opset18
