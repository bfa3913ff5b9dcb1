"""Compare two models of any kind by numbers, output by output."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import onnx_ir as ir

from graphwright.compilation.checking import requests
from graphwright.compilation.padding import with_free_padding
from graphwright.compilation.running import Call, runner
from graphwright.compilation.settings import as_profile
from graphwright.engine.compare import TOLERANCES, Difference, Tolerance, gap_of, plain
from graphwright.engine.ties import compare_with_source
from graphwright.engine.verification import sizes_text
from graphwright.errors import GraphwrightError, RequestError, VerificationError
from graphwright.frontends import Source
from graphwright.optimize import load_source
from graphwright.runtime.reference import evaluate

Arrays = Mapping[str, np.ndarray]

# What NumPy and the zip archive under it raise for a file that is none, or that was damaged.
_UNREADABLE = (
    *(OSError, ValueError, AttributeError, TypeError, EOFError, NotImplementedError),
    *(BadZipFile, zlib.error),
)


@dataclass
class OutputDifference:
    """One output over all points: its worst differences, and the first one that is not allowed."""

    name: str
    absolute: float = 0.0
    relative: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Comparison:
    """What a comparison of two models found. ``skipped`` tells where the first one cannot run."""

    outputs: tuple[OutputDifference, ...]
    points: int
    skipped: tuple[str, ...] = ()

    @property
    def is_same(self) -> bool:
        """Whether no output differs by more than is allowed."""
        return not any(one.detail for one in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """Return plain dicts, lists, texts and numbers."""
        rows = [{name: plain(value) for name, value in asdict(one).items()} for one in self.outputs]
        return {"same": self.is_same, "points": self.points, "outputs": rows, "skipped": list(self.skipped)}


def compare_models(
    first: object,
    second: object,
    *,
    profile: str | None = None,
    task: str = "auto",
    inputs: Path | None = None,
    tolerance: float | None = None,
    padding: str = "keep",
) -> Comparison:
    """Run both models on the same inputs: those of a file, else random ones at the profile's points.

    Indices of the largest that tie in the first model may come in either order (``engine.ties``). Without a profile, a
    point at which the first model cannot run is skipped. With ``padding`` "free", zeros are due where its mask hides a
    token.

    Raises:
        VerificationError: the first model runs at no point.
        RequestError: inputs that it does not take.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 20]> g (float[n] x) => (float[n] y) {y = %s(x)}'
        >>> relu, negated = ir.from_onnx_text(text % "Relu"), ir.from_onnx_text(text % "Neg")
        >>> compare_models(relu, relu).is_same, compare_models(relu, negated).is_same
        (True, False)
    """
    a, b = (load_source(model, profile=profile, task=task) for model in (first, second))
    a = with_free_padding(a) if padding == "free" else a
    given = [read_arrays(inputs, a.model)] if inputs is not None else _requests(a, profile)
    allowed = TOLERANCES if tolerance is None else {dtype: Tolerance(tolerance, 0.0) for dtype in TOLERANCES}
    found = _compare(a.model, runner(a), runner(b), given, allowed, may_skip=inputs is None and profile is None)
    if not found.points:
        reason = found.skipped[0] if found.skipped else "no inputs"
        hint = "give --profile or --inputs"
        raise VerificationError(str(first), f"no shape that it runs at ({reason})", hint=hint)
    return found


def _requests(source: Source, profile: str | None) -> list[dict[str, np.ndarray]]:
    return requests(source.model, as_profile(profile).bind(source.model), source.example_inputs)


def _compare(
    model_a: ir.Model,
    run_a: Call,
    run_b: Call,
    given: Sequence[Arrays],
    allowed: Mapping[ir.DataType, Tolerance],
    *,
    may_skip: bool,
) -> Comparison:
    found: dict[str, OutputDifference] = {}
    skipped: list[str] = []
    for each in given:
        try:
            expected = run_a(each)
        except GraphwrightError as error:
            if not may_skip:
                raise
            skipped.append(f"{sizes_text(each)}: {error}")
            continue
        actual = _answers(run_b, each)
        differences: list[Difference] = []
        if not isinstance(actual, str):
            differences = compare_with_source(model_a, each, expected, actual, evaluate, allowed)
        _add(found, expected, actual, differences, sizes_text(each))
    return Comparison(tuple(found.values()), len(given) - len(skipped), tuple(skipped))


def _answers(run: Call, inputs: Arrays) -> Arrays | str:
    try:
        return run(inputs)
    except GraphwrightError as error:
        return str(error)


def _add(
    found: dict[str, OutputDifference],
    expected: Arrays,
    actual: Arrays | str,
    differences: Sequence[Difference],
    where: str,
) -> None:
    if isinstance(actual, str):
        failure = found.setdefault("(all)", OutputDifference("(all)", np.inf, np.inf))
        failure.detail = failure.detail or f"B cannot run at {where}: {actual}"
        return
    for name, tensor in expected.items():
        row = found.setdefault(name, OutputDifference(name))
        other = actual.get(name)
        if other is not None and other.shape == tensor.shape and "O" not in (tensor.dtype.kind, other.dtype.kind):
            gap = gap_of(tensor, other, Tolerance(0.0, 0.0))
            row.absolute, row.relative = max(row.absolute, gap.absolute), max(row.relative, gap.relative)
    for difference in differences:
        row = found.setdefault(difference.output, OutputDifference(difference.output))
        row.detail = row.detail or f"{difference.detail} ({where})"


def read_arrays(path: Path, model: ir.Model) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file; raw bytes, for types that NumPy lacks, get the input's type.

    Raises:
        RequestError: no such file, or one with something else than arrays in it.
    """
    dtypes = {value.name: value.dtype for value in model.graph.inputs}
    try:
        # NumPy leaves a file open that it opened itself and could not read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except _UNREADABLE as error:
        hint = "write it with numpy.savez"
        raise RequestError(f"inputs {path}", str(error), needed="an .npz file of arrays", hint=hint) from error
    for name, array in arrays.items():
        dtype = dtypes.get(name)
        if array.dtype.kind == "V" and dtype is not None:
            arrays[name] = array.view(dtype.numpy())
    return arrays
