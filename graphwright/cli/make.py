"""The verbs that make something: export, optimize."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphwright.cli import options
from graphwright.cli.output import note, say, say_json, table

if TYPE_CHECKING:
    from graphwright.report import Report

Output = Annotated[Path, typer.Option("-o", "--output", help="Where the result goes.")]
StopAfter = Annotated[int | None, typer.Option(min=0, help="Make the first N applications only.")]
PrintChanges = Annotated[bool, typer.Option("--print-changes", help="A diff after each pass, on stderr.")]
ExplainRule = Annotated[str | None, typer.Option(metavar="RULE", help="Also print why it did not fire.")]


def export(
    model: options.Model,
    output: Output,
    profile: options.ProfileText = None,
    task: options.Task = "auto",
    opset: Annotated[int | None, typer.Option(help="Refuse a result of another operator set.")] = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Trace a model and write it as ONNX, without optimizing it."""
    from graphwright.errors import UsageError
    from graphwright.frontends.onnx import save_onnx
    from graphwright.optimize import load_source
    from graphwright.report.measure import size_of

    if output.suffix != ".onnx":
        raise UsageError("--output", str(output), needed="a name that ends in .onnx")
    source = load_source(model, profile=profile, task=task)
    found = source.model.opset_imports.get("", 0)
    if opset is not None and found != opset:
        raise UsageError("--opset", f"{found} in the traced model", needed=str(opset))
    save_onnx(source.model, output)
    size = size_of(source.model)
    if as_json:
        say_json(
            {
                "output": str(output),
                "sha256": source.sha256,
                "opset": found,
                "nodes": size.nodes,
                "weight_bytes": size.weight_bytes,
                "task": source.task,
            }
        )
    else:
        say(f"{output}: {size.nodes} nodes, opset {found}, {size.weight_bytes / 2**20:.1f} MiB of weights")


def optimize(
    model: options.Model,
    output: Output,
    profile: options.ProfileText = None,
    task: options.Task = "auto",
    target: options.Target = "ort-cpu",
    passes: options.PassesText = None,
    verify: Annotated[str, typer.Option(help="off, final, region or each.")] = "final",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8 or fp8.")] = "fp32",
    stop_after: StopAfter = None,
    print_changes: PrintChanges = False,
    gs_script: options.Scripts = None,
    explain: ExplainRule = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report as HTML.")] = None,
    padding: options.Padding = "keep",
    tune: Annotated[bool, typer.Option("--tune", help="Time alternatives on this machine, keep the fastest.")] = False,
    tune_seconds: Annotated[float, typer.Option(help="What --tune may take for timing, about.")] = 60.0,
    tuning_cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Where --tune keeps its choices.")] = None,
    failure_dir: options.FailureFolder = options.FAILURE_FOLDER,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Optimize a model, check the result by numbers and write an artifact's folder."""
    from graphwright.compilation.settings import Settings
    from graphwright.optimize import compile_model

    _check_early(output, html, explain)
    shown = False if quiet else None
    common = Settings(profile, task, target, passes, precision, verify, tune, padding, shown)
    tools = replace(common, scripts=tuple(gs_script or ()), stop_after=stop_after, explain=explain)
    tools = replace(tools, tuning_seconds=tune_seconds, tuning_cache=tuning_cache)
    settings = replace(tools, print_changes=print_changes, staging=output.parent, failure_dir=failure_dir)
    artifact = compile_model(model, None, settings)
    artifact.save(output)
    note(f"wrote {output}")
    if html is not None:
        artifact.report.to_html(html)
    if as_json:
        report = artifact.report.to_json()
        say_json({"output": str(output), "files": artifact.manifest["files"], "report": report})
    else:
        _print_result(artifact.report, explain, quiet)


def _check_early(output: Path, html: Path | None, rule: str | None) -> None:
    """Refuse what would fail at the end of a long run."""
    from graphwright.errors import OutputError
    from graphwright.folder import check_target
    from graphwright.passes.discovery import catalogue
    from graphwright.report.html import environment

    check_target(output)
    if html is not None:
        environment()
        if not html.parent.is_dir():
            raise OutputError("--html", f"no folder {html.parent}", needed="a file in a folder that exists")
    if rule is not None:
        catalogue().find(rule)


def _print_result(report: "Report", rule: str | None, quiet: bool) -> None:
    if not quiet:
        say(report.table())
    if rule is None:
        return
    rows = [(one.node, one.reason, one.detail) for one in report.explanations if one.pass_name == rule]
    say(f"\n{rule} did not fire at:" if rows else f"\n{rule}: nothing else came near.")
    if rows:
        table(("node", "reason", "detail"), rows)


VERBS = (
    (
        "export",
        export,
        ("export model_folder -o model.onnx", "export model_folder -o model.onnx --task feature-extraction"),
    ),
    (
        "optimize",
        optimize,
        (
            "optimize model.onnx -o optimized",
            "optimize model_folder -o optimized --profile batch=1:8:32,seq=1:128:512 --html report.html",
            "optimize model.onnx -o optimized --passes default,-fuse-gelu --verify region",
            "optimize model.onnx -o optimized --profile batch=1:8:32,seq=1:128:512 --tune",
        ),
    ),
)
