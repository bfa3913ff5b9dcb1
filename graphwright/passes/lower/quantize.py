"""Compute products with weights in 8 bits: static QuantizeLinear and DequantizeLinear pairs around their inputs.

Before:                                After, with type=int8:
    x -- MatMul w -- (+ b) -- y            x -- Quantize -- Dequantize -- MatMul -- (+ b) -- y
                                                     w' -- Dequantize ------+

w' is w in 8 bits with a scale for each column; x has one scale, from its range on the inputs that are observed. What
else uses x, a residual sum for one, takes it rounded too. Zero points are 0, as TensorRT wants them. The placing and
the scales are the work of ``onnxruntime.quantization``, which is handed in: a pass imports no runtime. Options:

* ``type``: ``int8``, or ``fp8`` (float8e4m3fn, scales from the distribution of the numbers).
* ``quantizer``, from Python only: a function of the model and the type that returns the quantised model; ``optimize``
  gives it (runtime/quantize.py). Without it the pass is an error.

Shapes:    any.
Dtypes:    float32; MatMul and Gemm with a constant matrix, Conv with a constant kernel.
Refuses:   STRUCTURE a model that is quantised already, and one without a product with constant weights; OPSET below 21
           (below 13 for int8).
Numerics:  changes the numbers: 8 bits keep two digits. The loss is measured and reported.
Source:    Jacob et al. 2018, arXiv:1712.05877; Micikevicius et al. 2022, arXiv:2209.05433 (FP8); ONNX QuantizeLinear.
"""

from collections.abc import Callable

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.observe import Reason
from graphwright.engine.pipeline import FunctionPass
from graphwright.errors import PipelineError

Quantizer = Callable[[ir.Model, str], ir.Model]
Refuse = Callable[[ir.Node, Reason, str], None]

# The type, and the oldest operator set whose QuantizeLinear gives it with a scale for each column.
TYPES = {"int8": 13, "fp8": 21}
OPERATORS = ("MatMul", "Gemm", "Conv")


def quantize(
    model: ir.Model,
    type: str = "int8",
    *,
    quantizer: Quantizer | None = None,
    refuse: Refuse = lambda node, reason, detail: None,
) -> bool | ir.Model:
    """Return the quantised model, or False where there is nothing to quantise.

    Raises:
        PipelineError: a type that is not one of the two, or no quantizer.
    """
    if type not in TYPES:
        hint = f"precision({type})" if type in ("fp16", "bf16") else ""
        raise PipelineError("quantize(type)", repr(type), needed=f"one of {', '.join(TYPES)}", hint=hint)
    products = [node for node in model.graph if node.op_type in OPERATORS and not node.domain and _has_weights(node)]
    done = next((node for node in model.graph if node.op_type == "QuantizeLinear"), None)
    opset = model.opset_imports.get("", 0)
    if done is not None:
        refuse(done, Reason.STRUCTURE, "the model is quantised already")
        return False
    if opset < TYPES[type]:
        for node in products[:1]:
            refuse(node, Reason.OPSET, f"{type} needs opset {TYPES[type]}, model has {opset}")
        return False
    if not products:
        return False
    if quantizer is None:
        hint = f"optimize(passes='default,quantize(type={type})'), which has one"
        raise PipelineError("quantize", "no quantizer", needed="a function that observes and quantises", hint=hint)
    return quantizer(model, type)


def _has_weights(node: ir.Node) -> bool:
    given, weights = node.inputs[:2]
    if given is None or given.is_initializer() or weights is None:
        return False
    return weights.dtype == ir.DataType.FLOAT and facts.constant(weights) is not None


QUANTIZE = FunctionPass("quantize", quantize, changes_numbers=True, tells=True)
