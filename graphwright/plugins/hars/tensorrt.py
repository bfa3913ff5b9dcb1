"""HARS as TensorRT plugins that need nothing but Python to build an engine, and nothing at all to run it.

``register()`` makes every node of ``for_tensorrt`` known to TensorRT as a "quick deployable plugin", compiled ahead of
time: its kernel goes into the engine as PTX. One launch, one block for a row; no scratch memory.

Where shapes change from run to run, the plugin library of ``cuda/tensorrt_plugin.cu`` is the better one: TensorRT
11.1 and 11.2 leak a module at each change of shape of such a plugin (NVIDIA/TensorRT issue 4849), and the library also
divides long rows among blocks. Both take the same nodes.

Source: the Python API reference of TensorRT 11, module ``tensorrt.plugin``.
"""

import struct
from collections.abc import Callable
from inspect import Parameter, Signature
from types import GenericAlias
from typing import Any

import numpy as np

from graphwright.errors import BuildError, MissingDependencyError
from graphwright.plugins.hars import cuda_build, cuda_nvrtc, meaning
from graphwright.plugins.hars.tensorrt_nodes import VARIANTS, Variant

ENTRY = "tensorrt_entry.cu"
# A block of 8 warps for each row, or a warp for each token, as in cuda/team.cuh and cuda/router.cuh.
ROW_THREADS = 256
TOKEN_THREADS = 32
# The most that a row needs; more than 48 KiB a launch may not have without asking the driver.
ROW_SHARED_BYTES = 36 * 1024
# The one launch configuration; TensorRT keeps 0 for itself.
TACTIC = 1
_WHERE = "hars for TensorRT"

_registered: set[str] = set()


def register(*, lazy: bool = False) -> None:
    """Make the plugins known to TensorRT, for this process; a second call changes nothing.

    ``lazy`` puts each off until it is used from Python, since an importable TensorRT may be without its library.

    Raises:
        MissingDependencyError: no TensorRT with quick plugins compiled ahead of time.
    """
    trt, trtp = _tensorrt()
    for variant in VARIANTS:
        name = f"{meaning.DOMAIN}::{variant.name}"
        if name in _registered:
            continue
        trtp.register(name, lazy_register=lazy)(_description(variant, trt, trtp))
        trtp.autotune(name)(_formats(variant, trtp))
        trtp.aot_impl(name)(_kernel(variant, trt, trtp))
        _registered.add(name)


def _tensorrt() -> tuple[Any, Any]:
    needed = "tensorrt 11 or newer"
    try:
        import tensorrt
        import tensorrt.plugin as plugin
    except ImportError as error:
        hint = "pip install graphwright[tensorrt]"
        raise MissingDependencyError(_WHERE, f"no {error.name}", needed=needed, hint=hint) from error
    if not hasattr(plugin, "aot_impl"):
        raise MissingDependencyError(_WHERE, f"tensorrt {tensorrt.__version__} without aot_impl", needed=needed)
    return tensorrt, plugin


def _description(variant: Variant, trt: Any, trtp: Any) -> Callable[..., Any]:
    """Return the function that tells the types and shapes of the outputs."""
    signature = _signature(variant, trtp, {}, _outputs(variant, trtp))

    def describe(*tensors: Any, **attributes: Any) -> tuple[Any, ...]:
        given = signature.bind(*tensors, **attributes).arguments
        logits = given[variant.inputs[0]]
        kept, rest = logits.like(), logits.like()
        kept.shape_expr[logits.ndim - 1] = given["k"]
        rest.shape_expr = trtp.ShapeExprs.from_tuple(tuple(logits.shape_expr)[:-1])
        outputs = [kept, kept.like(), rest, rest.like()][: len(variant.outputs)]
        for number, output in enumerate(outputs):
            output.dtype = trt.int32 if number == 1 else trt.float32
        return tuple(outputs)

    return _with_signature(describe, signature)


def _formats(variant: Variant, trtp: Any) -> Callable[..., Any]:
    """Return the function that tells which types TensorRT may choose: any three for the logits, the others fixed."""
    others = ["FP32"] * (len(variant.inputs) - 1), ["INT32" if number == 1 else "FP32" for number in range(4)]
    types = ", ".join(["FP32|FP16|BF16", *others[0], *others[1][: len(variant.outputs)]])
    combinations = list[trtp.AutoTuneCombination]
    signature = _signature(variant, trtp, {"outputs": _outputs(variant, trtp)}, combinations)

    def tune(*_tensors: Any, **_attributes: Any) -> list[Any]:
        return [trtp.AutoTuneCombination(types, "LINEAR", [TACTIC])]

    return _with_signature(tune, signature)


def _kernel(variant: Variant, trt: Any, trtp: Any) -> Callable[..., Any]:
    """Return the function that gives the kernel's name, its PTX, how to launch it and its further arguments."""
    returned = tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymExprs]
    # An implementation may leave attributes out, but is called with all of them (TensorRT 11.4): so it takes all.
    signature = _signature(variant, trtp, {"outputs": _outputs(variant, trtp), "tactic": int}, returned)
    types = {trt.float32: "Float32", trt.float16: "Float16", trt.bfloat16: "Bfloat16"}

    def compile_kernel(*tensors: Any, **attributes: Any) -> tuple[str, str, Any, Any]:
        given = signature.bind(*tensors, **attributes).arguments
        logits = given[variant.inputs[0]]
        elements, width = logits.shape_expr.numel(), logits.shape_expr[logits.ndim - 1]
        extras = [width, *whole_arguments(variant, given)]
        if variant.operator == "softmax_topk" and variant.has_bias:
            extras.append(given["bias"].shape_expr.numel() // width)
        is_router = variant.operator == "router_topk"
        launch = trtp.KernelLaunchParams()
        launch.grid_x = elements // width
        launch.block_x = TOKEN_THREADS if is_router else ROW_THREADS
        launch.shared_mem = width * 4 + 8 * given["groups"] if is_router else ROW_SHARED_BYTES
        text = ptx(variant, types[logits.dtype], has_temperature=given.get("temperature", 1.0) != 1.0)
        return entry_name(variant), text, launch, trtp.SymIntExprs.from_tuple([trtp.SymInt32(each) for each in extras])

    return _with_signature(compile_kernel, signature)


def whole_arguments(variant: Variant, given: dict[str, Any]) -> list[int]:
    """Return the attributes as the kernel takes them, in its order: whole numbers, real ones by their bits.

    Raises:
        BuildError: an attribute that the kernel does not take.

    Example:
        >>> given = {"k": 8, "axis": -1, "mode": "prob", "temperature": 2.0}
        >>> whole_arguments(Variant("softmax_topk"), given) == [8, 2, bits_of(0.5)]
        True
    """
    if given["k"] < 1:
        raise BuildError(f"{_WHERE}: k", str(given["k"]), needed="a whole number from 1")
    if variant.operator == "softmax_topk":
        if given["axis"] != -1:
            raise BuildError(f"{_WHERE}: axis", str(given["axis"]), needed="-1, as for_tensorrt leaves it")
        factor = np.float32(1) / np.float32(given["temperature"])
        return [given["k"], _number("mode", given["mode"], meaning.MODES), bits_of(float(factor))]
    if not 1 <= given["top_groups"] <= given["groups"]:
        raise BuildError(
            f"{_WHERE}: top_groups", str(given["top_groups"]), needed=f"1 to {given['groups']}, the groups"
        )
    return [
        given["k"],
        _number("scoring", given["scoring"], meaning.SCORINGS),
        given["renormalize"],
        bits_of(given["scale"]),
        given["zero_experts"],
        given["scale_zero_experts"],
        given["groups"],
        given["top_groups"],
    ]


def bits_of(number: float) -> int:
    """Return the bits of a number in float32, as a signed integer.

    Example:
        >>> bits_of(1.0)
        1065353216
    """
    return int(struct.unpack("<i", struct.pack("<f", number))[0])


def _number(name: str, given: str, known: tuple[str, ...]) -> int:
    if given not in known:
        raise BuildError(f"{_WHERE}: {name}", repr(given), needed=", ".join(known))
    return known.index(given)


def entry_name(variant: Variant) -> str:
    """Return the name of the kernel in the PTX."""
    return f"hars_{variant.operator}_entry"


def ptx(variant: Variant, type_name: str, *, has_temperature: bool = False) -> str:
    """Return the kernel of one plugin for one type of logits, compiled now if it was not before.

    Raises:
        MissingDependencyError: no compiler for CUDA.
    """
    is_edited = variant.operator == "softmax_topk" and (variant.has_bias or has_temperature)
    flags = {
        "HARS_ROUTER": int(variant.operator == "router_topk"),
        "HARS_TYPE": type_name,
        "HARS_BIAS": int(variant.has_bias),
        "HARS_MORE": int(variant.has_more),
        "HARS_EDITED": int(is_edited),
    }
    defined = tuple(f"-D{name}={value}" for name, value in flags.items())
    if cuda_build.nvcc() is None and cuda_nvrtc.is_there():
        return cuda_nvrtc.ptx(ENTRY, flags=defined)
    return cuda_build.ptx(ENTRY, flags=defined)


def _outputs(variant: Variant, trtp: Any) -> GenericAlias:
    """Return the type of the outputs: a tuple of so many."""
    return GenericAlias(tuple, (trtp.TensorDesc,) * len(variant.outputs))


def _signature(variant: Variant, trtp: Any, more: dict[str, Any], returned: Any) -> Signature:
    """Return what ``tensorrt.plugin`` reads of a function: tensors, then every attribute in order, all with types."""
    annotations = {**dict.fromkeys(variant.inputs, trtp.TensorDesc), **variant.attributes, **more}
    kind = Parameter.POSITIONAL_OR_KEYWORD
    parameters = [Parameter(name, kind, annotation=annotation) for name, annotation in annotations.items()]
    return Signature(parameters, return_annotation=returned)


def _with_signature(function: Callable[..., Any], signature: Signature) -> Callable[..., Any]:
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function
