"""Attention from the factors of its scores, in torch: the linear form that is trained and exported, and the others.

What each form means to the last case, and where the formulas come from: ``plugins/damf/reference.py``, which the tests
compare with. Here the sums are float32 even under autocast.
"""

import torch
import torch.nn.functional as F

from graphwright.plugins.damf.reference import LEAST, MARGIN

# Doubling steps of the running maximum in an exported graph, which has no such operator: 2^20 positions.
_DOUBLINGS = 20


def linear_attention(
    p: torch.Tensor, n: torch.Tensor, v: torch.Tensor, valid: torch.Tensor | None, causal: bool, cross: bool
) -> torch.Tensor:
    """Return attention under the first-order softmax: sums over the keys come first, so nothing has size S x T.

    Shapes: p [B, H, S, r], n [B, H, T, r], v [B, H, T, D], valid [B, 1, T]; result [B, H, S, D].
    Dtypes: any float; computed in float32, the result like v.

    Example:
        >>> p = n = torch.tensor([[[[1.0], [-1.0]]]])
        >>> v = torch.tensor([[[[10.0], [20.0]]]])
        >>> [round(value, 2) for value in linear_attention(p, n, v, None, False, False).flatten().tolist()]
        [10.08, 19.92]
    """
    with torch.autocast(p.device.type, enabled=False):
        dtype = torch.float64 if v.dtype == torch.float64 else torch.float32
        p, n, values = p.to(dtype), n.to(dtype), v.to(dtype)
        one = torch.ones_like(n[..., :1])
        if valid is not None:
            hidden = ~valid.unsqueeze(-1)
            n, one = n.masked_fill(hidden, 0), one.masked_fill(hidden, 0)
            p = p if cross else p.masked_fill(hidden, 0)
        left = torch.cat([bound(p, n, causal).expand(*p.shape[:-1], 1), p], dim=-1)
        right = torch.cat([one, n], dim=-1)
        values = torch.cat([values, torch.ones_like(values[..., :1])], dim=-1)
        if causal:
            sums = (right.unsqueeze(-1) * values.unsqueeze(-2)).cumsum(dim=-3)
            both = (left.unsqueeze(-2) @ sums).squeeze(-2)
        else:
            both = left @ (right.transpose(-1, -2) @ values)
        return divide(both[..., :-1], both[..., -1:]).to(v.dtype)


def bound(p: torch.Tensor, n: torch.Tensor, causal: bool) -> torch.Tensor:
    """Return a number above every score of a head, [B, H, 1, 1], or one per position where causal, [B, H, S, 1]."""
    if p.shape[-1] == 1:
        norms = [p.abs(), n.abs()]
    else:
        # The root of a row of zeros has no gradient; its square is put at the smallest float instead.
        least = torch.finfo(p.dtype).tiny
        norms = [each.square().sum(-1, keepdim=True).clamp_min(least).sqrt() for each in (p, n)]
    if causal:
        largest = [running_maximum(norm) for norm in norms]
    else:
        largest = [norm.amax(dim=-2, keepdim=True) for norm in norms]
    return (MARGIN * largest[0] * largest[1]).clamp_min(LEAST)


def running_maximum(x: torch.Tensor) -> torch.Tensor:
    """Return the maximum over positions up to each one, of numbers that are not negative.

    Shapes: x [..., S, 1]; result like x.
    """
    if not torch.compiler.is_exporting():
        return x.cummax(dim=-2).values
    length = x.shape[-2]
    for step in range(_DOUBLINGS):
        x = torch.maximum(x, F.pad(x, (0, 0, 2**step, 0))[..., :length, :])
    return x


def exact_attention(
    p: torch.Tensor,
    n: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """Return attention under softmax; ``mask`` is True where a key is seen, or is added to the scores."""
    with torch.autocast(p.device.type, enabled=False):
        mask = mask if mask is None or mask.dtype == torch.bool else mask.to(v.dtype)
        return F.scaled_dot_product_attention(
            p.to(v.dtype),
            n.to(v.dtype),
            v,
            attn_mask=mask,
            dropout_p=dropout,
            is_causal=causal and mask is None and p.shape[-2] > 1,
            scale=1.0,
        )


def shift_attention(
    p: torch.Tensor, n: torch.Tensor, v: torch.Tensor, valid: torch.Tensor | None, causal: bool, cross: bool
) -> torch.Tensor:
    """Return attention with every score, their maximum and each denominator rounded to powers of two.

    Its matrix is S x T: it shows what shifts do to a model, and is not for speed. Rounding passes gradients on as they
    are, so that it can be trained; it does not export.

    Shapes: as in :func:`linear_attention`.

    Example:
        >>> p = n = torch.tensor([[[[1.0], [-1.0]]]])
        >>> shift_attention(p, n, torch.tensor([[[[10.0], [20.0]]]]), None, False, False).flatten().tolist()
        [10.0, 20.0]
    """
    with torch.autocast(p.device.type, enabled=False):
        p, n, values = p.float(), n.float(), v.float()
        allowed = torch.ones(p.shape[-2], n.shape[-2], dtype=torch.bool, device=p.device)
        allowed = allowed.tril() if causal else allowed
        if valid is not None:
            p = p if cross else p.masked_fill(~valid.unsqueeze(-1), 0)
            allowed = allowed & valid.unsqueeze(-2)
        scores = p @ n.transpose(-1, -2)
        sizes = scores.abs().masked_fill(~allowed, 0).amax(dim=-1, keepdim=True)
        largest = sizes.cummax(dim=-2).values if causal else sizes.amax(dim=-2, keepdim=True)
        size = power_of_two(largest.clamp_min(LEAST))
        rounded = power_of_two(scores).masked_fill(~allowed, 0)
        seen = allowed.to(values.dtype)
        total = size * (seen @ values) + rounded @ values
        rows = power_of_two(size * seen.sum(-1, keepdim=True) + rounded.sum(-1, keepdim=True))
        return divide(total, rows).to(v.dtype)


def power_of_two(x: torch.Tensor) -> torch.Tensor:
    """Return the power of two nearest to \\|x\\| in its logarithm, with x's sign; the gradient is that of x itself.

    Example:
        >>> power_of_two(torch.tensor([1.4142, 1.4143, -3.0, 0.0])).tolist()
        [1.0, 2.0, -4.0, 0.0]
    """
    rounded: torch.Tensor = _PowerOfTwo.apply(x)  # type: ignore[no-untyped-call]  # torch has no type for apply
    return rounded


class _PowerOfTwo(torch.autograd.Function):
    @staticmethod
    def forward(context: object, x: torch.Tensor) -> torch.Tensor:
        fraction, exponent = torch.frexp(x)
        nearest = exponent - (fraction.abs().double() < 0.5**0.5).to(exponent.dtype)
        return torch.ldexp(x.sign(), nearest).to(x.dtype)

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def divide(numerator: torch.Tensor, denominator: torch.Tensor) -> torch.Tensor:
    """Return the quotient, and 0 where the denominator is 0."""
    empty = denominator == 0
    return torch.where(empty, 0.0, numerator / torch.where(empty, 1.0, denominator))
