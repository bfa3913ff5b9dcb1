"""Shape inference that keeps the names of sizes: which of them are equal is what rules need to know."""

from graphwright.engine.shapes.values import shape_value
from graphwright.engine.shapes.walk import infer_shapes

__all__ = ["infer_shapes", "shape_value"]
