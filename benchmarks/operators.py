"""Alternatives that a lowering chooses between, operator by operator, in plain ONNX Runtime on the CPU.

Each group computes the same numbers in several spellings; this is where the ort-cpu pipeline's choices come from.
ONNX Runtime's own fusions are off, so that each spelling is what runs. Idle threads sleep instead of spinning, since
the spinning threads of one session would slow the next.

    python benchmarks/operators.py [--json] [--rounds N] [--threads N]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from onnx.numpy_helper import from_array

from graphwright.bench import circumstances, measure
from graphwright.report import Latency

MICROSOFT = "com.microsoft"
HEADS, SIZE = 12, 32
NORM_SHAPES = ((1, 16, 384), (1, 128, 384), (8, 128, 384), (8, 128, 768), (1, 512, 1024))
ATTENTION_SHAPES = ((1, 16), (1, 128), (8, 128), (1, 512))

Nodes = Sequence[NodeProto]


def session(
    nodes: Nodes, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray], threads: int
) -> onnxruntime.InferenceSession:
    """Return a session of a graph that gives ``y``."""
    values = [
        make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    output = make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = make_graph(nodes, "g", values, [output], [from_array(array, name) for name, array in constants.items()])
    model = make_model(graph, opset_imports=[make_opsetid("", 24), make_opsetid(MICROSOFT, 1)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def residual_norms() -> dict[str, Nodes]:
    """Return the spellings of ``LayerNormalization(x + skip)``."""
    norm = make_node("LayerNormalization", ["t", "scale", "shift"], ["y"], epsilon=1e-6)
    inputs = ["x", "skip", "scale", "shift"]
    return {
        "SkipLayerNormalization": [make_node("SkipLayerNormalization", inputs, ["y"], domain=MICROSOFT, epsilon=1e-6)],
        "Add, LayerNormalization": [make_node("Add", ["x", "skip"], ["t"]), norm],
        "Sum, LayerNormalization": [make_node("Sum", ["x", "skip"], ["t"]), norm],
    }


def _split(name: str) -> list[NodeProto]:
    return [
        make_node("Reshape", [name, "split"], [f"{name}_split"]),
        make_node("Transpose", [f"{name}_split"], [f"{name}_heads"], perm=[0, 2, 1, 3]),
    ]


def attentions() -> dict[str, Nodes]:
    """Return the spellings of masked attention over [B, S, H*D], heads apart or together."""
    scale = 1 / SIZE**0.5
    heads = ["q_heads", "k_heads", "v_heads", "mask"]
    apart = [node for name in "qkv" for node in _split(name)]
    back = [
        make_node("Transpose", ["o"], ["o_rows"], perm=[0, 2, 1, 3]),
        make_node("Reshape", ["o_rows", "join"], ["y"]),
    ]
    products = [
        make_node("FusedMatMul", heads[:2], ["s"], domain=MICROSOFT, alpha=scale, transB=1),
        make_node("Add", ["s", "added"], ["m"]),
        make_node("Softmax", ["m"], ["p"], axis=-1),
        make_node("MatMul", ["p", "v_heads"], ["o"]),
    ]
    together = {"scale": scale, "q_num_heads": HEADS, "kv_num_heads": HEADS}
    return {
        "Attention, heads together": [make_node("Attention", ["q", "k", "v", "mask"], ["y"], **together)],
        "Attention, heads apart": [*apart, make_node("Attention", heads, ["o"], scale=scale), *back],
        "products and Softmax": [*apart, *products, *back],
    }


def measure_group(
    spellings: dict[str, Nodes],
    inputs: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
    name: str,
    threads: int,
    rounds: int,
) -> list[Latency]:
    """Time the spellings in turns, after comparing their numbers with the first one's."""
    print(f"timing {name}", file=sys.stderr)
    sessions = {who: session(nodes, inputs, constants, threads) for who, nodes in spellings.items()}
    expected, *others = (each.run(None, inputs)[0] for each in sessions.values())
    for other in others:
        np.testing.assert_allclose(other, expected, rtol=1e-4, atol=1e-4)
    return measure({who: partial(each.run, None, inputs) for who, each in sessions.items()}, name, runs=rounds)


def latencies(threads: int, rounds: int) -> list[Latency]:
    """Measure every group at its shapes."""
    random = np.random.default_rng(0)
    found: list[Latency] = []
    for shape in NORM_SHAPES:
        inputs = {name: random.standard_normal(shape, np.float32) for name in ("x", "skip")}
        constants = {"scale": np.ones(shape[-1:], np.float32), "shift": np.zeros(shape[-1:], np.float32)}
        found += measure_group(residual_norms(), inputs, constants, f"residual norm {list(shape)}", threads, rounds)
    for batch, length in ATTENTION_SHAPES:
        inputs = {name: random.standard_normal((batch, length, HEADS * SIZE), np.float32) for name in "qkv"}
        inputs["mask"] = np.ones((batch, 1, length, length), np.bool_)
        constants = {
            "split": np.array([0, 0, HEADS, SIZE]),
            "join": np.array([0, 0, HEADS * SIZE]),
            "added": np.zeros((batch, 1, 1, length), np.float32),
        }
        name = f"attention {[batch, length, HEADS * SIZE]}"
        found += measure_group(attentions(), inputs, constants, name, threads, rounds)
    return found


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=100, help="rounds of each group (default 100)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each session (default 2)")
    options = parser.parse_args()
    found = latencies(options.threads, options.rounds)
    if not options.json:
        for each in found:
            print(f"{each.shape:32}{each.contender:28}{1e3 * each.median:10.0f} us  (p10 {1e3 * each.p10:.0f})")
        return
    result = {
        "benchmark": "operators",
        **circumstances(options.threads, ("onnxruntime", "onnx")),
        "milliseconds": [vars(each) for each in found],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
