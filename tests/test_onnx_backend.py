"""ONNX's own backend node tests: the default pipelines leave every outcome within the case's own tolerance.

Only cases that ONNX Runtime passes as they are count, and all of those do: no operator is excepted. ONNX Runtime reads
IR versions up to 13; the cases of a later one are given to it as 13, as the runtime does with every model.
A sample runs always, all of them with ``make check-all``.
"""

import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from graphwright.engine.pipeline import run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.errors import GraphwrightError
from graphwright.passes import CATALOGUE
from graphwright.runtime.ort_load import to_proto

# The targets whose artifacts run on the CPU here.
TARGETS = ("onnx", "ort-cpu")
SAMPLE = 12


@functools.cache
def cases() -> list[TestCase]:
    with warnings.catch_warnings(action="ignore"):  # the cases are computed when loaded, infinities and all
        found = [case for case in load_model_tests(kind="node") if case.model is not None and case.data_sets]
    for case in found:
        case.model.ir_version = min(case.model.ir_version, 13)
    return found


def as_array(value: Any) -> Any:
    """Return an input as ONNX Runtime takes it: the cases hold NumPy scalars and protobufs too."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def run(model: bytes, inputs: Sequence[Any]) -> list[Any] | None:
    """Return the outputs of ONNX Runtime, or None where it cannot run the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        given = session.get_inputs()
        names = [value.name for value in given]
        # A missing optional input is None and has no name.
        present = [as_array(value) for value in inputs if value is not None]
        outputs: list[Any] = session.run(None, dict(zip(names, present, strict=True)))
    except Exception:
        return None
    return outputs


def is_close(found: Any, expected: Any, rtol: float, atol: float) -> bool:
    """Tell whether an output, an array or a list of them, is within the tolerance, with the same type and shape."""
    if isinstance(expected, list):
        pairs = zip(found, expected, strict=False)
        return len(found) == len(expected) and all(is_close(a, b, rtol, atol) for a, b in pairs)
    if expected is None or found is None:
        return found is expected
    found, expected = np.asarray(found), np.asarray(as_array(expected))
    if found.shape != expected.shape:
        return False
    if expected.dtype.kind in "fc" and found.dtype == expected.dtype:
        return bool(np.allclose(found, expected, rtol, atol, equal_nan=True))
    return found.dtype.kind == expected.dtype.kind and bool(np.array_equal(found, expected))


def checkable(chosen: Sequence[TestCase]) -> Iterator[TestCase]:
    """Yield the cases that ONNX Runtime passes without us."""
    for case in chosen:
        assert case.model is not None and case.data_sets is not None
        (inputs, expected), *_ = case.data_sets
        outputs = run(case.model.SerializeToString(), inputs)
        if outputs is not None and is_close(outputs, list(expected), case.rtol, case.atol):
            yield case


def failure(case: TestCase, target: str) -> str | None:
    """Return what the target's default pipeline does to the case, or None where it keeps the outcome."""
    model = ir.from_proto(case.model)
    try:
        result = run_pipeline(Run(model), CATALOGUE.default(target))
    except GraphwrightError as error:
        return f"{case.name} for {target}: {error}"
    assert case.data_sets is not None
    for inputs, expected in case.data_sets:
        outputs = run(to_proto(result).SerializeToString(), inputs)
        if outputs is None:
            return f"{case.name} for {target}: does not run"
        if not is_close(outputs, list(expected), case.rtol, case.atol):
            return f"{case.name} for {target}: other numbers"
    return None


def check(chosen: Sequence[TestCase], at_least: float) -> None:
    counted = list(checkable(chosen))
    assert len(counted) >= at_least * len(chosen), f"ONNX Runtime passes only {len(counted)} of {len(chosen)}"
    failures = [found for case in counted for target in TARGETS if (found := failure(case, target))]
    assert not failures, f"{len(failures)} of {len(counted)}:\n" + "\n".join(failures)


def test_a_sample_of_the_node_tests_keeps_its_outcomes() -> None:
    check(cases()[::SAMPLE], 0.7)


@pytest.mark.slow
def test_all_node_tests_keep_their_outcomes() -> None:
    check(cases(), 0.7)
