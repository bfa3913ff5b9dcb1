"""Finished hypotheses of beam search: the best few of each prompt, by score over length."""

from dataclasses import dataclass

import numpy as np

# A hypothesis's log-probability is divided by its number of new tokens to the power of the length penalty.
# Source: Wu et al. 2016, arXiv:1609.08144, without the constants; transformers has this form.


@dataclass(frozen=True)
class Pool:
    """The ``size`` best hypotheses of each prompt, best first; an empty place has score -inf.

    Shapes: scores, lengths and is_ended [B, size], tokens [B, size, new]; is_ended: by an end token or stop sequence.
    """

    scores: np.ndarray
    lengths: np.ndarray
    is_ended: np.ndarray
    tokens: np.ndarray

    @classmethod
    def empty(cls, prompts: int, size: int) -> "Pool":
        """Return the pool that a search begins with."""
        return cls(
            np.full((prompts, size), -np.inf, np.float32),
            np.zeros((prompts, size), np.int64),
            np.zeros((prompts, size), np.bool_),
            np.zeros((prompts, size, 0), np.int64),
        )

    @property
    def is_full(self) -> np.ndarray:
        """Whether every place is taken [B]."""
        return np.asarray((self.scores > -np.inf).all(axis=1))

    @property
    def worst(self) -> np.ndarray:
        """The score that a new hypothesis has to beat [B]."""
        return np.asarray(self.scores[:, -1])

    def added(self, scores: np.ndarray, is_ended: np.ndarray, tokens: np.ndarray) -> "Pool":
        """Return the pool with hypotheses of one length added; equals keep their order, old before new.

        Shapes: scores and is_ended [B, n]; tokens [B, n, new].
        """
        longer = [(0, 0), (0, 0), (0, tokens.shape[2] - self.tokens.shape[2])]
        merged = Pool(
            np.concatenate((self.scores, scores), axis=1),
            np.concatenate((self.lengths, np.full(scores.shape, tokens.shape[2])), axis=1),
            np.concatenate((self.is_ended, is_ended), axis=1),
            np.concatenate((np.pad(self.tokens, longer), tokens), axis=1),
        )
        return merged.best(self.scores.shape[1])

    def best(self, count: int) -> "Pool":
        """Return the pool of the ``count`` best of each prompt."""
        order = np.argsort(-self.scores, axis=1, kind="stable")[:, :count]
        arrays = (self.scores, self.lengths, self.is_ended)
        scores, lengths, is_ended = (np.take_along_axis(array, order, axis=1) for array in arrays)
        return Pool(scores, lengths, is_ended, np.take_along_axis(self.tokens, order[:, :, None], axis=1))


def joined(pools: list[Pool]) -> Pool:
    """Return one pool of all places of several, group after group."""
    parts = [vars(pool).values() for pool in pools]
    return Pool(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))
