"""ONNX Runtime's TensorRT provider: the second way to TensorRT, where onnxruntime-gpu is there already.

It builds engines when a session is opened, for the parts of a graph that its TensorRT takes, and CUDA runs the rest.
Its TensorRT is version 10 (onnxruntime-gpu 1.31), another library than the one ``build-engine`` uses: plugins that
Python registered there are not known here, only plugin libraries are. It builds networks that are not strongly typed,
so with float16 in the graph TensorRT may compute in float16 what the graph keeps in float32.

Its engine cache takes an engine for another where two graphs share a name (microsoft/onnxruntime issue 32254: sizes of
inputs do not count). So every graph is named by a digest of its content and of what it is built for.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
from platformdirs import user_cache_dir

from graphwright.errors import ProfileError, UsageError
from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.ort_load import FirstProvider, Options
from graphwright.runtime.profile import Profile
from graphwright.runtime.rounded import types_of
from graphwright.runtime.tensorrt.fingerprint import graph_sha256
from graphwright.runtime.tensorrt.plugins import library_plugin
from graphwright.runtime.tensorrt.refit import read_model

NAME = "TensorrtExecutionProvider"
# What separates names, sizes and files in the provider's options.
_SEPARATORS = ",:;"
_DIGITS = 32
_HIGHEST_LEVEL = 5


@dataclass(frozen=True)
class OrtTensorRT:
    """How ONNX Runtime's TensorRT provider builds and runs; ``OrtSession(..., tensorrt=OrtTensorRT())`` takes it.

    ``cache`` is the folder of its engines and timings (None: the user's cache folder; False: none are kept).
    ``plugins`` are plugin libraries for its version of TensorRT. Nodes of the operators in ``exclude`` are left to
    CUDA, such as a HARS node whose plugin is not there. ``workspace`` is in bytes.

    Raises:
        UsageError: a value that the provider would not take.

    Example:
        >>> OrtTensorRT(builder_optimization_level=9)
        Traceback (most recent call last):
        graphwright.errors.UsageError: option builder_optimization_level: found 9; needed 0 to 5
    """

    cache: str | Path | bool | None = None
    plugins: Sequence[str | Path] = ()
    exclude: Sequence[str] = ()
    workspace: int | None = None
    builder_optimization_level: int | None = None
    cuda_graphs: bool = False
    device: int = 0

    def __post_init__(self) -> None:
        level = self.builder_optimization_level
        if level is not None and not 0 <= level <= _HIGHEST_LEVEL:
            raise UsageError("option builder_optimization_level", str(level), needed=f"0 to {_HIGHEST_LEVEL}")
        if self.workspace is not None and self.workspace < 1:
            raise UsageError("option workspace", str(self.workspace), needed="bytes, at least 1")
        wrong = [str(path) for path in self.plugins if ";" in str(path)]
        if wrong:
            raise UsageError("option plugins", wrong[0], needed="a path without a semicolon, which separates them")

    def prepared(
        self, model: ir.Model | str | Path, profile: BoundProfile | Profile | str | None, options: Options, target: str
    ) -> tuple[ir.Model, Options]:
        """Return the model under a name of its own, and a session's options with this provider before the others.

        Raises:
            UsageError: another target than ort-cuda, whose provider runs what TensorRT does not take.
            ProfileError: a profile that does not fit, or an input whose name the provider cannot have a profile for.
            LoadError: a path without a model.
            MissingDependencyError: no such plugin library.
        """
        if target != "ort-cuda":
            raise UsageError("option tensorrt", f"target {target}", needed="target ort-cuda")
        model = model if isinstance(model, ir.Model) else read_model(Path(model))
        if not isinstance(profile, BoundProfile):
            text = profile if profile is not None else "*"
            profile = (Profile.parse(text) if isinstance(text, str) else text).bind(model)
        shapes = profile_options(profile) if profile.is_bounded else {}
        build = {**self._build_options(), **shapes, **_type_options(model)}
        digest = _digest(graph_sha256(model), build, [library_plugin(Path(path)).sha256 for path in self.plugins])
        named = model.clone()
        named.graph.name = f"graphwright_{digest}"
        values = {"device_id": str(self.device), **build, **self._cache_options(digest)}
        return named, replace(options, first=FirstProvider(NAME, values))

    def _build_options(self) -> dict[str, str]:
        values = {
            "trt_extra_plugin_lib_paths": ";".join(str(Path(path).resolve()) for path in self.plugins) or None,
            "trt_op_types_to_exclude": ",".join(self.exclude) or None,
            "trt_max_workspace_size": self.workspace,
            "trt_builder_optimization_level": self.builder_optimization_level,
            "trt_cuda_graph_enable": True if self.cuda_graphs else None,
        }
        return {name: str(value) for name, value in values.items() if value is not None}

    def _cache_options(self, digest: str) -> dict[str, str]:
        if self.cache is False:
            return {}
        own = Path(user_cache_dir("graphwright")) / "ort-tensorrt"
        folder = str(Path(self.cache if isinstance(self.cache, str | Path) else own).resolve())
        return {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": folder,
            "trt_engine_cache_prefix": f"graphwright_{digest}",
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": folder,
        }


def profile_options(profile: BoundProfile) -> dict[str, str]:
    """Return the shapes that an engine is for, as the provider's options.

    Of several profiles one is made that holds them all: the provider builds several, but runs only the first.

    Raises:
        ProfileError: an input's name has a character that the options cannot have.

    Example:
        >>> from graphwright.runtime.bound import Range
        >>> from graphwright.runtime.signature import Port
        >>> port = Port("ids", ir.DataType.INT64, ("batch", "seq"))
        >>> short, long = ({"batch": Range(1, 1, 4), "seq": Range(low, low, high)} for low, high in ((1, 8), (16, 64)))
        >>> profile_options(BoundProfile((port,), (short, long)))["trt_profile_max_shapes"]
        'ids:4x64'
    """
    wrong = [port.name for port in profile.inputs if set(port.name) & set(_SEPARATORS)]
    if wrong:
        needed, hint = f"a name without {' '.join(_SEPARATORS)}", "rename the input, or build with build-engine"
        found = "a name that the provider cannot have a profile for"
        raise ProfileError(f"input {wrong[0]}", found, needed=needed, hint=hint)
    every = range(len(profile.profiles))
    corners: dict[str, Mapping[str, tuple[int, ...]]] = {
        "min": _joined([profile.shapes("min", index) for index in every], min),
        "opt": profile.shapes("opt"),
        "max": profile.max_shapes(),
    }
    return {f"trt_profile_{which}_shapes": _text(shapes) for which, shapes in corners.items()}


def _joined(shapes: Sequence[Mapping[str, tuple[int, ...]]], choose: Any) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(choose(sizes) for sizes in zip(*(each[name] for each in shapes), strict=True)) for name in shapes[0]
    }


def _text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    # A number alone has no shape to give.
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items() if shape)


def _type_options(model: ir.Model) -> dict[str, str]:
    """Return the types to allow: TensorRT 10 refuses a graph of a type that was not, unless it is strongly typed."""
    allowed = {"trt_fp16_enable": ir.DataType.FLOAT16, "trt_bf16_enable": ir.DataType.BFLOAT16}
    found = types_of(model)
    return {name: "True" for name, dtype in allowed.items() if dtype in found}


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:_DIGITS]
