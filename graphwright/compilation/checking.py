"""Compare a finished model with its source, at the profile's shapes and on the example inputs.

A small source and its result are both loaded and run in turn. Of large ones only one is in memory at a time:
the source runs first, at every shape, and its outputs wait in files.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphwright.engine.compare import Difference, compare
from graphwright.engine.sample import sample_inputs
from graphwright.engine.ties import compare_with_source
from graphwright.engine.verification import Verification as Comparison
from graphwright.engine.verification import sizes_text
from graphwright.errors import GraphwrightError, RequestError, TimeLimitError, VerificationError
from graphwright.frontends import Source
from graphwright.report import VerifiedPoint
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.reference import Reference, evaluate
from graphwright.runtime.signature import inputs_of
from graphwright.runtime.time_limit import CHECKED_RUN

Arrays = Mapping[str, np.ndarray]
Call = Callable[[Arrays], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Checked:
    """What came of a comparison. ``failed`` holds the inputs of the first point that differed."""

    points: tuple[VerifiedPoint, ...]
    skipped: tuple[str, ...]
    differences: tuple[Difference, ...] = ()
    failed: Arrays | None = None
    reference: str = ""


def requests(model: ir.Model, profile: BoundProfile, examples: Arrays | None = None) -> list[dict[str, np.ndarray]]:
    """Return inputs to compare on: random ones at each of the profile's points, and the examples if they fit.

    Raises:
        RequestError: numbers for an input cannot be drawn, and there are no examples; or the model does not take
        the examples at any size.
    """
    found: list[dict[str, np.ndarray]] = []
    if examples is not None:
        BoundProfile(inputs_of(model), ({},)).check(examples)
    if examples is not None and _fits(profile, examples):
        found.append(dict(examples))
    try:
        found.extend(
            sample_inputs(model, _complete(model, shapes), seed) for seed, shapes in enumerate(profile.points())
        )
    except RequestError:
        if not found:
            raise
    return found


def _fits(profile: BoundProfile, examples: Arrays) -> bool:
    try:
        profile.check(examples)
    except RequestError:
        return False
    return True


def _complete(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
    for value in model.graph.inputs:
        if not value.is_initializer() and value.name not in shapes:
            hint = "name its shape in the profile, or give example inputs"
            raise RequestError(f"input {value.name}", "a rank that is not known", needed="shapes to try", hint=hint)
    return shapes


def check(
    source: Source,
    original: Path | None,
    result: Callable[[], OrtSession],
    inputs: Sequence[Arrays],
    *,
    one_at_a_time: bool = False,
    may_skip: bool = False,
    tell: Callable[[int], None] = lambda done: None,
) -> Checked:
    """Compare the result with its source; stops at the first point that differs.

    ``original`` is the file that an ONNX source was read from. Where the source cannot run at a point, the
    point is skipped if ``may_skip`` (nobody promised that it can), as long as one point is left.

    Raises:
        VerificationError: the source cannot be run.
    """
    with _expected(source, original, inputs, one_at_a_time) as expected_at:
        comparison = _Comparison(source.model, may_skip)
        session = result()
        for index, given in enumerate(inputs):
            tell(index)
            if not comparison.add(given, partial(expected_at, index), session):
                break
    return comparison.checked("PyTorch" if source.reference is not None else "the source model")


class _Comparison:
    """Gathers points until one differs."""

    def __init__(self, source: ir.Model, may_skip: bool) -> None:
        self.source = source
        self.may_skip = may_skip
        self.points: list[VerifiedPoint] = []
        self.skipped: list[str] = []
        self.differences: list[Difference] = []
        self.failed: Arrays | None = None

    def add(self, given: Arrays, expected: Callable[[], Arrays], session: OrtSession) -> bool:
        """Compare at one point; tells whether to go on.

        Raises:
            VerificationError: the source gives other numbers each time.
        """
        try:
            wanted = expected()
        except TimeLimitError:
            raise
        except GraphwrightError as error:
            if not self.may_skip:
                raise
            self.skipped.append(f"{sizes_text(given)}: {error}")
            return True
        try:
            actual = session(given)
        except GraphwrightError as error:
            self.differences.append(Difference("model", "run", f"a result that cannot be run: {error}"))
            self.failed = given
            return False
        comparison = Comparison("final")
        self.differences = compare_with_source(self.source, given, wanted, actual, evaluate)
        if self.differences and compare(wanted, expected()):
            hint = "export it in evaluation mode, or do not verify"
            found = "other numbers each time it runs"
            raise VerificationError("source", found, needed="a model without random numbers", hint=hint)
        comparison.add("", wanted, actual, self.differences)
        shapes = {name: tuple(array.shape) for name, array in given.items()}
        output = comparison.worst_where.rpartition("output ")[2]
        self.points.append(VerifiedPoint(shapes, output, comparison.worst_absolute, comparison.worst_relative))
        self.failed = given if self.differences else None
        return not self.differences

    def checked(self, reference: str) -> Checked:
        """Return what came of it."""
        if not self.points and not self.differences:
            reason = self.skipped[0] if self.skipped else "no inputs"
            hint = "give a profile with shapes that the source can run, or example inputs"
            raise VerificationError("source", f"no shape that it runs at ({reason})", needed="one at least", hint=hint)
        return Checked(tuple(self.points), tuple(self.skipped), tuple(self.differences), self.failed, reference)


@contextmanager
def _expected(
    source: Source, original: Path | None, inputs: Sequence[Arrays], one_at_a_time: bool
) -> Iterator[Callable[[int], Arrays]]:
    """The source's outputs at each point: computed when asked for, or all before, into files."""
    if not one_at_a_time:
        run = runner(source)
        yield lambda index: run(inputs[index])
        return
    folder = Path(tempfile.mkdtemp(prefix="graphwright-"))
    try:
        with _opened(source, original) as run:
            found = [_stored(run, given, folder / str(index)) for index, given in enumerate(inputs)]
        yield lambda index: found[index]()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(source: Source, original: Path | None) -> Iterator[Call]:
    run = runner(source, original)
    try:
        yield run
    finally:
        if isinstance(run, OrtSession):
            run.close()


def runner(source: Source, original: Path | None = None) -> Call:
    """Return what runs a source as it was given: torch, or ONNX Runtime without optimizations.

    With ``original``, the file is run with its weights mapped from it, so that they take no memory of their
    own.
    """
    if source.reference is not None:
        return _guarded(source.reference)
    if original is not None:
        free = BoundProfile(inputs_of(source.model), ({},))
        return OrtSession(original, free, optimize=False, prepack=False, seconds=CHECKED_RUN, kernels=False)
    return Reference(source.model, threads=None)


def _guarded(run: Call) -> Call:
    """Foreign code may raise anything; here it always means that the source cannot run these inputs."""

    def call(inputs: Arrays) -> Mapping[str, np.ndarray]:
        try:
            return run(inputs)
        except GraphwrightError:
            raise
        except Exception as error:
            found = f"{type(error).__name__} at {sizes_text(inputs)}: {error}"
            hint = "narrow the profile to shapes that the source takes"
            raise VerificationError("source", found, needed="a source that runs", hint=hint) from error

    return call


def _stored(run: Call, inputs: Arrays, folder: Path) -> Callable[[], Arrays]:
    """Run now; return what gives the outputs, mapped from files, or raises what the run raised."""
    try:
        outputs = run(inputs)
    except GraphwrightError as error:
        failure = error

        def fail() -> Arrays:
            raise failure

        return fail
    folder.mkdir()
    names = list(outputs)
    dtypes = [outputs[name].dtype for name in names]
    for index, name in enumerate(names):
        # NumPy's format has no bfloat16; as bytes every type has a place in it.
        array = np.ascontiguousarray(outputs[name])
        np.save(folder / f"{index}.npy", array.view(np.uint8) if array.dtype.kind == "V" and array.ndim else array)

    def read() -> Arrays:
        arrays = [np.load(folder / f"{index}.npy", mmap_mode="r") for index in range(len(names))]
        return {
            name: array if array.dtype == dtype else array.view(dtype)
            for name, array, dtype in zip(names, arrays, dtypes, strict=True)
        }

    return read
