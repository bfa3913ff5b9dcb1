"""Spell ``hars.router_topk`` in ONNX's own operators, for runtimes that have no kernel for it.

Before:                                   After:
    x -- router_topk --+-- weights            x -- Softmax or Sigmoid --+----------------- GatherElements -- weights
                       +-- experts                                      +-- + bias -- TopK ------+---------- experts

                                          After, renormalized and without bias or groups:
                                              x -- TopK --+-- Softmax -- weights
                                                          +------------- experts

The other options add what they ask for: ``graphwright/plugins/hars/portable_router.py``. The function body leaves the
model when nobody calls it any more. Target onnx runs this pass by default; target ort-cpu runs
``lower-without-kernel``, which does the same only where the compiled kernel cannot be used.

Shapes:    x [..., E] of known rank with a static E; other sizes may be dynamic.
Dtypes:    x float32, float16, bfloat16.
Refuses:   OPSET below 18; DTYPE not listed; UNKNOWN type, rank or E; SHAPE k above E; ATTRIBUTE one that refers to the
           function around the node, or that means nothing.
Numerics:  the same formulas, sums of the chosen in float32. A row with NaN, with +inf, or with nothing but -inf gives
           what the runtime's operators make of it.
Source:    docs/design/0005-hars.md; DeepSeek-V3, arXiv:2412.19437, section 2.1.2.
"""

import onnx_ir as ir

from graphwright.engine.rewrite import Builder, Rule
from graphwright.passes.hars_nodes import (
    MIN_OPSET,
    known_options,
    require_width,
    router_topk,
    router_topk_with_identity,
)
from graphwright.plugins.hars import portable_router


def standard_router_topk(
    op: Builder,
    scores: ir.Value,
    weights: ir.Value,
    bias: ir.Value | None = None,
    identity: ir.Value | None = None,
) -> tuple[ir.Value, ...]:
    options = known_options(op, weights, scores)
    require_width(scores, -1, options["k"])
    results = portable_router.router_topk(op, scores, bias, **options, exact=False)
    return results if identity is not None else results[:2]


LOWER_ROUTER_TOPK = Rule(
    "lower-router-topk", (router_topk, router_topk_with_identity), standard_router_topk, min_opset=MIN_OPSET
)
