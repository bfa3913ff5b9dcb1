"""Diverse beam search: groups of beams choose one after the other, and a token costs what earlier groups chose.

A token loses ``diversity_penalty`` for each time that an earlier group has chosen it at this step (Hamming diversity),
after the softmax and before the other processors; nothing is normalized again, and the scores keep what they lost.
What a group chooses are the tokens of its first w candidates that do not end. Each group otherwise is a beam search of
its own with its own pool (``beam.py``); the results are the best hypotheses of all groups.

Only scores of tokens that others chose change, and they get lower: one pass over the vocabulary serves all groups.

Source: Vijayakumar et al. 2018, arXiv:1610.02424; scores, candidates and counts as in the group beam search of
transformers 4 with its HammingDiversityLogitsProcessor. A group here finishes by the rules of transformers 5.
"""

from typing import TYPE_CHECKING

import numpy as np

from graphwright.runtime.decoding.edits import Add

if TYPE_CHECKING:
    from graphwright.runtime.decoding.beam import Candidates


def hamming(chosen: np.ndarray, penalty: float, width: int) -> Add:
    """Return what the next group's rows [n * width] lose for the tokens chosen before [n, m], -1 for none.

    Example:
        >>> edit = hamming(np.array([[5, 7, 5]]), 0.5, width=1)
        >>> edit.tokens.tolist(), edit.changes.tolist()
        ([[5, 7, -1]], [[-1.0, -0.5, -1.0]])
    """
    same = chosen[:, :, None] == chosen[:, None, :]
    is_repeated = np.tril(same, -1).any(axis=2)
    changes = -(np.float32(penalty) * same.sum(axis=2).astype(np.float32))
    return Add(np.repeat(np.where(is_repeated, -1, chosen), width, axis=0), np.repeat(changes, width, axis=0))


def chosen(candidates: "Candidates", width: int) -> np.ndarray:
    """Return the tokens of the first ``width`` candidates that do not end [n, width], -1 where there are fewer."""
    going = candidates.first(candidates.is_started & ~candidates.ends, width)
    return np.where(going.is_started, going.tokens, -1)
