"""Shape inference that keeps the names of sizes: which of them are equal is what rules need to know."""

from graphwright.engine.shapes.values import output_shapes, shape_value
from graphwright.engine.shapes.walk import infer_function, infer_shapes

__all__ = ["infer_function", "infer_shapes", "output_shapes", "shape_value"]
