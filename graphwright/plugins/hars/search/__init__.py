"""Search on top of the HARS operators: beam steps, diverse beam steps, sampling.

What every implementation computes. x is ``(logits + bias) / temperature`` rounded as in ``softmax_topk``, and log p is
its ``(x - maximum) - log_sum``; all in float32. The order is that of ``softmax_topk``: NaN first, then the largest.

**Beam step** (``beam_step``; ``diverse_beam_step`` with more than one group). W beams in G groups of w = W / G; each
group keeps ``keep = min(max(2, 1 + ends) * w, w * V)`` candidates.

1. A row's list: its ``min(keep, V)`` best tokens by (log p less its penalty, x, lowest token).
2. A candidate's score: the beam's score plus that value, one float32 addition. A beam whose score is -inf gives -inf,
   whatever its logits are, NaN too: it has not started.
3. The group's candidates: the ``keep`` best by score; equal scores by lowest beam, then by place in the row's list.
   So scores that rounding made equal keep the order of the logits, and the result is the same
   whether the lists are cut or not. Where logits themselves are equal this is the order of ``beam * V + token``.
4. Penalty, for the groups after the first: ``penalty * count``, one float32 product, subtracted from log p, where count
   says how often the earlier groups chose the token at this step. A group chooses the tokens of its first w candidates
   that are no end token and whose score is not -inf. Penalties stay in the scores.

Vocabulary passes: one, with ``k = min(V, min(keep, V) + W - w)``. A penalty only lowers; at most W - w tokens have one;
so a token outside that list has at least ``keep`` before it that have none, and cannot enter.

**Sampling** (``sample``). With d = x - maximum in float64, a token's weight is ``exp(d)``, as ``weights.py`` has it.

1. u in [0, 1): the first word of Philox4x32-10 over 2**32 (``philox.py``), from the seed, the offset and the number of
   the row.
2. No filter (``top_k`` is 0 or at least V, ``top_p`` 1, ``min_p`` 0): tokens in index order; the first whose
   running sum exceeds ``u * total``, in the blocks of ``weights.IndexOrder``.
3. Otherwise tokens in their order, and the running sum c from the first on, one float64 addition each. ``top_k`` keeps
   the first k. ``top_p`` keeps the shortest beginning with ``c >= top_p * total``, where total is the c of the last
   kept by top_k or, without top_k, the sum of all weights as in 2. ``min_p`` then ends it before the first weight
   below ``min_p`` (the largest weight is 1). At least one is kept. The token drawn is the first with
   ``c > u * c(last kept)``.
4. Its log-probability is that of the distribution that it was drawn from: ``d - log(total)`` in float64, rounded once;
   with filters c(last kept) takes the place of the total.
5. Where the maximum is not finite there is nothing to draw from, and the first token of the order is returned, with
   log-probability -inf if all are -inf, else NaN.
"""

from graphwright.plugins.hars.search.beams import beam_step, diverse_beam_step, edited_topk
from graphwright.plugins.hars.search.sampling import sample

__all__ = ["beam_step", "diverse_beam_step", "edited_topk", "sample"]
