"""Give every value its shape and dtype, with the names that the graph's inputs give to sizes.

Before:                                  After:
    x [batch, seq]                           x [batch, seq]
    Slice(table [1, 512], 0, seq) [?, ?]     Slice(...) [1, Min(512, seq)]
    Reshape(h [?, ?, 384], ...) [?, ?, ?, 32]    Reshape(...) [batch, seq, 12, 32]

Shapes:    all; sizes of graph inputs and outputs keep their names, others are written in the inputs' names.
           What the file declares between them is believed where nothing is computed, until one declaration
           contradicts a computed size: then none is. Names made up by ONNX's inference (``unk__0``) go.
Dtypes:    all; a dtype that is known stays.
Refuses:   nothing: what cannot be told stays unknown.
Numerics:  no node changes.
Source:    graphwright/engine/shapes; ONNX operator definitions.
"""

from graphwright.engine.pipeline import FunctionPass
from graphwright.engine.shapes import infer_shapes

INFER_SHAPES = FunctionPass("infer-shapes", infer_shapes)
