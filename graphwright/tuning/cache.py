"""Choices that were made before, one file for each: what was timed, on what, and what came of it.

A file's name is the digest of all that a choice depends on (``key_of``), and its content says the same again. So a file
of another key, of another form or damaged counts as not there, and is measured and written anew.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_dir

from graphwright.errors import OutputError
from graphwright.runtime.tensorrt.files import write_whole

# Names the folder for callers that have no option for it.
VARIABLE = "GRAPHWRIGHT_TUNING_CACHE"
_FORMAT = 1
_LARGEST = 1 << 20


def default_folder() -> Path:
    """Return where choices are kept if nobody says otherwise: what the variable says, or the user's cache folder."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else Path(user_cache_dir("graphwright")) / "tuning"


@dataclass(frozen=True)
class Kept:
    """What a cache keeps of one choice: the median of each alternative in seconds, and the one that was chosen."""

    medians: Mapping[str, float]
    chosen: str


def key_of(parts: Mapping[str, Any]) -> str:
    """Return the name of a choice that depends on these parts.

    Example:
        >>> key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1}), key_of({"a": 1}) == key_of({"a": 2})
        (True, False)
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class ChoiceCache:
    """The choices in a folder. Several processes may use it at once: who writes last is read."""

    folder: Path

    def path(self, parts: Mapping[str, Any]) -> Path:
        """Return the file of a choice, which may not be there."""
        return self.folder / f"{key_of(parts)}.json"

    def find(self, parts: Mapping[str, Any]) -> Kept | None:
        """Return what is kept for these parts, or None where there is nothing that can be trusted."""
        try:
            with self.path(parts).open("rb") as file:
                content = file.read(_LARGEST + 1)
            data = json.loads(content) if len(content) <= _LARGEST else None
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or data.get("format") != _FORMAT or data.get("parts") != _plain(parts):
            return None
        return _kept(data)

    def keep(self, parts: Mapping[str, Any], kept: Kept) -> None:
        """Write a choice, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        data = {"format": _FORMAT, "parts": parts, "medians": dict(kept.medians), "chosen": kept.chosen}
        write_whole(self.path(parts), json.dumps(data, indent=1).encode())

    def try_to_keep(self, parts: Mapping[str, Any], kept: Kept) -> str:
        """Write a choice; what keeps it from being written is returned, since the choice itself is good."""
        try:
            self.keep(parts, kept)
        except OutputError as error:
            return f"not kept: {error}"
        return ""


def _plain(parts: Mapping[str, Any]) -> Any:
    """Return the parts as a file gives them back."""
    return json.loads(json.dumps(parts))


def _kept(data: Mapping[str, Any]) -> Kept | None:
    medians, chosen = data.get("medians"), data.get("chosen")
    if not isinstance(medians, dict) or not isinstance(chosen, str) or chosen not in medians:
        return None
    for name, seconds in medians.items():
        is_time = isinstance(seconds, float) and math.isfinite(seconds) and seconds >= 0
        if not isinstance(name, str) or not is_time:
            return None
    return Kept(medians, chosen)
