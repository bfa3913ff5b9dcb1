"""How an engine is to be built: the options, checked before anything slow starts.

The words are those of NVIDIA's ``trtexec`` where it has one. There is no option for a precision: TensorRT 11 takes the
types that the graph has, so the graph is made for them (``optimize(precision=...)``).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

from graphwright.errors import UsageError

# What the builder does without being told; 5 takes longest.
DEFAULT_LEVEL = 3
_HIGHEST_LEVEL = 5
_MOST = 2**31 - 1
# TensorRT counts bytes in 64 bits.
_LARGEST = 2**63 - 1
_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([BKMG])?(?:i?B)?", re.IGNORECASE)

# Our word -> the member of TensorRT's enumeration.
HARDWARE = {"none": "NONE", "ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
TILING = {"none": "NONE", "fast": "FAST", "moderate": "MODERATE", "full": "FULL"}
VERBOSITY = {"layer-names-only": "LAYER_NAMES_ONLY", "detailed": "DETAILED", "none": "NONE"}
REFIT = {"off": None, "all": "REFIT", "identical": "REFIT_IDENTICAL"}
HARS = ("quick", "library")
_MEMBERS: Mapping[str, Mapping[str, str]] = {
    "hardware_compatibility": HARDWARE,
    "tiling_optimization_level": TILING,
    "profiling_verbosity": VERBOSITY,
}
_CHOICES: Mapping[str, Sequence[str]] = {
    **{name: tuple(members) for name, members in _MEMBERS.items()},
    "refit": tuple(REFIT),
    "hars": HARS,
}
# trtexec's words for ours.
_OTHER_WORDS = {"samecomputecapability": "same-compute-capability", "layer_names_only": "layer-names-only"}


class EngineFlags(TypedDict, total=False):
    """The options of :func:`graphwright.build_engine` that say how to build; :class:`EngineSettings` explains them."""

    builder_optimization_level: int
    workspace: int | str | None
    version_compatible: bool
    exclude_lean_runtime: bool
    hardware_compatibility: str
    weight_streaming: bool
    strip_weights: bool
    refit: str
    tf32: bool
    strict_nans: bool
    max_aux_streams: int | None
    max_tactics: int | None
    tiling_optimization_level: str
    profiling_verbosity: str
    plugins: Sequence[str | Path]
    plugins_to_serialize: Sequence[str | Path]
    hars: str
    timing_cache: str | Path | None
    error_on_timing_cache_miss: bool


@dataclass(frozen=True)
class EngineSettings:
    """The options, checked.

    ``workspace`` is the scratch memory that a layer may use: a number of MiB, or text with a unit (B, K, M, G); None
    for all that the GPU has. ``strip_weights`` leaves out the weights that a refit brings back. ``plugins`` are plugin
    libraries to load; of ``plugins_to_serialize`` a copy goes into the plan. ``hars`` says which packaging runs HARS
    nodes: "quick" compiles them into the engine, "library" takes them from one of ``plugins``. ``timing_cache`` is a
    file that is read, if it is there, and written with what the build adds.

    Raises:
        UsageError: a value that an option does not take, or two that contradict each other.

    Example:
        >>> EngineSettings(workspace="2G").memory_pools() == EngineSettings(workspace=2048).memory_pools()
        True
        >>> EngineSettings(builder_optimization_level=9)
        Traceback (most recent call last):
        graphwright.errors.UsageError: option builder_optimization_level: found 9; needed 0 to 5
    """

    builder_optimization_level: int = DEFAULT_LEVEL
    workspace: int | str | None = None
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    hardware_compatibility: str = "none"
    weight_streaming: bool = False
    strip_weights: bool = False
    refit: str = "off"
    tf32: bool = True
    strict_nans: bool = False
    max_aux_streams: int | None = None
    max_tactics: int | None = None
    tiling_optimization_level: str = "none"
    profiling_verbosity: str = "layer-names-only"
    plugins: Sequence[str | Path] = ()
    plugins_to_serialize: Sequence[str | Path] = ()
    hars: str = "quick"
    timing_cache: str | Path | None = None
    error_on_timing_cache_miss: bool = False

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            self._set(name, _choice(name, getattr(self, name), known))
        _check_number("builder_optimization_level", self.builder_optimization_level, 0, _HIGHEST_LEVEL)
        for name, least in (("max_aux_streams", 0), ("max_tactics", 1)):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), least, _MOST)
        if self.workspace is not None:
            # With its unit, so that settings made from these settings are the same.
            self._set("workspace", f"{memory_size(self.workspace)}B")
        self._set("plugins", tuple(map(Path, _paths("plugins", self.plugins))))
        self._set("plugins_to_serialize", tuple(map(Path, _paths("plugins_to_serialize", self.plugins_to_serialize))))
        self._set("timing_cache", Path(self.timing_cache) if self.timing_cache is not None else None)
        self._check_together()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_together(self) -> None:
        if self.exclude_lean_runtime and not self.version_compatible:
            needed = "version_compatible as well: only such a plan has a lean runtime"
            raise UsageError("option exclude_lean_runtime", "it alone", needed=needed)
        if self.plugins_to_serialize and not self.version_compatible:
            needed = "version_compatible as well: only such a plan takes libraries along"
            raise UsageError("option plugins_to_serialize", "it alone", needed=needed)
        if self.error_on_timing_cache_miss and self.timing_cache is None:
            raise UsageError("option error_on_timing_cache_miss", "no timing cache", needed="timing_cache")
        if self.error_on_timing_cache_miss and self.builder_optimization_level == 0:
            found, hint = "level 0, which asks no timing cache", "leave one of the two out"
            raise UsageError("option error_on_timing_cache_miss", found, needed="level 1 to 5", hint=hint)
        if self.hars == "library" and not (self.plugins or self.plugins_to_serialize):
            raise UsageError("option hars", "'library', but no plugin library", needed="its file in plugins")

    def builder_flags(self) -> tuple[str, ...]:
        """Return the members of TensorRT's BuilderFlag that are set, in the order of their names.

        Example:
            >>> EngineSettings(strip_weights=True).builder_flags()
            ('REFIT_IDENTICAL', 'STRIP_PLAN', 'TF32')
        """
        # A stripped plan without a mode gets this one from the builder; named here, it shows in what is decided.
        refit = REFIT[self.refit] or ("REFIT_IDENTICAL" if self.strip_weights else None)
        wanted = {
            "VERSION_COMPATIBLE": self.version_compatible,
            "EXCLUDE_LEAN_RUNTIME": self.exclude_lean_runtime,
            "WEIGHT_STREAMING": self.weight_streaming,
            "STRIP_PLAN": self.strip_weights,
            "TF32": self.tf32,
            "STRICT_NANS": self.strict_nans,
            "ERROR_ON_TIMING_CACHE_MISS": self.error_on_timing_cache_miss,
            **({refit: True} if refit is not None else {}),
        }
        return tuple(sorted(name for name, is_wanted in wanted.items() if is_wanted))

    def config(self) -> dict[str, int | str]:
        """Return the builder configuration's attributes and values, enumerations by member; None is left to TensorRT.

        Example:
            >>> EngineSettings(hardware_compatibility="ampere+").config()["hardware_compatibility_level"]
            'AMPERE_PLUS'
        """
        values: dict[str, int | str | None] = {
            "builder_optimization_level": self.builder_optimization_level,
            "hardware_compatibility_level": HARDWARE[self.hardware_compatibility],
            "max_aux_streams": self.max_aux_streams,
            "max_num_tactics": self.max_tactics,
            "profiling_verbosity": VERBOSITY[self.profiling_verbosity],
            "tiling_optimization_level": TILING[self.tiling_optimization_level],
        }
        return {name: value for name, value in values.items() if value is not None}

    def libraries(self) -> tuple[Path, ...]:
        """Return every plugin library to load, once."""
        return tuple({path.resolve(): path for path in map(Path, (*self.plugins, *self.plugins_to_serialize))}.values())

    def memory_pools(self) -> dict[str, int]:
        """Return the limits of memory pools in bytes, by the member of TensorRT's MemoryPoolType."""
        return {"WORKSPACE": memory_size(self.workspace)} if self.workspace is not None else {}

    def to_json(self) -> dict[str, Any]:
        """Return every option as plain data: enumerations by TensorRT's members, files by their names alone."""
        data: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, members in _MEMBERS.items():
            data[name] = members[data[name]]
        for name in ("plugins", "plugins_to_serialize"):
            data[name] = [path.name for path in data[name]]
        data["timing_cache"] = data["timing_cache"].name if data["timing_cache"] is not None else None
        return data


def memory_size(given: int | str) -> int:
    """Return a size in bytes; a number without a unit counts MiB, as in trtexec.

    Raises:
        UsageError: no size, or none above zero.

    Example:
        >>> memory_size("4096") == memory_size("4G") == memory_size(4096)
        True
    """
    match = _SIZE.fullmatch(str(given).strip())
    unit = _UNITS["M"] if match is None or match[2] is None else _UNITS[match[2].upper()]
    size = int(float(match[1]) * unit) if match is not None and not isinstance(given, bool) else 0
    if not 1 <= size <= _LARGEST:
        raise UsageError("option workspace", repr(given), needed="a size above zero, such as 4096 (MiB) or 4G")
    return size


def workspace_of_pools(text: str) -> str:
    """Return the workspace of trtexec's ``--memPoolSize``.

    Raises:
        UsageError: another pool, or no size.

    Example:
        >>> workspace_of_pools("workspace:4096")
        '4096'
    """
    name, _, size = text.partition(":")
    if name.strip() != "workspace" or not size:
        raise UsageError("option mem_pool_size", repr(text), needed="workspace:SIZE; the other pools are not for GPUs")
    memory_size(size)
    return size


def _choice(name: str, given: object, known: Sequence[str]) -> str:
    text = str(given).lower()
    text = _OTHER_WORDS.get(text, text)
    if not isinstance(given, str) or text not in known:
        raise UsageError(f"option {name}", repr(given), needed=" or ".join(known))
    return text


def _check_number(name: str, given: object, least: int, most: int) -> None:
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        needed = f"{least} to {most}" if most < _MOST else f"a whole number from {least}"
        raise UsageError(f"option {name}", repr(given), needed=needed)


def _paths(name: str, given: object) -> Sequence[str | Path]:
    if isinstance(given, str | Path) or not isinstance(given, Sequence):
        raise UsageError(f"option {name}", repr(given), needed="a list of files")
    return given
