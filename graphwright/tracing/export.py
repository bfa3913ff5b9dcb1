"""The graphs that the installed exporters make of traced functions; many are exported at once, which is faster."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from itertools import takewhile
from typing import Any

import onnx
import onnx_ir as ir
import torch

from graphwright.engine.pipeline import Pipeline, Step, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.engine.traced import Traced
from graphwright.engine.traced_arguments import onnx_type, places
from graphwright.engine.traced_source import named
from graphwright.passes import LIFT
from graphwright.tracing.generalize import Graph, Variant

# The opset that torch chooses by itself, the one that graphwright traces at, and the last one of the older exporter
# that all of its users have.
DYNAMO_OPSETS = (20, 24)
TORCHSCRIPT_OPSET = 17

# Sizes that are dynamic are of these in the first and in the second trace: all different, and odd, so that no size is
# half of another.
_SIZES = ((3, 5, 7, 9, 11, 13), (15, 17, 19, 21, 23, 25))

_PAIRS = {"half": ("float16", "bfloat16")}

_TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT64: torch.int64,
    ir.DataType.INT32: torch.int32,
    ir.DataType.BOOL: torch.bool,
}


def function_of(traced: Traced) -> Callable[..., Any]:
    """Return the function itself, or the module made of the class."""
    module, name, _ = named(traced.function)
    found: Any = getattr(import_module(module), name) if isinstance(traced.function, str) else traced.function
    made: Callable[..., Any] = found().eval() if isinstance(found, type) else found
    return made


def variants(traced: Traced) -> tuple[Variant, Variant]:
    """Return the two sets of examples that a function is traced at."""
    dtypes = _PAIRS.get(traced.dtype, (traced.dtype, traced.dtype))
    made = []
    for index in (0, 1):
        free = iter(_SIZES[index])
        names = places(traced.given)
        sizes = {name: traced.sizes[name][index] if name in traced.sizes else next(free) for name in names}
        parameters = {name: examples[index] for name, examples in traced.parameters.items()}
        made.append(Variant(parameters, sizes, dtypes[index]))
    return made[0], made[1]


def examples(traced: Traced, variant: Variant, leading: Sequence[int], seed: int = 0) -> list[torch.Tensor]:
    """Return random tensors for the arguments: normal numbers, small whole ones, or truth values."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for argument in traced.given.values():
        sizes = [dim if isinstance(dim, int) else variant.sizes[dim] for dim in argument.dims]
        shape = [*leading, *sizes] if argument.leads else sizes
        dtype = _TYPES[onnx_type(variant.dtype if argument.is_variable else argument.dtype)]
        if dtype.is_floating_point:
            made.append(torch.randn(shape, generator=generator).to(dtype))
        else:
            made.append(torch.randint(0, 2, shape, generator=generator).to(dtype))
    return made


class _Batch(torch.nn.Module):
    """Functions of disjoint arguments as one module."""

    def __init__(self, calls: Sequence[tuple[Callable[..., Any], int, Mapping[str, float]]]) -> None:
        super().__init__()
        self.calls = list(calls)

    def each(self, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield the outputs of each function."""
        start = 0
        for function, count, parameters in self.calls:
            made = function(*tensors[start : start + count], **parameters)
            start += count
            yield made if isinstance(made, tuple) else (made,)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return all outputs, in order."""
        return tuple(output for outputs in self.each(*tensors) for output in outputs)


class Export:
    """Functions at one of their two variants, ready to be exported."""

    def __init__(self, batch: Sequence[Traced], index: int) -> None:
        self.batch, self.variants = batch, [variants(each)[index] for each in batch]
        # One leading axis, then two: what depends on the number of axes differs.
        self.leading = ((4,), (6, 8))[index]
        pairs = list(zip(batch, self.variants, strict=True))
        self.tensors = [tensor for pair in pairs for tensor in examples(*pair, self.leading)]
        self.module = _Batch([(function_of(each), len(each.given), given.parameters) for each, given in pairs]).eval()
        with torch.no_grad():
            self.counts = [len(outputs) for outputs in self.module.each(*self.tensors)]
        self.program: torch.export.ExportedProgram | None = None

    def dynamo(self, opset: int) -> ir.Model:
        """Return the graph of the torch.export exporter."""
        with quiet(), torch.no_grad():
            if self.program is None:
                auto, fixed = torch.export.Dim.AUTO, torch.export.Dim.STATIC
                dynamic = tuple(
                    {axis: auto if size else fixed for axis, size in enumerate(sizes)} for sizes in self._dims()
                )
                tensors = tuple(self.tensors)
                self.program = torch.export.export(self.module, tensors, dynamic_shapes=(dynamic,), strict=False)
            exported = torch.onnx.export(self.program, dynamo=True, opset_version=opset, verbose=False)
        assert exported is not None
        model: ir.Model = exported.model
        return model

    def torchscript(self) -> ir.Model:
        """Return the graph of the older exporter."""
        names = [f"input_{index}" for index in range(len(self.tensors))]
        dynamic = {
            name: {axis: size for axis, size in enumerate(sizes) if size}
            for name, sizes in zip(names, self._dims(), strict=True)
        }
        file = io.BytesIO()
        with quiet(), torch.no_grad():
            torch.onnx.export(
                self.module,
                tuple(self.tensors),
                file,  # type: ignore[arg-type]  # takes a file too
                dynamo=False,
                opset_version=TORCHSCRIPT_OPSET,
                input_names=names,
                dynamic_axes=dynamic,
            )
        return ir.from_proto(onnx.load_from_string(file.getvalue()))

    def _dims(self) -> Iterator[list[str]]:
        """Yield, for each tensor, the names of its dynamic sizes; an empty text for those that are not."""
        for index, each in enumerate(self.batch):
            leading = [f"leading_{index}_{axis}" for axis in range(len(self.leading))]
            for argument in each.given.values():
                free = (isinstance(dim, str) and dim not in each.sizes for dim in argument.dims)
                trailing = [
                    f"{dim}_{index}" if is_free else "" for dim, is_free in zip(argument.dims, free, strict=True)
                ]
                yield [*(leading if argument.leads else []), *trailing]

    def graphs(self, model: ir.Model) -> list[Graph]:
        """Return the part of a model that each function is.

        Raises:
            ValueError: an exporter has left out an argument.
        """
        if len(model.graph.inputs) != len(self.tensors):
            raise ValueError("an argument that the function does not use")
        inputs, outputs = iter(model.graph.inputs), iter(model.graph.outputs)
        made = []
        for each, variant, count in zip(self.batch, self.variants, self.counts, strict=True):
            arguments = {name: next(inputs) for name in each.given}
            made.append(Graph(variant, arguments, [next(outputs) for _ in range(count)]))
        return made


def models_of(export: Export) -> Iterator[tuple[str, ir.Model | Exception]]:
    """Yield each exporter's name with what it makes, or with the error of the older one, which is on its way out.

    Raises:
        Exception: whatever torch or a function raises in the newer exporter.
    """
    for opset in DYNAMO_OPSETS:
        yield f"dynamo{opset}", export.dynamo(opset)
    name = f"torchscript{TORCHSCRIPT_OPSET}"
    try:
        yield name, export.torchscript()
    except Exception as error:  # of any kind: a missing translation, a removed exporter
        yield name, error


def normalized(model: ir.Model, *, lifted: bool = False) -> ir.Model:
    """Return a copy in the form in which the rules of the lift family meet a graph, or in the one that they leave."""
    # What normalizes stands in front of what fuses.
    chosen = LIFT if lifted else takewhile(lambda each: not each.name.startswith("fuse-"), LIFT)
    steps = [Step(each, "lift") for each in chosen]
    copy = model.clone()
    for node in copy.graph.all_nodes():
        node.version = None  # the exporter's; the graph's own is the one that counts, and it becomes newer
    return run_pipeline(Run(copy), Pipeline(tuple(steps)))


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines and progress of the exporters: what matters comes as an error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
