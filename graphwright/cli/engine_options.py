"""The options of build-engine: graphwright's spelling, then that of NVIDIA's ``trtexec`` where it has one."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str | None, typer.Argument(metavar="MODEL", help="An .onnx file or an artifact's folder.")]
OnnxFile = Annotated[str | None, typer.Option("--onnx", metavar="FILE", help="The model, as trtexec has it.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", "--save-engine", "--saveEngine", help="The plan; without it, the cache keeps it."),
]

Profiles = Annotated[
    list[str] | None,
    typer.Option(
        "--profile", metavar="TEXT", help="Shapes, such as batch=1:8:32,seq=1:128:512; repeatable. Or trtexec's number."
    ),
]
MinShapes = Annotated[
    list[str] | None, typer.Option("--min-shapes", "--minShapes", metavar="IN:1x8,...", help="Once for each profile.")
]
OptShapes = Annotated[
    list[str] | None, typer.Option("--opt-shapes", "--optShapes", metavar="IN:8x64,...", help="Once for each profile.")
]
MaxShapes = Annotated[
    list[str] | None,
    typer.Option("--max-shapes", "--maxShapes", metavar="IN:32x512,...", help="Once for each profile."),
]

Level = Annotated[
    int,
    typer.Option("--builder-optimization-level", "--builderOptimizationLevel", help="0 to 5; 5 takes longest."),
]
Workspace = Annotated[
    str | None, typer.Option("--workspace", metavar="SIZE", help="Most scratch memory of a layer: MiB, or 4G.")
]
MemoryPools = Annotated[
    str | None, typer.Option("--mem-pool-size", "--memPoolSize", metavar="workspace:SIZE", help="The same, as trtexec.")
]
VersionCompatible = Annotated[
    bool, typer.Option("--version-compatible", "--versionCompatible", help="A plan that later versions run.")
]
ExcludeLean = Annotated[
    bool, typer.Option("--exclude-lean-runtime", "--excludeLeanRuntime", help="Without the runtime inside that plan.")
]
Hardware = Annotated[
    str,
    typer.Option(
        "--hardware-compatibility-level",
        "--hardwareCompatibilityLevel",
        help="none, ampere+ or same-compute-capability.",
    ),
]
Streaming = Annotated[
    bool, typer.Option("--weight-streaming", "--allowWeightStreaming", help="Weights may stay in the host's memory.")
]
Strip = Annotated[bool, typer.Option("--strip-weights", "--stripWeights", help="Leave out what a refit brings back.")]
Refit = Annotated[bool, typer.Option("--refit", help="Weights may be replaced later.")]
RefitIdentical = Annotated[
    bool, typer.Option("--refit-identical", "--refitIdentical", help="Weights come back later, the same.")
]
NoTf32 = Annotated[bool, typer.Option("--no-tf32", "--noTF32", help="float32 products keep all their digits.")]
StrictNans = Annotated[bool, typer.Option("--strict-nans", "--strictNans", help="0*x is not 0 where x is NaN.")]
AuxStreams = Annotated[
    int | None, typer.Option("--max-aux-streams", "--maxAuxStreams", help="Streams beside the main one.")
]
Tactics = Annotated[int | None, typer.Option("--max-tactics", "--maxTactics", help="Kernels to time for a layer.")]
Tiling = Annotated[
    str,
    typer.Option("--tiling-optimization-level", "--tilingOptimizationLevel", help="none, fast, moderate or full."),
]
Verbosity = Annotated[
    str, typer.Option("--profiling-verbosity", "--profilingVerbosity", help="layer-names-only, detailed or none.")
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option("--plugins", "--dynamicPlugins", metavar="FILE", help="A plugin library to load; repeatable."),
]
Serialized = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugins-to-serialize", "--setPluginsToSerialize", metavar="FILE", help="One that goes into the plan."
    ),
]
Hars = Annotated[str, typer.Option("--hars", help="quick: HARS compiled into the plan; library: from --plugins.")]

TimingCache = Annotated[
    Path | None, typer.Option("--timing-cache-file", "--timingCacheFile", metavar="FILE", help="Read, then written.")
]
TimingMiss = Annotated[
    bool, typer.Option("--error-on-timing-cache-miss", "--errorOnTimingCacheMiss", help="Time no kernel anew.")
]
CacheFolder = Annotated[Path | None, typer.Option("--cache-dir", metavar="DIR", help="Where engines are kept.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Build anew, and keep nothing but the output.")]
Device = Annotated[int, typer.Option("--device", min=0, help="The number of the GPU.")]
Version = Annotated[
    str | None, typer.Option("--tensorrt-version", metavar="X.Y", help="Insist on this version of TensorRT.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", "--dryRun", help="Print everything decided, and build nothing.")]
Ignored = Annotated[bool, typer.Option("--skipInference", "--stronglyTyped", hidden=True)]


def _refuse_precision(given: bool) -> bool:
    if given:
        from graphwright.errors import UsageError

        raise UsageError(
            "precision flag",
            "one, which TensorRT 11 has no more",
            needed="a graph that has the types itself",
            hint="graphwright optimize MODEL --target tensorrt --precision fp16, then build-engine",
        )
    return given


Precision = Annotated[
    bool,
    typer.Option(
        *("--fp16", "--bf16", "--int8", "--fp8", "--int4", "--best"),
        hidden=True,
        callback=_refuse_precision,
    ),
]
