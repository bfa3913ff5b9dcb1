"""Sampling: a token a row and step is drawn, by numbers that depend on the seed, the step and the row's number alone.

With ``top_k`` the row's best tokens suffice, and the decoder may rank; without it, whole rows are drawn from.
"""

import numpy as np

from graphwright.plugins import hars
from graphwright.runtime.decoding.decoder import Output
from graphwright.runtime.decoding.greedy import row_by_row
from graphwright.runtime.decoding.options import GenerationOptions
from graphwright.runtime.decoding.ranking import Plan, Ranking, check_some_left
from graphwright.runtime.decoding.request import Found, Request


def sample_search(request: Request) -> Found:
    """Return ``num_return_sequences`` rows for each prompt, each token drawn from what the filters leave.

    In this order, as in transformers: processors, temperature, top_k, top_p, min_p. Row r of prompt number b is row
    ``b * num_return_sequences + r`` to the random numbers (Philox4x32-10, see ``hars.sample``).
    """
    options, vocabulary = request.options, request.decoder.vocabulary
    is_listed = 0 < options.top_k < vocabulary
    ranking = Ranking(options.top_k if is_listed else None, vocabulary, request.processors, request.users)

    def drawn(output: Output, plan: Plan, numbers: np.ndarray) -> np.ndarray:
        if not is_listed:
            rows = ranking.scores(output, plan)
            check_some_left(rows.max(axis=1, keepdims=True), plan.where)
            return _drawn(options, rows, 0, plan.history.new, numbers)
        scores, tokens = ranking.ranked(output, plan)
        check_some_left(scores, plan.where)
        # One more that cannot be drawn: with top_k below the width, sums are those over whole rows, to the last bit.
        padded = np.concatenate((scores, np.full((len(scores), 1), -np.inf, np.float32)), axis=1)
        places = _drawn(options, padded, scores.shape[1], plan.history.new, numbers)
        return np.take_along_axis(tokens, places[:, None], axis=1)[:, 0]

    return row_by_row(request, ranking, drawn, copies=options.num_return_sequences)


def _drawn(options: GenerationOptions, rows: np.ndarray, top_k: int, step: int, numbers: np.ndarray) -> np.ndarray:
    """Return the place drawn in each row."""
    places, _ = hars.sample(
        rows,
        seed=options.seed,
        offset=step,
        row_numbers=numbers,
        top_k=top_k,
        top_p=options.top_p,
        min_p=options.min_p or 0.0,
        temperature=options.temperature,
    )
    return np.asarray(places)
