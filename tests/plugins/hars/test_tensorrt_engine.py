"""The TensorRT plugins on a GPU: the quick plugins' kernels by the driver, and engines that TensorRT itself builds.

Nothing of this runs in ``make check``: ``make gpu`` runs what the machine has the libraries for.
"""

import ctypes
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from graphwright.plugins.hars import cuda_build, reference
from graphwright.plugins.hars import tensorrt as quick
from graphwright.plugins.hars.tensorrt_build import build_plugin
from graphwright.plugins.hars.tensorrt_nodes import Variant, for_tensorrt

RANDOM = np.random.default_rng(23)
SHAPES = [(1, 128256), (7, 4099), (64, 1000)]

TEXT = """
    <ir_version: 10, opset_import: ["" : 20, "hars" : 1]>
    g (float[B, V] x, float[V] bias, float[B, 64] scores) =>
      (float[B, 8] values, int64[B, 8] indices, float[B] maximum, float[B] log_sum,
       float[B, 8] shares, int64[B, 8] ids, float[B, 6] weights, int64[B, 6] experts, float[B] identity) {
        values, indices, maximum, log_sum = hars.softmax_topk <k = 8, temperature = 0.7> (x, bias)
        shares, ids = hars.softmax_topk <k = 8, mode = "prob"> (x)
        weights, experts, identity = hars.router_topk <k = 6, zero_experts = 16, renormalize = 1, scale = 2.5> (scores)
    }"""


@pytest.fixture(scope="module")
def torch() -> Any:
    found = pytest.importorskip("torch", reason="needs torch for the device's memory")
    if not found.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    return found


def expected_of(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    x, bias, scores = inputs["x"], inputs["bias"], inputs["scores"]
    return [
        *reference.softmax_topk(x, 8, bias=bias, temperature=0.7, stats=True),
        *reference.softmax_topk(x, 8, mode="prob"),
        *reference.router_topk(scores, 6, zero_experts=16, renormalize=True, scale=2.5),
    ]


def inputs_of(rows: int, width: int) -> dict[str, np.ndarray]:
    shapes = {"x": (rows, width), "bias": (width,), "scores": (rows, 64)}
    return {name: (RANDOM.normal(size=shape) * 4).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "width"), SHAPES)
@pytest.mark.parametrize("dtype", ["Float32", "Bfloat16"])
def test_the_driver_runs_the_ptx_as_tensorrt_would(torch: Any, rows: int, width: int, dtype: str) -> None:
    variant = Variant("softmax_topk", has_bias=True, has_more=True)
    kind = torch.float32 if dtype == "Float32" else torch.bfloat16
    x, bias = (torch.randn(shape, device="cuda") * 4 for shape in ((rows, width), (width,)))
    x = x.to(kind)
    outputs = [
        torch.empty(rows, 8, device="cuda"),
        torch.empty(rows, 8, dtype=torch.int32, device="cuda"),
        *(torch.empty(rows, device="cuda") for _ in range(2)),
    ]
    given = {"k": 8, "axis": -1, "mode": "logprob", "temperature": 0.7}
    extras = [width, *quick.whole_arguments(variant, given), 1]
    arguments = [ctypes.c_uint64(tensor.data_ptr()) for tensor in (x, bias)]
    arguments += [ctypes.c_int32(extra) for extra in extras]
    arguments += [ctypes.c_uint64(tensor.data_ptr()) for tensor in outputs]
    pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(each) for each in arguments))
    driver = ctypes.CDLL("libcuda.so.1")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert driver.cuModuleLoadData(ctypes.byref(module), quick.ptx(variant, dtype).encode()) == 0
    name = quick.entry_name(variant).encode()
    assert driver.cuModuleGetFunction(ctypes.byref(function), module, name) == 0
    shared = quick.ROW_SHARED_BYTES
    assert driver.cuLaunchKernel(function, rows, 1, 1, quick.ROW_THREADS, 1, 1, shared, None, pointers, None) == 0
    torch.cuda.synchronize()
    expected = reference.softmax_topk(x.float().cpu().numpy(), 8, bias=bias.cpu().numpy(), temperature=0.7, stats=True)
    np.testing.assert_array_equal(outputs[1].cpu().numpy(), expected[1])
    for found, other in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(found.cpu().numpy(), other, rtol=4e-6, atol=3e-6)
    driver.cuModuleUnload(module)


@pytest.fixture(scope="module")
def tensorrt() -> Any:
    about = "would have checked: an engine with every HARS plugin, in either packaging, gives the reference"
    found = pytest.importorskip("tensorrt", reason=f"needs TensorRT; {about}")
    if found.get_plugin_registry() is None:
        pytest.skip(f"needs the TensorRT library; {about}")
    return found


@pytest.fixture(params=["quick plugin", "plugin library"])
def plugins(request: pytest.FixtureRequest, tensorrt: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same nodes with either packaging."""
    if request.param == "quick plugin":
        quick.register()
        yield
        return
    headers = os.environ.get("TENSORRT_HEADERS")
    if headers is None:
        pytest.skip("TENSORRT_HEADERS names no folder with NvInferRuntime.h")
    library = build_plugin(headers, tmp_path_factory.mktemp("plugin") / "libhars.so", cuda_build.capabilities())
    registry = tensorrt.get_plugin_registry()
    handle = registry.load_library(str(library))
    yield
    registry.deregister_library(handle)


@pytest.mark.tensorrt
@pytest.mark.usefixtures("plugins")
def test_an_engine_gives_the_reference(tensorrt: Any, torch: Any) -> None:
    model = ir.from_onnx_text(TEXT)
    for_tensorrt(model)
    engine = build(tensorrt, ir.to_proto(model).SerializeToString())
    context = engine.create_execution_context()
    for rows, width in SHAPES:
        inputs = inputs_of(rows, width)
        found = run(tensorrt, torch, engine, context, inputs)
        names = [value.name for value in model.graph.outputs]
        for name, expected in zip(names, expected_of(inputs), strict=True):
            np.testing.assert_allclose(found[name], expected, rtol=4e-6, atol=3e-6, err_msg=str(name))


def build(trt: Any, content: bytes) -> Any:
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(content), [parser.get_error(i).desc() for i in range(parser.num_errors)]
    profile = builder.create_optimization_profile()
    for name, rest in (("x", None), ("scores", 64)):
        profile.set_shape(name, (1, rest or 1000), (7, rest or 4099), (64, rest or 128256))
    profile.set_shape("bias", (1000,), (4099,), (128256,))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return trt.Runtime(logger).deserialize_cuda_engine(plan)


def run(trt: Any, torch: Any, engine: Any, context: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    held = {name: torch.from_numpy(array).cuda() for name, array in inputs.items()}
    for name, tensor in held.items():
        context.set_input_shape(name, tuple(tensor.shape))
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    for name in names:
        if name not in held:
            kind = torch.int64 if engine.get_tensor_dtype(name) == trt.int64 else torch.float32
            held[name] = torch.empty(tuple(context.get_tensor_shape(name)), dtype=kind, device="cuda")
        context.set_tensor_address(name, held[name].data_ptr())
    stream = torch.cuda.Stream()
    assert context.execute_async_v3(stream.cuda_stream)
    stream.synchronize()
    return {name: tensor.cpu().numpy() for name, tensor in held.items() if name not in inputs}
