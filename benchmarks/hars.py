"""HARS on the CPU against ONNX Runtime's TopK and Softmax + TopK, torch, and the limit: one maximum over the row.

Contenders take turns in one process. Idle threads sleep instead of spinning, since those of one would slow the next;
docs/design/0005-hars.md has figures with spinning threads too. "kernel" is the compiled function by itself, "custom
operator" the same inside an ONNX Runtime session, "hars.softmax_topk" the Python function with all its checks. Sessions
run with bound inputs and outputs, so that no copy and no allocation counts.

    python benchmarks/hars.py [--json] [--rounds N]
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

# Read when torch loads its threads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch

from graphwright.bench import circumstances, measure
from graphwright.engine.builder import Builder, Names
from graphwright.plugins import hars
from graphwright.plugins.hars import meaning, native
from graphwright.report import Latency
from graphwright.runtime.ort_load import to_proto

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Sizes, threads, and how many times faster than ONNX Runtime the kernel is to be."""

    rows: int
    width: int
    k: int
    threads: int
    with_normaliser: float
    without: float


# Speed goals of the project: at batch 1 on one thread, at batch 32 on two.
CASES = (
    *(Case(1, 128256, k, 1, 4.0, 8.0) for k in (1, 8, 64)),
    *(Case(32, 50257, k, 2, 5.0, 5.0) for k in (4, 50)),
    *(Case(1, width, 8, 1, 1.0, 1.0) for width in (1000, 8192, 32000)),
    # Routers of 1,024 tokens, and a classifier of 64 images: nowhere slower.
    *(Case(1024, width, k, 1, 1.0, 1.0) for width, k in ((8, 2), (64, 6), (128, 8))),
    Case(64, 1000, 5, 1, 1.0, 1.0),
)
OURS, LIMIT = "kernel", "maximum over the row"


def session(case: Case, record: Callable[[Builder, ir.Value], tuple[ir.Value, ...]], *, kernels: bool) -> Call:
    """Return a call of a session whose graph makes values and indices of ``x``, bound to fixed memory."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([case.rows, case.width]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 24, meaning.DOMAIN: 1}, name="g")
    model = ir.Model(graph, ir_version=10)
    op = Builder(Names(model), "b", {"": 24}, inline_constants=True)
    outputs = record(op, x)
    graph.extend(op.nodes)
    graph.outputs.extend(outputs)
    model.functions.update(op.functions)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if kernels:
        options.register_custom_ops_library(str(native.library_path()))
    made = onnxruntime.InferenceSession(to_proto(model).SerializeToString(), options)
    binding = made.io_binding()
    kept = [logits(case), np.empty((case.rows, case.k), np.float32), np.empty((case.rows, case.k), np.int64)]
    binding.bind_cpu_input("x", kept[0])
    for value, array in zip(outputs, kept[1:], strict=True):
        binding.bind_ortvalue_output(value.name or "", onnxruntime.OrtValue.ortvalue_from_numpy(array))
    return partial(_run, made, binding, kept)


def _run(made: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding, kept: list[np.ndarray]) -> None:
    made.run_with_iobinding(binding)


def logits(case: Case) -> np.ndarray:
    """Return the same normal numbers for each contender of a case."""
    return np.random.default_rng(0).standard_normal((case.rows, case.width), np.float32) * 3


def plain(case: Case, softmax: str) -> Callable[[Builder, ir.Value], tuple[ir.Value, ...]]:
    """Return what records [LogSoftmax or Softmax,] TopK."""

    def record(op: Builder, x: ir.Value) -> tuple[ir.Value, ...]:
        scores = getattr(op, softmax)(x, axis=-1) if softmax else x
        return tuple(op.TopK(scores, [case.k], _outputs=2))

    return record


def operator(case: Case, mode: str) -> Callable[[Builder, ir.Value], tuple[ir.Value, ...]]:
    """Return what records one hars::softmax_topk node."""
    return lambda op, x: meaning.call_softmax_topk(op, x, k=case.k, mode=mode)


def contenders(case: Case, mode: str) -> dict[str, Call]:
    """Return the calls of one case: with the normaliser (mode "prob") or without (mode "logit")."""
    x = logits(case)
    softmax = "Softmax" if mode == "prob" else ""
    tensor = torch.from_numpy(x)
    torch_call = partial(_torch_topk, tensor, case.k, bool(softmax))
    options: dict[str, Any] = {"mode": mode, "threads": case.threads}
    return {
        LIMIT: partial(np.max, x, axis=-1),
        OURS: kernel(case, x, mode),
        "custom operator": session(case, operator(case, mode), kernels=True),
        "hars.softmax_topk": partial(hars.softmax_topk, x, case.k, **options),
        f"ONNX Runtime {softmax + ' + ' if softmax else ''}TopK": session(case, plain(case, softmax), kernels=False),
        f"torch {'softmax + ' if softmax else ''}topk": torch_call,
    }


def kernel(case: Case, x: np.ndarray, mode: str) -> Call:
    """Return a call of the compiled function with its request made ahead."""
    sizes = (case.rows, case.width, 1)
    options: dict[str, Any] = {"mode": mode, "temperature": 1.0, "stats": False, "threads": case.threads}
    run, _ = native.prepare(x, None, None, k=case.k, axis_sizes=sizes, **options)
    return run


def _torch_topk(tensor: torch.Tensor, k: int, normalised: bool) -> object:
    with torch.inference_mode():
        return torch.topk(torch.softmax(tensor, -1) if normalised else tensor, k)


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure each case in both modes and compare with its goal."""
    found = []
    for case in CASES:
        torch.set_num_threads(case.threads)
        for mode, goal in (("prob", case.with_normaliser), ("logit", case.without)):
            name = f"{case.rows}x{case.width} k={case.k} {mode}, {case.threads} threads"
            print(f"timing {name}", file=sys.stderr)
            times = measure(contenders(case, mode), name, runs=rounds, pause=0.0)
            found.append({"case": name, "goal": goal, "ratio": round(ratio(times), 2), "milliseconds": times})
    return found


def ratio(times: list[Latency]) -> float:
    """Return how many times faster than ONNX Runtime the kernel is, by medians."""
    by_name = {each.contender: each.median for each in times}
    return next(value for name, value in by_name.items() if name.startswith("ONNX Runtime")) / by_name[OURS]


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=60, help="rounds of each case (default 60)")
    options = parser.parse_args()
    if not native.available():
        sys.exit(f"nothing to measure: {native.why_not()}")
    found = run(options.rounds)
    if options.json:
        for each in found:
            each["milliseconds"] = [vars(time) for time in each["milliseconds"]]
        packages = ("onnxruntime", "torch", "numpy")
        print(json.dumps({"benchmark": "hars", **circumstances(1, packages), "cases": found}, indent=2))
        return
    for each in found:
        met = "met" if each["ratio"] >= each["goal"] else "NOT MET"
        print(f"{each['case']}: {each['ratio']} times faster than ONNX Runtime; goal {each['goal']}: {met}")
        for time in each["milliseconds"]:
            print(f"    {time.contender:28}{1e3 * time.median:10.1f} us  (p10 {1e3 * time.p10:.1f})")


if __name__ == "__main__":
    main()
