"""What benchmarks/encoder.py compares with: the ways an encoder is run on a CPU today, each as its authors offer it.

Each function takes the module and returns a function of the inputs. All get the same threads; what runs in ONNX Runtime
runs with all of its own optimizations, in the session that graphwright's artifacts use.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnxruntime.transformers import optimizer
from onnxscript.rewriter.ort_fusions import optimize_for_ort
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

from graphwright.frontends.torch import trace
from graphwright.frontends.torch_call import NamedCall
from graphwright.runtime.openvino import OpenVINOSession
from graphwright.runtime.ort import OrtSession

PROFILE = "batch=1:8:32,seq=1:128:512"

Arrays = Mapping[str, np.ndarray]
Call = Callable[[Arrays], Any]


def eager(module: torch.nn.Module, example: Arrays, threads: int) -> Call:
    """Return the module itself."""

    def call(inputs: Arrays) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            output = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        return {"last_hidden_state": output.last_hidden_state.numpy()}

    return call


def compiled(module: torch.nn.Module, example: Arrays, threads: int) -> Call:
    """Return the module in torch.compile, compiled anew for each shape."""
    torch._dynamo.config.recompile_limit = 64  # 8 by default, beyond which it runs as eager does
    return eager(torch.compile(module, dynamic=False), example, threads)


def plain(module: torch.nn.Module, example: Arrays, threads: int, *, opset: int) -> Call:
    """Return what torch.onnx.export gives."""
    return OrtSession(trace(module, example, profile=PROFILE, opset=opset).model, PROFILE, threads=threads)


def exported_by_transformers(module: Any, example: Arrays, threads: int) -> Call:
    """Return what the exporter of transformers gives, with its fusions for ONNX Runtime's CPU provider."""
    tensors = {name: torch.from_numpy(array) for name, array in example.items()}
    model = OnnxExporter().export(module, tensors, OnnxConfig(dynamic=True, ort_fusions="cpu")).program
    return OrtSession(model, threads=threads)


def fused_by_onnxscript(module: torch.nn.Module, example: Arrays, threads: int) -> Call:
    """Return onnxscript's fusions for ONNX Runtime on an export at opset 18, the one in which they find attention."""
    model, _ = optimize_for_ort(trace(module, example, profile=PROFILE, opset=18).model)
    return OrtSession(model, threads=threads)


def fused_by_onnxruntime(module: Any, example: Arrays, threads: int) -> Call:
    """Return the fusions of ``onnxruntime.transformers`` on TorchScript's export, in which they find attention."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        with _attention(module, "eager"):
            _torchscript(module, example, path)
        sizes = {"num_heads": module.config.num_attention_heads, "hidden_size": module.config.hidden_size}
        model = ir.from_proto(optimizer.optimize_model(str(path), model_type="bert", **sizes).model)
    return OrtSession(model, threads=threads)


def openvino(module: torch.nn.Module, example: Arrays, threads: int, *, precision: str) -> Call:
    """Return OpenVINO on what torch.onnx.export gives at opset 18."""
    model = trace(module, example, profile=PROFILE, opset=18).model
    return OpenVINOSession(model, PROFILE, threads=threads, precision=precision)


PEERS: dict[str, Callable[[Any, Arrays, int], Call]] = {
    "torch eager": eager,
    "torch.compile": compiled,
    "onnxruntime, opset 18": partial(plain, opset=18),
    "onnxruntime, opset 24": partial(plain, opset=24),
    "transformers' exporter, cpu": exported_by_transformers,
    "onnxscript optimize_for_ort": fused_by_onnxscript,
    "onnxruntime.transformers": fused_by_onnxruntime,
    "openvino f32": partial(openvino, precision="fp32"),
    "openvino bf16": partial(openvino, precision="bf16"),
}


@contextmanager
def _attention(module: Any, implementation: str) -> Iterator[None]:
    before = module.config._attn_implementation
    module.set_attn_implementation(implementation)
    try:
        yield
    finally:
        module.set_attn_implementation(before)


def _torchscript(module: torch.nn.Module, example: Arrays, path: Path) -> None:
    dims = {0: "batch", 1: "seq"}
    tensors = {name: torch.from_numpy(array) for name, array in example.items()}
    torch.onnx.export(
        NamedCall(module, list(tensors), {"return_dict": True}),
        tuple(tensors.values()),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=list(tensors),
        output_names=["last_hidden_state"],
        dynamic_axes=dict.fromkeys((*tensors, "last_hidden_state"), dims),
    )
