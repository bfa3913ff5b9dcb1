"""The verb that hands a model to a server: export-triton."""

from pathlib import Path
from typing import Annotated

import typer

from graphwright.cli import options
from graphwright.cli.output import note, one_line, say, say_json

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="An artifact's folder, or a .plan with its sidecar.")]
Repository = Annotated[Path, typer.Option("-o", "--output", metavar="REPO", help="The model repository.")]
MaxBatch = Annotated[
    int | None, typer.Option(min=0, help="At most so many rows in a batch; 0: no batching. Else what the profile has.")
]
Profiles = Annotated[
    list[int] | None, typer.Option("--profile-number", help="Serve this profile only, counted from 0; repeatable.")
]
Kernels = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="Take the compiled kernels along; the server sees REPO under this path."),
]


def export_triton(
    source: Source,
    output: Repository,
    name: Annotated[str | None, typer.Option(help="The model's name; else that of the folder or plan.")] = None,
    model_version: Annotated[int, typer.Option(help="The number of the version's folder.")] = 1,
    max_batch: MaxBatch = None,
    profile_number: Profiles = None,
    device: Annotated[str | None, typer.Option(help="cpu or gpu, where the target allows both.")] = None,
    instances: Annotated[int, typer.Option(min=1, help="Run so many at a time, on each device.")] = 1,
    gpu: Annotated[list[int] | None, typer.Option(min=0, help="Run on this GPU only; repeatable.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of each instance.")] = None,
    queue_delay: Annotated[int, typer.Option(min=0, help="Microseconds to wait for a fuller batch.")] = 0,
    with_kernels: Kernels = None,
    cuda_graphs: Annotated[bool, typer.Option("--cuda-graphs", help="Capture a plan's optimum shapes.")] = False,
    warmup: Annotated[bool, typer.Option("--warmup/--no-warmup", help="Run the profile's shapes at load.")] = True,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Compare rows in a batch with rows alone.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that version and the settings.")] = False,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write a model repository for Triton Inference Server: the model, and what its config.pbtxt has to say."""
    from graphwright.triton.export import export_triton as export
    from graphwright.triton.serving import Serving, as_device

    serving = Serving(
        max_batch=max_batch,
        profiles=profile_number,
        device=as_device(device),
        instances=instances,
        gpus=tuple(gpu or ()),
        threads=threads,
        queue_delay=queue_delay,
        kernels=with_kernels,
        cuda_graphs=cuda_graphs,
        warmup=warmup,
        check_rows=check,
    )
    made = export(source, output, serving, name=name, version=model_version, overwrite=overwrite)
    if as_json:
        say_json(made.to_json())
        return
    batch = f"batches of up to {made.max_batch}" if made.max_batch else "no batching"
    say(f"{made.folder}: version {made.version}, backend {made.backend}, {batch}")
    for file in made.files:
        say(f"  {file}")
    for text in made.notes:
        note(f"note: {one_line(text)}")


VERBS = (
    (
        "export-triton",
        export_triton,
        (
            "export-triton optimized -o models --name bert",
            "export-triton optimized -o models --max-batch 16 --queue-delay 200 --with-kernels /models",
            "export-triton bert.plan -o models --instances 2 --cuda-graphs",
        ),
    ),
)
