"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="An .onnx file, an artifact's folder or a saved Hugging Face folder.")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="An artifact's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
FAILURE_FOLDER = Path("graphwright-failure")
FailureFolder = Annotated[Path, typer.Option("--failure-dir", help="Where a failed check leaves its case.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no report.")]
ProfileText = Annotated[
    str | None,
    typer.Option("--profile", metavar="TEXT", help="Shapes, such as batch=1:8:32,seq=1:128:512 (min:opt:max)."),
]
Task = Annotated[str, typer.Option(help="The Hugging Face task, such as feature-extraction.")]
Target = Annotated[str, typer.Option(help="ort-cpu, ort-cuda, openvino, onnx or tensorrt.")]
PassesText = Annotated[
    str | None,
    typer.Option("--passes", metavar="TEXT", help="Pipeline text; default,-NAME takes a pass out."),
]
Padding = Annotated[str, typer.Option(help="keep, or free: zeros where the mask hides a token.")]
Scripts = Annotated[
    list[str] | None,
    typer.Option("--gs-script", metavar="FILE.py:FUNC", help="An onnx-graphsurgeon function to run first; repeatable."),
]
