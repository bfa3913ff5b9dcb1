"""The penalty that makes one singular value of each head dominate, before the others are cut away."""

from collections.abc import Iterator

import torch
from torch import nn

from graphwright.damf.core import DamfAttention, heads_of
from graphwright.damf.families import parts_of
from graphwright.damf.replace import attentions
from graphwright.errors import UsageError


def spectral_penalty(model: nn.Module) -> torch.Tensor:
    """Return L_MS, the mean over all heads of ``1 - s_max / sum_k s_k``: 0 where every head has rank 1.

    Original attentions and every :class:`DamfAttention` count. It costs a QR decomposition of each projection and the
    singular values of a D x D matrix per head, and its gradient stays finite where singular values are equal: that of a
    singular value needs its own vectors alone, not differences of values.

    Shapes: a scalar.
    Dtypes: float32, float64 for a float64 model.

    Raises:
        UsageError: the model has no attention that can be taken apart.

    Source: Yang et al., "Hardware Friendly Transformer Optimization with Dynamic Attention Matrix Fusion", eq. 9.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> from graphwright.damf import replace_attention
        >>> config = BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8)
        >>> model = BertModel(config)
        >>> 0.1 < spectral_penalty(model).item() < 0.75
        True
        >>> names = replace_attention(model, rank=1)
        >>> spectral_penalty(model).item()
        0.0
    """
    return 1 - largest_shares(model).mean()


def largest_shares(model: nn.Module) -> torch.Tensor:
    """Return ``s_max / sum_k s_k`` of every head, in the order of the model, with gradients.

    Shapes: [heads of all attentions].

    Raises:
        UsageError: the model has no attention that can be taken apart.

    Example:
        >>> from transformers import BertConfig, BertModel
        >>> config = BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=3, intermediate_size=8)
        >>> largest_shares(BertModel(config)).shape
        torch.Size([6])
    """
    shares = [_shares(u, v) for u, v in _all_factors(model)]
    if not shares:
        hint = "graphwright.damf.replace_attention tells which attentions are known"
        raise UsageError(type(model).__name__, "no attention that is known", needed="one", hint=hint)
    return torch.cat(shares)


def _all_factors(model: nn.Module) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Both factors of every attention's heads, [H, d + 1, r]; the scale cancels."""
    originals = attentions(model)
    for name, module in model.named_modules():
        if isinstance(module, DamfAttention):
            yield module.factors()
        elif name in originals:
            parts = parts_of(module, name)
            yield heads_of(parts.query, parts.heads), heads_of(parts.key, parts.heads)


def _shares(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    if u.shape[-1] == 1:
        return torch.ones(len(u), device=u.device, dtype=u.dtype)
    with torch.autocast(u.device.type, enabled=False):
        values: torch.Tensor = torch.linalg.svdvals(_triangle(u) @ _triangle(v).transpose(-1, -2))
        # A head of zeros has no largest share; the least float keeps it and its gradient at zero.
        total = values.sum(-1).clamp_min(torch.finfo(values.dtype).tiny)
        return torch.div(values[..., 0], total)


def _triangle(factor: torch.Tensor) -> torch.Tensor:
    """The R of a QR decomposition; the factor itself where it is wide, which has no gradient and no need."""
    wide = factor if factor.dtype == torch.float64 else factor.float()
    if wide.shape[-2] < wide.shape[-1]:
        return wide
    triangle: torch.Tensor = torch.linalg.qr(wide).R
    return triangle
