"""What tuning chooses between, as data: kinds of regions, and the passes that give each spelling of one.

A region is found by the first pattern that matches in the graph as it is before the first of these passes. An
alternative runs those of its choice's passes that it names; all others of the pipeline run as they would anyway. So a
choice decides which rules may fire where, and never what a rule does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphwright.engine import facts
from graphwright.engine.pattern import AnyOf, Checked, Op, PatternOps, Var
from graphwright.engine.traced import Traced
from graphwright.passes.lower import fuse_bias_gelu, fuse_skip_layer_norm, fuse_skip_rms_norm
from graphwright.passes.transform import fuse_softmax_argmax, fuse_softmax_topk


@dataclass(frozen=True)
class Alternative:
    """One spelling: its name in reports, and the passes of its choice that make it."""

    name: str
    passes: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """A kind of region, by patterns, and its spellings."""

    name: str
    patterns: tuple[Callable[..., Any] | Traced, ...]
    alternatives: tuple[Alternative, ...]

    @property
    def passes(self) -> frozenset[str]:
        """All passes that its alternatives run or leave out."""
        return frozenset(name for each in self.alternatives for name in each.passes)


def _constant(op: PatternOps, name: str) -> Checked:
    return op.check(op.var(name), "a constant", lambda value: facts.constant(value) is not None)


def _biased(op: PatternOps, value: Op | Var, name: str) -> AnyOf:
    """A value, with the bias behind it if there is one."""
    return op.any_of(op.Add(value, _constant(op, f"_{name}_bias")), value)


def _split(op: PatternOps, value: AnyOf | Var, name: str) -> Op:
    heads: Op = op.Transpose(op.Reshape(value, op.var(f"_{name}_shape")), perm=[0, 2, 1, 3])
    return heads


def _mask(op: PatternOps, full: Var, small: Var) -> AnyOf:
    """A mask with the expansion before it, which some spellings do without."""
    return op.any_of(op.keep(op.Expand(small, op.var("_lengths"))), full)


def _joined(op: PatternOps, attention: Op) -> Op:
    node: Op = op.Reshape(op.Transpose(attention, perm=[0, 2, 1, 3]), op.var("_y_shape"))
    return node


def _projected(op: PatternOps, x: Var, name: str) -> Op:
    return _split(op, _biased(op, op.MatMul(x, _constant(op, f"_{name}_weight")), name), name)


def self_attention(op: PatternOps, x: Var, full: Var | None = None, small: Var | None = None) -> Op:
    """Projections of one input, heads apart, and attention over them."""
    assert full is not None and small is not None
    heads = [_projected(op, x, name) for name in ("q", "k", "v")]
    return _joined(op, op.Attention(*heads, _mask(op, full, small)))


def cross_attention(op: PatternOps, x: Var, z: Var, full: Var | None = None, small: Var | None = None) -> Op:
    """Attention from one input to another, with its projections."""
    assert full is not None and small is not None
    heads = [_projected(op, given, name) for given, name in ((x, "q"), (z, "k"), (z, "v"))]
    return _joined(op, op.Attention(*heads, _mask(op, full, small)))


def attention_heads_apart(
    op: PatternOps, q: Var, k: Var, v: Var, full: Var | None = None, small: Var | None = None
) -> Op:
    """Attention with its heads split and joined around it."""
    assert full is not None and small is not None
    heads = [_split(op, _biased(op, each, each.name), each.name) for each in (q, k, v)]
    return _joined(op, op.Attention(*heads, _mask(op, full, small)))


def attention_alone(op: PatternOps, q: Var, k: Var, v: Var, full: Var | None = None, small: Var | None = None) -> Op:
    """Attention in any other form."""
    assert full is not None and small is not None
    node: Op = op.Attention(q, k, v, _mask(op, full, small))
    return node


def gated_unit(op: PatternOps, x: Var) -> Op:
    """Two projections of one input, the activation of one times the other."""
    gate, up = op.MatMul(x, _constant(op, "_gate_weight")), op.MatMul(x, _constant(op, "_up_weight"))
    activation = op.any_of(*(getattr(op, name)(_biased(op, gate, "gate")) for name in ("Swish", "Gelu", "Relu")))
    node: Op = op.Mul(activation, _biased(op, up, "up"))
    return node


CHOICES: tuple[Choice, ...] = (
    Choice(
        "attention",
        (self_attention, cross_attention, attention_heads_apart, attention_alone),
        (
            Alternative("heads together", ("merge-attention-heads",)),
            Alternative("heads apart", ()),
            Alternative("heads together, projections packed", ("merge-attention-heads", "pack-qkv")),
            Alternative("products and softmax", ("lower-attention",)),
            Alternative("MultiHeadAttention", ("merge-attention-heads", "lower-attention-to-mha")),
            Alternative(
                "com.microsoft.Attention",
                ("merge-attention-heads", "lower-attention-to-mha", "fuse-attention-projections"),
            ),
        ),
    ),
    Choice(
        "gate and up projections",
        (gated_unit,),
        (Alternative("apart", ()), Alternative("packed", ("pack-gate-up",))),
    ),
    Choice(
        "residual norm",
        fuse_skip_layer_norm.PATTERNS,
        (
            Alternative("Sum, LayerNormalization", ("spell-residual-as-sum",)),
            Alternative("Add, LayerNormalization", ()),
            Alternative("SkipLayerNormalization", ("fuse-skip-layer-norm",)),
        ),
    ),
    Choice(
        "residual RMS norm",
        (fuse_skip_rms_norm.pre_norm, fuse_skip_rms_norm.post_norm),
        (
            Alternative("Add, RMSNormalization", ()),
            Alternative("SkipSimplifiedLayerNormalization", ("fuse-skip-rms-norm",)),
        ),
    ),
    Choice(
        "gelu",
        (fuse_bias_gelu.gelu_of_sum,),
        (Alternative("BiasGelu", ("fuse-bias-gelu",)), Alternative("Add, Gelu", ())),
    ),
    Choice(
        "softmax with the largest",
        (*fuse_softmax_topk.FUSE_SOFTMAX_TOPK.patterns, *fuse_softmax_argmax.FUSE_SOFTMAX_ARGMAX.patterns),
        (
            Alternative("HARS", ("fuse-softmax-topk", "fuse-softmax-argmax")),
            Alternative("Softmax and TopK", ()),
        ),
    ),
)


def choice_of(pass_name: str, choices: tuple[Choice, ...] = CHOICES) -> Choice | None:
    """Return the choice that a pass belongs to, or None.

    Example:
        >>> choice_of("pack-qkv").name, choice_of("clean-up")
        ('attention', None)
    """
    return next((each for each in choices if pass_name in each.passes), None)
