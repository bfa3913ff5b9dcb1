"""What is asked for when an engine is asked for: a model as it goes to TensorRT, and every decision about it.

Nothing here needs the library: ``build-engine --dry-run`` ends after this step. What can be wrong with the model, the
profile, an option or a plugin's file is found here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import onnx
import onnx_ir as ir

from graphwright.engine.pipeline_text import split
from graphwright.errors import BuildError, LoadError, MissingDependencyError, ProfileError, UsageError
from graphwright.folder import MANIFEST, MODEL, is_artifact, read_manifest
from graphwright.frontends.onnx import load_onnx
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.profile import Profile
from graphwright.runtime.signature import inputs_of, outputs_of
from graphwright.runtime.tensorrt import library
from graphwright.runtime.tensorrt.decisions import Decisions, profile_shapes
from graphwright.runtime.tensorrt.environment import look
from graphwright.runtime.tensorrt.fingerprint import graph_sha256
from graphwright.runtime.tensorrt.plugins import HARS_NAMES, PluginNode, library_plugin, plugin_nodes, with_plugins
from graphwright.runtime.tensorrt.settings import EngineSettings

ProfileLike = Profile | str | Sequence[Profile | str]


@runtime_checkable
class OptimizedModel(Protocol):
    """What an artifact has; ``artifact`` itself imports this module, to run what it builds."""

    model: ir.Model
    profile: BoundProfile
    manifest: dict[str, Any]


@dataclass(frozen=True)
class EngineRequest:
    """A model as it goes to TensorRT, and everything decided about its engine. ``absent`` is what is not there."""

    model: ir.Model
    decisions: Decisions
    absent: tuple[MissingDependencyError, ...] = ()

    def check(self) -> None:
        """Refuse what cannot be built, before anything slow starts.

        Raises:
            BuildError: a node that the parser does not take.
            MissingDependencyError: no library, no device, or kernels that cannot be compiled.
        """
        found = self.decisions.unsupported
        if found:
            texts = [f"{one['node']} ({one['operator']}){_origin(one)}: {one['reason']}" for one in found[:3]]
            more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
            raise BuildError(
                f"{self.decisions.model} for TensorRT {self.decisions.checked_for}",
                "; ".join(texts) + more,
                needed=found[0]["needed"],
                hint=found[0]["hint"] or "graphwright verify --target tensorrt MODEL lists every such node",
            )
        if self.absent:
            raise self.absent[0]


def decide(
    model: object,
    *,
    profile: ProfileLike | None = None,
    settings: EngineSettings | None = None,
    tensorrt_version: str | None = None,
    device: int = 0,
) -> EngineRequest:
    """Decide everything about an engine without the library; what of it is not there is noted.

    Raises:
        UsageError, ProfileError, LoadError: as :func:`build_engine` says.
        MissingDependencyError: a plugin library that is not there.
    """
    settings = settings or EngineSettings()
    if tensorrt_version is not None and re.match(r"\d+\.\d+", tensorrt_version) is None:
        raise UsageError("option tensorrt_version", repr(tensorrt_version), needed="a version such as 11.4")
    name, loaded, own, passes = _loaded(model)
    shapes = profile_shapes(_bound(profile, own, loaded))
    given = with_plugins(loaded)
    nodes = plugin_nodes(given)
    libraries = {path: library_plugin(path) for path in settings.libraries()}
    serialized = tuple(libraries[path] for path in libraries if path in settings.plugins_to_serialize)
    there = look(tensorrt_version, device, nodes, settings)
    checked = _checked_for(tensorrt_version or there.tensorrt)
    decisions = Decisions(
        name,
        graph_sha256(given),
        settings,
        inputs_of(given),
        outputs_of(given),
        shapes,
        checked,
        tensorrt=there.tensorrt,
        device=there.device,
        device_number=device,
        operators=tuple(sorted({each.name for each in nodes})),
        plugins=(*there.plugins, *libraries.values()),
        serialized=serialized,
        passes=passes,
        unsupported=_unsupported(given, checked, nodes, has_libraries=bool(libraries)),
        missing=tuple(map(str, there.absent)),
    )
    return EngineRequest(given, decisions, there.absent)


def _loaded(model: object) -> tuple[str, ir.Model, BoundProfile | None, tuple[str, ...]]:
    """Return a model's name, the model, its own profile and the passes behind it."""
    if isinstance(model, OptimizedModel):
        return _optimized(model.model, model.profile, model.manifest)
    if isinstance(model, str | Path) and is_artifact(Path(model)):
        manifest = read_manifest(Path(model))
        loaded = load_onnx(Path(model).resolve() / MODEL)
        return _optimized(loaded, _manifest_profile(Path(model), manifest), manifest)
    if isinstance(model, str | Path):
        return Path(model).name, load_onnx(model), None, ()
    if isinstance(model, ir.Model | onnx.ModelProto):
        loaded = load_onnx(model)
        return loaded.graph.name or "model", loaded, None, ()
    hint = "optimize it first: gw.optimize(model, target='tensorrt')"
    raise UsageError("model", f"a {type(model).__name__}", needed="an artifact, its folder or an ONNX file", hint=hint)


def _optimized(
    model: ir.Model, profile: BoundProfile, manifest: Mapping[str, Any]
) -> tuple[str, ir.Model, BoundProfile, tuple[str, ...]]:
    source = manifest.get("source")
    name = source.get("name") if isinstance(source, dict) else None
    return str(name or "model"), model, profile, tuple(split(str(manifest.get("pipeline", ""))))


def _manifest_profile(folder: Path, manifest: Mapping[str, Any]) -> BoundProfile:
    try:
        return BoundProfile.from_json(manifest["profile"])
    except ProfileError as error:
        raise LoadError(str(folder / MANIFEST), error.found, needed="a profile", hint=error.hint) from error


def _bound(given: ProfileLike | None, own: BoundProfile | None, model: ir.Model) -> BoundProfile:
    if given is None:
        return own if own is not None else Profile.unbounded().bind(model)
    several = [given] if isinstance(given, str | Profile) else list(given)
    profiles = [Profile.parse(one) if isinstance(one, str) else one for one in several]
    return Profile(tuple(alternative for one in profiles for alternative in one.alternatives)).bind(model)


def _checked_for(version: str | None) -> str:
    """Return the version whose table tells what the parser takes: this one, or the newest before it.

    Raises:
        UsageError: it is older than every table.
    """
    from graphwright.passes.lower.tensorrt_support import SUPPORTED_VERSIONS

    known = sorted(SUPPORTED_VERSIONS, key=library.release)
    if version is None:
        return known[-1]
    fitting = [each for each in known if library.release(each) <= library.release(version)]
    if not fitting:
        raise UsageError("option tensorrt_version", repr(version), needed=f"{known[0]} or newer")
    return fitting[-1]


def _unsupported(
    model: ir.Model, version: str, nodes: Sequence[PluginNode], *, has_libraries: bool
) -> tuple[dict[str, str], ...]:
    """Return the nodes that the parser does not take. What libraries bring is asked of TensorRT's registry later."""
    from graphwright.passes.lower.tensorrt_support import unsupported

    names = {*HARS_NAMES}
    if has_libraries:
        names |= {name for each in nodes for name in (each.name, f"{each.node.domain}::{each.type}")}
    return tuple(
        {key: str(text) for key, text in asdict(one).items()} for one in unsupported(model, version, plugins=names)
    )


def _origin(one: Mapping[str, str]) -> str:
    return f" [from {one['source']}]" if one["source"] and one["source"] != one["node"] else ""
