"""Static quantisation to 8 bits by ``onnxruntime.quantization``: where the pairs go and which scales they have."""

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.builder import Names
from graphwright.engine.shapes import infer_shapes
from graphwright.errors import GraphwrightError, VerificationError
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.ort_load import LARGEST_IN_MEMORY, NEWEST_IR_VERSION, ORT_ERRORS, clean, weight_bytes
from graphwright.runtime.signature import inputs_of
from graphwright.runtime.time_limit import CHECKED_RUN

Arrays = Mapping[str, np.ndarray]

# The quantizer is plain Python over ONNX Runtime.
_ERRORS: tuple[type[Exception], ...] = (
    *ORT_ERRORS,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
)

OPERATORS = ["MatMul", "Gemm", "Conv"]
# Products of activations are left out (``_products``): their ranges follow the request. Nothing behind a product is:
# what follows takes its sums as they are. TensorRT takes symmetric scales only.
_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": OPERATORS,
}


def quantized(model: ir.Model, inputs: Sequence[Arrays], type: str) -> ir.Model:
    """Return a copy with QuantizeLinear and DequantizeLinear around the inputs of products with constant weights.

    Dtypes: int8 or float8e4m3fn, by ``type``; float32 otherwise. Inputs and outputs keep their types.

    Raises:
        VerificationError: the quantizer cannot run the model on the inputs.

    Example:
        >>> text = "g (float[N, 2] x) => (float[N, 2] y) <float[2, 2] w = {1, 2, 3, 4}> {y = MatMul(x, w)}"
        >>> model = ir.from_onnx_text('<ir_version: 10, opset_import: ["": 24]> ' + text)
        >>> [node.op_type for node in quantized(model, [{"x": np.ones((3, 2), np.float32)}], "int8").graph]
        ['DequantizeLinear', 'QuantizeLinear', 'DequantizeLinear', 'MatMul']
    """
    where = f"model {model.graph.name or 'without a name'}"
    inputs = _runnable(where, model, inputs)
    if type == "fp8":
        inputs = _alike(inputs)
    is_large = weight_bytes(model) >= LARGEST_IN_MEMORY
    with tempfile.TemporaryDirectory(prefix="graphwright-") as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        copy = model.clone()
        copy.ir_version = min(copy.ir_version, NEWEST_IR_VERSION)
        products = _products(copy)
        if not products:
            # The quantizer takes an empty list for all nodes.
            return copy
        ir.save(copy, before, external_data="before.data" if is_large else None)
        try:
            with _silenced():
                _run(before, after, inputs, type, products, is_large)
        except _ERRORS as error:
            hint = "leave out precision, or give example_inputs that the model takes"
            raise VerificationError(where, clean(error), needed="a model that can be quantised", hint=hint) from error
        found = ir.load(after)
        # The folder goes: what lies in its files is read now.
        return _restored(ir.external_data.load_to_model(found) if is_large else found, model)


def _runnable(where: str, model: ir.Model, inputs: Sequence[Arrays]) -> list[Arrays]:
    """Return the inputs that the model takes: without a profile, nobody promised that it takes all."""
    session = OrtSession(model, BoundProfile(inputs_of(model), ({},)), prepack=False, seconds=CHECKED_RUN)
    found: list[Arrays] = []
    failure: object = "no inputs"
    for given in inputs:
        try:
            session(given)
        except GraphwrightError as error:
            failure = error
        else:
            found.append(given)
    if not found:
        raise VerificationError(where, str(failure), needed="inputs to observe it on", hint="give example_inputs")
    return found


def _alike(inputs: Sequence[Arrays]) -> list[Arrays]:
    """Return the largest of the inputs and those of its shapes: the quantizer stacks them for its distribution."""
    largest = max(inputs, key=lambda given: sum(array.size for array in given.values()))
    shapes = {name: array.shape for name, array in largest.items()}
    return [given for given in inputs if {name: array.shape for name, array in given.items()} == shapes]


def _products(model: ir.Model) -> list[str]:
    """Return the names of the nodes to quantise, which all have one then.

    The quantizer would take an initializer that callers may override for a weight, and drop that input.
    """
    names = Names(model)
    found = []
    for node in model.graph:
        if node.op_type not in OPERATORS or node.domain:
            continue
        given, weights = node.inputs[:2]
        assert given is not None and weights is not None
        if facts.constant(weights) is None or weights.dtype != ir.DataType.FLOAT or given.is_initializer():
            continue
        node.name = node.name or names.fresh(node.op_type)
        found.append(node.name)
    return found


def _run(
    before: Path, after: Path, inputs: Sequence[Arrays], type: str, products: Sequence[str], is_large: bool
) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    kind = QuantType.QFLOAT8E4M3FN if type == "fp8" else QuantType.QInt8
    method = CalibrationMethod.Distribution if type == "fp8" else CalibrationMethod.MinMax
    quantize_static(
        str(before),
        str(after),
        _Reader(inputs),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=OPERATORS,
        nodes_to_quantize=list(products),
        # Float 8 has no scale for each column in this quantizer.
        per_channel=type == "int8",
        activation_type=kind,
        weight_type=kind,
        calibrate_method=method,
        use_external_data_format=is_large,
        extra_options=_OPTIONS,
    )


class _Reader:
    """Gives the quantizer one request after another, in the way of its CalibrationDataReader."""

    def __init__(self, inputs: Sequence[Arrays]) -> None:
        self._left = iter(inputs)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next request, or None behind the last."""
        given = next(self._left, None)
        return None if given is None else dict(given)


@contextmanager
def _silenced() -> Iterator[None]:
    """The quantizer prints progress, and advises preparing the model, which our own passes have done."""
    root = logging.getLogger()

    def is_ours(record: logging.LogRecord) -> bool:
        return "quantization" not in record.pathname

    handlers = list(root.handlers)
    # Its first message would set a handler up for the whole process.
    placeholder = logging.NullHandler()
    root.addHandler(placeholder)
    for handler in handlers:
        handler.addFilter(is_ours)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        root.removeHandler(placeholder)
        for handler in handlers:
            handler.removeFilter(is_ours)


def _restored(found: ir.Model, model: ir.Model) -> ir.Model:
    """Give a model back what the quantizer drops: types, the names of sizes, and the marks of the nodes."""
    for value, source in zip(
        (*found.graph.inputs, *found.graph.outputs), (*model.graph.inputs, *model.graph.outputs), strict=True
    ):
        value.shape = source.shape
    marks = {node.name: node.metadata_props for node in model.graph if node.name}
    for node in found.graph:
        node.metadata_props.update(marks.get(node.name or "", {}))
    found.metadata_props.update(model.metadata_props)
    infer_shapes(found)
    return found
