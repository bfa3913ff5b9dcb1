"""What changes the scores before a token is chosen, in the order in which transformers applies it.

Sampling and greedy search change logits, beam search log-probabilities; as in transformers, nothing is normalized
again. Every processor here names the few tokens it changes, so that a row's best tokens suffice. Those that may raise a
score need whole rows (``raises``): a repetition penalty below 1, a negative presence or frequency penalty. So do a
user's own, which are functions ``f(tokens [rows, length], scores [rows, V]) -> scores [rows, V]`` and come last.

Lengths, n-grams and penalties are those of a row's own tokens, never of its padding: a row gives the same in any batch.

Source: the processors of transformers 5.23 (``generation/logits_process.py``) for meaning and order, but for presence
and frequency, which count new tokens alone, as in OpenAI's and vLLM's interfaces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from graphwright.runtime.decoding.edits import Add, Edit, Force, Scale, ban, ban_in, matches
from graphwright.runtime.decoding.history import History
from graphwright.runtime.decoding.options import GenerationOptions


class Processor(Protocol):
    """One rule about scores."""

    @property
    def raises(self) -> bool:
        """Whether it may raise a score, and so needs whole rows."""

    def edit(self, history: History) -> Edit:
        """Return what it does to the scores of the next token."""


@dataclass(frozen=True)
class RepetitionPenalty:
    """Make every token that a row has, prompt included, less likely (above 1) or more (below 1).

    Source: Keskar et al. 2019, arXiv:1909.05858, with the sign of the score taken into account.
    """

    penalty: float

    @property
    def raises(self) -> bool:
        """Whether it may raise a score."""
        return self.penalty < 1

    def edit(self, history: History) -> Scale:
        """Return what it does to the scores of the next token."""
        return Scale(ban(history.real).tokens, self.penalty)


@dataclass(frozen=True)
class CountPenalty:
    """Take ``presence`` from every new token of a row, and ``frequency`` for each time that it came."""

    presence: float
    frequency: float

    @property
    def raises(self) -> bool:
        """Whether it may raise a score."""
        return self.presence < 0 or self.frequency < 0

    def edit(self, history: History) -> Add:
        """Return what it does to the scores of the next token."""
        tokens = ban(history.continuation).tokens
        rows, _, columns = matches(history.continuation, tokens)
        counts = np.bincount(rows * tokens.shape[1] + columns, minlength=tokens.size).reshape(tokens.shape)
        changes = -(np.float32(self.presence) + np.float32(self.frequency) * counts.astype(np.float32))
        return Add(tokens, changes)


@dataclass(frozen=True)
class NoRepeatNGram:
    """Ban what would complete an n-gram that a row, prompt included, already has."""

    size: int
    raises: bool = False

    def edit(self, history: History) -> Add:
        """Return what it does to the scores of the next token."""
        tokens = history.real
        rows, length = tokens.shape
        if length < self.size:
            return ban(np.empty((rows, 0), np.int64))
        windows = np.lib.stride_tricks.sliding_window_view(tokens, self.size, axis=1)
        begins = tokens[:, length + 1 - self.size :]
        is_again = (windows[..., :-1] == begins[:, None, :]).all(axis=2)
        return ban(np.where(is_again, windows[..., -1], -1))


@dataclass(frozen=True)
class BadWords:
    """Ban the last token of each word where the tokens before it have just come; a word may be one token."""

    words: tuple[tuple[int, ...], ...]
    raises: bool = False

    def edit(self, history: History) -> Add:
        """Return what it does to the scores of the next token."""
        tokens = history.real
        banned = np.full((len(history), len(self.words)), -1)
        for column, (*begin, last) in enumerate(self.words):
            if len(begin) <= tokens.shape[1]:
                tail = tokens[:, tokens.shape[1] - len(begin) :]
                banned[(tail == np.array(begin, np.int64)).all(axis=1), column] = last
        return ban(banned)


@dataclass(frozen=True)
class MinLength:
    """Ban the end tokens while a row has fewer tokens than ``length`` or fewer new ones than ``new``."""

    ends: tuple[int, ...]
    length: int = 0
    new: int = 0
    raises: bool = False

    def edit(self, history: History) -> Add:
        """Return what it does to the scores of the next token."""
        return ban_in((history.lengths < self.length) | (history.new < self.new), self.ends)


@dataclass(frozen=True)
class ForcedBos:
    """Leave one token to rows that have one token: the language of a translation, behind the start token."""

    token: int
    raises: bool = False

    def edit(self, history: History) -> Force:
        """Return what it does to the scores of the next token."""
        return Force(history.lengths == 1, np.array([self.token]))


@dataclass(frozen=True)
class ForcedEos:
    """Leave the end tokens alone to rows that may have one more token."""

    ends: tuple[int, ...]
    raises: bool = False

    def edit(self, history: History) -> Force:
        """Return what it does to the scores of the next token."""
        return Force(np.asarray(history.new + 1 == history.room), np.array(sorted(set(self.ends))))


@dataclass(frozen=True)
class Suppress:
    """Ban tokens at every place or, with ``is_begin``, where a row begins: behind its prompt and a forced BOS."""

    tokens: tuple[int, ...]
    is_begin: bool = False
    has_forced_bos: bool = False
    raises: bool = False

    def edit(self, history: History) -> Add:
        """Return what it does to the scores of the next token."""
        rows = np.ones(len(history), np.bool_)
        if self.is_begin:
            behind_bos = (history.lengths - history.new == 1) & self.has_forced_bos
            rows = history.new == behind_bos.astype(np.int64)
        return ban_in(rows, self.tokens)


def processors_of(options: GenerationOptions) -> Sequence[Processor]:
    """Return the processors that options ask for, in their order.

    Example:
        >>> [type(each).__name__ for each in processors_of(GenerationOptions(min_new_tokens=2, eos_token_id=1))]
        ['MinLength']
    """
    ends = options.ends
    found: list[Processor] = []
    if options.repetition_penalty != 1:
        found.append(RepetitionPenalty(options.repetition_penalty))
    if options.presence_penalty or options.frequency_penalty:
        found.append(CountPenalty(options.presence_penalty, options.frequency_penalty))
    if options.no_repeat_ngram_size:
        found.append(NoRepeatNGram(options.no_repeat_ngram_size))
    # An end token as a bad word would never let a row end: transformers leaves it out too.
    words = tuple(word for word in options.bad_words_ids if len(word) > 1 or word[0] not in ends)
    if words:
        found.append(BadWords(words))
    if ends and options.min_new_tokens is not None:
        found.append(MinLength(ends, new=options.min_new_tokens))
    elif ends and options.min_length:
        found.append(MinLength(ends, length=options.min_length))
    if options.forced_bos_token_id is not None:
        found.append(ForcedBos(options.forced_bos_token_id))
    if options.forced_ends:
        found.append(ForcedEos(options.forced_ends))
    if options.suppress_tokens:
        found.append(Suppress(options.suppress_tokens))
    if options.begin_suppress_tokens:
        has_bos = options.forced_bos_token_id is not None
        found.append(Suppress(options.begin_suppress_tokens, is_begin=True, has_forced_bos=has_bos))
    return tuple(found)
