"""Compiled kernels in ONNX Runtime for the operators of domain ``hars``.

Such a node carries a function body, which runs anywhere. A kernel that is registered under its name wins over the
body; but ONNX Runtime then refuses inputs of other types than the kernel's, instead of going back to the body.
So it is registered only for a model whose nodes it can take.
"""

import itertools
import mmap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs among the pins

from graphwright.errors import LoadError

DOMAIN = "hars"
# Of these the library has kernels. Other operators of the domain live by their bodies alone.
OPERATORS = ("softmax_topk", "router_topk")
# The session's thread count under this name tells a kernel what ONNX Runtime does not.
THREADS = "graphwright.hars.threads"

_LOGITS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_BIAS = (ir.DataType.FLOAT,)
# An operator set of the domain in a file, which every model and function with such a node must name: field 1, 4 bytes.
_MARK = b"\x0a\x04" + DOMAIN.encode()


class Use(Enum):
    """Whether a session takes the kernels. ``TRY``: a type is not declared, so ONNX Runtime may refuse them."""

    NO = 0
    TRY = 1
    YES = 2


def choose(where: str, model: ir.Model | str | Path, *, is_wanted: bool, is_allowed: bool = True) -> Use:
    """Tell whether the kernels can run a model's nodes; without ``is_wanted``, only where a node has no body.

    Raises:
        LoadError: a node has neither a body nor a kernel.

    Example:
        >>> text = '<ir_version: 10, opset_import: ["": 24]> g (float[n] x) => (float[n] y) {y = Neg(x)}'
        >>> choose("model g", ir.from_onnx_text(text), is_wanted=True)
        <Use.NO: 0>
    """
    found = model if isinstance(model, ir.Model) else _read(Path(model))
    nodes = list(_nodes(found)) if found is not None else []
    if found is None or not nodes:
        return Use.NO
    bare = next((node for node in nodes if node.op_identifier() not in found.functions), None)
    if not is_allowed or (bare is None and not is_wanted):
        use = Use.NO
    else:
        use = _use(nodes) if library() is not None else Use.NO
    if bare is None:
        return use
    if use == Use.NO:
        raise LoadError(
            where,
            f"{bare.name or 'a node'} ({DOMAIN}.{bare.op_type}) without a function body",
            needed="a body, or the compiled kernels and float32, float16 or bfloat16 logits",
            hint="install g++ and CMake, then reinstall graphwright; `graphwright doctor` tells what is there",
        )
    # No body to go back to: what ONNX Runtime says of the kernel is the error.
    return Use.YES


def register(options: ort.SessionOptions, threads: int | None) -> None:
    """Add the kernels to the options of a session that runs on ``threads`` threads."""
    if threads is not None:
        options.add_session_config_entry(THREADS, str(threads))
    options.register_custom_ops_library(str(library()))


def library() -> Path | None:
    """The file of the compiled kernels, where there is one that this machine can load."""
    from graphwright.plugins.hars import native

    return native.library_path() if native.available() else None


def _read(path: Path) -> ir.Model | None:
    """A model without its external data; None for a file without such a node, or one that cannot be read."""
    if path.stat().st_size == 0:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(_MARK) < 0:
            return None
    try:
        return ir.from_proto(onnx.load(path, load_external_data=False))
    except (DecodeError, AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        # ONNX Runtime says what is wrong with it.
        return None


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    """The nodes with a kernel, in subgraphs and functions too."""
    functions = (function.all_nodes() for function in model.functions.values())
    for node in itertools.chain(model.graph.all_nodes(), *functions):
        if node.domain == DOMAIN and node.op_type in OPERATORS:
            yield node


def _use(nodes: list[ir.Node]) -> Use:
    is_sure = True
    for node in nodes:
        for value, allowed in zip(node.inputs, (_LOGITS, _BIAS), strict=False):
            if value is None:
                continue
            if value.dtype is None:
                is_sure = False
            elif value.dtype not in allowed:
                return Use.NO
    return Use.YES if is_sure else Use.TRY
