"""Beam search, in groups or not: the rules of transformers 5.23, one prompt as if it were alone.

A step, for each group of w beams of a prompt:

1. The ``max(2, 1 + ends) * w`` best continuations by the beam's score plus the token's log-probability after the
   processors, ``ends`` being the number of end tokens and stop sequences: so w of them go on even if all others end.
2. Those that end, or have no more room, and are among the first w are hypotheses, with their score divided by
   ``length ** length_penalty`` and length the number of new tokens. A pool keeps the w best.
3. The first w that go on are the beams of the next step. A group is done when there is none, when the pool is full
   and ``early_stopping`` is True, or when it is full and its worst hypothesis is as good as the best beam can become:
   divided by its present length or, for "never" with a positive penalty, by the largest length that it may reach.

A beam whose score is -inf has not begun, or its group is done. Prompts that are done leave the batch.

Source: ``_beam_search`` of transformers 5.23 (``generation/utils.py``), which marks with -1e9 what is -inf here.
"""

from dataclasses import dataclass

import numpy as np

from graphwright.errors import RequestError
from graphwright.runtime.decoding import diverse
from graphwright.runtime.decoding.decoder import Output
from graphwright.runtime.decoding.history import History
from graphwright.runtime.decoding.pool import Pool, joined
from graphwright.runtime.decoding.ranking import Plan, Ranking, expanded
from graphwright.runtime.decoding.request import Found, Request
from graphwright.runtime.decoding.stopping import is_cancelled


@dataclass(frozen=True)
class Candidates:
    """Continuations of one group of each open prompt, best first; ``parents`` are rows of the history. All [n, c]."""

    scores: np.ndarray
    parents: np.ndarray
    tokens: np.ndarray
    ends: np.ndarray

    @property
    def is_started(self) -> np.ndarray:
        """Whether there is such a continuation."""
        return np.asarray(self.scores > -np.inf)

    def first(self, wanted: np.ndarray, count: int) -> "Candidates":
        """Return the first ``count`` of those that a mask [n, c] names; where there are fewer, others with -inf."""
        order = np.argsort(~wanted, axis=1, kind="stable")[:, :count]
        scores = np.where(wanted, self.scores, np.float32(-np.inf))
        arrays = (scores, self.parents, self.tokens, self.ends)
        return Candidates(*(np.take_along_axis(array, order, axis=1) for array in arrays))


def beam_search(request: Request) -> Found:
    """Return the ``num_return_sequences`` best hypotheses of each prompt, best first, with their scores."""
    search = _Search(request)
    history, prompts = request.history, np.arange(len(request.ids))
    plan = search.ranking.plan(history)
    output = request.decoder.prefill(request.ids, request.mask, plan.best)
    scores = np.full((len(prompts), search.beams), -np.inf, np.float32)
    scores[:, :: search.width] = 0
    rows = np.repeat(prompts[:, None], search.beams, axis=1)
    steps = 0
    while True:
        steps += 1
        beams = search.step(output, plan, scores, rows, prompts)
        newest = np.full((len(request.ids), search.beams), -1)
        newest[prompts] = np.where(beams.is_started, beams.tokens, -1)
        stay = np.flatnonzero(beams.is_started.any(axis=1))
        cancelled = is_cancelled(request.callback, newest)
        parents, tokens = beams.parents[stay].ravel(), beams.tokens[stay].ravel()
        history = history.extended(parents, tokens)
        prompts, scores = prompts[stay], beams.scores[stay]
        if cancelled or not stay.size:
            break
        plan = search.ranking.plan(history)
        output = request.decoder.step(tokens, parents, plan.best)
        rows = np.arange(len(history)).reshape(scores.shape)
    if cancelled:
        search.add_unfinished(history, scores, prompts)
    return search.found(steps, cancelled and stay.size > 0)


class _Search:
    """The pools of a search and what its steps share."""

    def __init__(self, request: Request) -> None:
        self._request, options = request, request.options
        self._options = options
        self.beams, self._groups = options.num_beams, options.num_beam_groups
        self.width = self.beams // self._groups
        self._keep = max(2, 1 + request.stops.count) * self.width
        self._pools = [Pool.empty(len(request.ids), self.width) for _ in range(self._groups)]
        self.ranking = Ranking(
            self._keep,
            request.decoder.vocabulary,
            request.processors,
            request.users,
            is_log=True,
            spare=self.beams - self.width,
        )

    def step(self, output: Output, plan: Plan, scores: np.ndarray, rows: np.ndarray, prompts: np.ndarray) -> Candidates:
        """Return the beams that go on [n, W]; hypotheses go to the pools.

        Shapes: scores and rows [n, W], rows of the output and the history; prompts [n].
        """
        chosen = np.empty((len(prompts), 0), np.int64)
        parts: list[Candidates] = []
        for group in range(self._groups):
            own = slice(group * self.width, (group + 1) * self.width)
            penalty = self._options.diversity_penalty
            first = diverse.hamming(chosen, penalty, self.width) if group else None
            lists = self.ranking.ranked(*expanded(output, plan, rows[:, own].ravel()), first)
            candidates = self._candidates(plan.history, lists, scores[:, own], rows[:, own])
            chosen = np.concatenate((chosen, diverse.chosen(candidates, self.width)), axis=1)
            parts.append(self._settled(group, candidates, plan.history, prompts))
        arrays = [vars(part).values() for part in parts]
        return Candidates(*(np.concatenate(each, axis=1) for each in zip(*arrays, strict=True)))

    def _candidates(
        self, history: History, lists: tuple[np.ndarray, np.ndarray], scores: np.ndarray, rows: np.ndarray
    ) -> Candidates:
        """Merge the lists of a group's beams [n * w, k]; equal scores keep the order of the beams and of the lists."""
        values, tokens = (array.reshape(len(scores), -1) for array in lists)
        each = values.shape[1] // self.width
        begun = np.repeat(scores, each, axis=1)
        with np.errstate(invalid="ignore"):
            sums = np.where(np.isneginf(begun), np.float32(-np.inf), begun + values)
        order = np.argsort(-sums, axis=1, kind="stable")[:, : self._keep]
        arrays = (sums, np.repeat(rows, each, axis=1), tokens)
        best, parents, chosen = (np.take_along_axis(array, order, axis=1) for array in arrays)
        return Candidates(best, parents, chosen, self._request.stops.ends(history, parents, chosen))

    def _settled(self, group: int, candidates: Candidates, history: History, prompts: np.ndarray) -> Candidates:
        """Put hypotheses into the group's pool; return its next beams [n, w], with -inf for a group that is done."""
        room = self._request.history.room[prompts]
        is_last = (history.new + 1 >= room)[:, None]
        top = candidates.first(np.ones_like(candidates.ends), self.width)
        top_scores = np.where(top.ends | is_last, top.scores, np.float32(-np.inf))
        self._add(group, top, top_scores, history, prompts)
        going = candidates.first(candidates.is_started & ~candidates.ends & ~is_last, self.width)
        pool, early = self._pools[group], self._options.early_stopping
        length = room if early == "never" and self._options.length_penalty > 0 else history.new + 1
        can_improve = ~pool.is_full[prompts] | (self._by_length(going.scores[:, 0], length) > pool.worst[prompts])
        is_done = ~can_improve | (pool.is_full[prompts] & (early is True))
        return going.first(going.is_started & ~is_done[:, None], self.width)

    def _add(self, group: int, top: Candidates, scores: np.ndarray, history: History, prompts: np.ndarray) -> None:
        size = (len(self._request.ids), scores.shape[1])
        all_scores, all_ends = np.full(size, -np.inf, np.float32), np.zeros(size, np.bool_)
        tokens = np.zeros((*size, history.new + 1), np.int64)
        all_scores[prompts] = self._by_length(scores, history.new + 1)
        all_ends[prompts] = top.ends
        tokens[prompts] = np.concatenate((history.continuation[top.parents], top.tokens[..., None]), axis=2)
        self._pools[group] = self._pools[group].added(all_scores, all_ends, tokens)

    def _by_length(self, scores: np.ndarray, length: np.ndarray | int) -> np.ndarray:
        divisor = np.asarray(length, np.float64) ** self._options.length_penalty
        return np.asarray(scores / divisor.astype(np.float32))

    def add_unfinished(self, history: History, scores: np.ndarray, prompts: np.ndarray) -> None:
        """Put the beams of a cancelled search into the pools: history [n * W, length], scores [n, W]."""
        size = (len(self._request.ids), self.beams)
        all_scores, tokens = np.full(size, -np.inf, np.float32), np.zeros((*size, history.new), np.int64)
        all_scores[prompts] = self._by_length(scores, history.new)
        tokens[prompts] = history.continuation.reshape(len(prompts), self.beams, history.new)
        for group, pool in enumerate(self._pools):
            own = slice(group * self.width, (group + 1) * self.width)
            self._pools[group] = pool.added(
                all_scores[:, own], np.zeros_like(all_scores[:, own], np.bool_), tokens[:, own]
            )

    def found(self, steps: int, cancelled: bool) -> Found:
        """Return the best hypotheses of all groups.

        Raises:
            RequestError: a prompt has none, since every continuation was banned.
        """
        best = joined(self._pools).best(self._options.num_return_sequences)
        bad = np.flatnonzero(np.isneginf(best.scores[:, 0]))
        if bad.size:
            hint = "fewer bans, or a smaller min_length"
            where = f"generate: prompt {bad[0]}"
            raise RequestError(where, "no hypothesis: every token banned", needed="one that is not", hint=hint)
        is_there = best.scores.ravel() > -np.inf
        lengths = np.where(is_there, best.lengths.ravel(), 0)
        longest = int(lengths.max())
        tokens = best.tokens.reshape(len(lengths), -1)[:, :longest]
        tokens = np.where(np.arange(longest) < lengths[:, None], tokens, self._options.pad)
        return Found(tokens, lengths, best.is_ended.ravel() & is_there, best.scores.ravel(), steps, cancelled)
