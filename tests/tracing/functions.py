"""PyTorch functions that the tests trace: made up, so that no rule of the catalogue knows them."""

import math

import torch
import torch.nn.functional as F


def soft_gate(x: torch.Tensor, steepness: float) -> torch.Tensor:
    """The exporters spell its softplus in two ways."""
    return x * torch.tanh(F.softplus(steepness * x))


def sharp_gate(x: torch.Tensor, sharpness: float, offset: float) -> torch.Tensor:
    """Holds its numbers as a divisor, as a root, and negated."""
    return torch.tanh(x * math.sqrt(sharpness) - offset) / sharpness + x


class Gate(torch.nn.Module):
    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return shared_part(x) * torch.exp(-gate * gate)


def shared_part(x: torch.Tensor) -> torch.Tensor:
    root = torch.sqrt(x * x + 1.0)
    return root + 1.0 / root


def two_results(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    root = torch.sqrt(torch.abs(x))
    return root + 2.0, root * x


def scaled_by_width(x: torch.Tensor) -> torch.Tensor:
    """Reads a size as a number, as attention does."""
    return torch.tanh(x / math.sqrt(x.shape[-1])) * x


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions by halves: the width of a head is a number in the graph."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin


def with_a_table(x: torch.Tensor) -> torch.Tensor:
    """A constant that is made of a size, but of nothing that a pattern can tell."""
    return x * float(x.shape[-1] % 5 + 2) + torch.tanh(x)


def ignores(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) * x


def widened(x: torch.Tensor) -> torch.Tensor:
    """Computes in float32 and comes back."""
    wide = x.float()
    return (wide * torch.tanh(torch.exp(wide))).to(x.dtype)


def always_to_half(x: torch.Tensor) -> torch.Tensor:
    """Comes back to float16, whatever came in."""
    wide = x.float()
    return (wide * torch.tanh(torch.exp(wide))).half()


def fails(x: torch.Tensor) -> torch.Tensor:
    raise ValueError("no such luck")
