"""What is tried before a server may rely on it: that rows are independent, and that the warm-up runs.

Joining requests changes nobody's numbers only if no row depends on the others. One that does hides well: a quantizer
that takes its scale from the whole batch, a norm over the first axis, a mask that is made for the longest row.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from graphwright.engine.compare import compare
from graphwright.engine.sample import sample_inputs
from graphwright.errors import RequestError, VerificationError
from graphwright.runtime.bound import Shapes
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.signature import numpy_dtype


def compare_rows(model: ir.Model, session: OrtSession, shapes: Shapes) -> str:
    """Run a batch, and its first and last row alone; return what came of it.

    Shapes: every input has the batch first, of two rows or more.

    Raises:
        VerificationError: a row has other numbers in the batch than alone.
    """
    try:
        inputs = sample_inputs(model, shapes)
        together = session(inputs)
        for row in (0, len(next(iter(inputs.values()))) - 1):
            differences = compare(_row(together, row), session(_row(inputs, row)))
            if differences:
                found = f"row {row} with other numbers in a batch than alone: {'; '.join(map(str, differences[:3]))}"
                hint = "serve it without batching (--max-batch 0), or leave the comparison out (--no-check)"
                raise VerificationError("batching", found, needed="rows that do not depend on each other", hint=hint)
    except RequestError as error:
        return f"rows in a batch were not compared with rows alone: {error.where}: {error.found}"
    return "rows have the same numbers in a batch as alone"


def refuses_zeros(session: OrtSession, shapes: Shapes) -> str | None:
    """Tell why the model does not run on zeros, which the warm-up is made of; None where it does."""
    dtypes = {port.name: port.dtype for port in session.profile.inputs if port.dtype is not None}
    zeros = {name: _zeros(shape, dtypes[name]) for name, shape in shapes.items()}
    try:
        session(zeros)
    except RequestError as error:
        return f"{error.where}: {error.found}"
    return None


def _zeros(shape: tuple[int, ...], dtype: ir.DataType) -> np.ndarray:
    return np.full(shape, "", object) if dtype == ir.DataType.STRING else np.zeros(shape, numpy_dtype(dtype))


def _row(arrays: Mapping[str, np.ndarray], row: int) -> dict[str, np.ndarray]:
    return {name: array[row : row + 1] for name, array in arrays.items()}
