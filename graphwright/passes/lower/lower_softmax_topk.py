"""Spell ``hars.softmax_topk`` in ONNX's own operators, for runtimes that have no kernel for it.

Before:                                   After, where groups do not pay:
    x -- softmax_topk<mode> --+-- values      x -- Softmax or LogSoftmax -- TopK --+-- values
                              +-- indices                                          +-- indices

                                          After, a long row:
                                              x --+-- Reshape in groups -- ReduceMax -- TopK -- GatherND -- TopK
                                                  +-- Sub -- Exp -- ReduceSum -- ...

What is emitted for which sizes, and why: ``graphwright/plugins/hars/row_split.py``. The function body leaves the model
when nobody calls it any more. Target onnx runs this pass by default; target ort-cpu runs ``lower-without-kernel``,
which does the same only where the compiled kernel cannot be used.

Shapes:    x [..., V, ...] of known rank with a static V; the sizes of other axes may be dynamic.
Dtypes:    x float32, float16, bfloat16.
Refuses:   OPSET below 18; DTYPE not listed; UNKNOWN type, rank or V; SHAPE k above V, or an axis that is not there;
           ATTRIBUTE one that refers to the function around the node, or that means nothing.
Numerics:  the same formulas. The first form ranks rounded probabilities, as the operators that it stands for most
           often did; a row with NaN, or with nothing but -inf, gives what the runtime makes of it.
Source:    docs/design/0005-hars.md.
"""

import onnx_ir as ir

from graphwright.engine.rewrite import Builder, Rule
from graphwright.passes.hars_nodes import (
    MIN_OPSET,
    known_options,
    require_width,
    softmax_topk,
    softmax_topk_with_stats,
)
from graphwright.plugins.hars import portable


def standard_softmax_topk(
    op: Builder,
    logits: ir.Value,
    values: ir.Value,
    bias: ir.Value | None = None,
    maximum: ir.Value | None = None,
) -> tuple[ir.Value, ...]:
    options = known_options(op, values, logits)
    require_width(logits, options["axis"], options["k"])
    return portable.softmax_topk(op, logits, bias, **options, stats=maximum is not None, exact=False)


LOWER_SOFTMAX_TOPK = Rule(
    "lower-softmax-topk", (softmax_topk, softmax_topk_with_stats), standard_softmax_topk, min_opset=MIN_OPSET
)
