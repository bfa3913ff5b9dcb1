"""Create ONNX Runtime sessions: providers by target, options, and load errors that a person can read."""

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as native

from graphwright.errors import LoadError, MissingDependencyError, OutputError, UsageError
from graphwright.runtime import kernels
from graphwright.runtime.kernels import Use
from graphwright.runtime.rounded import NARROW, rounded, types_of
from graphwright.runtime.signature import Port, named_dims

# Every error that ONNX Runtime raises: its own classes share no base, and kernels raise RuntimeError.
ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    *(kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
)

# The first provider is the one that must be there.
PROVIDERS = {
    "ort-cpu": ("CPUExecutionProvider",),
    "onnx": ("CPUExecutionProvider",),
    "ort-cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
}
_PACKAGES = dict.fromkeys(
    ("CUDAExecutionProvider", "TensorrtExecutionProvider"), "onnxruntime-gpu, in place of onnxruntime"
)

# A model with larger weights goes through a file, which ONNX Runtime maps, and not through a copy in memory.
LARGEST_IN_MEMORY = 512 * 2**20
# onnxruntime 1.31 reads up to IR version 13. Later ones add nothing that an operator of its opsets needs.
NEWEST_IR_VERSION = 13
# Every error is raised as well; printing it on stderr would say it twice.
_FATAL = 4
_NO_KERNEL = "NOT_IMPLEMENTED"
# From opset 21 on, this optimizer of ONNX Runtime 1.31 moves a QuantizeLinear over a Reshape and forgets its type.
_MOVES_PAIRS, _MISTYPED = "QDQPropagationTransformer", "does not match y_zero_point type"

_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : ([A-Z_]+) : (?:Exception during initialization: )?")
_NODE = re.compile(
    r"(?:Error in execution: )?Non-zero status code returned while running (\w+) node\. "
    r"Name:'([^']*)' Status Message: "
)
_SOURCE_PLACE = re.compile(r"/onnxruntime_src/\S+:\d+ .*?\)(?: const)? (?=\S)|\b\w+\.(?:cc|h):\d+ \w+ (?=\S)")


@dataclass(frozen=True)
class FirstProvider:
    """A provider that comes before the target's own, and its options."""

    name: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Options:
    """How a session runs. Without ``optimize`` the graph runs node by node as it is written.

    ``prepack=False`` keeps weights as they are, memory-mapped where they lie in a file: slower, but a large
    model takes no second copy. ``kernels=False`` runs the function bodies of operators that have a compiled kernel.
    ``rounded``: on the CPU float16 is rounded at every node, as bfloat16 always is (``runtime.rounded``).
    ``fuse_pairs=False`` keeps QuantizeLinear and DequantizeLinear as they are, ``move_pairs=False`` where they are.
    ``first`` runs what it can of the graph.
    """

    threads: int | None = None
    optimize: bool = True
    prepack: bool = True
    kernels: bool = True
    rounded: bool = False
    fuse_pairs: bool = True
    move_pairs: bool = True
    first: FirstProvider | None = None

    def to_ort(self) -> ort.SessionOptions:
        """Return the options as ONNX Runtime takes them."""
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if not self.optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if not self.prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if not self.fuse_pairs:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        return options


def providers_for(target: str) -> list[str]:
    """The providers of a target, in order of preference.

    Raises:
        UsageError: no such target in ONNX Runtime.
        MissingDependencyError: this onnxruntime lacks the provider.
    """
    if target not in PROVIDERS:
        raise UsageError(f"target {target}", "it", needed=f"one of {', '.join(PROVIDERS)} for ONNX Runtime")
    _check_available(target, PROVIDERS[target][0])
    return list(PROVIDERS[target])


def _first(target: str, first: FirstProvider | None) -> list[str]:
    if first is None:
        return []
    _check_available(target, first.name)
    return [first.name]


def _check_available(target: str, needed: str) -> None:
    available = ort.get_available_providers()
    if needed not in available:
        hint = f"install {_PACKAGES.get(needed, 'onnxruntime')}"
        raise MissingDependencyError(f"target {target}", ", ".join(available), needed=needed, hint=hint)


def load(
    model: ir.Model | str | Path, options: Options, target: str = "ort-cpu"
) -> tuple[ort.InferenceSession, str | None]:
    """A session, and the folder that must live as long as it does, if it needed one.

    Raises:
        LoadError: ONNX Runtime refuses the model.
        OutputError: a large model could not be written to the temporary folder.
        MissingDependencyError: as :func:`providers_for` says.
    """
    providers = [*_first(target, options.first), *providers_for(target)]
    is_on_cpu = providers[0] == "CPUExecutionProvider"
    if is_on_cpu and not isinstance(model, ir.Model) and options.rounded:
        model = ir.load(model)
    if is_on_cpu and isinstance(model, ir.Model):
        model, options = _with_kernels(model, options)
    where, source, folder = readable(model)
    try:
        use = _kernels(where, model, options, providers)
        session = _session(source, options, use, providers)
    except LoadError:
        remove(folder)
        raise
    except ORT_ERRORS as error:
        remove(folder)
        again = _again(model, options, str(error), is_on_cpu)
        if again is not None:
            return load(*again, target)
        hint = f"{providers[0]} lacks a kernel; float32 has the most" if _NO_KERNEL in str(error) else ""
        raise LoadError(where, clean(error), needed="a model that ONNX Runtime can load", hint=hint) from error
    if session.get_providers()[0] != providers[0]:
        # ONNX Runtime goes on with the CPU when CUDA's libraries are not there.
        remove(folder)
        hint = "check the driver and the CUDA libraries with `graphwright doctor`"
        raise MissingDependencyError(f"target {target}", session.get_providers()[0], needed=providers[0], hint=hint)
    return session, folder


def _again(
    model: ir.Model | str | Path, options: Options, error: str, is_on_cpu: bool
) -> tuple[ir.Model | str | Path, Options] | None:
    """What to load instead, after this error, or None."""
    if _MISTYPED in error and options.move_pairs:
        return model, replace(options, move_pairs=False)
    if _NO_KERNEL in error and is_on_cpu and not isinstance(model, ir.Model) and _is_rewritten(ir.load(model)):
        return ir.load(model), options
    return None


def _with_kernels(model: ir.Model, options: Options) -> tuple[ir.Model, Options]:
    """The model in the form that the CPU provider has kernels for, and options that keep it so."""
    found = types_of(model)
    if options.rounded and not found.isdisjoint(NARROW):
        return rounded(model), options
    if ir.DataType.FLOAT8E4M3FN in found:
        # ONNX Runtime makes operators on float 8 of the pairs around a product, for which it has no kernels.
        options = replace(options, fuse_pairs=False)
    return (rounded(model) if ir.DataType.BFLOAT16 in found else model), options


def _is_rewritten(model: ir.Model) -> bool:
    return not types_of(model).isdisjoint((ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN))


def _kernels(where: str, model: ir.Model | str | Path, options: Options, providers: list[str]) -> Use:
    """Whether the compiled kernels run. On a GPU they do only what has no body: their inputs go through the host."""
    is_wanted = providers[0] == "CPUExecutionProvider"
    return kernels.choose(where, model, is_wanted=is_wanted, is_allowed=options.kernels)


def _session(source: str | bytes, options: Options, use: Use, names: list[str]) -> ort.InferenceSession:
    first = options.first
    providers = [(name, dict(first.options)) if first is not None and name == first.name else name for name in names]
    left_out = {} if options.move_pairs else {"disabled_optimizers": [_MOVES_PAIRS]}
    create = partial(ort.InferenceSession, source, providers=providers, **left_out)
    if use == Use.NO:
        return create(options.to_ort())
    with_kernels = options.to_ort()
    kernels.register(with_kernels, options.threads)
    try:
        return create(with_kernels)
    except native.InvalidGraph:
        if use == Use.YES:
            raise
    return create(options.to_ort())


def readable(model: ir.Model | str | Path) -> tuple[str, str | bytes, str | None]:
    """What to call the model in errors, what ONNX Runtime reads, and the folder that this lies in."""
    if not isinstance(model, ir.Model):
        path = Path(model)
        if not path.is_file():
            raise LoadError(str(path), "no such file", needed="a path of an .onnx file")
        return str(path), str(path), None
    where = f"model {model.graph.name or 'without a name'}"
    if weight_bytes(model) >= LARGEST_IN_MEMORY:
        folder = _written(where, model)
        return where, str(Path(folder) / "model.onnx"), folder
    proto = to_proto(model)
    proto.ir_version = min(proto.ir_version, NEWEST_IR_VERSION)
    return where, proto.SerializeToString(), None


def _written(where: str, model: ir.Model) -> str:
    """A new folder with the model and its weights in a file beside it."""
    copy = model.clone()
    copy.ir_version = min(model.ir_version, NEWEST_IR_VERSION)
    folder = tempfile.mkdtemp(prefix="graphwright-")
    try:
        ir.save(copy, Path(folder) / "model.onnx", external_data="model.onnx.data")
    except OSError as error:
        remove(folder)
        raise OutputError(
            where,
            str(error),
            needed=f"{weight_bytes(model)} free bytes in {folder}",
            hint="set TMPDIR to a larger disk",
        ) from error
    return folder


def remove(folder: str | None) -> None:
    """Delete a temporary folder, if there is one."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """The model with all its weights inside."""
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in weights(model)):
        model = ir.external_data.load_to_model(model.clone())
    return ir.to_proto(model)


def weights(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """The tensors of all initializers, subgraphs' included."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value


def weight_bytes(model: ir.Model) -> int:
    """The size of all initializers."""
    return sum(tensor.nbytes for tensor in weights(model))


def clean(error: Exception) -> str:
    """ONNX Runtime's message without its source paths and its prefix; node names stay.

    Example:
        >>> clean(RuntimeError("[ONNXRuntimeError] : 10 : INVALID_GRAPH : In Node, (add_1, Add): bad"))
        'In Node, (add_1, Add): bad'
        >>> text = "Non-zero status code returned while running Gather node. Name:'pick' Status Message: bad"
        >>> clean(RuntimeError(text))
        'pick (Gather): bad'
        >>> clean(RuntimeError("div.cc:692 Compute Integer division by zero"))
        'Integer division by zero'
    """
    text = _SOURCE_PLACE.sub("", _CODE.sub("", str(error)))
    text = _NODE.sub(r"\2 (\1): ", text)
    return " ".join(text.split()).rstrip(".")


def ports(args: list[ort.NodeArg], *, is_optional: bool = False) -> Iterator[Port]:
    """What ONNX Runtime knows of inputs or outputs."""
    for arg in args:
        dtype = _TYPES.get(arg.type)
        yield Port(arg.name, dtype, named_dims(arg.name, arg.shape) if dtype is not None else None, is_optional)


_TYPES = {
    f"tensor({spelling})": dtype
    for spelling, dtype in {
        **{dtype.name.lower(): dtype for dtype in ir.DataType},
        "float8e4m3fn": ir.DataType.FLOAT8E4M3FN,
    }.items()
}
