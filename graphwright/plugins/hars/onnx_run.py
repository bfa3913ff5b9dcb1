"""The HARS operators on arrays by ONNX Runtime: the function bodies ("body") and the fast form ("portable").

Each set of options has a model of one node, or of the fast form's nodes, with dynamic sizes in front of the row.
Sessions are kept; they know no compiled kernel, so what runs is what the file says.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.engine.builder import Builder, Names
from graphwright.plugins.hars import meaning, portable, portable_router
from graphwright.plugins.hars.arrays import BFLOAT16

# How many sessions are kept: one for each set of options, dtype, rank, length of a row and number of threads.
MOST_SESSIONS = 64
_RECORDS: dict[tuple[str, str], Callable[..., tuple[ir.Value, ...]]] = {
    ("softmax_topk", "body"): meaning.call_softmax_topk,
    ("softmax_topk", "portable"): portable.softmax_topk,
    ("router_topk", "body"): meaning.call_router_topk,
    ("router_topk", "portable"): portable_router.router_topk,
}


def softmax_topk(
    logits: np.ndarray,
    k: int,
    *,
    mode: str = "logprob",
    bias: np.ndarray | None = None,
    temperature: float = 1.0,
    axis: int = -1,
    stats: bool = False,
    implementation: str = "portable",
    threads: int = 1,
) -> tuple[np.ndarray, ...]:
    """Return values and indices of the ``k`` largest, with ``stats`` also maximum and log_sum.

    Shapes: as ``reference.softmax_topk``.
    Dtypes: logits float32, float16 or bfloat16; bias float32.

    Example:
        >>> values, indices = softmax_topk(np.log([[1.0, 3.0, 4.0]]).astype(np.float32), 2, mode="prob")
        >>> values.round(3).tolist(), indices.tolist()
        ([[0.5, 0.375]], [[2, 1]])
    """
    axis %= logits.ndim
    options = (("k", int(k)), ("axis", axis), ("mode", mode), ("temperature", float(temperature)), ("stats", stats))
    return _run("softmax_topk", implementation, logits, bias, axis, options, threads)


def router_topk(
    scores: np.ndarray,
    k: int,
    *,
    bias: np.ndarray | None = None,
    scoring: str = "softmax",
    renormalize: bool = False,
    scale: float = 1.0,
    zero_experts: int = 0,
    scale_zero_experts: bool = True,
    groups: int = 1,
    top_groups: int = 1,
    implementation: str = "portable",
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the weights and numbers of the ``k`` experts of each token, and the weight of its identity experts.

    Shapes: as ``reference.router_topk``.
    Dtypes: scores float32, float16 or bfloat16; bias float32.

    Example:
        >>> scores = np.log([[1.0, 2.0, 5.0]]).astype(np.float32)
        >>> weights, experts, identity = router_topk(scores, 2, zero_experts=1)
        >>> weights.round(3).tolist(), experts.tolist(), identity.round(3).tolist()
        ([[0.0, 0.25]], [[-1, 1]], [0.625])
    """
    options = (
        ("k", int(k)),
        ("scoring", scoring),
        ("renormalize", bool(renormalize)),
        ("scale", float(scale)),
        ("zero_experts", int(zero_experts)),
        ("scale_zero_experts", bool(scale_zero_experts)),
        ("groups", int(groups)),
        ("top_groups", int(top_groups)),
    )
    axis = scores.ndim - 1
    weights, chosen, *rest = _run("router_topk", implementation, scores, bias, axis, options, threads)
    identity = rest[0] if rest else np.zeros(scores.shape[:-1], np.float32)
    return weights, chosen, identity


Options = tuple[tuple[str, Any], ...]


def _run(
    operator: str,
    implementation: str,
    array: np.ndarray,
    bias: np.ndarray | None,
    axis: int,
    options: Options,
    threads: int,
) -> tuple[np.ndarray, ...]:
    row = array.ndim - axis
    sizes = tuple(size if place == axis else None for place, size in enumerate(array.shape))
    bias_sizes = None if bias is None else _broadcast_sizes(bias.shape, bias.ndim - row)
    dtype = ir.DataType.from_numpy(array.dtype)
    session = _session(operator, implementation, dtype, sizes, bias_sizes, options, threads)
    inputs = {"logits": _ort_value(array)}
    if bias is not None:
        inputs["bias"] = _ort_value(bias)
    return tuple(value.numpy() for value in session.run_with_ort_values(None, inputs))


def _broadcast_sizes(shape: Sequence[int], row: int) -> tuple[int | None, ...]:
    """What a session may rely on of a bias: the row's size, and the sizes of 1, which broadcast."""
    return tuple(size if place == row or size == 1 else None for place, size in enumerate(shape))


def _ort_value(array: np.ndarray) -> Any:
    import onnxruntime as ort

    array = np.ascontiguousarray(array).reshape(array.shape)
    if array.dtype != BFLOAT16:
        return ort.OrtValue.ortvalue_from_numpy(array)
    bits = array.view(np.uint16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, ir.DataType.BFLOAT16.value)


@lru_cache(maxsize=MOST_SESSIONS)
def _session(
    operator: str,
    implementation: str,
    dtype: ir.DataType,
    sizes: tuple[int | None, ...],
    bias_sizes: tuple[int | None, ...] | None,
    options: Options,
    threads: int,
) -> Any:
    import onnxruntime as ort

    model = one_operator(_RECORDS[operator, implementation], dtype, sizes, bias_sizes, dict(options))
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    proto = ir.to_proto(model)
    return ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def one_operator(
    record: Callable[..., tuple[ir.Value, ...]],
    dtype: ir.DataType,
    sizes: Sequence[int | None],
    bias_sizes: Sequence[int | None] | None,
    options: dict[str, Any],
) -> ir.Model:
    """Return a model of what ``record`` puts into a builder for one operator."""
    logits = ir.Value(name="logits", type=ir.TensorType(dtype), shape=ir.Shape(sizes))
    inputs = [logits]
    if bias_sizes is not None:
        inputs.append(ir.Value(name="bias", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(bias_sizes)))
    imports = {"": meaning.OPSET, meaning.DOMAIN: meaning.VERSION}
    graph = ir.Graph(inputs, [], nodes=[], opset_imports=imports, name="hars")
    model = ir.Model(graph, ir_version=10)
    builder = Builder(Names(model), "hars", imports)
    outputs = record(builder, *inputs, **options)
    graph.extend(builder.nodes)
    for value in builder.constants:
        graph.register_initializer(value)
    graph.outputs.extend(outputs)
    model.functions.update(builder.functions)
    return model
