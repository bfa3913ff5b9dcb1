"""Put the bodies of a model's own functions where they are called, but for those that stand for a plugin.

Before:                       After:
    x -- lib.Block -- y           x -- MatMul -- Add -- y

    lib.Block(x): x -- MatMul -- Add -- y

TensorRT's parser finds a function by its type alone: not by its domain, nor by its overload, and behind its own
operators. It also wants every input given. Inlined, none of it matters, and rules that look past a call can fire.
Bodies declare no types: those of their values are inferred where they now stand.

Shapes:    any.
Dtypes:    any.
Refuses:   nothing; functions of domain hars stay.
Numerics:  the same.
Source:    onnx-tensorrt, ModelImporter.cpp, on the order in which a node's importer is looked for.
"""

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from graphwright.engine.pipeline import FunctionPass
from graphwright.engine.shapes import infer_shapes
from graphwright.plugins.hars import meaning


def inline_functions(model: ir.Model) -> bool:
    """Inline them in place; tell whether there were any."""
    if all(function.domain == meaning.DOMAIN for function in model.functions.values()):
        return False
    InlinePass(lambda function: function.domain != meaning.DOMAIN)(model)
    infer_shapes(model)
    return True


INLINE_FUNCTIONS = FunctionPass("inline-functions", inline_functions)
