"""Run a source, or a model on the way to the result, at every point: when asked for, or ahead, into files."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir

from graphwright.engine.verification import sizes_text
from graphwright.errors import GraphwrightError, VerificationError
from graphwright.frontends import Source
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.reference import Reference
from graphwright.runtime.signature import inputs_of
from graphwright.runtime.time_limit import CHECKED_RUN

Arrays = Mapping[str, np.ndarray]
Call = Callable[[Arrays], Mapping[str, np.ndarray]]


@contextmanager
def outputs_at(make: Callable[[], Call], inputs: Sequence[Arrays], ahead: bool) -> Iterator[Callable[[int], Arrays]]:
    """A model's outputs at each point: computed when asked for, or all ahead, into files, and the model let go."""
    if not ahead:
        run = make()
        yield lambda index: run(inputs[index])
        return
    folder = Path(tempfile.mkdtemp(prefix="graphwright-"))
    try:
        found = _all_stored(make, inputs, folder)
        yield lambda index: found[index]()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _all_stored(make: Callable[[], Call], inputs: Sequence[Arrays], folder: Path) -> list[Callable[[], Arrays]]:
    with _opened(make()) as run:
        return [_stored(run, given, folder / str(index)) for index, given in enumerate(inputs)]


@contextmanager
def _opened(run: Call) -> Iterator[Call]:
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


def own_weights(model: ir.Model) -> None:
    """Copy the weights, which share memory with a torch module: training it further must not change the result."""
    copies: dict[int, ir.TensorProtocol] = {}
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is not None and tensor.dtype != ir.DataType.STRING:
                if id(tensor) not in copies:
                    array = tensor.numpy().copy()
                    copies[id(tensor)] = ir.Tensor(array, dtype=tensor.dtype, name=tensor.name)
                value.const_value = copies[id(tensor)]
