"""The inputs of regions as the model itself computes them, so that a region is timed on shapes and numbers it meets."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from graphwright.runtime.bound import BoundProfile
from graphwright.runtime.ort import OrtSession
from graphwright.runtime.signature import inputs_of

Arrays = Mapping[str, np.ndarray]


def values_at(model: ir.Model, regions: Sequence[ir.Model], points: Sequence[Arrays]) -> list[list[Arrays]]:
    """Return the inputs of each region at each point, by running the model once a point.

    Raises:
        GraphwrightError: the model cannot be run, or gives values that a session cannot hand out.
    """
    wanted = list(dict.fromkeys(value.name or "" for region in regions for value in region.graph.inputs))
    watched, defaults = _watched(model, wanted)
    session = OrtSession(watched, BoundProfile(inputs_of(watched), ({},)), prepack=False)
    found: list[list[Arrays]] = [[] for _ in regions]
    for point in points:
        # A copy: the session's buffers serve the next point.
        seen = {name: np.array(value) for name, value in session(point).items() if name in wanted}
        known = {**defaults, **point, **seen}
        for arrays, region in zip(found, regions, strict=True):
            arrays.append({value.name or "": known[value.name or ""] for value in region.graph.inputs})
    session.close()
    return found


def _watched(model: ir.Model, wanted: Sequence[str]) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """Return the model with the wanted values among its outputs, and those that callers may leave out."""
    watched = model.clone()
    graph = watched.graph
    made = {value.name: value for node in graph for value in node.outputs}
    outputs = set(graph.outputs)
    graph.outputs.extend(made[name] for name in wanted if name in made and made[name] not in outputs)
    tensors = {name: value.const_value for name, value in graph.initializers.items()}
    defaults = {name: tensor.numpy() for name, tensor in tensors.items() if name in wanted and tensor is not None}
    return watched, defaults
