"""The catalogue: every pass, in running order, and the default pipeline of each target.

A new pass is a file in one of the families and a line here.
"""

from graphwright.engine.pipeline import Catalogue, Pass
from graphwright.passes.lift.convert_opset import CONVERT_OPSET
from graphwright.passes.lift.eliminate_common_subexpressions import ELIMINATE_COMMON_SUBEXPRESSIONS
from graphwright.passes.lift.fold_constants import FOLD_CONSTANTS
from graphwright.passes.lift.fuse_attention import FUSE_ATTENTION
from graphwright.passes.lift.fuse_gelu import FUSE_GELU
from graphwright.passes.lift.fuse_gemm_bias import FUSE_GEMM_BIAS
from graphwright.passes.lift.fuse_layer_norm import FUSE_LAYER_NORM
from graphwright.passes.lift.fuse_rms_norm import FUSE_RMS_NORM
from graphwright.passes.lift.fuse_swish import FUSE_SWISH
from graphwright.passes.lift.infer_shapes import INFER_SHAPES
from graphwright.passes.lift.merge_initializers import MERGE_INITIALIZERS
from graphwright.passes.lift.remove_identities import REMOVE_IDENTITIES
from graphwright.passes.lift.remove_idle_reshapes import REMOVE_IDLE_RESHAPES
from graphwright.passes.lower.cast_for_tensorrt import CAST_FOR_TENSORRT
from graphwright.passes.lower.clean_up import CLEAN_UP
from graphwright.passes.lower.expand_definitions import EXPAND_DEFINITIONS
from graphwright.passes.lower.fuse_bias_gelu import FUSE_BIAS_GELU
from graphwright.passes.lower.fuse_scaled_matmul import FUSE_SCALED_MATMUL
from graphwright.passes.lower.fuse_skip_layer_norm import FUSE_SKIP_LAYER_NORM
from graphwright.passes.lower.inline_functions import INLINE_FUNCTIONS
from graphwright.passes.lower.lower_attention import LOWER_ATTENTION
from graphwright.passes.lower.lower_attention_for_tensorrt import LOWER_ATTENTION_FOR_TENSORRT
from graphwright.passes.lower.lower_integer_cumsum import LOWER_INTEGER_CUMSUM
from graphwright.passes.lower.lower_router_topk import LOWER_ROUTER_TOPK
from graphwright.passes.lower.lower_softmax_topk import LOWER_SOFTMAX_TOPK
from graphwright.passes.lower.lower_without_kernel import LOWER_WITHOUT_KERNEL
from graphwright.passes.lower.merge_transposes import MERGE_TRANSPOSES
from graphwright.passes.lower.name_hars_plugins import NAME_HARS_PLUGINS
from graphwright.passes.lower.narrow_doubles import NARROW_DOUBLES
from graphwright.passes.lower.precision import PRECISION
from graphwright.passes.lower.quantize import QUANTIZE
from graphwright.passes.lower.sort_topk import SORT_TOPK
from graphwright.passes.lower.spell_residual_as_sum import SPELL_RESIDUAL_AS_SUM
from graphwright.passes.transform.damf import DAMF
from graphwright.passes.transform.fuse_beam_candidates import FUSE_BEAM_CANDIDATES
from graphwright.passes.transform.fuse_router import FUSE_ROUTER
from graphwright.passes.transform.fuse_softmax_argmax import FUSE_SOFTMAX_ARGMAX
from graphwright.passes.transform.fuse_softmax_topk import FUSE_SOFTMAX_TOPK
from graphwright.passes.transform.merge_attention_heads import MERGE_ATTENTION_HEADS
from graphwright.passes.transform.pack_qkv import PACK_QKV
from graphwright.passes.transform.pick_label_probability import PICK_LABEL_PROBABILITY
from graphwright.passes.transform.simplify_attention_mask import SIMPLIFY_ATTENTION_MASK

LIFT: tuple[Pass, ...] = (
    CONVERT_OPSET,
    REMOVE_IDENTITIES,
    INFER_SHAPES,
    REMOVE_IDLE_RESHAPES,
    FOLD_CONSTANTS,
    MERGE_INITIALIZERS,
    ELIMINATE_COMMON_SUBEXPRESSIONS,
    FUSE_GEMM_BIAS,
    FUSE_LAYER_NORM,
    FUSE_RMS_NORM,
    FUSE_GELU,
    FUSE_SWISH,
    FUSE_ATTENTION,
)
TRANSFORM: tuple[Pass, ...] = (
    SIMPLIFY_ATTENTION_MASK,
    MERGE_ATTENTION_HEADS,
    DAMF,
    PACK_QKV,
    FUSE_BEAM_CANDIDATES,
    FUSE_ROUTER,
    FUSE_SOFTMAX_TOPK,
    FUSE_SOFTMAX_ARGMAX,
    PICK_LABEL_PROBABILITY,
)
LOWER: tuple[Pass, ...] = (
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
    FUSE_SCALED_MATMUL,
    FUSE_SKIP_LAYER_NORM,
    SPELL_RESIDUAL_AS_SUM,
    FUSE_BIAS_GELU,
    CLEAN_UP,
)

_LIFTED = tuple(each.name for each in LIFT)

# Softmax with the choice of the largest: in the defaults where a kernel or a lowering follows.
_SELECTIONS = ("fuse-beam-candidates", "fuse-router", "fuse-softmax-topk", "fuse-softmax-argmax")

# What each target's default pipeline runs: a pass that is not known to gain on the target is not in its list.
# ort-cpu: measured (benchmarks/, docs/design/0004). ort-cuda: not measured yet, so only the operators that ONNX Runtime
# would choose there itself. onnx: standard operators only. tensorrt: not measured; what its parser takes, by the table
# in lower/tensorrt_operators.py, without Swish: the parser has it from TensorRT 11 on, and fuses the Mul of any age.
# openvino: measured (docs/design/0007); it fuses the Transposes of apart heads itself, and heads together cost it 5 %.
DEFAULTS: dict[str, tuple[str, ...]] = {
    "onnx": (*_LIFTED, "merge-attention-heads", *_SELECTIONS, "lower-softmax-topk", "lower-router-topk"),
    "openvino": (*_LIFTED, *_SELECTIONS, "lower-softmax-topk", "lower-router-topk"),
    "ort-cpu": (
        *_LIFTED,
        "merge-attention-heads",
        *_SELECTIONS,
        "lower-without-kernel",
        "fuse-scaled-matmul",
        "spell-residual-as-sum",
        "fuse-bias-gelu",
        "clean-up",
    ),
    "ort-cuda": (*_LIFTED, "merge-attention-heads", "fuse-skip-layer-norm", "fuse-bias-gelu", "clean-up"),
    "tensorrt": (
        *(name for name in _LIFTED if name != "fuse-swish"),
        *_SELECTIONS,
        "inline-functions",
        "narrow-doubles",
        "lower-attention-for-tensorrt",
        "expand-definitions",
        "lower-integer-cumsum",
        "sort-topk",
        "cast-for-tensorrt",
        "name-hars-plugins",
        "clean-up",
    ),
}

CATALOGUE = Catalogue({"lift": LIFT, "transform": TRANSFORM, "lower": LOWER}, DEFAULTS)
