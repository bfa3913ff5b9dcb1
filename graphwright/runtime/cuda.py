"""Run a session on CUDA tensors where they are: no copy through main memory."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import onnxruntime as ort

from graphwright.errors import RequestError
from graphwright.runtime import tensors
from graphwright.runtime.ort_load import ORT_ERRORS, clean
from graphwright.runtime.signature import Port


def run_on_cuda(
    session: ort.InferenceSession,
    request: Mapping[str, Any],
    dtypes: Mapping[str, ir.DataType],
    outputs: Sequence[Port],
    shapes: Sequence[tuple[int, ...] | None],
) -> dict[str, Any]:
    """Outputs as torch tensors on the device of the inputs; torch's allocator reuses their memory.

    Raises:
        RequestError: a node refuses the inputs' values.
    """
    torch = sys.modules["torch"]
    device = tensors.cuda_device(request.values())
    assert device is not None
    index = device.index or 0
    binding = session.io_binding()
    kept = {}
    for name, value in request.items():
        on_device = (value if tensors.is_torch(value) else torch.from_numpy(value)).detach().to(device).contiguous()
        kept[name] = on_device
        binding.bind_input(name, "cuda", index, int(dtypes[name]), tuple(value.shape), on_device.data_ptr())
    results = _bind_outputs(binding, device, outputs, shapes)
    # ONNX Runtime has a stream of its own: what torch still computes must be there first.
    torch.cuda.current_stream(device).synchronize()
    try:
        session.run_with_iobinding(binding)
    except ORT_ERRORS as error:
        raise RequestError("run in ONNX Runtime", clean(error), needed="inputs that every node takes") from error
    binding.synchronize_outputs()
    for port, value in zip(outputs, binding.get_outputs(), strict=True):
        if port.name not in results:
            results[port.name] = torch.from_dlpack(value).clone()
    # ONNX Runtime leaves the memory of an output that is an input itself as it was.
    results.update({port.name: kept[port.name].clone() for port in outputs if port.name in kept})
    return {port.name: results[port.name] for port in outputs}


def _bind_outputs(
    binding: ort.IOBinding, device: Any, outputs: Sequence[Port], shapes: Sequence[tuple[int, ...] | None]
) -> dict[str, Any]:
    """Tensors for the outputs of known shape; the others are left to ONNX Runtime."""
    torch = sys.modules["torch"]
    index = device.index or 0
    results: dict[str, Any] = {}
    for port, shape in zip(outputs, shapes, strict=True):
        if shape is None or port.dtype is None:
            binding.bind_output(port.name, "cuda", index)
            continue
        results[port.name] = torch.empty(shape, dtype=tensors.torch_dtype(port.dtype), device=device)
        binding.bind_output(port.name, "cuda", index, int(port.dtype), shape, results[port.name].data_ptr())
    return results
