"""Have ``TopK`` sort what it chooses: TensorRT's parser takes it no other way.

Before:                            After:
    x, k -- TopK<sorted=0> -- ...      x, k -- TopK -- ...

Shapes:    any.
Dtypes:    any.
Refuses:   nothing; a node that sorts already does not match.
Numerics:  the same elements, in one of the orders that the node allowed.
Source:    ONNX operator TopK-24; ``tensorrt_operators``.
"""

import onnx_ir as ir

from graphwright.engine.pattern import Op, PatternOps, Var
from graphwright.engine.rewrite import Builder, Rule


def unsorted(op: PatternOps, x: Var, k: Var) -> tuple[Op, ...]:
    chosen: tuple[Op, ...] = op.TopK(x, k, axis=op.attr("axis"), largest=op.attr("largest"), sorted=0, _outputs=2)
    return chosen


def in_order(op: Builder, x: ir.Value, k: ir.Value, axis: int, largest: int) -> tuple[ir.Value, ...]:
    chosen: tuple[ir.Value, ...] = op.TopK(x, k, axis=axis, largest=largest, _outputs=2)
    return chosen


SORT_TOPK = Rule("sort-topk", (unsorted,), in_order)
