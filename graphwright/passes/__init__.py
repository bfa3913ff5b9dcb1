"""The catalogue: every pass, in running order, and the default pipeline of each target.

A new pass is a file in one of the families and a line here.
"""

from graphwright.engine.pipeline import Catalogue, Pass
from graphwright.passes.lift.convert_opset import CONVERT_OPSET
from graphwright.passes.lift.eliminate_common_subexpressions import ELIMINATE_COMMON_SUBEXPRESSIONS
from graphwright.passes.lift.fold_constants import FOLD_CONSTANTS
from graphwright.passes.lift.fuse_attention import FUSE_ATTENTION
from graphwright.passes.lift.fuse_attention_sinks import FUSE_ATTENTION_SINKS
from graphwright.passes.lift.fuse_gelu import FUSE_GELU
from graphwright.passes.lift.fuse_gemm_bias import FUSE_GEMM_BIAS
from graphwright.passes.lift.fuse_layer_norm import FUSE_LAYER_NORM
from graphwright.passes.lift.fuse_mish import FUSE_MISH
from graphwright.passes.lift.fuse_rms_norm import FUSE_RMS_NORM
from graphwright.passes.lift.fuse_rotary import FUSE_ROTARY
from graphwright.passes.lift.fuse_swish import FUSE_SWISH
from graphwright.passes.lift.group_attention_heads import GROUP_ATTENTION_HEADS
from graphwright.passes.lift.halve_rotary_tables import HALVE_ROTARY_TABLES
from graphwright.passes.lift.infer_shapes import INFER_SHAPES
from graphwright.passes.lift.merge_initializers import MERGE_INITIALIZERS
from graphwright.passes.lift.read_sizes_from_inputs import READ_SIZES_FROM_INPUTS
from graphwright.passes.lift.remove_identities import REMOVE_IDENTITIES
from graphwright.passes.lift.remove_idle_reshapes import REMOVE_IDLE_RESHAPES
from graphwright.passes.lift.settle_reshapes import SETTLE_RESHAPES
from graphwright.passes.lower.cast_for_tensorrt import CAST_FOR_TENSORRT
from graphwright.passes.lower.clean_up import CLEAN_UP
from graphwright.passes.lower.expand_definitions import EXPAND_DEFINITIONS
from graphwright.passes.lower.fuse_attention_projections import FUSE_ATTENTION_PROJECTIONS
from graphwright.passes.lower.fuse_bias_gelu import FUSE_BIAS_GELU
from graphwright.passes.lower.fuse_scaled_matmul import FUSE_SCALED_MATMUL
from graphwright.passes.lower.fuse_skip_layer_norm import FUSE_SKIP_LAYER_NORM
from graphwright.passes.lower.fuse_skip_rms_norm import FUSE_SKIP_RMS_NORM
from graphwright.passes.lower.inline_functions import INLINE_FUNCTIONS
from graphwright.passes.lower.lower_attention import LOWER_ATTENTION
from graphwright.passes.lower.lower_attention_for_tensorrt import LOWER_ATTENTION_FOR_TENSORRT
from graphwright.passes.lower.lower_attention_to_mha import LOWER_ATTENTION_TO_MHA
from graphwright.passes.lower.lower_integer_cumsum import LOWER_INTEGER_CUMSUM
from graphwright.passes.lower.lower_linear_for_ort import LOWER_LINEAR_FOR_ORT
from graphwright.passes.lower.lower_router_topk import LOWER_ROUTER_TOPK
from graphwright.passes.lower.lower_softmax_topk import LOWER_SOFTMAX_TOPK
from graphwright.passes.lower.lower_without_kernel import LOWER_WITHOUT_KERNEL
from graphwright.passes.lower.merge_reshapes import MERGE_RESHAPES
from graphwright.passes.lower.merge_transposes import MERGE_TRANSPOSES
from graphwright.passes.lower.name_hars_plugins import NAME_HARS_PLUGINS
from graphwright.passes.lower.narrow_doubles import NARROW_DOUBLES
from graphwright.passes.lower.ort_capabilities import fusions
from graphwright.passes.lower.precision import PRECISION
from graphwright.passes.lower.quantize import QUANTIZE
from graphwright.passes.lower.sort_topk import SORT_TOPK
from graphwright.passes.lower.spell_linear import SPELL_LINEAR
from graphwright.passes.lower.spell_partial_rotary import SPELL_PARTIAL_ROTARY
from graphwright.passes.lower.spell_residual_as_sum import SPELL_RESIDUAL_AS_SUM
from graphwright.passes.transform.cancel_layouts import CANCEL_LAYOUTS
from graphwright.passes.transform.damf import DAMF
from graphwright.passes.transform.fuse_beam_candidates import FUSE_BEAM_CANDIDATES
from graphwright.passes.transform.fuse_linear import FUSE_LINEAR
from graphwright.passes.transform.fuse_router import FUSE_ROUTER
from graphwright.passes.transform.fuse_softmax_argmax import FUSE_SOFTMAX_ARGMAX
from graphwright.passes.transform.fuse_softmax_topk import FUSE_SOFTMAX_TOPK
from graphwright.passes.transform.merge_attention_heads import MERGE_ATTENTION_HEADS
from graphwright.passes.transform.merge_rotary_heads import MERGE_ROTARY_HEADS
from graphwright.passes.transform.pack_gate_up import PACK_GATE_UP
from graphwright.passes.transform.pack_qkv import PACK_QKV
from graphwright.passes.transform.pack_tokens import PACK_TOKENS
from graphwright.passes.transform.pick_label_probability import PICK_LABEL_PROBABILITY
from graphwright.passes.transform.remove_idle_expands import REMOVE_IDLE_EXPANDS
from graphwright.passes.transform.simplify_attention_mask import SIMPLIFY_ATTENTION_MASK

LIFT: tuple[Pass, ...] = (
    CONVERT_OPSET,
    INFER_SHAPES,
    # Before what asks for sizes: it infers them again, as a target of a Reshape may have become constant.
    FOLD_CONSTANTS,
    REMOVE_IDLE_RESHAPES,
    # Behind the types, as a Cast is idle where its input's type is known, and what is made into an Identity.
    REMOVE_IDENTITIES,
    SETTLE_RESHAPES,
    READ_SIZES_FROM_INPUTS,
    MERGE_INITIALIZERS,
    ELIMINATE_COMMON_SUBEXPRESSIONS,
    FUSE_GEMM_BIAS,
    FUSE_LAYER_NORM,
    FUSE_RMS_NORM,
    FUSE_GELU,
    FUSE_SWISH,
    FUSE_MISH,
    HALVE_ROTARY_TABLES,
    FUSE_ROTARY,
    FUSE_ATTENTION,
    FUSE_ATTENTION_SINKS,
    GROUP_ATTENTION_HEADS,
)
TRANSFORM: tuple[Pass, ...] = (
    SIMPLIFY_ATTENTION_MASK,
    MERGE_ROTARY_HEADS,
    MERGE_ATTENTION_HEADS,
    DAMF,
    PACK_QKV,
    PACK_GATE_UP,
    PACK_TOKENS,
    FUSE_BEAM_CANDIDATES,
    FUSE_ROUTER,
    FUSE_SOFTMAX_TOPK,
    FUSE_SOFTMAX_ARGMAX,
    PICK_LABEL_PROBABILITY,
    # Behind the rules that know layouts and masks as exporters write them.
    REMOVE_IDLE_EXPANDS,
    CANCEL_LAYOUTS,
    # Last: the rules before it work on the products themselves.
    FUSE_LINEAR,
)
LOWER: tuple[Pass, ...] = (
    # Before the passes that look for products, to quantise or to narrow them.
    SPELL_LINEAR,
    SPELL_PARTIAL_ROTARY,
    LOWER_ATTENTION,
    LOWER_SOFTMAX_TOPK,
    LOWER_ROUTER_TOPK,
    LOWER_WITHOUT_KERNEL,
    INLINE_FUNCTIONS,
    NARROW_DOUBLES,
    LOWER_ATTENTION_FOR_TENSORRT,
    EXPAND_DEFINITIONS,
    LOWER_INTEGER_CUMSUM,
    SORT_TOPK,
    CAST_FOR_TENSORRT,
    NAME_HARS_PLUGINS,
    # Behind the passes that spell an operator as several, of which some stay in float32; before those that make one of
    # several for float32 alone.
    QUANTIZE,
    PRECISION,
    MERGE_TRANSPOSES,
    LOWER_LINEAR_FOR_ORT,
    FUSE_SCALED_MATMUL,
    LOWER_ATTENTION_TO_MHA,
    FUSE_ATTENTION_PROJECTIONS,
    FUSE_SKIP_LAYER_NORM,
    FUSE_SKIP_RMS_NORM,
    SPELL_RESIDUAL_AS_SUM,
    FUSE_BIAS_GELU,
    MERGE_RESHAPES,
    CLEAN_UP,
)

_LIFTED = tuple(each.name for each in LIFT)

# Softmax with the choice of the largest: in the defaults where a kernel or a lowering follows.
_SELECTIONS = ("fuse-beam-candidates", "fuse-router", "fuse-softmax-topk", "fuse-softmax-argmax")

# Layouts and broadcasts that nothing asks for, and nodes in a row that are one: fewer nodes, the same numbers.
_LAYOUTS = ("remove-idle-expands", "cancel-layouts")
_VIEWS = ("merge-transposes", "merge-reshapes")


def _fused(target: str) -> tuple[str, ...]:
    return tuple(each.name for each in LOWER if each.name in fusions(target))


# What each target's default pipeline runs: a pass that is not known to gain on the target is not in its list.
# ort-cpu: measured (benchmarks/, docs/design/0004). ort-cuda: not measured yet, so only the operators that ONNX Runtime
# would choose there itself. Both take their fused operators from one table, lower/ort_capabilities.py. onnx: standard
# operators only. tensorrt: not measured; what its parser takes, by the table
# in lower/tensorrt_operators.py, without Swish: the parser has it from TensorRT 11 on, and fuses the Mul of any age.
# openvino: measured (docs/design/0007); it fuses the Transposes of apart heads itself, and heads together cost it 5 %.
DEFAULTS: dict[str, tuple[str, ...]] = {
    "onnx": (
        *_LIFTED,
        "merge-rotary-heads",
        "merge-attention-heads",
        "pack-tokens",
        *_SELECTIONS,
        *_LAYOUTS,
        "spell-linear",
        "lower-softmax-topk",
        "lower-router-topk",
        *_VIEWS,
        "clean-up",
    ),
    "openvino": (
        *_LIFTED,
        "pack-tokens",
        *_SELECTIONS,
        *_LAYOUTS,
        "spell-linear",
        "spell-partial-rotary",
        "lower-softmax-topk",
        "lower-router-topk",
        *_VIEWS,
        "clean-up",
    ),
    "ort-cpu": (
        *_LIFTED,
        "merge-rotary-heads",
        "merge-attention-heads",
        "pack-tokens",
        *_SELECTIONS,
        *_LAYOUTS,
        "lower-without-kernel",
        "merge-transposes",
        "lower-linear-for-ort",
        *_fused("ort-cpu"),
        "merge-reshapes",
        "clean-up",
    ),
    "ort-cuda": (
        *_LIFTED,
        "merge-rotary-heads",
        "merge-attention-heads",
        *_LAYOUTS,
        "merge-transposes",
        "lower-linear-for-ort",
        *_fused("ort-cuda"),
        "merge-reshapes",
        "clean-up",
    ),
    "tensorrt": (
        *(name for name in _LIFTED if name != "fuse-swish"),
        *_SELECTIONS,
        *_LAYOUTS,
        "spell-linear",
        "inline-functions",
        "narrow-doubles",
        "lower-attention-for-tensorrt",
        "expand-definitions",
        "lower-integer-cumsum",
        "sort-topk",
        "cast-for-tensorrt",
        "name-hars-plugins",
        *_VIEWS,
        "clean-up",
    ),
}

CATALOGUE = Catalogue({"lift": LIFT, "transform": TRANSFORM, "lower": LOWER}, DEFAULTS)
