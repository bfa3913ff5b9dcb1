"""Attention whose scores are a product of short factors: the module that takes the place of the original."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphwright.damf.softmax import exact_attention, linear_attention, shift_attention
from graphwright.errors import RequestError
from graphwright.plugins.damf.reference import Softmax

# Between the two numbers of a mask that is added to scores.
_HIDDEN = -1.0


@dataclass(frozen=True)
class Projection:
    """An affine map in row vectors, ``x @ weight + bias``, the heads side by side.

    Shapes: weight [d, H * D], bias [H * D].
    """

    weight: torch.Tensor
    bias: torch.Tensor | None


@dataclass(frozen=True)
class Parts:
    """What an attention consists of, whoever wrote it.

    ``output`` takes the heads' results side by side, ``calling`` tells how the module is called and what it returns
    (a key of ``modules.CALLINGS``).
    """

    query: Projection
    key: Projection
    value: Projection
    heads: int
    scale: float
    causal: bool
    cross: bool
    output: nn.Module
    dropout: float
    calling: str
    layer: int | None = None
    bias: nn.Module | None = None


class DamfAttention(nn.Module):
    """Attention with ``P = [X, 1] u`` and ``N = [Y, 1] v`` in place of queries and keys.

    ``query`` and ``key`` make the r factors of each head, side by side; ``value`` and ``output`` are the original's.
    The scale of the original is in the factors. ``maclaurin`` takes time and memory linear in the lengths.

    The weights of the first-order softmax are never formed, so there are none to drop: attention dropout applies to
    ``exact`` alone.
    """

    def __init__(self, parts: Parts, u: torch.Tensor, v: torch.Tensor, softmax: Softmax) -> None:
        super().__init__()
        self.heads, self.rank, self.softmax = parts.heads, u.shape[-1], softmax
        self.is_causal, self.is_cross, self.dropout = parts.causal, parts.cross, parts.dropout
        self.layer_idx = parts.layer
        self.query, self.key = linear_of_factors(u, parts.query.weight), linear_of_factors(v, parts.key.weight)
        self.value = linear_of(parts.value)
        self.output = parts.output

    def extra_repr(self) -> str:
        """Tell what distinguishes this module in torch's printed tree."""
        return f"heads={self.heads}, rank={self.rank}, softmax={self.softmax!r}, causal={self.is_causal}"

    def attend(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        cache: Any = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the output for queries from x, and keys and values from y, or from x where there is no y.

        Shapes: x [B, S, d], y [B, T, e]; mask [B, T], or [B, 1, S, T] as transformers makes it, True or 0 where a key
            is seen; bias [1, H, S, T] is added to the scores (``exact`` alone); result as the original's output.

        Raises:
            RequestError: a mask that is no mask of keys, or a cache that is not empty, where softmax is not exact.
        """
        p = self._split(self.query(x))
        n, v = self._keys(x if y is None else y, cache)
        if self.softmax == "exact":
            mask = score_mask(mask, bias, self.is_causal, (p.shape[-2], n.shape[-2]))
            context = exact_attention(p, n, v, mask, self.is_causal, self.dropout if self.training else 0.0)
        else:
            if n.shape[-2] != p.shape[-2] and not self.is_cross:
                found, hint = "keys from a cache", "call it with use_cache=False"
                raise RequestError(
                    type(self).__name__, found, needed='the whole sequence, or softmax="exact"', hint=hint
                )
            form = linear_attention if self.softmax == "maclaurin" else shift_attention
            context = form(p, n, v, key_mask(mask, self.is_causal), self.is_causal, self.is_cross)
        result: torch.Tensor = self.output(context.transpose(1, 2).flatten(2))
        return result

    def _keys(self, y: torch.Tensor, cache: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors and values of the keys, with those that the cache has kept."""
        updated = getattr(cache, "is_updated", None)
        if updated is not None:
            cache = cache.cross_attention_cache if self.is_cross else cache.self_attention_cache
            if self.is_cross and updated.get(self.layer_idx):
                return cache.layers[self.layer_idx].keys, cache.layers[self.layer_idx].values
        n, v = self._split(self.key(y)), self._split(self.value(y))
        if cache is not None:
            n, v = cache.update(n, v, self.layer_idx)
            if updated is not None and self.is_cross:
                updated[self.layer_idx] = True
        return n, v

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """[B, S, H * r] -> [B, H, S, r]."""
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return u [H, d + 1, r] and v [H, e + 1, r] as they are now, with gradients."""
        query, key = Projection(self.query.weight.T, self.query.bias), Projection(self.key.weight.T, self.key.bias)
        return heads_of(query, self.heads), heads_of(key, self.heads)


def linear_of(projection: Projection) -> nn.Linear:
    """Return the projection as a layer of its own."""
    inner, outer = projection.weight.shape
    made = nn.Linear(inner, outer, projection.bias is not None, projection.weight.device, projection.weight.dtype)
    with torch.no_grad():
        made.weight.copy_(projection.weight.T)
        if projection.bias is not None:
            made.bias.copy_(projection.bias)
    return made


def linear_of_factors(factors: torch.Tensor, like: torch.Tensor) -> nn.Linear:
    """[H, d + 1, r] -> a layer from d to H * r, its bias from the last row."""
    flat = factors.permute(1, 0, 2).flatten(1).to(like)
    return linear_of(Projection(flat[:-1], flat[-1]))


def heads_of(projection: Projection, heads: int) -> torch.Tensor:
    """[d, H * D] and [H * D] -> [H, d + 1, D], with zeros for a bias that is not there."""
    weight, bias = projection.weight, projection.bias
    whole = torch.cat([weight, torch.zeros_like(weight[:1]) if bias is None else bias[None]])
    return whole.reshape(len(whole), heads, -1).transpose(0, 1)


def score_mask(
    mask: torch.Tensor | None, bias: torch.Tensor | None, causal: bool, size: tuple[int, int]
) -> torch.Tensor | None:
    """Return mask and bias in one: True where a key is seen, or numbers to be added to the scores [S, T]."""
    if mask is not None and mask.ndim == 2:
        mask = mask[:, None, None, :] != 0
        if causal:
            mask = mask & torch.ones(size, dtype=torch.bool, device=mask.device).tril(size[1] - size[0])
    if bias is None:
        return mask
    if mask is None and causal:
        mask = torch.ones(size, dtype=torch.bool, device=bias.device).tril(size[1] - size[0])
    if mask is None:
        return bias
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, torch.finfo(bias.dtype).min)
    return bias + mask


def key_mask(mask: torch.Tensor | None, causal: bool) -> torch.Tensor | None:
    """Return [B, 1, T], True for the keys that are seen, from a mask in one of the shapes that models pass on.

    The last query sees every valid key, causal or not, so its row is the mask of keys; the other rows must agree.

    Raises:
        RequestError: a mask that hides different keys from different queries or heads.

    Example:
        >>> key_mask(torch.tensor([[1, 1, 0]]), causal=False).tolist()
        [[[True, True, False]]]
    """
    if mask is None:
        return None
    if mask.ndim == 2:
        return (mask != 0)[:, None]
    # Numbers to be added are 0 where a key is seen, and far below where it is not.
    seen = mask > _HIDDEN if mask.is_floating_point() else mask != 0
    keys = seen[:, :1, -1:]
    if seen.shape[-2] > 1 and not torch.compiler.is_exporting():
        rows = torch.ones(seen.shape[-2:], dtype=torch.bool, device=seen.device)
        expected = keys & rows.tril() if causal else keys & rows
        if not torch.equal(seen, expected.expand_as(seen)):
            needed = 'one that hides the same keys from all queries and heads, or softmax="exact"'
            raise RequestError("damf: mask", "a mask that depends on the query or the head", needed=needed)
    return keys[:, 0]
