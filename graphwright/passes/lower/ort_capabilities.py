"""What ONNX Runtime's providers have of the fused operators, and whether each is known to pay there, as data; no rule.

One table for all lowerings to ONNX Runtime: the passes that make these operators take their element types from it, the
default pipelines of ort-cpu and ort-cuda their fusions, and a fusion that is known to lose is in neither. A row holds
from the version of ONNX Runtime that it names; the newest that is not newer than the one asked for counts.

Nothing here ran on a GPU: for CUDA the types are those of the kernels' registrations, and ``TRUSTED`` means that ONNX
Runtime's own optimizers choose the operator there. Such a row is a guess about speed that ``tune=True`` replaces.

Source: onnxruntime, docs/OperatorKernels.md (commit 001d12d2) for types; sessions of onnxruntime 1.31.1 for the CPU;
docs/design/0004-ort-cpu-defaults.md and benchmarks/operators.py for the speed on the CPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import onnx_ir as ir

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TARGETS: Mapping[str, str] = {"ort-cpu": CPU, "ort-cuda": CUDA}
MICROSOFT = "com.microsoft"

_T = ir.DataType
_FLOAT = frozenset({_T.FLOAT})
_HALVES = frozenset({_T.FLOAT, _T.FLOAT16})
_NARROW = frozenset({_T.FLOAT, _T.FLOAT16, _T.BFLOAT16})
_ALL = frozenset({_T.FLOAT, _T.FLOAT16, _T.BFLOAT16, _T.DOUBLE})


class Pays(Enum):
    """Whether the operator is faster than what it replaces."""

    GAINS = "measured: faster, or free"
    LOSES = "measured: slower"
    TRUSTED = "not measured here; ONNX Runtime's own optimizers choose it on this provider"
    UNKNOWN = "not measured"


@dataclass(frozen=True)
class Capability:
    """An operator on a provider.

    ``types``: element types with a kernel; the CPU runs float16 without one through casts. ``limits``: what the kernel
    does not take. ``made_by``: the pass that makes the operator; ``avoided_by``: the one that keeps ONNX Runtime from
    making it.
    """

    operator: str
    types: frozenset[ir.DataType]
    pays: Pays
    source: str
    since: str = "1.23"
    limits: str = ""
    made_by: str = ""
    avoided_by: str = ""


_MEASURED = "docs/design/0004-ort-cpu-defaults.md"
_OWN = "made by ONNX Runtime's own optimizer for this provider"
_NO_ROW = "a row of a mask that is -inf throughout gives NaN"
_ROW = Capability

TABLE: Mapping[str, tuple[Capability, ...]] = {
    CPU: (
        _ROW("Attention", _HALVES | {_T.DOUBLE}, Pays.GAINS, _MEASURED),
        _ROW("LayerNormalization", _ALL, Pays.GAINS, _MEASURED),
        _ROW("RMSNormalization", _HALVES | {_T.DOUBLE}, Pays.UNKNOWN, "no measurement"),
        _ROW("RotaryEmbedding", _HALVES, Pays.UNKNOWN, "no measurement"),
        _ROW("com.microsoft.BiasGelu", _FLOAT, Pays.GAINS, f"{_MEASURED}: {_OWN}", made_by="fuse-bias-gelu"),
        _ROW("com.microsoft.FusedMatMul", _FLOAT, Pays.GAINS, f"{_MEASURED}: {_OWN}", made_by="fuse-scaled-matmul"),
        _ROW("com.microsoft.FusedGemm", _FLOAT, Pays.TRUSTED, _OWN),
        _ROW("com.microsoft.FastGelu", _FLOAT, Pays.UNKNOWN, _OWN),
        _ROW("com.microsoft.QuickGelu", _FLOAT, Pays.UNKNOWN, _OWN),
        _ROW(
            "com.microsoft.SkipLayerNormalization",
            _HALVES,
            Pays.LOSES,
            f"{_MEASURED}: two to five times the time of a sum and a norm",
            made_by="fuse-skip-layer-norm",
            avoided_by="spell-residual-as-sum",
        ),
        _ROW(
            "com.microsoft.SkipSimplifiedLayerNormalization",
            _HALVES,
            Pays.UNKNOWN,
            "the same kernel's other half as SkipLayerNormalization, which loses",
            made_by="fuse-skip-rms-norm",
        ),
        _ROW(
            "com.microsoft.MultiHeadAttention",
            _FLOAT,
            Pays.UNKNOWN,
            "transformers reports it slower than none on the CPU (onnxruntime issue 33873)",
            limits=f"{_NO_ROW}; queries, keys and values packed in one tensor are not implemented",
            made_by="lower-attention-to-mha",
        ),
        _ROW(
            "com.microsoft.Attention",
            _FLOAT,
            Pays.UNKNOWN,
            "no measurement",
            limits=f"{_NO_ROW}; without the input bias, which is optional, the process dies (seen with 1.31.1)",
            made_by="fuse-attention-projections",
        ),
        _ROW("com.microsoft.GroupQueryAttention", _HALVES, Pays.UNKNOWN, "no measurement", limits="causal only"),
        _ROW("com.microsoft.RotaryEmbedding", _HALVES, Pays.UNKNOWN, "no measurement"),
        _ROW("com.microsoft.MoE", _FLOAT, Pays.UNKNOWN, "wrong values reported (onnxruntime issue 33866)"),
        _ROW("com.microsoft.QMoE", _HALVES, Pays.UNKNOWN, "no measurement"),
    ),
    CUDA: (
        _ROW("Attention", _HALVES, Pays.UNKNOWN, "no measurement", since="1.24"),
        _ROW("LayerNormalization", _ALL, Pays.TRUSTED, _OWN),
        _ROW("RMSNormalization", _NARROW, Pays.UNKNOWN, "no measurement"),
        _ROW("RotaryEmbedding", _NARROW, Pays.UNKNOWN, "no measurement"),
        _ROW("com.microsoft.BiasGelu", _ALL, Pays.TRUSTED, _OWN, made_by="fuse-bias-gelu"),
        _ROW("com.microsoft.FusedMatMul", _ALL, Pays.UNKNOWN, "no measurement", made_by="fuse-scaled-matmul"),
        _ROW("com.microsoft.FastGelu", _NARROW, Pays.UNKNOWN, _OWN),
        _ROW("com.microsoft.QuickGelu", _ALL, Pays.UNKNOWN, _OWN),
        _ROW("com.microsoft.SkipLayerNormalization", _NARROW, Pays.TRUSTED, _OWN, made_by="fuse-skip-layer-norm"),
        _ROW(
            "com.microsoft.SkipSimplifiedLayerNormalization",
            _NARROW,
            Pays.TRUSTED,
            "made by onnxruntime.transformers.optimizer for this provider",
            made_by="fuse-skip-rms-norm",
        ),
        _ROW(
            "com.microsoft.MultiHeadAttention",
            _NARROW,
            Pays.TRUSTED,
            "made by onnxruntime.transformers.optimizer for this provider",
            limits="values of another size than the keys' leave the fast kernels",
            made_by="lower-attention-to-mha",
        ),
        _ROW(
            "com.microsoft.Attention",
            _HALVES,
            Pays.TRUSTED,
            _OWN,
            made_by="fuse-attention-projections",
        ),
        _ROW(
            "com.microsoft.GroupQueryAttention",
            frozenset({_T.FLOAT16, _T.BFLOAT16}),
            Pays.UNKNOWN,
            "no measurement",
            limits="causal only",
        ),
        _ROW("com.microsoft.RotaryEmbedding", _NARROW, Pays.UNKNOWN, "no measurement"),
        _ROW("com.microsoft.MoE", _NARROW, Pays.UNKNOWN, "no measurement"),
        _ROW("com.microsoft.QMoE", frozenset({_T.FLOAT16, _T.BFLOAT16}), Pays.UNKNOWN, "no measurement"),
    ),
}
# The version that the table was written for.
NEWEST = "1.31"


def capability(operator: str, provider: str, version: str = NEWEST) -> Capability | None:
    """Return what a provider has of an operator in a version of ONNX Runtime; None: nothing that is known.

    Example:
        >>> found = capability("com.microsoft.SkipLayerNormalization", CPU)
        >>> found.pays.name, capability("Attention", CUDA, "1.23.2"), capability("Softmax", CPU)
        ('LOSES', None, None)
    """
    rows = [row for row in TABLE[provider] if row.operator == operator and _number(row.since) <= _number(version)]
    return max(rows, key=lambda row: _number(row.since), default=None)


def types(operator: str, *providers: str) -> frozenset[ir.DataType]:
    """Return the element types for which each of the providers has a kernel.

    Example:
        >>> sorted(each.name for each in types("com.microsoft.SkipLayerNormalization", CPU, CUDA))
        ['FLOAT', 'FLOAT16']
    """
    found = [capability(operator, provider) for provider in providers]
    return frozenset.intersection(*(frozenset() if row is None else row.types for row in found))


def fusions(target: str, version: str = NEWEST) -> frozenset[str]:
    """Return the passes that make what gains on a target, or is trusted to, and those that avoid what loses.

    Example:
        >>> sorted(fusions("ort-cpu"))
        ['fuse-bias-gelu', 'fuse-scaled-matmul', 'spell-residual-as-sum']
    """
    names = {row.operator for row in TABLE[TARGETS[target]]}
    rows = [row for name in names if (row := capability(name, TARGETS[target], version)) is not None]
    made = {row.made_by for row in rows if row.pays in (Pays.GAINS, Pays.TRUSTED)}
    return frozenset(made | {row.avoided_by for row in rows if row.pays is Pays.LOSES}) - {""}


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
