"""Merge what the passes before made twice: equal small constants, then nodes that compute the same.

Before:                                    After:
    k1 -- Transpose -- MatMul                  k1 -- Transpose -- MatMul
    mask -- ReduceMax -- Equal <- -inf         mask -- ReduceMax -- Equal <- -inf --+-- Where
    mask -- ReduceMax -- Equal <- -inf'                                             +-- Where

Lowering works region by region, so each attention layer gets its own copy of what all of them share.

Shapes:    any.
Dtypes:    any.
Refuses:   nothing: what ``merge-initializers`` and ``eliminate-common-subexpressions`` leave alone stays.
Numerics:  the same.
Source:    the two passes named.
"""

import onnx_ir as ir

from graphwright.engine.pipeline import FunctionPass
from graphwright.passes.lift.eliminate_common_subexpressions import ELIMINATE_COMMON_SUBEXPRESSIONS
from graphwright.passes.lift.merge_initializers import MERGE_INITIALIZERS


def clean_up(model: ir.Model) -> bool:
    """Merge equal constants, then equal nodes; tell whether there were any."""
    merged = bool(MERGE_INITIALIZERS.function(model))
    return bool(ELIMINATE_COMMON_SUBEXPRESSIONS.function(model)) or merged


CLEAN_UP = FunctionPass("clean-up", clean_up)
