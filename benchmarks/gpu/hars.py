"""The HARS kernels on an NVIDIA GPU, beside torch and a Triton single pass, against the speed of a copy.

Every contender is a CUDA graph. "warm": the call many times in one graph, per call; what fits in the L2 cache is there,
as logits are that a matrix product just wrote. "cold": the call alone in a graph, after the L2 cache was filled with
other numbers; this holds the launch of the graph, which the contender "nothing" shows by itself. Contenders take turns
in every round; figures are medians. Bandwidth counts each logit once, that of a copy what it reads and writes.

    python benchmarks/gpu/hars.py [--json] [--rounds N]
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from graphwright.plugins.hars import cuda, cuda_build

Call = Callable[[], Any]

# (rows, width, k)
HEADS = tuple(
    (rows, width, k)
    for rows, width in ((1, 128256), (64, 128256), (512, 32000), (512, 128256), (512, 256000))
    for k in (8, 64)
)
# (experts, k)
ROUTERS = ((8, 2), (128, 8), (256, 8), (768, 12))
TOKENS = (1, 64, 4096, 16384)
# A graph of repeated calls runs about this long, in microseconds, and holds at most so many calls.
LONG_ENOUGH, MOST_CALLS = 300.0, 30
# The goals: the share of a copy's bandwidth, and microseconds in a graph.
GOAL_SHARE, GOAL_ROW = 0.6, 8.0
OURS, OURS_PLAIN, COPY = "hars log-probabilities", "hars logits", "copy"


@dataclass(frozen=True)
class Figure:
    """What a contender took, in microseconds."""

    case: str
    contender: str
    warm: float
    warm_p10: float
    warm_p90: float
    cold: float
    cold_p10: float
    cold_p90: float
    bytes: int

    @property
    def bandwidth(self) -> float:
        """GB/s from a cold cache."""
        return self.bytes / self.cold / 1e3


class Bench:
    """A device, with memory to empty its cache."""

    def __init__(self, rounds: int) -> None:
        import torch

        gc.freeze()  # torch collects garbage before each capture: now there is little to look through
        self.torch = torch
        self.rounds = rounds
        size = 2 * torch.cuda.get_device_properties(0).L2_cache_size + 2**25
        self.written, self.read = torch.ones(2, size // 4, dtype=torch.int32, device="cuda")

    def empty_cache(self) -> None:
        """Fill the cache with what nobody else wants; read last, since written lines would cost the next one time."""
        self.written.fill_(1)
        self.read.max()

    def graph(self, call: Call, times: int) -> Any:
        """Return the call, so many times, as a CUDA graph."""
        graph = self.torch.cuda.CUDAGraph()
        self.torch.cuda.synchronize()
        with self.torch.cuda.graph(graph):
            for _ in range(times):
                call()
        return graph

    def microseconds(self, before: Call, call: Call) -> float:
        """Time a call on the device; ``before`` keeps it busy until the call has been launched."""
        started, ended = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        before()
        started.record()
        call()
        ended.record()
        ended.synchronize()
        return float(started.elapsed_time(ended)) * 1e3

    def measure(self, case: str, contenders: dict[str, tuple[Call, int]]) -> list[Figure]:
        """Time contenders, given with the bytes that they move, against each other."""
        print(f"timing {case}", file=sys.stderr)
        single, many, counts = {}, {}, {}
        for name, (call, _) in contenders.items():
            for _ in range(2):
                call()
            single[name] = self.graph(call, 1)
            took = min(self.microseconds(single[name].replay, single[name].replay) for _ in range(3))
            counts[name] = max(1, min(MOST_CALLS, round(LONG_ENOUGH / took)))
            many[name] = self.graph(call, counts[name])
        warm: dict[str, list[float]] = {name: [] for name in contenders}
        cold: dict[str, list[float]] = {name: [] for name in contenders}
        names = list(contenders)
        for turn in range(self.rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                warm[name].append(self.microseconds(many[name].replay, many[name].replay) / counts[name])
                cold[name].append(self.microseconds(self.empty_cache, single[name].replay))
        return [
            Figure(case, name, *spread(warm[name]), *spread(cold[name]), moved)
            for name, (_, moved) in contenders.items()
        ]


def spread(times: list[float]) -> tuple[float, float, float]:
    """Return the median, and the tenths at both ends."""
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return statistics.median(times), tenths[0], tenths[-1]


def rival() -> Any:
    """Return the Triton kernels, or nothing where Triton is not there."""
    try:
        import triton_topk
    except ImportError as error:
        print(f"no Triton: {error}", file=sys.stderr)
        return None
    return triton_topk


def quickest(bench: Bench, calls: list[Call]) -> Call:
    """Return the call that takes least."""
    for call in calls:
        call()
    graphs = [bench.graph(call, 5) for call in calls]
    times = [min(bench.microseconds(graph.replay, graph.replay) for _ in range(5)) for graph in graphs]
    return calls[times.index(min(times))]


def heads(bench: Bench) -> Iterator[Figure]:
    """Time the output layer's softmax + top-k."""
    torch, triton_topk = bench.torch, rival()
    for dtype in (torch.bfloat16, torch.float32):
        for rows, width, k in HEADS:
            logits = (torch.randn(rows, width, device="cuda") * 3).to(dtype)
            size = logits.numel() * logits.element_size()
            target, one = torch.empty_like(logits), torch.zeros(1, device="cuda")
            calls: dict[str, tuple[Call, int]] = {
                OURS: (partial(cuda.softmax_topk, logits, k, stats=True), size),
                OURS_PLAIN: (partial(cuda.softmax_topk, logits, k, mode="logit"), size),
                "torch log_softmax, topk": (partial(torch_log_topk, torch, logits, k), size),
                "torch topk": (partial(torch.topk, logits, k), size),
            }
            if triton_topk is not None:
                for name, with_sum in (("triton log-probabilities", True), ("triton logits", False)):
                    options = [
                        partial(triton_topk.softmax_topk, logits, k, with_sum, choice) for choice in triton_topk.CHOICES
                    ]
                    calls[name] = quickest(bench, options), size
            check_head(bench, logits, k, {name: call() for name, (call, _) in calls.items()})
            calls[COPY] = partial(target.copy_, logits), 2 * size
            calls["copy by a kernel"] = partial(torch.mul, logits, 1, out=target), 2 * size
            calls["nothing"] = partial(one.fill_, 1.0), 0
            yield from bench.measure(head_name(rows, width, k, dtype), calls)


def head_name(rows: int, width: int, k: int, dtype: Any) -> str:
    """Return a case's name."""
    return f"{rows} x {width}, k={k}, {str(dtype).removeprefix('torch.')}"


def torch_log_topk(torch: Any, logits: Any, k: int) -> tuple[Any, Any]:
    """Return log-probabilities as accurate as ours: torch computes in the dtype that it is given."""
    found: tuple[Any, Any] = torch.log_softmax(logits, -1, dtype=torch.float32).topk(k)
    return found


def check_head(bench: Bench, logits: Any, k: int, found: dict[str, tuple[Any, ...]]) -> None:
    """Stop if a contender gives other numbers."""
    torch = bench.torch
    right = torch.topk(logits.float(), k).values
    for name, (values, indices, *_) in found.items():
        if not torch.equal(torch.gather(logits.float(), -1, indices), right):
            raise SystemExit(f"{name}: wrong indices")
        expected = right
        if "log-" in name or "log_" in name:
            expected = right - torch.logsumexp(logits.double(), -1, keepdim=True)
        if not torch.allclose(values.double(), expected.double(), rtol=0, atol=1e-4):
            raise SystemExit(f"{name}: wrong values")


def routers(bench: Bench) -> Iterator[Figure]:
    """Time the choice of experts."""
    torch = bench.torch
    bias = {experts: torch.randn(experts, device="cuda") * 0.1 for experts, _ in ROUTERS}
    for experts, k in ROUTERS:
        for tokens in TOKENS:
            scores = torch.randn(tokens, experts, device="cuda").to(torch.bfloat16)
            size = scores.numel() * 2 + tokens * k * 12
            calls: dict[str, tuple[Call, int]] = {
                "hars softmax": (partial(cuda.router_topk, scores, k, renormalize=True), size),
                "torch softmax": (partial(torch_softmax, torch, scores, k), size),
                "hars sigmoid, bias": (
                    partial(cuda.router_topk, scores, k, bias=bias[experts], scoring="sigmoid", renormalize=True),
                    size,
                ),
                "torch sigmoid, bias": (partial(torch_sigmoid, torch, scores, k, bias[experts]), size),
            }
            yield from bench.measure(f"{tokens} tokens, E={experts}, k={k}, bfloat16", calls)


def torch_softmax(torch: Any, scores: Any, k: int) -> tuple[Any, Any]:
    """Return the experts of Mixtral."""
    weights, experts = torch.softmax(scores, -1, dtype=torch.float32).topk(k)
    return weights / weights.sum(-1, keepdim=True), experts


def torch_sigmoid(torch: Any, scores: Any, k: int, bias: Any) -> tuple[Any, Any]:
    """Return the experts of DeepSeek-V3, without groups."""
    shares = torch.sigmoid(scores.float())
    experts = (shares + bias).topk(k).indices
    weights = shares.gather(-1, experts)
    return weights / weights.sum(-1, keepdim=True), experts


def limit(bench: Bench) -> list[Figure]:
    """Time copies of 1 GiB: what the memory can do."""
    torch = bench.torch
    source, target = torch.randn(2, 2**28, device="cuda")
    moved = 2 * source.numel() * 4
    calls: dict[str, tuple[Call, int]] = {
        COPY: (partial(target.copy_, source), moved),
        "copy by a kernel": (partial(torch.mul, source, 1, out=target), moved),
    }
    return bench.measure("1 GiB", calls)


def goals(figures: list[Figure]) -> list[dict[str, Any]]:
    """Return each goal with what was found; the best copy of any size is the standard."""
    best = best_copy(figures)
    found = {(each.case, each.contender): each for each in figures}
    results: list[dict[str, Any]] = []
    for dtype in ("bfloat16", "float32"):
        share = found[head_name(512, 128256, 64, dtype), OURS].bandwidth / best
        text = f"512 x 128256, k=64, {dtype}: share of the copy bandwidth, cold, at least"
        results.append({"goal": text, "needed": GOAL_SHARE, "found": round(share, 3), "met": share >= GOAL_SHARE})
        took = found[head_name(1, 128256, 8, dtype), OURS].warm
        text = f"1 x 128256, k=8, {dtype}: microseconds in a CUDA graph, warm, at most"
        results.append({"goal": text, "needed": GOAL_ROW, "found": round(took, 2), "met": took <= GOAL_ROW})
    return results


def best_copy(figures: list[Figure]) -> float:
    """Return the bandwidth of the best copy of what does not fit into the cache, in GB/s."""
    return max(each.bandwidth for each in figures if each.contender.startswith(COPY) and each.bytes > 2**27)


def device(torch: Any) -> dict[str, Any]:
    """Return what a figure must be published with."""
    fields = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
    try:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "-i", "0"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        read = dict(zip(fields.split(","), (each.strip() for each in said.split(",")), strict=True))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        read = {"nvidia-smi": str(error)}
    about = torch.cuda.get_device_properties(0)
    return {
        "device": about.name,
        "multiprocessors": about.multi_processor_count,
        "l2_bytes": about.L2_cache_size,
        "cuda": torch.version.cuda,
        "nvidia_smi": read,
    }


def versions() -> dict[str, str]:
    """Return the versions of what runs."""
    found = {}
    for name in ("torch", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not there"
    return found


def missing() -> str:
    """Return why nothing can be measured here, or nothing."""
    if reason := cuda.why_not():
        return reason
    try:
        import torch
    except ImportError as error:
        return str(error)
    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


def measured(rounds: int) -> dict[str, Any]:
    """Return everything that is published."""
    bench = Bench(rounds)
    torch = bench.torch
    figures = [*limit(bench), *heads(bench), *routers(bench)]
    best = best_copy(figures)
    listed = [
        asdict(each) | {"gigabytes_per_second": round(each.bandwidth, 1), "of_copy": round(each.bandwidth / best, 4)}
        for each in figures
    ]
    return {
        "measured": True,
        **device(torch),
        "versions": versions(),
        "architectures": list(cuda_build.capabilities()),
        "rounds": rounds,
        "unit": "microseconds",
        "copy_gigabytes_per_second": round(best, 1),
        "goals": goals(figures),
        "figures": [
            {key: round(value, 3) if isinstance(value, float) else value for key, value in each.items()}
            for each in listed
        ],
    }


def show(result: dict[str, Any], file: Any) -> None:
    """Print the table."""
    if not result["measured"]:
        print(f"not measured: {result['reason']}", file=file)
        return
    case = ""
    for each in result["figures"]:
        if each["case"] != case:
            case = each["case"]
            print(f"\n{case}{'':{max(1, 44 - len(case))}}   warm us   cold us   GB/s cold  of copy", file=file)
        print(
            f"    {each['contender']:36}{each['warm']:14.2f}{each['cold']:10.2f}"
            f"{each['gigabytes_per_second']:12.0f}{each['of_copy']:9.2f}",
            file=file,
        )
    print(f"\n{result['device']}, copy {result['copy_gigabytes_per_second']:.0f} GB/s", file=file)
    for goal in result["goals"]:
        outcome = "met" if goal["met"] else "MISSED"
        print(f"{outcome:7} {goal['goal']} {goal['needed']}: {goal['found']}", file=file)


def in_lines(result: dict[str, Any]) -> str:
    """Return JSON with a line for each figure."""
    if "figures" not in result:
        return json.dumps(result, indent=2)
    lines = ",\n    ".join(json.dumps(each) for each in result["figures"])
    return json.dumps(result | {"figures": "HERE"}, indent=2).replace('"HERE"', f"[\n    {lines}\n  ]")


def main() -> None:
    """Measure, print a table, and with --json one JSON object to stdout (the table then goes to stderr)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of each case (default 30)")
    options = parser.parse_args()
    about = {"benchmark": "gpu/hars", "date": datetime.now(UTC).isoformat(timespec="seconds")}
    reason = missing()
    result = {**about, **({"measured": False, "reason": reason} if reason else measured(options.rounds))}
    show(result, sys.stderr if options.json else sys.stdout)
    if options.json:
        print(in_lines(result))


if __name__ == "__main__":
    main()
