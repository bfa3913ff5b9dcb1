"""Write ``hars`` nodes as TensorRT finds their plugins: one name for each number of tensors, its indices cast.

Before:                                        After:
    x, bias -- softmax_topk --+-- values           x, bias -- softmax_topk_bias --+-- values
                              +-- indices                                         +-- Cast int64 -- indices

What the plugin takes is in ``graphwright/plugins/hars/tensorrt_nodes.py``: the last axis, which may need Transposes;
a bias of whole rows, which may need an Expand; every attribute given, and those that the parser reads. The nodes keep
their function bodies, which is what every other runtime runs.

Shapes:    as the nodes; an axis other than the last needs a known rank.
Dtypes:    as the nodes.
Refuses:   nothing: a node that means nothing is an error.
Numerics:  the same.
Source:    the file named.
"""

import onnx_ir as ir

from graphwright.engine import facts
from graphwright.engine.pipeline import FunctionPass
from graphwright.engine.shapes import infer_shapes
from graphwright.plugins.hars import meaning
from graphwright.plugins.hars.tensorrt_nodes import for_tensorrt


def name_hars_plugins(model: ir.Model) -> bool:
    """Write the nodes in place; tell whether there were any."""
    has_nodes = any(node.domain == meaning.DOMAIN for graph in facts.graphs(model) for node in graph)
    if not has_nodes or not for_tensorrt(model):
        return False
    # Of the new functions, and of what was an output: that has its own names for sizes.
    infer_shapes(model)
    return True


NAME_HARS_PLUGINS = FunctionPass("name-hars-plugins", name_hars_plugins)
