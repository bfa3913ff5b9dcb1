"""One attention layer on the CPU: exact, in each spelling, and with DAMF's factors and linear softmax, interleaved.

The layer is x -> queries, keys, values -> attention -> output projection, of width 384 with 12 heads, batch 1, random
weights. Exact is ``Attention`` with the heads together (what the ort-cpu pipeline makes), apart, and as products and a
softmax; the gain is that of DAMF over the fastest of them at the same length. Every contender is a graph that ONNX
Runtime gets as graphwright's sessions give it, with the same threads.

    python benchmarks/damf.py [--json] [--rounds N] [--threads N ...] [--lengths N ...] [--seconds N]
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from graphwright.bench import circumstances, measure
from graphwright.engine.pipeline import Pipeline, run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.passes import CATALOGUE
from graphwright.report import Latency
from graphwright.runtime.ort import OrtSession
from graphwright.testing import model

WIDTH, HEADS = 384, 12
SIZE = WIDTH // HEADS
RANKS = (1, 4, 8)
LENGTHS = (128, 512, 2048, 8192)
# Goals: time at 8192 over that at 2048, and the gain over the fastest exact layer at 2048.
MOST_GROWTH, LEAST_GAIN = 4.6, 4.0

PROJECTIONS = " ".join(f"{name}m = MatMul(x, w{name}) {name} = Add({name}m, b{name})" for name in "qkv")
TOGETHER = f"a = Attention <q_num_heads = {HEADS}, kv_num_heads = {HEADS}{{causal}}> (q, k, v)"
APART = (
    " ".join(f"{name}s = Reshape({name}, split) {name}t = Transpose <perm = [0, 2, 1, 3]> ({name}s)" for name in "qkv")
    + " t = Attention <scale = 0.17677669{causal}> (qt, kt, vt)"
    + " s = Transpose <perm = [0, 2, 1, 3]> (t) a = Reshape(s, whole)"
)
FOLLOWING = "o = MatMul(a, wo) y = Add(o, bo)"


def source(attention: str) -> ir.Model:
    """Return the layer with the attention spelled in this way."""
    declared = ", ".join(f"float[{WIDTH},{WIDTH}] w{name}, float[{WIDTH}] b{name}" for name in "qkvo")
    shapes = f"int64[4] split = {{0, 0, {HEADS}, {SIZE}}}, int64[3] whole = {{0, 0, {WIDTH}}}"
    text = f"g (float[B,S,{WIDTH}] x) => (float[B,S,{WIDTH}] y) <{declared}, {shapes}>"
    made = model(f'<ir_version: 12, opset_import: ["": 24]> {text} {{ {PROJECTIONS} {attention} {FOLLOWING} }}')
    random = np.random.default_rng(0)
    for name, value in made.graph.initializers.items():
        if name.startswith(("w", "b")) and name != "whole":
            sizes = [int(size) for size in value.shape or ()]
            value.const_value = ir.tensor(random.normal(0, 1 / np.sqrt(WIDTH), sizes).astype(np.float32), name=name)
    return made


def after(given: ir.Model, pipeline: str) -> ir.Model:
    """Return the layer after some passes."""
    steps: Pipeline = CATALOGUE.parse(pipeline, "ort-cpu")
    return run_pipeline(Run(given.clone()), steps)


def contenders(threads: int, causal: bool) -> dict[str, OrtSession]:
    """Return a session for each form of the layer."""
    mark = ", is_causal = 1" if causal else ""
    together, apart = source(TOGETHER.format(causal=mark)), source(APART.format(causal=mark))
    models = {"exact, heads together": together, "exact, heads apart": apart}
    if not causal:
        models["exact, products"] = after(apart, "lower-attention")
    models |= {f"damf rank {rank}": after(together, f"damf(rank={rank})") for rank in RANKS}
    return {name: OrtSession(each, threads=threads) for name, each in models.items()}


def measured(options: argparse.Namespace) -> Iterator[tuple[int, Latency]]:
    """Yield the latency of each contender at each length, with the threads it had."""
    for threads in options.threads:
        sessions = contenders(threads, options.causal)
        for length in options.lengths:
            print(f"timing length {length} with {threads} threads", file=sys.stderr)
            x = np.random.default_rng(length).normal(size=(1, length, WIDTH)).astype(np.float32)
            calls: Mapping[str, Callable[[], Any]] = {
                name: partial(session, {"x": x}) for name, session in sessions.items()
            }
            found = measure(calls, str(length), runs=options.rounds, warmup=2, seconds=options.seconds)
            yield from ((threads, each) for each in found)


def ratios(latencies: list[tuple[int, Latency]]) -> list[dict[str, Any]]:
    """Return, for each number of threads and rank, the gain over the fastest exact layer and the growth by length."""
    medians = {(threads, each.contender, each.shape): each.median for threads, each in latencies}
    lengths = sorted({int(each.shape) for _, each in latencies})
    found = []
    for threads in sorted({threads for threads, _ in latencies}):
        for rank in RANKS:
            own = {length: medians[threads, f"damf rank {rank}", str(length)] for length in lengths}
            exact = {
                length: min(
                    median
                    for (other, name, shape), median in medians.items()
                    if other == threads and shape == str(length) and name.startswith("exact")
                )
                for length in lengths
            }
            gains = {str(length): round(exact[length] / own[length], 2) for length in lengths}
            growth = own[8192] / own[2048] if {2048, 8192} <= own.keys() else None
            found.append({"threads": threads, "rank": rank, "gain": gains, "growth_8192_over_2048": growth})
    return found


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--causal", action="store_true", help="each position sees those before it")
    parser.add_argument("--rounds", type=int, default=20, help="rounds at each length (default 20)")
    parser.add_argument("--seconds", type=float, default=120, help="at most this long for one length (default 120)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default 1 2)")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="lengths (default all)")
    options = parser.parse_args()
    latencies = list(measured(options))
    found = ratios(latencies)
    if options.json:
        result = {
            "benchmark": "damf",
            "layer": f"width {WIDTH}, {HEADS} heads, batch 1, {'causal' if options.causal else 'not causal'}",
            **circumstances(max(options.threads), ("onnxruntime", "onnx", "onnx-ir")),
            "milliseconds": [{"threads": threads, **vars(each)} for threads, each in latencies],
            "ratios": found,
        }
        print(json.dumps(result, indent=2))
        return
    for threads, each in latencies:
        spread = f"(p10 {each.p10:.2f}, p90 {each.p90:.2f})"
        print(f"{threads} threads, length {each.shape:>5}  {each.contender:24}{each.median:9.2f} ms  {spread}")
    for each in found:
        growth = each["growth_8192_over_2048"]
        goal = f", growth 8192/2048 {growth:.2f} (goal at most {MOST_GROWTH})" if growth else ""
        gains = ", ".join(f"{length}: {gain}x" for length, gain in each["gain"].items())
        print(f"{each['threads']} threads, rank {each['rank']}: gain {gains} (goal {LEAST_GAIN} at 2048){goal}")


if __name__ == "__main__":
    main()
