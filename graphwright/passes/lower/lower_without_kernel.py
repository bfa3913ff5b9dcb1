"""Spell ``hars`` nodes in ONNX's own operators where graphwright's compiled kernels cannot be used.

Before:                              After, without the compiled library:
    x -- softmax_topk --+-- values       what lower-softmax-topk makes of it
                        +-- indices
    x -- router_topk ---+-- weights      what lower-router-topk makes of it
                        +-- experts

Target ort-cpu runs this pass by default. There is one pass for each answer to "is there a kernel?": a pass takes no
look at the target, and pipeline text has to say what it does. With the library the nodes stay, since the kernel takes
their place when the session is made, and ``explain`` says KERNEL. A model that was compiled with the library runs
without it too, by the function bodies, but slower than if it had been compiled there.

Shapes:    as the two passes say.
Dtypes:    float32, float16, bfloat16.
Refuses:   KERNEL the library can be used; all that the two passes refuse for.
Numerics:  as the two passes say.
Source:    the two passes named.
"""

import onnx_ir as ir

from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.passes.hars_nodes import (
    MIN_OPSET,
    router_topk,
    router_topk_with_identity,
    softmax_topk,
    softmax_topk_with_stats,
)
from graphwright.passes.lower.lower_router_topk import standard_router_topk
from graphwright.passes.lower.lower_softmax_topk import standard_softmax_topk
from graphwright.plugins.hars import native


def standard_operators(
    op: Builder,
    bias: ir.Value | None = None,
    logits: ir.Value | None = None,
    values: ir.Value | None = None,
    maximum: ir.Value | None = None,
    scores: ir.Value | None = None,
    weights: ir.Value | None = None,
    identity: ir.Value | None = None,
) -> tuple[ir.Value, ...]:
    require(not native.available(), Reason.KERNEL, "the compiled library does it faster")
    if logits is not None and values is not None:
        return standard_softmax_topk(op, logits, values, bias, maximum)
    assert scores is not None and weights is not None
    return standard_router_topk(op, scores, weights, bias, identity)


LOWER_WITHOUT_KERNEL = Rule(
    "lower-without-kernel",
    (softmax_topk, softmax_topk_with_stats, router_topk, router_topk_with_identity),
    standard_operators,
    min_opset=MIN_OPSET,
)
