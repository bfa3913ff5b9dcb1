"""Greedy search, and the loop that it shares with sampling: one token a row and step, each row by itself.

Rows that have ended leave the batch, so that a step works on open rows alone.
"""

from collections.abc import Callable

import numpy as np

from graphwright.runtime.decoding.decoder import Output
from graphwright.runtime.decoding.ranking import Plan, Ranking, check_some_left, expanded
from graphwright.runtime.decoding.request import Found, Request
from graphwright.runtime.decoding.stopping import is_cancelled

# Chooses the next token of each row: from what the decoder said, what is done to it, and the rows' numbers [rows].
Choice = Callable[[Output, Plan, np.ndarray], np.ndarray]


def greedy_search(request: Request) -> Found:
    """Return the row of the most probable next tokens for each prompt; equal ones by lowest token."""
    ranking = Ranking(1, request.decoder.vocabulary, request.processors, request.users)

    def best(output: Output, plan: Plan, numbers: np.ndarray) -> np.ndarray:
        scores, tokens = ranking.ranked(output, plan)
        check_some_left(scores, plan.where)
        return tokens[:, 0]

    return row_by_row(request, ranking, best)


def row_by_row(request: Request, ranking: Ranking, choice: Choice, copies: int = 1) -> Found:
    """Continue ``copies`` rows of each prompt until all have ended, by one choice a step."""
    parents = np.repeat(np.arange(len(request.ids)), copies)
    plan = ranking.plan(request.history)
    output = request.decoder.prefill(request.ids, request.mask, plan.best)
    output, plan = (output, plan) if copies == 1 else expanded(output, plan, parents)
    rows = len(parents)
    numbers = np.repeat(request.numbers, copies) * copies + np.tile(np.arange(copies), len(request.ids))
    active = np.arange(rows)
    columns: list[np.ndarray] = []
    lengths, finished = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
    while True:
        tokens = choice(output, plan, numbers[active])
        own = np.arange(len(active))
        ends = request.stops.ends(plan.history, own, tokens)
        history = plan.history.extended(own, tokens)
        columns.append(np.full(rows, -1))
        columns[-1][active] = tokens
        lengths[active] += 1
        finished[active] = ends
        stay = np.flatnonzero(~(ends | history.is_full))
        cancelled = is_cancelled(request.callback, columns[-1].copy())
        if cancelled or not stay.size:
            break
        plan = ranking.plan(history.take(stay))
        output = request.decoder.step(tokens[stay], parents[stay], plan.best)
        active, parents = active[stay], np.arange(len(stay))
    made = np.stack(columns, axis=1)
    # A cancelled request is one in which something was left to do.
    return Found(
        tokens=np.where(made < 0, request.options.pad, made),
        lengths=lengths,
        finished=finished,
        scores=None,
        steps=len(columns),
        is_cancelled=cancelled and stay.size > 0,
    )
