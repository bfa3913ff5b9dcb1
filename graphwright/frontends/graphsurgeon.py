"""A user's onnx-graphsurgeon function as a pass: ``f(gs.Graph) -> gs.Graph | None``.

graphsurgeon copies the graph and has no place for metadata: names of dimensions and functions come through by
themselves, metadata is put back by name. The weights are held in memory while the function runs.
"""

import runpy
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
from onnx_graphsurgeon.logger import G_LOGGER

from graphwright.errors import LoadError, StructureError, UsageError
from graphwright.frontends.onnx import load_onnx
from graphwright.frontends.onnx_guard import check_proto

# Types that graphsurgeon writes as another type, or not at all.
_LOST_TYPES = frozenset(
    {"FLOAT8E4M3FNUZ", "FLOAT8E8M0", "FLOAT4E2M1", "INT2", "UINT2", "FLOAT6E2M3", "FLOAT6E3M2", "STRING"}
)


@dataclass(frozen=True)
class Script:
    """A function from a script, with the place that errors name."""

    path: str
    name: str
    function: Callable[[gs.Graph], Any]

    def __str__(self) -> str:
        return f"{self.path}:{self.name}"


def load_script(text: str) -> Script:
    """The function that ``file.py:name`` stands for. The file is run: it is the user's own code.

    Raises:
        UsageError: another form, no such file or function, or a file that fails.

    Example:
        >>> load_script("surgery.py")
        Traceback (most recent call last):
        graphwright.errors.UsageError: --gs-script: found 'surgery.py'; needed file.py:function
    """
    path, colon, name = text.rpartition(":")
    if not colon or not path or not name.isidentifier():
        raise UsageError("--gs-script", repr(text), needed="file.py:function")
    if not Path(path).is_file():
        raise UsageError("--gs-script", f"no file {path!r}", needed="file.py:function", hint="check the path")
    try:
        names = runpy.run_path(path, run_name="graphwright_script")
    except Exception as error:
        raise UsageError(_place(path, name, error), _describe(error), needed="a script that runs") from error
    if not callable(names.get(name)):
        raise UsageError(path, f"no function {name!r}", needed="a function f(gs.Graph) -> gs.Graph or None")
    return Script(path, name, names[name])


def apply(script: Script, model: ir.Model) -> ir.Model:
    """A new model: what the function made of a copy of ``model``, or of the graph it was given if it returns
    None.

    Raises:
        UsageError: the function fails or returns something else, or the model has a type that graphsurgeon
        loses.
        StructureError: the graph that it leaves is not valid ONNX.
    """
    _check_types(model, str(script))
    copy = ir.external_data.load_to_model(model.clone())
    try:
        with _quiet():
            graph = gs.import_onnx(ir.to_proto(copy))
        result = script.function(graph)
        graph = graph if result is None else result
        if not isinstance(graph, gs.Graph):
            found = f"a {type(graph).__name__} as the result"
            raise UsageError(str(script), found, needed="a gs.Graph, or None for the graph given")
        with _quiet():
            proto = gs.export_onnx(graph)
    except UsageError:
        raise
    except Exception as error:
        defined = getattr(script.function, "__code__", None)
        place = _place(script.path, script.name, error, defined.co_filename if defined else "")
        raise UsageError(place, _describe(error), needed="a function that leaves a graph") from error
    return _restore(proto, model, script)


def _restore(proto: onnx.ModelProto, model: ir.Model, script: Script) -> ir.Model:
    try:
        check_proto(proto, str(script), None)
    except LoadError as error:
        hint = "call graph.cleanup().toposort() at the end of the function"
        raise StructureError(str(script), error.found, needed=error.needed or "a valid graph", hint=hint) from error
    new = load_onnx(proto)
    new.metadata_props.update(model.metadata_props)
    new.graph.metadata_props.update(model.graph.metadata_props)
    before = {node.name: node for node in model.graph.all_nodes() if node.name}
    for node in new.graph.all_nodes():
        old = before.get(node.name or "")
        if old is not None and old.op_identifier() == node.op_identifier():
            node.metadata_props.update(old.metadata_props)
    new.producer_name, new.producer_version = model.producer_name, model.producer_version
    new.domain, new.model_version, new.doc_string = model.domain, model.model_version, model.doc_string
    return new


def _check_types(model: ir.Model, where: str) -> None:
    for graph in model.graphs():
        for value in (
            *graph.inputs,
            *graph.initializers.values(),
            *(out for node in graph for out in node.outputs),
        ):
            if value.dtype is not None and value.dtype.name in _LOST_TYPES:
                hint = "run the script before types are narrowed"
                found = f"value {value.name!r} of type {value.dtype.name}"
                raise UsageError(where, found, needed="types that graphsurgeon keeps", hint=hint)


def _place(path: str, name: str, error: BaseException, defined: str = "") -> str:
    """File, function and the last line in that file that the error passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in (path, defined)]
    line = frames[-1].lineno if frames else getattr(error, "lineno", None)
    return f"{path}:{name}" + (f" (line {line})" if line else "")


def _describe(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


@contextmanager
def _quiet() -> Iterator[None]:
    """graphsurgeon prints advice on stdout, where a command's result belongs."""
    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.ERROR
    try:
        yield
    finally:
        G_LOGGER.severity = before
