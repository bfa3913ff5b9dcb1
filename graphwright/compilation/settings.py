"""What is asked of a compilation: the options of ``optimize``, and those that only tools need."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from graphwright.errors import UsageError
from graphwright.passes.discovery import catalogue
from graphwright.report.progress import Tell
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.profile import Profile

FAILURE_FOLDER = Path("graphwright-failure")

_VERIFY = ("off", "final", "region", "each")
_DONE_PRECISIONS = ("fp32", "fp16", "bf16", "int8", "fp8")
_PRECISIONS = (*_DONE_PRECISIONS, "int4")
_IN_OPENVINO = ("fp32", "bf16")


@dataclass(frozen=True)
class Settings:
    """The options of ``optimize``, checked, and those of the command line.

    ``scripts`` are onnx-graphsurgeon functions (``file.py:function``) that run before the other passes, on
    the graph as its exporter wrote it. ``staging`` is the folder in which a large result is written before it
    is saved (None: the system's temporary one). ``failure_dir`` is where a failed check leaves its
    reproducer.

    ``explain`` names a rule: where it nearly fired goes to the report. ``tuning_seconds`` limits what tuning measures;
    ``tuning_cache`` is where choices are kept (None: ``tuning.cache.default_folder``).

    Raises:
        UsageError: an option that does not exist, or that this version does not have yet.

    Example:
        >>> Settings(precision="int4")
        Traceback (most recent call last):
        graphwright.errors.UsageError: option precision: found 'int4', which is not there yet; needed fp32 or fp16 or
        bf16 or int8 or fp8; try: ...
    """

    profile: Profile | str | None = None
    task: str = "auto"
    target: str = "ort-cpu"
    passes: str | Sequence[object] | None = None
    precision: str = "fp32"
    verify: str = "final"
    tune: bool = False
    padding: str = "keep"
    progress: bool | Tell | None = None
    scripts: tuple[str, ...] = ()
    stop_after: int | None = None
    print_changes: bool = False
    staging: Path | None = None
    failure_dir: Path = FAILURE_FOLDER
    explain: str | None = None
    tuning_seconds: float = 60.0
    tuning_cache: Path | None = None

    def __post_init__(self) -> None:
        targets = tuple(catalogue().defaults)
        _require("verify", self.verify, _VERIFY, _VERIFY)
        _require("precision", self.precision, _PRECISIONS, _DONE_PRECISIONS)
        _require("padding", self.padding, ("keep", "free"), ("keep", "free"))
        _require("target", self.target, targets, targets)
        if self.target == "openvino":
            _require("precision", self.precision, _PRECISIONS, _IN_OPENVINO)
        if not isinstance(self.tune, bool):
            raise UsageError("option tune", repr(self.tune), needed="True or False")
        if not self.tuning_seconds > 0:
            raise UsageError("option tune-seconds", str(self.tuning_seconds), needed="more than 0")

    def bind(self, model: ir.Model) -> BoundProfile:
        """Return the profile fitted to a model.

        Raises:
            ProfileError: it does not fit.
        """
        return as_profile(self.profile).bind(model)


def _require(name: str, value: str, known: Sequence[str], done: Sequence[str]) -> None:
    needed = " or ".join(done)
    if value not in known:
        raise UsageError(f"option {name}", repr(value), needed=needed)
    if value not in done:
        hint = "leave the option out; a later version will have it"
        raise UsageError(f"option {name}", f"{value!r}, which is not there yet", needed=needed, hint=hint)


def as_profile(given: Profile | str | None) -> Profile:
    """Return the profile that a text stands for; without one, any size of at least one.

    Raises:
        ProfileError: text that is no profile.
        UsageError: neither text nor a profile.
    """
    if given is None:
        return Profile.unbounded()
    if not isinstance(given, str | Profile):
        raise UsageError("profile", f"a {type(given).__name__}", needed="a Profile or its text")
    return Profile.parse(given) if isinstance(given, str) else given
