"""Trace any ``torch.nn.Module`` to a model of the working opset, with named dynamic dimensions.

Every axis may become dynamic: the tracer finds out which do. An axis that the module uses as a fixed number
(a feature size) stays fixed, and so does one of size 1 in the example, but for a batch of 1, which is traced
as 2. With a profile that names inputs, the axes whose minimum and maximum differ must become dynamic, and the
others stay fixed. How dimensions are named: ``frontends/dims.py``.
"""

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from functools import partial
from io import StringIO
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from graphwright.errors import ExportError
from graphwright.frontends import Arrays, Source
from graphwright.frontends.dims import name_dims
from graphwright.frontends.onnx import sha256_of
from graphwright.frontends.torch_call import NamedCall, inference, named_arguments, to_numpy, to_torch
from graphwright.plugins.hars import torch_ops
from graphwright.plugins.hars.bodies import attach_bodies

WORKING_OPSET = 24

Tensors = dict[str, torch.Tensor]


def trace(
    module: torch.nn.Module,
    example_inputs: object,
    *,
    profile: Any = None,
    dims: Mapping[str, Mapping[int, str]] | None = None,
    opset: int = WORKING_OPSET,
    task: str = "auto",
) -> Source:
    """The graph of ``module`` at the example inputs, as a ``Source`` whose reference is the module itself.

    ``example_inputs`` maps names of arguments to arrays or tensors, or lists them as ``forward`` does; what
    is neither is passed on as a constant. ``dims`` names axes that must be dynamic, as in
    ``{"x": {0: "batch", 1: "time"}}``. The weights of the graph share memory with the module.

    Raises:
        ExportError: the module cannot be traced, or an axis that was asked to be dynamic is not.

    Example:
        >>> source = trace(torch.nn.Linear(4, 2), {"input": np.zeros((3, 4), np.float32)})
        >>> [str(value.shape) for value in source.model.graph.inputs]
        ['[batch,4]']
    """
    where = type(module).__name__
    arguments = named_arguments(module, example_inputs)
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    arrays = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray | torch.Tensor)}
    if not arrays:
        raise ExportError(where, "no example inputs", needed="at least one array")
    constants = {name: value for name, value in arguments.items() if name not in arrays}
    tensors = {name: to_torch(value, device) for name, value in arrays.items()}
    call = NamedCall(module, list(tensors), constants)
    wanted = _wanted_axes(tensors, profile, dims or {})
    with inference(module), _quiet():
        model = _export(call, _widened(call, tensors, where), wanted, opset, where)
    _name_values(model, call, where)
    name_dims(model, dims, {name: tensor.shape for name, tensor in tensors.items()})
    _check_dynamic(model, wanted, where)
    model.graph.name = where
    examples = {name: to_numpy(value) for name, value in tensors.items()}
    outputs = [value.name or "" for value in model.graph.outputs]
    reference = partial(_run, NamedCall(module, call.names, constants), device, outputs)
    in_double = partial(_run_in_double, NamedCall(module, call.names, constants), outputs)
    return Source(model, where, sha256_of(model), reference, examples, task, in_double=in_double)


def _run(call: NamedCall, device: torch.device, names: list[str], inputs: Arrays) -> dict[str, np.ndarray]:
    """The module itself on NumPy inputs."""
    with inference(call.module):
        outputs = call(*(to_torch(inputs[name], device) for name in call.names))
    return {name: to_numpy(value) for name, value in zip(names, outputs, strict=True)}


def _run_in_double(call: NamedCall, names: list[str], inputs: Arrays) -> dict[str, np.ndarray]:
    """A copy of the module on the CPU in float64, on NumPy inputs.

    Raises:
        ExportError: the module cannot be copied, or fixes the type of a step.
    """
    try:
        module = copy.deepcopy(call.module).to("cpu", torch.float64)
        wide = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in inputs.items()}
        return _run(NamedCall(module, call.names, call.constants), torch.device("cpu"), names, wide)
    except Exception as error:
        raise _export_error(type(call.module).__name__, "no form in float64", error) from error


def _wanted_axes(
    tensors: Tensors, profile: Any, dims: Mapping[str, Mapping[int, str]]
) -> dict[str, dict[int, bool | None]]:
    """For each axis of each input: must it be dynamic (True) or fixed (False), or is that open (None)?"""
    wanted: dict[str, dict[int, bool | None]] = {
        name: {axis: True if axis in dims.get(name, {}) else None for axis in range(tensor.ndim)}
        for name, tensor in tensors.items()
    }
    by_input: dict[str, list[tuple[Any, ...]]] = {}
    for alternative in getattr(profile, "alternatives", ()):
        for name, entry in alternative:
            if name in tensors and len(entry) == tensors[name].ndim:
                by_input.setdefault(name, []).append(entry)
    for name, entries in by_input.items():
        for axis in wanted[name]:
            sizes = {size for entry in entries for size in (entry[axis].min, entry[axis].max)}
            wanted[name][axis] = len(sizes) > 1
    return wanted


def _widened(call: NamedCall, tensors: Tensors, where: str) -> Tensors:
    """The example inputs, a batch of 1 doubled: the tracer takes any size of 1 for a fixed one."""
    try:
        call(*tensors.values())
    except Exception as error:
        raise _export_error(where, "the module fails on its example inputs", error) from error
    if not all(tensor.ndim and tensor.shape[0] == 1 for tensor in tensors.values()):
        return tensors
    wide = {name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()}
    try:
        call(*wide.values())
    except (
        RuntimeError,
        ValueError,
        IndexError,
    ):  # a module for one item at a time: its first axis stays fixed
        return tensors
    return wide


def _export(
    call: NamedCall, tensors: Tensors, wanted: dict[str, dict[int, bool | None]], opset: int, where: str
) -> ir.Model:
    auto, fixed = torch.export.Dim.AUTO, torch.export.Dim.STATIC
    shapes = tuple({axis: fixed if must is False else auto for axis, must in wanted[name].items()} for name in tensors)
    try:
        program = torch.export.export(call, tuple(tensors.values()), dynamic_shapes=(shapes,), strict=False)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            verbose=False,
            custom_translation_table=torch_ops.onnx_translations(),
        )
    except Exception as error:
        raise _export_error(where, "a module that torch cannot export", error) from error
    assert exported is not None
    model: ir.Model = exported.model
    attach_bodies(model)
    found = model.opset_imports.get("")
    if found != opset:
        hint = "install the versions in constraints.txt"
        raise ExportError(where, f"opset {found} after the export", needed=f"opset {opset}", hint=hint)
    return model


def _check_dynamic(model: ir.Model, wanted: dict[str, dict[int, bool | None]], where: str) -> None:
    for value in model.graph.inputs:
        for axis, must in wanted[value.name or ""].items():
            dim = None if value.shape is None else value.shape[axis]
            if must and not isinstance(dim, ir.SymbolicDim):
                hint = "give that axis one size, or change the module to work for any"
                found = f"axis {axis} of input {value.name!r} fixed to {dim} by the module"
                raise ExportError(where, found, needed="a dynamic dimension", hint=hint)


def _name_values(model: ir.Model, call: NamedCall, where: str) -> None:
    """Give inputs, outputs and weights the module's own names."""
    graph = model.graph
    if len(graph.inputs) != len(call.names) or len(graph.outputs) != len(call.outputs):
        found = f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs in the graph"
        raise ExportError(where, found, needed=f"{len(call.names)} and {len(call.outputs)}")
    _separate_outputs(graph)
    taken = set(call.names)
    outputs = [name if name not in taken else f"{name}_out" for name in call.outputs]
    names = dict(zip(graph.inputs, call.names, strict=True))
    names |= dict(zip(graph.outputs, outputs, strict=True))
    _rename(graph, names)


def _separate_outputs(graph: ir.Graph) -> None:
    """An output that is an input, a weight or another output gets a node of its own, for its own name."""
    seen: set[ir.Value] = set()
    for index, value in enumerate(list(graph.outputs)):
        if value in seen or value.producer() is None:
            node = ir.node("Identity", [value])
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
            graph.append(node)
            graph.outputs[index] = node.outputs[0]
        seen.add(value)


def _rename(graph: ir.Graph, names: dict[ir.Value, str]) -> None:
    """Rename values; whoever has a wanted name makes room first, and weights lose the wrapper's prefix."""
    wanted = set(names.values())
    others = [value for value in graph.initializers.values() if value not in names]
    others += [value for node in graph.all_nodes() for value in node.outputs if value not in names]
    prefix = "module."
    for value in others:
        name = value.name or ""
        plain = name.removeprefix(prefix) if value.is_initializer() else name
        if plain in wanted:
            plain = f"{plain}_inner"
        if plain != name:
            value.name = plain
    for number, value in enumerate(names):
        value.name = f"__renamed_{number}"
    for value, name in names.items():
        value.name = name


def _export_error(where: str, what: str, error: Exception) -> ExportError:
    if isinstance(error, ExportError):
        return error
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = f"{type(cause).__name__}: {lines[0][:300] if lines else 'no message'}"
    hint = "check the module with torch.export.export, and the example inputs"
    return ExportError(where, f"{what} ({text})", needed="a module that torch.export traces", hint=hint)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, log lines and dumped graphs of the exporter: what matters comes as an error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
