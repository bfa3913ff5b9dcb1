"""The verbs that check: verify, explain, bisect."""

from pathlib import Path
from typing import Annotated

import typer

from graphwright.cli import options
from graphwright.cli.output import say, say_json, table
from graphwright.errors import UsageError


def verify(
    a: Annotated[str, typer.Argument(metavar="A", help="The model that is right.")],
    b: Annotated[str | None, typer.Argument(metavar="[B]", help="The model to compare with it.")] = None,
    target: Annotated[str | None, typer.Option(help="tensorrt: which nodes of A its parser would not take.")] = None,
    tensorrt_version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Of TensorRT, 10.16 to 11.4; with --target.")
    ] = None,
    profile: options.ProfileText = None,
    task: options.Task = "auto",
    inputs: Annotated[Path | None, typer.Option(metavar="FILE.npz", help="Compare on these arrays only.")] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="Allowed absolute difference; without it, by the table per type."),
    ] = None,
    padding: options.Padding = "keep",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Compare two models by numbers, or one with what a target takes. Exit code 1 where they differ, or it does not."""
    if target is not None or tensorrt_version is not None:
        _check_alone(b, target, inputs, tolerance)
        _verify_target(a, tensorrt_version or "11.4", profile, task, as_json)
        return
    if b is None:
        raise UsageError("verify", "one model", needed="two models to compare, or --target tensorrt")
    from graphwright.compare_models import compare_models

    found = compare_models(a, b, profile=profile, task=task, inputs=inputs, tolerance=tolerance, padding=padding)
    if as_json:
        say_json(found.to_json())
    else:
        rows = [(one.name, f"{one.absolute:.2e}", f"{one.relative:.2e}", one.detail or "same") for one in found.outputs]
        table(("output", "worst difference", "relative", "verdict"), rows, right=(1, 2))
        say(f"{'same' if found.is_same else 'different'} at {found.points} shapes")
        for text in found.skipped:
            say(f"skipped: {text}")
    if not found.is_same:
        raise typer.Exit(1)


def _check_alone(b: str | None, target: str | None, inputs: Path | None, tolerance: float | None) -> None:
    """Refuse what makes no sense beside ``--target``."""
    if target != "tensorrt":
        raise UsageError("--target", repr(target), needed="tensorrt: other targets take every model that runs")
    if b is not None or inputs is not None or tolerance is not None:
        raise UsageError("verify", "--target beside what compares numbers", needed="one of the two")


def _verify_target(model: str, version: str, profile: str | None, task: str, as_json: bool) -> None:
    from graphwright.diagnose import check_tensorrt

    found = check_tensorrt(model, version, profile=profile, task=task)
    if as_json:
        say_json({"model": model, **found.to_json()})
    elif found.is_whole:
        say(f"TensorRT {found.version} takes every node, by the table of its parser (no parser was run).")
    else:
        rows = [(each.node, each.source, each.reason, each.needed, each.hint) for each in found.unsupported]
        table(("node", "from", "found", "needed", "try"), rows)
        say(f"TensorRT {found.version} would not take {len(rows)} nodes, by the table of its parser.")
    if not found.is_whole:
        raise typer.Exit(1)


def explain(
    model: options.Model,
    rule: Annotated[str | None, typer.Option(metavar="RULE", help="Only about this pass.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what matched very little.")] = False,
    profile: options.ProfileText = None,
    task: options.Task = "auto",
    target: options.Target = "ort-cpu",
    passes: options.PassesText = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show what did not fuse: the node, the reason and what was needed, nearest misses first."""
    from graphwright.diagnose import explain as explain_model

    found = explain_model(model, rule, profile=profile, task=task, target=target, passes=passes, everything=everything)
    if as_json:
        say_json(found.to_json())
        return
    rows = [(miss.pass_name, miss.node, miss.found, miss.reason.name, miss.detail) for miss in found.misses]
    if rows:
        table(("pass", "node", "matched", "reason", "detail"), rows)
    else:
        say("Nothing came near.")
    if found.hidden:
        say(f"{found.hidden} further nodes matched too little to be listed (--all lists them).")


def bisect(
    model: options.Model,
    profile: options.ProfileText = None,
    task: options.Task = "auto",
    target: options.Target = "ort-cpu",
    passes: options.PassesText = None,
    gs_script: options.Scripts = None,
    failure_dir: options.FailureFolder = options.FAILURE_FOLDER,
    padding: options.Padding = "keep",
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Find the first application that changes the numbers, in few runs. Exit code 1 where there is one."""
    from graphwright.diagnose import bisect as find

    found = find(
        model,
        profile=profile,
        task=task,
        target=target,
        passes=passes,
        scripts=gs_script or (),
        failure_dir=failure_dir,
        padding=padding,
    )
    if as_json:
        say_json(found.to_json())
    else:
        say(str(found))
        if found.folder is not None:
            say(f"reproducer: {found.folder}")
    if found.application is not None:
        raise typer.Exit(1)


VERBS = (
    (
        "verify",
        verify,
        (
            "verify model.onnx optimized",
            "verify before.onnx after.onnx --inputs inputs.npz --json",
            "verify optimized --target tensorrt --tensorrt-version 10.16",
        ),
    ),
    ("explain", explain, ("explain model.onnx", "explain model.onnx --rule fuse-gelu")),
    (
        "bisect",
        bisect,
        ("bisect model.onnx", "bisect model.onnx --passes default --gs-script surgery.py:rewrite"),
    ),
)
