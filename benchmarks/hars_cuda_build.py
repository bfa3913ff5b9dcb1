"""What the compiler makes of the CUDA kernels: registers, spills, stack and shared memory of each, by architecture.

    python benchmarks/hars_cuda_build.py [--json]

Needs nvcc, and no GPU. Prints a table, or JSON.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

KERNELS = Path(__file__).parents[1] / "graphwright/plugins/hars/cuda"
# The longest to compile first.
SOURCES = ("softmax_topk.cu", "sample.cu", "router.cu", "beam.cu")
# compute_80 as PTX too, for what comes after the architectures known here.
ARCHITECTURES = {
    "sm_80": "arch=compute_80,code=[sm_80,compute_80]",
    "sm_90": "arch=compute_90,code=sm_90",
    "sm_100": "arch=compute_100,code=sm_100",
}
Figures = dict[str, str | int]

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(sm_\d+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")
# Of a mangled name: the kernel, and the arguments of its template.
_KERNEL = re.compile(r"(softmax_topk_warp|softmax_topk_block|router_topk|beam_merge|sample)(?=I|E)")
_TYPE = re.compile(r"\d(Float32|Float16|Bfloat16)")


def kernel_name(mangled: str) -> str:
    """Return a readable name: the kernel, the type of the logits, and whether a bias or a temperature edits them."""
    names = _KERNEL.findall(mangled)
    kind = _TYPE.search(mangled)
    parts = [names[-1] if names else mangled, *([kind[1]] if kind else []), *(["edited"] if "Lb1E" in mangled else [])]
    return " ".join(parts)


def read_report(report: str) -> list[Figures]:
    """Return the figures of each kernel that ptxas -v tells of."""
    found: list[Figures] = []
    for line in report.splitlines():
        if entry := _ENTRY.search(line):
            found.append({"kernel": kernel_name(entry[1]), "architecture": entry[2]})
        elif stack := _STACK.search(line):
            names = ("stack_bytes", "spill_store_bytes", "spill_load_bytes")
            found[-1] |= dict(zip(names, map(int, stack.groups()), strict=True))
        elif used := _USED.search(line):
            found[-1] |= {"registers": int(used[1]), "static_shared_bytes": int(used[2] or 0)}
    return found


def compile_one(nvcc: str, source: str, architecture: str, folder: Path) -> list[Figures]:
    """Compile one file for one architecture; warnings are errors."""
    target = folder / f"{source}.{architecture}.fatbin"
    options = ["-std=c++17", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings", "-fatbin"]
    command = [nvcc, *options, "-gencode", ARCHITECTURES[architecture], str(KERNELS / source), "-o", str(target)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{source} for {architecture}: {run.stderr[-2000:]}")
    return [{"source": source} | figures for figures in read_report(run.stderr)]


def compile_all(nvcc: str, workers: int = 2) -> list[Figures]:
    """Return the figures of every kernel for every architecture."""
    jobs = [(source, architecture) for source in SOURCES for architecture in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        reports = pool.map(lambda job: compile_one(nvcc, *job, Path(folder)), jobs)
        return [figures for report in reports for figures in report]


def table(figures: list[Figures]) -> str:
    """Return the figures as text, one kernel a line."""
    lines = [f"{'kernel':34} {'architecture':12} registers  spills  stack  shared"]
    for one in figures:
        spills = int(one["spill_store_bytes"]) + int(one["spill_load_bytes"])
        lines.append(
            f"{one['kernel']:34} {one['architecture']:12} {one['registers']:9}  {spills:6}  "
            f"{one['stack_bytes']:5}  {one['static_shared_bytes']:6}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON, for benchmarks/results")
    is_json = parser.parse_args().json
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        reason = "no nvcc on the PATH"
        print(json.dumps({"measured": False, "reason": reason}, indent=1) if is_json else f"not measured: {reason}")
        sys.exit(0)
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    figures = compile_all(nvcc)
    release = re.search(r"V[\d.]+", version)
    result = {"measured": True, "nvcc": release[0] if release else "", "kernels": figures}
    print(json.dumps(result, indent=1) if is_json else table(figures))


if __name__ == "__main__":
    main()
