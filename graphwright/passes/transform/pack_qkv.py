"""Pack the projections of one input that one attention takes, as its query, key and value, into one product.

Before:                              After:
        +-- MatMul wq -- + bq -- q       x -- MatMul [wq|wk|wv] -- + [bq|bk|bv] -- Split --+-- q
    x --+-- MatMul wk -- + bk -- k                                                         +-- k
        +-- MatMul wv -- + bv -- v                                                         +-- v

            +-- MatMul wk -- k           m -- MatMul [wk|wv] -- Split --+-- k
    m ------+-- MatMul wv -- v                                          +-- v       (cross attention)

            +-- Gemm wq, bq -- q         x -- Gemm [wq|wk|wv], [bq|bk|bv] -- Split --+-- q
    x ------+-- Gemm wk, bk -- k                                                     +-- k
            +-- Gemm wv, bv -- v                                                     +-- v

Two or three belong together where the same attention operator takes them, with biases, positions, norms and layout on
the way; and three of one input that has no others, whatever takes them. A memory that several layers attend to has two
for each layer: these are packed layer by layer. Opt-in: it brought no gain on ONNX Runtime's CPU (docs/design/0004).

Shapes:    x [..., E], weights [E, N] constant, or [N, E] of a Gemm that transposes them, each with its own N, as of
           grouped queries; biases [N] constant. A missing bias beside others is zeros.
Dtypes:    any that MatMul takes; it has one for all.
Refuses:   OPSET below 13; CONSTANT a bias that is not constant; RANK a weight that is no matrix, a bias that is no
           vector; SHAPE a bias whose length is not its weight's columns; ATTRIBUTE weights of which some are
           transposed; SHARED and GRAPH_OUTPUT interior values. What is refused for its bias is packed without it, and
           the bias stays behind the Split. A product with what is not constant is no projection.
Numerics:  the same sums, each in the order that the backend's product takes.
Source:    Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2; block matrix product.
"""

from typing import Any

import onnx_ir as ir

from graphwright.engine.pattern import AnyOf, PatternOps, Var
from graphwright.engine.rewrite import Builder, Rule
from graphwright.passes.projections import packed, projections, siblings

ATTENTIONS = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention"})
# What may stand between a projection and its attention: bias, scale, positions, norms of heads, layout, past keys.
BETWEEN = frozenset(
    {
        *("Add", "Mul", "Div", "Neg", "Cast", "Identity", "RotaryEmbedding", "RMSNormalization", "LayerNormalization"),
        *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Slice", "Split", "Concat"),
    }
)
# The way from a projection to its attention is shorter; what is longer is another thing.
MOST_STEPS = 64


def three_projections(op: PatternOps, x: Var) -> tuple[AnyOf, ...]:
    return projections(op, x, 3, of_one_attention)


def two_projections(op: PatternOps, x: Var) -> tuple[AnyOf, ...]:
    return projections(op, x, 2, of_one_attention)


def of_one_attention(product: ir.Value) -> tuple[ir.Value, ...]:
    """Return the siblings that the same attention takes, or all where they are three and none is known to."""
    found = siblings(product)
    attention = _attention_of(product) if len(found) > 1 else None
    if attention is not None:
        return tuple(each for each in found if _attention_of(each) is attention)
    return found if len(found) == 3 else ()


def _attention_of(product: ir.Value) -> ir.Node | None:
    """Return the first attention operator that takes what is made of a product."""
    waiting, seen = [product], set[ir.Node]()
    while waiting and len(seen) < MOST_STEPS:
        for user, _ in waiting.pop(0).uses():
            if user.op_type in ATTENTIONS:
                return user
            if user.op_type in BETWEEN and user not in seen:
                seen.add(user)
                waiting.extend(user.outputs)
    return None


def one_product(op: Builder, x: ir.Value, **bound: Any) -> tuple[ir.Value, ...]:
    return packed(op, x, 3 if "weight_2" in bound else 2, bound)


PACK_QKV = Rule("pack-qkv", (three_projections, two_projections), one_product, min_opset=13)
