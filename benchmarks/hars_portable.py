"""HARS in standard operators against what it replaces, in plain ONNX Runtime on the CPU, and the choices inside it.

Three parts: the whole operator, exact and as a graph is lowered, beside TopK alone and Softmax with TopK; the size of
the groups, and the row length from which groups pay; ways to sum a row. This is where the table in
graphwright/plugins/hars/row_split.py comes from. Idle threads sleep instead of spinning, since the spinning threads of
one session would slow the next.

    python benchmarks/hars_portable.py [--json] [--part whole|groups|sums] [--rounds N] [--threads N]
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
import onnxruntime

from graphwright.bench import circumstances, measure
from graphwright.engine.builder import Builder
from graphwright.plugins.hars import portable, row_split
from graphwright.plugins.hars.onnx_run import one_operator
from graphwright.report import Latency

# 50257 and 100003 are prime: their rows are padded. 250002 is the vocabulary of XLM-R.
WIDTHS, COUNTS, BATCHES = (8192, 32000, 50257, 100003, 128256, 250002), (1, 4, 8, 64), (1, 8, 32)
# Around the shortest row that is cut, for few k and for many.
CROSSOVERS = {1: (2048, 4096, 8192), 8: (4096, 8192, 16384), 64: (8192, 16384, 32768, 65536)}
GROUP_SIZES = (32, 48, 64, 96, 128, 192, 256, 384, 768)

Record = Callable[..., tuple[ir.Value, ...]]
Contenders = Mapping[str, ir.Model]


def model(record: Record, width: int, **options: object) -> ir.Model:
    """Return a model of one operator over float32 rows of this width."""
    return one_operator(record, ir.DataType.FLOAT, [None, width], None, options)


def session(given: ir.Model, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    proto = ir.to_proto(given).SerializeToString()
    return onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])


def topk(op: Builder, x: ir.Value, *, k: int) -> tuple[ir.Value, ...]:
    values, indices = op.TopK(x, [k], _outputs=2)
    return values, indices


def softmax_and_topk(op: Builder, x: ir.Value, *, k: int) -> tuple[ir.Value, ...]:
    return topk(op, op.Softmax(x, axis=-1), k=k)


def whole(width: int, k: int) -> Contenders:
    """Return the operator with and without a sum over the row, and what it replaces."""
    return {
        "TopK": model(topk, width, k=k),
        "Softmax, TopK": model(softmax_and_topk, width, k=k),
        "portable, logit": model(portable.softmax_topk, width, k=k, mode="logit"),
        "portable, logprob": model(portable.softmax_topk, width, k=k, mode="logprob"),
        "as lowered, logit": model(portable.softmax_topk, width, k=k, mode="logit", exact=False),
        "as lowered, prob": model(portable.softmax_topk, width, k=k, mode="prob", exact=False),
    }


def without_groups(width: int, k: int) -> Contenders:
    """Return the operator in groups and not, with the check for NaN and without."""

    def spelled(is_grouped: bool) -> ir.Model:
        with (
            patch.object(portable, "is_grouped", lambda *_: is_grouped),
            patch.object(row_split, "is_grouped", lambda *_: is_grouped),
            patch.object(row_split, "LONGEST_SOFTMAX", 0 if is_grouped else width),
        ):
            return model(portable.softmax_topk, width, k=k, mode="logit")

    unchecked = patch.object(portable, "_select", lambda op, row, probe, ranked: ranked(op))
    with unchecked:
        bare = spelled(True)
    return {"no groups": spelled(False), "groups": spelled(True), "groups, NaN not checked": bare}


def group_sizes(width: int, k: int) -> Contenders:
    """Return the operator with groups of each size that leaves two groups for each of the chosen."""
    found = {}
    for size in (size for size in GROUP_SIZES if width // size >= 2 * k):
        split = row_split.Split(-(-width // size), size)
        with patch.object(portable, "split_row", lambda *_, split=split, **__: split):
            found[f"groups of {size}"] = model(portable.softmax_topk, width, k=k, mode="logit")
    return found


def sums(width: int) -> Contenders:
    """Return ways to the logarithm of the sum of a row's exponentials."""

    def softmax(op: Builder, x: ir.Value) -> tuple[ir.Value, ...]:
        return (op.ReduceMax(op.Softmax(x, axis=-1), [1]),)

    def logsumexp(op: Builder, x: ir.Value) -> tuple[ir.Value, ...]:
        return (op.ReduceLogSumExp(x, [1]),)

    def parts(op: Builder, x: ir.Value) -> tuple[ir.Value, ...]:
        split = row_split.split_row(width, 8, is_summed=True) or row_split.Split(width // 64, 64)
        padding = split.groups * split.size - width
        wide = op.Pad(x, [0, 0, 0, padding], -np.inf) if padding else x
        powers = op.Exp(op.Sub(wide, op.ReduceMax(wide, [1])))
        by_group = op.ReduceSum(op.Reshape(powers, [0, split.groups, split.size]), [2], keepdims=0)
        return (op.Log(op.ReduceSum(op.Cast(by_group, to=ir.DataType.DOUBLE.value), [1])),)

    spelled = {"Softmax, ReduceMax": softmax, "Sub, Exp, ReduceSum": parts, "ReduceLogSumExp": logsumexp}
    return {name: model(record, width) for name, record in spelled.items()}


def cases(part: str) -> Iterator[tuple[str, int, int, Contenders]]:
    """Yield the name, width and batch of each comparison, with its contenders."""
    if part in ("whole", "all"):
        for width in WIDTHS:
            for k in COUNTS:
                for batch in BATCHES:
                    yield f"whole [{batch}, {width}] k={k}", width, batch, whole(width, k)
    if part in ("groups", "all"):
        for k, widths in CROSSOVERS.items():
            for width in widths:
                for batch in (1, 8):
                    yield f"crossover [{batch}, {width}] k={k}", width, batch, without_groups(width, k)
        for k in COUNTS:
            yield f"sizes [1, 128256] k={k}", 128256, 1, group_sizes(128256, k)
    if part in ("sums", "all"):
        for width, batch in ((2048, 1), (2048, 8), (32000, 1), (50257, 8), (128256, 1)):
            yield f"sums [{batch}, {width}]", width, batch, sums(width)


def latencies(part: str, threads: int, rounds: int) -> list[Latency]:
    """Measure the contenders of each comparison in turns."""
    random = np.random.default_rng(0)
    found: list[Latency] = []
    for name, width, batch, contenders in cases(part):
        print(f"timing {name}", file=sys.stderr)
        inputs = {"logits": random.standard_normal((batch, width), np.float32)}
        calls = {who: partial(session(each, threads).run, None, inputs) for who, each in contenders.items()}
        # No pause: nobody spins.
        found += measure(calls, name, runs=rounds, pause=0)
    return found


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--part", choices=("all", "whole", "groups", "sums"), default="all")
    parser.add_argument("--rounds", type=int, default=50, help="rounds of each comparison (default 50)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each session (default 1)")
    options = parser.parse_args()
    found = latencies(options.part, options.threads, options.rounds)
    if not options.json:
        for each in found:
            print(f"{each.shape:28}{each.contender:26}{1e3 * each.median:10.1f} us  (p10 {1e3 * each.p10:.1f})")
        return
    result = {
        "benchmark": "hars_portable",
        **circumstances(options.threads, ("onnxruntime", "onnx")),
        "milliseconds": [vars(each) for each in found],
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
