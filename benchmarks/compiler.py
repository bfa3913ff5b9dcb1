"""Time of the compiler itself, by number of nodes: BERT of 13 to 106 layers through the default ort-cpu pipeline.

The graphs are what ``torch.onnx.export`` gives at opset 18 for a BERT of hidden size 64. The time holds the passes and
the final check by ONNX, and neither the tracing nor the verification by numbers.

    python benchmarks/compiler.py [--json] [--runs N]
"""

import argparse
import gc
import json
import statistics
import sys
import time
from typing import Any

import onnx_ir as ir
import transformers

from graphwright.bench import circumstances
from graphwright.engine.observe import Record
from graphwright.engine.pipeline import run_pipeline
from graphwright.engine.rewrite import Run
from graphwright.engine.structure import check_onnx
from graphwright.frontends.torch import trace
from graphwright.frontends.transformers import make_inputs
from graphwright.passes import CATALOGUE

LAYERS = (13, 26, 53, 106)
TARGET = "ort-cpu"


def bert(layers: int) -> ir.Model:
    """Return the graph of a BERT with this many layers, 64 wide, with random weights."""
    config = transformers.BertConfig(
        num_hidden_layers=layers, hidden_size=64, num_attention_heads=4, intermediate_size=128, vocab_size=100
    )
    module = transformers.BertModel(config).eval()
    return trace(module, make_inputs(module, "feature-extraction"), opset=18).model


def compile_once(source: ir.Model) -> tuple[float, dict[str, float], int]:
    """Return the seconds of one run with its final check, those of each pass, and the nodes that are left."""
    model, record = source.clone(), Record()
    started = time.perf_counter()
    model = run_pipeline(Run(model, [record]), CATALOGUE.default(TARGET))
    check_onnx(model)
    seconds = time.perf_counter() - started
    return seconds, {each.name: each.seconds for each in record.outcomes}, model.graph.num_nodes()


def measure(layers: int, runs: int) -> dict[str, Any]:
    """Return the median time for a BERT of this many layers."""
    print(f"tracing {layers} layers", file=sys.stderr)
    source = bert(layers)
    gc.collect()  # what the tracing left behind is not the compiler's time
    results = sorted((compile_once(source) for _ in range(runs)), key=lambda each: each[0])
    seconds, passes, after = results[len(results) // 2]
    before = source.graph.num_nodes()
    return {
        "layers": layers,
        "nodes_before": before,
        "nodes_after": after,
        "seconds": statistics.median(each[0] for each in results),
        "milliseconds_per_node": 1e3 * seconds / before,
        "passes": {name: round(value, 4) for name, value in passes.items()},
    }


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--runs", type=int, default=3, help="runs at each size (default 3)")
    options = parser.parse_args()
    rows = [measure(layers, options.runs) for layers in LAYERS]
    if options.json:
        about = circumstances(1, ("onnx", "onnx-ir"))
        print(json.dumps({"benchmark": "compiler", **about, "rows": rows}, indent=2))
        return
    for row in rows:
        print(
            f"{row['layers']:4} layers {row['nodes_before']:6} -> {row['nodes_after']:6} nodes "
            f"{row['seconds']:7.3f} s {row['milliseconds_per_node']:7.3f} ms a node"
        )
    slowest = sorted(rows[-1]["passes"].items(), key=lambda each: -each[1])[:5]
    print("slowest passes of the largest:", ", ".join(f"{name} {seconds:.3f} s" for name, seconds in slowest))


if __name__ == "__main__":
    main()
