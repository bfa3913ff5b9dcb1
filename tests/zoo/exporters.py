"""Every way to make an ONNX model of a family: torch's two exporters, at two opsets, and transformers' own.

Each gives a model with dynamic axes and its reference, torch itself. Nothing heavy is imported with this module.
"""

import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from tests.zoo.families import Arrays, build, dynamic_axes, make_inputs

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

Reference = Callable[[Mapping[str, Any]], Arrays]


@dataclass(frozen=True)
class Exported:
    """A model as an exporter gives it, the module it was made of, and what torch makes of any inputs."""

    model: "ir.Model"
    module: "torch.nn.Module"
    reference: Reference


def export(family: str, exporter: str) -> Exported:
    """The family's model through the exporter, traced at sizes that no check uses.

    Raises:
        Exception: whatever the exporter, or the family's model, says.
    """
    return EXPORTERS[exporter](family)


def constants_of(module: "torch.nn.Module") -> dict[str, Any]:
    """The arguments that are no tensors: named outputs, no cache."""
    known = {"return_dict": True, "use_cache": False}
    takes = inspect.signature(module.forward).parameters
    return {name: value for name, value in known.items() if name in takes}


def _dynamo(family: str, opset: int, attention: str) -> Exported:
    from graphwright.frontends.torch import trace
    from graphwright.runtime.profile import Profile

    module, inputs = build(family, attention), make_inputs(family)
    axes = dynamic_axes(inputs)
    entries = []
    for name, array in inputs.items():
        sizes = [
            "x".join(f"{size + grow * (axis in axes[name])}" for axis, size in enumerate(array.shape))
            for grow in range(3)
        ]
        entries.append(f"{name}={':'.join(sizes)}")
    profile = Profile.parse(",".join(entries))
    source = trace(module, {**inputs, **constants_of(module)}, profile=profile, dims=axes, opset=opset)
    assert source.reference is not None
    return Exported(source.model, module, source.reference)


def _torchscript(family: str, attention: str) -> Exported:
    import onnx_ir as ir
    import torch
    from onnx import load_model_from_string

    from graphwright.frontends.torch_call import NamedCall, inference, to_torch

    module, inputs = build(family, attention), make_inputs(family)
    call = NamedCall(module, list(inputs), constants_of(module))
    tensors = tuple(to_torch(array, torch.device("cpu")) for array in inputs.values())
    file = io.BytesIO()
    with inference(module), _quiet():
        call(*tensors)
        torch.onnx.export(
            call,
            tensors,
            file,
            dynamo=False,
            opset_version=17,
            input_names=list(inputs),
            output_names=call.outputs,
            dynamic_axes=dynamic_axes(inputs),
        )
    model = ir.serde.deserialize_model(load_model_from_string(file.getvalue()))
    return Exported(model, module, partial(_run, call, list(call.outputs)))


def _transformers(family: str) -> Exported:
    import torch
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

    from graphwright.frontends.torch_call import NamedCall, to_torch

    try:
        module = build(family)
    except ValueError:  # the family has no sdpa
        module = build(family, "eager")
    inputs = make_inputs(family)
    tensors = {name: to_torch(array, torch.device("cpu")) for name, array in inputs.items()}
    with torch.no_grad(), _quiet():
        exported = OnnxExporter().export(module, {**tensors, **constants_of(module)}, config=OnnxConfig(dynamic=True))
    model = exported.program
    call = NamedCall(module, list(inputs), constants_of(module))
    with torch.no_grad():
        call(*tensors.values())
    # A cache that was asked for not to be there may be among the outputs all the same.
    if set(call.outputs) <= {value.name for value in model.graph.outputs}:
        model.graph.outputs[:] = [value for value in model.graph.outputs if value.name in call.outputs]
    return Exported(model, module, partial(_run, call, [value.name or "" for value in model.graph.outputs]))


def _run(call: Any, names: list[str], inputs: Mapping[str, Any]) -> Arrays:
    """What torch makes of NumPy inputs, under the names of the exported model's outputs."""
    import torch

    from graphwright.frontends.torch_call import inference, to_numpy, to_torch

    with inference(call.module):
        outputs = call(*(to_torch(inputs[name], torch.device("cpu")) for name in call.names))
    return {name: to_numpy(value) for name, value in zip(names, outputs, strict=True)}


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


EXPORTERS: dict[str, Callable[[str], Exported]] = {
    "dynamo20-sdpa": partial(_dynamo, opset=20, attention="sdpa"),
    "dynamo20-eager": partial(_dynamo, opset=20, attention="eager"),
    "dynamo24-sdpa": partial(_dynamo, opset=24, attention="sdpa"),
    "dynamo24-eager": partial(_dynamo, opset=24, attention="eager"),
    "torchscript-sdpa": partial(_torchscript, attention="sdpa"),
    "torchscript-eager": partial(_torchscript, attention="eager"),
    "transformers": _transformers,
}
