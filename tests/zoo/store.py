"""Exports made once and kept: each in a process of its own with a time limit, under build/zoo by version.

For each pair there is ``<family>.<exporter>.json`` (``{"ok": true}``, or the reason why not) and, where it worked,
``.onnx`` and ``.npz``; the latter holds inputs as ``in.<point>.<name>`` and torch's outputs as ``out.<point>.<name>``.
"""

import hashlib
import json
import multiprocessing
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tests.zoo import exporters, families
from tests.zoo.families import POINTS, Arrays, make_inputs

ROOT = Path(__file__).parents[2] / "build" / "zoo"
# Most exports take seconds; on a busy machine, minutes.
SECONDS = 300.0
PACKAGES = ("torch", "transformers", "onnxscript", "onnx-ir", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Stored:
    """One export: its file and its points where it worked, else the exporter's own words."""

    family: str
    exporter: str
    ok: bool
    reason: str
    seconds: float
    path: Path

    @property
    def points(self) -> list[tuple[Arrays, Arrays]]:
        """Pairs of inputs and torch's outputs, at sizes that were never traced."""
        found: dict[int, tuple[Arrays, Arrays]] = {}
        with np.load(self.path.with_suffix(".npz")) as file:
            for key in file.files:
                side, point, name = key.split(".", 2)
                found.setdefault(int(point), ({}, {}))[side == "out"][name] = file[key]
        return [found[point] for point in sorted(found)]


def versions() -> dict[str, str]:
    """The packages that an export depends on."""
    return {name: version(name) for name in PACKAGES}


def key() -> str:
    """A short name of these versions and of the text that makes the models."""
    text = json.dumps(versions(), sort_keys=True)
    for module in (families, exporters):
        text += Path(module.__file__ or "").read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def stored(family: str, exporter: str, folder: Path | None = None, seconds: float = SECONDS) -> Stored:
    """The export of this pair, made now where it is not there yet."""
    folder = folder or ROOT / key()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{family}.{exporter}.onnx"
    status = path.with_suffix(".json")
    if not status.exists():
        _write(status, _made(family, exporter, path, seconds))
    return Stored(family, exporter, path=path, **json.loads(status.read_text(encoding="utf-8")))


def _made(family: str, exporter: str, path: Path, seconds: float) -> dict[str, object]:
    """Export in a child process; a crash or too much time is a reason like any other."""
    # A fork has the packages that are already loaded; nothing else runs in the parent.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(family, exporter, path, sender))
    start = time.monotonic()
    child.start()
    sender.close()
    reason = f"no result within {seconds:g} s"
    try:
        if receiver.poll(seconds):
            reason = receiver.recv()
    except EOFError:
        reason = "the process ended without a word"
    child.kill()
    child.join()
    return {"ok": not reason, "reason": reason, "seconds": round(time.monotonic() - start, 1)}


def _child(family: str, exporter: str, path: Path, sender: Connection) -> None:
    try:
        export_to(family, exporter, path)
        sender.send("")
    except BaseException as error:
        sender.send(first_line(error))


def first_line(error: BaseException) -> str:
    """What the first cause says in its first line of text."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ["no message"]
    return f"{type(error).__name__}: {lines[0][:300]}"


def export_to(family: str, exporter: str, path: Path) -> None:
    """Write the model and its points; in this process, and whatever goes wrong is raised."""
    import onnx_ir as ir

    exported = exporters.export(family, exporter)
    arrays: Arrays = {}
    for number, sizes in enumerate(POINTS):
        inputs = make_inputs(family, sizes)
        arrays |= {f"in.{number}.{name}": array for name, array in inputs.items()}
        arrays |= {f"out.{number}.{name}": array for name, array in exported.reference(inputs).items()}
    ir.save(exported.model, path)
    with path.with_suffix(".npz").open("wb") as file:
        np.savez(file, **arrays)


def _write(path: Path, data: object) -> None:
    aside = path.with_suffix(f".{os.getpid()}")
    aside.write_text(json.dumps(data), encoding="utf-8")
    aside.replace(path)
