"""What TensorRT's ONNX parser takes, as data: operators, element types, versions and limits; no rule.

The table was written down from the parser's documentation and never run against the parser itself: what it says of a
model is a check against a table. The types are those of the operator's main tensors (``MAIN_TYPE``); sizes, axes and
indices may be int32 or int64 everywhere.

Source: onnx-tensorrt, docs/operators.md of release 11.0 (June 2026), docs/Changelog.md for the version in which an
operator came, the static checks of the parser for limits that the first leaves out; NvInfer.h, ITopKLayer, for K.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

VERSIONS = ("10.16", "11.0", "11.1", "11.2", "11.3", "11.4")
OPSETS = (9, 24)
# Subgraphs in subgraphs, and functions that call functions.
MOST_NESTED = 24
# ITopKLayer says "up to", the parser's page "less than"; the smaller one is right either way.
MOST_K = 3839

_T = ir.DataType
FLOATS = frozenset({_T.FLOAT, _T.FLOAT16, _T.BFLOAT16})
_NO_BFLOAT = frozenset({_T.FLOAT, _T.FLOAT16})
_BOOL = frozenset({_T.BOOL})
NUMBERS = FLOATS | {_T.INT32, _T.INT64}
ANY = NUMBERS | _BOOL
_CAST = ANY | {_T.UINT8}
_STORED = ANY | {_T.FLOAT8E4M3FN, _T.FLOAT4E2M1, _T.INT4}
_QUANTIZED = frozenset({_T.INT8, _T.FLOAT8E4M3FN, _T.FLOAT4E2M1, _T.INT4})
# Types that a tensor of the network may have at all. The parser narrows double to float itself.
TENSORS = ANY | _QUANTIZED | {_T.UINT8, _T.DOUBLE}

_REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
_TAKEN: tuple[tuple[frozenset[ir.DataType], str], ...] = (
    (_BOOL, "And Not Or Xor"),
    (
        _NO_BFLOAT,
        "BlackmanWindow DeformConv GridSample HammingWindow HannWindow Mish NonMaxSuppression NonZero RoiAlign",
    ),
    (frozenset({_T.FLOAT}), "STFT"),
    (FLOATS | {_T.INT32}, "TensorScatter"),
    (_CAST, "Cast CastLike"),
    (_STORED, "Constant ConstantOfShape"),
    (_QUANTIZED, "DequantizeLinear"),
    (
        FLOATS,
        "Acos Acosh Asin Asinh Atan Atanh Attention AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose "
        "Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor GRU Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool "
        "GroupNormalization HardSigmoid HardSwish Hardmax InstanceNormalization IsInf LRN LSTM LayerNormalization "
        "LeakyRelu Log LogSoftmax LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization PRelu QuantizeLinear "
        "RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize "
        "RotaryEmbedding Round Scan Selu Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh "
        "ThresholdedRelu Upsample",
    ),
    (
        NUMBERS,
        f"{_REDUCTIONS} Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max "
        "Mean Min Mod Mul Neg Pad Pow Range Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum "
        "TopK",
    ),
    (
        ANY,
        "Concat Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop OneHot Reshape ReverseSequence "
        "Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where",
    ),
)
TYPES: Mapping[str, frozenset[ir.DataType]] = {name: types for types, names in _TAKEN for name in names.split()}

# The first version that has an operator, where not all have it.
SINCE: Mapping[str, str] = {"Swish": "11.0"}

# Which of the schema's type names the types above are about, where it is not that of the first input.
MAIN_TYPE: Mapping[str, str] = {
    "Constant": "T",
    "ConstantOfShape": "T2",
    "EyeLike": "T2",
    "If": "V",
    "Loop": "V",
    "OneHot": "T3",
    "RandomNormal": "T",
    "RandomNormalLike": "T2",
    "RandomUniform": "T",
    "RandomUniformLike": "T2",
    "Scan": "V",
    "Where": "T",
}


@dataclass(frozen=True)
class Limits:
    """What an operator must not have. Inputs are counted from 0.

    ``outputs``: so many at most. ``constants``: inputs that must be known when the engine is built. ``absent``: inputs
    that must not be given. ``ranks``: numbers of axes that an input may have. ``types``: those of one input.
    ``attributes``: the values that one may have; none at all means that it must not be given. ``ones``: lists that may
    hold ones only. What takes more than a look at one field is in ``tensorrt_restrictions``.
    """

    outputs: int | None = None
    constants: Mapping[int, str] = field(default_factory=dict)
    absent: Mapping[int, str] = field(default_factory=dict)
    ranks: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    types: Mapping[int, frozenset[ir.DataType]] = field(default_factory=dict)
    attributes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ones: tuple[str, ...] = ()


_POOL = {0: (4, 5)}
_RANDOM = Limits(attributes={"dtype": (_T.FLOAT.value, _T.FLOAT16.value)})
_PAIR = {"p": (1, 2)}
_PIXEL_GRIDS = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
_ROUNDINGS = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")

LIMITS: Mapping[str, Limits] = {
    "Attention": Limits(
        outputs=1,
        absent={4: "past_key", 5: "past_value", 6: "nonpad_kv_seqlen"},
        ranks={0: (4,), 1: (4,), 2: (4,), 3: (4,)},
        attributes={"softcap": (0.0,), "softmax_precision": (), "qk_matmul_output_mode": (0,)},
    ),
    "AveragePool": Limits(ranks=_POOL, ones=("dilations",)),
    "BatchNormalization": Limits(outputs=1, attributes={"training_mode": (0,)}),
    "Constant": Limits(attributes={"sparse_value": (), "value_string": (), "value_strings": ()}),
    "CumSum": Limits(constants={1: "axis"}),
    "DeformConv": Limits(ranks={0: (3, 4)}),
    "GridSample": Limits(ranks={0: (4,)}),
    "LayerNormalization": Limits(outputs=1),
    "LpNormalization": Limits(attributes=_PAIR),
    "LpPool": Limits(attributes=_PAIR, ones=("dilations",)),
    "LSTM": Limits(attributes={"input_forget": (0,), "layout": (0,)}),
    "MaxPool": Limits(outputs=1, ranks=_POOL, ones=("dilations",)),
    "OneHot": Limits(constants={1: "depth"}),
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
    "Resize": Limits(
        attributes={
            "mode": ("nearest", "linear"),
            "coordinate_transformation_mode": _PIXEL_GRIDS,
            "nearest_mode": _ROUNDINGS,
            "keep_aspect_ratio_policy": ("stretch",),
            "antialias": (0,),
        }
    ),
    "RotaryEmbedding": Limits(types={3: frozenset({_T.INT64})}),
    "ScatterND": Limits(attributes={"reduction": ("none",)}),
    "STFT": Limits(constants={1: "frame_step", 2: "window"}),
    "Squeeze": Limits(constants={1: "axes"}),
    "TensorScatter": Limits(ranks={0: (4,), 1: (4,)}, attributes={"axis": (-2,)}),
    "TopK": Limits(attributes={"sorted": (1,)}),
    "Unsqueeze": Limits(constants={1: "axes"}),
    "Upsample": Limits(attributes={"mode": ("nearest", "linear", "bilinear")}),
    **{name: Limits(constants={1: "axes"}) for name in _REDUCTIONS.split()},
}


def has_operator(name: str, version: str) -> bool:
    """Tell whether the parser of a version of TensorRT has an operator of ONNX's own.

    Example:
        >>> has_operator("Swish", "10.16"), has_operator("Swish", "11.4"), has_operator("BitwiseAnd", "11.4")
        (False, True, False)
    """
    since = SINCE.get(name, VERSIONS[0])
    return name in TYPES and VERSIONS.index(version) >= VERSIONS.index(since)
