"""Changes of a few scores of each row, on whole rows or on a row's best tokens alone.

An edit that only lowers scores needs no whole row: if P tokens of a row get lower, its new k best are among its old
k + P best, since a token behind these has k unchanged ones before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np


class Edit(Protocol):
    """What a processor does to the scores of one step."""

    @property
    def width(self) -> int:
        """How many scores of a row it lowers at most."""

    @property
    def least(self) -> int:
        """How many tokens a list must have room for."""

    def on_rows(self, scores: np.ndarray) -> None:
        """Change whole rows [rows, V] in place."""

    def on_list(self, tokens: np.ndarray, scores: np.ndarray) -> None:
        """Change lists of tokens and their scores [rows, n] in place; the order becomes any."""

    def take(self, rows: np.ndarray) -> "Edit":
        """Return the edit of some of the rows, in the order given."""


@dataclass(frozen=True)
class Add:
    """Add numbers to scores; -inf bans a token.

    Shapes: tokens and changes [rows, P]; a row names a token once at most, and -1 stands for none.

    Example:
        >>> tokens, scores = np.array([[4, 2, 7]]), np.float32([[3, 2, 1]])
        >>> Add(np.array([[2, 5]]), np.float32([[-9, -9]])).on_list(tokens, scores)
        >>> scores.tolist()
        [[3.0, -7.0, 1.0]]
    """

    tokens: np.ndarray
    changes: np.ndarray
    least: int = 1

    @property
    def width(self) -> int:
        """How many scores of a row it lowers at most."""
        return int(self.tokens.shape[1])

    def on_rows(self, scores: np.ndarray) -> None:
        """Change whole rows [rows, V] in place."""
        rows, columns = np.nonzero((self.tokens >= 0) & (self.tokens < scores.shape[1]))
        scores[rows, self.tokens[rows, columns]] += self.changes[rows, columns]

    def on_list(self, tokens: np.ndarray, scores: np.ndarray) -> None:
        """Change lists of tokens and their scores [rows, n] in place."""
        rows, places, columns = matches(tokens, self.tokens)
        scores[rows, places] += self.changes[rows, columns]

    def take(self, rows: np.ndarray) -> "Add":
        """Return the edit of some of the rows, in the order given."""
        return replace(self, tokens=self.tokens[rows], changes=self.changes[rows])


@dataclass(frozen=True)
class Scale:
    """Multiply negative scores by a factor and divide the others by it: a factor above 1 lowers both.

    Shapes: tokens [rows, P]; a row names a token once at most, and -1 stands for none.
    """

    tokens: np.ndarray
    factor: float
    least: int = 1

    @property
    def width(self) -> int:
        """How many scores of a row it lowers at most."""
        return int(self.tokens.shape[1])

    def on_rows(self, scores: np.ndarray) -> None:
        """Change whole rows [rows, V] in place."""
        rows, columns = np.nonzero((self.tokens >= 0) & (self.tokens < scores.shape[1]))
        where = rows, self.tokens[rows, columns]
        scores[where] = self._scaled(scores[where])

    def on_list(self, tokens: np.ndarray, scores: np.ndarray) -> None:
        """Change lists of tokens and their scores [rows, n] in place."""
        rows, places, _ = matches(tokens, self.tokens)
        scores[rows, places] = self._scaled(scores[rows, places])

    def take(self, rows: np.ndarray) -> "Scale":
        """Return the edit of some of the rows, in the order given."""
        return replace(self, tokens=self.tokens[rows])

    def _scaled(self, scores: np.ndarray) -> np.ndarray:
        factor = np.float32(self.factor)
        return np.where(scores < 0, scores * factor, scores / factor)


@dataclass(frozen=True)
class Force:
    """Leave some rows nothing but the tokens named, each with score 0.

    Shapes: is_forced [rows]; tokens [n], ascending.
    """

    is_forced: np.ndarray
    tokens: np.ndarray
    width: int = 0

    @property
    def least(self) -> int:
        """How many tokens a list must have room for."""
        return len(self.tokens)

    def on_rows(self, scores: np.ndarray) -> None:
        """Change whole rows [rows, V] in place."""
        scores[self.is_forced] = -np.inf
        scores[np.ix_(self.is_forced, self.tokens)] = 0

    def on_list(self, tokens: np.ndarray, scores: np.ndarray) -> None:
        """Change lists of tokens and their scores [rows, n] in place."""
        scores[self.is_forced] = -np.inf
        scores[self.is_forced, : len(self.tokens)] = 0
        # Behind the forced ones any token will do: its score is -inf.
        tokens[self.is_forced] = self.tokens[0]
        tokens[self.is_forced, : len(self.tokens)] = self.tokens

    def take(self, rows: np.ndarray) -> "Force":
        """Return the edit of some of the rows, in the order given."""
        return replace(self, is_forced=self.is_forced[rows])


def ban(tokens: np.ndarray) -> Add:
    """Return the edit that bans tokens [rows, P], -1 for none; a row may name a token twice."""
    distinct = np.sort(tokens, axis=1)
    distinct[:, 1:][distinct[:, 1:] == distinct[:, :-1]] = -1
    distinct = distinct[:, (distinct >= 0).any(axis=0)]
    return Add(distinct, np.full(distinct.shape, -np.inf, np.float32))


def ban_in(rows: np.ndarray, tokens: Iterable[int]) -> Add:
    """Return the edit that bans the same tokens in the rows that a mask [rows] names."""
    return ban(np.where(rows[:, None], np.array(sorted(set(tokens)), np.int64), -1))


def matches(listed: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows, places in ``listed`` [rows, n] and columns of ``tokens`` [rows, P] that hold the same token.

    Example:
        >>> [part.tolist() for part in matches(np.array([[4, 2], [2, 9]]), np.array([[2, -1], [-1, 9]]))]
        [[0, 1], [1, 1], [0, 1]]
    """
    if not tokens.size or not listed.size:
        return (np.empty(0, np.int64),) * 3
    # One number for row and token; -1 becomes a number between two rows, which no listed token has.
    stride = max(listed.max(), tokens.max()) + 2
    offsets = np.arange(len(tokens))[:, None] * stride
    keys = (offsets + tokens).ravel()
    order = np.argsort(keys, kind="stable")
    wanted = offsets + listed
    found = np.minimum(np.searchsorted(keys[order], wanted), keys.size - 1)
    rows, places = np.nonzero(keys[order][found] == wanted)
    return rows, places, order[found[rows, places]] % tokens.shape[1]
