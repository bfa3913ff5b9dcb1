"""A formula in a file of its own, a description of it and a record, for the tests of traced patterns."""

from collections.abc import Mapping
from typing import Any

from graphwright.engine.traced import Recording, Traced

SOURCE = """import torch

FACTOR = 2.0
OTHER = 3.0


def helper(x):
    return x * FACTOR


def formula(x, weight, strength):
    return torch.tanh(helper(x) + strength) * weight


def stranger(x):
    return x
"""

VERSIONS = {"torch": "2.13.0", "onnxscript": "0.7.2"}
DESCRIPTION = {"x": "T[..., E]", "weight": "T[E]"}
NODES: list[dict[str, Any]] = [
    {"op": "Mul", "inputs": ["x", {"literal": 2.0}]},
    {"op": "Add", "inputs": [{"node": 0}, {"parameter": "strength", "relation": "square root"}]},
    {"op": "Tanh", "inputs": [{"node": 1}]},
    {"op": "Mul", "inputs": [{"node": 2}, "weight"]},
]
ENTRY = {"exporters": ["made up"], "roots": [{"node": 3}], "nodes": NODES}


def described(**options: Any) -> Traced:
    return Traced("formulas:formula", DESCRIPTION, {"strength": (4.0, 9.0)}, **options)


def recorded(given: Traced, entry: object = ENTRY, versions: Mapping[str, str] = VERSIONS) -> Recording:
    return Recording(given.digest, versions, (entry,))
