"""Formulas as models write them in PyTorch, to be traced: the patterns of rules in this folder name them.

Imported only to be traced, or as the oracle of a rule's numbers. After a change: ``make patterns``.
"""

import math

import torch
import torch.nn.functional as F


def gelu(x: torch.Tensor) -> torch.Tensor:
    """The Gaussian error linear unit, as PyTorch has it."""
    return F.gelu(x)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """Its approximation by tanh, as PyTorch has it."""
    return F.gelu(x, approximate="tanh")


def gelu_python(x: torch.Tensor) -> torch.Tensor:
    """With the error function written out, as BERT's first code had it."""
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_new(x: torch.Tensor) -> torch.Tensor:
    """With the tanh written out, as GPT-2 has it."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def gelu_fast(x: torch.Tensor) -> torch.Tensor:
    """With x and sqrt(2/pi) taken out of the sum, as GPT-J's kin have it."""
    return 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


def silu(x: torch.Tensor) -> torch.Tensor:
    """Swish with the factor 1, as PyTorch has it."""
    return F.silu(x)


def scaled_swish(x: torch.Tensor, alpha: float) -> torch.Tensor:
    """Swish with a factor: QuickGelu where it is 1.702, as CLIP has it."""
    return x * torch.sigmoid(alpha * x)


def gated_by_tanh_of_softplus(x: torch.Tensor) -> torch.Tensor:
    """Mish, as models wrote it before PyTorch had it; newer exporters spell out the softplus' threshold."""
    return x * torch.tanh(F.softplus(x))


def llama_rms_norm(x: torch.Tensor, scale: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Normalized in float32, narrowed, then scaled."""
    wide = x.to(torch.float32)
    variance = wide.pow(2).mean(-1, keepdim=True)
    return scale * (wide * torch.rsqrt(variance + epsilon)).to(x.dtype)


def t5_rms_norm(x: torch.Tensor, scale: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Only the variance is taken in float32."""
    variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
    return scale * (x * torch.rsqrt(variance + epsilon))


def gemma_rms_norm(x: torch.Tensor, scale: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The scale counts from one, and is applied before the product is narrowed."""
    wide = x.float()
    normalized = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return (normalized * (1.0 + scale.float())).type_as(x)


def cohere_layer_norm(x: torch.Tensor, scale: torch.Tensor, epsilon: float) -> torch.Tensor:
    """In primitives, and without a bias."""
    wide = x.to(torch.float32)
    mean = wide.mean(-1, keepdim=True)
    variance = (wide - mean).pow(2).mean(-1, keepdim=True)
    normalized = (wide - mean) * torch.rsqrt(variance + epsilon)
    return (scale.to(torch.float32) * normalized).to(x.dtype)
