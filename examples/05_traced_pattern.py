"""Give a rule's pattern as a PyTorch function: whatever the exporter makes of it is what the rule looks for.

python examples/05_traced_pattern.py

The function is traced once for each version of the exporters; the user's cache keeps the patterns.
"""

from typing import Any

import onnx_ir as ir
import torch

import graphwright as gw
from graphwright.engine.rewrite import Builder, Reason, Rule, require
from graphwright.engine.traced import Traced, graph_patterns
from graphwright.testing import assert_matches_oracle


def soft_gate(x: torch.Tensor, steepness: float) -> torch.Tensor:
    """What the model's authors wrote. The exporters spell its softplus in two ways."""
    return x * torch.tanh(torch.nn.functional.softplus(steepness * x))


def steep_mish(op: Builder, x: ir.Value, steepness: float) -> Any:
    require(steepness > 0, Reason.CONSTANT, f"steepness {steepness}; needed above 0")
    return op.Mul(op.Mish(op.Mul(x, steepness)), 1 / steepness)


# T is any type, ... any number of axes; the two numbers are examples, to find which constants of the graph tell it.
SOFT_GATE = Traced(soft_gate, {"x": "T[...]"}, parameters={"steepness": (1.25, 3.0)})
FUSE_SOFT_GATE = Rule("fuse-soft-gate", (SOFT_GATE,), steep_mish, min_opset=18)


class TwoLayers(torch.nn.Module):
    """A model that uses the function, at shapes and numbers that nobody traced it at."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 10), torch.nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return soft_gate(self.second(soft_gate(self.first(x), 2.0)), 1.5)


def main() -> None:
    """Optimize a model with the rule; look at what was traced; check the rule against the function."""
    torch.manual_seed(0)
    inputs = {"x": torch.randn(3, 6)}
    passes = ["default", FUSE_SOFT_GATE]
    artifact = gw.optimize(TwoLayers(), inputs, target="onnx", passes=passes, verify="region", progress=False)
    print([node.op_type for node in artifact.model.graph])
    for pattern in graph_patterns(SOFT_GATE):
        print(f"{pattern.name}: {pattern.size} operators")
    print(f"the same numbers as the function on {assert_matches_oracle(FUSE_SOFT_GATE)} exporters' graphs")


if __name__ == "__main__":
    main()
