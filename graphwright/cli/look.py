"""The verbs that look and measure: inspect, bench, passes, doctor."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphwright.cli import options
from graphwright.cli.cost import damf_json, print_costs, print_damf_table
from graphwright.cli.output import note, one_line, say, say_json, table
from graphwright.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

    from graphwright.report import Latency
    from graphwright.runtime.bound import Which

_MIB = 2**20


def inspect(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="What optimize takes, or an artifact's folder.")
    ] = None,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost",
            help="Also count parameters, products, operations and memory traffic, by operator and by attention: as "
            "formulas in the names of sizes, and as numbers where --profile or the artifact gives sizes.",
        ),
    ] = False,
    expected: Annotated[
        bool,
        typer.Option(
            "--expected",
            help="Also compare what the model computes (attention, norm, rotary, activation, router) with what is "
            "fused of it, and tell why not. Torch counts what is expected while it runs; of an ONNX file, what is "
            "found and what is left over is shown.",
        ),
    ] = False,
    damf_table: Annotated[
        bool,
        typer.Option(
            "--damf-table", help="Print Table II of the DAMF paper and the formulas of its figures; no MODEL."
        ),
    ] = False,
    profile: options.ProfileText = None,
    task: options.Task = "auto",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show a model's inputs, outputs, operators and sizes, and what an artifact was made from.

    Costs: static MACs are products with weights, dynamic ones of activations with each other; the paper's dynamic MACs
    leave out the product with the values. --damf-table counts in three ways, and prints the formulas of each: paper
    (gives its figures), consistent (the same of all heads), complete (all products, and the linear form).
    """
    if damf_table != (model is None):
        found = f"MODEL {model} too" if model is not None else "no MODEL"
        needed = "MODEL, or --damf-table alone"
        raise UsageError("inspect", found, needed=needed, hint="graphwright inspect --help")
    if damf_table and (cost or expected or profile is not None or task != "auto"):
        raise UsageError(
            "inspect", "--cost, --expected, --profile or --task without MODEL", needed="--damf-table alone"
        )
    if model is not None:
        _inspect(model, cost, expected, profile, task, as_json)
    elif as_json:
        say_json(damf_json())
    else:
        print_damf_table()


def _inspect(model: str, cost: bool, expected: bool, profile: str | None, task: str, as_json: bool) -> None:
    from graphwright.folder import is_artifact, read_manifest
    from graphwright.optimize import load_source
    from graphwright.report.measure import size_of
    from graphwright.runtime.signature import inputs_of, outputs_of

    manifest = read_manifest(Path(model)) if is_artifact(Path(model)) else None
    source = load_source(model, profile=profile, task=task)
    size = size_of(source.model)
    data: dict[str, Any] = {
        "name": source.name if manifest is None else manifest.get("source", {}).get("name", source.name),
        "sha256": source.sha256,
        "opsets": dict(source.model.opset_imports),
        "inputs": [str(port) for port in inputs_of(source.model)],
        "outputs": [str(port) for port in outputs_of(source.model)],
        "nodes": size.nodes,
        "weight_bytes": size.weight_bytes,
        "operators": dict(size.operators),
    }
    if manifest is not None:
        data["artifact"] = {
            key: manifest.get(key) for key in ("target", "pipeline", "profile", "source", "verification")
        }
    if cost:
        data["cost"] = _cost(source.model, profile, manifest)
    if expected:
        from graphwright.coverage import cover

        data["coverage"] = cover(source).to_json()
    if as_json:
        say_json(data)
    else:
        _print_inspection(data)


def _print_inspection(data: dict[str, Any]) -> None:
    opsets = ", ".join(f"{name or 'ai.onnx'} {version}" for name, version in data["opsets"].items())
    weights = f"{data['weight_bytes'] / _MIB:.1f} MiB of weights"
    say(f"{data['name']}: {data['nodes']} nodes, {weights}, opsets: {opsets}")
    for kind in ("inputs", "outputs"):
        for port in data[kind]:
            say(f"  {kind[:-1]}  {port}")
    made = data.get("artifact")
    if made is not None:
        say(f"  target  {made['target']}\n  passes  {made['pipeline']}")
    rows = sorted(data["operators"].items(), key=lambda item: (-item[1], item[0]))
    table(("operator", "count"), rows, right=(1,))
    print_costs(data.get("cost", {}))
    _print_coverage(data.get("coverage"))


def _print_coverage(coverage: dict[str, Any] | None) -> None:
    """Print what is expected and found of each kind, then what is left over."""
    if coverage is None:
        return
    say("\nafter the lift passes and selections: what one operator says (found), what primitives spell (left over)")
    say("expected is what torch computes" if coverage["expected"] else "expected is not known: only torch counts it")
    expected, left = coverage["expected"], coverage["leftovers"]
    counts = {kind: sum(each["kind"] == kind for each in left) for kind in coverage["found"]}
    rows = [
        (kind, "?" if expected is None else expected[kind], found, counts[kind], one_line(coverage["reasons"][kind]))
        for kind, found in coverage["found"].items()
    ]
    table(("kind", "expected", "found", "left over", "first reason"), rows, right=(1, 2, 3))


def _cost(model: "ir.Model", profile: str | None, manifest: dict[str, Any] | None) -> dict[str, Any]:
    """The cost as formulas, and at each corner of the profile given, or of the artifact's own."""
    from graphwright.compilation.settings import as_profile
    from graphwright.engine.cost import cost_table
    from graphwright.runtime.bound import BoundProfile

    found = {"formulas": cost_table(model).to_json()}
    if profile is not None:
        bound = as_profile(profile).bind(model)
    elif manifest is not None:
        bound = BoundProfile.from_json(manifest["profile"])
    else:
        return found
    corners: tuple[Which, ...] = ("min", "opt", "max")
    return found | {which: cost_table(model, bound.sizes(which)).to_json() for which in corners}


def bench(
    folder: options.Folder,
    baseline: Annotated[str | None, typer.Option(help="A model to run in plain ONNX Runtime beside it.")] = None,
    shape: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Sizes, such as batch=1,seq=128; repeatable.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each session.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each contender at each shape.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.0, help="No more time than this for each shape.")] = 10.0,
    html: Annotated[
        Path | None, typer.Option(help="Also write the artifact's report with these times as HTML.")
    ] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Time an artifact, and a baseline beside it, in turns: medians, tenth and ninetieth percentiles."""
    from dataclasses import replace

    from graphwright.artifact import load
    from graphwright.bench import bench_artifact
    from graphwright.report.text import latency_text

    artifact = load(folder)
    shapes = shape or ()
    found = bench_artifact(artifact, baseline, shapes, threads=threads, runs=runs, seconds=seconds, tell=note)
    if html is not None:
        replace(artifact.report, latency=tuple(found)).to_html(html)
    if as_json:
        say_json({"threads": threads, "latency": [vars(one) for one in found], "ratios": _ratios(found)})
    else:
        say(latency_text(tuple(found)))


def _ratios(found: "list[Latency]") -> dict[str, float]:
    """Ours over the baseline, by shape; empty where there is none."""
    contenders = list(dict.fromkeys(one.contender for one in found))
    if len(contenders) < 2:
        return {}
    median = {(one.shape, one.contender): one.median for one in found}
    shapes = dict.fromkeys(one.shape for one in found)
    return {shape: median[shape, contenders[1]] / median[shape, contenders[0]] for shape in shapes}


def passes(
    name: Annotated[str | None, typer.Argument(help="Show all that is written about this pass.")] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """List the passes with their families, the targets that run them by default, and which change numbers by design."""
    from graphwright.passes.discovery import catalogue

    steps = catalogue().steps() if name is None else [catalogue().find(name)]
    rows: list[dict[str, Any]] = [
        {
            "name": step.name,
            "family": step.family,
            "default_in": [target for target, names in catalogue().defaults.items() if step.name in names],
            "changes_numbers": step.implementation.changes_numbers,
            "summary": next((line for line in step.implementation.doc.splitlines() if line.strip()), ""),
        }
        for step in steps
    ]
    if name is not None:
        doc = steps[0].implementation.doc.strip()
        say_json({**rows[0], "doc": doc}) if as_json else say(doc)
    elif as_json:
        say_json({"passes": rows})
    else:
        cells = [
            (
                row["name"],
                row["family"],
                ", ".join(row["default_in"]) or "-",
                "changed" if row["changes_numbers"] else "kept",
                row["summary"],
            )
            for row in rows
        ]
        table(("pass", "family", "default in", "numbers", "what it does"), cells)


def doctor(as_json: options.Json = False, debug: options.Debug = False) -> None:
    """Show what is installed, what is missing, and the command that installs it."""
    from graphwright.doctor import as_json as to_json
    from graphwright.doctor import examine

    findings = examine()
    if as_json:
        say_json(to_json(findings))
        return
    rows = [(one.name, one.found or "missing", one.purpose, "" if one.found else one.install) for one in findings]
    table(("", "found", "for", "to install"), rows)


VERBS = (
    (
        "inspect",
        inspect,
        (
            "inspect model.onnx",
            "inspect optimized --cost --profile batch=1:8:32,seq=1:128:512",
            "inspect bert-folder --expected",
            "inspect --damf-table",
        ),
    ),
    (
        "bench",
        bench,
        ("bench optimized", "bench optimized --baseline model.onnx --shape batch=8,seq=128 --threads 2"),
    ),
    ("passes", passes, ("passes", "passes fuse-gelu")),
    ("doctor", doctor, ("doctor", "doctor --json")),
)
