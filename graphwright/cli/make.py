"""The verbs that make something: export, optimize."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphwright.cli import options
from graphwright.cli.output import note, say, say_json

if TYPE_CHECKING:
    from graphwright.compilation.settings import Settings

Output = Annotated[Path, typer.Option("-o", "--output", help="Where the result goes.")]


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
    precision: Annotated[str, typer.Option(help="fp32; others are to come.")] = "fp32",
    stop_after: Annotated[int | None, typer.Option(min=0, help="Make the first N applications only.")] = None,
    print_changes: Annotated[
        bool, typer.Option("--print-changes", help="A diff after each pass, on stderr.")
    ] = False,
    gs_script: options.Scripts = None,
    explain: Annotated[
        str | None, typer.Option(metavar="RULE", help="Also print why this rule did not fire.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the report as HTML.")] = None,
    padding: Annotated[str, typer.Option(help="keep; free is to come.")] = "keep",
    tune: Annotated[bool, typer.Option("--tune", help="Measure alternatives; to come.")] = False,
    failure_dir: Annotated[Path, typer.Option(help="Where a failed check leaves its case.")] = Path(
        "graphwright-failure"
    ),
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Optimize a model, check the result by numbers and write an artifact's folder."""
    from graphwright.compilation.settings import Settings
    from graphwright.folder import check_target
    from graphwright.optimize import compile_model

    check_target(output)
    settings = Settings(
        profile=profile,
        task=task,
        target=target,
        passes=passes,
        precision=precision,
        verify=verify,
        tune=tune,
        padding=padding,
        progress=False if quiet else None,
        stop_after=stop_after,
        print_changes=print_changes,
        scripts=tuple(gs_script or ()),
        staging=output.absolute().parent,
        failure_dir=failure_dir,
    )
    artifact = compile_model(model, None, settings)
    artifact.save(output)
    if html is not None:
        artifact.report.to_html(html)
    if as_json:
        say_json(
            {"output": str(output), "files": artifact.manifest["files"], "report": artifact.report.to_json()}
        )
        return
    if not quiet:
        say(artifact.report.table())
    if explain is not None:
        _explain(model, explain, settings)
    note(f"wrote {output}")


def _explain(model: str, rule: str, settings: "Settings") -> None:
    from graphwright.cli.check import print_misses
    from graphwright.diagnose import explain_source
    from graphwright.optimize import load_source

    source = load_source(model, profile=settings.profile, task=settings.task)
    print_misses(explain_source(source, rule, settings))


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
        ),
    ),
)
