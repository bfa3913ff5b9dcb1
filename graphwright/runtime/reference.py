"""Run a model for checking: node by node as it is written, in its own types or in float64.

ONNX Runtime runs it with every optimization off. Where it has no kernel, ONNX's own reference evaluator does.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from graphwright.errors import LoadError, RequestError, VerificationError
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.double import FLOATS, inlined, obstacle, to_double
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.ort_load import to_proto
from graphwright.runtime.signature import inputs_of
from graphwright.runtime.time_limit import CHECKED_RUN

Arrays = Mapping[str, np.ndarray]

# The reference evaluator's operators are plain NumPy: they raise these for a model that they cannot run.
_EVALUATOR_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
)
# ONNX Runtime takes doubles here, but scales them in single precision (4e-8 off on unit normal inputs).
_ROUNDED_IN_ORT = {"Attention"}


class Reference:
    """A model ready to be checked against; for one call, :func:`evaluate` is enough.

    ``rounded``: float16 is rounded at every node (``runtime.rounded``); bfloat16 always is.

    Raises:
        VerificationError: neither way can run the model, or it has no double form.
    """

    def __init__(
        self, model: ir.Model, *, double: bool = False, threads: int | None = 1, rounded: bool = False
    ) -> None:
        self.where = f"model {model.graph.name or 'without a name'}"
        self.double = double
        if double:
            model = _doubled(self.where, model)
        self.model = model
        self.threads, self.rounded = threads, rounded
        # No ranges: a check may need sizes that no profile has.
        self.profile = BoundProfile(inputs_of(model), ({},))
        self._session: OrtSession | None = None
        self._evaluator: ReferenceEvaluator | None = None
        if double and any(node.op_type in _ROUNDED_IN_ORT for node in model.graph.all_nodes()):
            self._evaluator = self._start_evaluator("it rounds Attention")
        else:
            self._start()

    def __call__(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """The outputs by name.

        Raises:
            RequestError: inputs that the model does not take.
            VerificationError: a node failed.
        """
        if self.double:
            inputs = {name: _as_double(value) for name, value in inputs.items()}
        if self._session is not None:
            return self._session(inputs)
        self.profile.check(inputs)
        assert self._evaluator is not None
        try:
            values = self._evaluator.run(None, dict(inputs))
        except _EVALUATOR_ERRORS as error:
            raise VerificationError(
                self.where, f"{type(error).__name__}: {error}", needed="a model that onnx.reference can run"
            ) from error
        return {
            value.name or "": np.asarray(found) for value, found in zip(self.model.graph.outputs, values, strict=True)
        }

    def _start(self) -> None:
        try:
            # No kernels either: their function bodies are what they are checked against.
            self._session = OrtSession(
                self.model,
                self.profile,
                threads=self.threads,
                optimize=False,
                prepack=False,
                seconds=CHECKED_RUN,
                kernels=False,
                rounded=self.rounded,
            )
        except LoadError as error:
            self._evaluator = self._start_evaluator(error.found)

    def _start_evaluator(self, why_not_ort: str) -> ReferenceEvaluator:
        if any(node.op_type == "Loop" for node in self.model.graph.all_nodes()):
            found = f"a Loop, which onnx.reference cannot be stopped in (ONNX Runtime: {why_not_ort})"
            raise VerificationError(self.where, found, needed="a model that ONNX Runtime runs")
        try:
            # Inlined, since onnx.reference takes functions of one name for one function, whatever their overload.
            return ReferenceEvaluator(to_proto(inlined(self.model)), new_ops=[Erf, Gelu])
        except _EVALUATOR_ERRORS as error:
            text = " ".join(str(error).split())
            raise VerificationError(
                self.where,
                f"no way to run it (ONNX Runtime: {why_not_ort}; onnx.reference: {text})",
                needed="operators that one of the two has",
            ) from error


def evaluate(
    model: ir.Model, inputs: Arrays, *, double: bool = False, threads: int | None = 1, rounded: bool = False
) -> dict[str, np.ndarray]:
    """Run a model once, unoptimized. With ``double`` it computes in float64 and gives float64.

    Raises:
        RequestError: inputs that the model does not take.
        VerificationError: neither way can run the model, or it has no double form.

    Example:
        >>> x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n"]))
        >>> node = ir.node("Sqrt", [x], outputs=[ir.Value(name="y", type=x.type, shape=x.shape)])
        >>> graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 20})
        >>> evaluate(ir.Model(graph, ir_version=10), {"x": np.array([2], np.float32)}, double=True)
        {'y': array([1.41421356])}
    """
    return Reference(model, double=double, threads=threads, rounded=rounded)(inputs)


class Erf(OpRun):
    """The error function in full precision; ONNX's own reference rounds it to single."""

    op_domain = ""

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (_erf(x).astype(x.dtype),)


class Gelu(OpRun):
    """Gelu on the Erf above; ONNX's own reference takes its own. Source: ONNX operator Gelu-20."""

    op_domain = ""

    def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
        wide = x.astype(np.float64)
        if approximate == "tanh":
            gate = np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))
        else:
            gate = _erf(wide / math.sqrt(2))
        return ((0.5 * wide * (1 + gate)).astype(x.dtype),)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _doubled(where: str, model: ir.Model) -> ir.Model:
    double = to_double(model)
    if double is None:
        raise VerificationError(where, f"no double form: {obstacle(model)}", needed="operators that take doubles")
    return double


def _as_double(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise RequestError("reference", f"a {type(value).__name__}", needed="NumPy arrays")
    return value.astype(np.float64) if ir.DataType.from_numpy(value.dtype) in FLOATS else value
